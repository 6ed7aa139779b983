//! Rounds of killing: at random, at every write step, and by cutting the power.
//!
//! What must not be here: what must be true afterwards (`life.rs`), how a step is made to fail
//! (`faulty_disk.rs`).
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::faulty_disk::{
    ALL, BROKEN, Cut, FULL, Fault, FaultyDisk, Platter, READ_ONLY, SYNCS, Step, WRITES,
};
use crate::life::{JOB, Job, Promise, parse};

/// Starts a process that does the job in its environment.
pub type Program = fn() -> Command;

/// What the rounds were.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Deaths, or cuts of the power.
    pub runs: u64,
    /// Records that had been answered, over all checks.
    pub records: u64,
    /// Runs in which something was asked and not answered yet, or was refused.
    pub unanswered: u64,
}

impl Tally {
    fn add(&mut self, promise: &Promise) {
        self.runs += 1;
        self.records += promise.records() as u64;
    }
}

/// A folder in memory where there is one: a kill leaves what was written in either case, and what a
/// power cut would leave is reckoned by `Platter`.
fn folder() -> TempDir {
    TempDir::new_in("/dev/shm").unwrap_or_else(|_| TempDir::new().unwrap())
}

fn store_in(root: &Path) -> PathBuf {
    root.join("state").join("store.sqlite")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let Ok(entries) = std::fs::read_dir(from) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        let place = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &place);
        } else if !path.to_string_lossy().ends_with("-shm") {
            std::fs::copy(&path, place).unwrap();
        }
    }
}

/// Holds the promise against a copy of what lies in `root`.
fn check(root: &Path, promise: &mut Promise, about: &str) {
    let scratch = folder();
    copy(root, scratch.path());
    if let Err(why) = promise.check(&store_in(scratch.path())) {
        let kept = scratch.keep();
        panic!("{about}: {why}; see {}", kept.display());
    }
}

/// One life of the process: until it ends, or until it has said `lines` lines and is killed.
fn live(
    command: &mut Command,
    job: &Job,
    promise: &mut Promise,
    kill: Option<(usize, Duration)>,
) -> bool {
    let mut child = command
        .env(JOB, job.to_env())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let mut heard = 0;
    for line in out.lines() {
        let Some(line) = parse(&line.unwrap()) else {
            continue;
        };
        promise.hear(line);
        heard += 1;
        if let Some((lines, after)) = kill
            && heard == lines
        {
            // Chance, not a wait for anything: the kill is to come between any two steps.
            std::thread::sleep(after);
            child.kill().unwrap();
        }
    }
    child.wait().unwrap().success()
}

/// Kills at random moments, by `kill -9` from without and at a random step from within; `lives` of them
/// on each of `stores`, each life going on where the one before ended.
pub fn random_kills(program: Program, stores: u64, lives: u64, seed: u64) -> Tally {
    let mut tally = Tally::default();
    for store in 0..stores {
        let root = folder();
        let disk = FaultyDisk::new(root.path());
        let mut promise = Promise::default();
        for life in 0..lives {
            let seed = seed + store * 1_000_000 + life;
            let mut rng = fastrand::Rng::with_seed(seed);
            let job = Job {
                store: store_in(root.path()),
                seed,
                lanes: rng.usize(1..=3),
                acts: 60,
                patient: false,
                notices_only: false,
            };
            let mut kill = None;
            disk.count_anew();
            match rng.u8(0..3) {
                0 => {
                    disk.heal();
                    kill = Some((rng.usize(1..120), Duration::from_micros(rng.u64(0..2000))));
                }
                1 => disk.arm(Fault::Die, rng.u64(1..400), 1, u64::MAX),
                _ => disk.arm(Fault::DieHalf, rng.u64(1..400), 1, u64::MAX),
            }
            live(disk.under(&mut program()), &job, &mut promise, kill);
            tally.unanswered += u64::from(promise.is_owed());
            let about = format!("store {store}, life {life}, seed {seed}");
            check(root.path(), &mut promise, &about);
            tally.add(&promise);
        }
        assert!(promise.newest() > 0, "store {store} was never used");
    }
    tally
}

/// A store with something in it, undisturbed: its folder, and what was promised of it.
pub fn used(program: Program, seed: u64, acts: usize) -> (TempDir, Promise) {
    let root = folder();
    let mut promise = Promise::default();
    let job = Job {
        store: store_in(root.path()),
        seed,
        lanes: 1,
        acts,
        patient: false,
        notices_only: false,
    };
    assert!(live(&mut program(), &job, &mut promise, None));
    check(root.path(), &mut promise, "undisturbed");
    (root, promise)
}

/// Dies at every step, or at one in `stride`, of a life of `acts`, on a store that `prepare` left; both
/// before the step and in the middle of it.
fn every_step(
    program: Program,
    seed: u64,
    acts: usize,
    stride: u64,
    prepare: impl Fn() -> (TempDir, Promise),
) -> Tally {
    let mut tally = Tally::default();
    // How many there are, a life that is not disturbed tells; more lanes would make it a matter of chance.
    let life = |at: Option<(Fault, u64)>| {
        let (root, mut promise) = prepare();
        let disk = FaultyDisk::new(root.path());
        if let Some((fault, at)) = at {
            disk.arm(fault, at, 1, u64::MAX);
        }
        let job = Job {
            store: store_in(root.path()),
            seed,
            lanes: 1,
            acts,
            patient: false,
            notices_only: false,
        };
        let lived = live(disk.under(&mut program()), &job, &mut promise, None);
        (root, promise, disk, lived)
    };
    let (_, _, disk, lived) = life(None);
    assert!(lived);
    let steps = disk.steps();
    assert!(steps > 10, "{steps} steps");
    for at in (1..=steps).step_by(stride as usize) {
        for fault in [Fault::Die, Fault::DieHalf] {
            let (root, mut promise, disk, lived) = life(Some((fault, at)));
            assert!(
                !lived && disk.hits() == 1,
                "it did not die at step {at} of {steps}"
            );
            tally.unanswered += u64::from(promise.is_owed());
            check(
                root.path(),
                &mut promise,
                &format!("{fault:?} at step {at}"),
            );
            tally.add(&promise);
        }
    }
    tally
}

/// The same on a store that is new.
pub fn every_step_of_a_new_store(program: Program, seed: u64, acts: usize, stride: u64) -> Tally {
    let empty = || (folder(), Promise::default());
    every_step(program, seed, acts, stride, empty)
}

/// A page of the index of open findings: without it everything can still be read.
const SPARE_PAGE: usize = 7;
const PAGE: usize = 4096;

/// A store that has been used and is damaged where nothing is lost.
fn damaged(program: Program, seed: u64) -> (TempDir, Promise) {
    let (root, mut promise) = used(program, seed, 120);
    // Killed afterwards: some of what was promised is in the log only.
    let job = Job {
        store: store_in(root.path()),
        seed: seed + 1,
        lanes: 1,
        acts: 1000,
        patient: false,
        notices_only: true,
    };
    let kill = Some((31, Duration::ZERO));
    assert!(!live(&mut program(), &job, &mut promise, kill));
    check(root.path(), &mut promise, "before the damage");
    let log = std::fs::metadata(store_in(root.path()).with_extension("sqlite-wal"));
    assert!(log.unwrap().len() > 0);
    let mut bytes = std::fs::read(store_in(root.path())).unwrap();
    bytes[(SPARE_PAGE - 1) * PAGE..SPARE_PAGE * PAGE].fill(0xff);
    std::fs::write(store_in(root.path()), bytes).unwrap();
    promise.damaged = true;
    (root, promise)
}

/// The same while a damaged store is set aside and a new one made of it: nothing may be lost, for all
/// that was promised can be read.
pub fn every_step_of_mending(program: Program, seed: u64, stride: u64) -> Tally {
    let (whole, promise) = damaged(program, seed);
    let again = || {
        let root = folder();
        copy(whole.path(), root.path());
        (root, promise.clone())
    };
    // Of its own accord it is set aside, once.
    let (root, mut promise) = again();
    check(root.path(), &mut promise, "let alone");
    assert!(
        promise.was_told_of_damage(),
        "page {SPARE_PAGE} is not what it was"
    );
    every_step(program, seed + 1, 3, stride, again)
}

/// A disk that refuses some steps and is well again: the process asks again until it is answered.
pub fn refusals(program: Program, rounds: u64, seed: u64) -> Tally {
    let mut tally = Tally::default();
    for round in 0..rounds {
        let seed = seed + round;
        let mut rng = fastrand::Rng::with_seed(seed);
        let (root, mut promise) = used(program, seed + 1, 30);
        let disk = FaultyDisk::new(root.path());
        let faults = [
            (Fault::Fail(FULL), ALL),
            (Fault::Short(FULL), ALL),
            (Fault::Fail(BROKEN), ALL),
            (Fault::Fail(BROKEN), WRITES),
            (Fault::Fail(BROKEN), SYNCS),
            (Fault::Fail(READ_ONLY), ALL),
            (Fault::Short(0), WRITES),
        ];
        let (fault, kinds) = faults[round as usize % faults.len()];
        // Behind what it takes to open the store; long enough that steps of these kinds are among them.
        let (at, count) = (rng.u64(40..150), [8, 20, 60][rng.usize(..3)]);
        disk.arm(fault, at, count, kinds);
        let job = Job {
            store: store_in(root.path()),
            seed,
            lanes: rng.usize(1..=2),
            acts: 60,
            patient: true,
            notices_only: false,
        };
        let about =
            format!("round {round} (seed {seed}): {fault:?} of {kinds} at {at} for {count}");
        let lived = live(disk.under(&mut program()), &job, &mut promise, None);
        assert!(lived, "{about}: the process gave up");
        check(root.path(), &mut promise, &about);
        // Of the kinds of steps that are refused there may be none among so many.
        tally.unanswered += u64::from(disk.hits() > 0);
        tally.add(&promise);
    }
    tally
}

/// Records lives on stores that are new, have been used, and are damaged; cuts the power at `cuts`
/// moments of each.
pub fn power_cuts(program: Program, lives: u64, cuts: usize, seed: u64) -> Tally {
    let mut tally = Tally::default();
    for life in 0..lives {
        let seed = seed + life * 1000;
        let mut rng = fastrand::Rng::with_seed(seed);
        let (root, mut promise) = match life % 3 {
            0 => (folder(), Promise::default()),
            1 => used(program, seed + 1, 200),
            _ => damaged(program, seed + 1),
        };
        let mut platter = Platter::of(root.path());
        let disk = FaultyDisk::new(root.path());
        let job = Job {
            store: store_in(root.path()),
            seed,
            lanes: rng.usize(1..=2),
            acts: 150,
            patient: false,
            notices_only: false,
        };
        let mut said = promise.clone();
        assert!(live(disk.recording(&mut program()), &job, &mut said, None));
        let steps = disk.log();
        assert!(steps.len() > cuts, "{} steps", steps.len());
        let mut at: Vec<usize> = (0..steps.len()).collect();
        rng.shuffle(&mut at);
        at.truncate(cuts);
        at.sort_unstable();
        let mut next = at.into_iter().peekable();
        for (n, step) in steps.iter().enumerate() {
            platter.step(step);
            if let Step::Said(text) = step {
                let text = String::from_utf8_lossy(text);
                text.lines().filter_map(parse).for_each(|l| promise.hear(l));
            }
            if next.next_if_eq(&n).is_none() {
                continue;
            }
            for cut in [Cut::Nothing, Cut::All, Cut::Some, Cut::Some] {
                let scratch = folder();
                platter.cut(root.path(), scratch.path(), cut, &mut rng);
                let mut promise = promise.clone();
                tally.unanswered += u64::from(promise.is_owed());
                if let Err(why) = promise.check(&store_in(scratch.path())) {
                    platter.cut(root.path(), scratch.path(), cut, &mut rng);
                    let kept = scratch.keep();
                    panic!(
                        "life {life} (seed {seed}), power cut after step {n} of {}, {cut:?}: {why}; see {}",
                        steps.len(),
                        kept.display()
                    );
                }
                tally.add(&promise);
            }
        }
    }
    tally
}
