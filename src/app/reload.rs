//! Hot reload: another config for a running site; only what changed begins anew.
//!
//! # Operation
//! 1. **Prepare**, while the site runs on: read and check the config, refuse what only a restart can
//!    change, load and try new models, open what needs opening. Whatever fails here leaves the running
//!    site as it is; all reasons are told at once.
//! 2. **Apply**: end the cameras that are gone or changed; with other models let the workers finish,
//!    so that no picture is judged by two; hand rules, cameras and thresholds to the analytics thread,
//!    which takes them up between two pictures; begin workers, cameras and uplink anew where they
//!    changed. A camera that did not change is not touched: its session, its decoder and its place on
//!    the board stay.
//!
//! # Decisions
//! 1. **Site and state directory stay.** Findings, outbox and topics belong to them; so does the
//!    runtime library, which a process can load once. Such a change is refused with the advice to
//!    restart.
//! 2. **A file must be the same in two looks** before a change of it counts: an editor may be in the
//!    middle of writing. A signal counts at once, and also takes up what the config only names: model
//!    cards and password files.
//! 3. **Every outcome is told**: in the log, in `config/reported`, a refusal also in the status and as
//!    a notice.
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;

use super::analytics::{Order, Retuning};
use super::blocking::on_thread;
use super::camera_unit::{CameraUnit, limit_rings};
use super::config::{self, CameraConfig, Desired, Problem, Problems, RuleDraft, SiteConfig};
use super::desired::{self, Rejected};
use super::desk::{Taken, Wanted};
use super::evidence::Words;
use super::exit::Failure;
use super::health::first_report;
use super::notice::notice;
use super::oversight::Terms;
use super::site::{RunningSite, UplinkUnit, facts, load_models};
use super::workers::{Tools, Workers, detectors, staffing};
use crate::base::digest::sha256_hex;
use crate::base::ids::CameraId;
use crate::base::metrics::Metric;
use crate::base::time::UtcMicros;
use crate::base::words;
use crate::detect::{Detector, Models};
use crate::rules::{DeviceConfig, RuleConfig};
use crate::uplink::{
    ConfigProblem, ConfigRejection, ConfigReport, ConfigSource, DesiredConfig, MOST_PROBLEMS,
    SiteState,
};

/// How often the config file is looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Name of the problem in the site's status while a config is refused.
const PROBLEM: &str = "config";

/// What is different in another config of the same site.
#[derive(Clone, Debug, Default, PartialEq)]
struct Difference {
    /// Cameras whose capture and decoding end: gone, or to begin anew.
    ended: BTreeSet<CameraId>,
    /// Cameras whose capture and decoding begin: new or changed.
    begun: BTreeSet<CameraId>,
    /// What else.
    parts: BTreeSet<Part>,
}

/// A part of the site that is not one camera's, in the order in which it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// Rules, or what findings say of cameras.
    Rules,
    Track,
    /// The models, or how they are run.
    Models,
    /// How many workers.
    Workers,
    Evidence,
    Uplink,
    /// What makes a finding about a camera.
    Health,
}

impl Part {
    fn as_str(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Track => "track",
            Self::Models => "models",
            Self::Workers => "workers",
            Self::Evidence => "evidence",
            Self::Uplink => "uplink",
            Self::Health => "health",
        }
    }
}

impl Difference {
    /// `other_models`: the cards' content is different, whatever the config says.
    fn between(old: &SiteConfig, new: &SiteConfig, other_models: bool) -> Self {
        // Taken apart, so that no part of a config can be forgotten here.
        let SiteConfig {
            file: _,
            revision: _,
            desired: _,
            // See `unchangeable`.
            identity: _,
            state_dir: _,
            status: _,
            calendar,
            uplink,
            evidence,
            detect,
            track,
            health: _, // it is in each camera
            cameras,
            rules,
        } = new;
        let streams = |cameras: &[CameraConfig]| -> Vec<CameraConfig> {
            let stream = |c: &CameraConfig| CameraConfig {
                gb28181: None,
                device: DeviceConfig::default(),
                ..c.clone()
            };
            cameras.iter().map(stream).collect()
        };
        let (before, after) = (streams(&old.cameras), streams(cameras));
        let not_in = |these: &[CameraConfig], those: &[CameraConfig]| {
            let changed = these.iter().filter(|c| !those.contains(c));
            changed.map(|c| c.id.clone()).collect()
        };
        let ids = |cameras: &[CameraConfig]| -> Vec<_> {
            let id = |c: &CameraConfig| (c.id.clone(), c.gb28181.clone());
            cameras.iter().map(id).collect()
        };
        let models = other_models
            || old.detect.models != detect.models
            || old.detect.region_limits() != detect.region_limits();
        let parts = [
            // Rules name cameras by their place in the list.
            (
                Part::Rules,
                meanings(&old.rules) != meanings(rules)
                    || old.calendar != *calendar
                    || ids(&old.cameras) != ids(cameras),
            ),
            (Part::Track, old.track != *track),
            (Part::Models, models),
            // Other models bring workers of their own.
            (
                Part::Workers,
                !models && old.detect.workers != detect.workers,
            ),
            (Part::Evidence, old.evidence != *evidence),
            (Part::Uplink, old.uplink != *uplink),
            (Part::Health, other_devices(&old.cameras, cameras)),
        ];
        let changed = parts.into_iter().filter(|(_, changed)| *changed);
        Self {
            ended: not_in(&before, &after),
            begun: not_in(&after, &before),
            parts: changed.map(|(part, _)| part).collect(),
        }
    }

    fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    /// For `config/reported`.
    fn restarted(&self) -> Vec<String> {
        let cameras = self.ended.union(&self.begun);
        let cameras = cameras.map(|c| format!("camera {c}"));
        let parts = self.parts.iter().map(|p| p.as_str().to_owned());
        cameras.chain(parts).collect()
    }
}

/// Whether something else makes a finding about a camera that was there before.
fn other_devices(before: &[CameraConfig], after: &[CameraConfig]) -> bool {
    let known = |c: &CameraConfig| before.iter().find(|b| b.id == c.id);
    let changed = |c: &CameraConfig| known(c).is_some_and(|b| b.device != c.device);
    after.iter().any(changed)
}

/// Rules without the places they stand at: a comment above them is no change.
fn meanings(rules: &[RuleDraft]) -> Vec<(&RuleConfig, Option<f32>, Vec<&str>)> {
    let meanings = rules.iter().map(|rule| {
        let RuleDraft {
            config,
            labels,
            threshold,
            // It is the cameras' then.
            late_decode: _,
        } = rule;
        let labels = labels.iter().map(|l| l.value.as_str()).collect();
        (config, *threshold, labels)
    });
    meanings.collect()
}

fn problem(file: &Path, key: &str, message: impl Into<String>, remedy: &str) -> Problem {
    Problem {
        file: file.display().to_string(),
        line: 0,
        column: 0,
        key: key.to_owned(),
        message: message.into(),
        remedy: remedy.to_owned(),
    }
}

/// What a running site cannot take up.
fn unchangeable(old: &SiteConfig, new: &SiteConfig) -> Vec<Problem> {
    let (was, is) = (&old.identity, &new.identity);
    let changes = [
        (was.region != is.region, "site.region"),
        (was.site != is.site, "site.id"),
        (was.uscc != is.uscc, "site.uscc"),
        (old.state_dir != new.state_dir, "site.state_dir"),
        (
            old.detect.onnxruntime != new.detect.onnxruntime,
            "detect.onnxruntime",
        ),
        (
            old.detect.provider != new.detect.provider,
            "detect.provider",
        ),
        (old.status.listen != new.status.listen, "status.listen"),
        (old.status.token != new.status.token, "status.token_file"),
    ];
    let changed = changes.iter().filter(|(changed, _)| *changed);
    changed
        .map(|(_, key)| {
            let remedy =
                "restart the daemon for it (systemctl restart mingchu), or put back what was there";
            problem(&new.file, key, "cannot change while the site runs", remedy)
        })
        .collect()
}

/// Digest of the model cards' texts; a card holds the digest of its network. Blocking.
pub(super) fn cards_digest(cards: &[PathBuf]) -> String {
    let text = |path: &PathBuf| std::fs::read(path).unwrap_or_default();
    let digests: Vec<String> = cards.iter().map(|c| sha256_hex(&text(c))).collect();
    sha256_hex(digests.concat().as_bytes())
}

/// All that a new config needs and that can fail.
struct Prepared {
    config: SiteConfig,
    difference: Difference,
    models: Models,
    cards: String,
    /// For other workers; none if those at work stay.
    detectors: Vec<Detector>,
}

/// What the site runs by now, for the thread that prepares another.
struct Current {
    config: SiteConfig,
    models: Models,
    cards: String,
    workers: usize,
}

/// Step 1 of the module docs. Blocking, for seconds if models are loaded.
fn prepare(current: &Current, config: SiteConfig) -> Result<Prepared, Problems> {
    let file = config.file.clone();
    let mut problems = unchangeable(&current.config, &config);
    if let Err(e) = crate::uplink::check(&config.uplink) {
        problems.push(problem(&file, "uplink", e.chain(), ""));
    }
    let cards = cards_digest(&config.detect.models);
    let difference = Difference::between(&current.config, &config, cards != current.cards);
    let models = if difference.has(Part::Models) {
        match load_models(&config) {
            Ok(models) => Some(models),
            Err(e) => {
                problems.push(problem(&file, "detect.models", e.to_string(), ""));
                None
            }
        }
    } else {
        Some(current.models.clone())
    };
    if let Some(models) = &models {
        let labels: Vec<_> = config.rules.iter().flat_map(|r| r.labels.clone()).collect();
        problems.extend(config::check_labels(&file, &labels, models));
    }
    let (Some(models), true) = (models, problems.is_empty()) else {
        problems.sort_by_key(|p| (p.line, p.column));
        return Err(Problems(problems));
    };
    let one = |key: &str, e: String| Problems(vec![problem(&file, key, e, "")]);
    let detectors = if difference.has(Part::Models) || difference.has(Part::Workers) {
        detectors(&models, staffing(&config).first(current.workers))
            .map_err(|e| one("detect", e.to_string()))?
    } else {
        Vec::new()
    };
    Ok(Prepared {
        config,
        difference,
        models,
        cards,
        detectors,
    })
}

/// Why a reload did not come to pass.
#[derive(Debug)]
pub enum ReloadError {
    /// The config is refused; the one before stays in force, whole.
    Refused(Problems),
    /// The system gave out in the middle of it: the site must be started again.
    Broken(Failure),
}

impl From<Failure> for ReloadError {
    fn from(failure: Failure) -> Self {
        Self::Broken(failure)
    }
}

impl RunningSite {
    /// Reads the config file again and takes it up, with the centre's over it. What became of it is
    /// told already; the result is for whoever asked.
    ///
    /// # Errors
    /// Another config is refused, or half of it is in force and the site has to end: `ReloadError`.
    pub async fn reload(&mut self, watch: &mut FileWatch) -> Result<Vec<String>, ReloadError> {
        let path = self.config.file.clone();
        let read = on_thread("config", move || desired::load(&path));
        let (digest, loaded) = read.await.map_err(internal)?;
        watch.digest = digest;
        let config = match loaded {
            Ok(config) => config,
            Err(rejected) => {
                self.refuse(&rejected, ConfigSource::File).await;
                return Err(ReloadError::Refused(rejected.problems));
            }
        };
        let revision = config.revision.clone();
        let outcome = self.change_to(config).await;
        match &outcome {
            Ok(restarted) => self.accept(restarted),
            Err(ReloadError::Refused(problems)) => {
                let problems = problems.clone();
                let rejected = Rejected { revision, problems };
                self.refuse(&rejected, ConfigSource::File).await;
            }
            Err(ReloadError::Broken(_)) => {}
        }
        outcome
    }

    /// Takes up what the centre wants, if it is new and good, and answers.
    ///
    /// # Errors
    /// The system gave out in the middle of it.
    pub async fn take(&mut self, wanted: Wanted) -> Result<(), Failure> {
        let DesiredConfig { revision, toml } = wanted.config;
        let text = toml;
        tracing::info!(revision, by = wanted.by, "the centre wants another config");
        let taken = self.take_desired(Desired { revision, text }).await?;
        // Whoever asked may have given up.
        let _gone = wanted.reply.send(taken).is_err();
        Ok(())
    }

    async fn take_desired(&mut self, wanted: Desired) -> Result<Taken, Failure> {
        match &self.desired {
            // It was taken up before its answer was written down.
            Some(known) if *known == wanted => return Ok(Taken::Applied(Vec::new())),
            Some(known) if known.revision >= wanted.revision => {
                return Ok(Taken::NotNewer(known.revision));
            }
            _ => {}
        }
        // The broker keeps a retained one and gives it to us again and again.
        if let Some((refused, problems)) = &self.refused
            && *refused == wanted
        {
            return Ok(Taken::Refused(problems.0.clone()));
        }
        let (path, dir, over) = (
            self.config.file.clone(),
            self.config.state_dir.clone(),
            wanted.clone(),
        );
        let prepared = on_thread("config", move || {
            let text = config::read_file(&path);
            let none = |problems| Rejected {
                revision: String::new(),
                problems,
            };
            let config = text
                .map_err(none)
                .and_then(|own| desired::load_over(&path, &own, &over))?;
            Ok((config, desired::write(&dir, &over)))
        });
        let outcome = match prepared.await.map_err(broken)? {
            Ok((config, Ok(written))) => {
                let revision = config.revision.clone();
                match self.change_to(config).await {
                    Ok(restarted) => Ok((restarted, written)),
                    Err(ReloadError::Refused(problems)) => Err(Rejected { revision, problems }),
                    Err(ReloadError::Broken(failure)) => return Err(failure),
                }
            }
            Ok((_, Err(e))) => return Ok(Taken::Failed(format!("it cannot be kept: {e}"))),
            Err(rejected) => Err(rejected),
        };
        match outcome {
            Ok((restarted, written)) => {
                let settled = on_thread("config", move || written.settle());
                if let Err(e) = settled.await.map_err(broken)? {
                    tracing::error!(err = %e, "the centre's config is in force, but not kept: a restart loses it");
                }
                self.desired = Some(wanted);
                self.accept(&restarted);
                Ok(Taken::Applied(restarted))
            }
            Err(rejected) => {
                self.refuse(&rejected, ConfigSource::Desired).await;
                self.refused = Some((wanted, rejected.problems.clone()));
                Ok(Taken::Refused(rejected.problems.0))
            }
        }
    }

    async fn change_to(&mut self, config: SiteConfig) -> Result<Vec<String>, ReloadError> {
        let current = Current {
            config: self.config.clone(),
            models: self.models.clone(),
            cards: self.cards.clone(),
            workers: self.workers.as_ref().map_or(0, Workers::count),
        };
        let place = config.desired;
        let prepared = on_thread("prepare", move || prepare(&current, config));
        let prepared = prepared.await.map_err(internal)?.map_err(|e| {
            let located = e.0.into_iter();
            let located = located.map(|p| match place {
                Some(place) => place.locate(p),
                None => p,
            });
            ReloadError::Refused(Problems(located.collect()))
        })?;
        self.apply(prepared).await
    }

    /// Step 2 of the module docs.
    async fn apply(&mut self, prepared: Prepared) -> Result<Vec<String>, ReloadError> {
        let Prepared {
            config,
            difference,
            models,
            cards,
            detectors,
        } = prepared;
        let file = config.file.clone();
        let known = self.slots.len();
        let facts = facts(&config, &self.slots, &models);
        // Those that got a slot before the last was given have one on the board too.
        for name in &self.slots.names()[known..] {
            let labels = [("camera", name.as_str())];
            let replaced = self.metrics.counter(Metric::FramesReplaced, &labels);
            self.wiring.board.add_slot(replaced);
        }
        let facts = facts.map_err(|e| {
            let remedy = "restart the daemon: slots are counted from its start";
            ReloadError::Refused(Problems(vec![problem(
                &file,
                "camera",
                e.to_string(),
                remedy,
            )]))
        })?;
        let ended: Vec<_> = difference
            .ended
            .iter()
            .filter_map(|id| self.cameras.remove(id))
            .collect();
        for camera in &ended {
            camera.tell_to_stop();
        }
        for camera in ended {
            camera.ended().await;
        }
        let gone = difference.ended.difference(&difference.begun);
        for slot in gone.filter_map(|id| self.slots.slot(id).ok()) {
            self.wiring.rings.end(slot, self.wiring.clock.mono());
        }
        self.report_cameras(&config, &difference);
        if !detectors.is_empty()
            && let Some(workers) = self.workers.take()
        {
            workers.end().await;
        }
        let facts = Arc::new(facts);
        let retuning = Retuning {
            facts: facts.clone(),
            track: config.track.clone(),
            other_models: difference.has(Part::Models),
            evidence: config.evidence.clone(),
            words: Words::new(&models, config.revision.clone()),
            terms: Terms::of(&config, &self.slots).map_err(internal)?,
        };
        self.retune(retuning).await;
        if difference.has(Part::Evidence) {
            limit_rings(&self.wiring, &config.evidence);
        }
        self.facts.send_replace(facts);
        if !detectors.is_empty() {
            let tools = Tools {
                wiring: self.wiring.clone(),
                slots: self.slots.clone(),
                models: models.clone(),
                analysed: self.analysed.clone(),
            };
            self.workers = Some(Workers::start(tools, staffing(&config), detectors)?);
        }
        let begun = config
            .cameras
            .iter()
            .filter(|c| difference.begun.contains(&c.id));
        for camera in begun {
            let slot = self.slots.slot(&camera.id).map_err(internal)?;
            let unit = CameraUnit::start(&self.wiring, slot, camera)?;
            self.cameras.insert(camera.id.clone(), unit);
        }
        if difference.has(Part::Uplink) {
            self.uplink.end().await;
            let uplink = config.uplink.clone();
            self.uplink = UplinkUnit::start(
                uplink,
                &config,
                &self.wiring,
                &self.store,
                &self.outbox,
                &self.mail,
            );
        }
        self.footage.change(&models);
        (self.config, self.models, self.cards) = (config, models, cards);
        Ok(difference.restarted())
    }

    /// Waits until the analytics thread has taken it up.
    async fn retune(&self, retuning: Retuning) {
        let (done, taken) = oneshot::channel();
        let order = Order::Retune(Box::new(retuning), done);
        let orders = self.orders.clone();
        // The queue is as good as empty, but may have to wait for a disk.
        let sent = on_thread("retune", move || orders.send(order).is_ok()).await;
        if sent.is_ok_and(|sent| sent) {
            // A thread that ended meanwhile has told a fault.
            drop(taken.await);
        }
    }

    /// The reports of the site's cameras, in the order of the config.
    fn report_cameras(&self, config: &SiteConfig, difference: &Difference) {
        let now = self.wiring.clock.utc();
        self.wiring.state.send_modify(|state: &mut SiteState| {
            let known = std::mem::take(&mut state.cameras);
            let report = |c: &CameraConfig| {
                let known = known.iter().find(|r| r.camera == c.id.as_str());
                let stays = known.filter(|_| !difference.begun.contains(&c.id));
                stays.cloned().unwrap_or_else(|| first_report(&c.id, now))
            };
            state.cameras = config.cameras.iter().map(report).collect();
        });
    }

    fn accept(&mut self, restarted: &[String]) {
        let revision = self.config.revision.clone();
        tracing::info!(revision, ?restarted, "config taken up");
        self.problems.clear(PROBLEM);
        self.refused = None;
        let report = report(
            &self.config,
            self.desired.as_ref(),
            self.wiring.clock.utc(),
            restarted.to_vec(),
        );
        self.wiring
            .state
            .send_modify(|state| state.config = Some(report));
    }

    /// Tells that a config is refused.
    pub async fn refuse(&self, rejected: &Rejected, source: ConfigSource) {
        let Rejected { revision, problems } = rejected;
        let count = problems.0.len();
        let first = problems.0.first().map(ToString::to_string);
        let first = first.unwrap_or_default();
        for problem in &problems.0 {
            tracing::error!(
                file = problem.file,
                line = problem.line,
                column = problem.column,
                key = problem.key,
                remedy = problem.remedy,
                "config refused: {}",
                problem.message
            );
        }
        let line = first.lines().next().unwrap_or_default();
        let text = words::problem::config_refused(count, line);
        self.problems.set(PROBLEM, text.clone());
        let rejection = ConfigRejection {
            revision: revision.clone(),
            source,
            at: self.wiring.clock.utc(),
            problems: told(&problems.0),
        };
        let record = notice("config.rejected", rejection.at, text, &rejection);
        self.wiring.state.send_modify(|state| {
            if let Some(report) = &mut state.config {
                report.rejected = Some(rejection);
            }
        });
        if let Err(e) = self.store.commit_soon(vec![record]).await {
            // The status says it all the same.
            tracing::error!(err = %e.chain(), "refused config not told as a notice");
        }
    }
}

/// What `config/reported` says.
pub fn report(
    config: &SiteConfig,
    desired: Option<&Desired>,
    applied: UtcMicros,
    restarted: Vec<String>,
) -> ConfigReport {
    ConfigReport {
        revision: config.revision.clone(),
        source: match config.desired {
            Some(_) => ConfigSource::Desired,
            None => ConfigSource::File,
        },
        applied,
        restarted,
        desired: desired.map(|d| d.revision),
        rejected: None,
    }
}

fn broken(e: impl Into<anyhow::Error>) -> Failure {
    Failure::new(super::exit::ExitCode::Internal, e)
}

fn internal(e: impl Into<anyhow::Error>) -> ReloadError {
    ReloadError::Broken(broken(e))
}

/// Problems as the centre is told of them.
pub fn told(problems: &[Problem]) -> Vec<ConfigProblem> {
    let told = |problem: &Problem| {
        // The centre need not know where things lie on the box.
        let file = Path::new(&problem.file).file_name();
        ConfigProblem {
            file: file.map_or_else(String::new, |f| f.to_string_lossy().into_owned()),
            line: problem.line,
            column: problem.column,
            key: problem.key.clone(),
            message: problem.message.clone(),
            remedy: problem.remedy.clone(),
        }
    };
    problems.iter().take(MOST_PROBLEMS).map(told).collect()
}

/// What a file looks like from outside, cheap to ask for.
type Look = Option<(SystemTime, u64)>;

/// Looks at the config file now and then.
#[derive(Debug)]
pub struct FileWatch {
    path: PathBuf,
    /// Of what was last read, taken up or not.
    digest: String,
    settled: Look,
    last: Look,
}

impl FileWatch {
    /// What the file holds now counts as known. Blocking, for a moment.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            digest: sha256_hex(&std::fs::read(path).unwrap_or_default()),
            settled: None,
            last: None,
        }
    }

    /// Waits until the file holds something else than before. Safe to cancel.
    pub async fn changed(&mut self) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let path = self.path.clone();
            let look = on_thread("config", move || {
                let meta = std::fs::metadata(&path).ok()?;
                Some((meta.modified().ok()?, meta.len()))
            });
            let look = look.await.ok().flatten();
            if self.is_changed(look) {
                return;
            }
        }
    }

    /// Whether this look, the same as the one before, shows another content. A file that is away for a
    /// moment is being replaced.
    fn is_changed(&mut self, look: Look) -> bool {
        let stable = look.is_some() && look == self.last;
        self.last = look;
        if !stable || look == self.settled {
            return false;
        }
        let text = std::fs::read(&self.path).unwrap_or_default();
        let digest = sha256_hex(&text);
        self.settled = look;
        digest != std::mem::replace(&mut self.digest, digest.clone())
    }
}

#[cfg(test)]
mod tests;
