//! The site's hours: time zone, business hours, holidays; and the hours of a rule.
use std::sync::Arc;

use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::section::{Section, did_you_mean};
use crate::rules::{HoursError, Schedule};

/// Where nothing is said: the one zone of mainland China.
const DEFAULT_ZONE: &str = "Asia/Shanghai";
const HOURS_REMEDY: &str = "write days and hours, e.g. `mon-fri 08:00-14:00, 17:00-21:30`, `sat,sun 10:00-02:00` or `daily 00:00-24:00`";
const HOLIDAY_REMEDY: &str = "write `YYYY-MM-DD`, one day each";
const OPEN_DAY_REMEDY: &str = "write a day with its hours, e.g. `2026-10-10 08:00-21:30`";

/// When the site works.
#[derive(Clone, Debug, PartialEq)]
pub struct Calendar {
    /// `site.timezone`.
    pub timezone: TimeZone,
    /// `site.business_hours` with holidays and open days; `None`: the site has not said.
    pub business: Option<Arc<Schedule>>,
    /// Whether `site.business_hours` is there, right or wrong: then no rule is to be blamed for a lack of it.
    pub(super) is_business_written: bool,
}

/// Reads the site's part.
pub(super) fn read_calendar(section: &Section<'_, '_>) -> Calendar {
    let timezone = read_zone(section);
    let mut business = read_hours(section, "business_hours", &timezone);
    for (name, remedy) in [("holidays", HOLIDAY_REMEDY), ("open_days", OPEN_DAY_REMEDY)] {
        let days = section.texts(name);
        if section.has(name) && !section.has("business_hours") {
            let remedy = "add `business_hours = [\"mon-fri 08:00-21:30\"]`, or take it out";
            section.wrong(name, "needs `business_hours`", remedy);
        }
        for (i, day) in days.iter().flatten().enumerate() {
            let Some(schedule) = &mut business else { break };
            let added = match name {
                "holidays" => schedule.add_holiday(&day.value).map(|_| false),
                _ => schedule
                    .add_open_day(&day.value)
                    .map(|d| schedule.is_holiday(d)),
            };
            match added {
                Err(e) => section.wrong_item(name, i, e.to_string(), remedy),
                Ok(true) => {
                    let message = format!("`{}` is one of the `holidays` too", day.value);
                    section.wrong_item(name, i, message, "take it out of one of the two");
                }
                Ok(false) => {}
            }
        }
    }
    Calendar {
        timezone,
        business: business.map(Arc::new),
        is_business_written: section.has("business_hours"),
    }
}

/// The zone, from the database built in; the default's if there is a mistake.
fn read_zone(section: &Section<'_, '_>) -> TimeZone {
    let default = || TimeZone::get(DEFAULT_ZONE).expect("it is in the database built in");
    let Some(name) = section.text("timezone") else {
        return default();
    };
    TimeZone::get(name).unwrap_or_else(|_| {
        let names: Vec<String> = TimeZoneDatabase::bundled()
            .available()
            .map(|n| n.to_string())
            .collect();
        let remedy = did_you_mean(name, names.iter().map(String::as_str)).unwrap_or_else(|| {
            "write an IANA name, e.g. `Asia/Shanghai`, `Asia/Urumqi` or `Europe/Berlin`".to_owned()
        });
        section.wrong(
            "timezone",
            format!("there is no time zone `{name}`"),
            remedy,
        );
        default()
    })
}

/// A list of weekly hours; `None` if absent or wrong.
pub(super) fn read_hours(
    section: &Section<'_, '_>,
    name: &'static str,
    timezone: &TimeZone,
) -> Option<Schedule> {
    let texts = section.texts(name)?;
    let mut schedule = Schedule::new(timezone.clone());
    let mut is_good = true;
    for (i, text) in texts.iter().enumerate() {
        if let Err(e) = schedule.add_hours(&text.value) {
            is_good = false;
            let remedy = match &e {
                HoursError::UnknownDay(word) => {
                    let known = ["mon", "tue", "wed", "thu", "fri", "sat", "sun", "daily"];
                    did_you_mean(word, known)
                        .unwrap_or_else(|| format!("weekdays: {}", known.join(", ")))
                }
                _ => HOURS_REMEDY.to_owned(),
            };
            section.wrong_item(name, i, e.to_string(), remedy);
        }
    }
    is_good.then_some(schedule)
}
