//! What a network may answer, into boxes and heads: any numbers, of any length, for any shape of picture.
//!
//! Two bytes each for the picture's width and height, then float32 values.
#![no_main]
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use mingchu::base::geometry::SizePx;
use mingchu::detect::{Card, HeadState, Letterbox, decode_yolox, suppress, tensor_size};

fn card() -> &'static Card {
    static CARD: OnceLock<Card> = OnceLock::new();
    CARD.get_or_init(|| {
        toml::from_str(include_str!("../../../models/kitchen.toml")).expect("our own card")
    })
}

fuzz_target!(|input: (u16, u16, &[u8])| {
    let (width, height, bytes) = input;
    let card = card();
    let picture = SizePx {
        width_px: u32::from(width).max(1),
        height_px: u32::from(height).max(1),
    };
    let output: Vec<f32> = bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    let letterbox = Letterbox::new(picture, tensor_size(picture, &card.input, card.step()));
    let mut boxes = Vec::new();
    decode_yolox(card, &letterbox, &output, &mut boxes);
    let many = boxes.len();
    for b in &boxes {
        assert!(b.class < card.classes.len());
        assert!((card.thresholds.low..=1.0).contains(&b.score), "{b:?}");
        assert!(b.rect.x0 >= 0.0 && b.rect.x1 <= 1.0 && b.rect.y0 >= 0.0 && b.rect.y1 <= 1.0);
        assert!(b.rect.x0 < b.rect.x1 && b.rect.y0 < b.rect.y1, "{b:?}");
    }
    let mut kept = boxes;
    suppress(&mut kept, 0.5, |class| (class % 3) as u16);
    assert!(kept.len() <= many && (kept.is_empty() == (many == 0)));
    assert!(kept.windows(2).all(|pair| pair[0].score >= pair[1].score));
    if let Some(head) = HeadState::read(&output) {
        assert!(
            head.cover
                .iter()
                .chain(&head.face)
                .all(|p| (0.0..=1.0).contains(p))
        );
        let (_, p) = head.likeliest_cover();
        assert!(p >= head.cover[3]);
    }
});
