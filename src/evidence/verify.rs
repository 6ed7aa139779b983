//! Checks a bundle, or a chain with all its bundles, with nothing but the files and perhaps a key.
//!
//! What must not be here: anything of a running daemon. All that is wrong is listed in the order of
//! the chain, so that the first of the list is the first broken link.
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::bundle::{self, BLURRED_CLIP, BLURRED_MANIFEST, MANIFEST, PENDING, SEALED};
use super::chain::{CHAIN_FILE, Head, lines};
use super::key::{KeyError, PUBLIC_KEY_FILE, PublicKey};
use super::manifest::{
    Body, DeletedBody, DerivedBody, FileEntry, Line, LineError, NO_ENTRY, Piece,
};
use crate::base::digest::sha256_hex;

/// Why nothing could be checked.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// There is neither a chain nor a manifest.
    #[error(
        "{}: holds neither {CHAIN_FILE} nor {MANIFEST}; name an evidence folder, the state directory around it, or one bundle",
        path.display()
    )]
    NotEvidence {
        /// What was named.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An entry to look for, and no chain to look in.
    #[error(
        "{}: is one bundle, which cannot tell where its chain ends; name the evidence folder to check --head",
        path.display()
    )]
    NoChain {
        /// What was named.
        path: PathBuf,
    },
    /// The key to check with is none.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Whose word it is that the key is the site's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyFrom {
    /// It was given with `--key`.
    Given,
    /// It lay beside the evidence: whoever could write the evidence could write it too.
    Beside,
    /// Only the entries themselves name it.
    Entries,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Break {
    /// Number of the chain's entry; none where the thing is in no entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// The file, relative to what was checked.
    pub file: String,
    /// What is wrong with it, with the digests.
    pub what: String,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Nothing is wrong.
    pub ok: bool,
    /// Entries of the chain; 1 for a bundle by itself.
    pub entries: u64,
    /// Bundles, snapshots among them.
    pub bundles: u64,
    /// Files whose digest was checked.
    pub files: u64,
    /// Files that are gone by record.
    pub deleted_files: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// 64 hex digits.
    pub key: String,
    /// See [`KeyFrom`].
    pub key_from: KeyFrom,
    /// All that is wrong, the first broken link first.
    pub broken: Vec<Break>,
    /// What is worth knowing and breaks nothing.
    pub notes: Vec<String>,
    /// Whether the entry that was looked for is in the chain; none if none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<bool>,
}

/// Who removed a file: entry, when, why.
type Deletions = BTreeMap<(String, String), (u64, String, String)>;

/// The newest entry on a blurred clip.
struct Derived {
    index: u64,
    line: Vec<u8>,
    body: Box<DerivedBody>,
}

struct Check {
    key: Option<PublicKey>,
    verdict: Verdict,
}

/// Checks what lies at `path`: a state directory, an evidence folder, or one bundle.
///
/// # Errors
/// [`VerifyError`] if there is nothing to check or to check with.
pub fn verify(path: &Path, key: Option<PublicKey>) -> Result<Verdict, VerifyError> {
    verify_with_head(path, key, None)
}

/// The same, and whether the chain there holds the entry `head`, which was its newest once: one that was
/// cut off, or rolled back to an older state, is whole but for that.
///
/// # Errors
/// [`VerifyError`] if there is nothing to check or to check with.
pub fn verify_with_head(
    path: &Path,
    key: Option<PublicKey>,
    head: Option<&Head>,
) -> Result<Verdict, VerifyError> {
    let inner = path.join("evidence");
    if path.join(CHAIN_FILE).is_file() {
        verify_chain(path, key, head)
    } else if path.join(MANIFEST).is_file() {
        if head.is_some() {
            let path = path.to_owned();
            return Err(VerifyError::NoChain { path });
        }
        verify_bundle(path, key)
    } else if inner.join(CHAIN_FILE).is_file() {
        verify_chain(&inner, key, head)
    } else {
        Err(VerifyError::NotEvidence {
            path: path.to_owned(),
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, VerifyError> {
    std::fs::read(path).map_err(|source| VerifyError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

impl Check {
    fn new(given: Option<PublicKey>, beside: &Path) -> Result<Self, VerifyError> {
        let (key, key_from) = match given {
            Some(key) => (Some(key), KeyFrom::Given),
            None if beside.is_file() => (Some(PublicKey::read(beside)?), KeyFrom::Beside),
            None => (None, KeyFrom::Entries),
        };
        Ok(Self {
            key,
            verdict: Verdict {
                ok: true,
                entries: 0,
                bundles: 0,
                files: 0,
                deleted_files: 0,
                deleted_bytes: 0,
                key: key.map(PublicKey::hex).unwrap_or_default(),
                key_from,
                broken: Vec::new(),
                notes: Vec::new(),
                head: None,
            },
        })
    }

    fn broken(&mut self, index: Option<u64>, file: impl Into<String>, what: impl Into<String>) {
        self.verdict.broken.push(Break {
            index,
            file: file.into(),
            what: what.into(),
        });
    }

    fn note(&mut self, note: String) {
        self.verdict.notes.push(note);
    }

    /// Whether the entry is signed by the key that counts.
    fn check_signature(&mut self, line: &Line, file: &str) {
        let index = Some(line.entry.index);
        let Some(own) = PublicKey::from_hex(&line.entry.key) else {
            return self.broken(index, file, "names no key");
        };
        let key = *self.key.get_or_insert(own);
        self.verdict.key = key.hex();
        if own != key {
            let what = format!("is signed with key {}, not with {}", own.hex(), key.hex());
            self.broken(index, file, what);
        } else if !line.is_signed_by(key) {
            self.broken(
                index,
                file,
                "its signature is false: it was changed after it was signed",
            );
        }
    }

    /// Whether the entry of this number is the one that was told of.
    fn check_head(&mut self, told: &Head, digest: &str, place: &str) {
        let is_it = told.sha256 == digest;
        // Of two with one number, which is a break of its own, one must be it.
        let found = self.verdict.head == Some(true) || is_it;
        self.verdict.head = Some(found);
        if !found {
            let what = format!(
                "is not the entry that was told of: its SHA-256 is {digest}, not {}",
                told.sha256
            );
            self.broken(Some(told.entry), place, what);
        }
    }

    fn check_file(&mut self, at: &Path, folder: &str, index: u64, file: &FileEntry) -> bool {
        let name = join(folder, &file.name);
        let bytes = match std::fs::read(at.join(&file.name)) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return false,
            Err(e) => {
                self.broken(Some(index), name, format!("cannot be read: {e}"));
                return true;
            }
        };
        self.verdict.files += 1;
        let sha256 = sha256_hex(&bytes);
        if sha256 != file.sha256 {
            let what = format!(
                "was changed: its SHA-256 is {sha256}, the manifest says {}",
                file.sha256
            );
            self.broken(Some(index), name, what);
        }
        true
    }

    /// The files of a bundle against its entry. `folder` is what to call it; `at_home`: what
    /// never leaves the site must be there too.
    fn check_files(
        &mut self,
        (at, folder): (&Path, &str),
        index: u64,
        body: &Piece,
        deletions: &Deletions,
        derived: Option<&Derived>,
        at_home: bool,
    ) {
        self.verdict.bundles += 1;
        let mut sealed_elsewhere = 0;
        for file in &body.files {
            if !bundle::is_inside(&file.name) {
                self.broken(Some(index), &file.name, "is a name outside of the bundle");
                continue;
            }
            let key = (body.folder.clone(), file.name.clone());
            let deleted = deletions.get(&key);
            let name = join(folder, &file.name);
            match (self.check_file(at, folder, index, file), deleted) {
                (true, None) => {}
                (true, Some((by, when, _))) => {
                    self.note(format!(
                        "{name} was to be deleted by entry {by} on {when} and is still there"
                    ));
                }
                (false, Some(_)) => {
                    self.verdict.deleted_files += 1;
                    self.verdict.deleted_bytes += file.bytes;
                }
                (false, None) if !at_home && file.name.starts_with(SEALED) => sealed_elsewhere += 1,
                (false, None) => {
                    let what = "is missing, and no entry says that it was deleted";
                    self.broken(Some(index), name, what);
                }
            }
        }
        if sealed_elsewhere > 0 {
            self.note(format!(
                "{sealed_elsewhere} sealed files are not here: they stay at the site"
            ));
        }
        let mut listed: BTreeSet<&str> = body.files.iter().map(|f| f.name.as_str()).collect();
        if let Some(derived) = derived {
            listed.extend([BLURRED_MANIFEST, derived.body.file.name.as_str()]);
            self.check_derived((at, folder), derived, body, deletions);
        }
        for name in bundle::names_in(at).unwrap_or_default() {
            if name == MANIFEST || listed.contains(name.as_str()) {
                continue;
            }
            let name = join(folder, &name);
            self.note(if bundle::is_part(&name) || name.ends_with(PENDING) {
                format!("{name} was left by a stop; mingchu clears it at its next start")
            } else {
                format!("{name} is in no manifest: it proves nothing")
            });
        }
    }

    /// A blurred clip against its entry, and that against the bundle's.
    fn check_derived(
        &mut self,
        (at, folder): (&Path, &str),
        derived: &Derived,
        of: &Piece,
        deletions: &Deletions,
    ) {
        let Derived { index, line, body } = derived;
        let (index, name) = (*index, join(folder, &body.file.name));
        if body.file.name != BLURRED_CLIP {
            return self.broken(Some(index), name, "is no name for a blurred clip");
        }
        if body.finding != of.id || !of.files.contains(&body.from) {
            let what = format!(
                "says that it was made from {} with the SHA-256 {}, which this bundle does not hold",
                body.from.name, body.from.sha256
            );
            self.broken(Some(index), &*name, what);
        }
        let key = (body.folder.clone(), body.file.name.clone());
        // One that was removed may have been made again.
        let deleted = deletions.get(&key).filter(|(by, ..)| *by > index);
        match (self.check_file(at, folder, index, &body.file), deleted) {
            (true, None) => {}
            (true, Some((by, when, _))) => {
                self.note(format!(
                    "{name} was to be deleted by entry {by} on {when} and is still there"
                ));
            }
            (false, Some(_)) => {
                self.verdict.deleted_files += 1;
                self.verdict.deleted_bytes += body.file.bytes;
            }
            (false, None) => {
                let what = "is missing, and no entry says that it was deleted";
                self.broken(Some(index), name, what);
            }
        }
        let place = join(folder, BLURRED_MANIFEST);
        match std::fs::read(at.join(BLURRED_MANIFEST)) {
            Ok(copy) if copy == *line => {}
            Ok(_) => self.broken(Some(index), place, "differs from its entry in the chain"),
            Err(_) => self.note(format!(
                "{place} is still to be written; mingchu does it at its next start"
            )),
        }
    }

    fn done(mut self) -> Verdict {
        self.verdict.ok = self.verdict.broken.is_empty();
        if self.verdict.key_from == KeyFrom::Entries {
            let note = "no key to check with was given or lies beside: the signatures fit the key that the entries name";
            self.note(note.to_owned());
        }
        self.verdict
    }
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

fn note_deletions(index: u64, created: &str, body: &DeletedBody, deletions: &mut Deletions) {
    for file in &body.files {
        let key = (file.folder.clone(), file.name.clone());
        let by = (index, created.to_owned(), body.reason.clone());
        deletions.insert(key, by);
    }
}

fn verify_chain(
    dir: &Path,
    key: Option<PublicKey>,
    head_told: Option<&Head>,
) -> Result<Verdict, VerifyError> {
    let mut check = Check::new(key, &dir.join(PUBLIC_KEY_FILE))?;
    let text = read(&dir.join(CHAIN_FILE))?;
    let mut bundles: Vec<(u64, Vec<u8>, Piece)> = Vec::new();
    let mut deletions = Deletions::new();
    let mut derived: BTreeMap<String, Derived> = BTreeMap::new();
    let (mut next, mut head) = (0, NO_ENTRY.to_owned());
    for (number, line) in lines(&text).enumerate() {
        let parsed = match Line::parse(line) {
            Ok(parsed) => parsed,
            Err(LineError::CutOff) => {
                check.note(format!(
                    "{} bytes after entry {} are a line that a power cut tore; mingchu drops them at its next start",
                    line.len(),
                    i128::from(next) - 1
                ));
                continue;
            }
            Err(e) => {
                let place = format!("{CHAIN_FILE} line {}", number + 1);
                check.broken(Some(next), place, e.to_string());
                next += 1;
                head = sha256_hex(line);
                continue;
            }
        };
        let index = parsed.entry.index;
        let place = format!("{CHAIN_FILE} line {}", number + 1);
        if index != next {
            let what = format!(
                "is entry {index} where entry {next} should be: entries were taken out or moved"
            );
            check.broken(Some(next), &*place, what);
        } else if parsed.entry.previous != head {
            let what = format!(
                "does not follow the entry before it: that one's digest is {head}, this one says {}",
                parsed.entry.previous
            );
            check.broken(Some(index), &*place, what);
        }
        check.check_signature(&parsed, &place);
        if let Some(told) = head_told.filter(|told| told.entry == index) {
            check.check_head(told, &parsed.digest, &place);
        }
        (next, head) = (index + 1, parsed.digest);
        check.verdict.entries += 1;
        if let Some(piece) = parsed.entry.body.piece() {
            bundles.push((index, line.to_vec(), piece));
        }
        match parsed.entry.body {
            Body::Bundle(_) | Body::Snapshot(_) => {}
            Body::Deleted(body) => {
                note_deletions(index, &parsed.entry.created, &body, &mut deletions);
            }
            Body::Derived(body) => {
                let line = line.to_vec();
                derived.insert(body.folder.clone(), Derived { index, line, body });
            }
        }
    }
    if let Some(told) = head_told
        && check.verdict.head.is_none()
    {
        check.verdict.head = Some(false);
        let what = format!(
            "ends before entry {}, which was in it once: it was cut off, or put back to an older state",
            told.entry
        );
        check.broken(Some(next), CHAIN_FILE, what);
    }
    let mut known = BTreeSet::new();
    for (index, line, body) in &bundles {
        let folder = &body.folder;
        if !bundle::is_inside(folder) {
            let what = "is a name outside of the evidence folder";
            check.broken(Some(*index), folder, what);
            continue;
        }
        known.insert(folder.clone());
        let at = dir.join(folder);
        let place = join(folder, MANIFEST);
        match std::fs::read(at.join(MANIFEST)) {
            Ok(copy) if copy == *line => {}
            Ok(_) => check.broken(Some(*index), place, "differs from its entry in the chain"),
            Err(_) if at.join(PENDING).is_file() => {
                check.note(format!(
                    "{place} is still to be written; mingchu does it at its next start"
                ));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                check.broken(Some(*index), place, "is missing");
            }
            Err(e) => check.broken(Some(*index), place, format!("cannot be read: {e}")),
        }
        let derived = derived.remove(folder);
        let place = (&*at, folder.as_str());
        check.check_files(place, *index, body, &deletions, derived.as_ref(), true);
    }
    for (folder, Derived { index, .. }) in derived {
        let what = "is where a clip was blurred, but no entry names a bundle there";
        check.broken(Some(index), folder, what);
    }
    for folder in bundle::all_folders(dir).unwrap_or_default() {
        if known.contains(&folder) {
            continue;
        }
        if bundle::is_part(&folder) || dir.join(&folder).join(PENDING).is_file() {
            check.note(format!("{folder} is not signed yet"));
        } else {
            let what = "is a bundle that no entry names: its entry was taken out of the chain";
            check.broken(None, folder, what);
        }
    }
    // In the order of the chain; what is in no entry comes last.
    check
        .verdict
        .broken
        .sort_by_key(|b| b.index.unwrap_or(u64::MAX));
    Ok(check.done())
}

fn verify_bundle(folder: &Path, key: Option<PublicKey>) -> Result<Verdict, VerifyError> {
    let folder_full = folder
        .canonicalize()
        .unwrap_or_else(|_| folder.to_path_buf());
    let chain = folder_full
        .ancestors()
        .map(Path::to_path_buf)
        .find(|p| p.join(CHAIN_FILE).is_file());
    let around = chain.as_deref().unwrap_or(&folder_full);
    let mut check = Check::new(key, &around.join(PUBLIC_KEY_FILE))?;
    let manifest = read(&folder.join(MANIFEST))?;
    let line = match Line::parse(&manifest) {
        Ok(line) => line,
        Err(e) => {
            check.broken(None, MANIFEST, e.to_string());
            return Ok(check.done());
        }
    };
    check.verdict.entries = 1;
    check.check_signature(&line, MANIFEST);
    let index = line.entry.index;
    let mut deletions = Deletions::new();
    match &chain {
        Some(chain) => {
            let text = read(&chain.join(CHAIN_FILE))?;
            for other in lines(&text).filter_map(|l| Line::parse(l).ok()) {
                if let Body::Deleted(body) = &other.entry.body {
                    let key = check.key;
                    if key.is_some_and(|key| other.is_signed_by(key)) {
                        let entry = &other.entry;
                        note_deletions(entry.index, &entry.created, body, &mut deletions);
                    }
                }
            }
            if !lines(&text).any(|l| l == manifest) {
                check.broken(Some(index), MANIFEST, "is no entry of the chain around it");
            }
        }
        None => check.note("only this bundle was checked: its chain is not here".to_owned()),
    }
    if let Some(piece) = line.entry.body.piece() {
        let derived = derived_beside(&mut check, folder, &piece);
        if let (Some(derived), Some(chain)) = (&derived, &chain) {
            let text = read(&chain.join(CHAIN_FILE))?;
            if !lines(&text).any(|l| l == derived.line) {
                let what = "is no entry of the chain around it";
                check.broken(Some(derived.index), BLURRED_MANIFEST, what);
            }
        }
        let (at_home, derived) = (chain.is_some(), derived.as_ref());
        check.check_files((folder, ""), index, &piece, &deletions, derived, at_home);
    } else {
        check.broken(Some(index), MANIFEST, "speaks of no bundle");
    }
    Ok(check.done())
}

/// The entry on a blurred clip that lies in a bundle which is checked by itself.
fn derived_beside(check: &mut Check, folder: &Path, of: &Piece) -> Option<Derived> {
    let line = std::fs::read(folder.join(BLURRED_MANIFEST)).ok()?;
    let parsed = match Line::parse(&line) {
        Ok(parsed) => parsed,
        Err(e) => {
            check.broken(None, BLURRED_MANIFEST, e.to_string());
            return None;
        }
    };
    check.check_signature(&parsed, BLURRED_MANIFEST);
    let index = parsed.entry.index;
    match parsed.entry.body {
        Body::Derived(body) if body.folder == of.folder => Some(Derived { index, line, body }),
        _ => {
            check.broken(Some(index), BLURRED_MANIFEST, "speaks of another bundle");
            None
        }
    }
}

#[cfg(test)]
mod tests;
