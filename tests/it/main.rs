//! Integration tests: the program itself against real RTSP servers (GStreamer's) and a real broker
//! (mosquitto), on free ports. `.ci/setup test` installs both and makes the clips.
//!
//! Tests on the real clips of the shared data folder are listed as ignored where it is absent; see
//! `tests/build.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test may panic, tell why, and take the time"
)]
mod architecture;
mod broker;
mod camera;
mod capacity;
mod centre;
mod commands;
mod conversion;
mod crash;
mod disk;
mod evidence;
mod faults;
mod faulty_disk;
mod health;
mod hostile_broker;
mod hostile_camera;
mod late_decode;
#[path = "crash/life.rs"]
mod life;
mod models;
mod pipeline;
mod regions;
mod reload;
#[path = "crash/rounds.rs"]
mod rounds;
mod rtsp_peer;
mod secrets;
mod status;
mod steady_state;
mod supervision;
mod support;
