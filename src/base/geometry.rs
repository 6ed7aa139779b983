//! Rectangles and polygons as fractions of the picture, and picture sizes in pixels.

/// A rectangle as fractions of the original picture, `0.0..=1.0`, origin top-left, `x1 >= x0`,
/// `y1 >= y0`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NormRect {
    /// Left.
    pub x0: f32,
    /// Top.
    pub y0: f32,
    /// Right.
    pub x1: f32,
    /// Bottom.
    pub y1: f32,
}

impl NormRect {
    /// Corners in any order, clipped to the picture; not-a-number becomes 0.
    pub fn clipped(xa: f32, ya: f32, xb: f32, yb: f32) -> Self {
        let c = |v: f32| if v.is_nan() { 0.0 } else { v.clamp(0.0, 1.0) };
        let (xa, ya, xb, yb) = (c(xa), c(ya), c(xb), c(yb));
        Self {
            x0: xa.min(xb),
            y0: ya.min(yb),
            x1: xa.max(xb),
            y1: ya.max(yb),
        }
    }

    /// Width as a fraction of the picture's.
    pub fn width(&self) -> f32 {
        self.x1 - self.x0
    }

    /// Height as a fraction of the picture's.
    pub fn height(&self) -> f32 {
        self.y1 - self.y0
    }

    /// Area as a fraction of the picture's.
    pub fn area(&self) -> f32 {
        self.width() * self.height()
    }

    /// The middle.
    pub fn center(&self) -> Point {
        Point {
            x: f32::midpoint(self.x0, self.x1),
            y: f32::midpoint(self.y0, self.y1),
        }
    }

    /// Intersection over union, `0.0..=1.0`; 0 when both are empty.
    pub fn iou(&self, other: &Self) -> f32 {
        let w = (self.x1.min(other.x1) - self.x0.max(other.x0)).max(0.0);
        let h = (self.y1.min(other.y1) - self.y0.max(other.y0)).max(0.0);
        let shared = w * h;
        let all = self.area() + other.area() - shared;
        if all > 0.0 {
            (shared / all).clamp(0.0, 1.0)
        } else {
            0.0
        }
    }
}

/// A point as fractions of the picture.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// From the left, `0.0..=1.0`.
    pub x: f32,
    /// From the top, `0.0..=1.0`.
    pub y: f32,
}

/// A closed polygon of at least three corners, as fractions of the picture; the last corner joins
/// the first.
#[derive(Clone, Debug, PartialEq)]
pub struct Polygon(Vec<Point>);

impl Polygon {
    /// Keeps `corners` if there are at least three.
    pub fn new(corners: Vec<Point>) -> Option<Self> {
        (corners.len() >= 3).then_some(Self(corners))
    }

    /// The whole picture.
    pub fn whole() -> Self {
        let p = |x, y| Point { x, y };
        Self(vec![p(0.0, 0.0), p(1.0, 0.0), p(1.0, 1.0), p(0.0, 1.0)])
    }

    /// The corners in order.
    pub fn corners(&self) -> &[Point] {
        &self.0
    }

    /// Area as a fraction of the picture's; of a polygon that crosses itself, anything less.
    pub fn area(&self) -> f32 {
        let mut b = self.0[self.0.len() - 1];
        let mut twice = 0.0;
        for &a in &self.0 {
            twice += b.x * a.y - a.x * b.y;
            b = a;
        }
        twice.abs() / 2.0
    }

    /// Whether `p` lies inside, by the even-odd rule. Points on an edge may go either way.
    pub fn contains(&self, p: Point) -> bool {
        let mut inside = false;
        let mut b = self.0[self.0.len() - 1];
        for &a in &self.0 {
            if (a.y > p.y) != (b.y > p.y) && p.x < (b.x - a.x) * (p.y - a.y) / (b.y - a.y) + a.x {
                inside = !inside;
            }
            b = a;
        }
        inside
    }

    /// Whether two edges that do not share a corner cross: such a zone has no clear inside.
    pub fn crosses_itself(&self) -> bool {
        let n = self.0.len();
        let edge = |i: usize| (self.0[i], self.0[(i + 1) % n]);
        (0..n).any(|i| {
            (i + 2..n).filter(|&j| !(i == 0 && j == n - 1)).any(|j| {
                let ((a, b), (c, d)) = (edge(i), edge(j));
                let side = |p: Point, q: Point, r: Point| {
                    (q.x - p.x) * (r.y - p.y) - (q.y - p.y) * (r.x - p.x)
                };
                side(a, b, c) * side(a, b, d) < 0.0 && side(c, d, a) * side(c, d, b) < 0.0
            })
        })
    }
}

/// A picture's size in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SizePx {
    /// Columns.
    pub width_px: u32,
    /// Rows.
    pub height_px: u32,
}

impl std::fmt::Display for SizePx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width_px, self.height_px)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn p(x: f32, y: f32) -> Point {
        Point { x, y }
    }

    #[test]
    fn a_point_is_inside_the_polygon_that_surrounds_it() {
        let l = Polygon::new(vec![
            p(0.1, 0.1),
            p(0.9, 0.1),
            p(0.9, 0.5),
            p(0.5, 0.5),
            p(0.5, 0.9),
            p(0.1, 0.9),
        ])
        .unwrap();
        assert!(l.contains(p(0.2, 0.8)) && l.contains(p(0.8, 0.2)));
        assert!(!l.contains(p(0.8, 0.8)) && !l.contains(p(0.05, 0.5)));
        assert!(!l.crosses_itself());
    }

    #[test]
    fn the_area_does_not_depend_on_the_direction_of_the_corners() {
        let l = vec![p(0.0, 0.0), p(0.5, 0.0), p(0.5, 0.4), p(0.0, 0.4)];
        let back = l.iter().rev().copied().collect();
        for corners in [l, back] {
            assert!((Polygon::new(corners).unwrap().area() - 0.2).abs() < 1e-6);
        }
        let line = Polygon::new(vec![p(0.1, 0.1), p(0.5, 0.5), p(0.9, 0.9)]).unwrap();
        assert!(line.area() < 1e-6);
    }

    #[test]
    fn a_bow_tie_crosses_itself() {
        let bow = Polygon::new(vec![p(0.0, 0.0), p(1.0, 1.0), p(1.0, 0.0), p(0.0, 1.0)]).unwrap();
        assert!(bow.crosses_itself());
        assert!(!Polygon::whole().crosses_itself());
        assert!(Polygon::new(vec![p(0.0, 0.0), p(1.0, 1.0)]).is_none());
    }

    proptest! {
        #[test]
        fn iou_is_symmetric_and_a_fraction(a in prop::array::uniform4(-0.5f32..1.5), b in prop::array::uniform4(-0.5f32..1.5)) {
            let (a, b) = (NormRect::clipped(a[0], a[1], a[2], a[3]), NormRect::clipped(b[0], b[1], b[2], b[3]));
            let v = a.iou(&b);
            prop_assert!((0.0..=1.0).contains(&v));
            prop_assert!((v - b.iou(&a)).abs() < 1e-6);
        }
    }
}
