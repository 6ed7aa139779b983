//! Native-resolution regions: which squares of the camera's own pixels are looked at besides the
//! shrunken frame, and which of their boxes count.
use super::card::RegionsCard;
use super::postprocess::RawBox;
use super::preprocess::CropPx;
use crate::base::geometry::{NormRect, SizePx};

/// A frame shrunk by less than this is seen well enough: its own pixels would add nothing.
const WORTH: f64 = 0.8;
/// Longest side of a box in a region, as a share of the region's side, that counts: what is larger is
/// seen in the frame, and better, because whole.
const LARGEST: f64 = 0.5;
/// A box so near to a region's edge, as a share of its side, may be half of something.
const EDGE: f64 = 0.02;
/// Share of a region's box inside a box of the same group that makes it a part of that.
const PART: f32 = 0.7;

/// Puts into `all`, in the place of what was there, squares of `card.side_px` over what moves, shifted into the
/// picture, none where another already covers it; a cluster that is larger than a square gets several. The largest
/// cluster's come first.
pub fn regions(
    card: &RegionsCard,
    picture: SizePx,
    scaled: SizePx,
    moving: &[NormRect],
    all: &mut Vec<CropPx>,
) {
    all.clear();
    let side = f64::from(card.side_px);
    let (w, h) = (f64::from(picture.width_px), f64::from(picture.height_px));
    if f64::from(scaled.width_px) > WORTH * w || side > w || side > h {
        return;
    }
    for rect in moving {
        let known = all.len();
        let across = starts(f64::from(rect.x0) * w, f64::from(rect.x1) * w, side, w);
        for y0 in starts(f64::from(rect.y0) * h, f64::from(rect.y1) * h, side, h) {
            for x0 in across.clone() {
                let near =
                    |r: &CropPx| (r.x0 - x0).abs() < side / 4.0 && (r.y0 - y0).abs() < side / 4.0;
                if !all[..known].iter().any(near) {
                    all.push(CropPx {
                        x0,
                        y0,
                        x1: x0 + side,
                        y1: y0 + side,
                    });
                }
            }
        }
    }
}

/// Where squares of `side` begin that cover `low..high` of an axis of `limit` pixels: one in the middle
/// of it, or, where it is longer, several that overlap by at least half, so that what is up to half a
/// side long lies whole in one of them.
fn starts(low: f64, high: f64, side: f64, limit: f64) -> impl Iterator<Item = f64> + Clone {
    let length = high - low;
    let (first, step, steps) = if length <= side {
        (f64::midpoint(low, high) - side / 2.0, 0.0, 0)
    } else {
        let steps = ((length - side) / (side / 2.0)).ceil().max(1.0) as u32;
        (low, (length - side) / f64::from(steps), steps)
    };
    (0..=steps).map(move |i| {
        let start = first + step * f64::from(i);
        start.clamp(0.0, limit - side).round()
    })
}

/// Of boxes in fractions of `region`, keeps those that count, in fractions of the picture.
pub fn in_picture(boxes: &mut Vec<RawBox>, region: &CropPx, picture: SizePx) {
    let (w, h) = (f64::from(picture.width_px), f64::from(picture.height_px));
    let (rw, rh) = (region.x1 - region.x0, region.y1 - region.y0);
    let whole = |low: f32, high: f32, start: f64, length: f64, limit: f64| {
        let (low, high) = (f64::from(low), f64::from(high));
        let cut =
            (low < EDGE && start > 0.5) || (high > 1.0 - EDGE && start + length < limit - 0.5);
        !cut && high - low <= LARGEST
    };
    let counts = |b: &RawBox| {
        whole(b.rect.x0, b.rect.x1, region.x0, rw, w)
            && whole(b.rect.y0, b.rect.y1, region.y0, rh, h)
    };
    let x = |v: f32| ((region.x0 + f64::from(v) * rw) / w) as f32;
    let y = |v: f32| ((region.y0 + f64::from(v) * rh) / h) as f32;
    boxes.retain(counts);
    for b in boxes {
        b.rect = NormRect::clipped(x(b.rect.x0), y(b.rect.y0), x(b.rect.x1), y(b.rect.y1));
    }
}

/// Whether a region's box is only a part of one of the frame's of the same group that is as sure: a
/// sleeve that looks like a small person.
pub fn is_part(of_region: &RawBox, of_frame: &[RawBox], group: impl Fn(usize) -> u16) -> bool {
    let small = &of_region.rect;
    of_frame.iter().any(|big| {
        let w = (small.x1.min(big.rect.x1) - small.x0.max(big.rect.x0)).max(0.0);
        let h = (small.y1.min(big.rect.y1) - small.y0.max(big.rect.y0)).max(0.0);
        let larger = big.score >= of_region.score && big.rect.area() > 2.0 * small.area();
        group(big.class) == group(of_region.class) && larger && w * h > PART * small.area()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HD: SizePx = SizePx {
        width_px: 1280,
        height_px: 720,
    };
    const SCALED: SizePx = SizePx {
        width_px: 544,
        height_px: 306,
    };
    const CARD: RegionsCard = RegionsCard {
        side_px: 224,
        per_frame: 2,
    };

    fn at(x: f32, y: f32) -> NormRect {
        NormRect::clipped(x - 0.01, y - 0.01, x + 0.01, y + 0.01)
    }

    fn regions(
        card: &RegionsCard,
        picture: SizePx,
        scaled: SizePx,
        moving: &[NormRect],
    ) -> Vec<CropPx> {
        let mut all = vec![CropPx {
            x0: 0.0,
            y0: 0.0,
            x1: 1.0,
            y1: 1.0,
        }];
        super::regions(card, picture, scaled, moving, &mut all);
        all
    }

    fn raw(x0: f32, y0: f32, x1: f32, y1: f32) -> RawBox {
        RawBox {
            class: 0,
            score: 0.5,
            rect: NormRect { x0, y0, x1, y1 },
        }
    }

    #[test]
    fn every_moving_place_has_a_region_and_none_has_two() {
        let moving = [at(0.1, 0.1), at(0.9, 0.1), at(0.1, 0.9), at(0.105, 0.1)];
        assert_eq!(regions(&CARD, HD, SCALED, &moving).len(), 3);
        assert_eq!(regions(&CARD, HD, HD, &moving), [], "not shrunk");
        assert_eq!(regions(&CARD, HD, SCALED, &[]), [], "no motion");
    }

    #[test]
    fn a_box_that_a_region_cuts_does_not_count_unless_the_picture_ends_there() {
        let middle = CropPx {
            x0: 500.0,
            y0: 300.0,
            x1: 724.0,
            y1: 524.0,
        };
        let seen = |b: RawBox, region: &CropPx| {
            let mut boxes = vec![b];
            in_picture(&mut boxes, region, HD);
            boxes
        };
        let cut = raw(0.0, 0.4, 0.2, 0.6);
        assert!(seen(cut, &middle).is_empty());
        let corner = CropPx {
            x0: 0.0,
            y0: 300.0,
            x1: 224.0,
            y1: 524.0,
        };
        assert_eq!(seen(cut, &corner).len(), 1);
        assert!(seen(raw(0.1, 0.1, 0.8, 0.3), &middle).is_empty());
        let found = seen(raw(0.25, 0.25, 0.5, 0.5), &middle);
        assert!((found[0].rect.x0 - 556.0 / 1280.0).abs() < 1e-6);
        assert!((found[0].rect.y1 - 412.0 / 720.0).abs() < 1e-6);
    }

    #[test]
    fn a_sleeve_is_part_of_its_person() {
        let person = raw(0.2, 0.1, 0.5, 0.9);
        assert!(is_part(&raw(0.25, 0.3, 0.3, 0.5), &[person], |_| 0));
        assert!(!is_part(&raw(0.6, 0.3, 0.7, 0.5), &[person], |_| 0));
        assert!(!is_part(&raw(0.21, 0.12, 0.5, 0.9), &[person], |_| 0));
        let doubtful = RawBox {
            score: 0.1,
            ..person
        };
        assert!(!is_part(&raw(0.25, 0.3, 0.3, 0.5), &[doubtful], |_| 0));
    }

    proptest! {
        #[test]
        fn regions_lie_in_the_picture_and_cover_what_moves(
            w in 224u32..3000, h in 224u32..2000, x in 0.0f32..1.0, y in 0.0f32..1.0,
        ) {
            let size = SizePx { width_px: w, height_px: h };
            let scaled = SizePx { width_px: w / 4, height_px: h / 4 };
            for r in regions(&CARD, size, scaled, &[at(x, y)]) {
                prop_assert!(r.x0 >= 0.0 && r.y0 >= 0.0 && r.x1 <= f64::from(w) && r.y1 <= f64::from(h));
                prop_assert!((r.x1 - r.x0 - 224.0).abs() < 1e-9);
            }
            let all = regions(&CARD, size, scaled, &[NormRect::clipped(0.0, 0.0, 1.0, 1.0)]);
            // Every square of half a side lies whole in one of them.
            let (x0, y0) = (f64::from(x) * (f64::from(w) - 112.0), f64::from(y) * (f64::from(h) - 112.0));
            let whole = |r: &CropPx| r.x0 <= x0 + 1.0 && r.x1 + 1.0 >= x0 + 112.0 && r.y0 <= y0 + 1.0 && r.y1 + 1.0 >= y0 + 112.0;
            prop_assert!(all.iter().any(whole), "{x0} {y0} {all:?}");
        }
    }
}
