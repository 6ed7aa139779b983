//! Notices of the site, with an id of their own.
use serde::Serialize;

use crate::base::time::UtcMicros;
use crate::base::words::Texts;
use crate::uplink::{Change, Notice, RecordBody};

/// A notice as a record to commit. `kind` is of `[a-z.]`; `text` is one line for people; `data` is
/// for machines.
pub fn notice(kind: &str, at: UtcMicros, text: Texts, data: &impl Serialize) -> Change {
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    let ms = u64::try_from(at.0.div_euclid(1000)).unwrap_or(0);
    let notice = Notice {
        id: uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid(),
        kind: kind.to_owned(),
        at,
        text: text.en,
        data: serde_json::to_value(data).unwrap_or_default(),
        text_zh: text.zh,
    };
    Change::Record(RecordBody::Notice(Box::new(notice)))
}
