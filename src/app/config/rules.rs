//! `[[rule]]`: text → [`RuleDraft`].
use std::sync::Arc;

use toml::de::DeTable;

use super::RuleDraft;
use super::codes::{CODES, CodeDefaults, defaults_of, off_hours, rule_of};
use super::hours::{Calendar, read_hours};
use super::parse::{Cameras, note_duplicate};
use super::section::{Located, Reading, Section, did_you_mean};
use crate::base::geometry::{Point, Polygon};
use crate::base::ids::{CameraIx, Name};
use crate::rules::{CODE_PREFIX, RuleConfig, Schedule, Urgency, When, Zone};

/// All rules; none if one has a mistake that leaves nothing to go on with.
pub(super) fn read_rules(
    reading: &Reading<'_>,
    tables: &[(usize, &DeTable<'_>)],
    cameras: Option<&Cameras>,
    calendar: &Calendar,
    all_labels: &mut Vec<Located<String>>,
) -> Option<Vec<RuleDraft>> {
    let mut ids: Vec<Name> = Vec::new();
    let mut rules = Vec::new();
    for (i, (at, table)) in tables.iter().enumerate() {
        let section = Section::new(reading, "rule", format!("rule[{i}]"), *at, table);
        let id = section.name("id");
        note_duplicate(&section, id.as_ref(), &mut ids);
        rules.push(read_rule(section, id, cameras, calendar, all_labels));
    }
    if rules.is_empty() {
        None
    } else {
        rules.into_iter().collect()
    }
}

fn read_rule(
    section: Section<'_, '_>,
    id: Option<Name>,
    cameras: Option<&Cameras>,
    calendar: &Calendar,
    all_labels: &mut Vec<Located<String>>,
) -> Option<RuleDraft> {
    let version = section.integer("version", 1..=1_000_000);
    let code = section.name("code").filter(|code| {
        let is_ours = code.as_str().starts_with(CODE_PREFIX);
        if is_ours {
            section.wrong(
                "code",
                format!("`{code}` is a finding about a camera, which `[health]` makes"),
                "set it up there, or give the rule another code",
            );
        }
        !is_ours
    });
    let class = section
        .integer("class", 1..=3)
        .and_then(|c| Urgency::from_class(c as u8));
    let watched = section
        .texts("cameras")
        .map(|names| cameras_named(&section, &names, cameras));
    let known = code.as_ref().and_then(|c| defaults_of(c.as_str()));
    let labels = labels_of(&section, code.as_ref(), known);
    all_labels.extend(labels.iter().flatten().cloned());
    let zone = read_zone(&section);
    let zone_samples = section.integer("zone_samples", 1..=20);
    let when = read_when(&section, calendar);
    let threshold = section.number("threshold", f32::MIN_POSITIVE..=1.0);
    let samples = section.integer("samples", 1..=100).map(|n| n as usize);
    let hits = section.integer("hits", 1..=100).map(|n| n as usize);
    let dwell_ms = section.integer("dwell_ms", 0..=3_600_000);
    let factor = section.number("off_hours_factor", 0.1..=1.0);
    if section.has("off_hours_factor") && !calendar.is_business_written {
        let remedy = "add `business_hours` to `[site]`, or take it out";
        section.wrong("off_hours_factor", "needs `site.business_hours`", remedy);
    }
    let still_ms = section.integer("still_ms", 0..=86_400_000);
    let late_decode = section.boolean("late_decode").unwrap_or(true);
    let clear_ms = section.integer("clear_ms", 1000..=3_600_000);
    let cooldown_ms = section.integer("cooldown_ms", 0..=86_400_000);
    let update_ms = section.integer("update_ms", 1000..=86_400_000);
    let realert_ms = section.integer("realert_ms", 0..=604_800_000);
    let all = || {
        (0..cameras.map_or(0, Vec::len))
            .map(|i| CameraIx(i as u16))
            .collect()
    };
    let (id, code) = (id?, code?);
    let business = calendar.business.clone().map(When::Business);
    let plain = rule_of(id, code, business.as_ref());
    // A code's `hits` are out of the code's `samples`; who writes another window means the median.
    let hits = hits.or_else(|| plain.hits.filter(|_| samples.is_none()));
    let samples = samples.unwrap_or(plain.samples);
    if let Some(hits) = hits.filter(|h| *h > samples) {
        let message = format!("is {hits}, more than `samples` ({samples})");
        section.wrong("hits", message, "make it the lower of the two");
    }
    section.finish();
    Some(RuleDraft {
        labels: labels?,
        threshold,
        late_decode,
        config: RuleConfig {
            version: version.unwrap_or(1) as u32,
            urgency: class.unwrap_or(plain.urgency),
            cameras: watched.unwrap_or_else(all),
            zone,
            zone_samples: zone_samples.map_or(plain.zone_samples, |n| n as u32),
            when: when.unwrap_or_default(),
            threshold: threshold.unwrap_or(0.0),
            samples,
            hits,
            dwell_ms: dwell_ms.unwrap_or(plain.dwell_ms),
            off_hours: match factor {
                Some(factor) => off_hours(business.as_ref(), factor),
                None => plain.off_hours,
            },
            still_ms: still_ms.unwrap_or(plain.still_ms),
            clear_ms: clear_ms.unwrap_or(plain.clear_ms),
            cooldown_ms: cooldown_ms.unwrap_or(plain.cooldown_ms),
            update_ms: update_ms.unwrap_or(plain.update_ms),
            realert_ms: realert_ms.unwrap_or(plain.realert_ms),
            ..plain
        },
    })
}

/// `when`, or hours of its own.
fn read_when(section: &Section<'_, '_>, calendar: &Calendar) -> Option<When> {
    let own = read_hours(section, "hours", &calendar.timezone);
    let business = |word: &str, when: fn(Arc<Schedule>) -> When| {
        let hours = calendar.business.clone().map(when);
        if !calendar.is_business_written {
            let message = format!("`{word}` needs `site.business_hours`");
            let remedy = "add `business_hours = [\"mon-fri 08:00-21:30\"]` to `[site]`";
            section.wrong("when", message, remedy);
        }
        hours
    };
    let written = section.choice("when", &[("always", 0), ("business", 1), ("off-hours", 2)]);
    let when = match written {
        Some(1) => business("business", When::Business),
        Some(2) => business("off-hours", When::OffHours),
        _ => Some(When::Always),
    };
    if section.has("hours") && section.has("when") {
        let remedy = "take one of the two out";
        section.wrong("hours", "cannot stand beside `when`", remedy);
    }
    if when.as_ref().is_some_and(When::is_never) {
        let remedy = "business is round the clock: write `when = \"always\"`, or correct `business_hours` in `[site]`";
        section.wrong("when", "leaves no hour in which the rule watches", remedy);
    }
    match own {
        Some(own) => Some(When::Hours(Arc::new(own))),
        None => when,
    }
}

/// The zone with its excluded areas; an exclusion alone is of the whole picture.
fn read_zone(section: &Section<'_, '_>) -> Option<Zone> {
    let name = section.name("zone_name");
    let polygon = section.corners("zone").and_then(|corners| {
        polygon_of(corners)
            .map_err(|(m, r)| section.wrong("zone", m, r))
            .ok()
    });
    let areas = section.areas("exclude").unwrap_or_default();
    let mut exclude = Vec::new();
    let count = areas.len();
    for (i, corners) in areas.into_iter().enumerate() {
        match polygon_of(corners) {
            Ok(area) => exclude.push(area),
            Err((message, remedy)) => section.wrong_item("exclude", i, message, remedy),
        }
    }
    if section.has("zone_name") && !section.has("zone") && !section.has("exclude") {
        section.wrong(
            "zone_name",
            "needs `zone`",
            "add `zone = [[x, y], …]`, or take the name out",
        );
    }
    // A mistake in either is noted; the rest would only blame the wrong one.
    let is_whole = exclude.len() == count && (polygon.is_some() || !section.has("zone"));
    if !is_whole || (polygon.is_none() && exclude.is_empty()) {
        return None;
    }
    let zone = Zone {
        name: name.unwrap_or_else(|| Name::new("zone").expect("a valid name")),
        polygon: polygon.unwrap_or_else(Polygon::whole),
        exclude,
    };
    if zone.is_nothing() {
        let remedy = "make the excluded areas smaller, or take the rule out";
        section.wrong("exclude", "leaves nothing of the zone", remedy);
    }
    Some(zone)
}

/// As written, else what the code means.
fn labels_of(
    section: &Section<'_, '_>,
    code: Option<&Name>,
    defaults: Option<&CodeDefaults>,
) -> Option<Vec<Located<String>>> {
    if section.has("labels") || code.is_none() {
        return section.texts("labels");
    }
    section.mark_known("labels");
    let Some(defaults) = defaults else {
        let known: Vec<&str> = CODES.iter().map(|c| c.code).collect();
        section.wrong(
            "labels",
            "is missing",
            format!(
                "add `labels = [\"…\"]`, labels of the models; only {} mean some by themselves",
                known.join(", ")
            ),
        );
        return None;
    };
    let place = section.place("code");
    let labels = defaults.labels.iter().map(|label| Located {
        value: (*label).to_owned(),
        place: place.clone(),
    });
    Some(labels.collect())
}

fn cameras_named(
    section: &Section<'_, '_>,
    names: &[Located<String>],
    cameras: Option<&Cameras>,
) -> Vec<CameraIx> {
    let mut found = Vec::new();
    let Some(cameras) = cameras else { return found };
    let ids: Vec<&str> = cameras
        .iter()
        .flat_map(|(id, _)| id)
        .map(Name::as_str)
        .collect();
    // One whose name is wrong may be the one that is meant: do not blame the rule for it.
    let complete = ids.len() == cameras.len();
    for name in names {
        let is_meant = |id: &Name| id.as_str() == name.value;
        let at = cameras
            .iter()
            .position(|(id, _)| id.as_ref().is_some_and(is_meant));
        match at {
            Some(i) if found.contains(&CameraIx(i as u16)) => {
                section.wrong(
                    "cameras",
                    format!("names `{}` twice", name.value),
                    "take one out",
                );
            }
            Some(i) => found.push(CameraIx(i as u16)),
            None if complete => {
                let remedy = did_you_mean(&name.value, ids.iter().copied())
                    .unwrap_or_else(|| format!("cameras here: {}", ids.join(", ")));
                section.wrong(
                    "cameras",
                    format!("there is no camera `{}`", name.value),
                    remedy,
                );
            }
            None => {}
        }
    }
    found
}

/// Less than this share of the picture is no area: a line, or a slip of the hand.
const LEAST_AREA: f32 = 1e-5;

/// The corners as a polygon, or what is wrong with them and what to do.
fn polygon_of(corners: Vec<(f32, f32)>) -> Result<Polygon, (&'static str, &'static str)> {
    let corners: Vec<Point> = corners.into_iter().map(|(x, y)| Point { x, y }).collect();
    let few = (
        "has fewer than 3 corners",
        "write at least 3 corners `[x, y]`",
    );
    let polygon = Polygon::new(corners).ok_or(few)?;
    if polygon.crosses_itself() {
        let remedy = "list the corners in order, once around the area";
        return Err(("crosses itself", remedy));
    }
    if polygon.area() < LEAST_AREA {
        let remedy = "list corners that enclose a part of the picture";
        return Err(("has no area", remedy));
    }
    Ok(polygon)
}
