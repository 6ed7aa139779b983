//! Which files go when there are too many: pure.
//!
//! Clips before pictures, the lowest class first, the oldest first. What a finding said and what was
//! signed of it stays for ever: it is small, and it is the proof that there was more.
use std::time::Duration;

use super::bundle::{BLURRED_CLIP, CLIP, FINDING, MANIFEST, PENDING, SEALED_CLIP};
use super::manifest::{DeletedFile, FileEntry};
use crate::base::time::UtcMicros;

/// A bundle, as budgets see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its folder.
    pub folder: String,
    /// Class of its finding.
    pub class: u8,
    /// When it opened.
    pub opened: UtcMicros,
    /// What is still there.
    pub files: Vec<FileEntry>,
}

/// How much may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// All files together.
    pub max_bytes: u64,
    /// Any file.
    pub max_age: Duration,
}

/// Once something must go, so much more goes with it that the next finding does not need another
/// signature at once: a twentieth.
const HEADROOM: u64 = 20;

fn is_clip(file: &FileEntry) -> bool {
    // A blurred copy goes before what it was made from, by its name.
    [CLIP, SEALED_CLIP, BLURRED_CLIP].contains(&file.name.as_str())
}

fn may_go(file: &FileEntry) -> bool {
    ![FINDING, MANIFEST, PENDING].contains(&file.name.as_str())
}

fn deleted(held: &Held, file: &FileEntry) -> DeletedFile {
    DeletedFile {
        folder: held.folder.clone(),
        name: file.name.clone(),
        sha256: file.sha256.clone(),
        bytes: file.bytes,
    }
}

/// What is older than allowed.
pub fn too_old(held: &[&Held], budget: &Budget, now: UtcMicros) -> Vec<DeletedFile> {
    let max_us = i64::try_from(budget.max_age.as_micros()).unwrap_or(i64::MAX);
    let old = |h: &&&Held| now.0.saturating_sub(h.opened.0) > max_us;
    let files = held.iter().filter(old).flat_map(|h| {
        let files = h.files.iter().filter(|f| may_go(f));
        files.map(|f| deleted(h, f))
    });
    files.collect()
}

/// What must go so that the rest fits.
pub fn too_much(held: &[&Held], budget: &Budget) -> Vec<DeletedFile> {
    let total: u64 = held.iter().flat_map(|h| &h.files).map(|f| f.bytes).sum();
    if total <= budget.max_bytes {
        return Vec::new();
    }
    let goal = budget.max_bytes - budget.max_bytes / HEADROOM;
    let mut order: Vec<(&Held, &FileEntry)> = held
        .iter()
        .flat_map(|h| h.files.iter().filter(|f| may_go(f)).map(|f| (*h, f)))
        .collect();
    order.sort_by_key(|(h, f)| {
        let class = std::cmp::Reverse(h.class);
        (!is_clip(f), class, h.opened, &h.folder, &f.name)
    });
    let mut left = total;
    let mut gone = Vec::new();
    for (h, f) in order {
        if left <= goal {
            break;
        }
        left -= f.bytes;
        gone.push(deleted(h, f));
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn held(n: u32, class: u8, opened_s: i64, sizes: &[(&str, u64)]) -> Held {
        Held {
            folder: format!("2026/11/24/{n}"),
            class,
            opened: UtcMicros(opened_s * 1_000_000),
            files: sizes
                .iter()
                .map(|(name, bytes)| FileEntry {
                    name: (*name).to_owned(),
                    sha256: String::new(),
                    bytes: *bytes,
                })
                .collect(),
        }
    }

    const FULL: &[(&str, u64)] = &[
        ("clip.mp4", 100),
        ("finding.json", 1),
        ("frame.jpg", 10),
        ("sealed/frame.jpg", 10),
    ];

    fn budget(max_bytes: u64) -> Budget {
        Budget {
            max_bytes,
            max_age: Duration::from_secs(100),
        }
    }

    fn names(files: &[DeletedFile]) -> Vec<String> {
        let name = |f: &DeletedFile| format!("{}/{}", f.folder.rsplit('/').next().unwrap(), f.name);
        files.iter().map(name).collect()
    }

    #[test]
    fn clips_go_first_then_pictures_the_lowest_class_and_the_oldest_first() {
        let all = [
            held(1, 1, 10, FULL),
            held(2, 3, 30, FULL),
            held(3, 3, 20, FULL),
            held(4, 2, 5, FULL),
        ];
        let all: Vec<&Held> = all.iter().collect();
        assert_eq!(too_much(&all, &budget(484)), []);
        assert_eq!(
            names(&too_much(&all, &budget(483))),
            ["3/clip.mp4"],
            "a twentieth more than needed"
        );
        assert_eq!(
            names(&too_much(&all, &budget(64))),
            [
                "3/clip.mp4",
                "2/clip.mp4",
                "4/clip.mp4",
                "1/clip.mp4",
                "3/frame.jpg",
                "3/sealed/frame.jpg",
                "2/frame.jpg"
            ]
        );
        let all_that_can = too_much(&all, &budget(0));
        assert_eq!(all_that_can.len(), 12);
        assert!(all_that_can.iter().all(|f| f.name != "finding.json"));
    }

    #[test]
    fn what_is_too_old_goes_whatever_its_class() {
        let all = [held(1, 1, 10, FULL), held(2, 3, 60, FULL)];
        let all: Vec<&Held> = all.iter().collect();
        assert_eq!(too_old(&all, &budget(0), UtcMicros(110_000_000)), []);
        let gone = too_old(&all, &budget(0), UtcMicros(110_000_001));
        assert_eq!(
            names(&gone),
            ["1/clip.mp4", "1/frame.jpg", "1/sealed/frame.jpg"]
        );
        // A clock set back a day, or to the beginning of time, deletes nothing.
        assert_eq!(too_old(&all, &budget(0), UtcMicros(0)), []);
    }

    proptest! {
        #[test]
        fn what_is_left_fits_unless_nothing_more_may_go(
            sizes in prop::collection::vec((1u8..4, 0i64..100, 0u64..1000, 0u64..100), 0..40),
            max in 0u64..20_000,
        ) {
            let all: Vec<Held> = (0u32..).zip(&sizes).map(|(n, (class, at, clip, still))| {
                held(n, *class, *at, &[("clip.mp4", *clip), ("finding.json", 3), ("frame.jpg", *still)])
            }).collect();
            let all: Vec<&Held> = all.iter().collect();
            let total: u64 = all.iter().flat_map(|h| &h.files).map(|f| f.bytes).sum();
            let gone = too_much(&all, &budget(max));
            let left = total - gone.iter().map(|f| f.bytes).sum::<u64>();
            prop_assert!(left <= max || gone.len() == 2 * all.len());
            prop_assert!(total > max || gone.is_empty());
        }
    }
}
