//! A disk that fails when it is told to, below one folder of a program under test, and what a power
//! cut would have left of it.
//!
//! `tests/faults/disk.c` is compiled once and preloaded: fail points lie between the program and the
//! system, so the program that ships is the program that is tested, and every write step has one. What
//! must not be here: what the program keeps in its files.
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

/// What happens at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL before it.
    Die,
    /// SIGKILL in the middle of a write, after any other step.
    DieHalf,
    /// It fails with this error.
    Fail(i32),
    /// A write takes half of what it is given; the next fails with the error, unless it is 0.
    Short(i32),
}

/// `ENOSPC`, `EIO`, `EROFS`.
pub const FULL: i32 = 28;
pub const BROKEN: i32 = 5;
pub const READ_ONLY: i32 = 30;

pub const WRITES: u64 = 1;
pub const SYNCS: u64 = 2;
const OPENS: u64 = 64;
/// What may be refused: all steps, and opening for writing.
pub const ALL: u64 = 127;

/// Numbers in the control file.
const MODE: u64 = 0;
const STEPS: u64 = 5;
const HITS: u64 = 6;

/// One step of a program, or something it said.
#[derive(Clone, Debug)]
pub enum Step {
    Write(PathBuf, u64, Vec<u8>),
    Sync(PathBuf),
    Truncate(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
    Create(PathBuf),
    Folder(PathBuf),
    Said(Vec<u8>),
}

/// The control over one folder's disk.
pub struct FaultyDisk {
    files: TempDir,
    control: File,
    root: PathBuf,
}

/// The shim, compiled once per process: rusqlite and ring need a C compiler to build, so there is one.
fn shim() -> &'static Path {
    static BUILT: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = BUILT.get_or_init(|| {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("disk.so");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let built = Command::new(&compiler)
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .arg(&path)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/disk.c"))
            .args(["-ldl", "-lpthread"])
            .output()
            .unwrap_or_else(|e| panic!("{compiler}: {e}"));
        let said = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "{compiler}: {said}");
        (dir, path)
    });
    path
}

impl FaultyDisk {
    /// Nothing fails yet.
    pub fn new(root: &Path) -> Self {
        let files = TempDir::new().unwrap();
        let control = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .open(files.path().join("control"))
            .unwrap();
        control.set_len(4096).unwrap();
        Self {
            files,
            control,
            root: root.to_owned(),
        }
    }

    /// Puts the disk under a program that is about to start.
    pub fn under<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .env("LD_PRELOAD", shim())
            .env("FAULTS_DIR", &self.root)
            .env("FAULTS_CONTROL", self.files.path().join("control"))
    }

    /// The same, and every step is written down.
    pub fn recording<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        self.under(command)
            .env("FAULTS_LOG", self.files.path().join("log"))
    }

    fn set(&self, what: u64, n: u64) {
        self.control
            .write_all_at(&n.to_ne_bytes(), 8 * what)
            .unwrap();
    }

    fn number(&self, what: u64) -> u64 {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, 8 * what).unwrap();
        u64::from_ne_bytes(bytes)
    }

    /// From step `at` on (the first is 1), for `count` steps, `fault` happens to steps of these kinds.
    pub fn arm(&self, fault: Fault, at: u64, count: u64, kinds: u64) {
        let (mode, error) = match fault {
            Fault::Die => (1, 0),
            Fault::DieHalf => (2, 0),
            Fault::Fail(error) => (3, error),
            Fault::Short(error) => (4, error),
        };
        for (what, n) in [
            (1, at),
            (2, count),
            (3, error as u64),
            (4, kinds),
            (HITS, 0),
        ] {
            self.set(what, n);
        }
        self.set(MODE, mode);
    }

    /// From now on all steps fail. A disk that is full still opens what is there.
    pub fn fail_all(&self, error: i32) {
        let kinds = if error == FULL { ALL & !OPENS } else { ALL };
        self.arm(Fault::Fail(error), 0, u64::MAX, kinds);
    }

    /// The disk is well again.
    pub fn heal(&self) {
        self.set(MODE, 0);
    }

    /// Steps so far, of all programs under it.
    pub fn steps(&self) -> u64 {
        self.number(STEPS)
    }

    pub fn count_anew(&self) {
        self.set(STEPS, 0);
    }

    /// How often a fault happened since it was armed.
    pub fn hits(&self) -> u64 {
        self.number(HITS)
    }

    /// What was written down.
    pub fn log(&self) -> Vec<Step> {
        let bytes = std::fs::read(self.files.path().join("log")).unwrap_or_default();
        let mut rest = &bytes[..];
        let mut steps = Vec::new();
        // A program that was killed may have left half an entry.
        while let Some((step, after)) = next_step(rest) {
            steps.push(step);
            rest = after;
        }
        steps
    }
}

fn next_step(bytes: &[u8]) -> Option<(Step, &[u8])> {
    let (op, rest) = bytes.split_first()?;
    let (n, rest) = rest.split_first_chunk::<8>()?;
    let (path, rest) = rest.split_at_checked(u64::from_ne_bytes(*n) as usize)?;
    let (offset, rest) = rest.split_first_chunk::<8>()?;
    let (n, rest) = rest.split_first_chunk::<8>()?;
    let (data, rest) = rest.split_at_checked(u64::from_ne_bytes(*n) as usize)?;
    let text = |bytes: &[u8]| PathBuf::from(String::from_utf8_lossy(bytes).into_owned());
    let (path, offset) = (text(path), u64::from_ne_bytes(*offset));
    let step = match op {
        b'W' => Step::Write(path, offset, data.to_vec()),
        b'S' => Step::Sync(path),
        b'T' => Step::Truncate(path, offset),
        b'R' => Step::Rename(path, text(data)),
        b'U' => Step::Unlink(path),
        b'C' => Step::Create(path),
        b'D' => Step::Folder(path),
        b'P' => Step::Said(data.to_vec()),
        other => panic!("{other} is no step"),
    };
    Some((step, rest))
}

/// A disk of which we know what has reached it for good.
///
/// A file's content is safe when the file was synced, a name in a folder when the folder was. What was
/// written since may be there or not, sector by sector and in any order; names come in the order they
/// were made, as file systems keep them.
#[derive(Clone, Default)]
pub struct Platter {
    files: Vec<Content>,
    /// Names now, as the program sees them.
    names: BTreeMap<PathBuf, usize>,
    safe_names: BTreeMap<PathBuf, usize>,
    unsafe_names: Vec<Naming>,
    folders: BTreeSet<PathBuf>,
    unsafe_folders: BTreeSet<PathBuf>,
}

#[derive(Clone, Default)]
struct Content {
    safe: Vec<u8>,
    pending: Vec<Pending>,
}

#[derive(Clone)]
enum Pending {
    Bytes(u64, Vec<u8>),
    Length(u64),
}

#[derive(Clone)]
enum Naming {
    Named(PathBuf, usize),
    Gone(PathBuf),
    Renamed(PathBuf, PathBuf, usize),
}

impl Naming {
    fn folder(&self) -> &Path {
        match self {
            Self::Named(path, _) | Self::Gone(path) | Self::Renamed(_, path, _) => {
                path.parent().unwrap()
            }
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Named(path, file) => drop(names.insert(path.clone(), *file)),
            Self::Gone(path) => drop(names.remove(path)),
            Self::Renamed(from, to, file) => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
        }
    }
}

impl Pending {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Bytes(offset, bytes) => {
                let (from, to) = (*offset as usize, *offset as usize + bytes.len());
                if content.len() < to {
                    content.resize(to, 0);
                }
                content[from..to].copy_from_slice(bytes);
            }
            Self::Length(n) => content.resize(*n as usize, 0),
        }
    }
}

/// What of the pending writes has reached the disk when the power goes.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// Nothing that was not synced.
    Nothing,
    /// All of it: as a killed program leaves it.
    All,
    /// Each sector or not, by chance; some are rubbish.
    Some,
}

const SECTOR: usize = 512;

impl Platter {
    /// What lies in `root` now, all of it safe.
    pub fn of(root: &Path) -> Self {
        let mut platter = Self::default();
        platter.take(root);
        platter
    }

    fn take(&mut self, folder: &Path) {
        self.folders.insert(folder.to_owned());
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                self.take(&path);
                continue;
            }
            let file = self.file(Content {
                safe: std::fs::read(&path).unwrap(),
                pending: Vec::new(),
            });
            self.names.insert(path.clone(), file);
            self.safe_names.insert(path, file);
        }
    }

    fn file(&mut self, content: Content) -> usize {
        self.files.push(content);
        self.files.len() - 1
    }

    fn at(&mut self, path: &Path) -> Option<&mut Content> {
        let file = *self.names.get(path)?;
        Some(&mut self.files[file])
    }

    /// One step of the program.
    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Write(path, offset, bytes) => {
                if let Some(file) = self.at(path) {
                    file.pending.push(Pending::Bytes(*offset, bytes.clone()));
                }
            }
            Step::Truncate(path, n) => {
                if let Some(file) = self.at(path) {
                    file.pending.push(Pending::Length(*n));
                }
            }
            Step::Sync(path) if self.folders.contains(path) => {
                let (now, later) = std::mem::take(&mut self.unsafe_names)
                    .into_iter()
                    .partition(|n| n.folder() == path);
                let now: Vec<Naming> = now;
                for naming in &now {
                    naming.apply(&mut self.safe_names);
                }
                self.unsafe_names = later;
                self.unsafe_folders.retain(|f| f.parent() != Some(path));
            }
            Step::Sync(path) => {
                if let Some(file) = self.at(path) {
                    for pending in std::mem::take(&mut file.pending) {
                        pending.apply(&mut file.safe);
                    }
                }
            }
            Step::Create(path) => {
                let file = self.file(Content::default());
                self.name(Naming::Named(path.clone(), file));
            }
            Step::Unlink(path) => self.name(Naming::Gone(path.clone())),
            Step::Rename(from, to) => {
                if let Some(file) = self.names.get(from).copied() {
                    self.name(Naming::Renamed(from.clone(), to.clone(), file));
                }
            }
            Step::Folder(path) => {
                self.folders.insert(path.clone());
                self.unsafe_folders.insert(path.clone());
            }
            Step::Said(_) => {}
        }
    }

    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.unsafe_names.push(naming);
    }

    /// Writes down below `to` what is left of `root` if the power goes now.
    pub fn cut(&self, root: &Path, to: &Path, cut: Cut, rng: &mut fastrand::Rng) {
        let mut names = self.safe_names.clone();
        let named = match cut {
            Cut::Nothing => 0,
            Cut::All => self.unsafe_names.len(),
            Cut::Some => rng.usize(0..=self.unsafe_names.len()),
        };
        for naming in &self.unsafe_names[..named] {
            naming.apply(&mut names);
        }
        let place = |path: &Path| to.join(path.strip_prefix(root).unwrap());
        let is_lost = |path: &Path| {
            !matches!(cut, Cut::All) && path.ancestors().any(|f| self.unsafe_folders.contains(f))
        };
        for folder in self.folders.iter().filter(|f| !is_lost(f)) {
            std::fs::create_dir_all(place(folder)).unwrap();
        }
        for (path, file) in names {
            // SQLite's index of its log is made anew by whoever opens it first.
            if is_lost(&path) || path.to_string_lossy().ends_with("-shm") {
                continue;
            }
            let content = self.files[file].left(cut, rng);
            std::fs::write(place(&path), content).unwrap();
        }
    }
}

impl Content {
    fn left(&self, cut: Cut, rng: &mut fastrand::Rng) -> Vec<u8> {
        let mut left = self.safe.clone();
        let likely = rng.f32();
        for pending in &self.pending {
            match (cut, pending) {
                (Cut::Nothing, _) => {}
                (Cut::All, pending) => pending.apply(&mut left),
                (Cut::Some, Pending::Length(_)) => {
                    if rng.f32() < likely {
                        pending.apply(&mut left);
                    }
                }
                (Cut::Some, Pending::Bytes(offset, bytes)) => {
                    for (n, sector) in bytes.chunks(SECTOR).enumerate() {
                        let at = offset + (n * SECTOR) as u64;
                        if rng.f32() < likely {
                            Pending::Bytes(at, sector.to_vec()).apply(&mut left);
                        } else if rng.u8(..) < 16 {
                            let rubbish = std::iter::repeat_with(|| rng.u8(..)).take(sector.len());
                            Pending::Bytes(at, rubbish.collect()).apply(&mut left);
                        }
                    }
                }
            }
        }
        left
    }
}
