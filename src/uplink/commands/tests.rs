//! Reading commands, and the journal by properties.
use proptest::prelude::*;
use std::collections::HashMap;

use super::*;
use crate::uplink::payload::tests::T;

fn at(s: i64) -> UtcMicros {
    UtcMicros(T.0 + s * 1_000_000)
}

fn command(id: &str, issued: UtcMicros) -> Command {
    Command {
        id: id.to_owned(),
        issued,
        expires: None,
        by: "officer 7".to_owned(),
        args: Value::Null,
    }
}

fn result(id: &str, text: &str) -> CommandResult {
    CommandResult {
        id: id.to_owned(),
        command: "mute".to_owned(),
        outcome: "done".to_owned(),
        text: text.to_owned(),
        at: T,
        data: Value::Null,
        text_zh: String::new(),
    }
}

/// The shelf after `changes`.
fn write(shelf: &mut BTreeMap<String, String>, changes: &[Change]) {
    for change in changes {
        match change {
            Change::Put { key, body, .. } => {
                shelf.insert(key.clone(), body.clone());
            }
            Change::Delete { key, .. } => {
                shelf.remove(key);
            }
            Change::Record(_) => {}
        }
    }
}

fn read_back(shelf: &BTreeMap<String, String>) -> Journal {
    let entries: Vec<_> = shelf.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    Journal::of(&entries)
}

#[test]
fn a_command_is_read_and_what_is_wrong_with_another_is_said() {
    let good =
        br#"{"id":"c-1","issued":"2026-11-24T03:12:07Z","by":"officer 7","args":{"minutes":5}}"#;
    let read = Command::read(good, MOST_BYTES).unwrap();
    assert_eq!(
        (read.id.as_str(), read.args["minutes"].as_u64()),
        ("c-1", Some(5))
    );
    for (text, id, reason) in [
        ("{", None, "no JSON"),
        ("[]", None, "no command"),
        (r#"{"id":"c-1"}"#, Some("c-1"), "missing field `issued`"),
        (
            r#"{"id":"c-1","issued":"yesterday","by":"x"}"#,
            Some("c-1"),
            "no command",
        ),
        (
            r#"{"id":"c-1","issued":"2026-11-24T03:12:07Z","by":"x","arg":{}}"#,
            Some("c-1"),
            "unknown field `arg`",
        ),
        (
            r#"{"id":"a/b","issued":"2026-11-24T03:12:07Z","by":"x"}"#,
            None,
            "`id` must be",
        ),
        (
            r#"{"id":"c-1","issued":"2026-11-24T03:12:07Z","by":""}"#,
            Some("c-1"),
            "`by` must have",
        ),
    ] {
        let e = Command::read(text.as_bytes(), MOST_BYTES).unwrap_err();
        assert_eq!(e.id.as_deref(), id, "{text}");
        assert!(e.reason.contains(reason), "{text}: {e}");
    }
    let e = Command::read(good, 20).unwrap_err();
    assert_eq!(e.id.as_deref(), Some("c-1"));
    assert!(e.reason.contains("more than 20"), "{e}");
}

#[test]
fn a_command_counts_until_the_earliest_of_its_own_word_the_brokers_and_a_week() {
    let mut c = command("a", at(0));
    assert_eq!(c.expires(at(5), None), at(24 * 3600));
    assert_eq!(c.expires(at(5), Some(Duration::from_secs(60))), at(65));
    c.expires = Some(at(10));
    assert_eq!(c.expires(at(5), Some(Duration::from_secs(60))), at(10));
    c.expires = Some(at(100 * 24 * 3600));
    assert_eq!(c.expires(at(5), None), at(7 * 24 * 3600));
}

#[test]
fn one_that_comes_too_late_is_not_taken() {
    let mut journal = Journal::default();
    let late = journal.admit("mute", command("a", at(0)), None, at(24 * 3600));
    assert_eq!((late, journal.len()), (Admission::Expired, 0));
}

#[test]
fn a_repetition_gets_the_first_answer_even_under_another_name_and_after_a_restart() {
    let (mut journal, mut shelf) = (Journal::default(), BTreeMap::new());
    let Admission::Execute(changes) = journal.admit("mute", command("a", at(0)), None, at(1))
    else {
        panic!("not taken");
    };
    write(&mut shelf, &changes);
    let mut journal = read_back(&shelf);
    assert_eq!(
        journal.unanswered().len(),
        1,
        "it is executed after a restart"
    );
    let again = journal.admit("mute", command("a", at(0)), None, at(2));
    assert_eq!(again, Admission::UnderWay);
    write(&mut shelf, &journal.answer(result("a", "first")));
    let mut journal = read_back(&shelf);
    assert!(journal.unanswered().is_empty());
    let again = journal.admit("unmute", command("a", at(0)), None, at(90_000));
    assert_eq!(again, Admission::Repeated(Box::new(result("a", "first"))));
}

#[test]
fn answered_commands_are_forgotten_by_age_and_number_and_unanswered_ones_never() {
    let mut journal = Journal::default();
    let take = |journal: &mut Journal, id: &str, t: i64, answered: bool| {
        let taken = journal.admit("mute", command(id, at(t)), None, at(t));
        assert!(matches!(taken, Admission::Execute(_)));
        if answered {
            journal.answer(result(id, ""));
        }
        journal.check_invariants();
    };
    take(&mut journal, "open", 0, false);
    take(&mut journal, "old", 0, true);
    for i in 0..MOST_ENTRIES {
        take(&mut journal, &format!("c{i}"), i as i64, true);
    }
    assert_eq!(journal.len(), MOST_ENTRIES);
    assert!(!journal.entries.contains_key("old"));
    take(&mut journal, "new", 31 * 24 * 3600, true);
    let left: Vec<_> = journal.entries.keys().cloned().collect();
    assert_eq!(left, ["new", "open"]);
}

#[test]
fn a_flood_is_held_at_its_rate() {
    let mut flood = Flood::new(MonoMicros(0));
    let mut admitted = |from_s: u64, n: usize| {
        let now = MonoMicros(from_s * 1_000_000);
        (0..n).filter(|_| flood.admits(now)).count()
    };
    assert_eq!(admitted(0, 500), 120);
    assert_eq!(admitted(0, 5), 0);
    assert_eq!(admitted(10, 500), 20);
    assert_eq!(admitted(10_000, 500), 120);
}

#[derive(Clone, Debug)]
enum Step {
    Come(u8, i64),
    Finish(u8),
    /// Power is cut: after a write, or before the newest one reached the disk.
    Restart(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..6, -100_000i64..0).prop_map(|(id, issued)| Step::Come(id, issued)),
        3 => (0u8..6).prop_map(Step::Finish),
        1 => any::<bool>().prop_map(Step::Restart),
    ]
}

proptest! {
    /// Whatever comes, ends or breaks: an answer once on the disk is the answer for good; nothing
    /// answered is executed again; all that was taken is under way or answered.
    #[test]
    fn the_journal_answers_each_command_once(steps in prop::collection::vec(step(), 1..80)) {
        let (mut journal, mut shelf) = (Journal::default(), BTreeMap::new());
        let mut answers: HashMap<String, CommandResult> = HashMap::new();
        let mut before = shelf.clone();
        let mut last_answer: Option<String> = None;
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Come(id, issued) => {
                    let id = id.to_string();
                    let known = answers.get(&id).cloned();
                    match journal.admit("mute", command(&id, at(issued)), None, at(n as i64)) {
                        Admission::Execute(changes) => {
                            prop_assert!(known.is_none(), "executed again");
                            before.clone_from(&shelf);
                            last_answer = None;
                            write(&mut shelf, &changes);
                        }
                        Admission::Repeated(result) => prop_assert_eq!(Some(*result), known),
                        Admission::UnderWay => prop_assert!(known.is_none()),
                        Admission::Expired => {
                            prop_assert!(known.is_none());
                            prop_assert!(issued + 86_400 <= n as i64);
                        }
                    }
                }
                Step::Finish(id) => {
                    let id = id.to_string();
                    if journal.unanswered().iter().any(|e| e.command.id == id) {
                        let result = result(&id, &n.to_string());
                        before.clone_from(&shelf);
                        write(&mut shelf, &journal.answer(result.clone()));
                        answers.insert(id.clone(), result);
                        last_answer = Some(id);
                    }
                }
                Step::Restart(lost) => {
                    if lost {
                        shelf.clone_from(&before);
                        // Its effects were in the same transaction: they are gone with it.
                        if let Some(id) = last_answer.take() {
                            answers.remove(&id);
                        }
                    }
                    before.clone_from(&shelf);
                    last_answer = None;
                    journal = read_back(&shelf);
                }
            }
            journal.check_invariants();
        }
    }
}
