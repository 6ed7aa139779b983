use std::fs;

use super::*;
use crate::evidence::chain;
use crate::evidence::disk::Disk;
use crate::evidence::keeper::tests::Site;
use crate::evidence::key::SiteKey;
use crate::evidence::manifest::tests::draft;

/// Three bundles and a removal.
fn signed() -> Site {
    let mut site = Site::new();
    for n in 1..4 {
        site.bundle(n);
    }
    let (keeper, jobs) = site.open(Disk::default()).unwrap();
    site.max_bytes = keeper.index().bytes() - 1;
    drop((keeper, jobs));
    site.restart();
    site.max_bytes = 1 << 30;
    let verdict = site.verify();
    assert!(verdict.ok, "{verdict:#?}");
    assert!(verdict.deleted_files > 0);
    site
}

fn first(site: &Site) -> Break {
    let verdict = site.verify();
    assert!(!verdict.ok);
    verdict.broken[0].clone()
}

#[test]
fn a_byte_flipped_in_any_file_is_named_with_its_entry() {
    let site = signed();
    for n in 1..4 {
        let folder = site.evidence().join(draft(n).folder);
        for name in bundle::names_in(&folder).unwrap() {
            let path = folder.join(&name);
            let good = fs::read(&path).unwrap();
            let mut bad = good.clone();
            let at = bad.len() / 2;
            bad[at] ^= 0x20;
            fs::write(&path, &bad).unwrap();
            let broken = first(&site);
            assert_eq!(broken.index, Some(n as u64 - 1), "{name}");
            assert_eq!(broken.file, format!("{}/{name}", draft(n).folder));
            fs::write(&path, &good).unwrap();
        }
    }
    assert!(site.verify().ok);
}

#[test]
fn a_file_that_is_gone_without_a_record_is_named() {
    let site = signed();
    let folder = site.evidence().join(draft(3).folder);
    for name in bundle::names_in(&folder).unwrap() {
        let path = folder.join(&name);
        let good = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let broken = first(&site);
        assert_eq!(
            (broken.index, broken.file),
            (Some(2), format!("{}/{name}", draft(3).folder))
        );
        assert!(broken.what.contains("missing"), "{}", broken.what);
        fs::write(&path, good).unwrap();
    }
}

/// What each way to tamper with the chain gives, in words.
#[test]
fn a_chain_that_was_tampered_with_names_its_first_broken_link() {
    let site = signed();
    let path = site.evidence().join(CHAIN_FILE);
    let good = fs::read(&path).unwrap();
    let lines: Vec<&[u8]> = chain::lines(&good).collect();
    let with = |lines: &[&[u8]]| {
        fs::write(&path, lines.concat()).unwrap();
        let broken = first(&site);
        fs::write(&path, &good).unwrap();
        let what: String = broken.what.split([':', ';']).next().unwrap().to_owned();
        (broken.index, broken.file, what)
    };
    let (a, b, c, d) = (lines[0], lines[1], lines[2], lines[3]);
    let named = |index, line, what: &str| {
        (
            Some(index),
            format!("chain.jsonl line {line}"),
            what.to_owned(),
        )
    };
    assert_eq!(
        with(&[b, c, d]),
        named(0, 1, "is entry 1 where entry 0 should be")
    );
    assert_eq!(
        with(&[a, c, d]),
        named(1, 2, "is entry 2 where entry 1 should be")
    );
    assert_eq!(
        with(&[a, c, b, d]),
        named(1, 2, "is entry 2 where entry 1 should be")
    );
    assert_eq!(
        with(&[a, b, b, c, d]),
        named(2, 3, "is entry 1 where entry 2 should be")
    );
    let text = std::str::from_utf8(b).unwrap();
    let changed = text.replace("\"class\":2", "\"class\":3");
    assert_eq!(
        with(&[a, changed.as_bytes(), c, d]),
        named(1, 2, "its signature is false")
    );
    assert_eq!(
        with(&[a, b"{}\n", c, d]),
        named(1, 2, "it has no signature")
    );
    // The newest entries are cut off: a bundle and a hole are still there to tell.
    fs::write(&path, [a, b].concat()).unwrap();
    let broken = site.verify().broken;
    assert_eq!(broken[0].index, Some(0));
    assert!(broken[0].what.contains("missing"), "{broken:?}");
    let last = &broken[broken.len() - 1];
    assert_eq!((last.index, &last.file), (None, &draft(3).folder));
}

#[test]
fn another_key_is_not_the_sites() {
    let site = signed();
    let path = site.dir.path().join("other.key");
    let other = SiteKey::open(&path, false, &Disk::default()).unwrap();
    let verdict = verify(site.dir.path(), Some(other.public())).unwrap();
    assert_eq!(verdict.key_from, KeyFrom::Given);
    assert_eq!(verdict.broken.len(), 4);
    assert!(
        verdict.broken[0].what.starts_with("is signed with key"),
        "{verdict:?}"
    );
    // A chain made anew with another key, its public half put beside it: only a key from elsewhere tells.
    let key = PublicKey::read(&site.evidence().join(PUBLIC_KEY_FILE)).unwrap();
    assert!(verify(site.dir.path(), Some(key)).unwrap().ok);
    fs::remove_file(site.evidence().join(PUBLIC_KEY_FILE)).unwrap();
    let verdict = site.verify();
    assert!(verdict.ok && verdict.key_from == KeyFrom::Entries);
    assert_eq!(verdict.notes.len(), 1);
}

#[test]
fn a_bundle_by_itself_is_checked_at_home_and_far_from_it() {
    let site = signed();
    let home = site.evidence().join(draft(3).folder);
    let verdict = verify(&home, None).unwrap();
    assert!(verdict.ok, "{verdict:?}");
    // Handed out: without what is sealed, without its chain.
    let away = tempfile::tempdir().unwrap();
    for name in ["finding.json", "frame.jpg", "annotated.jpg", MANIFEST] {
        fs::copy(home.join(name), away.path().join(name)).unwrap();
    }
    let key = PublicKey::read(&site.evidence().join(PUBLIC_KEY_FILE)).unwrap();
    let verdict = verify(away.path(), Some(key)).unwrap();
    assert!(verdict.ok, "{verdict:?}");
    assert_eq!((verdict.files, verdict.notes.len()), (3, 2));
    fs::write(away.path().join("frame.jpg"), "another").unwrap();
    let broken = verify(away.path(), Some(key)).unwrap().broken;
    assert_eq!(broken[0].file, "frame.jpg");
    fs::remove_file(away.path().join("frame.jpg")).unwrap();
    assert_eq!(
        verify(away.path(), Some(key)).unwrap().broken[0].file,
        "frame.jpg"
    );
}

#[test]
fn what_is_no_evidence_is_said_to_be_none() {
    let dir = tempfile::tempdir().unwrap();
    let e = verify(dir.path(), None).unwrap_err();
    assert!(matches!(e, VerifyError::NotEvidence { .. }));
    fs::write(dir.path().join(MANIFEST), "{}\n").unwrap();
    let verdict = verify(dir.path(), None).unwrap();
    assert_eq!(verdict.broken[0].what, "it has no signature");
}

#[test]
fn a_picture_that_was_put_in_proves_nothing() {
    let site = signed();
    let path = site.evidence().join(draft(3).folder).join("more.jpg");
    fs::write(&path, "x").unwrap();
    let verdict = site.verify();
    assert!(verdict.ok);
    assert!(
        verdict.notes[0].ends_with("more.jpg is in no manifest: it proves nothing"),
        "{:?}",
        verdict.notes
    );
}
