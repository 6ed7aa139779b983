//! mingchu watches kitchen cameras, recognises food-safety violations, and gets every finding to the
//! county centre once in effect, whatever the uplink, the power or the cameras do.
//!
//! # The map
//!
//! ```text
//!  tokio                    | OS threads                                | OS thread "analytics"               | OS thread | tokio
//!  capture/<camera> --q1--> decode/<camera> --q2--> detect/<n> --q3--> track -> rules -> stills --q4--> store ==> uplink --> broker
//!     | GOP ring (compressed, of the main stream where there is one)                       | q5                       ^
//!     +----------------------------------------------------------------> evidence <-------+   pictures, clips ------+
//! ```
//! Two planes, never one queue: pictures are lossy and the latest wins; findings are lossless from
//! the moment a rule decides.
//!
//! | queue | where | limit | when full | counted |
//! | --- | --- | --- | --- | --- |
//! | RTP packets, per camera | the network, a reorder buffer and 8 pictures in `capture/rtsp.rs` | by UDP or a camera's own | pictures up to the next key unit are dropped | `capture_packets_lost_total{camera}` |
//! | what a session holds between two pictures | `capture/rtsp.rs` | 32 MB | the session is cut off | `capture_failures_total{camera,reason}` |
//! | q1 access units, per camera | [`capture::unit_queue`] | 32 units and 1 s | drops up to the next key unit; the socket is always drained | `capture_units_dropped_total{camera,reason}` |
//! | what a still scene sent since it was looked at, per camera | `decode::late` | 8 MB and 2.5 s, or `quiet_look_ms` while nothing counts; shares its bytes with the ring | it is decoded, while what comes waits behind it; else it is let go when the next key unit shows that nothing moved | `decode_units_left_out_total{camera}`, `decode_wakes_total{camera,reason}` |
//! | q2 frames | [`decode::FrameBoard`] | 1 waiting and 1 in flight per camera | the newest replaces the waiting one; cameras take turns | `frames_replaced_total{camera}` |
//! | looks within a frame | `detect::Detector` | regions and squares by the models' cards, `detect.regions_per_s` of the site, 24 heads | others come with the next frames, by turns, cameras get equal shares; of heads the likeliest go first | `detect_looks_left_out_total{camera,kind}` |
//! | q3 analysed pictures | a bounded channel, made in `app::site` | 2 per worker that there may be | the worker waits, so q2 overflows instead | `detections_queued` |
//! | q4 findings | [`uplink::StoreHandle::commit_finding`] | 1, blocking | rules wait until it is on the disk | `store_wait_microseconds_total` |
//! | coverage not stored yet | `app::coverage` | 2000 changes | the oldest go | `coverage_lost_total` |
//! | q5 bundles to complete | [`evidence::Jobs`] | 8 | original and clip of the finding are left out; its pictures are signed all the same | `evidence_jobs_dropped_total` |
//! | clips to blur | [`evidence::Blurs`] | 2 and 1 at hand, 10 min each | the command is answered `failed` | `evidence_clips_blurred_total{outcome}` |
//! | GOP rings, per stream | [`capture::GopRing`] | `evidence.ring_mb`, and pre-roll, dwell and post-roll of time | the oldest group of pictures goes | `gop_ring_groups_over_bytes_total`, `evidence_pre_roll_short_total` |
//! | evidence on the disk | `evidence::Keeper` | `evidence.max_mb`, `max_days`, `min_free_mb` of the disk | clips, then pictures go by signed record, lowest class and oldest first | `evidence_removed_total` |
//! | pictures and clips to send | [`uplink::EvidenceOutbox`], on a shelf of the store | what findings name | wait behind all records for `uplink.evidence_kbps`; what may not or cannot leave stays | `uplink_evidence_waiting`, `uplink_evidence_withheld_total` |
//! | outbox, files and records together | [`uplink::OutboxBudget`] | `uplink.outbox_mb` | files are not sent, lowest class and oldest first, and a notice says which; records never go | `outbox_shed_total{kind,class}`, `outbox_evidence_bytes` |
//! | outbox, records | [`uplink::Store`], SQLite | the disk | grows until acknowledged, and says so beyond the budget | `outbox_records`, `outbox_bytes`, `outbox_oldest_seconds` |
//! | a store that was damaged | set aside by [`uplink::Store`] | what a page holds | what cannot be read is lost, and a notice says so | `store_damaged_total` |
//! | commands | `uplink::Inbox` | 8 not acknowledged, 120 at once and 2 a second | the broker keeps them; those that come faster are dropped | `commands_dropped_total{reason}` |
//! | telemetry | the line to the broker | 1 message | left out while records wait for the line | `uplink_telemetry_dropped_total` |
//! | receipts that came as commands | `uplink::receipts` | 8 | the command is answered `failed` | `commands_answered_total{command,outcome}` |
//! | in flight | `uplink::delivery` | `uplink.window` | the outbox waits | `uplink_published_total`, `uplink_acked_total` |
//!
//! # Threads and tasks
//!
//! * one tokio task per camera (capture), with a thread for each RTSP session, which gives no beat: it is
//!   given up when it is silent; one task for the uplink, one that keeps the outbox within its budget, one
//!   that takes commands in and one that does them, one per camera that follows its health, one that
//!   follows the store's, one that serves the status page;
//! * one OS thread per camera that decodes, those that run the models, one that adds to these or ends one of
//!   them by the load (`app::workers`, `detect::staffing`), one for track, rules and pictures of findings, one that seals, clips and signs evidence, one that blurs clips the
//!   centre asks for, one that owns the database;
//! * each but the one that blurs beats ([`base::heartbeat`]); systemd's watchdog is fed only while all of
//!   them do.
//!
//! Once a second the analytics thread also looks at the cameras' states: findings about cameras
//! (`device.camera.*`) and the coverage ledger come of it.
//!
//! Track, rules and a finding's pictures share one plain thread, not a tokio task: they block on the
//! disk by design, since a finding must be durable before the next is decided. What a finding does not
//! wait for (clip, signature, budget) is the evidence thread's.
//!
//! # While it runs
//!
//! A camera, the workers and the lines to the broker begin and end by themselves (`app::site`,
//! `app::camera_unit`, `app::workers`), so another config touches only what it changes (`app::reload`). A camera keeps
//! its [`base::ids::CameraSlots`] slot for the life of the process.
//!
//! # Who may import whom
//!
//! 1. [`base`] imports nothing of ours.
//! 2. A stage imports `base` and the data types of the stage just upstream; [`evidence`] takes
//!    frames and cuts of the rings, [`uplink`] takes `base` only and has payload types of its own.
//! 3. Nobody imports downstream, and nobody imports [`app`], which composes them all.
//! 4. [`track`] and [`rules`] are pure: no tokio, no clock, no I/O.
//! 5. Each foreign engine is named in one file: retina in `capture/rtsp.rs`, ffmpeg-next in
//!    `decode/ffmpeg.rs` (with all `unsafe` but that of the allocator in `base/heap.rs`), ort in `detect/onnx.rs`, rusqlite in `uplink/store.rs`, rumqttc
//!    in `uplink/mqtt.rs`; for the demo rumqttd in `app/demo/broker.rs` and rtsp-types in
//!    `app/demo/rtsp_server.rs`.
//!
//! A test in `tests/it/architecture.rs` enforces this.
pub mod app;
pub mod base;
pub mod capture;
pub mod decode;
pub mod detect;
pub mod evidence;
pub mod rules;
pub mod track;
pub mod uplink;
