use std::path::Path;

use super::*;
use crate::base::geometry::SizePx;
use crate::base::heartbeat::Heartbeats;
use crate::base::ids::ClassId;
use crate::base::metrics::Counter;
use crate::base::time::{MonoMicros, SystemClock, UtcMicros};
use crate::detect::{Detection, Detections};
use crate::evidence::{Around, BEAT, SiteRings};
use crate::uplink::{SiteState, Store};

fn class(label: &str, group: u16) -> ClassInfo {
    ClassInfo {
        label: label.to_owned(),
        group,
        model: 0,
        threshold: 0.5,
    }
}

#[test]
fn faces_and_heads_and_all_states_of_them_are_faces() {
    let classes = [
        class("person", 0),
        class("head", 1),
        class("face-bare", 1),
        class("mask-worn", 1),
        class("head-hat", 2),
        class("rat", 3),
        class("headlamp", 4),
    ];
    assert_eq!(
        faces(&classes),
        [false, true, true, true, true, false, false]
    );
}

/// A desk on a state directory of its own, and everything around it.
struct Site {
    desk: EvidenceDesk,
    answers: EvidenceAnswers,
    problems: tokio::sync::watch::Receiver<SiteState>,
    // Ends its clips and signatures when the desk is gone.
    keeper: Option<Keeper>,
    dir: tempfile::TempDir,
}

fn words(labels: &[&str]) -> Words {
    Words {
        config_sha256: "ab".repeat(32),
        labels: labels.iter().map(|l| (*l).to_owned()).collect(),
        faces: faces(
            &labels
                .iter()
                .zip(0..)
                .map(|(l, g)| class(l, g))
                .collect::<Vec<_>>(),
        ),
        models: Vec::new(),
    }
}

fn config(dir: &Path, redact: Redact) -> EvidenceConfig {
    EvidenceConfig {
        dir: dir.join("evidence"),
        key_file: dir.join("site.key"),
        jpeg_quality: 80,
        redact,
        pre_roll: std::time::Duration::from_secs(5),
        post_roll: std::time::Duration::from_secs(5),
        ring_bytes: 1 << 20,
        min_free_bytes: 0,
        max_bytes: 1 << 30,
        // The pictures here have a date of their own, whenever the test runs.
        max_age: std::time::Duration::from_secs(100 * 365 * 24 * 3600),
    }
}

fn site(labels: &[&str], redact: Redact, prepare: impl FnOnce(&Path)) -> Site {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path());
    let (metrics, clock) = (Metrics::default(), SystemClock::shared());
    let heartbeats = Heartbeats::new(clock.clone());
    let path = dir.path().join("store.sqlite");
    let (store, _ends_with_the_last_handle) =
        Store::open(&path, clock.clone(), &metrics, &heartbeats).unwrap();
    let config = config(dir.path(), redact);
    let outbox = EvidenceOutbox::open(&store, &config.dir, redact == Redact::Off).unwrap();
    let (state, problems) = tokio::sync::watch::channel(SiteState::default());
    let identity = SiteIdentity {
        region: crate::base::ids::Name::new("410724").unwrap(),
        site: crate::base::ids::Name::new("site-000123").unwrap(),
        uscc: None,
    };
    let (desk, keeper) = EvidenceDesk::open(
        EvidenceSettings::new(config),
        &identity,
        words(labels),
        outbox,
        Problems::new(state),
        &metrics,
        clock.clone(),
    );
    let board = Arc::new(FrameBoard::new(vec![Counter::default()], clock.clone()));
    let answers = desk.answers(store, CameraSlots::default(), board, clock, None);
    Site {
        desk,
        answers,
        problems,
        keeper,
        dir,
    }
}

fn analysed(class: u16) -> Analysed {
    let size = SizePx {
        width_px: 64,
        height_px: 48,
    };
    let pixels: Vec<u8> = (0..Frame::byte_len(size))
        .map(|i| (i * 7 % 256) as u8)
        .collect();
    let stamp = FrameStamp {
        received: MonoMicros(50_000_000),
        received_utc: UtcMicros(1_795_490_400_000_000),
        ..FrameStamp::default()
    };
    Analysed {
        detections: Detections {
            camera: CameraIx(0),
            stamp,
            items: vec![Detection {
                class: ClassId(class),
                score: 0.2,
                rect: NormRect::clipped(0.3, 0.3, 0.6, 0.6),
                head: None,
            }]
            .into(),
            inferred: MonoMicros(0),
        },
        frame: Frame {
            stamp,
            ..Frame::new(size, pixels)
        },
    }
}

#[tokio::test]
async fn a_snapshot_is_taken_of_the_next_picture_and_signed_and_queued_without_faces() {
    let mut site = site(&["face-bare"], Redact::Faces, |_| {});
    let asked = site.answers.snapshots.ask(CameraIx(0));
    site.desk.answer_snapshots(&analysed(0));
    let plain = asked.await.unwrap().unwrap();
    assert!(plain.redacted);
    let keeper = site.keeper.take().unwrap();
    let around = Around {
        rings: SiteRings::default(),
        remux: Box::new(ClipWriter),
        tell: Box::new(|_| {}),
        heartbeat: Heartbeats::new(SystemClock::shared()).register("evidence", BEAT),
    };
    let keeping = std::thread::spawn(move || keeper.run(&around));
    let asking = tokio::spawn({
        let answers = site.answers.clone();
        async move { answers.send_snapshot(CameraIx(0)).await }
    });
    // Until the task has asked.
    while !asking.is_finished() {
        site.desk.answer_snapshots(&analysed(0));
        tokio::task::yield_now().await;
    }
    let answer = asking.await.unwrap().unwrap();
    assert_eq!(answer["sha256"], plain.sha256);
    assert_eq!(answer["redacted"], true);
    let id = answer["topic"].as_str().unwrap().split('/').nth(1).unwrap();
    let file = site
        .dir
        .path()
        .join(format!("evidence/2026/11/24/{id}/frame.jpg"));
    assert_eq!(std::fs::read(file).unwrap(), plain.jpeg);
    let Site {
        desk, answers, dir, ..
    } = site;
    drop((desk, answers));
    keeping.join().unwrap();
    let verdict = crate::evidence::verify(dir.path(), None).unwrap();
    assert!(verdict.ok && verdict.files == 1, "{verdict:#?}");
    let alone = dir.path().join(format!("evidence/2026/11/24/{id}"));
    let verdict = crate::evidence::verify(&alone, None).unwrap();
    assert!(verdict.ok && verdict.files == 1, "{verdict:#?}");
}

#[tokio::test]
async fn what_cannot_be_signed_is_not_sent() {
    let site = site(&["face-bare"], Redact::Faces, |dir| {
        std::fs::write(dir.join("site.key"), "nonsense").unwrap();
    });
    let asking = tokio::spawn({
        let answers = site.answers.clone();
        async move { answers.send_snapshot(CameraIx(0)).await }
    });
    while !asking.is_finished() {
        site.desk.answer_snapshots(&analysed(0));
        tokio::task::yield_now().await;
    }
    let why = asking.await.unwrap().unwrap_err();
    assert!(
        why.starts_with("no evidence is kept here: the key"),
        "{why}"
    );
}

#[tokio::test]
async fn where_no_model_knows_faces_no_snapshot_leaves() {
    let site = site(&["rat"], Redact::Faces, |_| {});
    let asked = site.answers.snapshots.ask(CameraIx(0));
    site.desk.answer_snapshots(&analysed(0));
    let why = asked.await.unwrap().unwrap_err();
    assert_eq!(why, "faces could not be blurred: no model here finds faces");
}

#[tokio::test(start_paused = true)]
async fn a_blind_camera_gives_no_snapshot_and_an_unknown_finding_no_clip() {
    let site = site(&["face-bare"], Redact::Faces, |_| {});
    let why = site.answers.send_snapshot(CameraIx(0)).await.unwrap_err();
    assert!(why.contains("cannot tell"), "{why}");
    let why = site
        .answers
        .send_clip(Uuid::from_u128(1))
        .await
        .unwrap_err();
    let expected = "there is no evidence of it any more".to_owned();
    assert_eq!(why, NotSent::Refused(expected));
}

#[test]
fn a_change_of_policy_counts_at_once_and_for_what_waits() {
    let mut site = site(&["face-bare"], Redact::Off, |_| {});
    let made = |site: &Site| {
        let config = site.desk.settings.now();
        site.desk.pictures(&analysed(0), &[], &config).unwrap()
    };
    assert!(!made(&site).pictures[0].redacted);
    let faces = config(Path::new("/elsewhere"), Redact::Faces);
    site.desk.change(&faces, words(&["face-bare"]));
    assert!(made(&site).pictures[0].redacted);
    let dir = site.desk.settings.now().dir;
    assert!(dir.starts_with(site.dir.path()), "the folder stays");
}

#[test]
fn a_damaged_key_is_a_problem_of_the_site_and_nothing_is_kept() {
    let site = site(&["face-bare"], Redact::Faces, |dir| {
        std::fs::write(dir.join("site.key"), "nonsense").unwrap();
    });
    assert!(site.answers.kept.is_err());
    let problems = site.problems.borrow().problems.clone();
    assert!(
        problems[0]
            .en
            .starts_with("findings go without evidence: the key"),
        "{problems:?}"
    );
}
