//! What each command does. `commands` takes them in, keeps their journal and sends the answers.
//!
//! What is done to the stores is not done here but handed back as changes, so that it is committed
//! together with the answer. The edge owns the facts: a verdict or an order is kept beside a finding
//! and changes nothing of it.
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

use super::analytics::{Facts, Order};
use super::blocking::on_thread;
use super::config::Problem;
use super::explain::{Explained, explained};
use super::mutes::{MOST as MOST_MUTES, Mute, Mutes};
use super::notice::notice;
use crate::base::ids::CameraIx;
use crate::base::metrics::{Metric, Metrics};
use crate::base::time::{SharedClock, UtcMicros};
use crate::base::words::{self, Texts};
use crate::rules::{OpenFinding, RuleState, Shortfall};
use crate::uplink::{
    Again, CameraState, Change, ClipArgs, Command, CoverageReport, DesiredConfig, DiagnoseArgs,
    FindingData, LedgerEntry, MuteArgs, MutedRef, REINSPECT_DEFAULT_SECONDS, Receipt, ReceiptArgs,
    ReceiptOrder, Receipted, RectifyArgs, ReinspectArgs, ResendArgs, Shelf, SiteState,
    SnapshotArgs, StoreError, StoreHandle, Task, UnmuteArgs, VerdictArgs,
};

/// Longest a mute may last from now.
const MOST_MUTE: Duration = Duration::from_secs(24 * 3600);
/// Verdicts and orders are kept as long as the ledger keeps closed findings.
const KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
/// How often a camera is looked at while it is inspected again.
const LOOK: Duration = Duration::from_secs(1);
/// A second counts as watched if a picture was analysed within the last so many looks.
const FRESH_LOOKS: u32 = 2;
/// How much of the time asked for must have been watched for a "not seen".
const WATCHED_SHARE: f64 = 0.8;
/// Longest wait for the line that sends records, which may be about to connect.
const RECEIPT_WAIT: Duration = Duration::from_secs(60);
/// Longest wait for the running site to take up a config.
const CONFIG_WAIT: Duration = Duration::from_secs(180);

/// Rules that are explained at most, each with a camera.
const MOST_EXPLAINED: usize = 64;

/// How a command ended, for its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was done.
    Done,
    /// It cannot be done as it was asked.
    Refused,
    /// It could be, but did not work.
    Failed,
}

impl Ended {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// What there is to do in memory once the changes are on the disk.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Then {
    /// Nothing.
    #[default]
    Nothing,
    /// A mute is in force.
    Mute(Box<Mute>),
    /// These are not any more.
    Unmute(Vec<Mute>),
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// See [`Ended`].
    pub ended: Ended,
    /// For people, one line; empty if there is nothing to add.
    pub text: Texts,
    /// For machines; its shape depends on the command.
    pub data: Value,
    /// What to commit with the answer.
    pub changes: Vec<Change>,
    /// And what to do then.
    pub then: Then,
}

impl Outcome {
    fn new(ended: Ended, text: Texts, data: Value) -> Self {
        Self {
            ended,
            text,
            data,
            changes: Vec::new(),
            then: Then::Nothing,
        }
    }

    /// It was done.
    pub fn done(data: Value) -> Self {
        Self::told(Texts::default(), data)
    }

    /// It was done, and there is something to say.
    pub fn told(text: Texts, data: Value) -> Self {
        Self::new(Ended::Done, text, data)
    }

    /// It cannot be done as it was asked.
    pub fn refused(text: Texts) -> Self {
        Self::new(Ended::Refused, text, Value::Null)
    }

    /// It did not work.
    pub fn failed(text: Texts) -> Self {
        Self::new(Ended::Failed, text, Value::Null)
    }
}

/// Pictures for the centre, without anybody's face.
pub trait Pictures: Send + Sync + std::fmt::Debug {
    /// Has a camera looked at with its next key picture, however quiet the scene is.
    fn look(&self, camera: &str);
    /// Sends a camera's newest picture; what to answer, or why there is none.
    fn snapshot(&self, camera: String) -> BoxFuture<'static, Result<Value, String>>;
    /// Sends a finding's clip; what to answer, or why there is none.
    fn clip(&self, finding: Uuid) -> BoxFuture<'static, Result<Value, NotSent>>;
}

/// Why a clip is not sent, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotSent {
    /// Asking again is of no use.
    Refused(String),
    /// It did not work this time.
    Failed(String),
}

/// A config that the centre wants, on its way to the running site.
#[derive(Debug)]
pub struct Wanted {
    /// What it is.
    pub config: DesiredConfig,
    /// Who wants it.
    pub by: String,
    /// What became of it.
    pub reply: oneshot::Sender<Taken>,
}

/// What became of a config.
#[derive(Clone, Debug, PartialEq)]
pub enum Taken {
    /// It is in force, and this began anew for it.
    Applied(Vec<String>),
    /// It is not newer than this revision.
    NotNewer(u64),
    /// It has mistakes.
    Refused(Vec<Problem>),
    /// It has none, but could not be taken up.
    Failed(String),
}

/// Everything commands work on. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Desk {
    /// Where findings, verdicts and orders are.
    pub store: StoreHandle,
    /// What the site says of itself.
    pub state: watch::Receiver<SiteState>,
    /// What was watched of the running hour so far.
    pub coverage: watch::Receiver<CoverageReport>,
    /// Cameras and rules in force.
    pub facts: watch::Receiver<Arc<Facts>>,
    /// To the analytics thread.
    pub orders: SyncSender<Order>,
    /// Mutes in force.
    pub mutes: Mutes,
    /// Who makes pictures; none: nobody can here.
    pub pictures: Option<Arc<dyn Pictures>>,
    /// To the line that sends records.
    pub receipts: mpsc::Sender<ReceiptOrder>,
    /// To the running site.
    pub wanted: mpsc::Sender<Wanted>,
    /// The site's metrics.
    pub metrics: Metrics,
    /// The site's clock.
    pub clock: SharedClock,
}

/// A verdict or an order as it is kept beside its finding.
#[derive(Debug, Serialize)]
struct Kept<'a, T> {
    command: &'a str,
    by: &'a str,
    at: String,
    #[serde(flatten)]
    args: &'a T,
}

/// What to forget of verdicts and orders: `shelf` is the whole shelf of commands.
pub fn outdated(shelf: &[(String, String)], now: UtcMicros) -> Vec<Change> {
    let before = UtcMicros(now.0 - KEPT.as_micros() as i64).to_string();
    let old = shelf.iter().filter(|(key, body)| {
        let ours = key.starts_with("verdict/") || key.starts_with("rectify/");
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        // RFC 3339 in UTC with the same digits sorts by time.
        ours && body["at"].as_str().unwrap_or_default() < before.as_str()
    });
    let delete = |(key, _): &(String, String)| Change::Delete {
        shelf: Shelf::Commands,
        key: key.clone(),
    };
    old.map(delete).collect()
}

fn store_failed(e: &StoreError) -> Outcome {
    Outcome::failed(words::command::store_failed(e.chain()))
}

impl Desk {
    /// Whether a command takes its time, and others need not wait for it.
    pub fn is_slow(task: &Task) -> bool {
        matches!(
            task,
            Task::Receipt(_)
                | Task::Reinspect(_)
                | Task::Snapshot(_)
                | Task::Clip(_)
                | Task::Diagnose(_)
        )
    }

    /// Does what a command asks, but for what its outcome hands back.
    pub async fn execute(&self, command: &Command, task: &Task) -> Outcome {
        match task {
            Task::Receipt(args) => self.receipt(args).await,
            Task::Verdict(args) => self.verdict(command, args).await,
            Task::Rectify(args) => self.rectify(command, args).await,
            Task::Reinspect(args) => self.reinspect(args).await,
            Task::Snapshot(args) => self.snapshot(args).await,
            Task::Clip(args) => self.clip(args).await,
            Task::Mute(args) => self.mute(command, args),
            Task::Unmute(args) => self.unmute(command, args),
            Task::Desired(args) => self.desired(args, &command.by).await,
            Task::Resend(args) => self.resend(args).await,
            Task::Diagnose(args) => self.diagnose(args).await,
            Task::Coverage(_) => self.coverage(),
        }
    }

    async fn finding(&self, id: Uuid) -> Result<LedgerEntry, Box<Outcome>> {
        match self.store.read_finding(id).await {
            Ok(Some(entry)) => Ok(entry),
            Ok(None) => Err(Box::new(Outcome::refused(words::command::no_such_finding(
                id,
            )))),
            Err(e) => Err(Box::new(store_failed(&e))),
        }
    }

    fn keep<T: Serialize>(&self, word: &str, finding: Uuid, command: &Command, args: &T) -> Change {
        let kept = Kept {
            command: &command.id,
            by: &command.by,
            at: self.clock.utc().to_string(),
            args,
        };
        Change::put(Shelf::Commands, format!("{word}/{finding}"), &kept)
    }

    async fn receipt(&self, args: &ReceiptArgs) -> Outcome {
        let (reply, receipted) = oneshot::channel();
        let receipt = Receipt {
            through: args.through,
            except: args.except.clone(),
        };
        let order = ReceiptOrder { receipt, reply };
        if self.receipts.try_send(order).is_err() {
            return Outcome::failed(words::command::receipts_wait());
        }
        match tokio::time::timeout(RECEIPT_WAIT, receipted).await {
            Ok(Ok(Receipted::Done { freed, again })) => Outcome::told(
                words::command::receipted(freed, again),
                json!({"freed": freed, "again": again}),
            ),
            Ok(Ok(Receipted::NeverIssued { seq, newest })) => Outcome::new(
                Ended::Refused,
                words::command::never_issued(seq, newest),
                json!({"newest": newest}),
            ),
            Ok(Ok(Receipted::ByBroker)) => Outcome::refused(words::command::freed_by_broker()),
            _ => Outcome::failed(words::command::no_line()),
        }
    }

    async fn verdict(&self, command: &Command, args: &VerdictArgs) -> Outcome {
        let entry = match self.finding(args.finding).await {
            Ok(entry) => entry,
            Err(outcome) => return *outcome,
        };
        let mut outcome = Outcome::done(about(&entry.data));
        outcome.changes = vec![self.keep("verdict", args.finding, command, args)];
        outcome
    }

    async fn rectify(&self, command: &Command, args: &RectifyArgs) -> Outcome {
        let entry = match self.finding(args.finding).await {
            Ok(entry) => entry,
            Err(outcome) => return *outcome,
        };
        let mut outcome = Outcome::done(about(&entry.data));
        outcome.changes = vec![self.keep("rectify", args.finding, command, args)];
        outcome
    }

    /// Whether the config in force has this camera, rule or code; else what to answer.
    fn known(
        &self,
        camera: Option<&str>,
        rule: Option<&str>,
        code: Option<&str>,
    ) -> Result<(), Box<Outcome>> {
        let missing = |what: Texts, name: &str, known: Vec<&str>| {
            let known = known.join(", ");
            let text = words::command::none_such(&what, name, known);
            Err(Box::new(Outcome::refused(text)))
        };
        if let Some(camera) = camera {
            let state = self.state.borrow();
            let known: Vec<&str> = state.cameras.iter().map(|c| c.camera.as_str()).collect();
            if !known.contains(&camera) {
                return missing(words::command::camera(), camera, known);
            }
        }
        let facts = self.facts.borrow();
        if let Some(rule) = rule {
            let known: Vec<&str> = facts.rules.iter().map(|r| r.id.as_str()).collect();
            if !known.contains(&rule) {
                return missing(words::command::rule(), rule, known);
            }
        }
        if let Some(code) = code {
            let mut known: Vec<&str> = facts.rules.iter().map(|r| r.code.as_str()).collect();
            known.sort_unstable();
            known.dedup();
            if !known.contains(&code) {
                return missing(words::command::rule_for_code(), code, known);
            }
        }
        Ok(())
    }

    fn mute(&self, command: &Command, args: &MuteArgs) -> Outcome {
        let words = (&args.camera, &args.rule, &args.code);
        if let Err(outcome) = self.known(words.0.as_deref(), words.1.as_deref(), words.2.as_deref())
        {
            return *outcome;
        }
        let now = self.clock.utc();
        let plus = |d: Duration| UtcMicros(now.0 + d.as_micros() as i64);
        let until = match (args.minutes, args.until) {
            (Some(minutes), _) => plus(Duration::from_secs(u64::from(minutes) * 60)),
            (None, until) => until.unwrap_or(now),
        };
        if until <= now || until > plus(MOST_MUTE) {
            return Outcome::refused(words::command::mute_until(until, now));
        }
        if self.mutes.all().len() >= MOST_MUTES {
            return Outcome::refused(words::command::mutes_full(MOST_MUTES));
        }
        let mute = Mute {
            id: command.id.clone(),
            camera: args.camera.clone(),
            rule: args.rule.clone(),
            code: args.code.clone(),
            muted: MutedRef {
                by: command.by.clone(),
                until,
                reason: args.reason.clone(),
            },
        };
        let text = words::command::muted(mute.about(), until, &command.by, &args.reason);
        let mut outcome = Outcome::told(
            text.clone(),
            json!({"mute": mute.id, "until": until.to_string()}),
        );
        let data = json!({"event": "begun", "mute": mute});
        outcome.changes = vec![mute.kept(), notice("mute", now, text, &data)];
        outcome.then = Then::Mute(Box::new(mute));
        outcome
    }

    fn unmute(&self, command: &Command, args: &UnmuteArgs) -> Outcome {
        let mut ended = self.mutes.all();
        if let Some(id) = &args.mute {
            ended.retain(|m| m.id == *id);
            if ended.is_empty() {
                return Outcome::refused(words::command::no_such_mute(id));
            }
        }
        let ids: Vec<&str> = ended.iter().map(|m| m.id.as_str()).collect();
        let mut outcome = Outcome::told(
            words::command::mutes_ended(ids.len()),
            json!({"ended": ids}),
        );
        for mute in &ended {
            outcome.changes.push(mute.forgotten());
            let text = words::command::not_muted_any_more(mute.about(), &command.by);
            let data = json!({"event": "lifted", "by": command.by, "mute": mute});
            outcome
                .changes
                .push(notice("mute", self.clock.utc(), text, &data));
        }
        outcome.then = Then::Unmute(ended);
        outcome
    }

    async fn snapshot(&self, args: &SnapshotArgs) -> Outcome {
        if let Err(outcome) = self.known(Some(&args.camera), None, None) {
            return *outcome;
        }
        match &self.pictures {
            Some(pictures) => pictured(pictures.snapshot(args.camera.clone()).await),
            None => Outcome::failed(words::command::no_pictures_here()),
        }
    }

    async fn clip(&self, args: &ClipArgs) -> Outcome {
        if let Err(outcome) = self.finding(args.finding).await {
            return *outcome;
        }
        match &self.pictures {
            Some(pictures) => match pictures.clip(args.finding).await {
                Ok(data) => Outcome::done(data),
                Err(NotSent::Refused(why)) => Outcome::refused(words::command::no_picture(why)),
                Err(NotSent::Failed(why)) => Outcome::failed(words::command::no_picture(why)),
            },
            None => Outcome::failed(words::command::no_pictures_here()),
        }
    }

    /// A config from the retained topic, where nobody says who asks.
    pub async fn retained(&self, config: &DesiredConfig) -> Outcome {
        self.desired(config, "centre").await
    }

    async fn desired(&self, config: &DesiredConfig, by: &str) -> Outcome {
        let (reply, taken) = oneshot::channel();
        let wanted = Wanted {
            config: config.clone(),
            by: by.to_owned(),
            reply,
        };
        if self.wanted.try_send(wanted).is_err() {
            return Outcome::failed(words::command::config_busy());
        }
        let Ok(Ok(taken)) = tokio::time::timeout(CONFIG_WAIT, taken).await else {
            return Outcome::failed(words::command::config_not_taken());
        };
        let revision = config.revision;
        match taken {
            Taken::Applied(restarted) => {
                Outcome::done(json!({"revision": revision, "restarted": restarted}))
            }
            Taken::NotNewer(known) => Outcome::new(
                Ended::Refused,
                words::command::config_not_newer(revision, known),
                json!({"known": known}),
            ),
            Taken::Refused(problems) => Outcome::new(
                Ended::Refused,
                words::command::config_mistakes(problems.len()),
                json!({"problems": super::reload::told(&problems)}),
            ),
            Taken::Failed(why) => Outcome::failed(words::command::config_failed(why)),
        }
    }

    async fn resend(&self, args: &ResendArgs) -> Outcome {
        let which = match args.finding {
            Some(finding) => Again::Finding(finding),
            None => Again::Range(args.from.unwrap_or(0), args.to.unwrap_or(u64::MAX)),
        };
        let resent = self.store.resend(which).await;
        match resent {
            Ok(seqs) if seqs.is_empty() => Outcome::refused(words::command::nothing_to_resend()),
            Ok(seqs) => Outcome::told(
                words::command::sent_again(seqs.len()),
                json!({"records": seqs.len(), "first": seqs.first(), "last": seqs.last()}),
            ),
            Err(e) => store_failed(&e),
        }
    }

    fn coverage(&self) -> Outcome {
        let report = self.coverage.borrow();
        Outcome::done(json!(*report))
    }

    /// Asks the analytics thread.
    async fn ask<T: Send + 'static>(
        &self,
        order: impl FnOnce(oneshot::Sender<T>) -> Order,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let (orders, order) = (self.orders.clone(), order(reply));
        on_thread("ask", move || orders.send(order).is_ok())
            .await
            .ok()?;
        answer.await.ok()
    }

    /// What each rule lacked at the newest picture of `camera`, or of all.
    async fn explain(&self, facts: &Facts, camera: Option<&str>) -> Vec<RuleState> {
        let slot = |id: &str| {
            let at = facts.cameras.iter().position(|(c, _)| c.as_str() == id);
            at.map(|i| CameraIx(i as u16))
        };
        let asked = camera.and_then(slot);
        let states = self.ask(|reply| Order::Explain(asked, reply)).await;
        states.unwrap_or_default()
    }

    async fn diagnose(&self, args: &DiagnoseArgs) -> Outcome {
        let (camera, rule) = (args.camera.as_deref(), args.rule.as_deref());
        if let Err(outcome) = self.known(camera, rule, None) {
            return *outcome;
        }
        let open = self.ask(Order::Open).await.unwrap_or_default();
        let facts = self.facts.borrow().clone();
        let states = self.explain(&facts, camera).await;
        let why: Vec<Explained> = states
            .iter()
            .filter_map(|s| {
                // A reload may have come between.
                facts.rules.get(usize::from(s.rule.0))?;
                Some(explained(s, &facts.rules, &facts.models))
            })
            .filter(|e| rule.is_none_or(|r| e.rule == r))
            .take(MOST_EXPLAINED)
            .collect();
        let state = self.state.borrow().clone();
        let ours = |name: &str| camera.is_none_or(|c| c == name);
        let open: Vec<Value> = open
            .iter()
            .map(|o| open_finding(&facts, o))
            .filter(|o| ours(o["camera"].as_str().unwrap_or_default()))
            .filter(|o| rule.is_none_or(|r| o["rule"] == r))
            .collect();
        let of_camera = |labels: &[(&'static str, String)]| {
            let label = labels.iter().find(|(k, _)| *k == "camera");
            label.is_none_or(|(_, v)| ours(v))
        };
        let samples = self.metrics.samples();
        let counters: serde_json::Map<String, Value> = samples
            .iter()
            .filter(|s| of_camera(&s.labels))
            .map(|s| (s.key(), Value::from(s.value)))
            .collect();
        let cameras: Vec<_> = state.cameras.iter().filter(|c| ours(&c.camera)).collect();
        let models = facts.models.models().iter();
        let models: Vec<Value> = models
            .map(|m| json!({"name": m.card.name, "version": m.card.version, "sha256": m.card.sha256}))
            .collect();
        let data = json!({
            "version": state.version,
            "started": state.started.to_string(),
            "time": self.clock.utc().to_string(),
            "config": state.config,
            "problems": state.problems.iter().map(|p| &p.en).collect::<Vec<_>>(),
            "problems_zh": state.problems.iter().map(|p| &p.zh).collect::<Vec<_>>(),
            "outbox": self.store.stats(),
            "cameras": cameras,
            "models": models,
            "mutes": self.mutes.all(),
            "open": open,
            "rules": why,
            "counters": counters,
        });
        Outcome::done(data)
    }

    /// Looks for a while, then says what was seen.
    async fn reinspect(&self, args: &ReinspectArgs) -> Outcome {
        let (camera, rule, code) = if let Some(finding) = args.finding {
            let data = match self.finding(finding).await {
                Ok(entry) => entry.data,
                Err(outcome) => return *outcome,
            };
            (data.camera.id, Some(data.rule.id), Some(data.code))
        } else {
            (
                args.camera.clone().unwrap_or_default(),
                None,
                args.code.clone(),
            )
        };
        if let Err(outcome) = self.known(Some(&camera), rule.as_deref(), code.as_deref()) {
            return *outcome;
        }
        let facts = self.facts.borrow().clone();
        let wanted = |o: &Value| {
            o["camera"] == camera.as_str()
                && rule.as_deref().is_none_or(|r| o["rule"] == r)
                && code.as_deref().is_none_or(|c| o["code"] == c)
        };
        let dwell_ms = facts
            .rules
            .iter()
            .filter(|r| rule.as_deref().is_none_or(|id| r.id.as_str() == id))
            .filter(|r| code.as_deref().is_none_or(|c| r.code.as_str() == c))
            .map(|r| r.dwell_ms)
            .max();
        let Some(dwell_ms) = dwell_ms else {
            return Outcome::refused(words::command::nobody_looks());
        };
        let seconds = args.seconds.unwrap_or(REINSPECT_DEFAULT_SECONDS);
        let begun = self.clock.utc();
        let watched = self.watch(&camera, seconds).await;
        let open = self.ask(Order::Open).await.unwrap_or_default();
        let seen: Vec<Value> = open
            .iter()
            .filter(|o| o.last_seen >= begun)
            .map(|o| open_finding(&facts, o))
            .filter(wanted)
            .collect();
        let states = self.explain(&facts, Some(&camera)).await;
        let looking = states.iter().filter(|s| {
            facts.rules.get(usize::from(s.rule.0)).is_some_and(|r| {
                rule.as_deref().is_none_or(|id| r.id.as_str() == id)
                    && code.as_deref().is_none_or(|c| r.code.as_str() == c)
            })
        });
        let off = |s: &RuleState| {
            let mut lacks = s.lacks.iter();
            lacks.any(|l| matches!(l, Shortfall::OffSchedule { .. }))
        };
        let awake = looking.filter(|s| !off(s)).count() > 0;
        let enough = awake
            && f64::from(watched) >= WATCHED_SHARE * f64::from(seconds)
            && u64::from(watched) * 1000 > dwell_ms;
        let state = self.camera_state(&camera);
        let (answer, text) = if !seen.is_empty() {
            ("seen", words::command::seen())
        } else if enough {
            ("not-seen", words::command::not_seen())
        } else if !awake {
            ("cannot-tell", words::command::off_hours())
        } else {
            let needed_ms = dwell_ms.max((WATCHED_SHARE * f64::from(seconds) * 1000.0) as u64);
            let text = words::command::not_watched_enough(watched, seconds, needed_ms);
            ("cannot-tell", text)
        };
        Outcome::told(
            text,
            json!({
                "answer": answer,
                "camera": camera,
                "state": state,
                "from": begun.to_string(),
                "to": self.clock.utc().to_string(),
                "watched_seconds": watched,
                "findings": seen,
            }),
        )
    }

    fn camera_state(&self, camera: &str) -> Option<CameraState> {
        let state = self.state.borrow();
        let report = state.cameras.iter().find(|c| c.camera == camera);
        report.map(|r| r.state)
    }

    /// In how many of the next `seconds` the camera was online and its pictures were analysed.
    async fn watch(&self, camera: &str, seconds: u32) -> u32 {
        let labels = [("camera", camera)];
        let analysed = self.metrics.counter(Metric::DetectFrames, &labels);
        let (mut last, mut stale, mut watched) = (analysed.value(), u32::MAX, 0);
        let mut look = tokio::time::interval(LOOK);
        // The first is at once.
        look.tick().await;
        for _ in 0..seconds {
            if let Some(pictures) = &self.pictures {
                pictures.look(camera);
            }
            look.tick().await;
            let now = analysed.value();
            stale = if now > last {
                0
            } else {
                stale.saturating_add(1)
            };
            last = now;
            let online = matches!(
                self.camera_state(camera),
                // A clock that is off does not make it blind.
                Some(CameraState::Online | CameraState::ClockSkew)
            );
            watched += u32::from(online && stale < FRESH_LOOKS);
        }
        watched
    }
}

fn pictured(answer: Result<Value, String>) -> Outcome {
    match answer {
        Ok(data) => Outcome::done(data),
        Err(why) => Outcome::failed(words::command::no_picture(why)),
    }
}

fn about(data: &FindingData) -> Value {
    json!({
        "finding": data.finding,
        "revision": data.revision,
        "code": data.code,
        "camera": data.camera.id,
    })
}

fn open_finding(facts: &Facts, open: &OpenFinding) -> Value {
    let rule = facts.rules.get(usize::from(open.rule.0));
    let camera = facts.cameras.get(open.camera.index());
    json!({
        "finding": open.finding,
        "revision": open.revision,
        "camera": camera.map(|(id, _)| id.as_str()),
        "rule": rule.map(|r| r.id.as_str()),
        "code": rule.map(|r| r.code.as_str()),
        "first_seen": open.first_seen.to_string(),
        "last_seen": open.last_seen.to_string(),
        "samples": open.samples,
    })
}
