//! Takes the centre's commands in: judged by the journal, written down, acknowledged, done (`desk`),
//! answered. One tokio task.
//!
//! # Security
//! Whoever may publish on the site's `command/…` topics may command it: the broker's access list must
//! keep that to the centre. A command can do what `desk` lists and nothing else; it names no file, no
//! program and no address. Sizes, rates and numbers are bounded (`uplink::commands`), and what goes
//! beyond is counted.
//!
//! # Failure
//! A store that cannot be written holds commands back, unacknowledged: the broker keeps them. A power
//! cut between a command and its answer makes it be executed after the restart.
use std::collections::HashMap;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::desk::{Desk, Outcome, Then, outdated};
use super::health::Problems;
use super::notice::notice;
use crate::base::backoff::Backoff;
use crate::base::heartbeat::Heartbeat;
use crate::base::metrics::Metric;
use crate::base::words;
use crate::uplink::{
    Admission, Answer, Change, Command, CommandResult, DesiredConfig, Entry, Flood, InboxEvent,
    Incoming, Journal, MOST_BYTES, MOST_CONFIG_BYTES, RecordBody, Task, WhatFor,
};

/// The task promises to beat at least this often.
pub const BEAT: Duration = Duration::from_secs(60);
/// How often mutes are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often old verdicts and orders are looked for.
const TIDY_EVERY: Duration = Duration::from_secs(24 * 3600);
/// Commands that take their time, at once.
const SLOW: usize = 8;
/// Waits between attempts at a commit that the disk refused.
const COMMIT_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Names of problems in the site's status.
const STORE_PROBLEM: &str = "commands";
const BROKER_PROBLEM: &str = "inbox";
const FLOOD_PROBLEM: &str = "flood";

type Slow = FuturesUnordered<BoxFuture<'static, (Entry, Outcome)>>;
type ReplyTo = (String, Option<bytes::Bytes>);

/// Everything the task owns.
#[derive(Debug)]
pub struct Commander {
    /// What commands work on.
    pub desk: Desk,
    /// What is known of earlier commands.
    pub journal: Journal,
    /// From the broker.
    pub events: mpsc::Receiver<InboxEvent>,
    /// To it.
    pub answers: mpsc::Sender<Answer>,
    /// What the site's status should say is wrong.
    pub problems: Problems,
    /// See [`BEAT`].
    pub heartbeat: Heartbeat,
    /// Told to stop.
    pub stop: CancellationToken,
}

impl Commander {
    /// Runs until told to stop. What is under way then is done again after the restart.
    pub async fn run(self) {
        let stop = self.stop.clone();
        let mut session = Session {
            flood: Flood::new(self.desk.clock.mono()),
            slow: Slow::new(),
            reply_to: HashMap::new(),
            commander: self,
        };
        tokio::select! {
            () = session.run() => {}
            () = stop.cancelled() => {}
        }
    }
}

struct Session {
    commander: Commander,
    flood: Flood,
    slow: Slow,
    /// By command id.
    reply_to: HashMap<String, ReplyTo>,
}

impl Session {
    async fn run(&mut self) {
        for entry in self.commander.journal.unanswered() {
            tracing::info!(
                command = entry.name,
                id = entry.command.id,
                "done after a restart"
            );
            self.begin(entry).await;
        }
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tidy = tokio::time::interval(TIDY_EVERY);
        loop {
            tokio::select! {
                event = self.commander.events.recv() => match event {
                    Some(InboxEvent::Message(incoming)) => self.take(incoming).await,
                    Some(InboxEvent::Subscribed(allowed)) => self.allowed(allowed),
                    None => return,
                },
                Some((entry, outcome)) = self.slow.next() => self.finish(&entry, outcome).await,
                _ = tick.tick() => {
                    self.commander.heartbeat.beat();
                    self.end_mutes().await;
                    if self.flood.is_calm(self.commander.desk.clock.mono()) {
                        self.commander.problems.clear(FLOOD_PROBLEM);
                    }
                }
                _ = tidy.tick() => self.tidy().await,
            }
        }
    }

    fn allowed(&self, allowed: bool) {
        let problems = &self.commander.problems;
        if allowed {
            problems.clear(BROKER_PROBLEM);
        } else {
            problems.set(BROKER_PROBLEM, words::problem::commands_not_subscribed());
        }
    }

    fn count(&self, metric: Metric, labels: &[(&'static str, &str)]) {
        self.commander.desk.metrics.counter(metric, labels).add(1);
    }

    async fn take(&mut self, incoming: Incoming) {
        if !self.flood.admits(self.commander.desk.clock.mono()) {
            self.count(Metric::CommandsDropped, &[("reason", "rate")]);
            let problems = &self.commander.problems;
            problems.set(FLOOD_PROBLEM, words::problem::command_flood());
            acknowledge(incoming);
            return;
        }
        match incoming.what.clone() {
            WhatFor::Config => self.config(incoming).await,
            WhatFor::Command(name) => self.command(name.as_str(), incoming).await,
        }
    }

    /// What the centre wants of the config, from the retained topic.
    async fn config(&mut self, incoming: Incoming) {
        // A message that takes back what was retained says nothing.
        if incoming.payload.is_empty() {
            acknowledge(incoming);
            return;
        }
        match DesiredConfig::read(&incoming.payload) {
            Ok(config) => {
                let outcome = self.commander.desk.retained(&config).await;
                tracing::info!(
                    revision = config.revision,
                    outcome = outcome.ended.as_str(),
                    text = outcome.text.en,
                    "config of the centre"
                );
            }
            Err(reason) => {
                self.count(Metric::CommandsDropped, &[("reason", "unreadable")]);
                tracing::warn!(reason, "config of the centre is unreadable");
                let at = self.commander.desk.clock.utc();
                let text = words::notice::config_unreadable(&reason);
                let data = Value::Null;
                self.commit(vec![notice("config.rejected", at, text, &data)])
                    .await;
            }
        }
        acknowledge(incoming);
    }

    async fn command(&mut self, name: &str, mut incoming: Incoming) {
        let most = if name == "config.desired" {
            MOST_CONFIG_BYTES
        } else {
            MOST_BYTES
        };
        let reply_to = incoming.reply_to.take();
        let command = match Command::read(&incoming.payload, most) {
            Ok(command) => command,
            Err(e) => {
                self.count(Metric::CommandsDropped, &[("reason", "unreadable")]);
                tracing::warn!(command = name, err = %e, "command is unreadable");
                if let Some(id) = &e.id {
                    let outcome = Outcome::refused(words::command::not_as_asked(&e.reason));
                    self.answer_aside(name, id, "refused", outcome, reply_to)
                        .await;
                }
                acknowledge(incoming);
                return;
            }
        };
        let id = command.id.clone();
        if !self.commander.journal.knows(&id)
            && let Err(reason) = Task::read(name, &command.args)
        {
            let outcome = Outcome::refused(words::command::not_as_asked(reason));
            self.answer_aside(name, &id, "refused", outcome, reply_to)
                .await;
            acknowledge(incoming);
            return;
        }
        let now = self.commander.desk.clock.utc();
        match self
            .commander
            .journal
            .admit(name, command, incoming.expiry, now)
        {
            Admission::Execute(changes) => {
                self.commit(changes).await;
                acknowledge(incoming);
                if let Some(reply_to) = reply_to {
                    self.reply_to.insert(id.clone(), reply_to);
                }
                if let Some(entry) = self.commander.journal.entry(&id) {
                    self.begin(entry).await;
                }
            }
            Admission::Repeated(result) => {
                self.count(Metric::CommandsRepeated, &[]);
                // Whatever is retained comes with every connection; its answer was sent long ago.
                if !incoming.retained {
                    self.reply(&result, reply_to);
                    let record = RecordBody::CommandResult(result);
                    self.commit(vec![Change::Record(record)]).await;
                }
                acknowledge(incoming);
            }
            Admission::UnderWay => {
                self.count(Metric::CommandsRepeated, &[]);
                acknowledge(incoming);
            }
            Admission::Expired => {
                let text = words::command::too_late(now);
                let outcome = Outcome::refused(text);
                self.answer_aside(name, &id, "expired", outcome, reply_to)
                    .await;
                acknowledge(incoming);
            }
        }
    }

    /// Answers what was not taken.
    async fn answer_aside(
        &mut self,
        name: &str,
        id: &str,
        word: &'static str,
        outcome: Outcome,
        reply_to: Option<ReplyTo>,
    ) {
        let result = self.result(name, id, word, &outcome);
        self.reply(&result, reply_to);
        let record = RecordBody::CommandResult(Box::new(result));
        self.commit(vec![Change::Record(record)]).await;
    }

    fn result(&self, name: &str, id: &str, word: &'static str, outcome: &Outcome) -> CommandResult {
        let known = Task::NAMES.contains(&name);
        // Any name may come: metrics must not grow with them.
        let label = if known { name } else { "unknown" };
        self.count(
            Metric::CommandsAnswered,
            &[("command", label), ("outcome", word)],
        );
        tracing::info!(
            command = name,
            id,
            outcome = word,
            text = outcome.text.en,
            "command answered"
        );
        CommandResult {
            id: id.to_owned(),
            command: name.to_owned(),
            outcome: word.to_owned(),
            text: outcome.text.en.clone(),
            at: self.commander.desk.clock.utc(),
            data: outcome.data.clone(),
            text_zh: outcome.text.zh.clone(),
        }
    }

    async fn begin(&mut self, entry: Entry) {
        let task = match Task::read(&entry.name, &entry.command.args) {
            Ok(task) => task,
            // Taken by another version.
            Err(reason) => {
                let text = words::command::not_as_asked(reason);
                return self.finish(&entry, Outcome::refused(text)).await;
            }
        };
        if entry.expires <= self.commander.desk.clock.utc() {
            let outcome = Outcome::refused(words::command::expired_before());
            return self.finish_as(&entry, "expired", outcome).await;
        }
        let desk = self.commander.desk.clone();
        if !Desk::is_slow(&task) {
            let outcome = desk.execute(&entry.command, &task).await;
            return self.finish(&entry, outcome).await;
        }
        if self.slow.len() >= SLOW {
            let text = words::command::too_many(SLOW);
            return self.finish(&entry, Outcome::failed(text)).await;
        }
        self.slow.push(Box::pin(async move {
            let outcome = desk.execute(&entry.command, &task).await;
            (entry, outcome)
        }));
    }

    async fn finish(&mut self, entry: &Entry, outcome: Outcome) {
        let word = outcome.ended.as_str();
        self.finish_as(entry, word, outcome).await;
    }

    async fn finish_as(&mut self, entry: &Entry, word: &'static str, outcome: Outcome) {
        let id = &entry.command.id;
        let result = self.result(&entry.name, id, word, &outcome);
        let reply_to = self.reply_to.remove(id);
        let mut changes = outcome.changes;
        changes.extend(self.commander.journal.answer(result.clone()));
        self.commit(changes).await;
        match outcome.then {
            Then::Nothing => {}
            Then::Mute(mute) => self.commander.desk.mutes.add(*mute),
            Then::Unmute(ended) => self.commander.desk.mutes.remove(&ended),
        }
        self.reply(&result, reply_to);
    }

    /// To where the command asked for it, beside the record; not kept if the line is busy.
    fn reply(&self, result: &CommandResult, to: Option<ReplyTo>) {
        let Some((topic, correlation)) = to else {
            return;
        };
        let payload = serde_json::to_vec(result).unwrap_or_default();
        let answer = Answer {
            topic,
            correlation,
            payload,
        };
        if self.commander.answers.try_send(answer).is_err() {
            self.count(Metric::CommandsDropped, &[("reason", "reply")]);
        }
    }

    async fn end_mutes(&mut self) {
        let now = self.commander.desk.clock.utc();
        let over = self.commander.desk.mutes.over(now);
        if over.is_empty() {
            return;
        }
        let mut changes = Vec::new();
        for mute in &over {
            changes.push(mute.forgotten());
            let text = words::notice::mute_over(mute.about());
            let data = serde_json::json!({"event": "ended", "mute": mute});
            changes.push(notice("mute", now, text, &data));
        }
        self.commit(changes).await;
        self.commander.desk.mutes.remove(&over);
    }

    async fn tidy(&mut self) {
        let desk = &self.commander.desk;
        let shelf = desk.store.read_shelf(crate::uplink::Shelf::Commands).await;
        let old = outdated(&shelf.unwrap_or_default(), desk.clock.utc());
        if !old.is_empty() {
            self.commit(old).await;
        }
    }

    /// Makes `changes` durable, however long the disk takes.
    async fn commit(&mut self, changes: Vec<Change>) {
        let Commander {
            desk,
            problems,
            heartbeat,
            ..
        } = &self.commander;
        let mut backoff = Backoff::new(COMMIT_AGAIN.0, COMMIT_AGAIN.1);
        loop {
            let Err(e) = desk.store.commit_soon(changes.clone()).await else {
                problems.clear(STORE_PROBLEM);
                return;
            };
            if !e.is_temporary() {
                tracing::error!(err = %e.chain(), "command not stored");
                return;
            }
            problems.set(STORE_PROBLEM, words::problem::commands_wait(e.chain()));
            desk.metrics.counter(Metric::StoreFailures, &[]).add(1);
            heartbeat.beat();
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }
}

/// The broker may forget it.
fn acknowledge(incoming: Incoming) {
    // Its connection may be over: then it comes again.
    let _gone = incoming.taken.send(()).is_err();
}
