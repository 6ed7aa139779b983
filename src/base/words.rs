//! What people are told, in Chinese and in English: one table, [`table`], for payloads, the
//! terminal and reports.
//!
//! Machines go by codes, which never change with the language; people get [`Texts`], which hold both
//! languages, so that a county whose officers read Chinese and whose integrators read English needs
//! one message. Wording states facts ("the view is blocked, needs checking") and never whose fault
//! they are.
//!
//! An entry of the table cannot be there in one language only, nor name a value in one that it leaves
//! out in the other: the macro makes both of it, and the compiler refuses a value that is not used.
//! What comes from outside (the name of a camera, an operating system's error) goes in as it is.
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub mod table;

pub use table::{
    camera, cause, code, command, demo, label, notice, plot, problem, replay, report, tail, why,
};

/// A language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Lang {
    /// English.
    #[default]
    En,
    /// Chinese, in simplified characters.
    Zh,
}

/// A language that there is no text in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not spoken here: `zh` or `en`")]
pub struct UnknownLang(String);

impl FromStr for Lang {
    type Err = UnknownLang;

    fn from_str(word: &str) -> Result<Self, UnknownLang> {
        match word {
            "en" => Ok(Self::En),
            "zh" => Ok(Self::Zh),
            other => Err(UnknownLang(other.to_owned())),
        }
    }
}

impl Lang {
    /// By the locale: the first of `LC_ALL`, `LC_MESSAGES` and `LANG` that is set and not empty decides,
    /// as POSIX has it (IEEE 1003.1, 8.2); what does not begin with `zh` is English. `value` is the
    /// environment.
    pub fn of_locale(value: impl Fn(&str) -> Option<String>) -> Self {
        let decides = ["LC_ALL", "LC_MESSAGES", "LANG"];
        let set = decides
            .iter()
            .find_map(|name| value(name).filter(|v| !v.is_empty()));
        match set.and_then(|v| v.get(..2).map(str::to_ascii_lowercase)) {
            Some(word) if word == "zh" => Self::Zh,
            _ => Self::En,
        }
    }

    /// For HTML and the like (BCP 47).
    pub fn tag(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Zh => "zh-CN",
        }
    }
}

/// The same in both languages.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub struct Texts {
    /// In English.
    pub en: String,
    /// In Chinese.
    pub zh: String,
}

impl Texts {
    /// What is the same in every language, such as a name, or nothing.
    pub fn same(text: impl Into<String>) -> Self {
        let en = text.into();
        let zh = en.clone();
        Self { en, zh }
    }

    /// In one language.
    pub fn of(&self, lang: Lang) -> &str {
        match lang {
            Lang::En => &self.en,
            Lang::Zh => &self.zh,
        }
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.en.is_empty() && self.zh.is_empty()
    }

    /// One behind the other, as clauses of one sentence.
    pub fn joined(parts: impl IntoIterator<Item = Self>) -> Self {
        let parts: Vec<Self> = parts.into_iter().collect();
        let with = |lang: Lang, between: &str| {
            let parts: Vec<&str> = parts.iter().map(|p| p.of(lang)).collect();
            parts.join(between)
        };
        Self {
            en: with(Lang::En, "; "),
            zh: with(Lang::Zh, "；"),
        }
    }

    /// As things in a row.
    pub fn listed(parts: impl IntoIterator<Item = Self>) -> Self {
        let parts: Vec<Self> = parts.into_iter().collect();
        let with = |lang: Lang, between: &str| {
            let parts: Vec<&str> = parts.iter().map(|p| p.of(lang)).collect();
            parts.join(between)
        };
        Self {
            en: with(Lang::En, ", "),
            zh: with(Lang::Zh, "、"),
        }
    }
}

/// What may stand in a text: anything that can be shown, the same in both languages, or a text.
pub trait Say {
    /// In one language.
    fn say(&self, lang: Lang) -> String;
}

impl<T: fmt::Display> Say for T {
    fn say(&self, _: Lang) -> String {
        self.to_string()
    }
}

impl Say for Texts {
    fn say(&self, lang: Lang) -> String {
        self.of(lang).to_owned()
    }
}

impl Say for &Texts {
    fn say(&self, lang: Lang) -> String {
        self.of(lang).to_owned()
    }
}

/// What a violation code means, if it is known here.
pub fn known_title(code: &str) -> Option<Texts> {
    Some(match code {
        "ppe.hat.missing" => code::hat(),
        "ppe.mask.missing" => code::mask(),
        "act.smoking" => code::smoking(),
        "pest.rodent" => code::rodent(),
        "pest.other" => code::other_pest(),
        "act.phone.use" => code::phone(),
        "ppe.uniform.missing" => code::uniform(),
        "ppe.gloves.missing" => code::gloves(),
        "env.bin.uncovered" => code::bin(),
        "env.floor.water" => code::floor_water(),
        "fire.smoke" => code::smoke(),
        "fire.unattended" => code::unattended(),
        "person.intruder" => code::intruder(),
        "device.camera.offline" => code::offline(),
        "device.camera.no-video" => code::no_video(),
        "device.camera.frozen" => code::frozen(),
        "device.camera.dark" => code::dark(),
        "device.camera.occluded" => code::occluded(),
        "device.camera.moved" => code::moved(),
        "device.camera.defocused" => code::defocused(),
        "device.camera.masked" => code::masked(),
        "device.camera.clock" => code::clock(),
        _ => return None,
    })
}

/// What a violation code means; a code of a site's own is its own title.
pub fn title(code: &str) -> Texts {
    known_title(code).unwrap_or_else(|| Texts::same(code))
}

/// What a model's label means; one that is not known here is its own name.
pub fn label_of(name: &str) -> Texts {
    match name {
        "person" => label::person(),
        "head" => label::head(),
        "face-bare" => label::face_bare(),
        "face-masked" => label::face_masked(),
        "face-chin" => label::face_chin(),
        "rat" => label::rat(),
        "cat" => label::cat(),
        "dog" => label::dog(),
        "cigarette" => label::cigarette(),
        "phone" => label::phone(),
        "head-bare" => label::head_bare(),
        "head-hat" => label::head_hat(),
        "head-cover-other" => label::head_cover_other(),
        "head-unclear" => label::head_unclear(),
        "smoking" => label::smoking(),
        other => Texts::same(other),
    }
}

/// The same where machines and integrators read along: English keeps the model's own word.
pub fn label_beside(name: &str) -> Texts {
    Texts {
        en: name.to_owned(),
        ..label_of(name)
    }
}

/// Why nobody was watching, by the word in coverage reports, if it is known here.
pub fn known_cause(word: &str) -> Option<Texts> {
    Some(match word {
        "offline" => cause::offline(),
        "no_video" => cause::no_video(),
        "connecting" => cause::connecting(),
        "frozen" => cause::frozen(),
        "dark" => cause::dark(),
        "occluded" => cause::occluded(),
        "moved" => cause::moved(),
        "defocused" => cause::defocused(),
        "overloaded" => cause::overloaded(),
        "detector_down" => cause::detector_down(),
        "masked" => cause::masked(),
        "off_schedule" => cause::off_schedule(),
        "stopped" => cause::stopped(),
        "ended" => cause::ended(),
        "clock_step" => cause::clock_step(),
        _ => return None,
    })
}

/// The same; an unknown cause is its own word.
pub fn cause_of(word: &str) -> Texts {
    known_cause(word).unwrap_or_else(|| Texts::same(word))
}

/// A camera's state, by the word in its status, if it is known here.
pub fn known_state(word: &str) -> Option<Texts> {
    Some(match word {
        "online" => camera::online(),
        "connecting" => camera::connecting(),
        "unauthorised" => camera::unauthorised(),
        "offline" => camera::offline(),
        "no_video" => camera::no_video(),
        "frozen" => camera::frozen(),
        "occluded" => camera::occluded(),
        "dark" => camera::dark(),
        "defocused" => camera::defocused(),
        "moved" => camera::moved(),
        "masked" => camera::masked(),
        "clock_skew" => camera::clock_skew(),
        "failed" => camera::failed(),
        "ended" => camera::ended(),
        _ => return None,
    })
}

/// The same; an unknown state is its own word.
pub fn state_of(word: &str) -> Texts {
    known_state(word).unwrap_or_else(|| Texts::same(word))
}

/// How many columns of a terminal a text takes: a Chinese character or mark takes two.
pub fn columns(text: &str) -> usize {
    let wide = |c: char| matches!(c, '\u{1100}'..='\u{115f}' | '\u{2e80}'..='\u{a4cf}' | '\u{ac00}'..='\u{d7a3}' | '\u{f900}'..='\u{faff}' | '\u{fe30}'..='\u{fe6f}' | '\u{ff00}'..='\u{ff60}' | '\u{ffe0}'..='\u{ffe6}');
    text.chars().map(|c| if wide(c) { 2 } else { 1 }).sum()
}

/// `text` filled up with blanks to so many columns of a terminal.
pub fn padded(text: &str, to: usize) -> String {
    let blanks = to.saturating_sub(columns(text));
    format!("{text}{:blanks$}", "")
}

/// `text` with blanks before it to so many columns of a terminal.
pub fn padded_left(text: &str, to: usize) -> String {
    let blanks = to.saturating_sub(columns(text));
    format!("{:blanks$}{text}", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_han(text: &str) -> bool {
        text.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c))
    }

    #[test]
    fn every_text_is_there_in_both_languages() {
        let all: Vec<_> = table::ALL
            .iter()
            .flat_map(|(module, t)| t.iter().map(move |e| (module, e)))
            .collect();
        assert!(
            all.len() > 150,
            "{} texts: is a part of the table left out?",
            all.len()
        );
        // Words that are the same everywhere: figures, names and abbreviations.
        let bare = |text: &str| text.chars().all(|c| !c.is_alphabetic()) || text == "F1";
        for (module, (name, en, zh)) in all {
            let without = |text: &str| {
                let mut depth = 0;
                let kept = text.chars().filter(|c| {
                    depth += i32::from(*c == '{');
                    let kept = depth == 0;
                    depth -= i32::from(*c == '}');
                    kept
                });
                kept.collect::<String>()
            };
            assert!(
                !en.trim().is_empty(),
                "{module}::{name} says nothing in English"
            );
            assert!(
                !has_han(en),
                "{module}::{name} has Chinese in its English: {en}"
            );
            assert!(
                has_han(zh) || bare(&without(en)),
                "{module}::{name} has no Chinese: {zh}"
            );
        }
    }

    #[test]
    fn nobody_is_blamed() {
        let blame_en = [
            "fault of",
            "guilty",
            "blame",
            "offender",
            "illegal",
            "deliberate",
            "tamper",
            "sabotage",
            "culprit",
        ];
        let blame_zh = [
            "违法",
            "过错",
            "责任人",
            "故意",
            "破坏",
            "恶意",
            "违规者",
            "处罚",
        ];
        for (module, table) in table::ALL {
            for (name, en, zh) in *table {
                let en = en.to_lowercase();
                for word in blame_en {
                    assert!(!en.contains(word), "{module}::{name} blames: {en}");
                }
                for word in blame_zh {
                    assert!(!zh.contains(word), "{module}::{name} blames: {zh}");
                }
            }
        }
    }

    #[test]
    fn the_locale_decides_as_posix_has_it() {
        let lang = |set: &[(&str, &str)]| {
            let set: Vec<(String, String)> = set
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect();
            Lang::of_locale(|name| set.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()))
        };
        assert_eq!(lang(&[]), Lang::En);
        assert_eq!(lang(&[("LANG", "zh_CN.UTF-8")]), Lang::Zh);
        assert_eq!(lang(&[("LANG", "zh_CN.UTF-8"), ("LC_ALL", "C")]), Lang::En);
        assert_eq!(
            lang(&[("LANG", "de_DE"), ("LC_MESSAGES", "zh_TW")]),
            Lang::Zh
        );
        assert_eq!(lang(&[("LANG", "zh_CN"), ("LC_ALL", "")]), Lang::Zh);
        assert_eq!("zh".parse(), Ok(Lang::Zh));
        assert!(
            "fr".parse::<Lang>()
                .is_err_and(|e| e.to_string().contains("`zh` or `en`"))
        );
    }

    #[test]
    fn a_chinese_word_takes_two_columns_a_character() {
        assert_eq!(columns("在线"), 4);
        assert_eq!(padded("在线", 8), "在线    ");
        assert_eq!(padded("ONLINE", 8), "ONLINE  ");
        assert_eq!(padded("longer than that", 8), "longer than that");
    }

    #[test]
    fn texts_stand_within_texts_in_their_language() {
        let about = Texts {
            en: "camera a".to_owned(),
            zh: "摄像头 a".to_owned(),
        };
        let said = command::not_muted_any_more(&about, "lin");
        assert_eq!(said.en, "camera a is not muted any more: lin");
        assert_eq!(said.zh, "摄像头 a 已恢复提醒：lin");
    }
}
