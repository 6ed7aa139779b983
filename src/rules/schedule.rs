//! When a kitchen works and when a rule watches: weekly hours in the site's time zone, with holidays
//! and extra open days.
//!
//! What must not be here: a clock. The moment asked for comes with the picture.
//!
//! # Decisions
//!
//! 1. **Hours belong to the day on which they begin**: `fri 18:00-02:00` ends on Saturday at two,
//!    also if that Saturday is a holiday; a holiday Friday has none of it.
//! 2. **A holiday is closed all day**; an open day has the hours it names and no others, whatever
//!    the weekday. No date is both.
//! 3. **When clocks go forward** hours that begin or end in the lost hour do so when it is lost.
//!    **When they go back** hours begin with the first of the two and end with the second: in
//!    doubt the kitchen is open.
//! 4. **The time zone database is the one built in**, never the machine's: the same config means the
//!    same hours on every box, also on one without tzdata.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::{Date, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};

use crate::base::time::UtcMicros;

const DAY_MIN: u16 = 24 * 60;
const WEEK_MIN: usize = 7 * DAY_MIN as usize;
/// How far ahead a change is looked for: hours that are the same for a year do not end.
const HORIZON_DAYS: usize = 400;
/// An answer without an end is asked for again after so long: holidays come nearer.
const RECHECK_MICROS: i64 = 86_400_000_000;
const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Why a text is no hours, no holiday or no open day.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HoursError {
    /// No weekday before the hours.
    #[error("names no weekday")]
    NoDay,
    /// No hours after the days.
    #[error("names no hours")]
    NoHours,
    /// No weekday.
    #[error("`{0}` is no weekday")]
    UnknownDay(String),
    /// Not `HH:MM-HH:MM`.
    #[error("`{0}` is no `HH:MM-HH:MM`")]
    NoRange(String),
    /// Ends with the minute it begins with: nobody can tell whether that is all day or nothing.
    #[error("`{0}` begins and ends with the same minute")]
    EmptyRange(String),
    /// Not `YYYY-MM-DD`, or not in the calendar.
    #[error("`{0}` is no date")]
    NoDate(String),
}

/// Hours of one day, in minutes since its midnight; those that go past the next are above 1440.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Hours {
    open_min: u16,
    close_min: u16,
}

/// Weekly hours in a time zone.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    zone: TimeZone,
    /// From Monday; each in order.
    week: [Vec<Hours>; 7],
    holidays: BTreeSet<Date>,
    open_days: BTreeMap<Date, Vec<Hours>>,
}

/// A time in which nothing changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Whether it is open: the kitchen works, or the rule watches.
    pub open: bool,
    /// Since when, at the latest.
    pub from: UtcMicros,
    /// When that changes; `None`: not within a year.
    pub until: Option<UtcMicros>,
}

impl Schedule {
    /// One that is never open; hours are added to it.
    pub fn new(zone: TimeZone) -> Self {
        Self {
            zone,
            week: Default::default(),
            holidays: BTreeSet::new(),
            open_days: BTreeMap::new(),
        }
    }

    /// Adds weekly hours: `mon-fri 08:00-14:00, 17:00-21:30`, `sat,sun 10:00-02:00`,
    /// `daily 00:00-24:00`. Hours that end before they begin go on past midnight.
    ///
    /// # Errors
    /// The text is none; nothing is added then.
    pub fn add_hours(&mut self, text: &str) -> Result<(), HoursError> {
        let mut days = BTreeSet::new();
        let mut hours = Vec::new();
        for word in text.split([',', ' ']).filter(|w| !w.is_empty()) {
            if hours.is_empty() && word.starts_with(|c: char| c.is_alphabetic()) {
                days.extend(days_of(word)?);
            } else {
                hours.push(range_of(word)?);
            }
        }
        if days.is_empty() {
            return Err(HoursError::NoDay);
        }
        if hours.is_empty() {
            return Err(HoursError::NoHours);
        }
        for day in days {
            self.week[day].extend(&hours);
            self.week[day].sort();
        }
        Ok(())
    }

    /// Adds a day without hours: `2026-10-01`.
    ///
    /// # Errors
    /// It is no date.
    pub fn add_holiday(&mut self, text: &str) -> Result<Date, HoursError> {
        let date = date_of(text)?;
        self.holidays.insert(date);
        Ok(date)
    }

    /// Adds a day with hours of its own: `2026-10-10 08:00-21:30`.
    ///
    /// # Errors
    /// It is no date with hours.
    pub fn add_open_day(&mut self, text: &str) -> Result<Date, HoursError> {
        let (date, rest) = text.split_once(' ').unwrap_or((text, ""));
        let date = date_of(date)?;
        let words = rest.split([',', ' ']).filter(|w| !w.is_empty());
        let hours = words.map(range_of).collect::<Result<Vec<_>, _>>()?;
        if hours.is_empty() {
            return Err(HoursError::NoHours);
        }
        let day = self.open_days.entry(date).or_default();
        day.extend(hours);
        day.sort();
        Ok(date)
    }

    /// Whether it is a holiday.
    pub fn is_holiday(&self, date: Date) -> bool {
        self.holidays.contains(&date)
    }

    /// Whether there are no hours at all.
    pub fn is_never_open(&self) -> bool {
        self.week.iter().all(Vec::is_empty) && self.open_days.is_empty()
    }

    /// Whether no minute of no day is closed.
    pub fn is_always_open(&self) -> bool {
        let mut open = [false; WEEK_MIN];
        for (day, hours) in self.week.iter().enumerate() {
            for h in hours {
                for minute in h.open_min..h.close_min {
                    let at = day * usize::from(DAY_MIN) + usize::from(minute);
                    open[at % WEEK_MIN] = true;
                }
            }
        }
        self.holidays.is_empty() && self.open_days.is_empty() && open.iter().all(|o| *o)
    }

    /// Whether it is open at a moment, since when, and until when. A moment that no calendar knows
    /// (a broken clock) is closed.
    pub fn span_at(&self, at: UtcMicros) -> Span {
        self.search(at).unwrap_or(Span {
            open: false,
            from: at,
            until: None,
        })
    }

    fn search(&self, at: UtcMicros) -> Option<Span> {
        let now = Timestamp::from_microsecond(at.0).ok()?;
        // Hours of the day before yesterday may not have ended in a zone that just left out a day.
        let today = self.zone.to_datetime(now).date();
        let mut day = today.yesterday().ok()?.yesterday().ok()?;
        let mut closed_since = at.0;
        let mut current: Option<(i64, i64)> = None;
        for _ in 0..HORIZON_DAYS {
            for hours in self.hours_on(day) {
                let Some((open, close)) = self.moments(day, *hours) else {
                    continue;
                };
                match &mut current {
                    Some((_, end)) if open <= *end => *end = close.max(*end),
                    Some((start, end)) if *end > at.0 => {
                        return Some(span(at, *start, *end, closed_since));
                    }
                    _ => {
                        closed_since = current.map_or(closed_since, |(_, end)| end);
                        current = Some((open, close));
                    }
                }
            }
            day = day.tomorrow().ok()?;
        }
        let (start, end) = current?;
        if end <= at.0 {
            return None;
        }
        let found = span(at, start, end, closed_since);
        // What is open until the horizon goes on behind it, as far as anybody knows.
        let beyond = found.open && self.moments(day, Hours::START)?.0 <= end;
        Some(Span {
            until: found.until.filter(|_| !beyond),
            ..found
        })
    }

    fn hours_on(&self, day: Date) -> &[Hours] {
        if let Some(hours) = self.open_days.get(&day) {
            return hours;
        }
        if self.holidays.contains(&day) {
            return &[];
        }
        &self.week[weekday(day)]
    }

    /// Begin and end in UTC microseconds; `None` if the clocks' going forward leaves nothing of it.
    fn moments(&self, day: Date, hours: Hours) -> Option<(i64, i64)> {
        let open = self.moment(day, hours.open_min, false)?;
        let close = self.moment(day, hours.close_min, true)?;
        (open < close).then_some((open, close))
    }

    fn moment(&self, day: Date, minute: u16, is_end: bool) -> Option<i64> {
        let day = if minute < DAY_MIN {
            day
        } else {
            day.tomorrow().ok()?
        };
        let minute = minute % DAY_MIN;
        let wall = day.at((minute / 60) as i8, (minute % 60) as i8, 0, 0);
        let ambiguous = self.zone.to_ambiguous_timestamp(wall);
        let moment = match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { .. } => ambiguous.compatible().ok()?,
            AmbiguousOffset::Fold { .. } if is_end => ambiguous.later().ok()?,
            AmbiguousOffset::Fold { .. } => ambiguous.earlier().ok()?,
            AmbiguousOffset::Gap { .. } => {
                let after = Timestamp::from_second(ambiguous.later().ok()?.as_second() + 1).ok()?;
                self.zone.preceding(after).next()?.timestamp()
            }
        };
        Some(moment.as_microsecond())
    }
}

impl Hours {
    const START: Self = Self {
        open_min: 0,
        close_min: 1,
    };
}

/// The open span `start..end`, or the closed one before it.
fn span(at: UtcMicros, start: i64, end: i64, closed_since: i64) -> Span {
    let open = start <= at.0;
    let (from, until) = if open {
        (start, end)
    } else {
        (closed_since.min(at.0), start)
    };
    Span {
        open,
        from: UtcMicros(from),
        until: Some(UtcMicros(until)),
    }
}

fn weekday(day: Date) -> usize {
    day.weekday().since(Weekday::Monday) as usize
}

/// `mon`, `mon-fri`, `sat-mon` or `daily`.
fn days_of(word: &str) -> Result<Vec<usize>, HoursError> {
    let lower = word.to_ascii_lowercase();
    if lower == "daily" {
        return Ok((0..7).collect());
    }
    let day = |text: &str| {
        let found = WEEKDAYS.iter().position(|w| *w == text);
        found.ok_or_else(|| HoursError::UnknownDay(text.to_owned()))
    };
    let (first, last) = lower.split_once('-').unwrap_or((&lower, &lower));
    let (first, last) = (day(first)?, day(last)?);
    Ok((0..=(last + 7 - first) % 7)
        .map(|n| (first + n) % 7)
        .collect())
}

/// `HH:MM-HH:MM`; 24:00 only at the end.
fn range_of(word: &str) -> Result<Hours, HoursError> {
    let wrong = || HoursError::NoRange(word.to_owned());
    let (open, close) = word.split_once('-').ok_or_else(wrong)?;
    let open_min = minute_of(open).filter(|m| *m < DAY_MIN).ok_or_else(wrong)?;
    let close_min = minute_of(close).ok_or_else(wrong)?;
    if open_min == close_min {
        return Err(HoursError::EmptyRange(word.to_owned()));
    }
    let next_day = if close_min < open_min { DAY_MIN } else { 0 };
    Ok(Hours {
        open_min,
        close_min: close_min + next_day,
    })
}

fn minute_of(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |t: &str| {
        let digits = (1..=2).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| t.parse::<u16>().ok()).flatten()
    };
    let (hour, minute) = (number(hour)?, number(minute).filter(|_| minute.len() == 2)?);
    let total = hour * 60 + minute;
    (minute < 60 && total <= DAY_MIN).then_some(total)
}

fn date_of(text: &str) -> Result<Date, HoursError> {
    let wrong = || HoursError::NoDate(text.to_owned());
    let plain = text.len() == 10 && text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    if !plain {
        return Err(wrong());
    }
    text.parse().map_err(|_| wrong())
}

/// When a rule watches.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum When {
    /// Day and night.
    #[default]
    Always,
    /// While the kitchen works.
    Business(Arc<Schedule>),
    /// While it does not.
    OffHours(Arc<Schedule>),
    /// In hours of its own.
    Hours(Arc<Schedule>),
}

impl When {
    /// As in the config; in findings too.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Business(_) => "business",
            Self::OffHours(_) => "off-hours",
            Self::Hours(_) => "hours",
        }
    }

    /// Whether there is no moment at which it watches.
    pub fn is_never(&self) -> bool {
        match self {
            Self::Always => false,
            Self::Business(s) | Self::Hours(s) => s.is_never_open(),
            Self::OffHours(s) => s.is_always_open(),
        }
    }

    /// Whether it watches at a moment, since when, and until when.
    pub fn span_at(&self, at: UtcMicros) -> Span {
        match self {
            Self::Always => Span {
                open: true,
                from: UtcMicros(i64::MIN),
                until: None,
            },
            Self::Business(s) | Self::Hours(s) => s.span_at(at),
            Self::OffHours(s) => {
                let span = s.span_at(at);
                Span {
                    open: !span.open,
                    ..span
                }
            }
        }
    }
}

/// Remembers the span last asked for, so that a question per picture costs two comparisons.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    known: Option<(Span, UtcMicros)>,
}

impl Cursor {
    /// [`When::span_at`]; always ask one cursor for the same `when`.
    pub fn span_at(&mut self, when: &When, at: UtcMicros) -> Span {
        if let Some((span, good_until)) = self.known
            && span.from <= at
            && at < good_until
        {
            return span;
        }
        let span = when.span_at(at);
        let recheck = UtcMicros(at.0.saturating_add(RECHECK_MICROS));
        self.known = Some((span, span.until.unwrap_or(recheck)));
        span
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schedule(zone: &str, hours: &[&str]) -> Schedule {
        let mut schedule = Schedule::new(TimeZone::get(zone).unwrap());
        for text in hours {
            schedule.add_hours(text).unwrap();
        }
        schedule
    }

    fn utc(text: &str) -> UtcMicros {
        UtcMicros(text.parse::<Timestamp>().unwrap().as_microsecond())
    }

    /// Each change from `from` to `to`, in UTC: `+` opens, `-` closes.
    fn changes(schedule: &Schedule, from: &str, to: &str) -> Vec<String> {
        let (mut at, to) = (utc(from), utc(to));
        let mut out = Vec::new();
        loop {
            let span = schedule.span_at(at);
            assert!(span.from <= at, "{span:?}");
            match span.until {
                Some(until) if until < to => {
                    assert!(until > at, "{span:?}");
                    let sign = if span.open { '-' } else { '+' };
                    out.push(format!(
                        "{sign}{}",
                        until.to_string().replace(":00.000Z", "")
                    ));
                    at = until;
                }
                _ => return out,
            }
        }
    }

    #[test]
    fn hours_are_the_sites_and_not_utc() {
        let s = schedule(
            "Asia/Shanghai",
            &["mon-fri 08:00-21:30", "sat,sun 10:00-02:00"],
        );
        // 2026-11-27 is a Friday; Shanghai is eight hours ahead of UTC all year.
        assert_eq!(
            changes(&s, "2026-11-26T20:00:00Z", "2026-11-30T01:00:00Z"),
            [
                "+2026-11-27T00:00",
                "-2026-11-27T13:30",
                "+2026-11-28T02:00",
                "-2026-11-28T18:00",
                "+2026-11-29T02:00",
                "-2026-11-29T18:00",
                "+2026-11-30T00:00"
            ]
        );
    }

    #[test]
    fn clocks_that_go_forward_take_an_hour_and_no_more() {
        let s = schedule("Europe/Berlin", &["daily 08:00-16:00", "daily 22:00-02:30"]);
        // On 2026-03-29 02:00 becomes 03:00: 02:30 is never shown.
        assert_eq!(
            changes(&s, "2026-03-28T08:00:00Z", "2026-03-29T21:00:00Z"),
            [
                "-2026-03-28T15:00",
                "+2026-03-28T21:00",
                "-2026-03-29T01:00",
                "+2026-03-29T06:00",
                "-2026-03-29T14:00",
                "+2026-03-29T20:00"
            ]
        );
        // Hours inside the lost hour are not there on that day, and are on the next.
        let s = schedule("Europe/Berlin", &["daily 02:10-02:50"]);
        assert_eq!(
            changes(&s, "2026-03-28T02:00:00Z", "2026-03-30T02:00:00Z"),
            ["+2026-03-30T00:10", "-2026-03-30T00:50"]
        );
        // Beginning exactly with it.
        let s = schedule("Europe/Berlin", &["daily 02:00-04:00"]);
        assert_eq!(
            changes(&s, "2026-03-28T22:00:00Z", "2026-03-29T22:00:00Z"),
            ["+2026-03-29T01:00", "-2026-03-29T02:00"]
        );
    }

    #[test]
    fn clocks_that_go_back_give_an_hour_and_it_counts_as_open() {
        // On 2026-11-01 in New York 02:00 becomes 01:00: 01:30 is shown at 05:30Z and 06:30Z.
        let s = schedule("America/New_York", &["sat 18:00-01:30", "sun 10:00-22:00"]);
        assert_eq!(
            changes(&s, "2026-10-31T12:00:00Z", "2026-11-02T12:00:00Z"),
            [
                "+2026-10-31T22:00",
                "-2026-11-01T06:30",
                "+2026-11-01T15:00",
                "-2026-11-02T03:00"
            ]
        );
        let s = schedule("America/New_York", &["sun 01:30-03:00"]);
        assert_eq!(
            changes(&s, "2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z"),
            ["+2026-11-01T05:30", "-2026-11-01T08:00"]
        );
    }

    #[test]
    fn a_day_that_a_zone_leaves_out_does_no_harm() {
        // Samoa had no 2011-12-30: the nights before and after it are one.
        let s = schedule("Pacific/Apia", &["daily 18:00-06:00"]);
        assert_eq!(
            changes(&s, "2011-12-30T00:00:00Z", "2012-01-01T00:00:00Z"),
            [
                "+2011-12-30T04:00",
                "-2011-12-30T16:00",
                "+2011-12-31T04:00",
                "-2011-12-31T16:00"
            ]
        );
    }

    #[test]
    fn a_holiday_is_closed_but_the_night_before_goes_on() {
        let mut s = schedule("Asia/Shanghai", &["daily 18:00-02:00"]);
        s.add_holiday("2026-10-01").unwrap();
        s.add_open_day("2026-10-02 08:00-10:00, 12:00-13:00")
            .unwrap();
        assert_eq!(
            changes(&s, "2026-09-30T05:00:00Z", "2026-10-03T12:00:00Z"),
            [
                "+2026-09-30T10:00",
                "-2026-09-30T18:00",
                "+2026-10-02T00:00",
                "-2026-10-02T02:00",
                "+2026-10-02T04:00",
                "-2026-10-02T05:00",
                "+2026-10-03T10:00"
            ]
        );
    }

    #[test]
    fn hours_that_touch_are_one_span() {
        let s = schedule("Asia/Shanghai", &["mon-thu 00:00-24:00", "thu 12:00-18:00"]);
        let span = s.span_at(utc("2026-11-25T00:00:00Z"));
        assert!(span.open);
        assert_eq!(span.from, utc("2026-11-22T16:00:00Z"));
        assert_eq!(span.until, Some(utc("2026-11-26T16:00:00Z")));
    }

    #[test]
    fn what_never_changes_has_no_end() {
        let all = schedule("Asia/Shanghai", &["daily 00:00-24:00"]);
        let span = all.span_at(utc("2026-11-25T00:00:00Z"));
        assert_eq!((span.open, span.until), (true, None));
        assert!(all.is_always_open() && !all.is_never_open());
        let none = schedule("Asia/Shanghai", &[]);
        let span = none.span_at(utc("2026-11-25T00:00:00Z"));
        assert_eq!((span.open, span.until), (false, None));
        assert!(none.is_never_open() && !none.is_always_open());
        let mut holiday = all.clone();
        holiday.add_holiday("2026-12-31").unwrap();
        assert!(!holiday.is_always_open());
        assert_eq!(
            holiday.span_at(utc("2026-11-25T00:00:00Z")).until,
            Some(utc("2026-12-30T16:00:00Z"))
        );
        // Round the clock across the week's end, and one minute short of it.
        assert!(schedule("UTC", &["mon-sun 06:00-06:01", "daily 06:01-06:00"]).is_always_open());
        assert!(!schedule("UTC", &["daily 06:01-06:00"]).is_always_open());
    }

    #[test]
    fn a_broken_clock_is_closed_and_does_no_harm() {
        let s = schedule("Asia/Shanghai", &["daily 00:00-24:00"]);
        for at in [
            i64::MIN,
            i64::MAX,
            -377_705_023_201_000_000,
            253_402_207_200_999_999,
        ] {
            let span = s.span_at(UtcMicros(at));
            assert!(!span.open && span.until.is_none(), "{at}");
            let mut cursor = Cursor::default();
            assert_eq!(
                cursor.span_at(&When::Hours(Arc::new(s.clone())), UtcMicros(at)),
                span
            );
        }
    }

    #[test]
    fn a_text_that_is_no_hours_says_why() {
        let mut s = schedule("UTC", &[]);
        let mut why = |text: &str| s.add_hours(text).unwrap_err().to_string();
        assert_eq!(why("montag 08:00-12:00"), "`montag` is no weekday");
        assert_eq!(why("mon-fry 08:00-12:00"), "`fry` is no weekday");
        assert_eq!(why("08:00-12:00"), "names no weekday");
        assert_eq!(why("mon-fri"), "names no hours");
        assert_eq!(why(""), "names no weekday");
        for bad in [
            "8-12",
            "08:00",
            "08:60-12:00",
            "24:00-02:00",
            "08:00-24:01",
            "8:5-9:00",
            "08:00-12:00x",
            "-",
        ] {
            assert_eq!(
                why(&format!("mon {bad}")),
                format!("`{bad}` is no `HH:MM-HH:MM`")
            );
        }
        assert_eq!(why("mon 08:00-12:00 tue"), "`tue` is no `HH:MM-HH:MM`");
        assert_eq!(
            why("mon 08:00-08:00"),
            "`08:00-08:00` begins and ends with the same minute"
        );
        let s = &mut s;
        assert!(s.is_never_open(), "nothing was added");
        for bad in [
            "2026-02-29",
            "20261001",
            "2026-1-1",
            "soon",
            "2026-10-01T00:00",
        ] {
            assert_eq!(s.add_holiday(bad), Err(HoursError::NoDate(bad.to_owned())));
        }
        assert_eq!(s.add_open_day("2026-10-10"), Err(HoursError::NoHours));
        assert_eq!(
            s.add_open_day("2026-10-10 noon"),
            Err(HoursError::NoRange("noon".to_owned()))
        );
    }

    #[test]
    fn weekdays_may_go_over_the_weeks_end_and_be_written_large() {
        let wrapped = schedule("UTC", &["Sat-Mon 9:00-10:00"]);
        assert_eq!(wrapped, schedule("UTC", &["sat, sun, mon 09:00-10:00"]));
        let open: Vec<_> = wrapped.week.iter().map(|h| !h.is_empty()).collect();
        assert_eq!(open, [true, false, false, false, false, true, true]);
    }

    const ZONES: [&str; 5] = [
        "Asia/Shanghai",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "UTC",
    ];

    proptest! {
        /// Off the days of change, a moment is open if and only if the clock on the wall is within
        /// the hours.
        #[test]
        fn open_is_what_the_clock_on_the_wall_says(
            zone in prop::sample::select(ZONES.to_vec()),
            open in 0u16..1440,
            length in 1u16..1440,
            at in 1_790_000_000i64..1_830_000_000,
        ) {
            let close = (open + length) % 1440;
            let text = format!("daily {:02}:{:02}-{:02}:{:02}", open / 60, open % 60, close / 60, close % 60);
            let s = schedule(zone, &[&text]);
            let tz = TimeZone::get(zone).unwrap();
            let now = Timestamp::from_second(at).unwrap();
            let day = |n: i64| tz.to_offset(Timestamp::from_second(at + n * 86_400).unwrap());
            prop_assume!((-2..=2).all(|n| day(n) == day(0)));
            let wall = tz.to_datetime(now);
            let minute = u16::try_from(wall.hour()).unwrap() * 60 + u16::try_from(wall.minute()).unwrap();
            let expected = (minute + 1440 - open) % 1440 < length;
            prop_assert_eq!(s.span_at(UtcMicros(at * 1_000_000)).open, expected);
        }

        #[test]
        fn a_cursor_says_what_the_schedule_says_however_the_clock_jumps(
            zone in prop::sample::select(ZONES.to_vec()),
            moments in prop::collection::vec(1_790_000_000i64..1_830_000_000, 1..40),
        ) {
            let mut s = schedule(zone, &["mon-fri 08:00-14:00, 17:00-01:00", "sun 02:15-02:45"]);
            s.add_holiday("2026-12-25").unwrap();
            s.add_open_day("2026-12-26 10:00-12:00").unwrap();
            let when = When::OffHours(Arc::new(s));
            let mut cursor = Cursor::default();
            for at in moments {
                let at = UtcMicros(at * 1_000_000);
                let (quick, right) = (cursor.span_at(&when, at), when.span_at(at));
                prop_assert_eq!((quick.open, quick.until), (right.open, right.until));
            }
        }
    }
}
