//! Composition: the only module that sees all stages, and that no stage sees.
//!
//! `cli` parses the command line; each command has its module; `site` builds, runs and stops the
//! pipeline; `analytics` is the one thread where track, rules and evidence meet.
mod analytics;
mod blocking;
mod camera_unit;
mod capacity;
mod check;
pub mod cli;
mod clock_steps;
mod commands;
pub mod config;
mod coverage;
pub mod demo;
mod desired;
mod desk;
mod detect;
mod device;
mod evidence;
pub mod exit;
pub mod explain;
mod footage;
mod health;
mod logging;
mod models;
mod mutes;
mod notice;
mod oversight;
mod probe;
mod reload;
mod replay;
pub mod run;
pub mod schema;
pub mod site;
pub mod status;
mod tail;
mod terminal;
mod truth;
mod verify;
mod watchdog;
mod workers;
