//! How many native-resolution regions a site looks at in a second, and which camera may: pure.
//!
//! A rate for the whole site is poured into an account of each camera that asked lately, evenly; what a
//! full account cannot take goes to the others, and what none of them can take is kept for whoever asks
//! next. So a camera with motion everywhere cannot starve another (max-min fairness), and the share of a
//! camera that is still, or asks for less than its share, is the others'.
//!
//! Invariants, held by property tests: what is granted between two moments is never more than the rate times
//! their distance and one burst (two and a half seconds' worth, and a region for each camera); two cameras that
//! both want more than they get get the same, give or take a burst; all of the rate is used where it is wanted.
//!
//! What a camera kept of a still scene and has looked at late is stamped before the others' newest pictures: of that no
//! time passes, so that on a site that is busy elsewhere the first pictures of a scene that begins to move get what
//! its account has saved and what is spare, and the next ones their share.
//!
//! Time is the stamp of the picture at hand. Workers finish pictures of several cameras in any order, so an
//! older stamp than the newest is not an error: no time has passed then. A replay, which has one camera,
//! therefore grants the same each time; its cameras never compete, as those of the site may.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::ids::CameraIx;
use crate::base::time::MonoMicros;

/// What all accounts together save at most, as time at the full rate. A camera that looks every two seconds, or
/// oftener, gets all of its share.
const SAVED: Duration = Duration::from_secs(2);
/// The same of what is kept for whoever asks next. Half a second is the longest that one camera alone, the others'
/// accounts being full, may take from one picture to the next and still get all of the rate.
const SPARE: Duration = Duration::from_millis(500);
/// So long after it last asked a camera has an account. Longer than the slowest `analyse_fps` needs from one
/// picture to the next, 10 s; a camera that is still costs the others nothing meanwhile, since its account is full.
const ASKED_LATELY: Duration = Duration::from_secs(15);
/// Less than this of a region is an error of rounding.
const NOTHING: f64 = 1e-9;

/// One camera's account.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// Regions it may look at, and a part of one.
    saved: f64,
    /// When it last asked; `None`: not lately.
    asked: Option<MonoMicros>,
}

/// A budget that all workers of a site share. A lock is enough: it is held for less than a microsecond, once a
/// picture with motion.
#[derive(Clone, Debug)]
pub(super) struct SharedBudget(Arc<Mutex<RegionBudget>>);

impl SharedBudget {
    pub(super) fn new(per_s: u32) -> Self {
        Self(Arc::new(Mutex::new(RegionBudget::new(per_s))))
    }

    fn locked(&self) -> MutexGuard<'_, RegionBudget> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`RegionBudget::ask`].
    pub(super) fn ask(&self, camera: CameraIx, at: MonoMicros, wanted: usize) -> usize {
        self.locked().ask(camera, at, wanted)
    }

    /// One of the same rate, for nobody else, of which nothing is used.
    pub(super) fn anew(&self) -> Self {
        Self::new(self.locked().per_s)
    }
}

/// The site's budget of regions.
#[derive(Clone, Debug)]
struct RegionBudget {
    per_s: u32,
    /// The newest stamp.
    now: MonoMicros,
    /// By camera.
    accounts: Vec<Account>,
    /// What no account could take.
    spare: f64,
}

impl RegionBudget {
    /// So many regions a second for the whole site.
    fn new(per_s: u32) -> Self {
        Self {
            per_s,
            now: MonoMicros(0),
            accounts: Vec::new(),
            spare: f64::from(per_s) * SPARE.as_secs_f64(),
        }
    }

    fn in_time(&self, time: Duration) -> f64 {
        f64::from(self.per_s) * time.as_secs_f64()
    }

    /// How many of the regions `wanted` in a picture of `camera`, stamped `at`, may be looked at.
    fn ask(&mut self, camera: CameraIx, at: MonoMicros, wanted: usize) -> usize {
        if wanted == 0 {
            return 0;
        }
        let index = camera.index();
        if self.accounts.len() <= index {
            self.accounts.resize(index + 1, Account::default());
        }
        self.pass_to(at);
        self.accounts[index].asked = Some(self.now);
        // One more account may leave less for each.
        let most = self.most_saved();
        for account in &mut self.accounts {
            let over = (account.saved - most).max(0.0);
            account.saved -= over;
            self.spare += over;
        }
        let account = &mut self.accounts[index];
        let granted = (account.saved + self.spare + NOTHING).floor();
        let granted = granted.min(wanted as f64);
        let own = account.saved.min(granted);
        account.saved -= own;
        self.spare = (self.spare - (granted - own)).max(0.0);
        granted as usize
    }

    /// What an account holds at most: an equal part, and one region, since parts of one are left over.
    fn most_saved(&self) -> f64 {
        let open = self.accounts.iter().filter(|a| a.asked.is_some()).count();
        self.in_time(SAVED) / open.max(1) as f64 + 1.0
    }

    /// Closes the accounts of those who have not asked for long, and pours in what has come since the last call.
    fn pass_to(&mut self, at: MonoMicros) {
        let mut left = self.in_time(at.since(self.now));
        self.now = self.now.max(at);
        for account in &mut self.accounts {
            if account
                .asked
                .is_some_and(|asked| self.now.since(asked) > ASKED_LATELY)
            {
                self.spare += account.saved;
                *account = Account::default();
            }
        }
        let most = self.most_saved();
        // Each round fills an account at least, or ends.
        for _ in 0..self.accounts.len() {
            let takes = |a: &Account| a.asked.is_some() && most - a.saved > NOTHING;
            let takers = self.accounts.iter().filter(|a| takes(a)).count();
            if takers == 0 || left <= NOTHING {
                break;
            }
            let each = left / takers as f64;
            for account in self.accounts.iter_mut().filter(|a| takes(a)) {
                let taken = each.min(most - account.saved);
                account.saved += taken;
                left -= taken;
            }
        }
        self.spare = (self.spare + left.max(0.0)).min(self.in_time(SPARE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(at: u64) -> MonoMicros {
        MonoMicros(at * 1000)
    }

    /// Asks of several cameras, each `(every so many ms, this many regions)`, in the order of their moments; what
    /// each was granted between `from` and `to`, ms.
    fn granted(budget: &mut RegionBudget, asks: &[(u64, usize)], from: u64, to: u64) -> Vec<usize> {
        let mut sums = vec![0; asks.len()];
        for at in from..to {
            for (camera, (every, wanted)) in asks.iter().enumerate() {
                if at % every == 0 {
                    sums[camera] += budget.ask(CameraIx(camera as u16), ms(at), *wanted);
                }
            }
        }
        sums
    }

    #[test]
    fn a_camera_with_motion_everywhere_cannot_starve_another() {
        let mut budget = RegionBudget::new(20);
        // One wants 480 a second, one 8, one 4: twenty are 8 and 8 and 4.
        let asks = [(33, 16), (250, 2), (250, 1)];
        granted(&mut budget, &asks, 0, 20_000);
        let sums = granted(&mut budget, &asks, 20_000, 80_000);
        assert_eq!(sums[2], 240, "{sums:?}");
        assert!((475..=480).contains(&sums[1]), "{sums:?}");
        assert!((475..=485).contains(&sums[0]), "{sums:?}");
    }

    #[test]
    fn what_a_still_camera_does_not_need_goes_to_the_others() {
        let mut budget = RegionBudget::new(20);
        granted(&mut budget, &[(250, 8), (250, 8)], 0, 10_000);
        // The second sees nothing move any more; the first gets all of it, long before its account is closed.
        let sums = granted(&mut budget, &[(250, 8)], 11_000, 21_000);
        assert!((195..=206).contains(&sums[0]), "{sums:?}");
        // It moves again, and is looked at at once.
        assert_eq!(budget.ask(CameraIx(1), ms(21_000), 8), 8);
    }

    #[test]
    fn after_a_quiet_time_there_is_a_burst_and_no_more() {
        let mut budget = RegionBudget::new(10);
        let mut ask = |camera, at| budget.ask(CameraIx(camera), ms(at), 16);
        assert_eq!((ask(0, 0), ask(1, 0)), (5, 0), "what nobody has saved");
        assert_eq!((ask(1, 200), ask(0, 200)), (1, 1));
        assert_eq!((ask(0, 9000), ask(1, 9000)), (16, 11), "saved and spare");
        assert_eq!(ask(2, 100_000_000), 5, "nobody has asked lately");
    }

    #[test]
    fn workers_share_one_budget_and_a_clip_has_its_own() {
        let site = SharedBudget::new(10);
        let other = site.clone();
        assert_eq!(site.ask(CameraIx(0), ms(1000), 4), 4);
        assert_eq!(other.ask(CameraIx(1), ms(1000), 4), 1);
        assert_eq!(other.anew().ask(CameraIx(1), ms(0), 4), 4);
        assert_eq!(site.ask(CameraIx(0), ms(1000), 4), 0);
    }

    #[test]
    fn more_cameras_than_regions_a_second_take_turns() {
        let mut budget = RegionBudget::new(2);
        let sums = granted(&mut budget, &[(250, 2); 8], 0, 120_000);
        assert!(sums.iter().all(|n| (28..=34).contains(n)), "{sums:?}");
        assert_eq!(RegionBudget::new(0).ask(CameraIx(3), ms(9000), 4), 0);
    }

    #[test]
    fn a_stamp_older_than_the_newest_is_looked_after_all_the_same() {
        let mut budget = RegionBudget::new(10);
        let mut ask = |camera, at, wanted| budget.ask(CameraIx(camera), ms(at), wanted);
        assert_eq!(ask(0, 60_000, 4), 4);
        assert_eq!(ask(1, 59_000, 8), 1, "no time has passed");
        assert_eq!(ask(1, 60_200, 8), 1);
        assert_eq!(ask(0, 60_100, 8), 1);
    }

    fn asks() -> impl Strategy<Value = Vec<(u16, i64, usize)>> {
        // Camera, ms since the newest before it or, negative, older than that; regions.
        prop::collection::vec((0u16..6, -300i64..900, 0usize..17), 1..200)
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_a_burst_between_any_two_moments(per_s in 0u32..200, asks in asks()) {
            let mut budget = RegionBudget::new(per_s);
            let (mut now, mut all) = (0u64, Vec::new());
            for (camera, step, wanted) in asks {
                let at = now.saturating_add_signed(step);
                now = now.max(at);
                let granted = budget.ask(CameraIx(camera), ms(at), wanted);
                prop_assert!(granted <= wanted);
                all.push((now, granted));
            }
            let rate = f64::from(per_s);
            let burst = if per_s > 0 { 2.5 * rate + 6.0 } else { 0.0 };
            for from in 0..all.len() {
                let mut sum = 0;
                for (at, granted) in &all[from..] {
                    sum += granted;
                    let seconds = (at - all[from].0) as f64 / 1000.0;
                    prop_assert!(sum as f64 <= rate * seconds + burst + 1e-6, "{sum} in {seconds} s");
                }
            }
        }

        #[test]
        fn all_of_the_rate_is_used_where_it_is_wanted_and_nobody_has_more_of_it_than_another_who_wants_it(
            per_s in 1u32..30, greedy in prop::collection::vec(30u64..500, 1..4),
            modest in prop::collection::vec((30u64..2000, 1usize..3), 0..4),
        ) {
            let mut budget = RegionBudget::new(per_s);
            // 16 in half a second are more than there are.
            let greedy = greedy.into_iter().map(|every| (every, 16));
            let asks: Vec<_> = greedy.chain(modest).collect();
            let ms = 60_000;
            let sums = granted(&mut budget, &asks, 0, ms);
            let rate = f64::from(per_s);
            let slack = 2.5 * rate + asks.len() as f64 + 1.0;
            let all: usize = sums.iter().sum();
            prop_assert!(all as f64 >= 60.0 * rate - slack, "{sums:?} at {per_s}/s");
            let best = *sums.iter().max().expect("one at least") as f64;
            for (got, (every, wanted)) in sums.iter().zip(&asks) {
                let most = ms.div_ceil(*every) as f64 * *wanted as f64;
                prop_assert!(*got as f64 >= best.min(most) - slack, "{sums:?} of {asks:?} at {per_s}/s");
            }
        }

        #[test]
        fn the_same_pictures_are_granted_the_same_again(per_s in 1u32..100, asks in asks()) {
            let run = || {
                let mut budget = RegionBudget::new(per_s);
                let ask = |(camera, step, wanted): &(u16, i64, usize)| {
                    budget.ask(CameraIx(*camera), ms(5000u64.saturating_add_signed(*step)), *wanted)
                };
                asks.iter().map(ask).collect::<Vec<_>>()
            };
            prop_assert_eq!(run(), run());
        }
    }
}
