//! Mutes in force: findings they fit are recorded and delivered like others, with a word that says so.
//!
//! Kept in the store's shelf of commands; shared by the analytics thread, which marks findings, and by
//! the commands, which change them. A mute ends by the clock, whether or not anybody looks.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::base::time::UtcMicros;
use crate::base::words::{self, Texts};
use crate::uplink::{Change, FindingData, MutedRef, Shelf};

/// In force at once.
pub const MOST: usize = 64;
/// Keys of mutes in their shelf.
const KEY: &str = "mute/";

/// One mute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mute {
    /// The id of the command that began it.
    pub id: String,
    /// Of this camera only.
    pub camera: Option<String>,
    /// Of this rule only.
    pub rule: Option<String>,
    /// Of this violation code only.
    pub code: Option<String>,
    /// As findings say it.
    pub muted: MutedRef,
}

impl Mute {
    fn fits(&self, data: &FindingData) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
        same(&self.camera, &data.camera.id)
            && same(&self.rule, &data.rule.id)
            && same(&self.code, &data.code)
    }

    /// What it is about, for people.
    pub fn about(&self) -> Texts {
        let about = [
            self.camera.as_ref().map(words::command::about_camera),
            self.rule.as_ref().map(words::command::about_rule),
            self.code.as_ref().map(words::command::about_code),
        ];
        if about.iter().all(Option::is_none) {
            return words::command::about_site();
        }
        Texts::listed(about.into_iter().flatten())
    }

    /// What to write so that it survives a restart.
    pub fn kept(&self) -> Change {
        Change::put(Shelf::Commands, format!("{KEY}{}", self.id), self)
    }

    /// What to write so that it does not.
    pub fn forgotten(&self) -> Change {
        Change::Delete {
            shelf: Shelf::Commands,
            key: format!("{KEY}{}", self.id),
        }
    }
}

/// All mutes; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Mutes(Arc<Mutex<Vec<Mute>>>);

impl Mutes {
    fn lock(&self) -> MutexGuard<'_, Vec<Mute>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From the shelf's entries; others than mutes are passed over.
    pub fn of(shelf: &[(String, String)]) -> Self {
        let mut mutes = Vec::new();
        for (key, body) in shelf.iter().filter(|(k, _)| k.starts_with(KEY)) {
            match serde_json::from_str(body) {
                Ok(mute) => mutes.push(mute),
                Err(e) => {
                    tracing::error!(key, err = %e, "mute in the store is unreadable: it is over");
                }
            }
        }
        Self(Arc::new(Mutex::new(mutes)))
    }

    /// What a finding decided `now` has to say of mutes: the one that ends last.
    pub fn word(&self, data: &FindingData, now: UtcMicros) -> Option<MutedRef> {
        let mutes = self.lock();
        let fitting = mutes.iter().filter(|m| m.muted.until > now && m.fits(data));
        fitting
            .max_by_key(|m| m.muted.until)
            .map(|m| m.muted.clone())
    }

    /// Those in force.
    pub fn all(&self) -> Vec<Mute> {
        self.lock().clone()
    }

    /// One more, or the same again.
    pub fn add(&self, mute: Mute) {
        let mut mutes = self.lock();
        mutes.retain(|m| m.id != mute.id);
        mutes.push(mute);
    }

    /// Those that are over by themselves.
    pub fn over(&self, now: UtcMicros) -> Vec<Mute> {
        let over = |m: &&Mute| m.muted.until <= now;
        self.lock().iter().filter(over).cloned().collect()
    }

    /// Takes these out.
    pub fn remove(&self, ended: &[Mute]) {
        self.lock().retain(|m| !ended.iter().any(|e| e.id == m.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mute(id: &str, until: i64) -> Mute {
        Mute {
            id: id.to_owned(),
            camera: None,
            rule: None,
            code: None,
            muted: MutedRef {
                by: "officer 7".to_owned(),
                until: UtcMicros(until),
                reason: "works".to_owned(),
            },
        }
    }

    fn finding(camera: &str, code: &str) -> FindingData {
        let text = include_str!("mutes/finding.json");
        let mut data: FindingData = serde_json::from_str(text).unwrap();
        (data.camera.id, data.code) = (camera.to_owned(), code.to_owned());
        data
    }

    #[test]
    fn a_mute_fits_by_all_its_words_and_ends_by_the_clock() {
        let mutes = Mutes::default();
        mutes.add(Mute {
            camera: Some("wok".to_owned()),
            code: Some("act.smoking".to_owned()),
            ..mute("a", 100)
        });
        let word = |camera, code, now| {
            let word = mutes.word(&finding(camera, code), UtcMicros(now));
            word.map(|w| w.until.0)
        };
        assert_eq!(word("wok", "act.smoking", 99), Some(100));
        assert_eq!(word("wok", "act.smoking", 100), None, "over");
        assert_eq!(word("wok", "ppe.hat.missing", 99), None);
        assert_eq!(word("wash", "act.smoking", 99), None);
        mutes.add(mute("b", 200));
        assert_eq!(word("wok", "act.smoking", 99), Some(200), "the longest");
        assert_eq!(word("wash", "pest.rodent", 99), Some(200));
        let over = mutes.over(UtcMicros(150));
        assert_eq!(over.len(), 1);
        mutes.remove(&over);
        assert_eq!(mutes.all(), [mute("b", 200)]);
    }

    #[test]
    fn mutes_survive_in_the_shelf() {
        let kept = mute("a", 100_000);
        let Change::Put { key, body, .. } = kept.kept() else {
            panic!("not put");
        };
        let shelf = [
            (key, body),
            ("mute/b".to_owned(), "damaged".to_owned()),
            ("verdict/x".to_owned(), "{}".to_owned()),
        ];
        assert_eq!(Mutes::of(&shelf).all(), [kept]);
    }
}
