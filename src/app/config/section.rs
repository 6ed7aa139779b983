//! Reading one table of a config: typed getters that note what is wrong and go on, so that all
//! mistakes come out at once.
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, Absent, KEYS, Key};
use super::problem::Problem;
use crate::base::ids::Name;
use crate::base::secret::Secret;

/// Where a value stands, for problems found later (a label that no model knows).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// E.g. `rule[0].labels`.
    pub key: String,
}

/// A value with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

/// One config text while it is read.
#[derive(Debug)]
pub struct Reading<'a> {
    file: String,
    /// What relative paths are relative to.
    folder: PathBuf,
    text: &'a str,
    problems: RefCell<Vec<(usize, Problem)>>,
    asked: RefCell<BTreeSet<(&'static str, &'static str)>>,
}

impl<'a> Reading<'a> {
    /// Reads `text`, which came from `path`.
    pub fn new(path: &Path, text: &'a str) -> Self {
        Self {
            file: path.display().to_string(),
            folder: path.parent().unwrap_or(Path::new("")).to_path_buf(),
            text,
            problems: RefCell::default(),
            asked: RefCell::default(),
        }
    }

    /// Notes a problem at a byte offset; `None`: it is about the whole file.
    pub fn problem(
        &self,
        at: Option<usize>,
        key: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let (line, column) = at.map_or((0, 0), |at| self.line_and_column(at));
        let problem = Problem {
            file: self.file.clone(),
            line,
            column,
            key: key.into(),
            message: message.into(),
            remedy: remedy.into(),
        };
        self.problems.borrow_mut().push((at.unwrap_or(0), problem));
    }

    fn line_and_column(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        (
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
        )
    }

    fn place(&self, at: usize, key: String) -> Place {
        let (line, column) = self.line_and_column(at);
        Place { line, column, key }
    }

    /// All problems, in the order of the file.
    pub fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|(at, _)| *at);
        problems.into_iter().map(|(_, p)| p).collect()
    }

    /// Which keys the reader knows: what it asked for so far.
    #[cfg(test)]
    pub fn asked(&self) -> BTreeSet<(&'static str, &'static str)> {
        self.asked.borrow().clone()
    }

    /// A path of the config: relative ones are relative to the config file.
    pub fn resolve(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }
}

/// "did you mean `x`?", if a known name is near.
pub fn did_you_mean<'n>(word: &str, known: impl IntoIterator<Item = &'n str>) -> Option<String> {
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(word, k), k))
        .filter(|(distance, k)| *distance <= 1 + k.len().min(word.len()) / 4)
        .min()
        .map(|(_, k)| format!("did you mean `{k}`?"))
}

/// One table while it is read.
#[derive(Debug)]
pub struct Section<'r, 'a> {
    reading: &'r Reading<'a>,
    name: &'static str,
    path: String,
    at: usize,
    table: &'r DeTable<'a>,
}

impl<'r, 'a> Section<'r, 'a> {
    /// The table `name`, which stands at `path` (e.g. `camera[0]`).
    pub fn new(
        reading: &'r Reading<'a>,
        name: &'static str,
        path: String,
        at: usize,
        table: &'r DeTable<'a>,
    ) -> Self {
        Self {
            reading,
            name,
            path,
            at,
            table,
        }
    }

    fn key(&self, name: &'static str) -> &'static Key {
        self.reading.asked.borrow_mut().insert((self.name, name));
        keys::find(self.name, name)
            .unwrap_or_else(|| unreachable!("{}.{name} is not in the catalogue", self.name))
    }

    /// A path of the config: relative ones are relative to the config file.
    pub fn resolve(&self, path: &str) -> PathBuf {
        self.reading.resolve(path)
    }

    /// E.g. `camera[0].url`.
    pub fn key_path(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    /// Where the value of a key stands; the table's heading if it is absent.
    pub fn offset(&self, name: &str) -> usize {
        self.entry(name).map_or(self.at, |(_, v)| v.span().start)
    }

    fn entry(&self, name: &str) -> Option<(usize, &'r Spanned<DeValue<'a>>)> {
        self.table
            .iter()
            .find(|(k, _)| k.get_ref() == name)
            .map(|(k, v)| (k.span().start, v))
    }

    /// Where the value of a key stands, for what is said of it later.
    pub fn place(&self, name: &str) -> Place {
        self.reading.place(self.offset(name), self.key_path(name))
    }

    /// Counts the key as one that this table may hold, without reading it.
    pub fn mark_known(&self, name: &'static str) {
        self.key(name);
    }

    /// Whether the key is written, whatever its value.
    pub fn has(&self, name: &str) -> bool {
        self.entry(name).is_some()
    }

    /// Notes a problem with the value of a key.
    pub fn wrong(&self, name: &str, message: impl Into<String>, remedy: impl Into<String>) {
        self.reading.problem(
            Some(self.offset(name)),
            self.key_path(name),
            message,
            remedy,
        );
    }

    /// Notes a problem with one item of a list.
    pub fn wrong_item(
        &self,
        name: &str,
        index: usize,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let list = self.entry(name).and_then(|(_, v)| v.get_ref().as_array());
        let item = list.and_then(|l| l.get(index));
        let at = item.map_or_else(|| self.offset(name), |v| v.span().start);
        let key = format!("{}[{index}]", self.key_path(name));
        self.reading.problem(Some(at), key, message, remedy);
    }

    fn wrong_value(&self, key: &Key, message: impl Into<String>) {
        let remedy = format!(
            "expected: {}; for example `{} = {}`",
            key.kind, key.name, key.example
        );
        self.wrong(key.name, message, remedy);
    }

    fn value(&self, name: &'static str) -> Option<(&'static Key, &'r Spanned<DeValue<'a>>)> {
        let key = self.key(name);
        let found = self.entry(name);
        if found.is_none() && key.default == Absent::Required {
            let remedy = format!("add `{name} = {}` ({})", key.example, key.kind);
            self.reading
                .problem(Some(self.at), self.key_path(name), "is missing", remedy);
        }
        found.map(|(_, v)| (key, v))
    }

    fn wrong_type(&self, key: &Key, found: &DeValue<'_>) {
        self.wrong_value(key, format!("is a {}", found.type_str()));
    }

    /// A text.
    pub fn text(&self, name: &'static str) -> Option<&'r str> {
        let (key, value) = self.value(name)?;
        let text = value.get_ref().as_str();
        match text {
            None => self.wrong_type(key, value.get_ref()),
            Some("") => {
                self.wrong_value(key, "is empty");
                return None;
            }
            Some(_) => {}
        }
        text
    }

    /// A topic level or id.
    pub fn name(&self, name: &'static str) -> Option<Name> {
        let text = self.text(name)?;
        self.as_name(name, text)
    }

    fn as_name(&self, name: &'static str, text: &str) -> Option<Name> {
        Name::new(text)
            .map_err(|e| self.wrong_value(self.key(name), format!("`{text}` {e}")))
            .ok()
    }

    /// A path; relative ones are relative to the config file.
    pub fn path(&self, name: &'static str) -> Option<PathBuf> {
        self.text(name).map(|t| self.reading.resolve(t))
    }

    /// Where a file is: a bare name is looked up in `$CREDENTIALS_DIRECTORY` first (systemd.exec(5),
    /// `LoadCredential=`).
    fn credential_or_path(&self, text: &str) -> PathBuf {
        std::env::var_os("CREDENTIALS_DIRECTORY")
            .filter(|_| !text.contains('/'))
            .map(|folder| Path::new(&folder).join(text))
            .filter(|path| path.exists())
            .unwrap_or_else(|| self.reading.resolve(text))
    }

    /// A file or systemd credential that must be readable now.
    pub fn file(&self, name: &'static str) -> Option<PathBuf> {
        let path = self.credential_or_path(self.text(name)?);
        match std::fs::File::open(&path) {
            Ok(_) => Some(path),
            Err(e) => {
                let remedy = "name a file that the daemon's user can read";
                self.wrong(name, format!("{}: {e}", path.display()), remedy);
                None
            }
        }
    }

    /// The content of a secret's file or systemd credential.
    pub fn secret(&self, name: &'static str) -> Option<Secret> {
        let path = self.credential_or_path(self.text(name)?);
        match Secret::read(&path) {
            Ok(secret) => Some(secret),
            Err(e) => {
                let remedy = "write the password, and nothing else, into that file, readable for the daemon's user only";
                self.wrong(name, format!("{}: {e}", path.display()), remedy);
                None
            }
        }
    }

    /// A whole number in `range`.
    pub fn integer(&self, name: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let (key, value) = self.value(name)?;
        let Some(integer) = value.get_ref().as_integer() else {
            self.wrong_type(key, value.get_ref());
            return None;
        };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        let fits = number
            .and_then(|n| u64::try_from(n).ok())
            .filter(|n| range.contains(n));
        if fits.is_none() {
            self.wrong_value(key, format!("is {}", integer.as_str()));
        }
        fits
    }

    /// A whole number in `range`, or the word that means what holds without the key (`None`).
    pub fn integer_or(
        &self,
        name: &'static str,
        range: RangeInclusive<u64>,
        word: &str,
    ) -> Option<u64> {
        match self.entry(name) {
            Some((_, value)) if value.get_ref().as_str() == Some(word) => {
                self.mark_known(name);
                None
            }
            _ => self.integer(name, range),
        }
    }

    /// A number in `range`; whole ones count too.
    pub fn number(&self, name: &'static str, range: RangeInclusive<f32>) -> Option<f32> {
        let (key, value) = self.value(name)?;
        let Some(number) = as_number(value.get_ref()) else {
            self.wrong_type(key, value.get_ref());
            return None;
        };
        let fits = Some(number).filter(|n| range.contains(n));
        if fits.is_none() {
            self.wrong_value(key, format!("is {number}"));
        }
        fits
    }

    /// True or false.
    pub fn boolean(&self, name: &'static str) -> Option<bool> {
        let (key, value) = self.value(name)?;
        let boolean = value.get_ref().as_bool();
        if boolean.is_none() {
            self.wrong_type(key, value.get_ref());
        }
        boolean
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, name: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(name)?;
        let found = choices
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, v)| *v);
        if found.is_none() {
            self.wrong_value(self.key(name), format!("is \"{text}\""));
        }
        found
    }

    /// A list of texts, with the place of each; `None` if absent, empty or wrong.
    pub fn texts(&self, name: &'static str) -> Option<Vec<Located<String>>> {
        let (key, value) = self.value(name)?;
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value.get_ref());
            return None;
        };
        if array.is_empty() {
            self.wrong_value(key, "is empty");
            return None;
        }
        let mut texts = Vec::new();
        for item in array {
            let Some(text) = item.get_ref().as_str().filter(|t| !t.is_empty()) else {
                let found = item.get_ref().type_str();
                self.wrong_value(key, format!("holds a {found} that is no text, or is empty"));
                return None;
            };
            let place = self.reading.place(item.span().start, self.key_path(name));
            texts.push(Located {
                value: text.to_owned(),
                place,
            });
        }
        Some(texts)
    }

    /// A list of words, each one of a few; it may be empty. `None` if absent or wrong.
    pub fn words<T: Copy>(&self, name: &'static str, choices: &[(&str, T)]) -> Option<Vec<T>> {
        let (key, value) = self.value(name)?;
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value.get_ref());
            return None;
        };
        let mut found = Vec::new();
        for item in array {
            let word = item.get_ref().as_str().unwrap_or_default();
            let Some((_, choice)) = choices.iter().find(|(known, _)| *known == word) else {
                let known = choices.iter().map(|(known, _)| *known);
                let message = format!("holds `{word}`");
                let at = Some(item.span().start);
                let remedy =
                    did_you_mean(word, known).unwrap_or_else(|| format!("expected: {}", key.kind));
                self.reading
                    .problem(at, self.key_path(name), message, remedy);
                return None;
            };
            found.push(*choice);
        }
        Some(found)
    }

    /// A list of corners `[x, y]`, each `0.0..=1.0`.
    pub fn corners(&self, name: &'static str) -> Option<Vec<(f32, f32)>> {
        let (key, value) = self.value(name)?;
        if value.get_ref().as_array().is_none() {
            self.wrong_type(key, value.get_ref());
            return None;
        }
        let corners = as_corners(value.get_ref());
        if corners.is_none() {
            self.wrong_value(key, "holds something that is no corner");
        }
        corners
    }

    /// A list of lists of corners.
    pub fn areas(&self, name: &'static str) -> Option<Vec<Vec<(f32, f32)>>> {
        let (key, value) = self.value(name)?;
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value.get_ref());
            return None;
        };
        if array.is_empty() {
            self.wrong_value(key, "is empty");
            return None;
        }
        let areas: Option<Vec<_>> = array.iter().map(|a| as_corners(a.get_ref())).collect();
        if areas.is_none() {
            self.wrong_value(key, "holds something that is no list of corners");
        }
        areas
    }

    /// Notes every key that nobody asked for.
    pub fn finish(self) {
        let asked = self.reading.asked.borrow();
        let known: Vec<&str> = asked
            .iter()
            .filter(|(s, _)| *s == self.name)
            .map(|(_, k)| *k)
            .collect();
        for (key, _) in self.table {
            let word: &str = key.get_ref();
            if known.contains(&word) {
                continue;
            }
            let elsewhere = KEYS
                .iter()
                .find(|k| k.name == word)
                .map(|k| format!("`{word}` belongs into `{}`", keys::heading(k.section)));
            let remedy = did_you_mean(word, known.iter().copied())
                .or(elsewhere)
                .unwrap_or_else(|| format!("known here: {}", known.join(", ")));
            let at = Some(key.span().start);
            self.reading
                .problem(at, self.key_path(word), "is no key of this table", remedy);
        }
    }
}

fn as_corners(value: &DeValue<'_>) -> Option<Vec<(f32, f32)>> {
    let corner = |item: &Spanned<DeValue<'_>>| {
        let pair = item.get_ref().as_array()?;
        let mut numbers = pair.iter().map(|n| as_number(n.get_ref()));
        match (numbers.next()??, numbers.next()??, numbers.next()) {
            (x, y, None) if (0.0..=1.0).contains(&x) && (0.0..=1.0).contains(&y) => Some((x, y)),
            _ => None,
        }
    };
    value.as_array()?.iter().map(corner).collect()
}

fn as_number(value: &DeValue<'_>) -> Option<f32> {
    match value {
        DeValue::Float(float) => float.as_str().parse().ok(),
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .map(|n| n as f32),
        _ => None,
    }
}
