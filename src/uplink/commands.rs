//! Commands of the centre: what they look like, and the journal that lets each count once.
//!
//! What must not be here: what a command does, connections, SQL. Pure; the journal says what to write,
//! and whoever owns it writes it before anything else happens.
//!
//! # Format
//! On `command/{name}`, QoS 1, a JSON object: see [`Command`]. Its arguments are an object of the
//! command's own. Unknown keys are refused by name, for a misspelt one must not be passed over.
//!
//! # Operation
//! ```text
//! came ── readable, known, in time, not seen before ──> taken ── executed ──> answered ── 30 days ──> forgotten
//!   |                                                     |          ^
//!   +── else: answered with what is wrong                 +─ restart ┘
//! ```
//! A command is *taken* when it is in the journal on the disk; only then the broker gets its
//! acknowledgement. What it does to the site's stores, its result and its end in the journal are one
//! transaction. So after a power cut it is either answered, and a repetition gets that answer again, or
//! not executed as far as any store tells, and is executed after the restart: once in effect. What
//! leaves no trace in the stores (looking, telling, sending again) may be done twice, harmlessly.
//!
//! # Bounds
//! A command counts for [`LIFE`] after `issued` unless it says less, and for [`LONGEST_LIFE`] at most.
//! Answered ones are remembered for [`REMEMBERED`], longer than any may live, and at most
//! [`MOST_ENTRIES`] of them; when more come, the oldest are forgotten, and as long as one of those could
//! still be valid, a repetition of it would be executed again. [`Flood`] keeps them from coming so fast.
use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::payload::rfc3339;
use super::record::{Change, CommandResult, RecordBody, Shelf};
use crate::base::time::{MonoMicros, UtcMicros};

/// How long a command counts after it was issued, if it does not say.
pub const LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long a command may count at most.
pub const LONGEST_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long an answered command is remembered.
pub const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 3600);
/// Commands remembered at most.
pub const MOST_ENTRIES: usize = 2000;
/// Largest payload of a command.
pub const MOST_BYTES: usize = 16 * 1024;
/// Largest payload of a config.
pub const MOST_CONFIG_BYTES: usize = 256 * 1024;
/// Longest id.
const MOST_ID: usize = 64;
/// Longest name of who asks.
const MOST_BY: usize = 128;
/// Keys of the journal in its shelf; others use the shelf too.
const KEY: &str = "command/";

/// The payload of a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Chosen by the centre, never used twice: 1 to 64 of `A-Za-z0-9._:-`. A repetition gets the
    /// answer again.
    #[schemars(regex(pattern = "^[A-Za-z0-9._:-]{1,64}$"))]
    pub id: String,
    /// When it was given.
    #[serde(with = "rfc3339")]
    #[schemars(with = "UtcMicros")]
    pub issued: UtcMicros,
    /// From when on it is not to be executed any more; else 24 h after `issued`, at most 7 days after.
    #[serde(
        default,
        with = "rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<UtcMicros>")]
    pub expires: Option<UtcMicros>,
    /// Who gives it, for the audit: at most 128 characters.
    #[schemars(length(min = 1, max = 128))]
    pub by: String,
    /// What the command wants, by its own rules.
    #[serde(default)]
    pub args: Value,
}

/// Why a payload is no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unreadable {
    /// The id, if that much could be read: then it can be answered.
    pub id: Option<String>,
    /// What is wrong, for people.
    pub reason: String,
}

fn is_id(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._:-".contains(&b);
    !text.is_empty() && text.len() <= MOST_ID && text.bytes().all(fits)
}

impl Command {
    /// Reads a payload.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(payload: &[u8], most_bytes: usize) -> Result<Self, Unreadable> {
        let unreadable = |id, reason: String| Unreadable { id, reason };
        // Twice the limit is still read for the id; the link takes no more.
        let value: Value = serde_json::from_slice(payload)
            .map_err(|e| unreadable(None, format!("the payload is no JSON: {e}")))?;
        let id = value["id"].as_str().filter(|id| is_id(id));
        let id = id.map(str::to_owned);
        if payload.len() > most_bytes {
            let reason = format!("{} bytes are more than {most_bytes}", payload.len());
            return Err(unreadable(id, reason));
        }
        let command: Self = serde_json::from_value(value)
            .map_err(|e| unreadable(id.clone(), format!("this is no command: {e}")))?;
        if id.is_none() {
            let reason = format!("`id` must be 1 to {MOST_ID} of A-Z a-z 0-9 . _ : -");
            return Err(unreadable(None, reason));
        }
        if command.by.is_empty() || command.by.chars().count() > MOST_BY {
            let reason = format!("`by` must have 1 to {MOST_BY} characters");
            return Err(unreadable(id, reason));
        }
        Ok(command)
    }

    /// When it stops to count. `message_expiry` is what the broker says is left of it.
    pub fn expires(&self, now: UtcMicros, message_expiry: Option<Duration>) -> UtcMicros {
        let plus = |t: UtcMicros, d: Duration| UtcMicros(t.0.saturating_add(d.as_micros() as i64));
        let own = self.expires.unwrap_or(plus(self.issued, LIFE));
        let own = own.min(plus(self.issued, LONGEST_LIFE));
        message_expiry.map_or(own, |left| own.min(plus(now, left)))
    }
}

/// What the journal knows of a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The topic's level.
    pub name: String,
    /// As it came.
    pub command: Command,
    /// See [`Command::expires`].
    #[serde(with = "rfc3339")]
    pub expires: UtcMicros,
    /// When it was taken.
    #[serde(with = "rfc3339")]
    pub taken: UtcMicros,
    /// Its answer; none: not answered yet.
    pub result: Option<CommandResult>,
}

/// What to do with a command that came.
#[derive(Clone, Debug, PartialEq)]
pub enum Admission {
    /// Write these, acknowledge, execute.
    Execute(Vec<Change>),
    /// It was answered before: this is the answer.
    Repeated(Box<CommandResult>),
    /// It is being executed; the answer will come.
    UnderWay,
    /// It came too late.
    Expired,
}

/// The commands taken, by id. See the module docs.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    entries: BTreeMap<String, Entry>,
}

impl Journal {
    /// From the shelf's entries; others than the journal's, and damaged ones, are passed over.
    pub fn of(shelf: &[(String, String)]) -> Self {
        let mut entries = BTreeMap::new();
        for (key, body) in shelf {
            let Some(id) = key.strip_prefix(KEY) else {
                continue;
            };
            match serde_json::from_str(body) {
                Ok(entry) => {
                    entries.insert(id.to_owned(), entry);
                }
                Err(e) => {
                    tracing::error!(id, err = %e, "entry of the command journal is unreadable");
                }
            }
        }
        Self { entries }
    }

    /// Whether the command of this id was taken.
    pub fn knows(&self, id: &str) -> bool {
        self.entries.contains_key(id)
    }

    /// What is known of the command of this id.
    pub fn entry(&self, id: &str) -> Option<Entry> {
        self.entries.get(id).cloned()
    }

    /// How many it knows.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What was taken and not answered, in the order it was taken.
    pub fn unanswered(&self) -> Vec<Entry> {
        let mut open: Vec<Entry> = self
            .entries
            .values()
            .filter(|e| e.result.is_none())
            .cloned()
            .collect();
        open.sort_by(|a, b| (a.taken, &a.command.id).cmp(&(b.taken, &b.command.id)));
        open
    }

    /// Judges a command that came. With [`Admission::Execute`] it counts as taken; if its changes
    /// cannot be written, they must be written before anything else is done.
    pub fn admit(
        &mut self,
        name: &str,
        command: Command,
        message_expiry: Option<Duration>,
        now: UtcMicros,
    ) -> Admission {
        if let Some(known) = self.entries.get(&command.id) {
            return match &known.result {
                Some(result) => Admission::Repeated(Box::new(result.clone())),
                None => Admission::UnderWay,
            };
        }
        let expires = command.expires(now, message_expiry);
        if expires <= now {
            return Admission::Expired;
        }
        let mut changes = self.forget_old(now);
        let id = command.id.clone();
        let entry = Entry {
            name: name.to_owned(),
            command,
            expires,
            taken: now,
            result: None,
        };
        changes.push(Change::put(Shelf::Commands, key(&id), &entry));
        self.entries.insert(id, entry);
        Admission::Execute(changes)
    }

    /// Notes an answer; what to write together with the command's effects.
    pub fn answer(&mut self, result: CommandResult) -> Vec<Change> {
        let mut changes = Vec::new();
        if let Some(entry) = self.entries.get_mut(&result.id) {
            entry.result = Some(result.clone());
            changes.push(Change::put(Shelf::Commands, key(&result.id), entry));
        }
        changes.push(Change::Record(RecordBody::CommandResult(Box::new(result))));
        changes
    }

    /// What is answered and too old, or too much.
    fn forget_old(&mut self, now: UtcMicros) -> Vec<Change> {
        let before = now.0 - REMEMBERED.as_micros() as i64;
        let answered = self.entries.iter().filter(|(_, e)| e.result.is_some());
        let mut by_age: Vec<(UtcMicros, String)> =
            answered.map(|(id, e)| (e.taken, id.clone())).collect();
        by_age.sort_unstable();
        let too_many = (self.entries.len() + 1).saturating_sub(MOST_ENTRIES);
        let forgotten = by_age
            .into_iter()
            .enumerate()
            .filter(|(i, (taken, _))| *i < too_many || taken.0 < before);
        let ids: Vec<String> = forgotten.map(|(_, (_, id))| id).collect();
        for id in &ids {
            self.entries.remove(id);
        }
        let delete = |id: String| Change::Delete {
            shelf: Shelf::Commands,
            key: key(&id),
        };
        ids.into_iter().map(delete).collect()
    }

    /// Panics if the state contradicts itself; for tests.
    pub fn check_invariants(&self) {
        let unanswered = self.unanswered().len();
        assert!(self.entries.len() <= MOST_ENTRIES.max(unanswered + 1));
        for (id, entry) in &self.entries {
            assert_eq!(*id, entry.command.id);
            assert!(entry.result.as_ref().is_none_or(|r| r.id == *id));
        }
    }
}

fn key(id: &str) -> String {
    format!("{KEY}{id}")
}

/// How fast commands may come: so many at once, and then so many a second.
#[derive(Clone, Debug)]
pub struct Flood {
    left: f64,
    at: MonoMicros,
}

impl Flood {
    /// At once.
    pub const BURST: f64 = 120.0;
    /// After that.
    pub const PER_SECOND: f64 = 2.0;

    /// Nothing came yet.
    pub fn new(now: MonoMicros) -> Self {
        Self {
            left: Self::BURST,
            at: now,
        }
    }

    /// Whether one more may be looked at.
    pub fn admits(&mut self, now: MonoMicros) -> bool {
        let gained = now.since(self.at).as_secs_f64() * Self::PER_SECOND;
        self.at = now.max(self.at);
        self.left = (self.left + gained).min(Self::BURST);
        let admits = self.left >= 1.0;
        if admits {
            self.left -= 1.0;
        }
        admits
    }

    /// Whether half as many may come at once again.
    pub fn is_calm(&self, now: MonoMicros) -> bool {
        let gained = now.since(self.at).as_secs_f64() * Self::PER_SECOND;
        self.left + gained >= Self::BURST / 2.0
    }
}

#[cfg(test)]
mod tests;
