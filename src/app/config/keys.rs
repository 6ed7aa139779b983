//! The catalogue of config keys: what `config/README.md` prints, what remedies quote, and what a test
//! holds against the reader, the example and the defaults.

/// One key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The table it stands in, e.g. `camera` for `[[camera]]`.
    pub section: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What may be written, for people.
    pub kind: &'static str,
    /// A valid value, as TOML.
    pub example: &'static str,
    /// What holds without it.
    pub default: Absent,
    /// What it does.
    pub doc: &'static str,
}

/// What holds if a key is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// It must be there.
    Required,
    /// This TOML value: writing it changes nothing.
    Value(&'static str),
    /// Something that no single value says.
    Words(&'static str),
}

use Absent::{Required, Value, Words};

const fn key(
    section: &'static str,
    name: &'static str,
    kind: &'static str,
    example: &'static str,
    default: Absent,
    doc: &'static str,
) -> Key {
    Key {
        section,
        name,
        kind,
        example,
        default,
        doc,
    }
}

/// The tables, in the order of the reference: name, how it is written, what it is for.
pub const SECTIONS: &[(&str, &str, &str)] = &[
    ("site", "[site]", "Who we are."),
    (
        "uplink",
        "[uplink]",
        "The line to the county centre's MQTT 5 broker.",
    ),
    ("evidence", "[evidence]", "The pictures kept with findings."),
    ("detect", "[detect]", "The models, and how they run."),
    (
        "track",
        "[track]",
        "How boxes become objects over time (ByteTrack). Seldom worth touching.",
    ),
    ("camera", "[[camera]]", "One table for each camera."),
    (
        "rule",
        "[[rule]]",
        "One table for each rule: these labels, in this zone, for this long, are a violation.",
    ),
];

const NAME: &str = "1 to 48 of `a-z 0-9 - .`";
const FILE: &str = "path";

/// Every key, in the order of the reference.
pub const KEYS: &[Key] = &[
    key(
        "site",
        "region",
        NAME,
        "\"410724\"",
        Required,
        "County code. A level of every topic.",
    ),
    key(
        "site",
        "id",
        NAME,
        "\"site-000123\"",
        Required,
        "The premises. A level of every topic, unique in the region.",
    ),
    key(
        "site",
        "uscc",
        "18 characters",
        "\"91410724MA00000000\"",
        Words("none"),
        "Unified social credit code of the business. Goes into findings, for people.",
    ),
    key(
        "site",
        "state_dir",
        FILE,
        "\"/var/lib/mingchu\"",
        Words("`$STATE_DIRECTORY`, which systemd sets, else `/var/lib/mingchu`"),
        "Where the outbox, the ledger and the evidence live. One daemon per directory.",
    ),
    key(
        "uplink",
        "broker",
        "`mqtt://host[:1883]` or `mqtts://host[:8883]`",
        "\"mqtts://centre.example\"",
        Required,
        "The broker. `mqtts` is TLS and needs `ca_file`; there is no way back to clear text.",
    ),
    key(
        "uplink",
        "client_id",
        "text",
        "\"mingchu-410724-site-000123\"",
        Words("`mingchu-<region>-<id>`"),
        "MQTT client id. Two clients with one id throw each other out.",
    ),
    key(
        "uplink",
        "username",
        "text",
        "\"site-000123\"",
        Words("none"),
        "User name at the broker.",
    ),
    key(
        "uplink",
        "password_file",
        FILE,
        "\"/etc/mingchu/broker.password\"",
        Words("none"),
        "File with the password and nothing else.",
    ),
    key(
        "uplink",
        "ca_file",
        FILE,
        "\"/etc/mingchu/ca.pem\"",
        Words("none; required with `mqtts`"),
        "PEM file of the authorities that may have signed the broker's certificate.",
    ),
    key(
        "uplink",
        "cert_file",
        FILE,
        "\"/etc/mingchu/site.pem\"",
        Words("none"),
        "PEM file of our certificate chain, for mutual TLS. Needs `key_file`.",
    ),
    key(
        "uplink",
        "key_file",
        FILE,
        "\"/etc/mingchu/site.key\"",
        Words("none"),
        "PEM file of our private key. Needs `cert_file`.",
    ),
    key(
        "uplink",
        "ack",
        "`\"broker\"` or `\"centre\"`",
        "\"broker\"",
        Value("\"broker\""),
        "Whose word frees a record from the outbox: the broker's acknowledgement, or the centre's receipt.",
    ),
    key(
        "uplink",
        "window",
        "whole number, 1 to 1000",
        "32",
        Value("32"),
        "Records in flight at once.",
    ),
    key(
        "uplink",
        "keep_alive_s",
        "whole number, 5 to 1200",
        "30",
        Value("30"),
        "MQTT keep-alive, seconds. A dead line is noticed after at most one and a half of it.",
    ),
    key(
        "uplink",
        "progress_timeout_s",
        "whole number, 2 to 600",
        "20",
        Value("20"),
        "No acknowledgement for so many seconds while records are in flight: connect again.",
    ),
    key(
        "uplink",
        "telemetry_s",
        "whole number, 1 to 86400",
        "60",
        Value("60"),
        "How often counters are sent, seconds.",
    ),
    key(
        "evidence",
        "jpeg_quality",
        "whole number, 30 to 100",
        "85",
        Value("85"),
        "Quality of stills.",
    ),
    key(
        "evidence",
        "max_mb",
        "whole number, 10 to 1000000",
        "2000",
        Value("2000"),
        "Oldest stills are removed, and counted, to stay below so many MiB.",
    ),
    key(
        "detect",
        "models",
        "list of paths, at least one",
        "[\"/usr/share/mingchu/models/kitchen.toml\", \"/usr/share/mingchu/models/heads.toml\", \"/usr/share/mingchu/models/smoking.toml\"]",
        Required,
        "Model cards. The network that a card names lies beside it.",
    ),
    key(
        "detect",
        "workers",
        "whole number, 1 to 64",
        "3",
        Words("the machine's cores less one, at least 1; 2 on two cores"),
        "Threads that run the models.",
    ),
    key(
        "detect",
        "regions",
        "whole number, 0 to 16",
        "2",
        Words("what the models' cards say"),
        "Where something moves in a picture that is larger than the models' input, so many squares of the camera's own pixels are looked at too: small rats are found, and each square costs about a third of a picture. 0: none.",
    ),
    key(
        "detect",
        "onnxruntime",
        FILE,
        "\"/usr/lib/mingchu/libonnxruntime.so\"",
        Words(
            "`$ORT_DYLIB_PATH`, else `.runtime/onnxruntime` upwards of the program, else `/usr/lib/mingchu`",
        ),
        "ONNX Runtime's shared library.",
    ),
    key(
        "track",
        "score_high",
        "number, 0 to 1",
        "0.4",
        Value("0.4"),
        "Boxes from this score on begin tracks and are matched first; boxes of a class whose own threshold (card or rule) is lower, from that.",
    ),
    key(
        "track",
        "score_low",
        "number, 0 to 1",
        "0.1",
        Value("0.1"),
        "Boxes from this score up to `score_high` only keep tracks alive.",
    ),
    key(
        "track",
        "match_iou",
        "number, 0 to 1",
        "0.15",
        Value("0.15"),
        "Least overlap of a box with a track's predicted place.",
    ),
    key(
        "track",
        "confirm_hits",
        "whole number, 1 to 100",
        "2",
        Value("2"),
        "Pictures in a row that must show an object before it counts.",
    ),
    key(
        "track",
        "lost_ms",
        "whole number, 100 to 60000",
        "2500",
        Value("2500"),
        "A track not seen for longer ends, milliseconds.",
    ),
    key(
        "camera",
        "id",
        NAME,
        "\"wok-1\"",
        Required,
        "The camera's name, unique in the site. A level of its status topic.",
    ),
    key(
        "camera",
        "url",
        "`rtsp://host[:554]/path` or `file:/path/clip.mp4`",
        "\"rtsp://192.168.1.64/Streaming/Channels/102\"",
        Required,
        "Where the pictures come from, without user name and password. The sub stream is enough to analyse. `mingchu probe` prints the stanza.",
    ),
    key(
        "camera",
        "username",
        "text",
        "\"viewer\"",
        Words("none"),
        "User name at the camera (Digest or Basic). Needs `password_file`.",
    ),
    key(
        "camera",
        "password_file",
        FILE,
        "\"/etc/mingchu/wok-1.password\"",
        Words("none"),
        "File with the password and nothing else.",
    ),
    key(
        "camera",
        "transport",
        "`\"tcp\"` or `\"udp\"`",
        "\"tcp\"",
        Value("\"tcp\""),
        "How RTP comes: inside the RTSP connection, or over UDP for cameras that cannot.",
    ),
    key(
        "camera",
        "analyse_fps",
        "number, 0.1 to 30",
        "4.0",
        Value("4.0"),
        "Pictures a second that the models look at.",
    ),
    key(
        "camera",
        "motion_gate",
        "true or false",
        "true",
        Value("true"),
        "Leave out still pictures. `motion_refresh_ms` says how often one is looked at all the same.",
    ),
    key(
        "camera",
        "motion_min_area",
        "number, 0 to 1",
        "0.001",
        Value("0.001"),
        "Share of the picture that must change to count as motion.",
    ),
    key(
        "camera",
        "motion_hold_ms",
        "whole number, 0 to 600000",
        "3000",
        Value("3000"),
        "After motion every sampled picture is looked at for so long, milliseconds.",
    ),
    key(
        "camera",
        "motion_refresh_ms",
        "whole number, 100 to 5000",
        "1000",
        Value("1000"),
        "A still picture is looked at this often, milliseconds.",
    ),
    key(
        "camera",
        "step_timeout_ms",
        "whole number, 500 to 60000",
        "8000",
        Value("8000"),
        "Limit for each of connect, describe, setup and play, milliseconds.",
    ),
    key(
        "camera",
        "silence_ms",
        "whole number, 500 to 60000",
        "8000",
        Value("8000"),
        "No picture for so long means that the camera is lost, milliseconds.",
    ),
    key(
        "camera",
        "gb28181",
        "20 digits",
        "\"41072400001320000001\"",
        Words("none"),
        "The camera's GB/T 28181 code. Goes into findings.",
    ),
    key(
        "camera",
        "pace",
        "`\"realtime\"` or `\"fastest\"`",
        "\"realtime\"",
        Value("\"realtime\""),
        "How fast a clip plays. Only for `file:`.",
    ),
    key(
        "camera",
        "repeat",
        "true or false",
        "false",
        Value("false"),
        "Begin a clip again at its end. Only for `file:`.",
    ),
    key(
        "rule",
        "id",
        NAME,
        "\"mask-wok\"",
        Required,
        "The rule's name, unique in the site. Goes into findings.",
    ),
    key(
        "rule",
        "version",
        "whole number, 1 to 1000000",
        "1",
        Value("1"),
        "Count it up when you change the rule: it goes into findings.",
    ),
    key(
        "rule",
        "code",
        NAME,
        "\"ppe.mask.missing\"",
        Required,
        "Violation code. The last level of the finding's topic.",
    ),
    key(
        "rule",
        "class",
        "1, 2 or 3",
        "2",
        Words("by code: `pest.rodent` and `fire.*` 1, `env.*` 3, others 2"),
        "1 immediate, 2 time-limited, 3 routine.",
    ),
    key(
        "rule",
        "cameras",
        "list of camera ids",
        "[\"wok-1\"]",
        Words("all cameras"),
        "Cameras the rule watches.",
    ),
    key(
        "rule",
        "labels",
        "list of labels, at least one",
        "[\"face-bare\"]",
        Words(
            "by code: `ppe.mask.missing` face-bare and face-chin, `ppe.hat.missing` head-bare, `act.smoking` smoking and cigarette, `pest.rodent` rat; other codes need it",
        ),
        "Labels of the models that count as the violation. `mingchu check` lists what the models know.",
    ),
    key(
        "rule",
        "zone_name",
        NAME,
        "\"wok-line\"",
        Words("`zone`, if there is a `zone`"),
        "The zone's name. Goes into findings.",
    ),
    key(
        "rule",
        "zone",
        "list of at least 3 corners `[x, y]`, each 0 to 1",
        "[[0.0, 0.2], [1.0, 0.2], [1.0, 1.0], [0.0, 1.0]]",
        Words("the whole picture"),
        "Polygon in fractions of the picture, from its top left corner. An object is in it if the middle of its box is.",
    ),
    key(
        "rule",
        "threshold",
        "number, above 0 to 1",
        "0.55",
        Words("the highest threshold that the models' cards give these labels"),
        "The median score of an object must reach this.",
    ),
    key(
        "rule",
        "samples",
        "whole number, 1 to 100",
        "5",
        Words("by code: `pest.rodent` 3, others 5"),
        "Pictures in the median's window.",
    ),
    key(
        "rule",
        "dwell_ms",
        "whole number, 0 to 3600000",
        "3000",
        Words("by code: `pest.rodent` 400, `act.smoking` 2000, others 3000"),
        "How long the violation must last before a finding opens, milliseconds.",
    ),
    key(
        "rule",
        "clear_ms",
        "whole number, 1000 to 3600000",
        "20000",
        Value("20000"),
        "A finding closes after so long without the violation, milliseconds. Only watched time counts.",
    ),
    key(
        "rule",
        "update_ms",
        "whole number, 1000 to 86400000",
        "60000",
        Value("60000"),
        "Least time between two updates of an open finding, milliseconds.",
    ),
];

/// The key, if there is one.
pub fn find(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.section == section && k.name == name)
}

/// The reference of all keys, as Markdown.
pub fn reference() -> String {
    let mut out = String::new();
    for (section, heading, doc) in SECTIONS {
        out.extend(["\n## `", heading, "`\n\n", doc, "\n\n"]);
        out += "| key | value | without it | meaning |\n| --- | --- | --- | --- |\n";
        for key in KEYS.iter().filter(|k| k.section == *section) {
            let default = match key.default {
                Required => "**required**".to_owned(),
                Value(v) => format!("`{v}`"),
                Words(w) => w.to_owned(),
            };
            let cells = [
                "| `", key.name, "` | ", key.kind, " | ", &default, " | ", key.doc, " |
",
            ];
            out.extend(cells);
        }
    }
    out
}

/// How a table is written: `[site]`, `[[camera]]`.
pub fn heading(section: &str) -> &'static str {
    SECTIONS
        .iter()
        .find(|(s, _, _)| *s == section)
        .map_or("", |(_, heading, _)| heading)
}
