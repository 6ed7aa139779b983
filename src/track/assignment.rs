//! Optimal one-to-one assignment: who is paired with whom so that the sum of weights is greatest.
//!
//! The Hungarian method with potentials (Kuhn 1955, Munkres 1957; the shortest augmenting path form
//! of Jonker and Volgenant 1987), O(rows² × columns). Knows nothing of boxes or tracks.
//!
//! Optimal rather than greedy because greedy fails where it matters: two heads passing each other,
//! where the best single pair is the wrong one and leaves the other head a pair that is impossible.
//! At 50 × 50, more than a kitchen holds, it is some 100,000 steps; greedy would save nothing.

/// For each row, the column it is paired with. `weights` is row-major, `rows × cols`; a pair whose
/// weight is not above 0 (or is not a number) is never made. No column is given twice. Equal input
/// gives equal output, also among equal weights.
pub(super) fn assign(rows: usize, cols: usize, weights: &[f64]) -> Vec<Option<usize>> {
    debug_assert_eq!(weights.len(), rows * cols, "row-major, rows x cols");
    if rows == 0 || cols == 0 {
        return vec![None; rows];
    }
    // The method gives every row of the shorter side a column. A pair that is not allowed costs 0,
    // an allowed one less, so an allowed pair is never passed over for one that is not.
    let turned = rows > cols;
    let (n, m) = if turned { (cols, rows) } else { (rows, cols) };
    let weight = |i: usize, j: usize| {
        let w = if turned {
            weights[j * cols + i]
        } else {
            weights[i * cols + j]
        };
        if w > 0.0 && w.is_finite() { w } else { 0.0 }
    };

    // Index 0 stands for "none"; rows and columns count from 1.
    let mut row_potential = vec![0.0f64; n + 1];
    let mut col_potential = vec![0.0f64; m + 1];
    let mut row_of = vec![0usize; m + 1];
    let mut before = vec![0usize; m + 1];
    for row in 1..=n {
        row_of[0] = row;
        let mut col = 0;
        let mut least = vec![f64::INFINITY; m + 1];
        let mut used = vec![false; m + 1];
        loop {
            used[col] = true;
            let i = row_of[col];
            let (mut delta, mut next) = (f64::INFINITY, 0);
            for j in (1..=m).filter(|&j| !used[j]) {
                let slack = -weight(i - 1, j - 1) - row_potential[i] - col_potential[j];
                if slack < least[j] {
                    least[j] = slack;
                    before[j] = col;
                }
                if least[j] < delta {
                    delta = least[j];
                    next = j;
                }
            }
            for j in 0..=m {
                if used[j] {
                    row_potential[row_of[j]] += delta;
                    col_potential[j] -= delta;
                } else {
                    least[j] -= delta;
                }
            }
            col = next;
            if row_of[col] == 0 {
                break;
            }
        }
        while col != 0 {
            row_of[col] = row_of[before[col]];
            col = before[col];
        }
    }

    let mut pairs = vec![None; rows];
    for (j, &row) in row_of.iter().enumerate().skip(1) {
        if row != 0 && weight(row - 1, j - 1) > 0.0 {
            let (i, j) = (row - 1, j - 1);
            let (row, col) = if turned { (j, i) } else { (i, j) };
            pairs[row] = Some(col);
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::assign;

    fn sum(cols: usize, weights: &[f64], pairs: &[Option<usize>]) -> f64 {
        let each = pairs.iter().enumerate();
        each.filter_map(|(i, j)| j.map(|j| weights[i * cols + j]))
            .sum()
    }

    /// The greatest sum by trying everything.
    fn best(rows: usize, cols: usize, weights: &[f64], row: usize, taken: u32) -> f64 {
        if row == rows {
            return 0.0;
        }
        let skip = best(rows, cols, weights, row + 1, taken);
        (0..cols)
            .filter(|&j| taken & (1 << j) == 0 && weights[row * cols + j] > 0.0)
            .map(|j| weights[row * cols + j] + best(rows, cols, weights, row + 1, taken | (1 << j)))
            .fold(skip, f64::max)
    }

    #[test]
    fn the_best_single_pair_gives_way_to_the_best_whole() {
        // Greedy takes 0.9 and leaves row 1 nothing.
        assert_eq!(assign(2, 2, &[0.9, 0.8, 0.7, 0.0]), [Some(1), Some(0)]);
    }

    #[test]
    fn pairs_without_weight_are_not_made() {
        assert_eq!(assign(2, 2, &[0.0, -1.0, f64::NAN, 0.1]), [None, Some(1)]);
        assert_eq!(assign(3, 0, &[]), [None, None, None]);
        assert!(assign(0, 3, &[]).is_empty());
    }

    proptest! {
        #[test]
        fn the_sum_is_the_greatest_there_is(
            (rows, cols, weights) in (1usize..6, 1usize..6).prop_flat_map(|(r, c)| {
                let w = prop_oneof![Just(0.0), Just(-1.0), 0.01f64..1.0];
                (Just(r), Just(c), prop::collection::vec(w, r * c))
            })
        ) {
            let pairs = assign(rows, cols, &weights);
            let mut given: Vec<_> = pairs.iter().flatten().collect();
            given.sort();
            given.dedup();
            prop_assert_eq!(given.len(), pairs.iter().flatten().count());
            for (i, j) in pairs.iter().enumerate() {
                prop_assert!(j.is_none_or(|j| weights[i * cols + j] > 0.0));
            }
            let (have, most) = (sum(cols, &weights, &pairs), best(rows, cols, &weights, 0, 0));
            prop_assert!((have - most).abs() < 1e-9, "{} of {}", have, most);
        }
    }
}
