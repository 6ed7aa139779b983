//! How far a camera's clock is off: the median of its newest sender reports.
//!
//! One report may have waited in a buffer; the median of five is moved by three. Pure: reports come in,
//! the answer comes out.
use std::collections::VecDeque;

/// Reports in the median.
const REPORTS: usize = 5;
/// Least number of reports that say anything.
const LEAST: usize = 3;
/// A change of less is not told: it would be noise in a status that is kept.
const WORTH_TELLING_MS: i64 = 500;

/// One camera's clock against ours.
#[derive(Debug, Default)]
pub struct ClockSkew {
    newest_us: Option<i64>,
    window_ms: VecDeque<i64>,
    told_ms: Option<i64>,
}

impl ClockSkew {
    /// A new session: its reports say nothing of those before. What was told stays told until there
    /// are enough.
    pub fn begin(&mut self) {
        self.newest_us = None;
        self.window_ms.clear();
    }

    /// Takes how far the newest report says that the camera is ahead, as often as one likes. `Some`:
    /// this is news, in milliseconds.
    pub fn take(&mut self, ahead_us: Option<i64>) -> Option<i64> {
        let ahead_us = ahead_us?;
        if self.newest_us.replace(ahead_us) == Some(ahead_us) {
            return None;
        }
        if self.window_ms.len() == REPORTS {
            self.window_ms.pop_front();
        }
        self.window_ms.push_back(ahead_us / 1000);
        if self.window_ms.len() < LEAST {
            return None;
        }
        let mut sorted: Vec<i64> = self.window_ms.iter().copied().collect();
        sorted.sort_unstable();
        let median = sorted[sorted.len() / 2];
        let is_news = self
            .told_ms
            .is_none_or(|told| median.abs_diff(told) >= WORTH_TELLING_MS as u64);
        is_news.then(|| {
            self.told_ms = Some(median);
            median
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_late_report_changes_nothing() {
        let mut skew = ClockSkew::default();
        let mut told = Vec::new();
        for ms in [10, 12, 11, 9_000, 14, 13] {
            // Each is looked at with every picture until the next comes.
            for _ in 0..3 {
                told.extend(skew.take(Some(ms * 1000)));
            }
        }
        assert_eq!(told, [11]);
    }

    #[test]
    fn a_clock_that_is_set_is_news_and_a_new_session_begins_anew() {
        let mut skew = ClockSkew::default();
        let told = |skew: &mut ClockSkew, all: &[i64]| -> Vec<i64> {
            all.iter().filter_map(|us| skew.take(Some(*us))).collect()
        };
        assert_eq!(told(&mut skew, &[7_000_000, 7_001_000, 7_002_000]), [7001]);
        assert_eq!(told(&mut skew, &[1000, 2000]), [0_i64; 0]);
        assert_eq!(told(&mut skew, &[3000]), [3]);
        skew.begin();
        assert_eq!(told(&mut skew, &[9_000_000, 9_001_000]), [0_i64; 0]);
        assert_eq!(told(&mut skew, &[9_002_000]), [9001]);
        assert_eq!(skew.take(None), None);
    }
}
