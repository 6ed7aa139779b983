//! What each command wants: the `args` of [`super::Command`], by name.
//!
//! What must not be here: what is done with it. Ranges that can be judged without the site are judged
//! here; an unknown key is refused by name.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::commands::MOST_CONFIG_BYTES;
use super::payload::rfc3339;
use crate::base::time::UtcMicros;

/// Longest note, order or reason, in characters.
pub const MOST_TEXT: usize = 2000;
/// Longest mute.
pub const MOST_MUTE_MINUTES: u32 = 24 * 60;
/// How long a camera may be looked at again.
pub const REINSPECT_SECONDS: std::ops::RangeInclusive<u32> = 5..=300;
/// How long it is, if the command does not say.
pub const REINSPECT_DEFAULT_SECONDS: u32 = 30;

/// `receipt`: what the centre has: all records up to `through`, but for `except`. The same as a message on
/// the topic `receipt`, with an answer; for sites that wait for the centre's word (`uplink.ack`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReceiptArgs {
    /// The highest `seq` this speaks of.
    pub through: u64,
    /// Records up to `through` that the centre does not have: they are sent again at once.
    #[serde(default)]
    #[schemars(inner(range(min = 1)))]
    pub except: Vec<u64>,
}

/// What an officer thinks of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Judgement {
    /// It is what it says.
    Confirmed,
    /// It is not.
    FalsePositive,
}

/// `verdict`: what an officer thinks of a finding; kept with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VerdictArgs {
    /// Which finding.
    pub finding: Uuid,
    /// See [`Judgement`].
    pub verdict: Judgement,
    /// Why, at most 2000 characters.
    #[serde(default)]
    #[schemars(length(max = 2000))]
    pub note: String,
}

/// `rectify`: what the merchant has been told to do about a finding, and by when; kept with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RectifyArgs {
    /// Which finding.
    pub finding: Uuid,
    /// What is to be done, 1 to 2000 characters.
    #[schemars(length(min = 1, max = 2000))]
    pub order: String,
    /// By when.
    #[serde(with = "rfc3339")]
    #[schemars(with = "UtcMicros")]
    pub deadline: UtcMicros,
}

/// `reinspect`: look at a camera again and say whether a violation is to be seen. Either `finding`, or
/// `camera` and perhaps `code`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReinspectArgs {
    /// Look for this finding's violation on its camera.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finding: Option<Uuid>,
    /// Look at this camera.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub camera: Option<String>,
    /// Look for this violation only; else for all that the camera's rules know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// How long to look, 5 to 300; default 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 5, max = 300))]
    pub seconds: Option<u32>,
}

/// `snapshot`: a camera's newest picture, faces blurred. It is signed into the site's chain of evidence
/// before it leaves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotArgs {
    /// Which camera.
    pub camera: String,
}

/// `clip`: the clip of a finding; where policy wants it, a copy with faces blurred, which takes about as
/// long to make as it is, and longer on a small box. `done` names topic, digest and size, and with
/// `made_from` the digest of the original, as the finding has it; `refused` says why nothing may leave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClipArgs {
    /// Which finding.
    pub finding: Uuid,
}

/// `mute`: findings that all of the given words fit are recorded and sent with `muted` until it ends.
/// Without a word it is the whole site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MuteArgs {
    /// Of this camera.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub camera: Option<String>,
    /// Of this rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Of this violation code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// For how long, 1 to 1440. Either this or `until`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1440))]
    pub minutes: Option<u32>,
    /// Until when, at most 24 h from now.
    #[serde(
        default,
        with = "rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<UtcMicros>")]
    pub until: Option<UtcMicros>,
    /// Why, 1 to 2000 characters; goes into findings and the audit.
    #[schemars(length(min = 1, max = 2000))]
    pub reason: String,
}

/// `unmute`: ends a mute before its time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnmuteArgs {
    /// The id of the command that began it; all, if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mute: Option<String>,
}

/// `config.desired`, and the payload of the retained topic `config/desired`: what the centre wants of
/// the site's config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DesiredConfig {
    /// From 1, higher than any before: an older or equal one is passed over.
    #[schemars(range(min = 1))]
    pub revision: u64,
    /// TOML. Its tables take the place of those in the site's own file; empty: the site's own file
    /// alone counts.
    pub toml: String,
}

impl DesiredConfig {
    /// Reads the payload of `config/desired`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(payload: &[u8]) -> Result<Self, String> {
        if payload.len() > MOST_CONFIG_BYTES {
            let bytes = payload.len();
            return Err(format!("{bytes} bytes are more than {MOST_CONFIG_BYTES}"));
        }
        let read: Self = serde_json::from_slice(payload).map_err(|e| e.to_string())?;
        if read.revision == 0 {
            return Err("`revision` must be at least 1".to_owned());
        }
        Ok(read)
    }
}

/// `resend`: sends what the ledger still has once more, with `replayed`. Either `finding`, or `from`
/// and `to`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResendArgs {
    /// The newest revision of this finding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finding: Option<Uuid>,
    /// Findings whose newest revision has this `seq` or a higher one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// And this one or a lower one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
}

/// `diagnose`: how the site is, and why a rule has not found anything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiagnoseArgs {
    /// This camera only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub camera: Option<String>,
    /// This rule only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

/// `coverage`: what was watched of the running hour so far. It comes in the answer, not on the topic
/// `coverage`, where a part of an hour could take the place of a whole one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CoverageArgs {}

/// A command's arguments, read.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    /// See [`ReceiptArgs`].
    Receipt(ReceiptArgs),
    /// See [`VerdictArgs`].
    Verdict(VerdictArgs),
    /// See [`RectifyArgs`].
    Rectify(RectifyArgs),
    /// See [`ReinspectArgs`].
    Reinspect(ReinspectArgs),
    /// See [`SnapshotArgs`].
    Snapshot(SnapshotArgs),
    /// See [`ClipArgs`].
    Clip(ClipArgs),
    /// See [`MuteArgs`].
    Mute(MuteArgs),
    /// See [`UnmuteArgs`].
    Unmute(UnmuteArgs),
    /// See [`DesiredConfig`].
    Desired(DesiredConfig),
    /// See [`ResendArgs`].
    Resend(ResendArgs),
    /// See [`DiagnoseArgs`].
    Diagnose(DiagnoseArgs),
    /// See [`CoverageArgs`].
    Coverage(CoverageArgs),
}

impl Task {
    /// The names of all commands.
    pub const NAMES: &'static [&'static str] = &[
        "receipt",
        "verdict",
        "rectify",
        "reinspect",
        "snapshot",
        "clip",
        "mute",
        "unmute",
        "config.desired",
        "resend",
        "diagnose",
        "coverage",
    ];

    /// Reads the arguments of the command `name`.
    ///
    /// # Errors
    /// What is wrong with them, or that there is no such command.
    pub fn read(name: &str, args: &Value) -> Result<Self, String> {
        // A command without arguments may leave them out.
        let empty = Value::Object(serde_json::Map::new());
        let args = if args.is_null() { &empty } else { args };
        // A list would be taken for the values in their order.
        if !args.is_object() {
            return Err("args: must be an object".to_owned());
        }
        let task = match name {
            "receipt" => of(args).map(Self::Receipt),
            "verdict" => of(args).map(Self::Verdict),
            "rectify" => of(args).map(Self::Rectify),
            "reinspect" => of(args).map(Self::Reinspect),
            "snapshot" => of(args).map(Self::Snapshot),
            "clip" => of(args).map(Self::Clip),
            "mute" => of(args).map(Self::Mute),
            "unmute" => of(args).map(Self::Unmute),
            "config.desired" => of(args).map(Self::Desired),
            "resend" => of(args).map(Self::Resend),
            "diagnose" => of(args).map(Self::Diagnose),
            "coverage" => of(args).map(Self::Coverage),
            _ => {
                let known = Self::NAMES.join(", ");
                return Err(format!("there is no command `{name}`; there are {known}"));
            }
        }?;
        task.check()?;
        Ok(task)
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Receipt(args) => match args.except.iter().find(|s| **s > args.through) {
                None => Ok(()),
                Some(seq) => Err(format!(
                    "args: `except` names {seq}, which is beyond `through` ({})",
                    args.through
                )),
            },
            Self::Verdict(args) => text("note", &args.note, 0),
            Self::Rectify(args) => text("order", &args.order, 1),
            Self::Reinspect(args) => {
                if args.finding.is_some() == (args.camera.is_some() || args.code.is_some()) {
                    return Err("args: either `finding`, or `camera` and perhaps `code`".to_owned());
                }
                if args.finding.is_none() && args.camera.is_none() {
                    return Err("args: `camera` is missing".to_owned());
                }
                let seconds = args.seconds.unwrap_or(REINSPECT_DEFAULT_SECONDS);
                if !REINSPECT_SECONDS.contains(&seconds) {
                    return Err("args: `seconds` must be 5 to 300".to_owned());
                }
                Ok(())
            }
            Self::Mute(args) => {
                text("reason", &args.reason, 1)?;
                match (args.minutes, args.until) {
                    (Some(minutes), None) if (1..=MOST_MUTE_MINUTES).contains(&minutes) => Ok(()),
                    (Some(_), None) => {
                        Err(format!("args: `minutes` must be 1 to {MOST_MUTE_MINUTES}"))
                    }
                    (None, Some(_)) => Ok(()),
                    _ => Err("args: either `minutes` or `until`".to_owned()),
                }
            }
            Self::Desired(args) if args.revision == 0 => {
                Err("args: `revision` must be at least 1".to_owned())
            }
            Self::Resend(args) => match (args.finding, args.from, args.to) {
                (Some(_), None, None) => Ok(()),
                (None, Some(from), Some(to)) if from <= to => Ok(()),
                _ => Err("args: either `finding`, or `from` and `to` with from ≤ to".to_owned()),
            },
            Self::Desired(_)
            | Self::Snapshot(_)
            | Self::Clip(_)
            | Self::Unmute(_)
            | Self::Diagnose(_)
            | Self::Coverage(_) => Ok(()),
        }
    }
}

fn of<T: serde::de::DeserializeOwned>(args: &Value) -> Result<T, String> {
    T::deserialize(args).map_err(|e| format!("args: {e}"))
}

fn text(key: &str, text: &str, least: usize) -> Result<(), String> {
    let length = text.chars().count();
    if (least..=MOST_TEXT).contains(&length) {
        return Ok(());
    }
    Err(format!(
        "args: `{key}` must have {least} to {MOST_TEXT} characters, has {length}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn wrong_arguments_are_refused_by_name() {
        let finding = "01935c3a-0000-7000-8000-000000000001";
        for (name, args, reason) in [
            ("dance", json!({}), "there is no command `dance`"),
            ("verdict", json!({"finding": "x"}), "args: UUID"),
            ("receipt", json!({}), "missing field `through`"),
            (
                "receipt",
                json!({"through": 4, "except": [2, 5]}),
                "`except` names 5",
            ),
            (
                "verdict",
                json!({"finding": finding, "verdict": "maybe"}),
                "unknown variant `maybe`",
            ),
            (
                "verdict",
                json!({"finding": finding, "verdict": "confirmed", "nota": "x"}),
                "unknown field `nota`",
            ),
            (
                "rectify",
                json!({"finding": finding, "order": "", "deadline": "2026-11-24T03:12:07Z"}),
                "`order` must have 1",
            ),
            (
                "mute",
                json!({"reason": "x"}),
                "either `minutes` or `until`",
            ),
            ("mute", json!({"reason": "x", "minutes": 1441}), "1 to 1440"),
            (
                "mute",
                json!({"reason": "x".repeat(2001), "minutes": 1}),
                "has 2001",
            ),
            ("reinspect", json!({}), "either `finding`"),
            ("reinspect", json!({"code": "a"}), "`camera` is missing"),
            (
                "reinspect",
                json!({"camera": "wok", "seconds": 301}),
                "5 to 300",
            ),
            ("resend", json!({"from": 3, "to": 2}), "from ≤ to"),
            (
                "config.desired",
                json!({"revision": 0, "toml": ""}),
                "at least 1",
            ),
            ("unmute", json!([]), "args: must be an object"),
        ] {
            let e = Task::read(name, &args).unwrap_err();
            assert!(e.contains(reason), "{name} {args}: {e}");
        }
        assert!(Task::read("unmute", &Value::Null).is_ok());
        assert!(Task::read("diagnose", &json!({"camera": "wok"})).is_ok());
    }

    #[test]
    fn every_name_is_a_command() {
        for name in Task::NAMES {
            let e = Task::read(name, &json!({"no-such-key": 1})).unwrap_err();
            assert!(e.contains("no-such-key"), "{name}: {e}");
        }
    }
}
