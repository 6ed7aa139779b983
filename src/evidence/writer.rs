//! The bundle of a finding that opens, on the disk before the finding is committed.
//!
//! The folder is made beside its place and renamed into it whole, so that a finding never names a
//! picture that is not there. What the signed entry will say waits in `pending.json`: whatever happens
//! to the process then, the next start signs it. Runs on the analytics thread.
use std::io;
use std::path::{Path, PathBuf};

use super::bundle::{FINDING, PENDING, SEALED};
use super::disk::{Access, Disk, sync_folder};
use super::manifest::Draft;
use super::still::Pictures;

/// Writes bundles below one folder.
#[derive(Debug)]
pub struct BundleWriter {
    dir: PathBuf,
    /// The disk.
    pub disk: Disk,
}

/// It cannot be written. The finding goes on and says what is missing.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct WriteError {
    /// Which file or folder.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

impl BundleWriter {
    /// For the chain in `dir`.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            disk: Disk::default(),
        }
    }

    /// Writes the bundle of `draft`; `finding` is the opening revision as JSON. With less than `keep`
    /// bytes free on the disk there is no room for it.
    ///
    /// # Errors
    /// [`WriteError`]; nothing is left under the bundle's name.
    pub fn write(
        &self,
        draft: &Draft,
        finding: &[u8],
        pictures: &Pictures,
        keep: u64,
    ) -> Result<(), WriteError> {
        self.disk
            .has_room(&self.dir, keep)
            .map_err(|source| WriteError {
                path: self.dir.clone(),
                source,
            })?;
        let pending = serde_json::to_vec(draft).map_err(|e| WriteError {
            path: self.dir.join(&draft.folder),
            source: e.into(),
        })?;
        let pictures = pictures.pictures.iter();
        let mut files: Vec<(&str, &[u8])> = pictures.map(|p| (p.name, &*p.jpeg)).collect();
        files.extend([(FINDING, finding), (PENDING, &pending)]);
        put_folder(&self.disk, &self.dir, &draft.folder, &files)
    }
}

/// Writes a folder below `dir`, whole or not at all; names in `sealed/` are for the owner only.
///
/// # Errors
/// [`WriteError`]; nothing is left under the folder's name.
pub fn put_folder(
    disk: &Disk,
    dir: &Path,
    folder: &str,
    files: &[(&str, &[u8])],
) -> Result<(), WriteError> {
    let place = dir.join(folder);
    let part = place.with_extension("part");
    let written = try_put(disk, dir, &place, &part, files);
    if written.is_err() {
        // On a disk that is full every byte counts; if it cannot be removed, the next start does.
        drop(std::fs::remove_dir_all(&part));
    }
    written
}

fn try_put(
    disk: &Disk,
    dir: &Path,
    place: &Path,
    part: &Path,
    files: &[(&str, &[u8])],
) -> Result<(), WriteError> {
    let failed = |path: &Path, source| WriteError {
        path: path.to_owned(),
        source,
    };
    let day = place.parent().unwrap_or(dir);
    let new_day = !day.is_dir();
    disk.make_folder(part, Access::Group)
        .map_err(|e| failed(part, e))?;
    for (name, bytes) in files {
        let path = part.join(name);
        let sealed = name.starts_with(SEALED);
        let access = if sealed { Access::Owner } else { Access::Group };
        let folder = path.parent().filter(|_| sealed);
        let made = folder.map_or(Ok(()), |f| disk.make_folder(f, Access::Owner));
        let write = |()| disk.write(&path, bytes, access);
        let synced = |()| folder.map_or(Ok(()), sync_folder);
        made.and_then(write)
            .and_then(synced)
            .map_err(|e| failed(&path, e))?;
    }
    sync_folder(part)
        .and_then(|()| disk.rename(part, place))
        .map_err(|e| failed(place, e))?;
    if new_day {
        // The folders of day, month and year are new to those above them.
        for folder in day.ancestors().take_while(|f| f.starts_with(dir)) {
            sync_folder(folder).map_err(|e| failed(folder, e))?;
        }
    }
    Ok(())
}
