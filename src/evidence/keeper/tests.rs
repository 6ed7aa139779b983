use std::cell::Cell;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::base::geometry::NormRect;
use crate::base::geometry::SizePx;
use crate::base::heartbeat::Heartbeats;
use crate::base::ids::CameraIx;
use crate::base::time::{Clock as _, FrameStamp, ManualClock};
use crate::capture::{AccessUnit, Codec, GopRing, RingLimits};
use crate::decode::YuvMatrix;
use crate::evidence::index::ClipState;
use crate::evidence::manifest::FileEntry;
use crate::evidence::manifest::tests::draft;
use crate::evidence::still::{Faces, Pictures, pictures};
use crate::evidence::verify::{Verdict, verify};
use crate::evidence::writer::BundleWriter;

/// A clip of known content, or none.
#[derive(Clone, Copy)]
pub struct FakeRemux(pub bool);

impl Remux for FakeRemux {
    fn remux(&self, units: &[AccessUnit], to: &Path) -> Result<(), String> {
        if !self.0 {
            return Err("no muxer".to_owned());
        }
        fs::write(to, vec![7; units.len() * 100]).map_err(|e| e.to_string())
    }
}

/// A state directory and what runs on it.
pub struct Site {
    pub dir: TempDir,
    pub clock: Arc<ManualClock>,
    pub metrics: Metrics,
    ring: GopRing,
    pub max_bytes: u64,
    pub max_age: Duration,
    pub min_free_bytes: u64,
    pub redact: Redact,
    told: Arc<std::sync::Mutex<Vec<Told>>>,
}

pub fn frame() -> Frame {
    let size = SizePx {
        width_px: 64,
        height_px: 48,
    };
    let pixels: Vec<u8> = (0..Frame::byte_len(size))
        .map(|i| (i * 7 % 256) as u8)
        .collect();
    Frame {
        matrix: YuvMatrix::Bt709,
        ..Frame::new(size, pixels)
    }
}

const NOW: UtcMicros = UtcMicros(1_795_490_400_000_000);

impl Site {
    pub fn new() -> Self {
        let metrics = Metrics::default();
        let limits = RingLimits {
            bytes: 1 << 20,
            span: Duration::from_secs(60),
        };
        let ring = GopRing::new(limits, &metrics, "wok-1");
        for n in 0..40u64 {
            ring.push(AccessUnit {
                camera: CameraIx(0),
                stamp: FrameStamp {
                    seq: n,
                    session: 1,
                    received: MonoMicros(n * 1_000_000),
                    ..FrameStamp::default()
                },
                codec: Codec::H264,
                is_key: n % 5 == 0,
                is_disposable: false,
                packets_lost: 0,
                data: vec![1; 10].into(),
            });
        }
        Self {
            dir: tempfile::tempdir().unwrap(),
            clock: ManualClock::new(MonoMicros(100_000_000), NOW),
            metrics,
            ring,
            max_bytes: 1 << 30,
            max_age: Duration::from_secs(90 * 24 * 3600),
            min_free_bytes: 0,
            redact: Redact::Faces,
            told: Arc::default(),
        }
    }

    pub fn config(&self) -> EvidenceConfig {
        EvidenceConfig {
            dir: self.evidence(),
            key_file: self.dir.path().join("site.key"),
            jpeg_quality: 80,
            redact: self.redact,
            pre_roll: Duration::from_secs(5),
            post_roll: Duration::from_secs(5),
            ring_bytes: 1 << 20,
            min_free_bytes: self.min_free_bytes,
            max_bytes: self.max_bytes,
            max_age: self.max_age,
        }
    }

    pub fn evidence(&self) -> PathBuf {
        self.dir.path().join("evidence")
    }

    pub fn open(&self, disk: Disk) -> Result<(Keeper, Jobs), OpenError> {
        let site = SiteName {
            region: "410724".to_owned(),
            id: "site-000123".to_owned(),
        };
        Keeper::open_on(
            disk,
            EvidenceSettings::new(self.config()),
            site,
            &self.metrics,
            self.clock.clone(),
        )
    }

    pub fn around(&self, remux: FakeRemux) -> Around {
        let told = self.told.clone();
        let rings = SiteRings::default();
        let of_camera = CameraRings {
            sub: self.ring.clone(),
            main: None,
        };
        rings.insert(CameraIx(0), of_camera);
        Around {
            rings,
            remux: Box::new(remux),
            tell: Box::new(move |t| told.lock().unwrap().push(t)),
            heartbeat: Heartbeats::new(self.clock.clone()).register("evidence", BEAT),
        }
    }

    pub fn pictures(&self) -> Pictures {
        let faces = [NormRect::clipped(0.3, 0.3, 0.6, 0.6)];
        pictures(&frame(), &[], Faces::At(&faces), self.redact, 80).unwrap()
    }

    pub fn job(&self, n: u128) -> Job {
        Job {
            draft: draft(n),
            original: (self.redact == Redact::Faces).then(frame),
            clip: ClipSpan {
                camera: CameraIx(0),
                from: MonoMicros(12_000_000),
                deciding: MonoMicros(20_000_000),
                until: MonoMicros(25_000_000),
            },
        }
    }

    /// Writes a bundle and completes it, as the daemon does.
    pub fn bundle(&self, n: u128) {
        let (keeper, jobs) = self.open(Disk::default()).unwrap();
        BundleWriter::new(&self.evidence())
            .write(&draft(n), b"{}", &self.pictures(), 0)
            .unwrap();
        jobs.give(self.job(n));
        drop(jobs);
        keeper.run(&self.around(FakeRemux(true)));
    }

    /// A start with nothing to do but what was left.
    pub fn restart(&self) {
        let (keeper, jobs) = self.open(Disk::default()).unwrap();
        drop(jobs);
        keeper.run(&self.around(FakeRemux(true)));
    }

    pub fn verify(&self) -> Verdict {
        verify(self.dir.path(), None).unwrap()
    }

    pub fn entries(&self) -> Vec<Body> {
        let text = fs::read(self.evidence().join("chain.jsonl")).unwrap();
        crate::evidence::chain::lines(&text)
            .map(|l| Line::parse(l).unwrap().entry.body)
            .collect()
    }

    fn told(&self) -> Vec<Told> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

fn names(body: &Body) -> Vec<&str> {
    match body {
        Body::Bundle(b) => b.files.iter().map(|f| f.name.as_str()).collect(),
        Body::Deleted(d) => d.files.iter().map(|f| f.name.as_str()).collect(),
        Body::Derived(d) => vec![d.file.name.as_str()],
        Body::Snapshot(s) => s.files.iter().map(|f| f.name.as_str()).collect(),
    }
}

fn snapshot(n: u128) -> SnapshotBody {
    let draft = draft(n);
    SnapshotBody {
        snapshot: draft.finding,
        folder: draft.folder,
        camera: draft.camera,
        taken: draft.opened,
        clock: draft.clock,
        config_sha256: draft.config_sha256,
        models: draft.models,
        redaction: draft.redaction,
        files: Vec::new(),
    }
}

#[test]
fn a_snapshot_is_signed_and_kept_like_the_pictures_of_a_finding() {
    let mut site = Site::new();
    let (keeper, jobs) = site.open(Disk::default()).unwrap();
    let around = site.around(FakeRemux(true));
    let keeping = std::thread::spawn(move || keeper.run(&around));
    for _asked_twice in 0..2 {
        jobs.sign_snapshot(snapshot(9), vec![9; 50]).unwrap();
    }
    drop(jobs);
    keeping.join().unwrap();
    let entries = site.entries();
    assert_eq!((entries.len(), names(&entries[0])), (1, vec!["frame.jpg"]));
    let verdict = site.verify();
    assert!(verdict.ok, "{verdict:#?}");
    assert_eq!((verdict.files, verdict.notes.len()), (1, 0));
    let picture = site.evidence().join(draft(9).folder).join("frame.jpg");
    fs::write(&picture, "another").unwrap();
    let broken = site.verify().broken[0].clone();
    assert!(broken.file.ends_with("frame.jpg") && broken.index == Some(0));
    // It goes by record like all else.
    site.max_bytes = 10;
    site.restart();
    let verdict = site.verify();
    assert!(verdict.ok && !picture.exists(), "{verdict:#?}");
    assert_eq!((verdict.entries, verdict.deleted_files), (2, 1));
}

#[test]
fn wherever_the_power_goes_a_snapshot_is_signed_or_not_there() {
    let (mut without, mut with) = (0, 0);
    for steps in 0..9 {
        let site = Site::new();
        let disk = Disk {
            steps_left: Some(Cell::new(u32::MAX)),
            ..Disk::default()
        };
        let (mut keeper, _jobs) = site.open(disk).unwrap();
        keeper.cut_power_after(steps);
        let done = keeper.sign_snapshot(snapshot(9), &[9; 50]);
        drop(keeper);
        site.restart();
        let signed = site.entries().len();
        let verdict = site.verify();
        assert!(
            verdict.ok && verdict.notes.is_empty(),
            "{steps}: {verdict:#?}"
        );
        assert_eq!(site.evidence().join(draft(9).folder).exists(), signed == 1);
        assert!(signed == 1 || done.is_err(), "{steps}");
        if signed == 1 {
            with += 1;
        } else {
            without += 1;
        }
    }
    assert!(without > 1 && with > 1, "{without} {with}");
}

#[test]
fn a_bundle_is_completed_signed_and_whole() {
    let site = Site::new();
    site.bundle(1);
    let entries = site.entries();
    assert_eq!(
        names(&entries[0]),
        [
            "annotated.jpg",
            "finding.json",
            "frame.jpg",
            "sealed/clip.mp4",
            "sealed/frame.jpg"
        ]
    );
    let verdict = site.verify();
    assert!(verdict.ok, "{verdict:#?}");
    assert_eq!(
        (verdict.entries, verdict.files, verdict.notes.len()),
        (1, 5, 0)
    );
    let sealed = site.evidence().join(draft(1).folder).join("sealed");
    let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&sealed), 0o700);
    assert_eq!(mode(&sealed.join("frame.jpg")), 0o600);
    assert_eq!(mode(&sealed.join("clip.mp4")), 0o600);
    // From 10 s (the key unit before 12 s) to 25 s.
    assert_eq!(fs::read(sealed.join("clip.mp4")).unwrap().len(), 1600);
}

#[test]
fn where_policy_lets_them_leave_nothing_is_sealed() {
    let site = Site {
        redact: Redact::Off,
        ..Site::new()
    };
    site.bundle(1);
    let expected = ["annotated.jpg", "clip.mp4", "finding.json", "frame.jpg"];
    assert_eq!(names(&site.entries()[0]), expected);
}

#[test]
fn a_clip_that_cannot_be_cut_is_named_as_missing() {
    let site = Site::new();
    for (n, remux) in [(1, FakeRemux(false)), (2, FakeRemux(true))] {
        let (keeper, jobs) = site.open(Disk::default()).unwrap();
        BundleWriter::new(&site.evidence())
            .write(&draft(n), b"{}", &site.pictures(), 0)
            .unwrap();
        let mut job = site.job(n);
        if n == 2 {
            // A camera that sent nothing then.
            job.clip.from = MonoMicros(70_000_000);
            job.clip.deciding = MonoMicros(75_000_000);
            job.clip.until = MonoMicros(80_000_000);
        }
        let index = keeper.index();
        jobs.give(job);
        drop(jobs);
        keeper.run(&site.around(remux));
        let Some(ClipState::Missing(why)) = index.clip(draft(n).finding) else {
            panic!("{index:?}");
        };
        let expected = ["no muxer", "no video of that time was kept"][n as usize - 1];
        assert_eq!(why, expected);
    }
    assert!(site.verify().ok);
}

#[test]
fn a_bundle_waits_for_the_end_of_its_clip_and_a_stop_ends_the_wait() {
    let site = Site::new();
    let (mut keeper, jobs) = site.open(Disk::default()).unwrap();
    BundleWriter::new(&site.evidence())
        .write(&draft(1), b"{}", &site.pictures(), 0)
        .unwrap();
    let mut job = site.job(1);
    let now = site.clock.mono();
    job.clip.until = now.plus(Duration::from_secs(5));
    keeper.take(job);
    let around = site.around(FakeRemux(true));
    keeper.work(&around, false);
    assert_eq!(site.entries(), []);
    // Past the end, but its last unit has not come: a moment's patience.
    site.clock.advance(Duration::from_secs(6));
    keeper.work(&around, false);
    assert_eq!(site.entries(), []);
    site.clock.advance(Duration::from_secs(2));
    keeper.work(&around, false);
    assert_eq!(site.entries().len(), 1);
    drop(jobs);
}

/// The heart of it: the power may go between any two steps that reach the disk, and what is there then
/// verifies, before and after the next start, and no finished bundle is lost.
#[test]
fn wherever_the_power_goes_the_chain_verifies_and_the_bundle_is_signed_at_last() {
    let mut cut_in_the_keeper = 0;
    for steps in 0..60 {
        let site = Site::new();
        site.bundle(1);
        let cut = || Disk {
            steps_left: Some(Cell::new(steps)),
            ..Disk::default()
        };
        let mut writer = BundleWriter::new(&site.evidence());
        let (mut keeper, jobs) = site.open(Disk::default()).unwrap();
        // First while analytics writes, then while the thread completes.
        writer.disk = cut();
        let written = writer.write(&draft(2), b"{\"n\":2}", &site.pictures(), 0);
        if written.is_ok() {
            let used = steps - writer.disk.steps_left.as_ref().unwrap().get();
            let left = steps - used;
            keeper.disk = Disk {
                steps_left: Some(Cell::new(left)),
                ..Disk::default()
            };
            keeper.take(site.job(2));
            keeper.work(&site.around(FakeRemux(true)), true);
            cut_in_the_keeper += 1;
        }
        drop((keeper, jobs));
        let verdict = site.verify();
        assert!(verdict.ok, "cut after {steps} steps: {verdict:#?}");
        site.restart();
        let verdict = site.verify();
        assert!(verdict.ok, "started after {steps} steps: {verdict:#?}");
        assert_eq!(verdict.notes, Vec::<String>::new(), "after {steps} steps");
        let expected = if written.is_ok() { 2 } else { 1 };
        assert_eq!(verdict.entries, expected, "after {steps} steps");
        site.bundle(3);
        assert_eq!(site.verify().entries, expected + 1);
    }
    assert!(cut_in_the_keeper > 20, "{cut_in_the_keeper}");
}

#[test]
fn wherever_the_power_goes_a_removal_is_by_record() {
    for steps in 0..20 {
        let mut site = Site::new();
        for n in 1..4 {
            site.bundle(n);
        }
        site.max_bytes = 10;
        let disk = Disk {
            steps_left: Some(Cell::new(steps)),
            ..Disk::default()
        };
        if let Ok((mut keeper, jobs)) = site.open(disk) {
            keeper.work(&site.around(FakeRemux(true)), false);
            drop(jobs);
        }
        let verdict = site.verify();
        assert!(verdict.ok, "cut after {steps} steps: {verdict:#?}");
        site.restart();
        let verdict = site.verify();
        assert!(verdict.ok, "started after {steps} steps: {verdict:#?}");
        assert_eq!(verdict.deleted_files, 12);
        assert_eq!(
            verdict.notes,
            Vec::<String>::new(),
            "what was recorded is gone"
        );
    }
}

#[test]
fn what_is_too_much_goes_clips_first_and_the_centre_hears_of_it() {
    let mut site = Site::new();
    for n in 1..4 {
        site.bundle(n);
    }
    let (keeper, jobs) = site.open(Disk::default()).unwrap();
    let total = keeper.index().bytes();
    drop((keeper, jobs));
    site.max_bytes = total - 1;
    site.told();
    site.restart();
    let told = site.told();
    let [Told::Deleted { index: 3, body }] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(body.reason, "max_mb");
    assert!(body.files.iter().all(|f| f.name == "sealed/clip.mp4"));
    assert_eq!(
        body.files[0].folder,
        draft(1).folder,
        "of equal ones in the order of their names"
    );
    let verdict = site.verify();
    assert_eq!(
        (verdict.ok, verdict.deleted_files),
        (true, body.files.len() as u64)
    );
    assert_eq!(
        site.metrics.total(Metric::EvidenceRemoved),
        body.files.len() as u64
    );
}

#[test]
fn what_is_too_old_goes_but_not_by_a_clock_that_was_set() {
    let site = Site {
        max_age: Duration::from_secs(24 * 3600),
        ..Site::new()
    };
    site.bundle(1);
    let (mut keeper, jobs) = site.open(Disk::default()).unwrap();
    let around = site.around(FakeRemux(true));
    // Set forward by ten years while it runs.
    keeper.started.1 = UtcMicros(NOW.0 - 10 * 365 * 24 * 3_600_000_000);
    site.clock.advance(Duration::from_secs(2 * 24 * 3600));
    keeper.work(&around, false);
    assert_eq!(site.verify().deleted_files, 0);
    keeper.started.1 = NOW;
    keeper.work(&around, false);
    drop(jobs);
    let verdict = site.verify();
    assert!(verdict.ok, "{verdict:?}");
    assert_eq!(
        verdict.deleted_files, 4,
        "all but the finding and the manifest"
    );
}

#[test]
fn a_disk_that_refuses_leaves_the_bundle_for_later_and_says_so() {
    let site = Site::new();
    let (mut keeper, _jobs) = site.open(Disk::default()).unwrap();
    BundleWriter::new(&site.evidence())
        .write(&draft(1), b"{}", &site.pictures(), 0)
        .unwrap();
    let around = site.around(FakeRemux(true));
    keeper.take(site.job(1));
    keeper.disk = Disk {
        steps_left: Some(Cell::new(0)),
        ..Disk::default()
    };
    keeper.work(&around, false);
    let told = site.told();
    let [Told::Problem(Some(problem))] = &told[..] else {
        panic!("{told:?}");
    };
    assert!(
        problem.contains("waits to be signed") && problem.contains("power cut"),
        "{problem}"
    );
    assert!(site.metrics.total(Metric::EvidenceFailures) >= 1);
    keeper.disk = Disk::default();
    keeper.work(&around, false);
    assert_eq!(site.told(), [], "not before its time");
    site.clock.advance(AGAIN + Duration::from_secs(1));
    keeper.work(&around, false);
    assert_eq!(site.told(), [Told::Problem(None)]);
    let verdict = site.verify();
    assert!(verdict.ok && verdict.entries == 1, "{verdict:?}");
}

#[test]
fn a_thread_that_is_behind_loses_clips_but_no_signature() {
    let site = Site::new();
    let (keeper, jobs) = site.open(Disk::default()).unwrap();
    let writer = BundleWriter::new(&site.evidence());
    let all = JOBS as u128 + 4;
    for n in 1..=all {
        writer.write(&draft(n), b"{}", &site.pictures(), 0).unwrap();
        jobs.give(site.job(n));
    }
    assert_eq!(site.metrics.total(Metric::EvidenceJobsDropped), 4);
    drop(jobs);
    keeper.run(&site.around(FakeRemux(true)));
    let verdict = site.verify();
    assert!(verdict.ok, "{verdict:?}");
    assert_eq!(u128::from(verdict.entries), all);
    let without_clip = |b: &Body| !names(b).contains(&"sealed/clip.mp4");
    assert_eq!(site.entries().iter().filter(|b| without_clip(b)).count(), 4);
}

#[test]
fn a_key_that_is_lost_or_damaged_is_named_and_nothing_is_signed() {
    let site = Site::new();
    site.bundle(1);
    let key = site.dir.path().join("site.key");
    fs::remove_file(&key).unwrap();
    let e = site.open(Disk::default()).unwrap_err();
    assert!(matches!(e, OpenError::Key(KeyError::Missing { .. })), "{e}");
    fs::write(&key, "nonsense").unwrap();
    let e = site.open(Disk::default()).unwrap_err();
    assert!(e.to_string().contains("site.key is damaged"), "{e}");
    fs::remove_dir_all(site.evidence()).unwrap();
    fs::write(site.evidence(), "a file").unwrap();
    fs::remove_file(&key).unwrap();
    let e = site.open(Disk::default()).unwrap_err();
    assert!(
        matches!(&e, OpenError::Folder { .. }) && e.to_string().contains("evidence"),
        "{e}"
    );
}

#[test]
fn a_chain_that_was_damaged_is_told_and_goes_on() {
    let site = Site::new();
    for n in 1..4 {
        site.bundle(n);
    }
    let path = site.evidence().join("chain.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("wok-1", "wok-2", 1)).unwrap();
    site.told();
    site.bundle(4);
    let told = site.told();
    let [Told::Problem(Some(problem))] = &told[..] else {
        panic!("{told:?}");
    };
    assert!(problem.contains("mingchu verify"), "{problem}");
    assert_eq!(site.entries().len(), 4);
    assert!(!site.verify().ok);
}

#[test]
fn what_a_power_cut_left_of_a_folder_is_cleared() {
    let site = Site::new();
    site.bundle(1);
    let part = site.evidence().join("2026/11/24/x.part");
    fs::create_dir_all(part.join("sealed")).unwrap();
    site.restart();
    assert!(!part.exists());
    let unsigned: Vec<FileEntry> =
        bundle::files_in(&site.evidence().join(draft(1).folder)).unwrap();
    assert_eq!(unsigned.len(), 5);
}

/// A disk with so much room, beside a site with some bundles.
fn filled(site: &Site, room: u64) -> Disk {
    for n in 1..4 {
        site.bundle(n);
    }
    Disk {
        room: Some(Arc::new(room.into())),
        ..Disk::default()
    }
}

#[test]
fn a_disk_that_gets_full_takes_evidence_back_by_record_and_the_centre_hears_of_it() {
    let mut site = Site::new();
    site.min_free_bytes = 1 << 20;
    let disk = filled(&site, (1 << 20) - 100);
    let room = disk.room.clone().unwrap();
    let (mut keeper, jobs) = site.open(disk).unwrap();
    keeper.work(&site.around(FakeRemux(true)), false);
    let told = site.told();
    let bodies: Vec<&DeletedBody> = told
        .iter()
        .filter_map(|t| match t {
            Told::Deleted { body, .. } => Some(body),
            Told::Problem(_) => None,
        })
        .collect();
    let [body] = bodies[..] else {
        panic!("{told:?}");
    };
    assert_eq!(body.reason, "min_free_mb");
    assert!(
        body.files.iter().all(|f| f.name == "sealed/clip.mp4"),
        "{body:?}"
    );
    assert!(room.load(std::sync::atomic::Ordering::Relaxed) >= 1 << 20);
    drop((keeper, jobs));
    let verdict = site.verify();
    assert!(verdict.ok && verdict.deleted_files > 0, "{verdict:?}");
}

#[test]
fn a_disk_that_is_full_has_room_for_the_record_of_what_makes_room() {
    let mut site = Site::new();
    site.min_free_bytes = 1 << 20;
    let disk = filled(&site, 2 << 20);
    let room = disk.room.clone().unwrap();
    let (mut keeper, jobs) = site.open(disk).unwrap();
    assert!(site.evidence().join(BALLAST).is_file());
    // Somebody else has filled it to the last byte.
    room.store(0, std::sync::atomic::Ordering::Relaxed);
    site.told();
    keeper.work(&site.around(FakeRemux(true)), false);
    let told = site.told();
    assert!(
        told.iter().any(|t| matches!(t, Told::Deleted { .. })),
        "{told:?}"
    );
    // All that may go has gone and it is not enough: a person must look.
    let is_told = |t: &Told| matches!(t, Told::Problem(Some(p)) if p.contains("make room"));
    assert!(told.iter().any(is_told), "{told:?}");
    assert_eq!(site.metrics.total(Metric::EvidenceRemoved), 12);
    // Others have made room: the ballast is back, and so is the site.
    room.store(3 << 20, std::sync::atomic::Ordering::Relaxed);
    keeper.work(&site.around(FakeRemux(true)), false);
    assert_eq!(site.told(), [Told::Problem(None)]);
    assert!(site.evidence().join(BALLAST).is_file());
    drop((keeper, jobs));
    let verdict = site.verify();
    assert!(verdict.ok && verdict.deleted_files == 12, "{verdict:?}");
}

#[test]
fn with_little_room_left_no_new_evidence_is_kept_and_the_bundle_says_why() {
    let site = Site::new();
    let mut writer = BundleWriter::new(&site.evidence());
    writer.disk.room = Some(Arc::new(999.into()));
    let refused = writer.write(&draft(1), b"{}", &site.pictures(), 1000);
    let refused = refused.unwrap_err();
    assert_eq!(refused.source.kind(), io::ErrorKind::StorageFull);
    assert!(
        refused.to_string().contains("gives way to findings"),
        "{refused}"
    );
    assert!(!site.evidence().join(draft(1).folder).exists());
}

#[test]
fn before_anything_runs_a_full_disk_gets_room_by_record() {
    let mut site = Site::new();
    site.min_free_bytes = 1 << 20;
    let disk = filled(&site, 0);
    let room = disk.room.clone().unwrap();
    // What a start with room has left.
    let (keeper, jobs) = site.open(Disk::default()).unwrap();
    drop((keeper, jobs));
    let (keeper, _jobs) = site.open(disk).unwrap();
    let removed = keeper.make_room();
    assert_eq!(
        removed.iter().map(|(_, b)| b.files.len()).sum::<usize>(),
        12
    );
    assert!(room.load(std::sync::atomic::Ordering::Relaxed) > BALLAST_BYTES as u64);
    let verdict = site.verify();
    assert!(verdict.ok && verdict.deleted_files == 12, "{verdict:?}");
}
