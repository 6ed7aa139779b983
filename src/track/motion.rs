//! Where an object will be: a Kalman filter on the middle and the size of its box.
//!
//! Knows nothing of classes, scores or ids. All lengths are fractions of the picture, all times
//! seconds.
//!
//! # Model
//!
//! With diagonal noise the usual eight-dimensional filter falls apart into one per axis, which is
//! how it is written. The middle moves at a constant velocity that dies away with
//! [`VELOCITY_FADES_SECS`] (an integrated Ornstein-Uhlenbeck process): at a few pictures a second a
//! velocity is two boxes' difference, and a lost person extrapolated for seconds would leave the
//! room. Its process noise is exact for any time step, so irregular pictures need no special case:
//! a step of zero adds none, one of an hour stays finite, and two half steps equal one whole.
//! Width and height are levels that wander: a size that grows at a constant rate would turn
//! negative while lost. Noise scales with the object's size, as in ByteTrack, because a near object
//! crosses more of the picture than a far one.
//!
//! Invariant: all state is finite and sizes are above zero, whatever boxes come in.
use crate::base::geometry::{NormRect, Point};

/// How long a velocity lasts, as the time in which it falls to 1/e. People in kitchens walk for a
/// second or two at a time.
const VELOCITY_FADES_SECS: f64 = 1.5;
/// How fast objects move, in their own sizes per second, one standard deviation. A walking person
/// makes about 1, a head 4, a running rat 10; the filter follows all three, as the first velocity
/// is taken almost whole from the first two boxes.
const SPEED_SIZES_PER_SEC: f64 = 3.0;
/// How far a detector's box is off, in object sizes, one standard deviation.
const BOX_NOISE_SIZES: f64 = 0.08;
/// How much sizes change, in object sizes per square root of a second.
const SIZE_WANDERS: f64 = 0.3;
/// Smallest size taken for scaling: a box thinner than a pixel must not have zero noise.
const LEAST_SIZE: f64 = 1e-3;

/// The length objects are measured by: the geometric mean of width and height. Of a picture of
/// 16:9 it is off by a third across against down, which is little beside the constants above.
pub(super) fn size_of(rect: &NormRect) -> f64 {
    (f64::from(rect.width()) * f64::from(rect.height()))
        .sqrt()
        .max(LEAST_SIZE)
}

/// Position and velocity along one axis, with their covariance.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Axis {
    at: f64,
    velocity: f64,
    var_at: f64,
    cov: f64,
    var_velocity: f64,
}

impl Axis {
    fn new(at: f64, size: f64) -> Self {
        Self {
            at,
            velocity: 0.0,
            var_at: (BOX_NOISE_SIZES * size).powi(2),
            cov: 0.0,
            var_velocity: (SPEED_SIZES_PER_SEC * size).powi(2),
        }
    }

    fn predict(&mut self, dt_secs: f64, size: f64) {
        let tau = VELOCITY_FADES_SECS;
        let x = dt_secs / tau;
        let keep = (-x).exp();
        let carry = tau * (1.0 - keep);
        let spread = (SPEED_SIZES_PER_SEC * size).powi(2);

        self.at += carry * self.velocity;
        self.velocity *= keep;
        // F P Fᵀ + Q with F = [1 carry; 0 keep] and Q of the integrated process. The first term of
        // Q cancels to x³ for small steps; rounding must not make it negative.
        let q_at = spread * tau * tau * (2.0 * x - 3.0 + 4.0 * keep - keep * keep).max(0.0);
        let q_cov = spread * tau * (1.0 - keep).powi(2);
        let q_velocity = spread * (1.0 - keep * keep);
        self.var_at += 2.0 * carry * self.cov + carry * carry * self.var_velocity + q_at;
        self.cov = keep * (self.cov + carry * self.var_velocity) + q_cov;
        self.var_velocity = keep * keep * self.var_velocity + q_velocity;
    }

    fn correct(&mut self, measured: f64, size: f64) {
        let total = self.var_at + (BOX_NOISE_SIZES * size).powi(2);
        let (gain, gain_velocity) = (self.var_at / total, self.cov / total);
        let off = measured - self.at;
        self.at += gain * off;
        self.velocity += gain_velocity * off;
        self.var_velocity = (self.var_velocity - gain_velocity * self.cov).max(0.0);
        self.cov *= 1.0 - gain;
        self.var_at *= 1.0 - gain;
    }
}

/// A value that wanders, with its variance.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Level {
    at: f64,
    var: f64,
}

impl Level {
    fn new(at: f64, size: f64) -> Self {
        Self {
            at,
            var: (BOX_NOISE_SIZES * size).powi(2),
        }
    }

    fn predict(&mut self, dt_secs: f64, size: f64) {
        self.var += (SIZE_WANDERS * size).powi(2) * dt_secs;
    }

    fn correct(&mut self, measured: f64, size: f64) {
        let gain = self.var / (self.var + (BOX_NOISE_SIZES * size).powi(2));
        self.at += gain * (measured - self.at);
        self.var *= 1.0 - gain;
    }
}

/// One object's motion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Motion {
    x: Axis,
    y: Axis,
    width: Level,
    height: Level,
}

impl Motion {
    /// At rest where `rect` is; how fast it moves is unknown.
    pub(super) fn new(rect: &NormRect) -> Self {
        let (center, size) = (rect.center(), size_of(rect));
        Self {
            x: Axis::new(f64::from(center.x), size),
            y: Axis::new(f64::from(center.y), size),
            width: Level::new(f64::from(rect.width()), size),
            height: Level::new(f64::from(rect.height()), size),
        }
    }

    /// Goes `dt_secs` (not negative) ahead.
    pub(super) fn predict(&mut self, dt_secs: f64) {
        let size = self.size();
        self.x.predict(dt_secs, size);
        self.y.predict(dt_secs, size);
        self.width.predict(dt_secs, size);
        self.height.predict(dt_secs, size);
    }

    /// Takes a detection's box into account.
    pub(super) fn correct(&mut self, rect: &NormRect) {
        let (center, size) = (rect.center(), size_of(rect));
        self.x.correct(f64::from(center.x), size);
        self.y.correct(f64::from(center.y), size);
        self.width.correct(f64::from(rect.width()), size);
        self.height.correct(f64::from(rect.height()), size);
    }

    /// The middle; may lie outside the picture while predicted.
    pub(super) fn center(&self) -> Point {
        Point {
            x: self.x.at as f32,
            y: self.y.at as f32,
        }
    }

    /// See [`size_of`].
    pub(super) fn size(&self) -> f64 {
        (self.width.at * self.height.at)
            .max(0.0)
            .sqrt()
            .max(LEAST_SIZE)
    }

    /// The box, clipped to the picture.
    pub(super) fn rect(&self) -> NormRect {
        let (w, h) = (self.width.at / 2.0, self.height.at / 2.0);
        NormRect::clipped(
            (self.x.at - w) as f32,
            (self.y.at - h) as f32,
            (self.x.at + w) as f32,
            (self.y.at + h) as f32,
        )
    }

    /// Panics unless all state is finite, no variance is negative and no size is.
    pub(super) fn check_invariants(&self) {
        for a in [self.x, self.y] {
            let all = [a.at, a.velocity, a.var_at, a.cov, a.var_velocity];
            assert!(all.iter().all(|v| v.is_finite()), "{a:?}");
            assert!(a.var_at >= 0.0 && a.var_velocity >= 0.0, "{a:?}");
        }
        for l in [self.width, self.height] {
            assert!(l.at.is_finite() && l.at >= 0.0 && l.var >= 0.0, "{l:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(x: f32) -> NormRect {
        NormRect::clipped(x - 0.05, 0.45, x + 0.05, 0.55)
    }

    #[test]
    fn a_steady_walk_is_foreseen_at_irregular_pictures() {
        let mut m = Motion::new(&square(0.2));
        let mut x = 0.2;
        for dt in [0.2, 0.1, 0.4, 0.25, 0.1, 0.3, 0.2] {
            x += 0.2 * dt;
            m.predict(f64::from(dt));
            m.correct(&square(x));
        }
        m.predict(0.2);
        let off = (m.center().x - (x + 0.04)).abs();
        assert!(off < 0.008, "off by {off}");
    }

    #[test]
    fn two_half_steps_equal_one_whole() {
        let mut start = Motion::new(&square(0.2));
        start.predict(0.2);
        start.correct(&square(0.3));
        let (mut whole, mut halves) = (start, start);
        whole.predict(1.0);
        halves.predict(0.5);
        halves.predict(0.5);
        for (a, b) in [
            (whole.x.at, halves.x.at),
            (whole.x.velocity, halves.x.velocity),
            (whole.x.var_at, halves.x.var_at),
            (whole.x.cov, halves.x.cov),
            (whole.x.var_velocity, halves.x.var_velocity),
        ] {
            assert!((a - b).abs() < 1e-9, "{a} {b}");
        }
    }

    #[test]
    fn a_lost_object_does_not_run_away() {
        let mut m = Motion::new(&square(0.2));
        m.predict(0.2);
        m.correct(&square(0.3));
        m.predict(1e13);
        m.check_invariants();
        // The last velocity, 0.5 a second, for 1.5 s at most.
        assert!(m.center().x < 1.1, "{:?}", m.center());
    }

    #[test]
    fn a_step_of_no_time_changes_nothing() {
        let mut m = Motion::new(&square(0.2));
        m.predict(0.2);
        m.correct(&square(0.25));
        let before = m;
        m.predict(0.0);
        assert_eq!(m, before);
    }
}
