//! What is signed: one line of JSON for each bundle, for each picture that was asked for, for each file
//! made from one of a bundle later, and for each removal of files.
//!
//! # Format
//!
//! An entry is one JSON object on one line, ended by a line feed. Its members come in the order of
//! [`Entry`]; the last one is `signature`. What is signed (Ed25519, RFC 8032) is the line without the
//! line feed and without the signature: take out `,"signature":"<128 hex digits>"`, the bytes left are
//! the message. The *digest* of an entry is the SHA-256 of the whole line with its line feed, which for
//! a bundle or a snapshot is also the SHA-256 of its `manifest.json`, and for a blurred clip that of its
//! `blurred.json`. `previous` is the digest of the entry before, 64
//! zeros for the first; `index` counts from 0 without gaps.
//!
//! Whoever checks an entry works on these bytes and never writes JSON anew, so there is no second form
//! of it that could differ. Members may be added before `key`; none may change its meaning.
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::key::{PublicKey, SiteKey, from_hex, hex};
use crate::base::digest::sha256_hex;

/// `previous` of the first entry.
pub const NO_ENTRY: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Version of the format.
pub const VERSION: u32 = 1;
const SIGNATURE: &str = ",\"signature\":\"";
/// `,"signature":"`, 128 digits, `"}`.
const TAIL_BYTES: usize = SIGNATURE.len() + 128 + 2;

/// One signed statement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// [`VERSION`].
    pub v: u32,
    /// From 0, without gaps.
    pub index: u64,
    /// Digest of the entry before.
    pub previous: String,
    /// When it was signed, RFC 3339.
    pub created: String,
    /// Who signed.
    pub site: SiteName,
    /// What it says.
    #[serde(flatten)]
    pub body: Body,
    /// The public key, 64 hex digits.
    pub key: String,
}

/// The premises.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteName {
    /// County code.
    pub region: String,
    /// Premises.
    pub id: String,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Body {
    /// The evidence of a finding.
    Bundle(Box<BundleBody>),
    /// Files of bundles that were removed.
    Deleted(DeletedBody),
    /// A file that was made from one of a bundle after the bundle was signed.
    Derived(Box<DerivedBody>),
    /// A picture that somebody asked for.
    Snapshot(Box<SnapshotBody>),
}

/// A folder of its own that an entry speaks of, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The finding, or the snapshot.
    pub id: Uuid,
    /// Below the folder of the chain.
    pub folder: String,
    /// Every file in it but the manifest and what came later, by name.
    pub files: Vec<FileEntry>,
}

impl Body {
    /// The folder of a bundle or a snapshot.
    pub fn folder(&self) -> Option<&str> {
        match self {
            Self::Bundle(body) => Some(&body.draft.folder),
            Self::Snapshot(body) => Some(&body.folder),
            Self::Deleted(_) | Self::Derived(_) => None,
        }
    }

    /// A bundle or a snapshot.
    pub fn piece(&self) -> Option<Piece> {
        let (id, files) = match self {
            Self::Bundle(body) => (body.draft.finding, &body.files),
            Self::Snapshot(body) => (body.snapshot, &body.files),
            Self::Deleted(_) | Self::Derived(_) => return None,
        };
        Some(Piece {
            id,
            folder: self.folder()?.to_owned(),
            files: files.clone(),
        })
    }
}

/// What is known of a bundle when its finding opens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Draft {
    /// Which finding.
    pub finding: Uuid,
    /// Where it lies, below the folder of the chain.
    pub folder: String,
    /// Which camera.
    pub camera: String,
    /// Violation code.
    pub code: String,
    /// Its class, 1 to 3.
    pub class: u8,
    /// Receipt of the picture that decided, RFC 3339.
    pub opened: String,
    /// How far the times can be trusted.
    pub clock: ClockWord,
    /// SHA-256 of the config's text.
    pub config_sha256: String,
    /// The models that looked.
    pub models: Vec<ModelWord>,
    /// What was done to the pictures.
    pub redaction: RedactionWord,
}

/// A bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BundleBody {
    /// What was known when the finding opened.
    #[serde(flatten)]
    pub draft: Draft,
    /// Every file in its folder but the manifest, by name.
    pub files: Vec<FileEntry>,
    /// What should be there and is not.
    pub missing: Vec<Missing>,
}

/// The site's clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockWord {
    /// Whether something kept it right.
    pub synced: bool,
    /// What did.
    pub source: String,
}

/// A model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelWord {
    /// Name on its card.
    pub name: String,
    /// Version on its card.
    pub version: String,
    /// Digest of its file.
    pub sha256: String,
}

/// What was done to pictures before they may leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedactionWord {
    /// `faces` or `off`.
    pub policy: String,
    /// Faces and heads that were blurred.
    pub faces: u32,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileEntry {
    /// Below the bundle's folder; what stands in `sealed/` never leaves the site by itself.
    pub name: String,
    /// Digest.
    pub sha256: String,
    /// Size.
    pub bytes: u64,
}

/// Something that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// The file's name.
    pub name: String,
    /// Why, for people.
    pub why: String,
}

/// A camera's picture, taken because somebody asked for it. It belongs to no finding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotBody {
    /// Its id, which the topic names that it leaves on.
    pub snapshot: Uuid,
    /// Where it lies, below the folder of the chain.
    pub folder: String,
    /// Which camera.
    pub camera: String,
    /// Receipt of the picture, RFC 3339.
    pub taken: String,
    /// How far the times can be trusted.
    pub clock: ClockWord,
    /// SHA-256 of the config's text.
    pub config_sha256: String,
    /// The models that looked.
    pub models: Vec<ModelWord>,
    /// What was done to the picture.
    pub redaction: RedactionWord,
    /// Every file in its folder but the manifest, by name.
    pub files: Vec<FileEntry>,
}

/// A file that was made from one of a bundle after the bundle was signed, so that it may leave the site.
/// A copy of the entry lies beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DerivedBody {
    /// Which finding.
    pub finding: Uuid,
    /// The bundle's folder, where the new file lies too.
    pub folder: String,
    /// [`DerivedBody::BLURRED`].
    pub how: String,
    /// What it was made from, as in the bundle's entry.
    pub from: FileEntry,
    /// What was made.
    pub file: FileEntry,
    /// How many pictures it has.
    pub pictures: u32,
    /// The models that looked for faces.
    pub models: Vec<ModelWord>,
    /// What was done to the pictures; a face that was lost and found again counts twice.
    pub redaction: RedactionWord,
}

impl DerivedBody {
    /// Every face blurred, and encoded anew.
    pub const BLURRED: &str = "blurred";
}

/// Files that were removed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeletedBody {
    /// `max_mb` or `max_days`.
    pub reason: String,
    /// What went.
    pub files: Vec<DeletedFile>,
}

/// One file that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedFile {
    /// Its bundle's folder.
    pub folder: String,
    /// As in the bundle's entry.
    pub name: String,
    /// As in the bundle's entry.
    pub sha256: String,
    /// As in the bundle's entry.
    pub bytes: u64,
}

impl Entry {
    /// The signed line, with its line feed.
    ///
    /// # Errors
    /// Only if it cannot be written as JSON, which no entry of ours does.
    pub fn signed(&self, key: &SiteKey) -> serde_json::Result<Vec<u8>> {
        let message = serde_json::to_string(self)?;
        let signature = hex(&key.sign(message.as_bytes()));
        let open = &message[..message.len() - 1];
        Ok(format!("{open}{SIGNATURE}{signature}\"}}\n").into_bytes())
    }
}

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It does not end in a line feed: the power went while it was written.
    #[error("it is cut off")]
    CutOff,
    /// There is no signature at its end.
    #[error("it has no signature")]
    NoSignature,
    /// It is no entry.
    #[error("it is no entry of evidence")]
    NoEntry,
    /// It was written by a newer version.
    #[error("a newer version wrote it; use that one's `mingchu verify`")]
    Newer,
}

/// A line as read, not yet checked against anything.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// What it says.
    pub entry: Entry,
    /// Its digest.
    pub digest: String,
    message: Vec<u8>,
    signature: [u8; 64],
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

impl Line {
    /// Takes a line apart.
    ///
    /// # Errors
    /// [`LineError`].
    pub fn parse(line: &[u8]) -> Result<Self, LineError> {
        let text = line.strip_suffix(b"\n").ok_or(LineError::CutOff)?;
        let at = text
            .len()
            .checked_sub(TAIL_BYTES)
            .ok_or(LineError::NoSignature)?;
        let (open, tail) = text.split_at(at);
        let signature = std::str::from_utf8(tail)
            .ok()
            .and_then(|tail| tail.strip_prefix(SIGNATURE))
            .and_then(|tail| tail.strip_suffix("\"}"))
            .and_then(from_hex)
            .ok_or(LineError::NoSignature)?;
        let message = [open, b"}"].concat();
        let version: Version = serde_json::from_slice(&message).map_err(|_| LineError::NoEntry)?;
        if version.v > VERSION {
            return Err(LineError::Newer);
        }
        let entry = serde_json::from_slice(&message).map_err(|_| LineError::NoEntry)?;
        Ok(Self {
            entry,
            digest: sha256_hex(line),
            message,
            signature,
        })
    }

    /// Whether `key` signed it.
    pub fn is_signed_by(&self, key: PublicKey) -> bool {
        key.has_signed(&self.message, &self.signature)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::evidence::disk::Disk;

    pub fn draft(n: u128) -> Draft {
        Draft {
            finding: Uuid::from_u128(n),
            folder: format!("2026/11/24/{}", Uuid::from_u128(n)),
            camera: "wok-1".to_owned(),
            code: "ppe.hat.missing".to_owned(),
            class: 2,
            opened: "2026-11-24T03:12:07.412Z".to_owned(),
            clock: ClockWord {
                synced: true,
                source: "ntp".to_owned(),
            },
            config_sha256: "ab".repeat(32),
            models: vec![ModelWord {
                name: "kitchen".to_owned(),
                version: "1".to_owned(),
                sha256: "cd".repeat(32),
            }],
            redaction: RedactionWord {
                policy: "faces".to_owned(),
                faces: 1,
            },
        }
    }

    pub fn entry(index: u64, previous: &str) -> Entry {
        Entry {
            v: VERSION,
            index,
            previous: previous.to_owned(),
            created: "2026-11-24T03:12:20.000Z".to_owned(),
            site: SiteName {
                region: "410724".to_owned(),
                id: "site-000123".to_owned(),
            },
            body: Body::Bundle(Box::new(BundleBody {
                draft: draft(7),
                files: vec![FileEntry {
                    name: "frame.jpg".to_owned(),
                    sha256: "ef".repeat(32),
                    bytes: 81_234,
                }],
                missing: Vec::new(),
            })),
            key: "0".repeat(64),
        }
    }

    #[test]
    fn an_entry_is_one_line_whose_form_is_a_contract() {
        let text = serde_json::to_string(&entry(3, NO_ENTRY)).unwrap();
        insta::assert_snapshot!(text, @r#"{"v":1,"index":3,"previous":"0000000000000000000000000000000000000000000000000000000000000000","created":"2026-11-24T03:12:20.000Z","site":{"region":"410724","id":"site-000123"},"kind":"bundle","finding":"00000000-0000-0000-0000-000000000007","folder":"2026/11/24/00000000-0000-0000-0000-000000000007","camera":"wok-1","code":"ppe.hat.missing","class":2,"opened":"2026-11-24T03:12:07.412Z","clock":{"synced":true,"source":"ntp"},"config_sha256":"abababababababababababababababababababababababababababababababab","models":[{"name":"kitchen","version":"1","sha256":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"}],"redaction":{"policy":"faces","faces":1},"files":[{"name":"frame.jpg","sha256":"efefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefef","bytes":81234}],"missing":[],"key":"0000000000000000000000000000000000000000000000000000000000000000"}"#);
    }

    #[test]
    fn a_signed_line_reads_back_and_no_flipped_byte_passes() {
        let dir = tempfile::tempdir().unwrap();
        let key = SiteKey::open(&dir.path().join("k"), false, &Disk::default()).unwrap();
        let entry = entry(0, NO_ENTRY);
        let signed = entry.signed(&key).unwrap();
        let line = Line::parse(&signed).unwrap();
        assert_eq!(line.entry, entry);
        assert!(line.is_signed_by(key.public()));
        for at in 0..signed.len() {
            let mut damaged = signed.clone();
            damaged[at] ^= 1;
            let passes = Line::parse(&damaged).is_ok_and(|l| l.is_signed_by(key.public()));
            assert!(!passes, "byte {at}");
        }
        for cut in 0..signed.len() {
            assert_eq!(Line::parse(&signed[..cut]), Err(LineError::CutOff));
        }
    }
}
