//! The site's own config with what the centre wants of it laid over.
//!
//! The site's own file must stand by itself: it says where the broker and the site's files are, and it
//! is what remains when the centre's config cannot be used. The centre's tables come over it:
//! `[[camera]]` and `[[rule]]` in place of those in the file, other tables key by key.
//!
//! # Security
//! A message at the broker must not be able to make the site speak to another broker, read files, give
//! a camera's password to somebody else or show faces. So only the tables and keys of [`ALLOWED`]
//! count; a camera's URL may not be a file; and a password goes only where the site's own file sends
//! it: to the same host, by the same name.
use std::path::Path;

use toml::de::{DeTable, DeValue};
use url::Url;

use super::Parsed;
use super::parse::read_root;
use super::problem::Problem;
use super::section::Reading;

/// How problems name the centre's config.
pub const DESIRED: &str = "desired";

/// Tables that the centre may set, and which of their keys; `None`: all.
const ALLOWED: &[(&str, Option<&[&str]>)] = &[
    ("camera", None),
    ("rule", None),
    ("track", None),
    ("detect", Some(&["regions", "regions_per_s"])),
    ("evidence", Some(&["jpeg_quality", "max_mb"])),
];

/// What the centre wants of a config, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// As the centre counts.
    pub revision: u64,
    /// TOML.
    pub text: String,
}

/// Where the centre's layer lies in a whole config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerPlace {
    /// As the centre counts.
    pub revision: u64,
    /// Lines up to this are the site's own file.
    pub own_lines: usize,
}

impl LayerPlace {
    /// A problem of the whole as one of the file it is in.
    pub fn locate(&self, mut problem: Problem) -> Problem {
        if problem.line > self.own_lines {
            problem.line -= self.own_lines;
            DESIRED.clone_into(&mut problem.file);
        }
        problem
    }
}

/// Reads the config text that came from `path` with the centre's over it.
pub fn parse_over(path: &Path, own: &str, desired: &Desired) -> Parsed {
    // Both are read from one text, so that a place in it says which of them is meant.
    let whole = format!("{own}\n{}", desired.text);
    let padded = format!("{}\n{}", " ".repeat(own.len()), desired.text);
    let place = LayerPlace {
        revision: desired.revision,
        own_lines: own.matches('\n').count() + 1,
    };
    let reading = Reading::new(path, &whole);
    let (root, own_errors) = DeTable::parse_recoverable(&whole[..own.len()]);
    let (over, errors) = DeTable::parse_recoverable(&padded);
    let unreadable = !own_errors.is_empty() || !errors.is_empty();
    for error in own_errors.into_iter().chain(errors) {
        let at = error.span().map_or(0, |s| s.start);
        reading.problem(
            Some(at),
            "",
            error.message().trim_end(),
            "correct the TOML here",
        );
    }
    let mut root = root.into_inner();
    lay_over(&reading, &mut root, over.into_inner());
    let (config, mut parsed) = read_root(&reading, path, &whole, &root, unreadable);
    let problems = reading.into_problems().into_iter();
    parsed.problems = problems.map(|p| place.locate(p)).collect();
    parsed.config = config.filter(|_| parsed.problems.is_empty());
    if let Some(config) = &mut parsed.config {
        config.desired = Some(place);
    }
    parsed
}

fn lay_over<'a>(reading: &Reading<'_>, root: &mut DeTable<'a>, over: DeTable<'a>) {
    for (key, value) in over {
        let name = key.get_ref().to_string();
        let Some((_, keys)) = ALLOWED.iter().find(|(allowed, _)| *allowed == name) else {
            let allowed: Vec<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
            reading.problem(
                Some(key.span().start),
                name,
                "is not for the centre to set",
                format!(
                    "it may set {}; leave the rest to the site",
                    allowed.join(", ")
                ),
            );
            continue;
        };
        if name == "camera" {
            check_cameras(reading, root, value.get_ref());
        }
        let mut value = value;
        if let DeValue::Table(table) = value.get_mut() {
            let words = table
                .iter()
                .map(|(k, _)| (k.get_ref().to_string(), k.span().start));
            let words: Vec<_> = words.collect();
            for (word, at) in words {
                if !allowed_key(reading, &name, *keys, &word, at) {
                    table.remove(word.as_str());
                }
            }
            let known = root.iter_mut().find(|(k, _)| k.get_ref() == name.as_str());
            if let Some((_, known)) = known
                && let DeValue::Table(known) = known.get_mut()
            {
                for (key, value) in std::mem::take(table) {
                    known.remove(key.get_ref().as_ref());
                    known.insert(key, value);
                }
                continue;
            }
        }
        root.remove(name.as_str());
        root.insert(key, value);
    }
}

fn allowed_key(
    reading: &Reading<'_>,
    table: &str,
    keys: Option<&[&str]>,
    key: &str,
    at: usize,
) -> bool {
    let allowed = keys.is_none_or(|keys| keys.contains(&key));
    if !allowed {
        let keys = keys.unwrap_or_default().join(", ");
        reading.problem(
            Some(at),
            format!("{table}.{key}"),
            "is not for the centre to set",
            format!("of `[{table}]` it may set {keys}"),
        );
    }
    allowed
}

/// A text of a table, and where it stands.
fn text<'t>(table: &'t DeTable<'_>, key: &str) -> Option<(&'t str, usize)> {
    let (_, value) = table.iter().find(|(k, _)| k.get_ref() == key)?;
    Some((value.get_ref().as_str()?, value.span().start))
}

/// Who gets a camera's password: user name, file, host and port, for each of its streams.
fn logins<'t>(camera: &'t DeTable<'_>) -> Vec<(&'t str, &'t str, String, u16)> {
    let (Some((username, _)), Some((file, _))) =
        (text(camera, "username"), text(camera, "password_file"))
    else {
        return Vec::new();
    };
    let texts = camera.iter().filter_map(|(_, v)| v.get_ref().as_str());
    let hosts = texts.filter_map(|text| {
        let url = Url::parse(text).ok()?;
        Some((url.host_str()?.to_owned(), url.port().unwrap_or(554)))
    });
    hosts
        .map(|(host, port)| (username, file, host, port))
        .collect()
}

fn camera_tables<'t, 'a>(value: &'t DeValue<'a>) -> Vec<&'t DeTable<'a>> {
    let items = value.as_array().into_iter().flat_map(|a| a.iter());
    items.filter_map(|v| v.get_ref().as_table()).collect()
}

fn check_cameras(reading: &Reading<'_>, own: &DeTable<'_>, cameras: &DeValue<'_>) {
    let own = own.iter().find(|(k, _)| k.get_ref() == "camera");
    let own = own.map_or_else(Vec::new, |(_, v)| camera_tables(v.get_ref()));
    let known: Vec<_> = own.into_iter().flat_map(logins).collect();
    for (i, camera) in camera_tables(cameras).into_iter().enumerate() {
        for (key, value) in camera {
            let (key, at) = (key.get_ref(), value.span().start);
            let path = format!("camera[{i}].{key}");
            let is_file = value
                .get_ref()
                .as_str()
                .is_some_and(|t| t.starts_with("file:"));
            if is_file || (key.ends_with("_file") && key != "password_file") {
                reading.problem(
                    Some(at),
                    path,
                    "names a file on the box, which is not for the centre to set",
                    "name a camera, or put it into the site's own file",
                );
            }
        }
        let sent = logins(camera);
        if let Some((_, at)) = text(camera, "password_file")
            && (sent.is_empty() || sent.iter().any(|login| !known.contains(login)))
        {
            reading.problem(
                Some(at),
                format!("camera[{i}].password_file"),
                "would send a password where the site's own file does not send it",
                "the site's own file must have a camera with this url's host and port, username and password_file",
            );
        }
    }
}
