//! The chain: one append-only file of signed entries, each holding the digest of the one before.
//!
//! # Operation
//!
//! `chain.jsonl` is the word that counts; a bundle's `manifest.json` is a copy of its line, so that a
//! bundle can be handed out by itself. An entry is signed, appended and synced before anything else is
//! done about it; whoever makes it has kept what is needed to do the rest after a power cut
//! (`pending.json` for a bundle, the files' names in the entry for a removal).
//!
//! # Failure
//!
//! | what | what happens |
//! | --- | --- |
//! | the power goes while a line is written | the next start cuts the torn line off and says so: nobody was told of it |
//! | the disk refuses | the file is cut back to its last whole line, the caller keeps its entry |
//! | a line in the middle is damaged | said at the start and by `mingchu verify`; the chain goes on from its last line, the break stays for all to see |
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::disk::{Disk, sync_folder};
use super::key::SiteKey;
use super::manifest::{Body, Entry, Line, LineError, NO_ENTRY, SiteName, VERSION};
use crate::base::digest::sha256_hex;
use crate::base::time::UtcMicros;

/// Name of the chain's file.
pub const CHAIN_FILE: &str = "chain.jsonl";

/// The chain, as its only writer has it.
#[derive(Debug)]
pub struct Chain {
    file: File,
    path: PathBuf,
    key: SiteKey,
    site: SiteName,
    next_index: u64,
    /// Digest of the newest entry.
    head: String,
    /// Bytes of whole lines; what is behind them after a failed write is cut off first.
    good_bytes: u64,
}

/// An entry by number and digest. Whoever has it can tell whether a chain was cut off before it, which the
/// chain itself cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its number, from 0.
    pub entry: u64,
    /// SHA-256 of its line, 64 hex digits.
    pub sha256: String,
}

impl std::str::FromStr for Head {
    type Err = String;

    /// `NUMBER:SHA256`.
    fn from_str(text: &str) -> Result<Self, String> {
        let shape = || format!("`{text}` is not NUMBER:SHA256, e.g. 41:9f86d0…");
        let (entry, sha256) = text.split_once(':').ok_or_else(shape)?;
        let is_digest = sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit());
        let entry = entry.parse().ok().filter(|_| is_digest).ok_or_else(shape)?;
        Ok(Self {
            entry,
            sha256: sha256.to_ascii_lowercase(),
        })
    }
}

/// What was found in the file.
#[derive(Debug, Default)]
pub struct Found {
    /// All entries that can be read, in order.
    pub entries: Vec<Entry>,
    /// Bytes of a torn line that were cut off its end.
    pub torn_bytes: u64,
    /// The first thing that is wrong with it, if any.
    pub broken: Option<String>,
}

/// An entry that is on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The signed line.
    pub line: Vec<u8>,
    /// Its number.
    pub index: u64,
}

/// The lines of a chain, each with its line feed; the last one may lack it.
pub fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|b| *b == b'\n')
}

impl Chain {
    /// Opens the chain in `dir`, which must exist.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(dir: &Path, key: SiteKey, site: SiteName) -> io::Result<(Self, Found)> {
        let path = dir.join(CHAIN_FILE);
        let existed = path.exists();
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o640)
            .open(&path)?;
        if !existed {
            sync_folder(dir)?;
        }
        let text = std::fs::read(&path)?;
        let mut chain = Self {
            file,
            path,
            key,
            site,
            next_index: 0,
            head: NO_ENTRY.to_owned(),
            good_bytes: 0,
        };
        let mut found = Found::default();
        for line in lines(&text) {
            chain.take(line, &mut found);
        }
        if found.torn_bytes > 0 {
            chain.file.set_len(chain.good_bytes)?;
            chain.file.sync_all()?;
        }
        Ok((chain, found))
    }

    /// Follows one line of the file.
    fn take(&mut self, line: &[u8], found: &mut Found) {
        let number = found.entries.len() as u64;
        let mut broken = |what: String| {
            found.broken.get_or_insert(what);
        };
        match Line::parse(line) {
            Err(LineError::CutOff) => {
                found.torn_bytes = line.len() as u64;
                return;
            }
            Err(e) => {
                broken(format!("entry {number}: {e}"));
                self.next_index += 1;
                self.head = sha256_hex(line);
            }
            Ok(parsed) => {
                let index = parsed.entry.index;
                if index != self.next_index || parsed.entry.previous != self.head {
                    broken(format!("entry {index} does not follow the one before it"));
                }
                self.next_index = index + 1;
                self.head = parsed.digest;
                found.entries.push(parsed.entry);
            }
        }
        self.good_bytes += line.len() as u64;
    }

    /// Signs and appends; on the disk when this returns.
    ///
    /// # Errors
    /// The disk refused; nothing was added.
    pub fn append(&mut self, disk: &Disk, body: Body, now: UtcMicros) -> io::Result<Appended> {
        let entry = Entry {
            v: VERSION,
            index: self.next_index,
            previous: self.head.clone(),
            created: now.to_string(),
            site: self.site.clone(),
            body,
            key: self.key.public().hex(),
        };
        let line = entry.signed(&self.key)?;
        // What a failed write left behind must not come before this line.
        if self.file.metadata()?.len() != self.good_bytes {
            self.file.set_len(self.good_bytes)?;
        }
        disk.append(&mut self.file, &line)?;
        self.good_bytes += line.len() as u64;
        self.next_index += 1;
        self.head = sha256_hex(&line);
        Ok(Appended {
            index: entry.index,
            line,
        })
    }

    /// The line of the first entry that is `wanted`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn find(&self, wanted: impl Fn(&Entry) -> bool) -> io::Result<Option<Vec<u8>>> {
        let text = std::fs::read(&self.path)?;
        let mut lines = lines(&text);
        let line = lines.find(|l| Line::parse(l).is_ok_and(|l| wanted(&l.entry)));
        Ok(line.map(<[u8]>::to_vec))
    }

    /// Number and digest of the newest entry, if there is one.
    pub fn newest(&self) -> Option<Head> {
        let entry = self.next_index.checked_sub(1)?;
        let sha256 = self.head.clone();
        Some(Head { entry, sha256 })
    }

    /// How many entries there are.
    pub fn entries(&self) -> u64 {
        self.next_index
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::manifest::DeletedBody;

    fn open(dir: &Path) -> (Chain, Found) {
        let key = SiteKey::open(&dir.join("site.key"), false, &Disk::default()).unwrap();
        let site = SiteName {
            region: "410724".to_owned(),
            id: "site-000123".to_owned(),
        };
        Chain::open(dir, key, site).unwrap()
    }

    fn body(n: usize) -> Body {
        Body::Deleted(DeletedBody {
            reason: format!("reason {n}"),
            files: Vec::new(),
        })
    }

    #[test]
    fn entries_follow_each_other_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..3 {
            let (mut chain, found) = open(dir.path());
            assert_eq!((found.entries.len(), found.broken), (2 * round, None));
            for n in 0..2 {
                let index = chain
                    .append(&Disk::default(), body(n), UtcMicros(0))
                    .unwrap()
                    .index;
                assert_eq!(index, (2 * round + n) as u64);
            }
        }
        let (chain, found) = open(dir.path());
        assert_eq!((chain.entries(), found.entries.len()), (6, 6));
        assert_eq!(chain.newest().map(|h| h.entry), Some(5));
        let fifth = chain.find(|e| e.index == 4).unwrap().unwrap();
        assert_eq!(Line::parse(&fifth).unwrap().entry, found.entries[4]);
    }

    #[test]
    fn wherever_the_power_goes_in_a_line_the_next_start_goes_on_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let (mut chain, _) = open(dir.path());
        chain
            .append(&Disk::default(), body(0), UtcMicros(0))
            .unwrap();
        chain
            .append(&Disk::default(), body(1), UtcMicros(0))
            .unwrap();
        let path = dir.path().join(CHAIN_FILE);
        let whole = std::fs::read(&path).unwrap();
        let first = lines(&whole).next().unwrap().len();
        for cut in first..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (mut chain, found) = open(dir.path());
            assert_eq!(found.torn_bytes as usize, cut - first);
            assert_eq!((found.entries.len(), found.broken), (1, None));
            let again = chain
                .append(&Disk::default(), body(1), UtcMicros(0))
                .unwrap();
            assert_eq!(again.index, 1);
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn a_write_that_failed_leaves_nothing_before_the_next_line() {
        let dir = tempfile::tempdir().unwrap();
        let (mut chain, _) = open(dir.path());
        let cut = Disk {
            steps_left: Some(std::cell::Cell::new(0)),
            ..Disk::default()
        };
        chain.append(&cut, body(0), UtcMicros(0)).unwrap_err();
        chain
            .append(&Disk::default(), body(1), UtcMicros(0))
            .unwrap();
        let (_, found) = open(dir.path());
        assert_eq!(
            (found.entries.len(), found.torn_bytes, found.broken),
            (1, 0, None)
        );
    }

    #[test]
    fn a_damaged_line_is_named_and_the_chain_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let (mut chain, _) = open(dir.path());
        for n in 0..3 {
            chain
                .append(&Disk::default(), body(n), UtcMicros(0))
                .unwrap();
        }
        let path = dir.path().join(CHAIN_FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("reason 1", "reason 9", 1)).unwrap();
        let (mut chain, found) = open(dir.path());
        assert_eq!(
            found.broken.unwrap(),
            "entry 2 does not follow the one before it"
        );
        let next = chain
            .append(&Disk::default(), body(3), UtcMicros(0))
            .unwrap();
        assert_eq!(next.index, 3);
    }
}
