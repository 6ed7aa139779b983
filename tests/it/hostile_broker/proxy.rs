//! A line between the site and its broker that is slow, thin, cut or dead, as asked.
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How the line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Line {
    Good,
    /// Each piece takes so long, both ways.
    Delays(Duration),
    /// So many bytes a second, both ways.
    Throttles(u64),
    /// Whatever is connected is cut, at any byte, and so is who comes next.
    Cuts,
    /// Connections stay open, and nothing gets through.
    Drops,
}

/// Ends with all its connections when dropped.
#[derive(Debug)]
pub struct Proxy {
    pub port: u16,
    line: watch::Sender<Line>,
    connections: Arc<AtomicU64>,
    cut: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// In front of a port of this machine.
    pub async fn start(to: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (line, seen) = watch::channel(Line::Good);
        let (connections, cut) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let counted = (connections.clone(), cut.clone());
        let task = tokio::spawn(async move {
            let mut ways = tokio::task::JoinSet::new();
            loop {
                let (site, _) = listener.accept().await.unwrap();
                // Nobody behind it: the site finds its connection closed.
                let Ok(broker) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await else {
                    continue;
                };
                counted.0.fetch_add(1, Ordering::SeqCst);
                let (cut, line) = (counted.1.clone(), seen.clone());
                ways.spawn(async move {
                    let (from_site, to_site) = site.into_split();
                    let (from_broker, to_broker) = broker.into_split();
                    // The end of one way is the end of both, for both halves are dropped.
                    let was_cut = tokio::select! {
                        cut = carry(from_site, to_broker, line.clone()) => cut,
                        cut = carry(from_broker, to_site, line) => cut,
                    };
                    cut.fetch_add(u64::from(was_cut), Ordering::SeqCst);
                });
            }
        });
        Self {
            port,
            line,
            connections,
            cut,
            task,
        }
    }

    pub fn becomes(&self, line: Line) {
        self.line.send_replace(line);
    }

    /// Connections carried so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    /// Those of them that it cut.
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::SeqCst)
    }
}

/// One way, until one side ends it or the line is cut; true if that was it.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    line: watch::Receiver<Line>,
) -> bool {
    let mut piece = vec![0; 16 * 1024];
    let cut = |line: &watch::Receiver<Line>| {
        let mut line = line.clone();
        async move {
            // The line outlives its connections.
            let _ended = line.wait_for(|l| *l == Line::Cuts).await.is_err();
        }
    };
    loop {
        let n = tokio::select! {
            read = from.read(&mut piece) => match read {
                Ok(n) if n > 0 => n,
                _ => return false,
            },
            () = cut(&line) => return true,
        };
        let state = *line.borrow();
        let passes = async {
            match state {
                Line::Good | Line::Cuts => {}
                Line::Delays(wait) => tokio::time::sleep(wait).await,
                Line::Throttles(bytes_per_s) => {
                    let wait = Duration::from_millis(n as u64 * 1000 / bytes_per_s);
                    tokio::time::sleep(wait).await;
                }
                Line::Drops => {
                    let mut line = line.clone();
                    let _ended = line.wait_for(|l| *l != Line::Drops).await.is_err();
                }
            }
            to.write_all(&piece[..n]).await
        };
        tokio::select! {
            written = passes => if written.is_err() { return false },
            () = cut(&line) => {
                // Cut in the middle of a piece.
                let _half = to.write(&piece[..n / 2]).await;
                return true;
            }
        }
    }
}
