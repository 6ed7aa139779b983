//! Words and clocks every stage shares: ids, time, geometry, back-off, counters, secrets, heartbeats, restarts,
//! how much of the heap a thread holds, buffers that are used again, and what its CPU time goes to.
//!
//! What must not be here: I/O other than reading a clock or a secret file, and anything that knows
//! of cameras, models, rules or brokers. `base` imports nothing of ours.
pub mod backoff;
pub mod digest;
pub mod geometry;
pub mod heap;
pub mod heartbeat;
pub mod ids;
pub mod laps;
pub mod metrics;
pub mod pool;
pub mod restarts;
pub mod secret;
pub mod streak;
pub mod time;
pub mod words;
