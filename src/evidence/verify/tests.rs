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

#[test]
fn a_chain_that_was_cut_off_is_whole_until_somebody_knows_its_head() {
    let site = signed();
    let (keeper, jobs) = site.open(Disk::default()).unwrap();
    let head = keeper.index().head().unwrap();
    drop((keeper, jobs));
    let told = |head: &Head| verify_with_head(site.dir.path(), None, Some(head)).unwrap();
    let verdict = told(&head);
    assert!(verdict.ok && verdict.head == Some(true), "{verdict:#?}");
    // The box goes back to what it was before the removal: bundles, copies and all.
    let path = site.evidence().join("chain.jsonl");
    let text = fs::read(&path).unwrap();
    let whole: Vec<&[u8]> = chain::lines(&text).collect();
    assert_eq!(head.entry as usize, whole.len() - 1);
    fs::write(&path, whole[..whole.len() - 1].concat()).unwrap();
    let verdict = told(&head);
    assert!(!verdict.ok && verdict.head == Some(false));
    let cut = verdict
        .broken
        .iter()
        .find(|b| b.file == "chain.jsonl")
        .unwrap();
    assert_eq!(cut.index, Some(head.entry));
    assert!(cut.what.starts_with("ends before entry 3"), "{}", cut.what);
    // An older head is still there, and another entry of its number is not it.
    let older = Head {
        entry: 1,
        sha256: crate::base::digest::sha256_hex(whole[1]),
    };
    assert_eq!(told(&older).head, Some(true));
    let other = Head {
        sha256: older.sha256.replace(['0', '1', '2'], "f"),
        ..older
    };
    let verdict = told(&other);
    assert_eq!(verdict.head, Some(false));
    let is_other = |b: &&Break| b.what.starts_with("is not the entry that was told of");
    let other_entry = verdict.broken.iter().find(is_other).unwrap();
    assert_eq!(other_entry.index, Some(1));
    // One bundle says nothing of the end of its chain.
    let bundle = site.evidence().join(draft(1).folder);
    let error = verify_with_head(&bundle, None, Some(&other)).unwrap_err();
    assert!(matches!(error, VerifyError::NoChain { .. }), "{error}");
}

#[test]
fn a_head_reads_as_it_is_written_and_nothing_else_does() {
    let sha256 = "0aB9".repeat(16);
    let head: Head = format!("41:{sha256}").parse().unwrap();
    assert_eq!((head.entry, head.sha256), (41, sha256.to_lowercase()));
    for wrong in [
        "",
        "41",
        "41:",
        "x:",
        &sha256,
        &format!("-1:{sha256}"),
        "41:12ab",
    ] {
        let why = wrong.parse::<Head>().unwrap_err();
        assert!(why.contains("NUMBER:SHA256"), "{why}");
    }
}
