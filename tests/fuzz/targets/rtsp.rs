//! What a hostile camera answers, through the whole capture path over a real connection: RTSP replies,
//! SDP, interleaved RTP and RTCP, into access units.
//!
//! The input is cut at [`TURN`]: each request of ours is answered by the next piece, whatever it is. After
//! the last one the camera hangs up.
#![no_main]
use std::cell::RefCell;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use mingchu::base::time::SystemClock;
use mingchu::capture::{RtspHosts, RtspOpener, SourceOpener as _, Transport, nal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Between two answers.
const TURN: &[u8] = b"\n--8<--\n";
/// No input may keep us longer than this; libFuzzer's own limit is far above.
const LIMIT: Duration = Duration::from_millis(500);
/// How long the camera waits for a request before it answers all the same.
const PATIENCE: Duration = Duration::from_millis(10);
/// More than any seed holds.
const MOST_UNITS: usize = 200;

struct Bench {
    runtime: tokio::runtime::Runtime,
    listener: TcpListener,
}

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::new({
        // libFuzzer's own hook ends the process at every panic. One in a parser of RTSP or SDP that
        // capture catches and calls by its name is what is wanted; one that it lets through still ends it.
        drop(std::panic::take_hook());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a free port");
        Bench { runtime, listener }
    });
}

fn pieces(mut input: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while let Some(at) = input.windows(TURN.len()).position(|w| w == TURN) {
        all.push(&input[..at]);
        input = &input[at + TURN.len()..];
    }
    all.push(input);
    all
}

async fn camera(mut socket: TcpStream, answers: Vec<&[u8]>) {
    let mut request = [0; 4096];
    for answer in answers {
        // Nobody waits for long for a request that cannot come, as half an answer came before.
        if let Ok(Ok(0) | Err(_)) = timeout(PATIENCE, socket.read(&mut request)).await {
            return;
        }
        if socket.write_all(answer).await.is_err() {
            return;
        }
    }
}

fuzz_target!(|input: &[u8]| {
    BENCH.with_borrow_mut(|bench| {
        let address = bench.listener.local_addr().expect("an address");
        let opener = RtspOpener {
            url: format!("rtsp://{address}/").parse().expect("a URL"),
            login: None,
            transport: Transport::Tcp,
            step_timeout: LIMIT,
            silence: LIMIT,
            hosts: RtspHosts::default(),
            clock: SystemClock::shared(),
        };
        bench.runtime.block_on(async {
            let client = async {
                let mut source = opener.open().await?;
                for _ in 0..MOST_UNITS {
                    let Some(unit) = source.next().await? else {
                        break;
                    };
                    for nal in nal::annex_b_units(&unit.data) {
                        assert!(!nal.is_empty());
                    }
                    assert!(!unit.is_key || nal::annex_b_units(&unit.data).next().is_some());
                }
                Ok::<_, mingchu::capture::CaptureError>(())
            };
            let server = async {
                if let Ok((socket, _)) = bench.listener.accept().await {
                    camera(socket, pieces(input)).await;
                }
            };
            // The client's end is the end: a camera that still has something to say is left alone.
            tokio::select! {
                ended = client => if let Err(e) = ended { assert!(!e.to_string().is_empty()) },
                () = async { server.await; std::future::pending().await } => {}
            }
        });
    });
});
