//! Evidence as the site has it: which boxes are faces, what the payload says of each piece, and what
//! the centre is told when pieces go.
//!
//! [`EvidenceDesk`] is the analytics thread's part. Where evidence cannot be kept (a key that is
//! damaged, a disk that is full) findings go on and name what is missing.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::analytics::clock_state;
use super::blocking::on_thread;
use super::desk::NotSent;
use super::footage::can_blur;
use super::health::Problems;
use crate::base::geometry::NormRect;
use crate::base::ids::{CameraIx, CameraSlots};
use crate::base::metrics::{Metric, Metrics};
use crate::base::time::{FrameStamp, SharedClock, UtcMicros};
use crate::base::words;
use crate::capture::AccessUnit;
use crate::decode::{Frame, FrameBoard};
use crate::detect::{Analysed, ClassInfo, LoadedModel, Models};
use crate::evidence::{
    BlurError, Blurrer, Blurs, BundleWriter, ClipFile, ClipSpan, ClipState, ClockWord, DeletedBody,
    Draft, EvidenceConfig, EvidenceIndex, EvidenceSettings, FRAME, Faces, Footage, Job, Jobs,
    Keeper, Marked, ModelWord, Picture, Pictures, Redact, RedactionWord, Remux, SiteName,
    SnapshotBody, Told, folder_of, pictures,
};
use crate::rules::FindingChange;
use crate::uplink::{
    Change, EvidenceItem, EvidenceOutbox, EvidenceRef, FindingData, MissingEvidence, Notice,
    RecordBody, SiteIdentity, StoreError, StoreHandle,
};

/// Name of the problem in the site's status while evidence cannot be kept or signed.
const PROBLEM: &str = "evidence";
/// And while a finding's pictures could not be written.
const WRITE_PROBLEM: &str = "evidence pictures";
const JPEG: &str = "image/jpeg";
const MP4: &str = "video/mp4";
/// Last level of a clip's topic; pictures are 1 and 2, of a finding that reopened with revision r
/// 10 r + 1 and 10 r + 2.
pub const CLIP_N: u32 = 3;

/// Writes clips with libavformat.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClipWriter;

impl Remux for ClipWriter {
    fn remux(&self, units: &[AccessUnit], to: &std::path::Path) -> Result<(), String> {
        crate::decode::remux(units, to).map_err(|e| e.to_string())
    }
}

/// What every bundle says.
#[derive(Clone, Debug)]
pub struct Words {
    /// SHA-256 of the config's text.
    pub config_sha256: String,
    /// By class: what it is called.
    labels: Vec<String>,
    /// By class: a face or a head.
    faces: Vec<bool>,
    models: Vec<ModelWord>,
}

impl Words {
    /// For a site with these models.
    pub fn new(models: &Models, config_sha256: String) -> Self {
        let words = models.models().iter().map(word);
        Self {
            config_sha256,
            labels: models.classes().iter().map(|c| c.label.clone()).collect(),
            faces: faces(models.classes()),
            models: words.collect(),
        }
    }
}

/// A model, as entries name it.
pub(super) fn word(model: &LoadedModel) -> ModelWord {
    ModelWord {
        name: model.card.name.clone(),
        version: model.card.version.clone(),
        sha256: model.card.sha256.clone(),
    }
}

/// By class, whether it is a face or a head: by its name, or by being a state of such a thing.
pub(super) fn faces(classes: &[ClassInfo]) -> Vec<bool> {
    let named = |c: &ClassInfo| {
        let word = c.label.split('-').next();
        matches!(word, Some("face" | "head"))
    };
    let groups: Vec<u16> = classes
        .iter()
        .filter(|c| named(c))
        .map(|c| c.group)
        .collect();
    let is_face = |c: &ClassInfo| named(c) || groups.contains(&c.group);
    classes.iter().map(is_face).collect()
}

/// A picture taken because somebody asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The JPEG; faces are blurred in it if policy says so.
    pub jpeg: Vec<u8>,
    /// Its digest.
    pub sha256: String,
    /// Whether faces are blurred.
    pub redacted: bool,
    /// When the camera's picture was received.
    pub stamp: FrameStamp,
    /// What was done to it.
    pub redaction: RedactionWord,
    /// SHA-256 of the config's text.
    pub config_sha256: String,
    /// The models that looked at it.
    pub models: Vec<ModelWord>,
}

/// Why there is no snapshot, for people.
pub type NoSnapshot = String;

type Asked = HashMap<CameraIx, Vec<oneshot::Sender<Result<Snapshot, NoSnapshot>>>>;

/// Where snapshots are asked for; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Snapshots(Arc<Mutex<Asked>>);

impl Snapshots {
    /// The next picture of `camera` that the models look at: within a second while it sees, of a still scene with its
    /// next key unit, of a quiet one if the board is told. The
    /// receiver fails if the site stops; who asks sets a limit, for a blind camera never answers.
    pub fn ask(&self, camera: CameraIx) -> oneshot::Receiver<Result<Snapshot, NoSnapshot>> {
        let (tx, rx) = oneshot::channel();
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = asked.entry(camera).or_default();
        waiting.retain(|w| !w.is_closed());
        waiting.push(tx);
        rx
    }

    fn take(&self, camera: CameraIx) -> Vec<oneshot::Sender<Result<Snapshot, NoSnapshot>>> {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.remove(&camera).unwrap_or_default()
    }
}

/// What is there of a finding, and what is missing.
type Known = (Vec<EvidenceRef>, Vec<MissingEvidence>);

/// Where bundles go.
#[derive(Debug)]
struct Keeping {
    writer: BundleWriter,
    jobs: Jobs,
    index: EvidenceIndex,
}

/// The analytics thread's part of evidence.
#[derive(Debug)]
pub struct EvidenceDesk {
    settings: EvidenceSettings,
    words: Words,
    /// Why nothing can be kept, if so.
    keeping: Result<Keeping, String>,
    /// References of findings that may still change.
    refs: HashMap<Uuid, Known>,
    snapshots: Snapshots,
    outbox: EvidenceOutbox,
    problems: Problems,
    metrics: Metrics,
}

/// A bundle that was written, and what is to be done once its finding is committed.
#[derive(Debug)]
pub struct Written {
    job: Job,
    leaving: Vec<EvidenceItem>,
}

impl Written {
    /// What must be committed together with the finding.
    pub fn changes(&self) -> Vec<Change> {
        self.leaving.iter().map(EvidenceItem::change).collect()
    }
}

impl EvidenceDesk {
    /// Opens the site's evidence. What cannot be opened is a problem of the site, not its end.
    pub fn open(
        settings: EvidenceSettings,
        site: &SiteIdentity,
        words: Words,
        outbox: EvidenceOutbox,
        problems: Problems,
        metrics: &Metrics,
        clock: SharedClock,
    ) -> (Self, Option<Keeper>) {
        let name = site_name(site);
        let (keeping, keeper) = match Keeper::open(settings.clone(), name, metrics, clock) {
            Ok((keeper, jobs)) => {
                let keeping = Keeping {
                    writer: BundleWriter::new(&settings.now().dir),
                    jobs,
                    index: keeper.index(),
                };
                (Ok(keeping), Some(keeper))
            }
            Err(e) => {
                let why = e.to_string();
                problems.set(PROBLEM, words::problem::no_evidence(&why));
                tracing::error!(err = %why, "no evidence is kept");
                metrics
                    .counter(Metric::EvidenceFailures, &[("reason", "closed")])
                    .add(1);
                (Err(why), None)
            }
        };
        let desk = Self {
            settings,
            words,
            keeping,
            refs: HashMap::new(),
            snapshots: Snapshots::default(),
            outbox,
            problems,
            metrics: metrics.clone(),
        };
        (desk, keeper)
    }

    /// What there is; none where no evidence is kept.
    pub fn index(&self) -> Option<EvidenceIndex> {
        self.keeping.as_ref().ok().map(|k| k.index.clone())
    }

    /// What blurs clips that are asked for; none where no evidence is kept.
    pub fn blurrer(
        &self,
        footage: Box<dyn Footage>,
        clock: SharedClock,
    ) -> Option<(Blurrer, Blurs)> {
        let keeping = self.keeping.as_ref().ok()?;
        let (dir, jobs) = (self.settings.now().dir, keeping.jobs.clone());
        Some(Blurrer::new(&dir, jobs, footage, &self.metrics, clock))
    }

    /// What answers the centre when it asks for pictures.
    pub fn answers(
        &self,
        store: StoreHandle,
        slots: CameraSlots,
        board: Arc<FrameBoard<Frame>>,
        clock: SharedClock,
        blurs: Option<Blurs>,
    ) -> EvidenceAnswers {
        EvidenceAnswers {
            board,
            settings: self.settings.clone(),
            blurs,
            slots,
            snapshots: self.snapshots.clone(),
            kept: self.keeping.as_ref().map(Kept::of).map_err(Clone::clone),
            outbox: self.outbox.clone(),
            store,
            clock,
        }
    }

    /// Another config is in force, or other models. Folder and key stay.
    pub fn change(&mut self, config: &EvidenceConfig, words: Words) {
        self.outbox
            .let_unredacted_leave(config.redact == Redact::Off);
        self.settings.change(config);
        self.words = words;
    }

    /// What the ledger knows of findings that were open when the daemon last stopped.
    pub fn remember(&mut self, data: &FindingData) {
        // The clip's state is asked for anew each time.
        let mut known = (data.evidence.clone(), data.missing.clone());
        known.0.retain(|e| e.kind != "clip");
        if !known.0.is_empty() {
            known.1.retain(|m| m.kind != "clip");
        }
        self.refs.insert(data.finding, known);
    }

    /// What there is of a finding, for a revision of it.
    pub fn attach(&self, data: &mut FindingData) {
        let Some((evidence, missing)) = self.refs.get(&data.finding) else {
            return;
        };
        data.evidence.clone_from(evidence);
        data.missing.clone_from(missing);
        let clip = self.keeping.as_ref().ok();
        match clip.and_then(|k| k.index.clip(data.finding)) {
            Some(ClipState::Ready(clip)) => data.evidence.push(self.clip_ref(clip)),
            Some(ClipState::Missing(why)) => data.missing.push(MissingEvidence {
                kind: "clip".to_owned(),
                why,
            }),
            Some(ClipState::Pending | ClipState::Deleted) | None => {}
        }
    }

    fn clip_ref(&self, clip: ClipFile) -> EvidenceRef {
        let may_leave = !clip.sealed && self.settings.now().redact == Redact::Off;
        let (n, withheld) = match can_blur(&self.words.faces) {
            _ if may_leave => (Some(CLIP_N), None),
            Ok(()) => (Some(CLIP_N), Some(CLIP_WITHHELD.to_owned())),
            Err(why) => (
                None,
                Some(format!("faces in it cannot be blurred here: {why}")),
            ),
        };
        EvidenceRef {
            kind: "clip".to_owned(),
            media: MP4.to_owned(),
            sha256: clip.sha256,
            bytes: clip.bytes,
            redacted: clip.redacted,
            n,
            withheld,
        }
    }

    /// Forgets the references of findings that cannot change any more.
    pub fn forget_unless(&mut self, may_change: impl Fn(Uuid) -> bool) {
        self.refs.retain(|finding, _| may_change(*finding));
    }

    /// Makes and writes the pictures of a finding that opens or reopens, and enters them into `data`, that
    /// revision, which must be complete otherwise. Give back what this returns once it is committed.
    pub fn take(
        &mut self,
        analysed: &Analysed,
        change: &FindingChange,
        data: &mut FindingData,
    ) -> Option<Written> {
        let written = self.try_take(analysed, change, data);
        let written = match written {
            Ok(written) => {
                self.problems.clear(WRITE_PROBLEM);
                Some(written)
            }
            Err((reason, why)) => {
                self.metrics
                    .counter(Metric::EvidenceFailures, &[("reason", reason)])
                    .add(1);
                if reason != "closed" {
                    let text = words::problem::no_pictures(&why);
                    self.problems.set(WRITE_PROBLEM, text);
                }
                tracing::error!(finding = %data.finding, err = %why, "the finding goes on without evidence");
                let missing = |kind: &str| MissingEvidence {
                    kind: kind.to_owned(),
                    why: why.clone(),
                };
                data.missing = ["frame", "annotated", "clip"].map(missing).to_vec();
                None
            }
        };
        self.remember(data);
        written
    }

    fn try_take(
        &self,
        analysed: &Analysed,
        change: &FindingChange,
        data: &mut FindingData,
    ) -> Result<Written, (&'static str, String)> {
        let keeping = self
            .keeping
            .as_ref()
            .map_err(|why| ("closed", why.clone()))?;
        let marked: Vec<Marked> = change
            .objects
            .iter()
            .map(|o| Marked {
                rect: o.rect,
                label: format!(
                    "{} {:.2}",
                    self.words.labels[usize::from(o.class.0)],
                    o.score
                ),
                colour: usize::from(o.class.0),
            })
            .collect();
        let config = self.settings.now();
        let made = self
            .pictures(analysed, &marked, &config)
            .map_err(|why| ("encode", why))?;
        // Each time it reopens, its pictures come on topics of their own.
        let first = if change.revision <= 1 {
            1
        } else {
            10 * change.revision + 1
        };
        let references: Vec<EvidenceRef> = made
            .pictures
            .iter()
            .zip(first..)
            .map(|(p, n)| EvidenceRef {
                kind: p.kind.to_owned(),
                media: JPEG.to_owned(),
                sha256: p.sha256.clone(),
                bytes: p.jpeg.len() as u64,
                redacted: p.redacted,
                n: p.withheld.is_none().then_some(n),
                withheld: p.withheld.clone(),
            })
            .collect();
        data.missing.clear();
        data.evidence.retain(|e| e.kind != "clip");
        data.evidence.extend(references.iter().cloned());
        let draft = self.draft(change, data, &made, &config);
        let finding = serde_json::to_vec(data).map_err(|e| ("encode", e.to_string()))?;
        if let Err(e) = keeping
            .writer
            .write(&draft, &finding, &made, config.keep_above())
        {
            let kept = data.evidence.len() - references.len();
            data.evidence.truncate(kept);
            return Err(("write", e.to_string()));
        }
        for picture in &made.pictures {
            self.metrics
                .counter(Metric::EvidenceStills, &[("kind", picture.kind)])
                .add(1);
        }
        let leaving = leaving(data, &references, &draft.folder, &made, change.stamp);
        let job = Job {
            draft,
            original: made.seal_original.then(|| analysed.frame.clone()),
            clip: ClipSpan::around(
                &config,
                change.camera,
                change.first_seen,
                change.stamp.received_utc,
                change.stamp.received,
            ),
        };
        Ok(Written { job, leaving })
    }

    fn draft(
        &self,
        change: &FindingChange,
        data: &FindingData,
        made: &Pictures,
        config: &EvidenceConfig,
    ) -> Draft {
        let opened = change.stamp.received_utc;
        Draft {
            finding: data.finding,
            folder: folder_of(data.finding, change.revision, opened),
            camera: data.camera.id.clone(),
            code: data.code.clone(),
            class: data.class,
            opened: opened.to_string(),
            clock: clock_word(),
            config_sha256: self.words.config_sha256.clone(),
            models: self.words.models.clone(),
            redaction: RedactionWord {
                policy: config.redact.as_str().to_owned(),
                faces: made.faces,
            },
        }
    }

    /// Completes a bundle whose finding is committed.
    pub fn complete(&self, written: Written) {
        for item in written.leaving {
            self.outbox.add(item);
        }
        if let Ok(keeping) = &self.keeping {
            keeping.jobs.give(written.job);
        }
    }

    fn pictures(
        &self,
        analysed: &Analysed,
        marked: &[Marked],
        config: &EvidenceConfig,
    ) -> Result<Pictures, String> {
        let is_face = |class: u16| self.words.faces.get(usize::from(class)) == Some(&true);
        let rects: Vec<NormRect> = analysed
            .detections
            .items
            .iter()
            .filter(|d| is_face(d.class.0) || d.head.is_some())
            .map(|d| d.rect)
            .collect();
        let faces = if self.words.faces.contains(&true) {
            Faces::At(&rects)
        } else {
            Faces::Unknown("no model here finds faces")
        };
        pictures(
            &analysed.frame,
            marked,
            faces,
            config.redact,
            config.jpeg_quality,
        )
        .map_err(|e| e.to_string())
    }

    /// Answers those who asked for a picture of this camera.
    pub fn answer_snapshots(&self, analysed: &Analysed) {
        let asked = self.snapshots.take(analysed.detections.camera);
        if asked.is_empty() {
            return;
        }
        let config = self.settings.now();
        let made = self.pictures(analysed, &[], &config).and_then(|mut made| {
            let redaction = RedactionWord {
                policy: config.redact.as_str().to_owned(),
                faces: made.faces,
            };
            let frame = made.pictures.swap_remove(0);
            match frame.withheld {
                Some(why) => Err(why),
                None => Ok(Snapshot {
                    jpeg: frame.jpeg,
                    sha256: frame.sha256,
                    redacted: frame.redacted,
                    stamp: analysed.frame.stamp,
                    redaction,
                    config_sha256: self.words.config_sha256.clone(),
                    models: self.words.models.clone(),
                }),
            }
        });
        for asked in asked {
            // Who asked may have given up.
            let _gone = asked.send(made.clone()).is_err();
        }
    }
}

/// The pictures of a finding that may leave, as they wait to be sent.
fn leaving(
    data: &FindingData,
    references: &[EvidenceRef],
    folder: &str,
    made: &Pictures,
    stamp: FrameStamp,
) -> Vec<EvidenceItem> {
    let pictures = references.iter().zip(&made.pictures);
    let item = |(reference, picture): (&EvidenceRef, &Picture)| {
        Some(EvidenceItem {
            finding: data.finding,
            n: reference.n?,
            kind: reference.kind.clone(),
            media: reference.media.clone(),
            file: format!("{folder}/{}", picture.name),
            sha256: reference.sha256.clone(),
            bytes: reference.bytes,
            redacted: reference.redacted,
            class: data.class,
            queued_us: stamp.received_utc.0,
        })
    };
    pictures.filter_map(item).collect()
}

/// How far times of now can be trusted.
fn clock_word() -> ClockWord {
    let clock = clock_state();
    ClockWord {
        synced: clock.synced,
        source: clock.source,
    }
}

/// What there is, and who signs what comes to it.
#[derive(Clone, Debug)]
pub struct Kept {
    index: EvidenceIndex,
    jobs: Jobs,
}

impl Kept {
    fn of(keeping: &Keeping) -> Self {
        Self {
            index: keeping.index.clone(),
            jobs: keeping.jobs.clone(),
        }
    }
}

/// What the centre is answered when it asks for pictures: they are queued behind all records, and the
/// answer names the topic they will come on.
#[derive(Clone, Debug)]
pub struct EvidenceAnswers {
    /// What policy says now.
    pub settings: EvidenceSettings,
    /// Who blurs clips; `None` if nobody can.
    pub blurs: Option<Blurs>,
    /// Which camera has which name.
    pub slots: CameraSlots,
    /// Where pictures are taken.
    pub snapshots: Snapshots,
    /// Where quiet cameras are told that they are wanted.
    pub board: Arc<FrameBoard<Frame>>,
    /// What there is; else why nothing can be kept.
    pub kept: Result<Kept, String>,
    /// Where files wait to be sent.
    pub outbox: EvidenceOutbox,
    /// Where that is durable.
    pub store: StoreHandle,
    /// The site's clock.
    pub clock: SharedClock,
}

impl EvidenceAnswers {
    /// Takes and queues the next picture of `camera`.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub async fn send_snapshot(&self, camera: CameraIx) -> Result<serde_json::Value, String> {
        let asked = self.snapshots.ask(camera);
        self.board.disturb(camera);
        let snapshot = match tokio::time::timeout(SNAPSHOT_WAIT, asked).await {
            Ok(Ok(snapshot)) => snapshot?,
            Ok(Err(_)) => return Err("the site is stopping".to_owned()),
            Err(_) => {
                let wait = SNAPSHOT_WAIT.as_secs();
                return Err(format!(
                    "no picture of it was looked at within {wait} s: cannot tell what it would show"
                ));
            }
        };
        // What cannot be signed does not leave.
        let kept = self.kept.as_ref();
        let kept = kept.map_err(|why| format!("no evidence is kept here: {why}"))?;
        // Not a finding, but a name of its own all the same.
        let id = snapshot_id(&snapshot);
        let taken = snapshot.stamp.received_utc;
        let folder = folder_of(id, 1, taken);
        let item = EvidenceItem {
            finding: id,
            n: 1,
            kind: "snapshot".to_owned(),
            media: JPEG.to_owned(),
            file: format!("{folder}/{FRAME}"),
            sha256: snapshot.sha256,
            bytes: snapshot.jpeg.len() as u64,
            redacted: snapshot.redacted,
            // Somebody waits for it.
            class: 1,
            queued_us: self.clock.utc().0,
        };
        let names = self.slots.names();
        let body = SnapshotBody {
            snapshot: id,
            folder,
            camera: names
                .get(camera.index())
                .map(ToString::to_string)
                .unwrap_or_default(),
            taken: taken.to_string(),
            clock: clock_word(),
            config_sha256: snapshot.config_sha256,
            models: snapshot.models,
            redaction: snapshot.redaction,
            files: Vec::new(),
        };
        let (jobs, jpeg) = (kept.jobs.clone(), snapshot.jpeg);
        let signed = on_thread("snapshot", move || jobs.sign_snapshot(body, jpeg));
        let signed = signed.await.map_err(|e| e.to_string())?;
        signed.map_err(|e| format!("it cannot be kept and signed: {e}"))?;
        let mut answer = self.queue(item).await?;
        answer["taken"] = taken.to_string().into();
        Ok(answer)
    }

    /// Queues the clip of `finding`, or a copy of it without faces where policy wants that.
    ///
    /// # Errors
    /// Why there is none that may leave.
    pub async fn send_clip(&self, finding: Uuid) -> Result<serde_json::Value, NotSent> {
        let refused = |why: &str| NotSent::Refused(why.to_owned());
        let closed = |why: &String| NotSent::Refused(format!("no evidence is kept here: {why}"));
        let index = &self.kept.as_ref().map_err(closed)?.index;
        let may_leave = self.settings.now().redact == Redact::Off;
        let there = index.clip(finding);
        let original = match &there {
            Some(ClipState::Ready(clip)) => Some(clip.sha256.clone()),
            _ => None,
        };
        let clip = match (there, index.blurred_of(finding)) {
            (Some(ClipState::Ready(clip)), _) if may_leave && !clip.sealed => clip,
            // It may outlive what it was made from.
            (_, Some(blurred)) => blurred,
            (Some(ClipState::Ready(clip)), None) => self.blurred(finding, clip).await?,
            (Some(ClipState::Pending), _) => {
                return Err(NotSent::Failed("its end has not come yet".to_owned()));
            }
            (Some(ClipState::Missing(why)), _) => {
                return Err(NotSent::Refused(format!("there is none: {why}")));
            }
            (Some(ClipState::Deleted), _) => {
                return Err(refused("it was removed to stay within the budget"));
            }
            (None, _) => return Err(refused("there is no evidence of it any more")),
        };
        let item = EvidenceItem {
            finding,
            n: CLIP_N,
            kind: "clip".to_owned(),
            media: MP4.to_owned(),
            file: clip.path,
            sha256: clip.sha256,
            bytes: clip.bytes,
            redacted: clip.redacted,
            class: clip.class,
            queued_us: self.clock.utc().0,
        };
        let mut answer = self.queue(item).await.map_err(NotSent::Failed)?;
        if clip.redacted {
            answer["made_from"] = original.into();
        }
        Ok(answer)
    }

    /// A copy of `clip` without faces; made, if it was not yet.
    async fn blurred(&self, finding: Uuid, clip: ClipFile) -> Result<ClipFile, NotSent> {
        let nobody = || NotSent::Refused("withheld: nothing here blurs faces in clips".to_owned());
        let blurs = self.blurs.as_ref().ok_or_else(nobody)?;
        let answer = tokio::time::timeout(BLUR_WAIT, blurs.ask(finding, clip)).await;
        match answer {
            Ok(Ok(answer)) => answer.map_err(not_sent),
            Ok(Err(_)) => Err(not_sent(BlurError::GivenUp)),
            Err(_) => Err(not_sent(BlurError::OutOfTime)),
        }
    }

    async fn queue(&self, item: EvidenceItem) -> Result<serde_json::Value, String> {
        let answer = serde_json::json!({
            "topic": format!("evidence/{}/{}", item.finding, item.n),
            "media": item.media,
            "sha256": item.sha256,
            "bytes": item.bytes,
            "redacted": item.redacted,
        });
        let committed = self.store.commit_soon(vec![item.change()]).await;
        committed.map_err(|e| e.chain())?;
        self.outbox.add(item);
        Ok(answer)
    }
}

/// A value, since whoever calls this has no more use for it.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn not_sent(e: BlurError) -> NotSent {
    if e.is_final() {
        NotSent::Refused(e.to_string())
    } else {
        NotSent::Failed(e.to_string())
    }
}

impl super::desk::Pictures for EvidenceAnswers {
    fn look(&self, camera: &str) {
        let names = self.slots.names();
        if let Some(slot) = names.iter().position(|n| n.as_str() == camera) {
            self.board.disturb(CameraIx(slot as u16));
        }
    }

    fn snapshot(&self, camera: String) -> BoxFuture<'static, Result<serde_json::Value, String>> {
        let this = self.clone();
        async move {
            let names = this.slots.names();
            let slot = names.iter().position(|n| n.as_str() == camera);
            let slot = slot.ok_or_else(|| format!("there is no camera {camera}"))?;
            this.send_snapshot(CameraIx(slot as u16)).await
        }
        .boxed()
    }

    fn clip(&self, finding: Uuid) -> BoxFuture<'static, Result<serde_json::Value, NotSent>> {
        let this = self.clone();
        async move { this.send_clip(finding).await }.boxed()
    }
}

/// A clip that is being blurred, and those that wait before it, take no longer.
const BLUR_WAIT: std::time::Duration = std::time::Duration::from_secs(1800);
/// A camera that sees is looked at once a second at least, or with each key unit once it is asked for.
const SNAPSHOT_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

/// From its content and moment: asked twice for one picture, it is one.
fn snapshot_id(snapshot: &Snapshot) -> Uuid {
    let name = format!("{}/{}", snapshot.sha256, snapshot.stamp.received_utc);
    id_of(name.as_bytes())
}

/// Why a clip stays at the site under the policy `faces`, where a copy of it may leave.
pub const CLIP_WITHHELD: &str =
    "it stays at the site; the command `clip` sends a copy with faces blurred";

/// What is done with the evidence thread's word: the site's problems, and a notice to the centre.
pub fn teller(
    site: &SiteIdentity,
    store: StoreHandle,
    problems: Problems,
    clock: SharedClock,
) -> impl Fn(Told) + Send + use<> {
    let site = format!("{}/{}", site.region, site.site);
    move |told| match told {
        Told::Problem(Some(problem)) => problems.set(PROBLEM, words::problem::evidence(problem)),
        Told::Problem(None) => problems.clear(PROBLEM),
        Told::Deleted { index, body } => {
            let change = removal(&site, index, &body, clock.utc());
            if let Err(e) = commit_patiently(&store, &change) {
                // The chain has the record; only the word to the centre is lost.
                tracing::error!(err = %e.chain(), index, "removal of evidence not told");
            }
        }
    }
}

/// What the centre is told of a removal.
fn removal(site: &str, index: u64, body: &DeletedBody, now: UtcMicros) -> Change {
    let bytes: u64 = body.files.iter().map(|f| f.bytes).sum();
    let mut findings: Vec<&str> = body
        .files
        .iter()
        .filter_map(|f| f.folder.rsplit('/').next())
        .collect();
    findings.dedup();
    let (files, of) = (body.files.len(), findings.len());
    let text = words::notice::evidence_removed(files, of, &body.reason);
    let notice = Notice {
        id: notice_id(site, index),
        kind: "evidence.deleted".to_owned(),
        at: now,
        text: text.en,
        text_zh: text.zh,
        data: serde_json::json!({
            "entry": index,
            "reason": body.reason,
            "files": body.files.len(),
            "bytes": bytes,
            "findings": &findings[..findings.len().min(MOST_NAMED)],
        }),
    };
    Change::Record(RecordBody::Notice(Box::new(notice)))
}

/// On a disk that is too full to open the store evidence gives way, by record, before anything runs;
/// returns what the centre is to be told.
pub fn make_room(
    config: &EvidenceConfig,
    site: &SiteIdentity,
    metrics: &Metrics,
    clock: &SharedClock,
) -> Vec<Change> {
    let name = site_name(site);
    let settings = EvidenceSettings::new(config.clone());
    let keeper = match Keeper::open(settings, name, metrics, clock.clone()) {
        Ok((keeper, _)) => keeper,
        Err(e) => {
            tracing::error!(err = %e, "no room can be made on the disk");
            return Vec::new();
        }
    };
    let site = format!("{}/{}", site.region, site.site);
    let removed = keeper.make_room().into_iter();
    let told = removed.map(|(index, body)| removal(&site, index, &body, clock.utc()));
    told.collect()
}

fn site_name(site: &SiteIdentity) -> SiteName {
    SiteName {
        region: site.region.to_string(),
        id: site.site.to_string(),
    }
}

/// Waits between attempts at a commit; together well below what the evidence thread promises.
const AGAIN_MS: [u64; 5] = [50, 200, 1000, 4000, 10_000];

/// A disk that was full takes it once what was removed has made room.
fn commit_patiently(store: &StoreHandle, change: &Change) -> Result<(), StoreError> {
    for wait_ms in AGAIN_MS {
        match store.commit(vec![change.clone()]) {
            Err(e) if e.is_temporary() => {
                std::thread::sleep(std::time::Duration::from_millis(wait_ms));
            }
            other => return other.map(drop),
        }
    }
    store.commit(vec![change.clone()]).map(drop)
}

/// Findings that a notice names at most; the chain names all.
const MOST_NAMED: usize = 100;

/// The same for the same record of the same site.
fn notice_id(site: &str, index: u64) -> Uuid {
    id_of(format!("{site}/evidence/{index}").as_bytes())
}

fn id_of(name: &[u8]) -> Uuid {
    let digest = crate::base::digest::sha256_hex(name);
    let bits = u128::from_str_radix(&digest[..32], 16).unwrap_or_default();
    uuid::Builder::from_u128(bits)
        // As the contract has it; its time is none.
        .with_version(uuid::Version::SortRand)
        .with_variant(uuid::Variant::RFC4122)
        .into_uuid()
}

#[cfg(test)]
mod tests;
