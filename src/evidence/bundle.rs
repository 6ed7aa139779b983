//! What lies where: one folder for each finding, `<yyyy>/<mm>/<dd>/<finding>/`, by the UTC day on which
//! it opened; one more, `<finding>-<revision>`, for each time it reopened.
//!
//! | file | what |
//! | --- | --- |
//! | `finding.json` | the revision that opened or reopened it, as committed |
//! | `frame.jpg`, `annotated.jpg` | the deciding picture, clean and with boxes; what may leave the site |
//! | `clip.mp4` | the video around it, where policy lets it leave |
//! | `sealed/` | pictures and video as the camera saw them, for the daemon's user only |
//! | `blurred.mp4`, `blurred.json` | a copy of the clip without faces, made when it was asked for, and the chain's entry on it |
//! | `manifest.json` | the chain's entry on all of these |
//! | `pending.json` | what the entry will say, until it is signed |
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::manifest::FileEntry;
use crate::base::digest::sha256_hex;
use crate::base::time::UtcMicros;

/// See the table above.
pub const FINDING: &str = "finding.json";
/// See the table above.
pub const FRAME: &str = "frame.jpg";
/// See the table above.
pub const ANNOTATED: &str = "annotated.jpg";
/// See the table above.
pub const CLIP: &str = "clip.mp4";
/// See the table above.
pub const SEALED: &str = "sealed";
/// See the table above.
pub const SEALED_FRAME: &str = "sealed/frame.jpg";
/// See the table above.
pub const SEALED_CLIP: &str = "sealed/clip.mp4";
/// See the table above.
pub const BLURRED_CLIP: &str = "blurred.mp4";
/// See the table above.
pub const BLURRED_MANIFEST: &str = "blurred.json";
/// See the table above.
pub const MANIFEST: &str = "manifest.json";
/// See the table above.
pub const PENDING: &str = "pending.json";

/// Where the bundle of a finding that opened, or reopened with this revision, lies below the chain's
/// folder.
pub fn folder_of(finding: Uuid, revision: u32, opened: UtcMicros) -> String {
    let time = opened.to_string();
    // A clock that is off by millennia gives no date.
    let date = time.get(..10).filter(|d| d.as_bytes()[4] == b'-');
    let day = date.map_or_else(|| "0000/00/00".to_owned(), |d| d.replace('-', "/"));
    if revision <= 1 {
        format!("{day}/{finding}")
    } else {
        format!("{day}/{finding}-{revision}")
    }
}

/// Whether a name from an entry stays inside the folder it is looked for in.
pub fn is_inside(name: &str) -> bool {
    let plain = |level: &str| !level.is_empty() && level != "." && level != "..";
    !name.contains('\\') && name.split('/').all(plain)
}

/// Everything in a bundle but manifest, pending word and what a power cut left, with digests, by name.
///
/// # Errors
/// Something cannot be read.
pub fn files_in(folder: &Path) -> io::Result<Vec<FileEntry>> {
    let mut files = Vec::new();
    for name in names_in(folder)? {
        if name == MANIFEST || name == PENDING || is_part(&name) {
            continue;
        }
        let bytes = std::fs::read(folder.join(&name))?;
        files.push(FileEntry {
            sha256: sha256_hex(&bytes),
            bytes: bytes.len() as u64,
            name,
        });
    }
    files.sort();
    Ok(files)
}

/// Whether this was being written when the power went.
pub fn is_part(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|e| e == "part")
}

/// The names of all files in a bundle, those in `sealed/` with it.
///
/// # Errors
/// A folder cannot be read.
pub fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.file_type()?.is_dir() {
            names.push(name);
        } else if name == SEALED {
            for entry in std::fs::read_dir(entry.path())? {
                let inner = entry?.file_name().to_string_lossy().into_owned();
                names.push(format!("{SEALED}/{inner}"));
            }
        }
    }
    names.sort();
    Ok(names)
}

/// All folders four levels down, below `dir`: the bundles, signed or not.
///
/// # Errors
/// A folder cannot be read.
pub fn all_folders(dir: &Path) -> io::Result<Vec<String>> {
    let mut found = vec![PathBuf::new()];
    for _level in 0..4 {
        let mut next = Vec::new();
        for at in found {
            for entry in std::fs::read_dir(dir.join(&at))? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    next.push(at.join(entry.file_name()));
                }
            }
        }
        found = next;
    }
    let mut folders: Vec<String> = found.iter().map(|p| p.display().to_string()).collect();
    folders.sort();
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_lies_by_its_day_whatever_the_clock_says() {
        let id = Uuid::from_u128(7);
        assert_eq!(
            folder_of(id, 1, UtcMicros(1_795_490_400_412_999)),
            format!("2026/11/24/{id}")
        );
        for broken in [UtcMicros(i64::MAX), UtcMicros(i64::MIN)] {
            assert!(is_inside(&folder_of(id, 4, broken)));
        }
    }

    #[test]
    fn no_name_leads_out_of_its_folder() {
        assert!(is_inside("sealed/frame.jpg") && is_inside("a"));
        for name in ["", "..", "../a", "/a", "a//b", "a/./b", "a/..", "a\\b"] {
            assert!(!is_inside(name), "{name}");
        }
    }
}
