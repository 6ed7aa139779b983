//! Writing so that a power cut leaves the old or the new, never half: every step that reaches the
//! disk goes through here, so that tests can cut the power between any two of them.
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// 0640: what may be handed out.
    Group,
    /// 0600: the key, and pictures as the camera saw them.
    Owner,
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Self::Group => 0o640,
            Self::Owner => 0o600,
        }
    }
}

/// The disk, as evidence uses it.
#[derive(Debug, Default)]
pub struct Disk {
    /// Steps until the power goes.
    #[cfg(test)]
    pub steps_left: Option<std::cell::Cell<u32>>,
}

impl Disk {
    /// One step reaches the disk; an error once the power is gone.
    #[cfg(test)]
    fn step(&self) -> io::Result<()> {
        let Some(left) = &self.steps_left else {
            return Ok(());
        };
        match left.get() {
            0 => Err(io::Error::other("power cut")),
            n => {
                left.set(n - 1);
                Ok(())
            }
        }
    }

    #[cfg(not(test))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "tests cut the power here"
    )]
    fn step(&self) -> io::Result<()> {
        Ok(())
    }

    /// Makes a folder, and those above it, readable for the group at most; `Owner`: for nobody else.
    ///
    /// # Errors
    /// The system's.
    pub fn make_folder(&self, path: &Path, access: Access) -> io::Result<()> {
        self.step()?;
        let mode = match access {
            Access::Group => 0o750,
            Access::Owner => 0o700,
        };
        DirBuilder::new().recursive(true).mode(mode).create(path)
    }

    /// Writes and syncs a file, in place.
    ///
    /// # Errors
    /// The system's; a part of it may be there.
    pub fn write(&self, path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(access.mode())
            .open(path)?;
        if let Err(cut) = self.step() {
            file.write_all(&bytes[..bytes.len() / 2])?;
            return Err(cut);
        }
        file.write_all(bytes)?;
        file.sync_all()
    }

    /// Writes a file beside its place, then puts it there whole.
    ///
    /// # Errors
    /// The system's; what was there before still is.
    pub fn replace(&self, path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
        let part = path.with_extension("part");
        self.write(&part, bytes, access)?;
        self.rename(&part, path)
    }

    /// Renames, and syncs the folder of the new name.
    ///
    /// # Errors
    /// The system's.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        fs::rename(from, to)?;
        match to.parent() {
            Some(folder) => sync_folder(folder),
            None => Ok(()),
        }
    }

    /// Appends and syncs.
    ///
    /// # Errors
    /// The system's; a part of it may be there.
    pub fn append(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        if let Err(cut) = self.step() {
            file.write_all(&bytes[..bytes.len() / 2])?;
            return Err(cut);
        }
        file.write_all(bytes)?;
        file.sync_all()
    }

    /// Removes a file; one that is gone already is no error.
    ///
    /// # Errors
    /// The system's.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        match fs::remove_file(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Makes what was renamed or created in a folder outlive a power cut.
///
/// # Errors
/// The system's.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
