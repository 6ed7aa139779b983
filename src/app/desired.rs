//! The centre's config on the disk, beside the site's store.
//!
//! `desired.toml` is the one in force, with its revision in the first line; `desired.last.toml` the one
//! before, for the case that the newer one cannot be used any more (another version of the program, or
//! another file of the site's own). A new one is written whole under another name before it is taken
//! up, and takes its place only when it is in force.
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::config::{self, Desired, Problems, SiteConfig};
use crate::base::digest::sha256_hex;

const IN_FORCE: &str = "desired.toml";
const BEFORE: &str = "desired.last.toml";
const NEW: &str = "desired.new.toml";
const FIRST_LINE: &str = "# The centre's config for this site, revision ";

fn read(path: &Path) -> Option<Desired> {
    let whole = fs::read_to_string(path).ok()?;
    let (first, text) = whole.split_once('\n')?;
    let revision = first.strip_prefix(FIRST_LINE)?.trim().parse().ok()?;
    Some(Desired {
        revision,
        text: text.to_owned(),
    })
}

/// The one in force; none: the site's own file alone counts.
pub fn in_force(state_dir: &Path) -> Option<Desired> {
    read(&state_dir.join(IN_FORCE))
}

/// A config written, and not yet in force.
#[derive(Debug)]
pub struct Written {
    folder: PathBuf,
}

/// Writes a new one beside the one in force. Blocking.
///
/// # Errors
/// The disk's; nothing has changed then.
pub fn write(state_dir: &Path, desired: &Desired) -> io::Result<Written> {
    let path = state_dir.join(NEW);
    let mut file = fs::File::create(&path)?;
    write!(file, "{FIRST_LINE}{}\n{}", desired.revision, desired.text)?;
    file.sync_all()?;
    Ok(Written {
        folder: state_dir.to_path_buf(),
    })
}

impl Written {
    /// Puts it into the place of the one in force, which is kept as the one before. Blocking.
    ///
    /// # Errors
    /// The disk's; the one before may be in force after a restart.
    pub fn settle(self) -> io::Result<()> {
        let (new, now, before) = (
            self.folder.join(NEW),
            self.folder.join(IN_FORCE),
            self.folder.join(BEFORE),
        );
        match fs::hard_link(&now, self.folder.join("desired.link.toml")) {
            Ok(()) => fs::rename(self.folder.join("desired.link.toml"), before)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        fs::rename(new, now)?;
        fs::File::open(&self.folder)?.sync_all()
    }
}

/// A config that was not taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejected {
    /// SHA-256 of its text.
    pub revision: String,
    /// What is wrong with it.
    pub problems: Problems,
}

/// The site's config as it counts: its own file, with the centre's over it; and SHA-256 of the file
/// alone. Blocking.
pub fn load(path: &Path) -> (String, Result<SiteConfig, Rejected>) {
    match config::read_file(path) {
        Ok(text) => (sha256_hex(text.as_bytes()), load_text(path, &text)),
        Err(problems) => {
            let revision = String::new();
            (revision.clone(), Err(Rejected { revision, problems }))
        }
    }
}

fn load_text(path: &Path, text: &str) -> Result<SiteConfig, Rejected> {
    let own = config::parse(path, text);
    let config = own.config.ok_or_else(|| Rejected {
        revision: sha256_hex(text.as_bytes()),
        problems: Problems(own.problems),
    })?;
    match in_force(&config.state_dir) {
        Some(desired) => load_over(path, text, &desired),
        None => Ok(config),
    }
}

/// The site's own text with this of the centre over it.
///
/// # Errors
/// What is wrong with the two together.
pub fn load_over(path: &Path, own: &str, desired: &Desired) -> Result<SiteConfig, Rejected> {
    if desired.text.trim().is_empty() {
        // Nothing is wanted but what the site has; the revision is known all the same.
        let parsed = config::parse(path, own);
        return parsed.config.ok_or_else(|| Rejected {
            revision: sha256_hex(own.as_bytes()),
            problems: Problems(parsed.problems),
        });
    }
    let parsed = config::parse_over(path, own, desired);
    parsed.config.ok_or_else(|| Rejected {
        revision: sha256_hex(format!("{own}\n{}", desired.text).as_bytes()),
        problems: Problems(parsed.problems),
    })
}

/// What to begin with: where the centre's config cannot be used, the one before it, and where that
/// cannot either, the site's own file alone; with what was wrong. Blocking.
///
/// # Errors
/// The site's own file has mistakes.
pub fn load_first(path: &Path) -> Result<(SiteConfig, Option<Rejected>), Problems> {
    let text = config::read_file(path)?;
    let own = config::parse(path, &text);
    let own = own.config.ok_or(Problems(own.problems))?;
    let rejected = match load_text(path, &text) {
        Ok(config) => return Ok((config, None)),
        Err(rejected) => rejected,
    };
    let before = read(&own.state_dir.join(BEFORE));
    let config = before.and_then(|before| load_over(path, &text, &before).ok());
    Ok((config.unwrap_or(own), Some(rejected)))
}

#[cfg(test)]
mod tests;
