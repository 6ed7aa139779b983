//! The store's files as wholes: the folder they lie in, and how a damaged one is set aside.
//!
//! What must not be here: what is in them. Every step here may be the last before the power goes, and
//! the next start must find either the old store or the new one, never neither.
//!
//! # How a damaged file is replaced
//!
//! | step | if the power goes after it, the next start |
//! | --- | --- |
//! | what can be read is written into `<file>.corrupt-<utc seconds>.new` | finds the damaged file in its place, removes the draft and begins anew |
//! | the draft is renamed to `….mended` | finds it and goes on with the next steps |
//! | the log, then the damaged file, move to `<file>.corrupt-<utc seconds>` | the same |
//! | `….mended` is renamed to `<file>` | opens it |
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

const ASIDE: &str = ".corrupt-";
const DRAFT: &str = ".new";
const MENDED: &str = ".mended";

/// `path` with `end` after its name.
pub fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Makes a folder and those above it, so that a power cut does not take them away again with all that
/// was promised to be in them.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    let new = folder.ancestors().take_while(|f| !f.exists()).count();
    fs::create_dir_all(folder)?;
    for made in folder.ancestors().take(new) {
        sync(folder_of(made))?;
    }
    Ok(())
}

/// A damaged file on its way aside, and the new one on its way into its place.
#[derive(Debug)]
pub struct Swap {
    path: PathBuf,
    aside: PathBuf,
}

impl Swap {
    /// Under a name that nothing has yet: a clock that stands still must not make one damaged file
    /// replace another.
    pub fn new(path: &Path, utc_seconds: i64) -> Self {
        let name = format!("{ASIDE}{utc_seconds}");
        let mut aside = beside(path, &name);
        for n in 2.. {
            if !aside.exists() && !beside(&aside, MENDED).exists() {
                break;
            }
            aside = beside(path, &format!("{name}-{n}"));
        }
        Self {
            path: path.to_owned(),
            aside,
        }
    }

    /// One that a power cut interrupted, if there is one. Drafts that were not finished are removed.
    ///
    /// # Errors
    /// The system's.
    pub fn unfinished(path: &Path) -> io::Result<Option<Self>> {
        let mut found = None;
        for name in names_beside(path)? {
            let file = folder_of(path).join(&name);
            if let Some(aside) = name.strip_suffix(MENDED) {
                found = Some(Self {
                    path: path.to_owned(),
                    aside: folder_of(path).join(aside),
                });
            } else if name.contains(DRAFT) {
                fs::remove_file(file)?;
            }
        }
        Ok(found)
    }

    /// Where the damaged file goes.
    pub fn aside(&self) -> &Path {
        &self.aside
    }

    /// Where the new one is written first.
    pub fn draft(&self) -> PathBuf {
        beside(&self.aside, DRAFT)
    }

    /// Where a copy of the damaged file may lie while it is read.
    pub fn copy(&self) -> PathBuf {
        beside(&self.aside, &format!(".copy{DRAFT}"))
    }

    /// Takes that copy away.
    pub fn discard_copy(&self) {
        for end in ["", "-wal", "-shm"] {
            if let Err(e) = remove(&beside(&self.copy(), end)) {
                tracing::warn!(err = %e, "copy of a damaged store not removed");
            }
        }
    }

    /// Takes the draft away: it will not be used.
    ///
    /// # Errors
    /// The system's.
    pub fn discard(&self) -> io::Result<()> {
        for file in [self.draft(), beside(&self.draft(), "-journal")] {
            remove(&file)?;
        }
        Ok(())
    }

    /// The draft is whole: from here on it is the store.
    ///
    /// # Errors
    /// The system's; the damaged file is still in its place then, and so is its log.
    pub fn seal(&self) -> io::Result<()> {
        // The one thing that may be in the way is found out while the way back is open.
        for end in ["", "-wal"] {
            if beside(&self.aside, end).is_dir() {
                return Err(io::ErrorKind::IsADirectory.into());
            }
        }
        fs::rename(self.draft(), beside(&self.aside, MENDED))?;
        sync(folder_of(&self.path))
    }

    /// Moves the damaged file aside and the new one into its place, as far as that is not done yet.
    ///
    /// # Errors
    /// The system's; call again.
    pub fn finish(&self) -> io::Result<()> {
        // A log must not stay: SQLite would play it into the other file.
        rename(&beside(&self.path, "-wal"), &beside(&self.aside, "-wal"))?;
        remove(&beside(&self.path, "-shm"))?;
        rename(&self.path, &self.aside)?;
        sync(folder_of(&self.path))?;
        fs::rename(beside(&self.aside, MENDED), &self.path)?;
        sync(folder_of(&self.path))
    }
}

/// Names of damaged files that were set aside and are still there.
pub fn set_aside(path: &Path) -> Vec<String> {
    let is_log = |name: &str| {
        name.contains(DRAFT)
            || ["-wal", "-shm", MENDED]
                .iter()
                .any(|end| name.ends_with(end))
    };
    let mut names = names_beside(path).unwrap_or_default();
    names.retain(|name| !is_log(name));
    names.sort();
    names
}

/// What has `path`'s name and [`ASIDE`] at the beginning of its own.
fn names_beside(path: &Path) -> io::Result<Vec<String>> {
    let Some(name) = path.file_name() else {
        return Ok(Vec::new());
    };
    let begin = format!("{}{ASIDE}", name.to_string_lossy());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder_of(path))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(&begin) {
            names.push(name);
        }
    }
    Ok(names)
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
