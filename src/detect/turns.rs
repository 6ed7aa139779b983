//! Whose turn it is where a frame holds more to look at than there is time for, and how much was left
//! for another frame.
use crate::base::time::FrameStamp;

/// The frame's turn. Scattered: a plain count of access units could beat with the sampling and starve
/// somebody.
pub fn turn_of(stamp: &FrameStamp) -> u64 {
    stamp.seq.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32
}

/// Keeps at most `most` of `all`, others with each turn, so that in a few frames all come; how many
/// were left out.
pub fn take_turns<T>(all: &mut Vec<T>, most: usize, turn: u64) -> u64 {
    let left_out = all.len().saturating_sub(most);
    if left_out > 0 {
        let first = (turn % all.len() as u64) as usize;
        all.rotate_left(first);
        all.truncate(most);
    }
    left_out as u64
}

/// What was not looked at although it was there, because a frame, or the site in a second, held more of it
/// than the limit. The frames themselves count as analysed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Squares of the camera's own pixels, where something moved.
    pub regions: u64,
    /// Such squares, for which the site's budget had nothing left.
    pub over_budget: u64,
    /// Heads, for the classifier.
    pub heads: u64,
    /// Squares about heads and cigarettes, for the second look at smoking.
    pub smoking: u64,
}

impl LeftOut {
    /// Each kind by its word in `detect_looks_left_out_total{kind}`.
    pub fn by_kind(&self) -> [(&'static str, u64); 4] {
        [
            ("region", self.regions),
            ("region_budget", self.over_budget),
            ("head", self.heads),
            ("smoking", self.smoking),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_gets_a_turn_and_who_is_left_out_is_counted() {
        let of = |turn| {
            let mut all = vec![1, 2, 3];
            (take_turns(&mut all, 2, turn), all)
        };
        assert_eq!(of(0), (1, vec![1, 2]));
        assert_eq!(of(1), (1, vec![2, 3]));
        assert_eq!(of(2), (1, vec![3, 1]));
        let mut few = vec![1, 2];
        assert_eq!((take_turns(&mut few, 2, 1), few), (0, vec![1, 2]));
    }
}
