//! What goes with a picture or clip: the MQTT 5 user properties of `evidence/{finding}/{n}`.
//!
//! The payload there is the file itself, so this is what a receiver has to tell what it is and whether it
//! came whole. Names and values are texts; seen as an object they fit the schema of this struct.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::evidence::EvidenceItem;

/// The user properties of a message on `evidence/{finding}/{n}`, as an object of texts. Its payload is the
/// file, its content type the same as `media`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EvidenceHeaders {
    /// Digest of the payload, 64 hex digits.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub sha256: String,
    /// Media type of the payload, e.g. `image/jpeg`, `video/mp4`.
    #[schemars(regex(pattern = "^[a-z]+/[a-z0-9.+-]+$"))]
    pub media: String,
    /// Whether faces in it are blurred: `true` or `false`.
    #[schemars(extend("enum" = ["true", "false"]))]
    pub redacted: String,
    /// What it is: `frame`, `annotated`, `clip`, `snapshot`.
    #[schemars(regex(pattern = "^[a-z][a-z0-9.-]*$"))]
    pub kind: String,
}

impl EvidenceHeaders {
    /// Those of `item`.
    pub(super) fn of(item: &EvidenceItem) -> Self {
        Self {
            sha256: item.sha256.clone(),
            media: item.media.clone(),
            redacted: item.redacted.to_string(),
            kind: item.kind.clone(),
        }
    }

    /// As they go over the wire.
    pub(super) fn properties(self) -> Vec<(String, String)> {
        // Taken apart, so that none can be described and not sent.
        let Self {
            sha256,
            media,
            redacted,
            kind,
        } = self;
        let named = [
            ("sha256", sha256),
            ("media", media),
            ("redacted", redacted),
            ("kind", kind),
        ];
        named.map(|(name, value)| (name.to_owned(), value)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_is_described() {
        let headers = EvidenceHeaders {
            sha256: "ab".repeat(32),
            media: "image/jpeg".to_owned(),
            redacted: "true".to_owned(),
            kind: "frame".to_owned(),
        };
        let described = serde_json::to_value(&headers).unwrap();
        let sent = headers.properties().into_iter();
        let sent: serde_json::Map<_, _> = sent.map(|(k, v)| (k, v.into())).collect();
        assert_eq!(serde_json::Value::Object(sent), described);
    }
}
