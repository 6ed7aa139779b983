//! Output tensor → boxes: grid decoding and non-maximum suppression.
use super::card::Card;
use super::preprocess::Letterbox;
use crate::base::geometry::NormRect;

/// A box with the model's own class number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RawBox {
    /// Index into the card's classes.
    pub class: usize,
    /// Objectness times class probability.
    pub score: f32,
    /// Fractions of the original picture.
    pub rect: NormRect,
}

/// Decodes a YOLOX output (see [`super::card::Decoder::Yolox`]) over `letterbox.tensor` into `found`,
/// in the place of what was there. Boxes below the card's low threshold, not finite, or empty after
/// clipping are left out.
pub fn decode_yolox(card: &Card, letterbox: &Letterbox, output: &[f32], found: &mut Vec<RawBox>) {
    found.clear();
    let columns = 5 + card.classes.len();
    let mut rows = output.chunks_exact(columns);
    for &stride in &card.output.strides {
        let tensor = letterbox.tensor;
        let (gw, gh) = (tensor.width_px / stride, tensor.height_px / stride);
        let stride = stride as f32;
        for gy in 0..gh {
            for gx in 0..gw {
                let Some(row) = rows.next() else { return };
                let objectness = row[4];
                if objectness.is_nan() || objectness < card.thresholds.low {
                    continue;
                }
                let best = row[5..]
                    .iter()
                    .enumerate()
                    .max_by(|a, b| a.1.total_cmp(b.1));
                let Some((class, probability)) = best else {
                    continue;
                };
                let score = objectness * probability;
                if score.is_nan() || score < card.thresholds.low {
                    continue;
                }
                let (cx, cy) = ((row[0] + gx as f32) * stride, (row[1] + gy as f32) * stride);
                let (w, h) = (row[2].exp() * stride, row[3].exp() * stride);
                if !(cx.is_finite() && cy.is_finite() && w.is_finite() && h.is_finite()) {
                    continue;
                }
                let (hw, hh) = (w / 2.0, h / 2.0);
                let rect = letterbox.to_picture(cx - hw, cy - hh, cx + hw, cy + hh);
                if rect.area() > 0.0 {
                    found.push(RawBox {
                        class,
                        score: score.min(1.0),
                        rect,
                    });
                }
            }
        }
    }
}

/// Greedy non-maximum suppression within groups: of two boxes that overlap more than `iou` the one
/// with the lower score goes. `group` maps a class to its group. Highest score first; equal scores
/// keep their order, so the result does not depend on the sort.
pub fn suppress(boxes: &mut Vec<RawBox>, iou: f32, group: impl Fn(usize) -> u16) {
    boxes.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept = 0;
    for i in 0..boxes.len() {
        let b = boxes[i];
        let hidden = |k: &RawBox| group(k.class) == group(b.class) && k.rect.iou(&b.rect) > iou;
        if !boxes[..kept].iter().any(hidden) {
            boxes[kept] = b;
            kept += 1;
        }
    }
    boxes.truncate(kept);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::geometry::SizePx;
    use proptest::prelude::*;

    fn card() -> Card {
        toml::from_str(super::super::card::tests::CARD).unwrap()
    }

    fn letterbox() -> Letterbox {
        let tensor = SizePx {
            width_px: 64,
            height_px: 32,
        };
        Letterbox {
            scaled: tensor,
            tensor,
        }
    }

    #[test]
    fn a_cell_decodes_to_the_box_it_describes() {
        let mut out = vec![0.0; card().cells(letterbox().tensor) * 7];
        // Second grid (stride 16, 4 x 2 cells), cell (2, 1): centre at (2.5, 1.5) cells, 16 x 8 px.
        let row = (8 * 4 + 4 + 2) * 7;
        out[row..row + 7].copy_from_slice(&[0.5, 0.5, 0.0, 0.5f32.ln(), 0.9, 0.2, 0.8]);
        let mut found = Vec::new();
        decode_yolox(&card(), &letterbox(), &out, &mut found);
        // Again into the same list: what was there is gone.
        decode_yolox(&card(), &letterbox(), &out, &mut found);
        assert_eq!(found.len(), 1);
        let b = found[0];
        assert_eq!(b.class, 1);
        assert!((b.score - 0.72).abs() < 1e-6);
        let want = NormRect {
            x0: 32.0 / 64.0,
            y0: 20.0 / 32.0,
            x1: 48.0 / 64.0,
            y1: 28.0 / 32.0,
        };
        assert!(b.rect.iou(&want) > 0.999, "{b:?}");
    }

    #[test]
    fn of_two_states_of_one_thing_the_likelier_stays_and_other_things_are_left_alone() {
        let r = NormRect {
            x0: 0.1,
            y0: 0.1,
            x1: 0.3,
            y1: 0.3,
        };
        let b = |class, score| RawBox {
            class,
            score,
            rect: r,
        };
        let group = |class: usize| u16::from(class == 2);
        let mut kept = vec![b(0, 0.6), b(1, 0.8), b(2, 0.3)];
        suppress(&mut kept, 0.5, group);
        assert_eq!(kept.iter().map(|k| k.class).collect::<Vec<_>>(), [1, 2]);
    }

    proptest! {
        #[test]
        fn no_tensor_makes_it_panic_or_leave_the_picture(
            values in prop::collection::vec(prop_oneof![any::<f32>(), -5f32..5.0, 0f32..1.0], 0..400),
        ) {
            let mut found = Vec::new();
            decode_yolox(&card(), &letterbox(), &values, &mut found);
            for b in found {
                prop_assert!(b.score >= 0.1 && b.score <= 1.0);
                prop_assert!(b.rect.x0 >= 0.0 && b.rect.x1 <= 1.0 && b.rect.y0 <= b.rect.y1);
            }
        }

        #[test]
        fn suppression_keeps_the_best_and_no_two_that_overlap(
            raw in prop::collection::vec((0usize..3, 0f32..1.0, prop::array::uniform4(0f32..1.0)), 0..40),
        ) {
            let boxes: Vec<_> = raw.iter().map(|(class, score, r)| RawBox {
                class: *class, score: *score, rect: NormRect::clipped(r[0], r[1], r[2], r[3]),
            }).collect();
            let mut kept = boxes.clone();
            suppress(&mut kept, 0.5, |c| c as u16);
            for (i, a) in kept.iter().enumerate() {
                prop_assert!(boxes.contains(a));
                for b in &kept[..i] {
                    prop_assert!(a.class != b.class || a.rect.iou(&b.rect) <= 0.5);
                }
            }
            prop_assert_eq!(kept.is_empty(), boxes.is_empty());
        }
    }
}
