use super::*;
use proptest::prelude::*;

fn item(n: u32, kind: &str, class: u8, queued_us: i64) -> EvidenceItem {
    EvidenceItem {
        finding: Uuid::from_u128(u128::from(n)),
        n,
        kind: kind.to_owned(),
        media: "image/jpeg".to_owned(),
        file: format!("2026/11/24/{n}/frame.jpg"),
        sha256: "ab".repeat(32),
        bytes: 1000,
        redacted: true,
        class,
        queued_us,
    }
}

#[test]
fn pictures_go_before_clips_then_by_class_then_by_age() {
    let outbox = EvidenceOutbox {
        waiting: Arc::default(),
        dir: Path::new("/nowhere").into(),
        unredacted_may_leave: Arc::default(),
    };
    for i in [
        item(1, "clip", 1, 1),
        item(2, "frame", 3, 1),
        item(3, "frame", 1, 9),
        item(4, "annotated", 1, 2),
        item(5, "frame", 2, 1),
    ] {
        outbox.add(i.clone());
        outbox.add(i);
    }
    let mut order = Vec::new();
    while let Some(first) = outbox.first() {
        order.push(first.n);
        outbox.remove(&first);
    }
    assert_eq!(order, [4, 3, 5, 2, 1]);
}

#[test]
fn no_budget_means_nothing_goes() {
    let mut bucket = Bucket::new(0, MonoMicros(0));
    assert!(!bucket.allows(1, MonoMicros(3_600_000_000)));
}

#[test]
fn a_notice_on_what_is_withheld_is_the_same_each_time() {
    let unfit = Unfit {
        reason: "too_large",
        why: "larger than the broker takes".to_owned(),
    };
    let first = withheld(&item(1, "frame", 2, 1), &unfit, UtcMicros(1));
    let again = withheld(&item(1, "frame", 2, 1), &unfit, UtcMicros(2));
    assert_eq!(first.id, again.id);
    assert_eq!(first.data["reason"], "too_large");
    assert!(first.text.contains("larger than the broker takes"));
}

proptest! {
    /// Over any stretch, what goes is at most the budget, a second's worth, and one file.
    #[test]
    fn the_budget_holds_over_any_stretch(
        kbps in 1u32..2000,
        files in prop::collection::vec((1u64..400_000, 0u64..5_000_000), 1..100),
    ) {
        let mut now = MonoMicros(0);
        let mut bucket = Bucket::new(kbps, now);
        let (mut sent, mut last) = (0u64, 0u64);
        for (bytes, wait_us) in files {
            now = MonoMicros(now.0 + wait_us);
            if bucket.allows(bytes, now) {
                bucket.spend(bytes);
                sent += bytes;
                last = bytes;
            }
            let may = f64::from(kbps) * 125.0 * (now.0 as f64 / 1e6 + 1.0) + last as f64;
            prop_assert!(sent as f64 <= may + 1.0, "{sent} of {may}");
        }
    }

    /// However large the file and however small the budget, it goes in the end.
    #[test]
    fn no_file_waits_for_ever(kbps in 1u32..2000, bytes in 1u64..10_000_000) {
        let mut bucket = Bucket::new(kbps, MonoMicros(0));
        bucket.spend(bytes);
        let debt_s = bytes / (u64::from(kbps) * 125) + 2;
        prop_assert!(bucket.allows(bytes, MonoMicros(debt_s * 1_000_000)));
    }
}
