//! `mingchu schema`: the wire contract as JSON Schemas (draft 2020-12), made of the very structs that
//! are sent and read.
//!
//! A picture or clip is no JSON: the schema `evidence` is of the MQTT 5 user properties that go with it.
//!
//! What is sent is described as it is sent; what is read, as it is accepted. Receivers must pass over
//! keys they do not know: later versions add some.
use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};

use super::exit::{ExitCode, Failure, Outcome};
use super::status::Health;
use super::terminal::Terminal;
use crate::uplink::{
    CameraStatus, ClipArgs, Command, CommandResult, ConfigReport, CoverageArgs, CoverageReport,
    DesiredConfig, DiagnoseArgs, Event, EvidenceHeaders, FindingData, MuteArgs, Notice, Receipt,
    ReceiptArgs, RectifyArgs, ReinspectArgs, ResendArgs, SiteStatus, SnapshotArgs, Telemetry,
    TopicKind, UnmuteArgs, VerdictArgs,
};

const UUID_V7: &str = "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}";

/// The name of the schema that holds for a topic; `None`: what comes there is not of this contract. Of
/// evidence, whose payload is a file, it holds for the user properties.
pub fn of_topic(kind: &TopicKind) -> Option<String> {
    let name = match kind {
        TopicKind::Status => "status",
        TopicKind::CameraStatus(_) => "camera-status",
        TopicKind::Finding(_) | TopicKind::Active(_) => "finding",
        TopicKind::Telemetry => "telemetry",
        TopicKind::Receipt => "receipt",
        TopicKind::Coverage => "coverage",
        TopicKind::Notice => "notice",
        TopicKind::Command(_) => "command",
        TopicKind::CommandResult(_) => "command-result",
        TopicKind::ConfigDesired => "config-desired",
        TopicKind::ConfigReported => "config-reported",
        TopicKind::Evidence(..) => "evidence",
        TopicKind::Other(_) => return None,
    };
    Some(name.to_owned())
}

fn sent<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    whole(&SchemaGenerator::new(settings).into_root_schema_for::<T>())
}

fn read<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().for_deserialize();
    whole(&SchemaGenerator::new(settings).into_root_schema_for::<T>())
}

fn whole(schema: &Schema) -> Value {
    schema.as_value().clone()
}

/// An event whose `id`, `type` and `subject` have these forms.
fn event<T: JsonSchema>(id: &str, kind: &str, subject: &str) -> Value {
    let mut schema = sent::<Event<T>>();
    for (key, form) in [("id", id), ("type", kind), ("subject", subject)] {
        schema["properties"][key]["pattern"] = json!(format!("^{form}$"));
    }
    schema
}

/// All schemas, by name.
pub fn all() -> BTreeMap<String, Value> {
    let hour = r"\d{4}-\d\d-\d\dT\d\d:00:00\.000Z";
    let schemas = [
        ("status", sent::<SiteStatus>()),
        ("camera-status", sent::<CameraStatus>()),
        ("telemetry", sent::<Telemetry>()),
        ("config-reported", sent::<ConfigReport>()),
        ("healthz", sent::<Health>()),
        (
            "finding",
            event::<FindingData>(
                &format!(r"{UUID_V7}\.[1-9][0-9]*"),
                r"cn\.mingchu\.finding\.(opened|updated|closed|reopened)\.v1",
                "camera/[a-z0-9.-]+",
            ),
        ),
        (
            "coverage",
            event::<CoverageReport>(
                &format!(r"coverage\.{hour}\.[1-9][0-9]*"),
                r"cn\.mingchu\.coverage\.v1",
                "site",
            ),
        ),
        (
            "notice",
            event::<Notice>(
                &format!(r"notice\.{UUID_V7}"),
                r"cn\.mingchu\.notice\.[a-z.]+\.v1",
                "site",
            ),
        ),
        (
            "command-result",
            event::<CommandResult>(
                r"command\.[A-Za-z0-9._:-]+",
                r"cn\.mingchu\.command\.result\.v1",
                "command/[A-Za-z0-9._:-]+",
            ),
        ),
        ("evidence", sent::<EvidenceHeaders>()),
        ("receipt", read::<Receipt>()),
        ("command", read::<Command>()),
        ("config-desired", read::<DesiredConfig>()),
        ("command.receipt", read::<ReceiptArgs>()),
        ("command.verdict", read::<VerdictArgs>()),
        ("command.rectify", read::<RectifyArgs>()),
        ("command.reinspect", read::<ReinspectArgs>()),
        ("command.snapshot", read::<SnapshotArgs>()),
        ("command.clip", read::<ClipArgs>()),
        ("command.mute", read::<MuteArgs>()),
        ("command.unmute", read::<UnmuteArgs>()),
        ("command.config.desired", read::<DesiredConfig>()),
        ("command.resend", read::<ResendArgs>()),
        ("command.diagnose", read::<DiagnoseArgs>()),
        ("command.coverage", read::<CoverageArgs>()),
    ];
    let named = schemas.into_iter().map(|(name, mut schema)| {
        schema["$id"] = json!(format!("urn:mingchu:v1:{name}"));
        (name.to_owned(), schema)
    });
    named.collect()
}

/// Prints all schemas in one object by name, or the one that is named.
///
/// # Errors
/// There is none of that name.
pub fn run(name: Option<&str>, terminal: Terminal) -> Outcome {
    let all = all();
    let Some(name) = name else {
        terminal.line(format_args!("{:#}", json!(all)));
        return Ok(());
    };
    let Some(schema) = all.get(name) else {
        let known: Vec<&str> = all.keys().map(String::as_str).collect();
        let reason = anyhow::anyhow!("no schema `{name}`: there are {}", known.join(", "));
        return Err(Failure::new(ExitCode::Usage, reason));
    };
    terminal.line(format_args!("{schema:#}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplink::Task;

    /// A change of this snapshot is a change of the contract: fields may come, none may change or go.
    #[test]
    fn the_contract_is_as_it_was() {
        insta::assert_json_snapshot!(all());
    }

    #[test]
    fn every_schema_is_one_and_every_command_has_its_own() {
        let all = all();
        for (name, schema) in &all {
            assert!(jsonschema::meta::is_valid(schema), "{name}");
            assert!(jsonschema::validator_for(schema).is_ok(), "{name}");
        }
        for command in Task::NAMES {
            assert!(all.contains_key(&format!("command.{command}")), "{command}");
        }
    }

    #[test]
    fn arguments_that_the_schema_takes_are_taken_and_others_are_not() {
        let all = all();
        let finding = "01935c3a-0000-7000-8000-000000000001";
        for (name, args, good) in [
            (
                "verdict",
                json!({"finding": finding, "verdict": "confirmed"}),
                true,
            ),
            (
                "verdict",
                json!({"finding": finding, "verdict": "perhaps"}),
                false,
            ),
            ("mute", json!({"minutes": 5, "reason": "x"}), true),
            ("mute", json!({"minutes": 0, "reason": "x"}), false),
            (
                "mute",
                json!({"minutes": 5, "reason": "x", "why": "y"}),
                false,
            ),
            (
                "rectify",
                json!({"finding": finding, "order": "x", "deadline": "2026-11-24T03:12:07+08:00"}),
                true,
            ),
            ("unmute", json!({}), true),
        ] {
            let validator = jsonschema::validator_for(&all[&format!("command.{name}")]).unwrap();
            assert_eq!(validator.is_valid(&args), good, "{name} {args}");
            assert_eq!(Task::read(name, &args).is_ok(), good, "{name} {args}");
        }
    }
}
