//! What evidence there is, for whoever asks: shared by the evidence thread, which fills it, and by
//! analytics, commands and the uplink's glue, which ask.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::budget::Held;
use super::bundle::{BLURRED_CLIP, CLIP, SEALED_CLIP};
use super::chain::Head;
use super::manifest::{BundleBody, DeletedFile, DerivedBody, SnapshotBody};
use crate::base::time::UtcMicros;

/// What has become of a finding's clip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClipState {
    /// Its end has not come yet.
    Pending,
    /// There it is.
    Ready(ClipFile),
    /// There is none; why, for people.
    Missing(String),
    /// It was removed to stay within the budget.
    Deleted,
}

/// A clip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClipFile {
    /// Its bundle's folder, below the evidence folder.
    pub folder: String,
    /// Below the evidence folder.
    pub path: String,
    /// Its digest.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
    /// Policy keeps it here: nobody blurred its faces.
    pub sealed: bool,
    /// Whether somebody did.
    pub redacted: bool,
    /// Class of its finding.
    pub class: u8,
    /// Faces in the finding's picture that were blurred.
    pub faces: u32,
}

#[derive(Debug)]
struct Bundle {
    finding: Uuid,
    held: Held,
    clip: ClipState,
    blurred: Option<ClipFile>,
}

/// All bundles, by folder. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct EvidenceIndex {
    bundles: Arc<Mutex<BTreeMap<String, Bundle>>>,
    head: Arc<Mutex<Option<Head>>>,
}

/// RFC 3339 as in entries; the beginning of time if it is none.
pub fn micros(text: &str) -> UtcMicros {
    let time: Option<jiff::Timestamp> = text.parse().ok();
    UtcMicros(time.map_or(0, jiff::Timestamp::as_microsecond))
}

impl EvidenceIndex {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Bundle>> {
        self.bundles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chain's newest entry, at most a moment old; none if there is none.
    pub fn head(&self) -> Option<Head> {
        let head = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        head.clone()
    }

    /// The chain has grown.
    pub(super) fn set_head(&self, newest: Option<Head>) {
        let mut head = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        *head = newest;
    }

    /// The clip of a finding, of the newest if it reopened; none if there is no bundle of it.
    pub fn clip(&self, finding: Uuid) -> Option<ClipState> {
        let all = self.lock();
        let of_it = all.values().filter(|b| b.finding == finding);
        let newest = of_it.max_by_key(|b| b.held.opened);
        newest.map(|b| b.clip.clone())
    }

    /// The copy without faces of the clip that lies in `folder`, if it was made.
    pub fn blurred(&self, folder: &str) -> Option<ClipFile> {
        self.lock().get(folder).and_then(|b| b.blurred.clone())
    }

    /// The same of a finding's clip, of the newest bundle that has one.
    pub fn blurred_of(&self, finding: Uuid) -> Option<ClipFile> {
        let all = self.lock();
        let of_it = all.values().filter(|b| b.finding == finding);
        let newest = of_it.max_by_key(|b| b.held.opened);
        newest.and_then(|b| b.blurred.clone())
    }

    /// A bundle whose clip is awaited.
    pub(super) fn expect(&self, finding: Uuid, folder: &str, class: u8) {
        let held = Held {
            folder: folder.to_owned(),
            class,
            opened: UtcMicros(i64::MAX),
            files: Vec::new(),
        };
        let bundle = Bundle {
            finding,
            held,
            clip: ClipState::Pending,
            blurred: None,
        };
        self.lock().entry(folder.to_owned()).or_insert(bundle);
    }

    /// A bundle that is signed.
    pub(super) fn add(&self, body: &BundleBody) {
        let draft = &body.draft;
        let clip = body
            .files
            .iter()
            .find(|f| f.name == CLIP || f.name == SEALED_CLIP);
        let clip = if let Some(file) = clip {
            ClipState::Ready(ClipFile {
                folder: draft.folder.clone(),
                path: format!("{}/{}", draft.folder, file.name),
                sha256: file.sha256.clone(),
                bytes: file.bytes,
                sealed: file.name == SEALED_CLIP,
                redacted: false,
                class: draft.class,
                faces: draft.redaction.faces,
            })
        } else {
            let missing = body.missing.iter().find(|m| m.name == CLIP);
            ClipState::Missing(missing.map_or_else(String::new, |m| m.why.clone()))
        };
        let held = Held {
            folder: draft.folder.clone(),
            class: draft.class,
            opened: micros(&draft.opened),
            files: body.files.clone(),
        };
        let bundle = Bundle {
            finding: draft.finding,
            held,
            clip,
            blurred: None,
        };
        self.lock().insert(draft.folder.clone(), bundle);
    }

    /// A snapshot that is signed. It goes as early as what is found least urgent.
    pub(super) fn add_snapshot(&self, body: &SnapshotBody) {
        let held = Held {
            folder: body.folder.clone(),
            class: 3,
            opened: micros(&body.taken),
            files: body.files.clone(),
        };
        let bundle = Bundle {
            finding: body.snapshot,
            held,
            clip: ClipState::Missing("a snapshot is one picture".to_owned()),
            blurred: None,
        };
        self.lock().insert(body.folder.clone(), bundle);
    }

    /// Whether something signed lies in this folder.
    pub(super) fn has(&self, folder: &str) -> bool {
        self.lock().contains_key(folder)
    }

    /// A blurred copy that is signed.
    pub(super) fn add_derived(&self, body: &DerivedBody) {
        let mut all = self.lock();
        let Some(bundle) = all.get_mut(&body.folder) else {
            return;
        };
        bundle.held.files.retain(|f| f.name != body.file.name);
        bundle.held.files.push(body.file.clone());
        bundle.blurred = Some(ClipFile {
            folder: body.folder.clone(),
            path: format!("{}/{}", body.folder, body.file.name),
            sha256: body.file.sha256.clone(),
            bytes: body.file.bytes,
            sealed: false,
            redacted: true,
            class: bundle.held.class,
            faces: body.redaction.faces,
        });
    }

    /// Folders of bundles without a blurred copy.
    pub(super) fn without_derived(&self) -> Vec<String> {
        let all = self.lock();
        let without = all.iter().filter(|(_, b)| b.blurred.is_none());
        without.map(|(folder, _)| folder.clone()).collect()
    }

    /// Files that are gone.
    pub(super) fn remove(&self, files: &[DeletedFile]) {
        let mut all = self.lock();
        for bundle in all.values_mut() {
            let of_it = |f: &&DeletedFile| f.folder == bundle.held.folder;
            for gone in files.iter().filter(of_it) {
                bundle.held.files.retain(|f| f.name != gone.name);
                if gone.name == CLIP || gone.name == SEALED_CLIP {
                    bundle.clip = ClipState::Deleted;
                }
                if gone.name == BLURRED_CLIP {
                    bundle.blurred = None;
                }
            }
        }
    }

    /// A copy of what is held.
    pub(super) fn held(&self) -> Vec<Held> {
        self.lock().values().map(|b| b.held.clone()).collect()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        let all = self.lock();
        let files = all.values().flat_map(|b| &b.held.files);
        files.map(|f| f.bytes).sum()
    }
}
