//! Everything the broker can send us: commands by every name, a config, receipts.
//!
//! First byte: which command's arguments. The rest is the payload.
#![no_main]
use libfuzzer_sys::fuzz_target;
use mingchu::base::time::UtcMicros;
use mingchu::uplink::{
    Admission, Command, DesiredConfig, Journal, MOST_BYTES, MOST_CONFIG_BYTES, Receipt, Task,
};

/// 2026-11-25.
const NOW: UtcMicros = UtcMicros(1_795_564_800_000_000);

fuzz_target!(|input: (u8, &[u8])| {
    let (which, payload) = input;
    let name = Task::NAMES[usize::from(which) % Task::NAMES.len()];
    let most_bytes = if name == "config.desired" {
        MOST_CONFIG_BYTES
    } else {
        MOST_BYTES
    };
    match Command::read(payload, most_bytes) {
        Ok(command) => {
            // What was taken is known from then on, and a repetition is not done twice.
            let task = Task::read(name, &command.args);
            assert!(!matches!(task, Err(ref why) if why.is_empty()));
            let mut journal = Journal::default();
            let first = journal.admit(name, command.clone(), None, NOW);
            let second = journal.admit(name, command.clone(), None, NOW);
            match first {
                Admission::Execute(changes) => {
                    assert!(!changes.is_empty() && journal.knows(&command.id));
                    assert_eq!(second, Admission::UnderWay);
                }
                other => assert_eq!(other, Admission::Expired),
            }
            journal.check_invariants();
        }
        Err(unreadable) => assert!(!unreadable.reason.is_empty()),
    }
    if let Err(why) = DesiredConfig::read(payload) {
        assert!(!why.is_empty());
    }
    let _ = serde_json::from_slice::<Receipt>(payload);
});
