//! The CPU time of one thread, split by what it was spent on: what `mingchu capacity --profile` prints.
//!
//! A stage whose parts cannot be told apart from outside says at the end of each part that it is over
//! ([`lap`]). Only on a thread that has begun to take laps does that read a clock; on every other it
//! reads one flag of the thread. A thread-local and no parameter, so that no stage has to be handed a stopwatch that
//! it is given in no other run.
//!
//! What must not be here: what is done with the times.
use std::cell::Cell;
use std::time::Duration;

use super::time::thread_cpu;

/// What CPU time is spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Access units → decoded pictures.
    Decode,
    /// Motion gate and picture health of the sampled ones.
    Motion,
    /// The picture out of the decoder into a frame.
    Copy,
    /// Frames → tensors.
    Preprocess,
    /// The networks.
    Infer,
    /// Outputs of the networks → boxes, and which places are looked at next.
    Postprocess,
    /// Boxes → tracks.
    Track,
    /// Tracks → findings.
    Rules,
    /// Whatever whoever takes the laps does besides.
    Rest,
}

impl Part {
    /// All, in the order a picture meets them.
    pub const ALL: [Self; 9] = [
        Self::Decode,
        Self::Motion,
        Self::Copy,
        Self::Preprocess,
        Self::Infer,
        Self::Postprocess,
        Self::Track,
        Self::Rules,
        Self::Rest,
    ];
}

/// Laps of a thread so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Laps {
    newest: Duration,
    parts: [Duration; Part::ALL.len()],
}

thread_local! {
    static TAKES_LAPS: Cell<bool> = const { Cell::new(false) };
    static LAPS: Cell<Laps> = const {
        Cell::new(Laps { newest: Duration::ZERO, parts: [Duration::ZERO; Part::ALL.len()] })
    };
}

impl Laps {
    /// CPU time of a part.
    pub fn of(&self, part: Part) -> Duration {
        self.parts[part as usize]
    }

    /// CPU time of all parts.
    pub fn total(&self) -> Duration {
        self.parts.iter().sum()
    }
}

/// From now on this thread takes laps.
pub fn begin() {
    LAPS.set(Laps {
        newest: thread_cpu(),
        ..Laps::default()
    });
    TAKES_LAPS.set(true);
}

/// What this thread has done since the lap before was `part`.
#[inline]
pub fn lap(part: Part) {
    if TAKES_LAPS.get() {
        take(part);
    }
}

fn take(part: Part) {
    let mut laps = LAPS.get();
    let now = thread_cpu();
    laps.parts[part as usize] += now.saturating_sub(laps.newest);
    laps.newest = now;
    LAPS.set(laps);
}

/// The laps of this thread, which takes no more.
pub fn end() -> Laps {
    TAKES_LAPS.set(false);
    LAPS.take()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work() -> u64 {
        (0..2_000_000_u64).fold(1, |sum, n| std::hint::black_box(sum ^ n.rotate_left(7)))
    }

    #[test]
    fn each_part_has_its_time_and_a_thread_that_did_not_begin_has_none() {
        work();
        lap(Part::Track);
        begin();
        work();
        lap(Part::Decode);
        lap(Part::Copy);
        work();
        lap(Part::Decode);
        std::thread::spawn(|| {
            work();
            lap(Part::Rules);
        })
        .join()
        .unwrap();
        let laps = end();
        assert!(
            laps.of(Part::Decode) > 100 * laps.of(Part::Copy),
            "{laps:?}"
        );
        assert_eq!(laps.total(), laps.of(Part::Decode) + laps.of(Part::Copy));
        work();
        lap(Part::Decode);
        assert_eq!(end(), Laps::default());
    }
}
