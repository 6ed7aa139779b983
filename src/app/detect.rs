//! `mingchu detect PICTURE…`: what the models see in pictures, with exactly the pre- and
//! post-processing of the daemon.
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::Context as _;
use serde::Serialize;

use super::exit::{ExitCode, Failure, OrExit as _, Outcome};
use super::models::shipped_or;
use super::terminal::{Terminal, Tone};
use crate::base::geometry::NormRect;
use crate::base::time::SystemClock;
use crate::decode::{Frame, read_picture};
use crate::detect::{
    COVERS, ClassInfo, CoverScores, Detection, Detector, FACES, FaceScores, HeadState, LoadedModel,
    Models, Runtime,
};
use crate::evidence::{COLOURS, draw, encode_jpeg};

/// Quality of annotated copies.
const JPEG_QUALITY: u8 = 90;
/// Results that may wait to be printed in order, for each thread.
const AHEAD: usize = 16;

/// What to look at and how.
#[derive(Clone, Debug)]
pub struct DetectOptions {
    /// Pictures.
    pub pictures: Vec<PathBuf>,
    /// Files with more of them, one a line.
    pub lists: Vec<PathBuf>,
    /// Model cards; none: the shipped one.
    pub models: Vec<PathBuf>,
    /// Least score that is shown.
    pub min_score: f32,
    /// Folder for annotated copies, if they are wanted.
    pub annotate: Option<PathBuf>,
    /// Look at native-resolution pieces of the whole picture too.
    pub tiles: bool,
    /// A head to classify, instead of looking for objects: corners as fractions of the picture.
    pub head_box: Option<[f32; 4]>,
    /// JSON lines.
    pub json: bool,
}

/// One line of `--json`.
#[derive(Debug, Serialize)]
struct Line<'p> {
    file: &'p Path,
    #[serde(flatten)]
    seen: Seen,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Seen {
    Picture {
        width: u32,
        height: u32,
        objects: Vec<Object>,
        #[serde(skip_serializing_if = "Option::is_none")]
        copy_failed: Option<String>,
    },
    Unreadable {
        error: String,
    },
}

#[derive(Debug, Serialize)]
struct Object {
    class: String,
    score: f32,
    /// Left, top, right, bottom as fractions of the picture.
    #[serde(rename = "box")]
    rect: [f32; 4],
    #[serde(flatten)]
    head: Option<Classified>,
}

/// What the classifier says, where this is a head that it looked at.
#[derive(Debug, Serialize)]
struct Classified {
    head: CoverScores,
    face: FaceScores,
    smoking: f32,
}

impl From<&HeadState> for Classified {
    fn from(state: &HeadState) -> Self {
        Self {
            head: state.into(),
            face: state.into(),
            smoking: state.smoking,
        }
    }
}

/// Class of the object that `--head-box` names.
const GIVEN_HEAD: &str = "head";

/// All pictures: those named, then those on lists.
fn all_pictures(options: &DetectOptions) -> Result<Vec<PathBuf>, Failure> {
    let mut pictures = options.pictures.clone();
    for list in &options.lists {
        let text = std::fs::read_to_string(list)
            .with_context(|| format!("--list {}", list.display()))
            .or_exit(ExitCode::Usage)?;
        // Names on a list are relative to the list, wherever the command is called.
        let folder = list.parent().unwrap_or(Path::new(""));
        let names = text.lines().map(str::trim).filter(|l| !l.is_empty());
        pictures.extend(names.map(|name| folder.join(name)));
    }
    if pictures.is_empty() {
        let reason = anyhow::anyhow!("name at least one picture, or a --list of them");
        return Err(Failure::new(ExitCode::Usage, reason));
    }
    Ok(pictures)
}

/// The models, showing everything from `min_score` on.
fn load_models(options: &DetectOptions) -> Result<Models, Failure> {
    let cards = shipped_or(&options.models)?;
    let runtime = Runtime::load(None).or_exit(ExitCode::Config)?;
    let mut models = Vec::new();
    for card in &cards {
        let mut model = LoadedModel::load(card).or_exit(ExitCode::Config)?;
        model.card.thresholds.low = options.min_score;
        if let Some(regions) = &mut model.card.regions {
            regions.per_frame = usize::MAX;
        }
        if let Some(smoking) = &mut model.card.smoking {
            smoking.per_frame = usize::MAX;
        }
        models.push(model);
    }
    Models::of(runtime, models).or_exit(ExitCode::Config)
}

/// Looks at all pictures on all cores and prints what is seen, in the order asked.
///
/// # Errors
/// A command line or model that cannot be used; [`ExitCode::Data`] if a picture could not be read,
/// after all others have been looked at.
pub fn run(options: &DetectOptions, terminal: Terminal) -> Outcome {
    let pictures: Arc<[PathBuf]> = all_pictures(options)?.into();
    let models = load_models(options)?;
    let classifies = models.models().iter().any(|m| m.card.heads.is_some());
    if options.head_box.is_some() && !classifies {
        let reason = anyhow::anyhow!(
            "--head-box needs a model that classifies heads: name its card with --models"
        );
        return Err(Failure::new(ExitCode::Usage, reason));
    }
    if options.tiles && models.models().iter().all(|m| m.card.regions.is_none()) {
        let reason = anyhow::anyhow!(
            "--tiles needs a detector whose card has [regions]: the shipped models/kitchen.toml does"
        );
        return Err(Failure::new(ExitCode::Usage, reason));
    }
    if let Some(folder) = &options.annotate {
        std::fs::create_dir_all(folder)
            .with_context(|| {
                format!(
                    "{}: name a folder for annotated copies with --annotate",
                    folder.display()
                )
            })
            .or_exit(ExitCode::CannotCreate)?;
    }
    let copies: Arc<[Option<PathBuf>]> = match &options.annotate {
        Some(folder) => copy_names(folder, &pictures),
        None => vec![None; pictures.len()],
    }
    .into();
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(pictures.len());
    let next = Arc::new(AtomicUsize::new(0));
    let (to, seen) = sync_channel(threads * AHEAD);
    let mut workers = Vec::new();
    for n in 0..threads {
        let worker = Worker {
            pictures: pictures.clone(),
            next: next.clone(),
            detector: models.detector().or_exit(ExitCode::Config)?,
            classes: models.classes().to_vec(),
            added: models.classes().iter().map(|c| added(&models, c)).collect(),
            copies: copies.clone(),
            tiles: options.tiles,
            head_box: options.head_box,
            to: to.clone(),
        };
        let thread = std::thread::Builder::new().name(format!("detect/{n}"));
        workers.push(
            thread
                .spawn(move || worker.run())
                .or_exit(ExitCode::Internal)?,
        );
    }
    drop(to);
    let failed = print_in_order(&seen, &pictures, options, terminal);
    for worker in workers {
        worker
            .join()
            .map_err(|_| anyhow::anyhow!("a worker panicked"))
            .or_exit(ExitCode::Internal)?;
    }
    let all = pictures.len();
    if failed.pictures > 0 {
        let n = failed.pictures;
        let reason = anyhow::anyhow!("{n} of {all} pictures could not be looked at");
        return Err(Failure::new(ExitCode::Data, reason));
    }
    if failed.copies > 0 {
        let n = failed.copies;
        let reason = anyhow::anyhow!("{n} of {all} annotated copies could not be written");
        return Err(Failure::new(ExitCode::CannotCreate, reason));
    }
    Ok(())
}

/// A name in `folder` for the copy of each picture; pictures of one name from several folders get a
/// number.
fn copy_names(folder: &Path, pictures: &[PathBuf]) -> Vec<Option<PathBuf>> {
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut next: BTreeMap<String, usize> = BTreeMap::new();
    let name = |picture: &PathBuf| {
        let stem = picture.file_stem().unwrap_or(picture.as_os_str());
        let stem = stem.to_string_lossy().into_owned();
        let n = next.entry(stem.clone()).or_insert(1);
        let mut name = stem.clone();
        while !taken.insert(name.clone()) {
            *n += 1;
            name = format!("{stem}-{n}");
        }
        Some(folder.join(format!("{name}.detected.jpg")))
    };
    pictures.iter().map(name).collect()
}

fn added(models: &Models, class: &ClassInfo) -> bool {
    models.models()[class.model].card.is_second_stage()
}

struct Worker {
    pictures: Arc<[PathBuf]>,
    next: Arc<AtomicUsize>,
    detector: Detector,
    classes: Vec<ClassInfo>,
    /// By class id: added by a classifier.
    added: Vec<bool>,
    /// Where each picture's annotated copy goes, if anywhere.
    copies: Arc<[Option<PathBuf>]>,
    /// Look at the whole picture in native-resolution pieces too.
    tiles: bool,
    head_box: Option<[f32; 4]>,
    to: SyncSender<(usize, Seen)>,
}

impl Worker {
    fn run(mut self) {
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(picture) = self.pictures.get(i).cloned() else {
                return;
            };
            let copy = self.copies[i].clone();
            let seen = self
                .look(&picture, copy.as_deref())
                .unwrap_or_else(|e| Seen::Unreadable {
                    error: format!("{e:#}"),
                });
            if self.to.send((i, seen)).is_err() {
                return;
            }
        }
    }

    fn look(&mut self, path: &Path, copy: Option<&Path>) -> anyhow::Result<Seen> {
        let mut frame = read_picture(path)?;
        let (width, height) = (frame.size.width_px, frame.size.height_px);
        if let Some(rect) = self.head_box {
            let [x0, y0, x1, y1] = rect;
            let head = NormRect { x0, y0, x1, y1 };
            let state = self.detector.classify_head(&frame, &head)?;
            let copy_failed = copy.and_then(|copy| {
                let label = state
                    .as_ref()
                    .map_or_else(String::new, |s| words(&s.into()));
                draw(&mut frame, &head, COLOURS[0], label.trim());
                write_copy(&frame, copy)
            });
            let object = Object {
                class: GIVEN_HEAD.to_owned(),
                score: 1.0,
                rect,
                head: state.as_ref().map(Classified::from),
            };
            return Ok(Seen::Picture {
                width,
                height,
                objects: vec![object],
                copy_failed,
            });
        }
        if self.tiles {
            // A still says nothing of motion: all of it may move.
            frame.moving = vec![NormRect::clipped(0.0, 0.0, 1.0, 1.0)].into();
        }
        let detections = self.detector.detect(&frame, &SystemClock)?;
        // What the classifier adds as labels for rules stands at the heads themselves here.
        let seen = |d: &&Detection| !self.added[usize::from(d.class.0)];
        let objects = detections.items.iter().filter(seen).map(|d| Object {
            class: self.classes[usize::from(d.class.0)].label.clone(),
            score: d.score,
            rect: [d.rect.x0, d.rect.y0, d.rect.x1, d.rect.y1],
            head: d.head.as_ref().map(Classified::from),
        });
        let objects = objects.collect();
        let copy_failed = copy.and_then(|copy| {
            self.annotate(&mut frame, &detections.items);
            write_copy(&frame, copy)
        });
        Ok(Seen::Picture {
            width,
            height,
            objects,
            copy_failed,
        })
    }

    /// Draws what would count at the card's threshold, the surest last, on top.
    fn annotate(&self, frame: &mut Frame, items: &[Detection]) {
        let shown = |d: &&Detection| d.score >= self.classes[usize::from(d.class.0)].threshold;
        let shown: Vec<&Detection> = items.iter().filter(shown).collect();
        let label = |d: &Detection| {
            let class = &self.classes[usize::from(d.class.0)];
            format!("{} {:.2}", class.label, d.score)
        };
        for (n, item) in shown.iter().enumerate().rev() {
            // What is said of one head shares its box, and its bar.
            let same = |d: &&&Detection| d.rect == item.rect;
            if shown[..n].iter().any(|d| same(&d)) {
                continue;
            }
            let labels: Vec<String> = shown[n..].iter().filter(same).map(|d| label(d)).collect();
            let colour = COLOURS[usize::from(item.class.0) % COLOURS.len()];
            draw(frame, &item.rect, colour, &labels.join(" "));
        }
    }
}

/// Why there is no copy, if so: what was seen in the picture is told all the same.
fn write_copy(frame: &Frame, copy: &Path) -> Option<String> {
    let written = encode_jpeg(frame, JPEG_QUALITY)
        .map_err(anyhow::Error::from)
        .and_then(|jpeg| Ok(std::fs::write(copy, jpeg)?));
    let e = written.err()?;
    Some(format!("no annotated copy: {}: {e:#}", copy.display()))
}

/// What did not work, in how many pictures.
#[derive(Debug, Default)]
struct Failed {
    /// Not looked at.
    pictures: usize,
    /// Looked at, but there is no copy.
    copies: usize,
}

/// Prints as results come, in the order of the pictures.
fn print_in_order(
    seen: &Receiver<(usize, Seen)>,
    pictures: &[PathBuf],
    options: &DetectOptions,
    terminal: Terminal,
) -> Failed {
    let (mut early, mut due, mut failed) = (BTreeMap::new(), 0, Failed::default());
    for (i, result) in seen {
        early.insert(i, result);
        while let Some(result) = early.remove(&due) {
            match &result {
                Seen::Unreadable { .. } => failed.pictures += 1,
                Seen::Picture { copy_failed, .. } => {
                    failed.copies += usize::from(copy_failed.is_some());
                }
            }
            print(
                Line {
                    file: &pictures[due],
                    seen: result,
                },
                options.json,
                terminal,
            );
            due += 1;
        }
    }
    failed
}

/// The likeliest answers, for people.
fn words(head: &Classified) -> String {
    let best = |names: [&str; 4], p: [f32; 4]| {
        let pairs = names.into_iter().zip(p);
        let best = pairs.max_by(|a, b| a.1.total_cmp(&b.1));
        best.map_or_else(String::new, |(name, p)| format!("{name} {p:.2}"))
    };
    let (c, f) = (&head.head, &head.face);
    let cover = best(COVERS, [c.hat, c.cover_other, c.bare, c.unclear]);
    let face = best(FACES, [f.bare, f.masked, f.chin, f.unseen]);
    format!("  head {cover}, face {face}, smoking {:.2}", head.smoking)
}

fn print(line: Line<'_>, json: bool, terminal: Terminal) {
    if json {
        terminal.line(serde_json::to_string(&line).unwrap_or_default());
        return;
    }
    match line.seen {
        Seen::Unreadable { error } => terminal.line(terminal.paint(Tone::Bad, error)),
        Seen::Picture {
            width,
            height,
            objects,
            copy_failed,
        } => {
            let file = terminal.paint(Tone::Bold, line.file.display());
            terminal.line(format_args!("{file}  {width}x{height}"));
            for object in objects {
                let [x0, y0, x1, y1] = object.rect.map(|v| v * 100.0);
                let place = format!("x {x0:.0} to {x1:.0} %, y {y0:.0} to {y1:.0} %");
                let head = object.head.map_or_else(String::new, |h| words(&h));
                terminal.line(format_args!(
                    "  {:<14} {:.2}  {place}{head}",
                    object.class, object.score
                ));
            }
            if let Some(why) = copy_failed {
                terminal.line(terminal.paint(Tone::Bad, why));
            }
        }
    }
}
