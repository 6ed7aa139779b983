use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const SITE: &str = "410724/site-000123";
const T: i64 = 1_795_489_200_000_000;

struct Site {
    watch: DeviceWatch,
    now_s: u64,
    is_business: bool,
}

impl Site {
    fn new(config: DeviceConfig) -> Self {
        Self {
            watch: DeviceWatch::new([(CameraIx(0), config)].into(), SITE),
            now_s: 1000,
            is_business: true,
        }
    }

    fn look(&mut self, sight: Sight) -> Vec<DeviceChange> {
        self.now_s += 1;
        let changes = self.watch.look(&Look {
            camera: CameraIx(0),
            sight,
            detail: &Texts::same("why"),
            at: MonoMicros(self.now_s * 1_000_000),
            utc: UtcMicros(T + self.now_s as i64 * 1_000_000),
            is_business: self.is_business,
        });
        self.watch.check_invariants();
        changes
    }

    fn looks(&mut self, seconds: u64, sight: Sight) -> Vec<DeviceChange> {
        (0..seconds).flat_map(|_| self.look(sight)).collect()
    }
}

fn fault(fault: DeviceFault) -> Sight {
    Sight::Fault(fault)
}

fn short(changes: &[DeviceChange]) -> Vec<(DeviceFault, Phase, u32)> {
    changes
        .iter()
        .map(|c| (c.fault, c.phase, c.revision))
        .collect()
}

#[test]
fn a_lost_camera_is_a_finding_after_a_minute_and_closes_when_it_is_back() {
    let mut site = Site::new(DeviceConfig::default());
    assert_eq!(site.looks(100, Sight::Fine), []);
    assert_eq!(site.looks(60, fault(DeviceFault::Offline)), []);
    let opened = site.looks(1, fault(DeviceFault::Offline));
    assert_eq!(short(&opened), [(DeviceFault::Offline, Phase::Opened, 1)]);
    assert_eq!(opened[0].fault.code(), "device.camera.offline");
    assert_eq!(
        opened[0].last_seen.0 - opened[0].first_seen.0,
        60_000_000,
        "it began with the first look"
    );
    assert_eq!(opened[0].finding.get_version_num(), 7);
    let on = site.looks(3600, fault(DeviceFault::Offline));
    assert_eq!(short(&on), [(DeviceFault::Offline, Phase::Updated, 2)]);
    assert_eq!(
        site.looks(5, Sight::Unknown),
        [],
        "connecting is no picture"
    );
    let closed = site.looks(12, Sight::Fine);
    assert_eq!(short(&closed), [(DeviceFault::Offline, Phase::Closed, 3)]);
    assert!(closed[0].closed_at > Some(closed[0].last_seen));
    assert_eq!(site.looks(100, Sight::Fine), []);
}

#[test]
fn a_camera_that_comes_and_goes_is_lost() {
    let mut site = Site::new(DeviceConfig::default());
    let mut changes = Vec::new();
    for _ in 0..6 {
        changes.extend(site.looks(20, fault(DeviceFault::Offline)));
        changes.extend(site.looks(5, Sight::Fine));
    }
    assert_eq!(short(&changes), [(DeviceFault::Offline, Phase::Opened, 1)]);
    let mut site = Site::new(DeviceConfig::default());
    for _ in 0..10 {
        assert_eq!(site.looks(20, fault(DeviceFault::Offline)), []);
        assert_eq!(site.looks(30, Sight::Fine), [], "good time undoes it");
    }
}

#[test]
fn a_worse_fault_hides_others_but_does_not_end_them() {
    let mut site = Site::new(DeviceConfig::default());
    let opened = site.looks(1, fault(DeviceFault::Moved));
    assert_eq!(short(&opened), [(DeviceFault::Moved, Phase::Opened, 1)]);
    let opened = site.looks(120, fault(DeviceFault::Offline));
    assert_eq!(short(&opened), [(DeviceFault::Offline, Phase::Opened, 1)]);
    // Back, and still looking elsewhere: it is no longer offline.
    let changes = site.looks(30, fault(DeviceFault::Moved));
    assert_eq!(short(&changes), [(DeviceFault::Offline, Phase::Closed, 2)]);
    let changes = site.looks(30, Sight::Fine);
    assert_eq!(short(&changes), [(DeviceFault::Moved, Phase::Closed, 2)]);
}

#[test]
fn darkness_counts_in_business_hours_only() {
    let mut site = Site::new(DeviceConfig::default());
    site.is_business = false;
    assert_eq!(site.looks(600, fault(DeviceFault::Dark)), []);
    assert_eq!(
        short(&site.looks(1, fault(DeviceFault::Occluded))),
        [(DeviceFault::Occluded, Phase::Opened, 1)]
    );
    site.is_business = true;
    let opened = site.looks(10, fault(DeviceFault::Dark));
    assert_eq!(short(&opened), [(DeviceFault::Dark, Phase::Opened, 1)]);
    site.is_business = false;
    let closed = site.looks(30, fault(DeviceFault::Dark));
    assert_eq!(short(&closed), [(DeviceFault::Dark, Phase::Closed, 2)]);
    assert_eq!(closed[0].reason, Some(CloseReason::OffSchedule));
}

#[test]
fn what_is_off_is_no_finding() {
    let mut site = Site::new(DeviceConfig {
        off: BTreeSet::from([DeviceFault::Offline]),
        ..DeviceConfig::default()
    });
    assert_eq!(site.looks(600, fault(DeviceFault::Offline)), []);
}

#[test]
fn an_open_finding_goes_on_after_a_restart_with_its_next_revision() {
    let mut site = Site::new(DeviceConfig::default());
    let opened = site.looks(61, fault(DeviceFault::Offline)).remove(0);
    let mut again = Site::new(DeviceConfig::default());
    let open = OpenDevice {
        finding: opened.finding,
        revision: 1,
        fault: opened.fault,
        camera: opened.camera,
        first_seen: opened.first_seen,
        last_seen: opened.last_seen,
        looks: opened.looks,
        detail: opened.detail.clone(),
    };
    assert_eq!(again.watch.restore(vec![open.clone()]), []);
    assert_eq!(
        again.watch.restore(vec![open.clone()]),
        std::slice::from_ref(&open),
        "only one can go on"
    );
    assert_eq!(again.looks(30, Sight::Unknown), []);
    let changes = again.looks(1, fault(DeviceFault::Offline));
    assert_eq!(short(&changes), [(DeviceFault::Offline, Phase::Updated, 2)]);
    let changes = again.looks(12, Sight::Fine);
    assert_eq!(short(&changes), [(DeviceFault::Offline, Phase::Closed, 3)]);
    assert_eq!(changes[0].finding, opened.finding);
    let other = OpenDevice {
        camera: CameraIx(7),
        ..open
    };
    assert_eq!(again.watch.restore(vec![other.clone()]), [other]);
}

#[test]
fn another_config_goes_on_with_what_is_open_and_gives_up_what_it_does_not_look_for() {
    let mut site = Site::new(DeviceConfig::default());
    let opened = site.looks(61, fault(DeviceFault::Offline)).remove(0);
    let other = DeviceConfig {
        clear: Duration::from_secs(3),
        ..DeviceConfig::default()
    };
    let none = site.watch.retune([(CameraIx(0), other)].into());
    assert!(none.is_empty(), "{none:?}");
    let closed = site.looks(5, Sight::Fine);
    assert_eq!(short(&closed), [(DeviceFault::Offline, Phase::Closed, 2)]);
    assert_eq!(closed[0].finding, opened.finding);
    let opened = site.looks(61, fault(DeviceFault::Offline)).remove(0);
    let off = DeviceConfig {
        off: BTreeSet::from([DeviceFault::Offline]),
        ..DeviceConfig::default()
    };
    let orphans = site.watch.retune([(CameraIx(0), off)].into());
    assert_eq!(orphans, vec![opened.finding]);
    assert_eq!(site.looks(100, fault(DeviceFault::Offline)), []);
    let opened = site.looks(1, fault(DeviceFault::Frozen)).remove(0);
    assert_eq!(site.watch.retune(BTreeMap::new()), vec![opened.finding]);
}

#[test]
fn codes_are_unique_and_read_back() {
    for fault in DeviceFault::ALL {
        assert_eq!(DeviceFault::from_code(&fault.code()), Some(fault));
    }
    assert_eq!(DeviceFault::from_code("ppe.hat.missing"), None);
}

fn sight() -> impl Strategy<Value = Sight> {
    prop_oneof![
        2 => Just(Sight::Fine),
        1 => Just(Sight::Unknown),
        3 => proptest::sample::select(&DeviceFault::ALL[..]).prop_map(Sight::Fault),
    ]
}

proptest! {
    #[test]
    fn revisions_rise_by_one_and_closed_stays_closed(
        lives in proptest::collection::vec((sight(), 1_u64..90, any::<bool>()), 1..40),
    ) {
        let mut site = Site::new(DeviceConfig::default());
        let mut again = Site::new(DeviceConfig::default());
        let mut all = Vec::new();
        for (sight, seconds, is_business) in lives {
            (site.is_business, again.is_business) = (is_business, is_business);
            let changes = site.looks(seconds, sight);
            prop_assert_eq!(&changes, &again.looks(seconds, sight), "equal input, equal output");
            all.extend(changes);
        }
        let mut newest: BTreeMap<Uuid, (u32, Phase)> = BTreeMap::new();
        for change in all {
            let before = newest.insert(change.finding, (change.revision, change.phase));
            match before {
                None => prop_assert_eq!((change.revision, change.phase), (1, Phase::Opened)),
                Some((revision, phase)) => {
                    prop_assert_eq!(change.revision, revision + 1);
                    prop_assert_ne!(phase, Phase::Closed);
                    prop_assert_ne!(change.phase, Phase::Opened);
                }
            }
            let last_is_after = change.last_seen >= change.first_seen;
            prop_assert!(last_is_after);
        }
    }
}
