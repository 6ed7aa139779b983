//! The store under processes that are killed: a short form of `benches/crash.rs`.
use std::process::Command;

use crate::life::Job;
use crate::rounds::{
    Program, every_step_of_a_new_store, every_step_of_mending, power_cuts, random_kills, refusals,
    used,
};

/// This very test program, which does what [`Job`] says and nothing else.
const PROGRAM: Program = || {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "crash::a_process_that_is_let_alone_leaves_what_it_was_promised",
        "--nocapture",
    ]);
    command
};

#[test]
fn a_process_that_is_let_alone_leaves_what_it_was_promised() {
    if let Some(job) = Job::from_env() {
        // We are the process of a test.
        return job.run();
    }
    let (_root, promise) = used(PROGRAM, 3, 60);
    assert!(promise.records() > 20 && !promise.is_owed());
}

#[test]
fn a_process_killed_at_random_loses_nothing_that_was_promised() {
    let tally = random_kills(PROGRAM, 3, 12, 5);
    assert!(
        tally.unanswered > 3,
        "{tally:?}: it was killed at no bad moment"
    );
}

#[test]
fn a_process_killed_at_a_write_step_loses_nothing_that_was_promised() {
    let tally = every_step_of_a_new_store(PROGRAM, 7, 12, 8);
    assert!(tally.runs > 20 && tally.unanswered > 5, "{tally:?}");
}

#[test]
fn a_process_killed_while_it_sets_a_damaged_store_aside_loses_nothing() {
    let tally = every_step_of_mending(PROGRAM, 9, 9);
    assert!(tally.runs > 10, "{tally:?}");
}

#[test]
fn a_disk_that_refuses_for_a_while_loses_nothing_that_was_promised() {
    let tally = refusals(PROGRAM, 14, 13);
    assert!(tally.runs == 14 && tally.unanswered > 10, "{tally:?}");
}

#[test]
fn a_power_cut_loses_nothing_that_was_promised() {
    let tally = power_cuts(PROGRAM, 3, 20, 11);
    assert_eq!(tally.runs, 240);
    assert!(tally.unanswered > 20, "{tally:?}");
}
