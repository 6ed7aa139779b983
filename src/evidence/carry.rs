//! Faces from the pictures in which they were found into those before, between and after: pure.
//!
//! A detector misses a face now and then, and looks at some pictures only. So a face that is found is
//! taken to be there for [`HOLD`] before and after as well, at its place; and as a head moves, what is
//! found near it in a later look is taken for the same, which is then also between the two. What has
//! not been seen for a while may have moved: its box grows.
//!
//! This covers too much rather than too little. What must not be here: pixels.
use std::time::Duration;

use crate::base::geometry::NormRect;
use crate::base::time::Pts90k;

/// How long a face is taken to be where it was found, before and after.
pub const HOLD: Duration = Duration::from_secs(1);
/// How fast a head may move, in its own sizes a second: 0.2 m and a brisk walk.
const SPEED: f32 = 6.0;
/// And how far from where it was found the last time it is looked for in the next look, at once.
const NEAR: f32 = 1.0;
/// A box grows by this much of its size for each second since the face was seen, on each side.
const GROWTH: f32 = 4.0;
/// And by no more than this.
const MOST_GROWTH: f32 = 1.0;
/// Boxes that overlap by more than this become one.
const SAME: f32 = 0.5;

/// One face, as far as it was followed.
#[derive(Clone, Debug)]
struct Way {
    seen: Vec<(i64, NormRect)>,
}

/// All faces found in a clip.
#[derive(Clone, Debug, Default)]
pub struct Sightings {
    ways: Vec<Way>,
}

fn ticks(d: Duration) -> i64 {
    (d.as_secs_f64() * 90_000.0) as i64
}

fn seconds(ticks: i64) -> f32 {
    ticks as f32 / 90_000.0
}

fn size(rect: &NormRect) -> f32 {
    rect.width().max(rect.height())
}

/// How far apart two boxes are, in sizes of the larger one; `None` if they can hardly be one head.
fn apart(a: &NormRect, b: &NormRect) -> Option<f32> {
    let (larger, smaller) = (size(a).max(size(b)), size(a).min(size(b)));
    if smaller <= 0.0 || larger > 2.5 * smaller {
        return None;
    }
    let (p, q) = (a.center(), b.center());
    Some((p.x - q.x).hypot(p.y - q.y) / larger)
}

impl Way {
    fn last(&self) -> &(i64, NormRect) {
        &self.seen[self.seen.len() - 1]
    }

    /// Where the face is taken to be at `t`.
    fn at(&self, t: i64, boxes: &mut Vec<NormRect>) {
        let hold = ticks(HOLD);
        let near = |(at, _): &&(i64, NormRect)| (at - t).abs() <= hold;
        boxes.extend(self.seen.iter().filter(near).map(|(_, rect)| *rect));
        let next = self.seen.partition_point(|(at, _)| *at < t);
        let before = next.checked_sub(1).map(|i| &self.seen[i]);
        let (rect, away) = match (before, self.seen.get(next)) {
            (Some((t0, a)), Some((t1, b))) => {
                let share = seconds(t - t0) / seconds(t1 - t0).max(f32::EPSILON);
                (between(a, b, share), (t - t0).min(t1 - t))
            }
            (Some((at, rect)), None) => (*rect, t - at),
            (None, Some((at, rect))) => (*rect, at - t),
            (None, None) => return,
        };
        if away <= hold {
            boxes.push(grown(&rect, (seconds(away) * GROWTH).min(MOST_GROWTH)));
        }
    }
}

fn between(a: &NormRect, b: &NormRect, share: f32) -> NormRect {
    let mix = |a: f32, b: f32| a + (b - a) * share;
    NormRect::clipped(
        mix(a.x0, b.x0),
        mix(a.y0, b.y0),
        mix(a.x1, b.x1),
        mix(a.y1, b.y1),
    )
}

fn grown(rect: &NormRect, by: f32) -> NormRect {
    let (dx, dy) = (rect.width() * by, rect.height() * by);
    NormRect::clipped(rect.x0 - dx, rect.y0 - dy, rect.x1 + dx, rect.y1 + dy)
}

fn hull(a: &NormRect, b: &NormRect) -> NormRect {
    NormRect {
        x0: a.x0.min(b.x0),
        y0: a.y0.min(b.y0),
        x1: a.x1.max(b.x1),
        y1: a.y1.max(b.y1),
    }
}

/// Fewer boxes that cover at least the same.
fn merged(mut boxes: Vec<NormRect>) -> Vec<NormRect> {
    boxes.sort_by(|a, b| b.area().total_cmp(&a.area()));
    let mut kept: Vec<NormRect> = Vec::new();
    for rect in boxes {
        match kept
            .iter_mut()
            .find(|k| hull(k, &rect) == **k || k.iou(&rect) > SAME)
        {
            Some(k) => *k = hull(k, &rect),
            None => kept.push(rect),
        }
    }
    kept
}

impl Sightings {
    /// The faces found in the picture shown at `at`; pictures come in the order they are shown.
    pub fn add(&mut self, at: Pts90k, faces: &[NormRect]) {
        let known = self.ways.len();
        let mut taken = vec![false; known];
        for face in faces {
            let nearest = self.ways[..known]
                .iter()
                .enumerate()
                .filter_map(|(i, way)| {
                    let (t, rect) = way.last();
                    let since = at.0 - t;
                    let usable = !taken[i] && since > 0 && since <= ticks(HOLD);
                    let far = apart(rect, face).filter(|_| usable)?;
                    (far <= NEAR + SPEED * seconds(since)).then_some((i, far))
                });
            match nearest.min_by(|a, b| a.1.total_cmp(&b.1)) {
                Some((i, _)) => {
                    taken[i] = true;
                    self.ways[i].seen.push((at.0, *face));
                }
                None => self.ways.push(Way {
                    seen: vec![(at.0, *face)],
                }),
            }
        }
    }

    /// Where faces are taken to be in the picture shown at `at`.
    pub fn at(&self, at: Pts90k) -> Vec<NormRect> {
        let mut boxes = Vec::new();
        for way in &self.ways {
            way.at(at.0, &mut boxes);
        }
        merged(boxes)
    }

    /// How many faces were followed; one that was lost and found again counts twice.
    pub fn faces(&self) -> usize {
        self.ways.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(x: f32) -> NormRect {
        NormRect::clipped(x, 0.3, x + 0.1, 0.45)
    }

    fn s(seconds: f64) -> Pts90k {
        Pts90k((seconds * 90_000.0) as i64)
    }

    fn covers(sightings: &Sightings, at: Pts90k, rect: &NormRect) -> bool {
        let boxes = sightings.at(at);
        boxes.iter().any(|b| hull(b, rect) == *b)
    }

    #[test]
    fn a_face_is_covered_for_a_second_before_and_after_it_was_found() {
        let mut one = Sightings::default();
        one.add(s(5.0), &[head(0.4)]);
        for t in [4.0, 4.5, 5.0, 5.5, 6.0] {
            assert!(covers(&one, s(t), &head(0.4)), "{t}");
        }
        for t in [3.9, 6.1] {
            assert_eq!(one.at(s(t)), [], "{t}");
        }
    }

    #[test]
    fn a_head_that_walks_is_covered_where_it_was_missed_in_between() {
        // 0.3 of the picture in 0.8 s, seen at the beginning and at the end of it only.
        let mut walk = Sightings::default();
        walk.add(s(1.0), &[head(0.3)]);
        for missed in [1.2, 1.4, 1.6] {
            walk.add(s(missed), &[]);
        }
        walk.add(s(1.8), &[head(0.6)]);
        assert_eq!(walk.faces(), 1);
        for step in 0..=16 {
            let t = 1.0 + 0.05 * f64::from(step);
            let x = 0.3 + 0.3 * step as f32 / 16.0;
            assert!(covers(&walk, s(t), &head(x)), "at {t} s");
        }
    }

    #[test]
    fn a_head_that_stands_still_is_one_box_hardly_larger_than_itself() {
        let mut still = Sightings::default();
        for n in 0..50 {
            still.add(s(0.08 * f64::from(n)), &[head(0.4), head(0.8)]);
        }
        assert_eq!(still.faces(), 2);
        let boxes = still.at(s(2.0));
        assert_eq!(boxes.len(), 2, "{boxes:?}");
        assert!(boxes[0].area() < 1.7 * head(0.4).area());
    }

    #[test]
    fn two_heads_that_pass_each_other_are_both_covered() {
        let mut two = Sightings::default();
        for n in 0..=20 {
            let x = 0.02 * n as f32;
            two.add(s(0.08 * f64::from(n)), &[head(0.3 + x), head(0.7 - x)]);
        }
        for n in 0..=20 {
            let (t, x) = (s(0.08 * f64::from(n)), 0.02 * n as f32);
            assert!(covers(&two, t, &head(0.3 + x)) && covers(&two, t, &head(0.7 - x)));
        }
    }

    proptest! {
        #[test]
        fn every_box_is_covered_wherever_it_was_found_and_a_second_around(
            looks in prop::collection::vec(
                (0i64..200_000, prop::collection::vec((0f32..1.0, 0f32..1.0, 0.0f32..0.4, 0.0f32..0.4), 0..4)),
                1..12,
            ),
            around in -90_000i64..=90_000,
        ) {
            let mut all = Sightings::default();
            let mut found = Vec::new();
            for (at, boxes) in looks {
                let boxes: Vec<NormRect> = boxes.iter()
                    .map(|(x, y, w, h)| NormRect::clipped(*x, *y, x + w, y + h))
                    .collect();
                all.add(Pts90k(at), &boxes);
                found.extend(boxes.into_iter().map(|b| (at, b)));
            }
            for (at, rect) in found {
                prop_assert!(covers(&all, Pts90k(at + around), &rect));
            }
        }
    }
}
