//! How many fit: doubling until a number does not, then halving what lies between.
//!
//! Pure: it says which number to try next and is told what came of it.

/// The state of a search for the largest number that fits.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    most: usize,
    /// The largest that fits; 0 before one does.
    fits: usize,
    /// The smallest that does not.
    fails: Option<usize>,
}

/// What a search has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Not even one fits.
    None,
    /// So many fit, and one more does not.
    Exactly(usize),
    /// So many fit, and more were not to be tried.
    AtLeast(usize),
}

impl Search {
    /// Of numbers from 1 to `most`.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            fits: 0,
            fails: None,
        }
    }

    /// The number to try next; `None`: nothing is open any more.
    pub fn next(&self) -> Option<usize> {
        match self.fails {
            None if self.fits >= self.most => None,
            None => Some((2 * self.fits).clamp(1, self.most)),
            Some(fails) if fails - self.fits <= 1 => None,
            Some(fails) => Some(self.fits + (fails - self.fits) / 2),
        }
    }

    /// What came of the number that was next.
    pub fn tell(&mut self, fits: bool) {
        match (self.next(), fits) {
            (Some(n), true) => self.fits = n,
            (Some(n), false) => self.fails = Some(n),
            (None, _) => {}
        }
    }

    /// What is known; of a search that was broken off, what fits at least.
    pub fn found(&self) -> Found {
        match (self.fits, self.fails) {
            (0, Some(1)) => Found::None,
            (fits, Some(fails)) if fails == fits + 1 => Found::Exactly(fits),
            (fits, _) => Found::AtLeast(fits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is found, and the numbers that were tried.
    fn run(most: usize, fits: impl Fn(usize) -> bool) -> (Found, Vec<(usize, bool)>) {
        let mut search = Search::new(most);
        let mut tried = Vec::new();
        while let Some(n) = search.next() {
            assert!(tried.len() < 200, "it does not end: {tried:?}");
            tried.push((n, fits(n)));
            search.tell(fits(n));
        }
        (search.found(), tried)
    }

    #[test]
    fn it_doubles_and_then_halves() {
        let (found, tried) = run(64, |n| n <= 11);
        let tried: Vec<usize> = tried.iter().map(|(n, _)| *n).collect();
        assert_eq!(tried, [1, 2, 4, 8, 16, 12, 10, 11]);
        assert_eq!(found, Found::Exactly(11));
    }

    #[test]
    fn it_ends_at_once_if_not_even_one_fits_or_none_is_asked_for() {
        assert_eq!(run(64, |_| false), (Found::None, vec![(1, false)]));
        assert_eq!(run(0, |_| true), (Found::AtLeast(0), vec![]));
    }

    proptest! {
        #[test]
        fn the_boundary_is_found_in_few_trials(most in 1_usize..5000, carries in 0_usize..6000) {
            let (found, tried) = run(most, |n| n <= carries);
            let expected = match carries {
                0 => Found::None,
                n if n >= most => Found::AtLeast(most),
                n => Found::Exactly(n),
            };
            prop_assert_eq!(found, expected);
            let double = 64 - (most.min(carries.max(1)) as u64).leading_zeros() as usize;
            prop_assert!(tried.len() <= 2 * double + 1, "{:?}", tried);
            prop_assert!(tried.iter().all(|(n, _)| (1..=most).contains(n)), "{:?}", tried);
        }

        /// A box that is busy with something else now and then may let more through than it did before.
        #[test]
        fn whatever_it_is_told_it_ends_with_what_it_was_told(most in 1_usize..5000, odd: [bool; 13]) {
            let (found, tried) = run(most, |n| odd[n % odd.len()]);
            match found {
                Found::None => prop_assert!(tried.contains(&(1, false))),
                Found::Exactly(n) => {
                    prop_assert!(tried.contains(&(n, true)) && tried.contains(&(n + 1, false)));
                }
                Found::AtLeast(n) => prop_assert!(n == most && tried.contains(&(n, true))),
            }
        }
    }
}
