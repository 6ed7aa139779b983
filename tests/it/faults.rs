//! Faults for a whole site: a clock that panics, or does not come back, when the chosen stage asks it, and
//! a model that the loader takes and that fails on every picture. The program needs nothing for either.
use std::backtrace::Backtrace;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use mingchu::base::digest::sha256_hex;
use mingchu::base::time::{Clock, MonoMicros, SystemClock, UtcMicros};

use crate::support::SiteDir;

/// Code of a stage at its work, rather than between two pieces of it.
pub const SAMPLER: &str = "src/decode/sampling.rs";
pub const DETECTOR: &str = "src/detect/detector.rs";

/// Where a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// On the thread of this name, in code of this file; of any if it is empty.
    Thread(&'static str, &'static str),
    /// In a task that is in code of this file.
    Task(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Panic,
    Hang,
}

#[derive(Debug, Default)]
struct Armed {
    at: Option<(At, Fault)>,
    /// So many times.
    left: u32,
    hanging: bool,
}

/// The machine's clocks, with the day that a test has put in front of them, and a fault for whoever is to
/// have one.
#[derive(Debug, Default)]
pub struct FaultyClock {
    ahead_us: AtomicU64,
    utc_ahead_us: AtomicI64,
    armed: Mutex<Armed>,
    released: Condvar,
}

impl FaultyClock {
    pub fn arm(&self, at: At, fault: Fault, times: u32) {
        let mut armed = self.armed.lock().unwrap();
        *armed = Armed {
            at: Some((at, fault)),
            left: times,
            hanging: false,
        };
    }

    /// Nobody hangs any more.
    pub fn release(&self) {
        *self.armed.lock().unwrap() = Armed::default();
        self.released.notify_all();
    }

    /// Waits until the fault has been met as often as it was to be.
    pub fn met(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let armed = self.armed.lock().unwrap();
            if armed.left == 0 || armed.hanging {
                return;
            }
            assert!(Instant::now() < deadline, "never met: {armed:?}");
            drop(armed);
            std::thread::yield_now();
        }
    }

    /// Monotonic time goes on by so much at once, as if everybody had slept.
    pub fn goes_by(&self, how_long: Duration) {
        let us = how_long.as_micros() as u64;
        self.ahead_us.fetch_add(us, Ordering::SeqCst);
    }

    /// Somebody sets the wall clock.
    pub fn is_set(&self, by: i64) {
        self.utc_ahead_us.fetch_add(by, Ordering::SeqCst);
    }

    /// The fault, if it is this thread's turn.
    fn may_fail(&self) {
        let mut armed = self.armed.lock().unwrap();
        let Some((at, fault)) = armed.at.filter(|_| armed.left > 0) else {
            return;
        };
        let (thread, file) = match at {
            At::Thread(name, file) => (name, file),
            At::Task(file) => ("tokio", file),
        };
        let here = std::thread::current().name() == Some(thread)
            && (file.is_empty() || Backtrace::force_capture().to_string().contains(file));
        if !here {
            return;
        }
        armed.left -= 1;
        if fault == Fault::Hang {
            armed.hanging = true;
            drop(self.released.wait_while(armed, |a| a.hanging).unwrap());
            return;
        }
        drop(armed);
        panic!("injected at {at:?}");
    }
}

impl Clock for FaultyClock {
    fn mono(&self) -> MonoMicros {
        self.may_fail();
        let ahead = self.ahead_us.load(Ordering::SeqCst);
        MonoMicros(SystemClock.mono().0 + ahead)
    }

    fn utc(&self) -> UtcMicros {
        self.may_fail();
        let ahead = self.utc_ahead_us.load(Ordering::SeqCst);
        UtcMicros(SystemClock.utc().0 + ahead)
    }
}

/// Protocol Buffers' wire format, as far as a network needs it: a field that holds bytes, or a number.
fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    [
        varint(u64::from(number << 3 | 2)),
        varint(bytes.len() as u64),
        bytes.to_vec(),
    ]
    .concat()
}

fn number(field: u32, value: u64) -> Vec<u8> {
    [varint(u64::from(field << 3)), varint(value)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// One operator of the network: its attribute is an integer.
fn node(operator: &str, inputs: &[&str], output: &str, attribute: Option<(&str, u64)>) -> Vec<u8> {
    let mut node: Vec<u8> = inputs.iter().flat_map(|i| field(1, i.as_bytes())).collect();
    node.extend(field(2, output.as_bytes()));
    node.extend(field(4, operator.as_bytes()));
    if let Some((name, value)) = attribute {
        let of_int = [field(1, name.as_bytes()), number(3, value), number(20, 2)].concat();
        node.extend(field(5, &of_int));
    }
    field(1, &node)
}

/// A constant (ONNX type 1 is float32, 7 is int64).
fn constant(name: &str, kind: u64, shape: &[u64], raw: &[u8]) -> Vec<u8> {
    let dims: Vec<u8> = shape.iter().flat_map(|d| number(1, *d)).collect();
    let tensor = [
        dims,
        number(2, kind),
        field(8, name.as_bytes()),
        field(9, raw),
    ]
    .concat();
    field(5, &tensor)
}

fn value(of: u32, name: &str, shape: &[u64]) -> Vec<u8> {
    let dims: Vec<u8> = shape
        .iter()
        .flat_map(|d| field(1, &number(1, *d)))
        .collect();
    let tensor = [number(1, 1), field(2, &dims)].concat();
    field(
        of,
        &[field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat(),
    )
}

/// A model that the loader's grey picture passes and no other does: its brightest pixel is looked up in
/// a table that ends with that grey. What ONNX Runtime says to others is its own.
pub fn failing_model(site: &SiteDir) -> PathBuf {
    let table = vec![0u8; 115 * 6 * 4];
    let shape: Vec<u8> = [1i64, 1, 6].iter().flat_map(|d| d.to_le_bytes()).collect();
    let graph = [
        node("ReduceMax", &["images"], "brightest", Some(("keepdims", 0))),
        node("Cast", &["brightest"], "row", Some(("to", 7))),
        node("Gather", &["table", "row"], "found", None),
        node("Reshape", &["found", "shape"], "output", None),
        field(2, b"failing"),
        constant("table", 1, &[115, 6], &table),
        constant("shape", 7, &[3], &shape),
        value(11, "images", &[1, 3, 32, 32]),
        value(12, "output", &[1, 1, 6]),
    ];
    let opset = number(2, 13);
    let network = [number(1, 7), field(7, &graph.concat()), field(8, &opset)].concat();
    std::fs::write(site.path("failing.onnx"), &network).unwrap();
    let card = format!(
        "name = \"failing\"\nversion = \"1\"\nfile = \"failing.onnx\"\nsha256 = \"{}\"\n\
         licence = \"Apache-2.0\"\nsummary = \"Fails on every picture.\"\n\
         [input]\nwidth_px = 32\nheight_px = 32\nchannels = \"bgr\"\nmean = [0.0, 0.0, 0.0]\n\
         scale = 1.0\npad = 114\n[output]\ndecoder = \"yolox\"\nstrides = [32]\n\
         [thresholds]\nlow = 0.05\nnms_iou = 0.5\n\
         [[classes]]\nname = \"face-bare\"\nthreshold = 0.5\n",
        sha256_hex(&network)
    );
    let path = site.path("failing.toml");
    std::fs::write(&path, card).unwrap();
    path
}
