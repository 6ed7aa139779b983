//! Counters and gauges: every queue and every loss has one, named here and nowhere else.
//!
//! A metric name is a public interface: `name_unit_total`, labels bounded (camera, reason, kind).
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

macro_rules! metrics {
    ($($variant:ident => $name:literal, $doc:literal;)*) => {
        /// Every metric of the daemon.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Metric { $(#[doc = $doc] $variant,)* }

        impl Metric {
            /// All of them, in order.
            pub const ALL: &'static [Metric] = &[$(Metric::$variant,)*];

            /// The public name.
            pub fn name(self) -> &'static str {
                match self { $(Metric::$variant => $name,)* }
            }

            /// One line on what it counts.
            pub fn help(self) -> &'static str {
                match self { $(Metric::$variant => $doc,)* }
            }
        }
    };
}

metrics! {
    CaptureUnits => "capture_units_total", "Access units received, by camera.";
    CaptureBytes => "capture_bytes_total", "Bytes of access units received, by camera.";
    CaptureUnitsDropped => "capture_units_dropped_total", "Access units dropped before decoding, by camera and reason (queue_full, too_old, awaiting_key, decoder_failed).";
    CapturePacketsLost => "capture_packets_lost_total", "RTP packets lost on the way, by camera.";
    CaptureSessions => "capture_sessions_total", "Capture sessions begun, by camera.";
    CaptureFailures => "capture_failures_total", "Capture sessions that ended in an error, by camera and reason.";
    DecodeFrames => "decode_frames_total", "Pictures decoded, by camera.";
    DecodeMissing => "decode_pictures_missing_total", "Access units of a session that gave no picture after its first one was decoded, whether dropped before the decoder or by it, by camera.";
    DecodeLeftOut => "decode_units_left_out_total", "Access units that were not decoded because the scene was still, or because nothing refers to them and they were not due, by camera.";
    DecodeIdle => "decode_idle", "Gauge: 1 while only key units are decoded because the scene is still, by camera.";
    DecodeWakes => "decode_wakes_total", "Times a still scene was decoded in full again, the newest group of pictures first, by camera and reason (size, key, ended, audit, limit).";
    DecodeMissed => "decode_motion_missed_total", "Groups of pictures that looked still without being decoded and were found to move when checked, by camera.";
    DecodeErrors => "decode_errors_total", "Access units the decoder refused, by camera.";
    DecodeRebuilds => "decode_rebuilds_total", "Decoders rebuilt after errors or a panic, by camera.";
    DecodeBusyMicros => "decode_busy_microseconds_total", "Time spent decoding, by camera.";
    StageRestarts => "stage_restarts_total", "Parts of the pipeline begun anew after an error or a panic, by stage; the others did not notice.";
    FramesSampled => "frames_sampled_total", "Pictures taken at analyse_fps, by camera.";
    FramesStill => "frames_still_total", "Sampled pictures not analysed because nothing moved, by camera.";
    FramesReplaced => "frames_replaced_total", "Pictures replaced on the frame board by a newer one before a worker took them, by camera.";
    DetectFrames => "detect_frames_total", "Pictures analysed, by camera.";
    DetectLooksLeftOut => "detect_looks_left_out_total", "Regions, heads and squares not looked at because a picture held more than the limit, or the site in a second (region_budget), by camera and kind.";
    DetectErrors => "detect_errors_total", "Pictures lost to an inference error, by camera.";
    DetectBusyMicros => "detect_busy_microseconds_total", "Time spent in pre-processing, inference and post-processing.";
    DetectWaitMicros => "detect_wait_microseconds_total", "Time that pictures were ready on the frame board before a worker took them.";
    DetectWorkers => "detect_workers", "Gauge: workers that run the models.";
    DetectionsQueued => "detections_queued", "Gauge: analysed pictures waiting for track and rules.";
    FindingChanges => "finding_changes_total", "Finding revisions decided, by phase.";
    CoverageReports => "coverage_reports_total", "Hours of coverage that were reported.";
    CoverageLost => "coverage_lost_total", "Changes of the coverage ledger that the disk did not take.";
    GopRingBytes => "gop_ring_bytes", "Gauge: compressed video kept for clips, by camera.";
    GopRingOverBytes => "gop_ring_groups_over_bytes_total", "Groups of pictures that left the ring for lack of bytes before their time, by camera.";
    GopRingSkipped => "gop_ring_units_skipped_total", "Access units not kept for clips because a key unit had to come first, by camera.";
    EvidenceStills => "evidence_stills_total", "Pictures made for findings, by kind.";
    EvidenceClips => "evidence_clips_total", "Clips cut for findings, by camera.";
    EvidenceClipsBlurred => "evidence_clips_blurred_total", "Clips asked for whose faces had to be blurred, by outcome (made, refused, failed, busy, given_up).";
    EvidencePreRollShort => "evidence_pre_roll_short_total", "Clips that begin later than asked, by camera.";
    EvidenceFailures => "evidence_failures_total", "Evidence that could not be made, kept or signed, by reason.";
    EvidenceJobsDropped => "evidence_jobs_dropped_total", "Findings without clip and original because the evidence thread was behind.";
    EvidenceSigned => "evidence_bundles_signed_total", "Bundles signed.";
    EvidenceRemoved => "evidence_removed_total", "Files removed to stay within the budget, by reason (min_free_mb, max_mb, max_days).";
    EvidenceBytes => "evidence_bytes", "Gauge: bytes of evidence kept.";
    EvidenceEntries => "evidence_chain_entries", "Gauge: entries of the signed chain.";
    StoreWaitMicros => "store_wait_microseconds_total", "Time rules waited for the store to commit.";
    StoreRecords => "store_records_total", "Records committed.";
    StoreFailures => "store_failures_total", "Commits that failed and were tried again.";
    StoreDamaged => "store_damaged_total", "Times the store's file was damaged and set aside.";
    OutboxRecords => "outbox_records", "Gauge: records not yet acknowledged.";
    OutboxBytes => "outbox_bytes", "Gauge: payload bytes not yet acknowledged.";
    OutboxOldestSeconds => "outbox_oldest_seconds", "Gauge: age of the oldest record not yet acknowledged.";
    OutboxParked => "outbox_parked", "Gauge: records the broker refused for good.";
    OutboxEvidenceBytes => "outbox_evidence_bytes", "Gauge: bytes of pictures and clips that wait to be sent.";
    OutboxShed => "outbox_shed_total", "Pictures and clips taken off the queue unsent to stay within uplink.outbox_mb, by kind and class.";
    UplinkConnections => "uplink_connections_total", "Connections to the broker that were accepted.";
    UplinkPublished => "uplink_published_total", "Records handed to the broker, repeats included.";
    UplinkAcked => "uplink_acked_total", "Records acknowledged.";
    UplinkReduced => "uplink_reduced_total", "Findings sent without some of their parts because the broker takes no larger messages, repeats included.";
    UplinkRefused => "uplink_refused_total", "PubAcks that were no delivery, by reason code.";
    UplinkEvidenceWaiting => "uplink_evidence_waiting", "Gauge: pictures and clips that wait to be sent.";
    UplinkEvidencePublished => "uplink_evidence_published_total", "Pictures and clips handed to the broker, repeats included.";
    UplinkEvidenceBytes => "uplink_evidence_bytes_total", "Bytes of them.";
    UplinkEvidenceAcked => "uplink_evidence_acked_total", "Pictures and clips acknowledged.";
    UplinkEvidenceWithheld => "uplink_evidence_withheld_total", "Pictures and clips taken off the queue unsent, by reason (policy, too_large, gone, changed, refused).";
    CommandsAnswered => "commands_answered_total", "Commands of the centre answered, by command and outcome.";
    CommandsRepeated => "commands_repeated_total", "Commands that came again and were not executed again.";
    CommandsDropped => "commands_dropped_total", "Commands or answers to them not looked at or not sent, by reason (rate, unreadable, reply).";
    UplinkTelemetryDropped => "uplink_telemetry_dropped_total", "Telemetry messages not sent because the line was busy.";
}

/// A counter or gauge; clones share the value.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Sets a gauge.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

type Key = (Metric, Vec<(&'static str, String)>);

/// The site's registry. Clones share it; counters are created on first use.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<BTreeMap<Key, Counter>>>);

/// One value of the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Which metric.
    pub metric: Metric,
    /// Its labels in the order they were given.
    pub labels: Vec<(&'static str, String)>,
    /// The value now.
    pub value: u64,
}

impl Sample {
    /// `name{label="value"}` as Prometheus writes it.
    pub fn key(&self) -> String {
        use fmt::Write as _;
        let mut s = self.metric.name().to_owned();
        for (i, (k, v)) in self.labels.iter().enumerate() {
            let _infallible = write!(s, "{}{k}=\"{v}\"", if i == 0 { '{' } else { ',' });
        }
        if !self.labels.is_empty() {
            s.push('}');
        }
        s
    }
}

impl Metrics {
    /// The counter of `metric` with these labels. Keep it: the lookup takes a lock.
    pub fn counter(&self, metric: Metric, labels: &[(&'static str, &str)]) -> Counter {
        let key = (
            metric,
            labels.iter().map(|(k, v)| (*k, (*v).to_owned())).collect(),
        );
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(key)
            .or_default()
            .clone()
    }

    /// All values, in a stable order.
    pub fn samples(&self) -> Vec<Sample> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sample = |((metric, labels), c): (&Key, &Counter)| Sample {
            metric: *metric,
            labels: labels.clone(),
            value: c.value(),
        };
        all.iter().map(sample).collect()
    }

    /// The sum of `metric` over all labels.
    pub fn total(&self, metric: Metric) -> u64 {
        self.samples()
            .iter()
            .filter(|s| s.metric == metric)
            .map(|s| s.value)
            .sum()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.samples().iter().map(|s| (s.key(), s.value)))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_with_the_same_labels_are_one() {
        let m = Metrics::default();
        m.counter(Metric::DecodeFrames, &[("camera", "wok")]).add(2);
        m.counter(Metric::DecodeFrames, &[("camera", "wok")]).add(3);
        m.counter(Metric::DecodeFrames, &[("camera", "sink")])
            .add(1);
        assert_eq!(m.total(Metric::DecodeFrames), 6);
        let keys: Vec<_> = m.samples().iter().map(|s| (s.key(), s.value)).collect();
        assert_eq!(
            keys,
            [
                ("decode_frames_total{camera=\"sink\"}".to_owned(), 1),
                ("decode_frames_total{camera=\"wok\"}".to_owned(), 5)
            ]
        );
    }

    #[test]
    fn metric_names_are_unique_and_counters_end_in_total() {
        let mut names: Vec<_> = Metric::ALL.iter().map(|m| m.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Metric::ALL.len());
        for m in Metric::ALL {
            assert!(
                m.name().ends_with("_total") != m.help().starts_with("Gauge"),
                "{}",
                m.name()
            );
        }
    }
}
