//! Copies of clips that may leave: every face blurred, encoded anew. On a thread of its own, when
//! somebody asks.
//!
//! What must not be here: how video is decoded or encoded, and what finds faces; that is whoever
//! implements [`Footage`].
//!
//! # Operation
//!
//! The clip is gone through twice, so that no picture need be kept: first faces are looked for, at
//! least every [`LOOK_EVERY`], then every picture is blurred where a face was found within a second
//! around it ([`super::carry`]) and encoded. The result is signed by the evidence thread before anyone
//! hears of it, and kept, so that the next who asks gets the same.
//!
//! One clip at a time, never more than half of a core, no longer than [`LIMIT`]; findings, which the
//! same box must not miss meanwhile, do not wait for it.
//!
//! # Failure
//!
//! Whatever fails, nothing leaves, and who asked is told why. Of a stop in the middle nothing is kept
//! but a file that the next start removes.
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tokio::sync::oneshot;
use uuid::Uuid;

use super::bundle::BLURRED_CLIP;
use super::carry::Sightings;
use super::index::{ClipFile, EvidenceIndex};
use super::keeper::{Jobs, Work};
use super::manifest::{DerivedBody, FileEntry, ModelWord, RedactionWord};
use super::redact::blur;
use crate::base::digest::sha256_hex;
use crate::base::geometry::NormRect;
use crate::base::metrics::{Metric, Metrics};
use crate::base::time::{MonoMicros, Pts90k, SharedClock};
use crate::decode::Frame;

/// Longer sides are shrunk to this. It is what the line can carry, and a face that is too small for a
/// detector that sees the picture at this size is too small for people.
pub const MOST_PX: u32 = 960;
/// Faces are looked for again once so much of the clip has passed: at 25 pictures a second in every
/// second one. A head that walks by moves by half its width meanwhile, which the margin covers.
const LOOK_EVERY: Duration = Duration::from_millis(60);
/// Three minutes at 50 pictures a second: more than any config makes a clip.
const MOST_PICTURES: usize = 9000;
/// A clip is given up after so long.
const LIMIT: Duration = Duration::from_secs(600);
/// Clips that may wait; each may take [`LIMIT`].
const ASKS: usize = 2;
/// Where a copy is made, in the evidence folder: one at a time, so that one name is enough.
pub(super) const BEING_MADE: &str = "blurring.part";

/// Why there is no blurred copy of a clip.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlurError {
    /// Nobody here can find faces.
    #[error("withheld: faces in it cannot be blurred here: {0}")]
    Unable(String),
    /// The detector gave out: pictures it did not look at may show anybody.
    #[error("withheld: faces in it could not be looked for: {0}")]
    NotLooked(String),
    /// The picture that decided has faces, so a clip without is not to be believed.
    #[error(
        "withheld: the finding's picture shows {0} faces or heads, and none was found in its clip"
    )]
    NoneFound(u32),
    /// It is longer than is blurred.
    #[error("withheld: it has more than {MOST_PICTURES} pictures")]
    TooLong,
    /// It is not what the chain says.
    #[error("withheld: the file is not the one that was signed; see `mingchu verify`")]
    Changed,
    /// It cannot be read or written.
    #[error("it could not be blurred: {0}")]
    Broken(String),
    /// It takes too long.
    #[error("it could not be blurred within {} s", LIMIT.as_secs())]
    OutOfTime,
    /// Others wait.
    #[error("{ASKS} other clips wait to be blurred: ask for it again later")]
    Busy,
    /// The chain did not take it.
    #[error("the blurred copy could not be signed: {0}")]
    Unsigned(String),
    /// Nobody waits for it any more.
    #[error("the site is stopping")]
    GivenUp,
}

impl BlurError {
    /// Whether asking again is of no use.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Unable(_) | Self::NoneFound(_) | Self::TooLong | Self::Changed
        )
    }

    /// Label of `evidence_clips_blurred_total`.
    fn outcome(&self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::GivenUp => "given_up",
            e if e.is_final() => "refused",
            _ => "failed",
        }
    }
}

/// Looks for faces and heads.
pub trait FindFaces {
    /// Where they are in `frame`, those that may be none with them.
    ///
    /// # Errors
    /// Why nobody can tell, for people.
    fn faces(&mut self, frame: &mut Frame) -> Result<Vec<NormRect>, String>;
}

/// Takes pictures for a clip.
pub trait WriteFilm {
    /// Adds a picture, shown at `frame.stamp.pts`.
    ///
    /// # Errors
    /// Why not, for people.
    fn add(&mut self, frame: &Frame) -> Result<(), String>;
    /// Ends the file.
    ///
    /// # Errors
    /// Why not, for people.
    fn finish(self: Box<Self>) -> Result<(), String>;
}

/// Who is shown a clip's pictures, and may end that.
pub type Each<'e> = &'e mut dyn FnMut(&mut Frame) -> Result<(), String>;

/// Clips as pictures, and what looks at them.
pub trait Footage: Send {
    /// What finds faces, and the models it does that with.
    ///
    /// # Errors
    /// Why nothing here does, for people.
    fn finder(&self) -> Result<(Box<dyn FindFaces>, Vec<ModelWord>), String>;
    /// Shows every picture of `clip`, at most `most_px` on a side; the same each time.
    ///
    /// # Errors
    /// Why not to the end, for people; what `each` said among it.
    fn pictures(&self, clip: &Path, most_px: u32, each: Each<'_>) -> Result<(), String>;
    /// Begins a clip of pictures like `first`.
    ///
    /// # Errors
    /// Why not, for people.
    fn film(&self, to: &Path, first: &Frame, fps: f64) -> Result<Box<dyn WriteFilm>, String>;
}

/// What one who asks is told.
pub type BlurAnswer = Result<ClipFile, BlurError>;

#[derive(Debug)]
struct Ask {
    finding: Uuid,
    clip: ClipFile,
    answer: oneshot::Sender<BlurAnswer>,
}

/// Where blurred copies are asked for; clones share it. The thread ends when all are gone.
#[derive(Clone, Debug)]
pub struct Blurs {
    asks: SyncSender<Ask>,
    metrics: Metrics,
}

impl Blurs {
    /// A copy of a finding's `clip`, the one that is there already or a new one. Whoever drops the
    /// receiver ends the work on it.
    pub fn ask(&self, finding: Uuid, clip: ClipFile) -> oneshot::Receiver<BlurAnswer> {
        let (answer, receiver) = oneshot::channel();
        let ask = Ask {
            finding,
            clip,
            answer,
        };
        if let Err(TrySendError::Full(ask) | TrySendError::Disconnected(ask)) =
            self.asks.try_send(ask)
        {
            count(&self.metrics, BlurError::Busy.outcome());
            drop(ask.answer.send(Err(BlurError::Busy)));
        }
        receiver
    }
}

fn count(metrics: &Metrics, outcome: &str) {
    let labels = [("outcome", outcome)];
    metrics
        .counter(Metric::EvidenceClipsBlurred, &labels)
        .add(1);
}

/// Everything the thread owns.
pub struct Blurrer {
    asks: Receiver<Ask>,
    dir: PathBuf,
    jobs: Jobs,
    index: EvidenceIndex,
    footage: Box<dyn Footage>,
    metrics: Metrics,
    clock: SharedClock,
}

impl std::fmt::Debug for Blurrer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Blurrer")
    }
}

/// What the first look at a clip gave.
#[derive(Default)]
struct Seen {
    times: Vec<Pts90k>,
    faces: Sightings,
}

impl Seen {
    fn fps(&self) -> f64 {
        let ticks = match (self.times.first(), self.times.last()) {
            (Some(first), Some(last)) => (last.0 - first.0).max(1),
            _ => 1,
        };
        let fps = 90_000.0 * self.times.len().saturating_sub(1) as f64 / ticks as f64;
        fps.clamp(1.0, 120.0)
    }
}

/// Work of which half the time is rest, and which ends when it must.
struct Paced<'a> {
    clock: &'a SharedClock,
    begun: MonoMicros,
    resumed: MonoMicros,
    answer: &'a oneshot::Sender<BlurAnswer>,
    stopped: Option<BlurError>,
}

impl Paced<'_> {
    /// Between two pictures.
    fn rest(&mut self) -> Result<(), String> {
        let now = self.clock.mono();
        if now.since(self.begun) > LIMIT {
            return self.stop(BlurError::OutOfTime);
        }
        if self.answer.is_closed() {
            return self.stop(BlurError::GivenUp);
        }
        // Not by the thread's priority, which the service's sandbox does not let it lower.
        std::thread::sleep(now.since(self.resumed));
        self.resumed = self.clock.mono();
        Ok(())
    }

    /// Ends it for this reason, whatever the layers between make of the text.
    fn stop(&mut self, why: BlurError) -> Result<(), String> {
        let text = why.to_string();
        self.stopped = Some(why);
        Err(text)
    }

    /// What to say of a pass over the clip.
    fn ended(&mut self, result: Result<(), String>) -> Result<(), BlurError> {
        match (self.stopped.take(), result) {
            (Some(why), _) => Err(why),
            (None, Err(why)) => Err(BlurError::Broken(why)),
            (None, Ok(())) => Ok(()),
        }
    }
}

impl Blurrer {
    /// For the clips that `jobs` has signed, below `dir`.
    pub fn new(
        dir: &Path,
        jobs: Jobs,
        footage: Box<dyn Footage>,
        metrics: &Metrics,
        clock: SharedClock,
    ) -> (Self, Blurs) {
        let (tx, rx) = sync_channel(ASKS);
        let this = Self {
            asks: rx,
            dir: dir.to_owned(),
            index: jobs.index(),
            jobs,
            footage,
            metrics: metrics.clone(),
            clock,
        };
        let blurs = Blurs {
            asks: tx,
            metrics: metrics.clone(),
        };
        (this, blurs)
    }

    /// Runs until nobody can ask any more. Call on a thread of its own.
    pub fn run(self) {
        while let Ok(ask) = self.asks.recv() {
            // A decoder that meets a file made to break it must not take the site with it.
            let made = catch_unwind(AssertUnwindSafe(|| self.blurred(&ask)));
            let made = made.unwrap_or_else(|_| {
                let what = "a panic; the log says where";
                Err(BlurError::Broken(what.to_owned()))
            });
            match &made {
                Ok(_) => count(&self.metrics, "made"),
                Err(why) => {
                    count(&self.metrics, why.outcome());
                    tracing::warn!(finding = %ask.finding, err = %why, "no blurred copy of a clip");
                }
            }
            // What is left of one that came to nothing.
            drop(fs::remove_file(self.dir.join(BEING_MADE)));
            // Who asked may have given up.
            drop(ask.answer.send(made));
        }
    }

    fn blurred(&self, ask: &Ask) -> BlurAnswer {
        // The one before may have asked for the same.
        if let Some(there) = self.index.blurred(&ask.clip.folder) {
            return Ok(there);
        }
        let (mut finder, models) = self.footage.finder().map_err(BlurError::Unable)?;
        let clip = self.dir.join(&ask.clip.path);
        let original = fs::read(&clip).map_err(|e| BlurError::Broken(e.to_string()))?;
        if sha256_hex(&original) != ask.clip.sha256 {
            return Err(BlurError::Changed);
        }
        drop(original);
        let now = self.clock.mono();
        let mut paced = Paced {
            clock: &self.clock,
            begun: now,
            resumed: now,
            answer: &ask.answer,
            stopped: None,
        };
        let seen = self.look(&clip, &mut *finder, &mut paced)?;
        let faces = seen.faces.faces() as u32;
        if faces == 0 && ask.clip.faces > 0 {
            return Err(BlurError::NoneFound(ask.clip.faces));
        }
        self.write(&clip, &seen, &mut paced)?;
        let file = self.close().map_err(|e| BlurError::Broken(e.to_string()))?;
        let from = FileEntry {
            name: name_in_bundle(&ask.clip).to_owned(),
            sha256: ask.clip.sha256.clone(),
            bytes: ask.clip.bytes,
        };
        let body = DerivedBody {
            finding: ask.finding,
            folder: ask.clip.folder.clone(),
            how: DerivedBody::BLURRED.to_owned(),
            from,
            file,
            pictures: seen.times.len() as u32,
            models,
            redaction: RedactionWord {
                policy: "faces".to_owned(),
                faces,
            },
        };
        let (done, signed) = oneshot::channel();
        let stopped = || BlurError::Unsigned("the evidence thread has ended".to_owned());
        let work = Work::Derived(Box::new(body), done);
        self.jobs.work(work).map_err(|_| stopped())?;
        let signed = signed.blocking_recv().map_err(|_| stopped())?;
        signed.map_err(BlurError::Unsigned)?;
        self.index.blurred(&ask.clip.folder).ok_or_else(stopped)
    }

    /// The first pass.
    fn look(
        &self,
        clip: &Path,
        finder: &mut dyn FindFaces,
        paced: &mut Paced<'_>,
    ) -> Result<Seen, BlurError> {
        let mut seen = Seen::default();
        let mut looked: Option<Pts90k> = None;
        let every = (LOOK_EVERY.as_secs_f64() * 90_000.0) as i64;
        let shown = self.footage.pictures(clip, MOST_PX, &mut |frame| {
            if seen.times.len() >= MOST_PICTURES {
                return paced.stop(BlurError::TooLong);
            }
            let at = frame.stamp.pts;
            seen.times.push(at);
            // A step back in time is as good a reason to look.
            if looked.is_none_or(|last| (at.0 - last.0).abs() >= every) {
                looked = Some(at);
                match finder.faces(frame) {
                    Ok(faces) => seen.faces.add(at, &faces),
                    Err(why) => return paced.stop(BlurError::NotLooked(why)),
                }
            }
            paced.rest()
        });
        paced.ended(shown)?;
        if seen.times.is_empty() {
            return Err(BlurError::Broken(
                "no picture of it can be decoded".to_owned(),
            ));
        }
        Ok(seen)
    }

    /// The second pass.
    fn write(&self, clip: &Path, seen: &Seen, paced: &mut Paced<'_>) -> Result<(), BlurError> {
        let to = self.dir.join(BEING_MADE);
        let mut film: Option<Box<dyn WriteFilm>> = None;
        let mut times = seen.times.iter();
        let differs = "it does not give the same pictures twice";
        let shown = self.footage.pictures(clip, MOST_PX, &mut |frame| {
            let at = frame.stamp.pts;
            // What was looked at must be what is written, or a face may be elsewhere.
            if times.next() != Some(&at) {
                return Err(differs.to_owned());
            }
            blur(frame, &seen.faces.at(at));
            let film = match &mut film {
                Some(film) => film,
                none => none.insert(self.footage.film(&to, frame, seen.fps())?),
            };
            film.add(frame)?;
            paced.rest()
        });
        paced.ended(shown)?;
        if times.next().is_some() {
            return Err(BlurError::Broken(differs.to_owned()));
        }
        match film {
            Some(film) => film.finish().map_err(BlurError::Broken),
            None => Err(BlurError::Broken(differs.to_owned())),
        }
    }

    /// Makes what was written last, and says what it is.
    fn close(&self) -> std::io::Result<FileEntry> {
        let path = self.dir.join(BEING_MADE);
        fs::set_permissions(&path, Permissions::from_mode(0o640))?;
        File::open(&path)?.sync_all()?;
        let bytes = fs::read(&path)?;
        Ok(FileEntry {
            name: BLURRED_CLIP.to_owned(),
            sha256: sha256_hex(&bytes),
            bytes: bytes.len() as u64,
        })
    }
}

fn name_in_bundle(clip: &ClipFile) -> &str {
    let inside = clip.path.strip_prefix(&clip.folder);
    inside.unwrap_or(&clip.path).trim_start_matches('/')
}

#[cfg(test)]
mod tests;
