//! What evidence there is, for whoever asks: shared by the evidence thread, which fills it, and by
//! analytics, commands and the uplink's glue, which ask.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::budget::Held;
use super::bundle::{CLIP, SEALED_CLIP};
use super::manifest::{BundleBody, DeletedFile};
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
    /// Below the evidence folder.
    pub path: String,
    /// Its digest.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
    /// Policy keeps it here: nobody blurred its faces.
    pub sealed: bool,
    /// Class of its finding.
    pub class: u8,
}

#[derive(Debug)]
struct Bundle {
    finding: Uuid,
    held: Held,
    clip: ClipState,
}

/// All bundles, by folder. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct EvidenceIndex(Arc<Mutex<BTreeMap<String, Bundle>>>);

/// RFC 3339 as in entries; the beginning of time if it is none.
pub fn micros(text: &str) -> UtcMicros {
    let time: Option<jiff::Timestamp> = text.parse().ok();
    UtcMicros(time.map_or(0, jiff::Timestamp::as_microsecond))
}

impl EvidenceIndex {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Bundle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The clip of a finding, of the newest if it reopened; none if there is no bundle of it.
    pub fn clip(&self, finding: Uuid) -> Option<ClipState> {
        let all = self.lock();
        let of_it = all.values().filter(|b| b.finding == finding);
        let newest = of_it.max_by_key(|b| b.held.opened);
        newest.map(|b| b.clip.clone())
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
                path: format!("{}/{}", draft.folder, file.name),
                sha256: file.sha256.clone(),
                bytes: file.bytes,
                sealed: file.name == SEALED_CLIP,
                class: draft.class,
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
        };
        self.lock().insert(draft.folder.clone(), bundle);
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
