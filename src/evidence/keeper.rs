//! The evidence thread: seals originals, cuts clips, signs bundles, keeps within the budget.
//!
//! What must not be here: anything that a finding waits for. Analytics has written a bundle and goes
//! on; what comes here may be late, or lost in a power cut, and is made good at the next start from
//! what is on the disk.
//!
//! # Operation
//!
//! A job comes when a finding has been committed. The original is sealed at once; the clip when its
//! last second has come, or when the daemon stops. Then every file of the bundle is hashed, the entry
//! appended to the chain, its copy written as `manifest.json`, and `pending.json` removed, in this order:
//!
//! | the power goes | the next start |
//! | --- | --- |
//! | before the entry | signs what is there; what is missing is named in the entry |
//! | after it | writes the copy from the chain and removes `pending.json` |
//! | between the entry of a removal and the removal | removes the files |
//!
//! # Failure
//!
//! A full job queue loses the original and the clip of a finding, never its signature: what was known
//! of it waits aside. A disk that refuses is tried again; the bundle stays unsigned meanwhile
//! and the site says so.
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SendError, SyncSender, TrySendError, sync_channel,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::blurred::BEING_MADE;
use super::budget::{Budget, Held, too_much, too_old};
use super::bundle::{
    self, BLURRED_CLIP, BLURRED_MANIFEST, CLIP, FRAME, MANIFEST, PENDING, SEALED, SEALED_CLIP,
    SEALED_FRAME,
};
use super::chain::{Appended, Chain};
use super::clip::{CameraRings, ClipSpan, Remux, SiteRings, is_short};
use super::config::{EvidenceConfig, EvidenceSettings, Redact};
use super::disk::{Access, Disk, sync_folder};
use super::index::EvidenceIndex;
use super::key::{KeyError, PUBLIC_KEY_FILE, SiteKey};
use super::manifest::{
    Body, BundleBody, DeletedBody, DeletedFile, DerivedBody, Draft, Line, Missing, SiteName,
    SnapshotBody,
};
use super::still::encode_jpeg;
use super::writer::put_folder;
use crate::base::heartbeat::Heartbeat;
use crate::base::metrics::{Metric, Metrics};
use crate::base::time::{MonoMicros, SharedClock, UtcMicros};
use crate::decode::Frame;

/// Jobs that may wait: each may hold a frame.
const JOBS: usize = 8;
/// Bundles that may wait aside when that is full; more are signed at the next start.
const ASIDE: usize = 1024;
/// Bundles whose clip is not over yet; more are signed with what there is.
const WAITING: usize = 64;
const TICK: Duration = Duration::from_secs(1);
/// The thread promises to beat at least this often; a disk may be slow.
pub const BEAT: Duration = Duration::from_secs(60);
/// Longest wait for a unit after the end of a clip: a camera that is gone sends none.
const CLIP_PATIENCE: Duration = Duration::from_secs(2);
/// The rings of a camera that was taken out are kept for so long, for findings that are on their way
/// here.
const RINGS_KEPT: Duration = Duration::from_secs(60);
/// After the disk refused.
const AGAIN: Duration = Duration::from_secs(30);
/// How often age is looked at.
const AGE_EVERY: Duration = Duration::from_secs(3600);
/// A file without use of its own: on a disk that is full it makes room for the record of what is
/// removed to make room.
const BALLAST: &str = "room";
const BALLAST_BYTES: usize = 256 << 10;
/// A clock that was set by more than this since the start does not decide what is old.
const CLOCK_STEP: Duration = Duration::from_secs(3600);

/// Why there is no evidence at all. Findings go on and say so.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The folder or the chain cannot be used.
    #[error(
        "evidence cannot be kept in {} ({source}): give the directory to the user mingchu runs as, and look at the disk",
        path.display()
    )]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What others should hear.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// What is wrong, for people; `None`: no more.
    Problem(Option<String>),
    /// Files were removed, by record.
    Deleted {
        /// Number of the record in the chain.
        index: u64,
        /// The record.
        body: DeletedBody,
    },
}

/// A bundle that is on the disk, to be completed.
#[derive(Debug)]
pub struct Job {
    /// As written.
    pub draft: Draft,
    /// To be sealed, if it was not.
    pub original: Option<Frame>,
    /// What its clip should show.
    pub clip: ClipSpan,
}

/// What became of something that was to be signed; why not, for people.
pub type Signed = oneshot::Sender<Result<(), String>>;

/// What the thread is given to do.
#[derive(Debug)]
pub enum Work {
    /// To complete and sign a bundle.
    Bundle(Box<Job>),
    /// To put [`BEING_MADE`] into its bundle, and to sign it.
    Derived(Box<DerivedBody>, Signed),
    /// To write and sign a picture that somebody asked for; its files are yet to be named.
    Snapshot(Box<SnapshotBody>, Vec<u8>, Signed),
}

/// Where jobs go.
#[derive(Clone, Debug)]
pub struct Jobs {
    queue: SyncSender<Work>,
    aside: Aside,
    index: EvidenceIndex,
    metrics: Metrics,
}

impl Jobs {
    /// Hands a job over; never waits.
    pub fn give(&self, job: Job) {
        let draft = &job.draft;
        self.index.expect(draft.finding, &draft.folder, draft.class);
        let work = Work::Bundle(Box::new(job));
        if let Err(TrySendError::Full(work) | TrySendError::Disconnected(work)) =
            self.queue.try_send(work)
            && let Work::Bundle(job) = work
        {
            let mut aside = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
            tracing::warn!(finding = %job.draft.finding, "evidence thread is behind: no clip and no original");
            if aside.len() < ASIDE {
                aside.push(job.draft);
            }
            self.metrics
                .counter(Metric::EvidenceJobsDropped, &[])
                .add(1);
        }
    }
}

impl Jobs {
    /// Keeps and signs a picture that somebody asked for, `body` without its files; waits while the thread
    /// is behind. Blocking.
    ///
    /// # Errors
    /// Why it is not signed, for people.
    pub fn sign_snapshot(&self, body: SnapshotBody, jpeg: Vec<u8>) -> Result<(), String> {
        let stopped = || "the evidence thread has ended".to_owned();
        let (done, signed) = oneshot::channel();
        let work = Work::Snapshot(Box::new(body), jpeg, done);
        self.work(work).map_err(|_| stopped())?;
        signed.blocking_recv().map_err(|_| stopped())?
    }

    /// Hands over what somebody waits for; waits while the thread is behind.
    pub(super) fn work(&self, work: Work) -> Result<(), SendError<Work>> {
        self.queue.send(work)
    }

    /// What there is.
    pub(super) fn index(&self) -> EvidenceIndex {
        self.index.clone()
    }
}

/// Bundles that are to be signed as they are.
type Aside = Arc<Mutex<Vec<Draft>>>;

#[derive(Debug)]
struct Waiting {
    /// Not before.
    due: MonoMicros,
    draft: Draft,
    clip: Option<ClipSpan>,
    missing: Vec<Missing>,
}

/// Everything the thread owns.
pub struct Keeper {
    settings: EvidenceSettings,
    /// The settings, as of the last look at them.
    config: EvidenceConfig,
    chain: Chain,
    disk: Disk,
    jobs: Receiver<Work>,
    aside: Aside,
    index: EvidenceIndex,
    waiting: Vec<Waiting>,
    metrics: Metrics,
    clock: SharedClock,
    /// When it was opened, by both clocks.
    started: (MonoMicros, UtcMicros),
    aged: Option<MonoMicros>,
    /// What is wrong with the chain for good.
    broken: Option<String>,
    told: Option<String>,
    /// Nothing is removed before then.
    shed_at: MonoMicros,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper")
            .field("chain", &self.chain)
            .finish_non_exhaustive()
    }
}

/// What the thread needs of others once it runs.
pub struct Around {
    /// Where clips are cut from.
    pub rings: SiteRings,
    /// Who writes clips.
    pub remux: Box<dyn Remux>,
    /// Who wants to hear.
    pub tell: Box<dyn Fn(Told) + Send>,
    /// Beaten at least every [`BEAT`].
    pub heartbeat: Heartbeat,
}

impl std::fmt::Debug for Around {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Around")
    }
}

impl Keeper {
    /// Opens folder, key and chain, and finishes what a power cut interrupted. Blocking.
    ///
    /// # Errors
    /// [`OpenError`] says what a person must do.
    pub fn open(
        settings: EvidenceSettings,
        site: SiteName,
        metrics: &Metrics,
        clock: SharedClock,
    ) -> Result<(Self, Jobs), OpenError> {
        Self::open_on(Disk::default(), settings, site, metrics, clock)
    }

    fn open_on(
        disk: Disk,
        settings: EvidenceSettings,
        site: SiteName,
        metrics: &Metrics,
        clock: SharedClock,
    ) -> Result<(Self, Jobs), OpenError> {
        let config = settings.now();
        let dir = config.dir.clone();
        let failed = |source| OpenError::Folder {
            path: dir.clone(),
            source,
        };
        disk.make_folder(&dir, Access::Group).map_err(failed)?;
        if let Some(above) = dir.parent() {
            sync_folder(above).map_err(failed)?;
        }
        let signed_before =
            fs::metadata(dir.join(super::chain::CHAIN_FILE)).is_ok_and(|m| m.len() > 0);
        let key = SiteKey::open(&config.key_file, signed_before, &disk)?;
        let pem = key.public().to_pem();
        let public = dir.join(PUBLIC_KEY_FILE);
        if fs::read_to_string(&public).ok().as_deref() != Some(&pem) {
            disk.replace(&public, pem.as_bytes(), Access::Group)
                .map_err(failed)?;
        }
        let (chain, found) = Chain::open(&dir, key, site).map_err(failed)?;
        if found.torn_bytes > 0 {
            tracing::warn!(
                bytes = found.torn_bytes,
                "a line of the evidence chain was torn by a power cut and is dropped"
            );
        }
        let broken = found.broken.map(|what| {
            tracing::error!(err = %what, "evidence chain is damaged");
            metrics
                .counter(Metric::EvidenceFailures, &[("reason", "chain")])
                .add(1);
            format!("evidence chain is damaged at {what}: see `mingchu verify`; new evidence is added behind it")
        });
        let (tx, rx) = sync_channel(JOBS);
        let (aside, index) = (Aside::default(), EvidenceIndex::default());
        let jobs = Jobs {
            queue: tx,
            aside: aside.clone(),
            index: index.clone(),
            metrics: metrics.clone(),
        };
        let mut keeper = Self {
            started: (clock.mono(), clock.utc()),
            settings,
            config,
            chain,
            disk,
            jobs: rx,
            aside,
            index,
            waiting: Vec::new(),
            metrics: metrics.clone(),
            clock,
            aged: None,
            broken,
            told: None,
            shed_at: MonoMicros(0),
        };
        keeper.take_stock(found.entries.into_iter().map(|e| e.body))?;
        keeper.keep_ballast();
        Ok((keeper, jobs))
    }

    /// Removes what is in the way of findings on a disk that is full, before anything else runs; returns
    /// what was removed, by number of its record.
    pub fn make_room(mut self) -> Vec<(u64, DeletedBody)> {
        let removed = std::cell::RefCell::new(Vec::new());
        let tell = |told| {
            if let Told::Deleted { index, body } = told {
                removed.borrow_mut().push((index, body));
            }
        };
        let now = self.clock.mono();
        if let Err(why) = self.shed(&tell, now) {
            tracing::error!(err = %why, "no room was made on the disk");
        }
        removed.into_inner()
    }

    /// What there is, for others.
    pub fn index(&self) -> EvidenceIndex {
        self.index.clone()
    }

    fn take_stock(&mut self, bodies: impl Iterator<Item = Body>) -> Result<(), OpenError> {
        let mut derived = Vec::new();
        for body in bodies {
            match body {
                Body::Bundle(body) => self.index.add(&body),
                Body::Derived(body) => {
                    self.index.add_derived(&body);
                    derived.push(body);
                }
                Body::Snapshot(body) => self.index.add_snapshot(&body),
                Body::Deleted(body) => {
                    self.unlink(&body.files);
                    self.index.remove(&body.files);
                }
            }
        }
        self.gauges();
        self.finish_derived(&derived);
        let dir = &self.config.dir;
        let folders = bundle::all_folders(dir).map_err(|source| OpenError::Folder {
            path: dir.clone(),
            source,
        })?;
        for folder in folders.iter().filter(|f| bundle::is_part(f)) {
            // Never renamed: no finding names it.
            if let Err(e) = fs::remove_dir_all(dir.join(folder)) {
                tracing::warn!(err = %e, folder, "half-written bundle not removed");
            }
        }
        self.find_unsigned(&folders);
        Ok(())
    }

    /// Runs until analytics is gone and all is signed. Call on a thread of its own.
    pub fn run(mut self, around: &Around) {
        loop {
            around.heartbeat.beat();
            match self.jobs.recv_timeout(TICK) {
                Ok(Work::Bundle(job)) => self.take(*job),
                Ok(Work::Derived(body, signed)) => {
                    let done = self.sign_derived(&body);
                    self.answer(signed, done);
                }
                Ok(Work::Snapshot(body, jpeg, signed)) => {
                    let done = self.sign_snapshot(*body, &jpeg);
                    self.answer(signed, done);
                }
                Err(RecvTimeoutError::Timeout) => self.take_aside(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.work(around, false);
        }
        self.take_aside();
        self.work(around, true);
    }

    fn answer(&self, signed: Signed, done: Result<(), String>) {
        if let Err(why) = &done {
            self.failed("sign", why);
        }
        // Who asked may have given up; what was signed is there all the same.
        drop(signed.send(done));
    }

    fn take(&mut self, job: Job) {
        let mut missing = Vec::new();
        if let Some(frame) = job.original
            && let Err(why) = self.seal(&job.draft.folder, &frame)
        {
            self.failed("seal", &why);
            missing.push(Missing {
                name: SEALED_FRAME.to_owned(),
                why,
            });
        }
        self.waiting.push(Waiting {
            due: job.clip.until,
            draft: job.draft,
            clip: Some(job.clip),
            missing,
        });
    }

    fn seal(&self, folder: &str, frame: &Frame) -> Result<(), String> {
        let jpeg = encode_jpeg(frame, self.config.jpeg_quality).map_err(|e| e.to_string())?;
        let sealed = self.config.dir.join(folder).join(SEALED);
        let path = self.config.dir.join(folder).join(SEALED_FRAME);
        self.disk
            .has_room(&self.config.dir, self.config.keep_above())
            .and_then(|()| self.disk.make_folder(&sealed, Access::Owner))
            .and_then(|()| self.disk.replace(&path, &jpeg, Access::Owner))
            .map_err(|e| e.to_string())
    }

    /// Bundles of `folders` that were written and not signed. Only at the start: later a bundle may be
    /// one whose finding is just being committed.
    fn find_unsigned(&mut self, folders: &[String]) {
        for folder in folders {
            let path = self.config.dir.join(folder).join(PENDING);
            let Ok(text) = fs::read(&path) else { continue };
            self.clear_parts(folder);
            if let Ok(body) = serde_json::from_slice::<SnapshotBody>(&text) {
                self.settle_snapshot(folder, &body);
                continue;
            }
            match serde_json::from_slice(&text) {
                Ok(draft) => self.sign_as_it_is(Draft {
                    folder: folder.clone(),
                    ..draft
                }),
                Err(e) => self.failed("pending", &format!("{}: {e}", path.display())),
            }
        }
    }

    /// Files that were being written when the power went.
    fn clear_parts(&self, folder: &str) {
        let place = self.config.dir.join(folder);
        for name in bundle::names_in(&place).unwrap_or_default() {
            if bundle::is_part(&name)
                && let Err(e) = self.disk.remove(&place.join(&name))
            {
                tracing::warn!(err = %e, folder, name, "half-written file not removed");
            }
        }
    }

    fn take_aside(&mut self) {
        let mut aside = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
        let drafts = std::mem::take(&mut *aside);
        drop(aside);
        for draft in drafts {
            self.sign_as_it_is(draft);
        }
    }

    fn sign_as_it_is(&mut self, draft: Draft) {
        self.index.expect(draft.finding, &draft.folder, draft.class);
        let missing = self.lacks(&draft.folder, &draft);
        self.waiting.push(Waiting {
            due: MonoMicros(0),
            draft,
            clip: None,
            missing,
        });
    }

    /// What a bundle should hold and does not, because nobody completed it in time.
    fn lacks(&self, folder: &str, draft: &Draft) -> Vec<Missing> {
        let there = |name| self.config.dir.join(folder).join(name).is_file();
        let mut missing = Vec::new();
        let mut lacks = |name: &str| {
            missing.push(Missing {
                name: name.to_owned(),
                why: "mingchu stopped or was behind before it was kept".to_owned(),
            });
        };
        if !there(CLIP) && !there(SEALED_CLIP) {
            lacks(CLIP);
        }
        if draft.redaction.faces > 0 && !there(SEALED_FRAME) {
            lacks(SEALED_FRAME);
        }
        missing
    }

    /// Whatever is due; when `stopping`, all.
    fn work(&mut self, around: &Around, stopping: bool) {
        let now = self.clock.mono();
        self.config = self.settings.now();
        let crowded = self.waiting.len() > WAITING;
        let mut kept = Vec::new();
        let mut refused = None;
        for mut waiting in std::mem::take(&mut self.waiting) {
            around.heartbeat.beat();
            let rings = waiting.clip.and_then(|c| around.rings.of(c.camera));
            let whole = waiting
                .clip
                .zip(rings.as_ref())
                .is_none_or(|(span, rings)| rings.reach(&span));
            let patient = waiting.due.plus(CLIP_PATIENCE) > now && !whole;
            if !stopping && !crowded && (waiting.due > now || patient) {
                kept.push(waiting);
                continue;
            }
            if let Some(span) = waiting.clip.take()
                && let Err(why) = self.clip(&waiting.draft, &span, rings.as_ref(), &*around.remux)
            {
                waiting.missing.push(Missing {
                    name: CLIP.to_owned(),
                    why,
                });
            }
            if let Err(e) = self.sign(&waiting) {
                let what = format!("bundle {}: {e}", waiting.draft.folder);
                self.failed("sign", &what);
                refused = Some(format!(
                    "evidence waits to be signed: {what}; look at the disk"
                ));
                waiting.due = now.plus(AGAIN);
                kept.push(waiting);
            }
        }
        self.waiting = kept;
        let wanted = |camera| {
            let mut clips = self.waiting.iter().filter_map(|w| w.clip);
            clips.any(|span| span.camera == camera)
        };
        let until = MonoMicros(now.0.saturating_sub(RINGS_KEPT.as_micros() as u64));
        around.rings.forget_gone(until, wanted);
        if refused.is_none() && now >= self.shed_at {
            refused = self.shed(&*around.tell, now).err();
        }
        let unsigned = self.waiting.iter().any(|w| w.clip.is_none() && w.due > now);
        if refused.is_some() || !unsigned {
            self.tell_problem(around, refused.or_else(|| self.broken.clone()));
        }
        self.gauges();
    }

    fn tell_problem(&mut self, around: &Around, problem: Option<String>) {
        if self.told != problem {
            self.told.clone_from(&problem);
            (around.tell)(Told::Problem(problem));
        }
    }

    fn clip(
        &self,
        draft: &Draft,
        span: &ClipSpan,
        rings: Option<&CameraRings>,
        remux: &dyn Remux,
    ) -> Result<(), String> {
        let cut = rings
            .and_then(|r| r.cut(span))
            .ok_or("no video of that time was kept")?;
        let camera = [("camera", draft.camera.as_str())];
        if is_short(&cut) {
            self.metrics
                .counter(Metric::EvidencePreRollShort, &camera)
                .add(1);
        }
        let sealed = self.config.redact == Redact::Faces;
        let folder = self.config.dir.join(&draft.folder);
        let (name, mode) = if sealed {
            (SEALED_CLIP, 0o600)
        } else {
            (CLIP, 0o640)
        };
        let path = folder.join(name);
        let part = path.with_extension("part");
        let written = || -> Result<(), String> {
            self.disk
                .has_room(&self.config.dir, self.config.keep_above())
                .map_err(|e| e.to_string())?;
            if sealed {
                self.disk
                    .make_folder(&folder.join(SEALED), Access::Owner)
                    .map_err(|e| e.to_string())?;
            }
            remux.remux(&cut.units, &part)?;
            let finish = || -> io::Result<()> {
                fs::set_permissions(&part, Permissions::from_mode(mode))?;
                File::open(&part)?.sync_all()?;
                self.disk.rename(&part, &path)
            };
            finish().map_err(|e| e.to_string())
        };
        let result = written();
        match &result {
            Ok(()) => self.metrics.counter(Metric::EvidenceClips, &camera).add(1),
            Err(why) => {
                self.failed("clip", why);
                // What libavformat left of it.
                drop(fs::remove_file(&part));
            }
        }
        result
    }

    /// Signs a bundle as it lies there, or finishes one whose entry is in the chain already.
    fn sign(&mut self, waiting: &Waiting) -> io::Result<()> {
        let draft = &waiting.draft;
        let folder = self.config.dir.join(&draft.folder);
        let line = if let Some(line) = self.entry_of(&draft.folder)? {
            line
        } else {
            let body = BundleBody {
                draft: draft.clone(),
                files: bundle::files_in(&folder)?,
                missing: waiting.missing.clone(),
            };
            let body = Body::Bundle(Box::new(body));
            self.chain.append(&self.disk, body, self.clock.utc())?.line
        };
        self.disk
            .replace(&folder.join(MANIFEST), &line, Access::Group)?;
        self.disk.remove(&folder.join(PENDING))?;
        sync_folder(&folder)?;
        self.metrics.counter(Metric::EvidenceSigned, &[]).add(1);
        if let Ok(line) = Line::parse(&line)
            && let Body::Bundle(body) = &line.entry.body
        {
            self.index.add(body);
        }
        Ok(())
    }

    /// The chain's line on a bundle, if it is signed. Only for bundles that are pending: reading the
    /// chain takes longer the older the site is.
    fn entry_of(&self, folder: &str) -> io::Result<Option<Vec<u8>>> {
        self.chain.find(|e| e.body.folder() == Some(folder))
    }

    /// Puts a blurred clip into its bundle and signs it. A power cut leaves a copy that no entry names,
    /// or an entry without its own copy beside it; the next start mends both.
    pub(super) fn sign_derived(&mut self, body: &DerivedBody) -> Result<(), String> {
        let folder = self.config.dir.join(&body.folder);
        let place = folder.join(BLURRED_CLIP);
        let (disk, now) = (&self.disk, self.clock.utc());
        disk.rename(&self.config.dir.join(BEING_MADE), &place)
            .map_err(|e| e.to_string())?;
        let entry = Body::Derived(Box::new(body.clone()));
        let appended = self.chain.append(disk, entry, now).map_err(|e| {
            drop(disk.remove(&place));
            e.to_string()
        })?;
        self.index.add_derived(body);
        if let Err(e) = disk.replace(
            &folder.join(BLURRED_MANIFEST),
            &appended.line,
            Access::Group,
        ) {
            tracing::warn!(err = %e, folder = body.folder, "the entry's copy beside a blurred clip waits for the next start");
        }
        Ok(())
    }

    /// Keeps a picture that somebody asked for, as a bundle of its own, and signs it. What a power cut
    /// leaves unsigned goes at the next start: nobody was told of it.
    pub(super) fn sign_snapshot(
        &mut self,
        mut body: SnapshotBody,
        jpeg: &[u8],
    ) -> Result<(), String> {
        if self.index.has(&body.folder) {
            // Two have asked and got the same picture.
            return Ok(());
        }
        let dir = &self.config.dir;
        self.disk
            .has_room(dir, self.config.keep_above())
            .map_err(|e| e.to_string())?;
        let place = dir.join(&body.folder);
        let pending = serde_json::to_vec(&body).map_err(|e| e.to_string())?;
        let files = [(FRAME, jpeg), (PENDING, &pending)];
        put_folder(&self.disk, dir, &body.folder, &files).map_err(|e| e.to_string())?;
        let signed = bundle::files_in(&place).and_then(|files| {
            body.files = files;
            let entry = Body::Snapshot(Box::new(body.clone()));
            self.chain.append(&self.disk, entry, self.clock.utc())
        });
        let appended = signed.map_err(|e| {
            drop(fs::remove_dir_all(&place));
            e.to_string()
        })?;
        self.index.add_snapshot(&body);
        self.finish_snapshot(&body.folder, &appended.line);
        Ok(())
    }

    /// Writes the copy of the entry on a snapshot.
    fn finish_snapshot(&self, folder: &str, line: &[u8]) {
        let place = self.config.dir.join(folder);
        let copied = self
            .disk
            .replace(&place.join(MANIFEST), line, Access::Group)
            .and_then(|()| self.disk.remove(&place.join(PENDING)))
            .and_then(|()| sync_folder(&place));
        if let Err(e) = copied {
            tracing::warn!(err = %e, folder, "the manifest of a snapshot waits for the next start");
        }
    }

    /// What a power cut left of a snapshot.
    fn settle_snapshot(&self, folder: &str, body: &SnapshotBody) {
        match self.entry_of(folder) {
            Ok(Some(line)) => self.finish_snapshot(folder, &line),
            Ok(None) => {
                tracing::info!(folder, camera = body.camera, "unsigned snapshot removed");
                drop(fs::remove_dir_all(self.config.dir.join(folder)));
            }
            Err(e) => self.failed("pending", &format!("{folder}: {e}")),
        }
    }

    /// The power goes after so many steps from here.
    #[cfg(test)]
    pub(super) fn cut_power_after(&self, steps: u32) {
        if let Some(left) = &self.disk.steps_left {
            left.set(steps);
        }
    }

    /// What a power cut left of blurred clips.
    fn finish_derived(&self, derived: &[Box<DerivedBody>]) {
        let dir = &self.config.dir;
        let remove = |path: PathBuf| {
            if let Err(e) = self.disk.remove(&path) {
                tracing::warn!(err = %e, path = %path.display(), "half-made copy of a clip not removed");
            }
        };
        remove(dir.join(BEING_MADE));
        for folder in self.index.without_derived() {
            let unsigned = dir.join(&folder).join(BLURRED_CLIP);
            if bundle::is_inside(&folder) && unsigned.is_file() {
                remove(unsigned);
            }
        }
        for body in derived {
            let current = self.index.blurred(&body.folder);
            let is_current = current.is_some_and(|c| c.sha256 == body.file.sha256);
            if !is_current || !bundle::is_inside(&body.folder) {
                continue;
            }
            let copy = dir.join(&body.folder).join(BLURRED_MANIFEST);
            let is_it =
                |e: &super::manifest::Entry| matches!(&e.body, Body::Derived(b) if b == body);
            let text = fs::read(&copy).unwrap_or_default();
            if Line::parse(&text).is_ok_and(|l| is_it(&l.entry)) {
                continue;
            }
            let line = self.chain.find(is_it).ok().flatten();
            let written = line.map(|line| self.disk.replace(&copy, &line, Access::Group));
            if let Some(Err(e)) = written {
                tracing::warn!(err = %e, path = %copy.display(), "copy of an entry not written");
            }
        }
    }

    /// Bytes that the disk lacks of those to be left free.
    fn lacking(&self) -> u64 {
        let free = self.disk.free(&self.config.dir).unwrap_or(u64::MAX);
        self.config.min_free_bytes.saturating_sub(free)
    }

    fn keep_ballast(&self) {
        let ballast = self.config.dir.join(BALLAST);
        if ballast.exists() || self.lacking() > 0 {
            return;
        }
        // Not zeros: a file system may keep those without room.
        let bytes: Vec<u8> = (0..BALLAST_BYTES).map(|i| (i * 7 % 251) as u8).collect();
        if let Err(e) = self.disk.replace(&ballast, &bytes, Access::Owner) {
            tracing::debug!(err = %e, "no ballast for a disk that gets full");
        }
    }

    /// The record of a removal goes into the chain, though the disk be full.
    fn record_removal(&mut self, body: &DeletedBody) -> io::Result<Appended> {
        let (entry, now) = (Body::Deleted(body.clone()), self.clock.utc());
        match self.chain.append(&self.disk, entry.clone(), now) {
            Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                self.disk.remove(&self.config.dir.join(BALLAST))?;
                self.chain.append(&self.disk, entry, now)
            }
            other => other,
        }
    }

    /// Removes what is too much or too old, or in the way of findings.
    fn shed(&mut self, tell: &dyn Fn(Told), now: MonoMicros) -> Result<(), String> {
        let budget = Budget {
            max_bytes: self.config.max_bytes,
            max_age: self.config.max_age,
        };
        let aged = self.aged.is_none_or(|at| now.since(at) >= AGE_EVERY);
        let aged = aged && self.clock_is_steady(now);
        let lacking = self.lacking();
        if !aged && lacking == 0 && self.index.bytes() <= budget.max_bytes {
            self.keep_ballast();
            return Ok(());
        }
        if aged {
            self.aged = Some(now);
        }
        for reason in ["min_free_mb", "max_mb", "max_days"] {
            let held = self.index.held();
            let held: Vec<&Held> = held.iter().collect();
            let files = match reason {
                "min_free_mb" if lacking == 0 => continue,
                "min_free_mb" => {
                    let max_bytes = self.index.bytes().saturating_sub(lacking);
                    too_much(
                        &held,
                        &Budget {
                            max_bytes,
                            ..budget
                        },
                    )
                }
                "max_mb" => too_much(&held, &budget),
                _ if aged => too_old(&held, &budget, self.clock.utc()),
                _ => Vec::new(),
            };
            if files.is_empty() {
                continue;
            }
            let body = DeletedBody {
                reason: reason.to_owned(),
                files,
            };
            match self.record_removal(&body) {
                Ok(appended) => {
                    self.unlink(&body.files);
                    self.index.remove(&body.files);
                    self.metrics
                        .counter(Metric::EvidenceRemoved, &[("reason", reason)])
                        .add(body.files.len() as u64);
                    let index = appended.index;
                    tracing::info!(reason, files = body.files.len(), index, "evidence removed");
                    tell(Told::Deleted { index, body });
                }
                Err(e) => {
                    self.shed_at = now.plus(AGAIN);
                    self.failed("shed", &e.to_string());
                    return Err(format!(
                        "old evidence cannot be removed by record: {e}; look at the disk"
                    ));
                }
            }
        }
        let room = self
            .disk
            .has_room(&self.config.dir, self.config.keep_above());
        room.map_err(|e| format!("{e}; make room on the disk"))
    }

    /// Whether UTC went on as it should since the start: a clock that was set years ahead must not
    /// make everything old.
    fn clock_is_steady(&self, now: MonoMicros) -> bool {
        let (mono, utc) = self.started;
        let went = i64::try_from(now.since(mono).as_micros()).unwrap_or(i64::MAX);
        let off = self
            .clock
            .utc()
            .0
            .saturating_sub(utc.0)
            .saturating_sub(went);
        u128::from(off.unsigned_abs()) < CLOCK_STEP.as_micros()
    }

    fn unlink(&self, files: &[DeletedFile]) {
        for file in files {
            if !bundle::is_inside(&file.folder) || !bundle::is_inside(&file.name) {
                continue;
            }
            let path = self.config.dir.join(&file.folder).join(&file.name);
            if let Err(e) = self.disk.remove(&path) {
                tracing::warn!(err = %e, file = %path.display(), "evidence file not removed");
            }
        }
    }

    fn failed(&self, reason: &'static str, what: &str) {
        self.metrics
            .counter(Metric::EvidenceFailures, &[("reason", reason)])
            .add(1);
        tracing::error!(reason, err = what, "evidence");
    }

    fn gauges(&self) {
        let set = |metric, n| self.metrics.counter(metric, &[]).set(n);
        set(Metric::EvidenceBytes, self.index.bytes());
        set(Metric::EvidenceEntries, self.chain.entries());
        self.index.set_head(self.chain.newest());
    }
}

#[cfg(test)]
pub mod tests;
