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
    /// Bytes that still fit; removing a file gives its bytes back.
    #[cfg(test)]
    pub room: Option<std::sync::Arc<std::sync::atomic::AtomicU64>>,
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

    /// So many bytes are about to be written; an error if they do not fit.
    #[cfg(test)]
    fn fill(&self, bytes: &[u8]) -> io::Result<()> {
        use std::sync::atomic::Ordering::Relaxed;
        let Some(room) = &self.room else {
            return Ok(());
        };
        let left = room.load(Relaxed).checked_sub(bytes.len() as u64);
        let left = left.ok_or(io::ErrorKind::StorageFull)?;
        room.store(left, Relaxed);
        Ok(())
    }

    #[cfg(not(test))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "tests fill the disk here"
    )]
    fn fill(&self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    /// Bytes that may still be written below `dir`.
    ///
    /// # Errors
    /// The system's.
    #[cfg_attr(
        not(test),
        expect(clippy::unused_self, reason = "tests say how much it is")
    )]
    pub fn free(&self, dir: &Path) -> io::Result<u64> {
        #[cfg(test)]
        if let Some(room) = &self.room {
            return Ok(room.load(std::sync::atomic::Ordering::Relaxed));
        }
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Evidence may take no more of the disk once less than `keep` bytes are free: findings go first.
    ///
    /// # Errors
    /// It is so.
    pub fn has_room(&self, dir: &Path, keep: u64) -> io::Result<()> {
        // Where nobody can say, the write itself will tell.
        let Ok(free) = self.free(dir) else {
            return Ok(());
        };
        if free >= keep {
            return Ok(());
        }
        let (free, keep) = (free >> 20, keep >> 20);
        Err(io::Error::new(
            io::ErrorKind::StorageFull,
            format!(
                "the disk has {free} MiB free, and below {keep} MiB evidence gives way to findings"
            ),
        ))
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
        self.fill(bytes)?;
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
        self.fill(bytes)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    /// Removes a file; one that is gone already is no error.
    ///
    /// # Errors
    /// The system's.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        #[cfg(test)]
        if let (Some(room), Ok(about)) = (&self.room, fs::metadata(path)) {
            room.fetch_add(about.len(), std::sync::atomic::Ordering::Relaxed);
        }
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
