//! How many times the store's process was killed, and the power cut, without losing anything that had
//! been promised. `tests/it/crash.rs` is the short form; how it is done stands there.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark prints, takes the time, and stops where it fails"
)]
#![allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/it/faulty_disk.rs"]
mod faulty_disk;
#[path = "../tests/it/crash/life.rs"]
mod life;
#[path = "../tests/it/crash/rounds.rs"]
mod rounds;

use std::process::Command;
use std::time::Instant;

use rounds::{Program, Tally};

const PROGRAM: Program = || Command::new(std::env::current_exe().unwrap());

fn round(name: &str, work: impl FnOnce() -> Tally) {
    let began = Instant::now();
    let tally = work();
    // Whatever is lost stops the program where it is found.
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "| {name} | {} | {} | {} | 0 | {seconds:.0} |",
        tally.runs, tally.unanswered, tally.records
    );
}

fn main() {
    if let Some(job) = life::Job::from_env() {
        return job.run();
    }
    if !std::env::args().any(|a| a == "--all") {
        println!("crash: takes minutes; say --all, or `make crash`");
        return;
    }
    let seed =
        std::env::var("SEED").map_or_else(|_| fastrand::u64(..1 << 40), |s| s.parse().unwrap());
    println!("seed {seed}; SEED={seed} repeats it");
    println!();
    println!(
        "| what | runs | with something not answered, or refused | promised records checked | lost | seconds |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    round("killed at random, 25 lives of each store", || {
        rounds::random_kills(PROGRAM, 40, 25, seed)
    });
    round(
        "killed at every write step of a new store, before it and half-way",
        || rounds::every_step_of_a_new_store(PROGRAM, seed, 40, 1),
    );
    round(
        "killed at every write step of setting a damaged store aside",
        || rounds::every_step_of_mending(PROGRAM, seed, 1),
    );
    round(
        "full, broken or read-only for some steps, then well again",
        || rounds::refusals(PROGRAM, 210, seed),
    );
    round("power cut, four ways at each moment", || {
        rounds::power_cuts(PROGRAM, 12, 100, seed)
    });
}
