//! The site's Ed25519 key: what signs manifests, and what checks them.
//!
//! The private key is a PKCS#8 PEM file for the daemon's user only, the public one an SPKI PEM file
//! (RFC 8410): `openssl pkeyutl -verify -rawin` understands both. What must not be here: what is signed.
use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use super::disk::{Access, Disk};

/// Name of the public key's file beside the chain.
pub const PUBLIC_KEY_FILE: &str = "site.pub";
/// PKCS#8 version 1 of an Ed25519 key, up to its 32 bytes (RFC 8410 section 7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// SubjectPublicKeyInfo of one, up to its 32 bytes (RFC 8410 section 4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Why there is no key. Nothing is signed without, so evidence rests until a person has acted.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It is there but cannot be read.
    #[error(
        "the signing key {} cannot be read ({source}): give it to the user mingchu runs as, mode 0600",
        path.display()
    )]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something else.
    #[error(
        "the key {} is damaged ({why}): put back a copy; without one, move the evidence folder and this file away to begin a new chain",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Evidence was signed with it, so a new one would look like a forgery.
    #[error(
        "the signing key {} is gone but evidence was signed with it: put it back; without a copy, move the evidence folder away to begin a new chain",
        path.display()
    )]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// A new one cannot be written.
    #[error(
        "no signing key can be written to {} ({source}): give the directory to the user mingchu runs as",
        path.display()
    )]
    Unwritable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The private key.
pub struct SiteKey(Ed25519KeyPair);

impl std::fmt::Debug for SiteKey {
    /// The public half only.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SiteKey({})", self.public().hex())
    }
}

/// A public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// Lowercase hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut s, b| {
            let _infallible = write!(s, "{b:02x}");
            s
        })
}

/// Bytes of lowercase hex digits, exactly `N`.
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let digit = |b: u8| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'a'..=b'f' => Some(b - b'a' + 10),
            _ => None,
        };
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

/// The 32 bytes behind `prefix` in the PEM section `label`.
fn key_in_pem(text: &str, label: &str, prefix: &[u8]) -> Result<[u8; 32], &'static str> {
    let (begin, end) = (
        format!("-----BEGIN {label}-----"),
        format!("-----END {label}-----"),
    );
    let (_, rest) = text.split_once(&begin).ok_or("no PEM section of a key")?;
    let (body, _) = rest.split_once(&end).ok_or("its PEM section has no end")?;
    let body: String = body.split_whitespace().collect();
    let der = STANDARD
        .decode(body)
        .map_err(|_| "its PEM section is no base64")?;
    let bytes = der
        .strip_prefix(prefix)
        .and_then(|rest| rest.try_into().ok());
    bytes.ok_or("it is no Ed25519 key")
}

impl SiteKey {
    /// Reads the key, or makes one where nothing was signed yet.
    ///
    /// # Errors
    /// [`KeyError`] names the file and what to do.
    pub fn open(path: &Path, signed_before: bool, disk: &Disk) -> Result<Self, KeyError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(e) if e.kind() == io::ErrorKind::NotFound && signed_before => {
                Err(KeyError::Missing {
                    path: path.to_owned(),
                })
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Self::make(path, disk),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(KeyError::Damaged {
                path: path.to_owned(),
                why: "it is no text",
            }),
            Err(source) => Err(KeyError::Unreadable {
                path: path.to_owned(),
                source,
            }),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, KeyError> {
        let damaged = |why| KeyError::Damaged {
            path: path.to_owned(),
            why,
        };
        let seed = key_in_pem(text, "PRIVATE KEY", &PKCS8_PREFIX).map_err(damaged)?;
        let others = std::fs::metadata(path).map_or(0, |m| m.permissions().mode() & 0o077);
        if others != 0 {
            tracing::warn!(file = %path.display(), "signing key can be read by others: chmod 600");
        }
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed);
        pair.map(Self).map_err(|_| damaged("it is no Ed25519 key"))
    }

    fn make(path: &Path, disk: &Disk) -> Result<Self, KeyError> {
        let unwritable = |source| KeyError::Unwritable {
            path: path.to_owned(),
            source,
        };
        let mut seed = [0; 32];
        SystemRandom::new()
            .fill(&mut seed)
            .map_err(|_| unwritable(io::Error::other("the system gives no random numbers")))?;
        let text = pem("PRIVATE KEY", &[&PKCS8_PREFIX[..], &seed].concat());
        disk.replace(path, text.as_bytes(), Access::Owner)
            .map_err(unwritable)?;
        tracing::info!(file = %path.display(), "signing key made: keep a copy of it in a safe place");
        Self::parse(path, &text)
    }

    /// What others check with.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    /// Signs.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(self.0.sign(message).as_ref());
        bytes
    }
}

impl PublicKey {
    /// From a manifest.
    pub fn from_hex(text: &str) -> Option<Self> {
        from_hex(text).map(Self)
    }

    /// From an SPKI PEM file.
    ///
    /// # Errors
    /// [`KeyError`] names the file.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let text = std::fs::read_to_string(path).map_err(|source| KeyError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let key = key_in_pem(&text, "PUBLIC KEY", &SPKI_PREFIX);
        key.map(Self).map_err(|why| KeyError::Damaged {
            path: path.to_owned(),
            why,
        })
    }

    /// As an SPKI PEM file.
    pub fn to_pem(self) -> String {
        pem("PUBLIC KEY", &[&SPKI_PREFIX[..], &self.0].concat())
    }

    /// 64 digits.
    pub fn hex(self) -> String {
        hex(&self.0)
    }

    /// Whether `signature` of `message` is this key's.
    pub fn has_signed(self, message: &[u8], signature: &[u8; 64]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(message, signature)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_for_its_owner_only_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("site.key");
        let made = SiteKey::open(&path, false, &Disk::default()).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = SiteKey::open(&path, true, &Disk::default()).unwrap();
        assert_eq!(made.public(), again.public());
        let signature = again.sign(b"words");
        assert!(made.public().has_signed(b"words", &signature));
        assert!(!made.public().has_signed(b"other words", &signature));
        let public = dir.path().join("site.pub");
        std::fs::write(&public, made.public().to_pem()).unwrap();
        assert_eq!(PublicKey::read(&public).unwrap(), made.public());
    }

    #[test]
    fn the_signature_is_the_standards() {
        // RFC 8032 section 7.1, test 1: the empty message.
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let seed: [u8; 32] = from_hex(seed).unwrap();
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let signature = hex(&SiteKey(pair).sign(b""));
        assert!(signature.starts_with("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974"));
    }

    #[test]
    fn a_key_that_is_missing_damaged_or_no_key_is_named_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("site.key");
        let missing = SiteKey::open(&path, true, &Disk::default()).unwrap_err();
        assert!(matches!(missing, KeyError::Missing { .. }), "{missing}");
        assert!(!path.exists(), "a new key would look like a forgery");
        for text in [
            "",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ] {
            std::fs::write(&path, text).unwrap();
            let e = SiteKey::open(&path, true, &Disk::default()).unwrap_err();
            assert!(matches!(e, KeyError::Damaged { .. }), "{e}");
            assert!(e.to_string().contains("site.key"), "{e}");
        }
        let none = dir.path().join("no/such/folder/site.key");
        let e = SiteKey::open(&none, false, &Disk::default()).unwrap_err();
        assert!(matches!(e, KeyError::Unwritable { .. }), "{e}");
    }
}
