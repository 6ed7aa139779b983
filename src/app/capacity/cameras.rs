//! The built-in cameras: the demo's RTSP server plays a clip, once for each camera, on a thread of its
//! own, so that what sending costs can be told apart from what receiving costs.
//!
//! Each camera begins at another key picture of the clip: real cameras do not all see somebody come in
//! at once, and their key pictures do not all come in the same millisecond.
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::app::demo::read_beginning;
use crate::app::demo::rtsp_server::{self, Clip, ClipUnit, Reports};
use crate::capture::OpenContainer as _;
use crate::decode::Clips;

/// The thread that they send from.
pub const THREAD: &str = "cameras";
/// What is played of a clip; it is held in memory.
const MOST: Duration = Duration::from_secs(120);
/// The golden ratio's fraction: its multiples are spread evenly however many there are.
pub const GOLDEN: f64 = 0.618_033_988_749_895;

/// A clip and what there is to say about it.
#[derive(Clone, Debug)]
pub struct Load {
    /// What is played.
    pub clip: Arc<Clip>,
    /// For people and programs.
    pub about: About,
}

/// What a clip is like.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct About {
    /// Its file.
    pub path: String,
    /// `h264` or `h265`.
    pub codec: &'static str,
    /// Pixels.
    pub width_px: u32,
    /// Pixels.
    pub height_px: u32,
    /// Pictures a second.
    pub fps: f64,
    /// Thousand bits a second.
    pub kbit_per_s: f64,
    /// How much of it is played, round and round.
    pub seconds: f64,
}

impl Load {
    /// Reads a clip, at most two minutes of it.
    ///
    /// # Errors
    /// It is no video with pictures that can be played.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let size = Clips.open(path)?.info().size.unwrap_or_default();
        let mut clip = read_beginning(path, MOST)?;
        // Nothing can be made of what comes before the first key picture.
        let first = clip.units.iter().position(|u| u.is_key);
        let first = first.with_context(|| format!("{} holds no key picture", path.display()))?;
        clip.units.drain(..first);
        let seconds = clip.duration_90k as f64 / 90_000.0;
        let bytes: usize = clip.units.iter().map(|u| u.data.len()).sum();
        let about = About {
            path: path.display().to_string(),
            codec: clip.codec.name(),
            width_px: size.width_px,
            height_px: size.height_px,
            fps: clip.units.len() as f64 / seconds.max(0.001),
            kbit_per_s: bytes as f64 / 125.0 / seconds.max(0.001),
            seconds,
        };
        Ok(Self {
            clip: Arc::new(clip),
            about,
        })
    }
}

/// The clip from another key picture on, the beginning last.
fn begun_elsewhere(clip: &Clip, camera: usize) -> Clip {
    let keys = clip.units.iter().enumerate().filter(|(_, u)| u.is_key);
    let keys: Vec<usize> = keys.map(|(i, _)| i).collect();
    let at = (camera as f64 * GOLDEN).fract() * keys.len() as f64;
    let (begin, rest) = clip
        .units
        .split_at(keys.get(at as usize).copied().unwrap_or(0));
    let later = begin.iter().map(|unit| ClipUnit {
        pts_90k: unit.pts_90k + clip.duration_90k,
        ..unit.clone()
    });
    Clip {
        units: rest.iter().cloned().chain(later).collect(),
        ..*clip
    }
}

/// Cameras that play. They end when this is dropped.
#[derive(Debug)]
pub struct Cameras {
    /// One for each.
    pub urls: Vec<String>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Cameras {
    /// Starts `count` of them. Blocking, for a moment.
    ///
    /// # Errors
    /// The system gives no port or thread, or the clip cannot be played.
    pub fn start(load: &Load, count: usize) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let (told, urls) = sync_channel(1);
        let (clip, stopped) = (load.clip.clone(), stop.clone());
        let thread = std::thread::Builder::new().name(THREAD.to_owned());
        let thread = thread.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            match runtime {
                Ok(runtime) => runtime.block_on(async {
                    let begun = listen(&clip, count, &stopped).await;
                    let goes_on = begun.is_ok();
                    // Whoever started them waits for this.
                    drop(told.send(begun));
                    if goes_on {
                        stopped.cancelled().await;
                    }
                }),
                Err(e) => drop(told.send(Err(e.into()))),
            }
        })?;
        // Made before it can fail, so that the thread ends if it does.
        let mut cameras = Self {
            urls: Vec::new(),
            stop,
            thread: Some(thread),
        };
        cameras.urls = urls.recv().context("the built-in cameras panicked")??;
        Ok(cameras)
    }
}

impl Drop for Cameras {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            drop(thread.join());
        }
    }
}

async fn listen(
    clip: &Clip,
    count: usize,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<String>> {
    let mut urls = Vec::new();
    for camera in 0..count {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        urls.push(format!("rtsp://{}/camera", listener.local_addr()?));
        let clip = Arc::new(begun_elsewhere(clip, camera));
        let stop = stop.clone();
        tokio::spawn(async move {
            if let Err(e) = rtsp_server::serve(listener, clip, Reports::default(), stop).await {
                tracing::error!(err = %e, "a built-in camera ended");
            }
        });
    }
    Ok(urls)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Codec;
    use bytes::Bytes;

    #[test]
    fn each_camera_begins_at_another_key_picture_and_shows_the_whole_clip() {
        let unit = |n: i64| ClipUnit {
            data: Bytes::from(vec![n as u8]),
            pts_90k: 3600 * n,
            is_key: n % 5 == 0,
        };
        let clip = Clip {
            codec: Codec::H264,
            units: (0..20).map(unit).collect(),
            duration_90k: 3600 * 20,
        };
        let firsts = (0..4).map(|camera| {
            let of_camera = begun_elsewhere(&clip, camera);
            let mut all: Vec<u8> = of_camera.units.iter().map(|u| u.data[0]).collect();
            let steps = of_camera.units.windows(2);
            assert!(of_camera.units[0].is_key);
            assert!(steps.clone().all(|w| w[1].pts_90k - w[0].pts_90k == 3600));
            let first = all[0];
            all.sort_unstable();
            assert_eq!(all, (0..20).collect::<Vec<u8>>());
            first
        });
        assert_eq!(firsts.collect::<Vec<_>>(), [0, 10, 0, 15]);
    }
}
