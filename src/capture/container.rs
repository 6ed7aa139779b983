//! Recorded clips as cameras.
//!
//! Demultiplexing is done by whoever implements [`OpenContainer`] (libavformat, named in one file of
//! `decode`); here is only the pace. Reading is blocking, so it has a thread of its own.
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::config::Pace;
use super::source::{CaptureError, Source, SourceOpener, SourceUnit};
use super::unit::{AccessUnit, Codec, StreamInfo};
use crate::base::ids::CameraIx;
use crate::base::time::{FrameStamp, MonoMicros, Pts90k, SharedClock, UtcMicros};

/// One packet of a clip's video track, in decode order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerUnit {
    /// Annex B, parameter sets before each key unit.
    pub data: Bytes,
    /// When it is shown, from the beginning of the clip.
    pub pts: Pts90k,
    /// When it is to be decoded; never above `pts` by more than rounding.
    pub dts: Pts90k,
    /// See [`super::AccessUnit::is_key`].
    pub is_key: bool,
    /// See [`super::AccessUnit::is_disposable`].
    pub is_disposable: bool,
}

impl ContainerUnit {
    /// The `seq`-th unit as a camera would have sent it that began at time zero, in its first session: received
    /// when it is shown.
    pub fn as_sent(self, camera: CameraIx, codec: Codec, seq: u64) -> AccessUnit {
        let us = u64::try_from(self.pts.0).unwrap_or(0) * 100 / 9;
        AccessUnit {
            camera,
            stamp: FrameStamp {
                seq,
                session: 1,
                pts: self.pts,
                received: MonoMicros(us),
                received_utc: UtcMicros(us as i64),
            },
            codec,
            is_key: self.is_key,
            is_disposable: self.is_disposable,
            packets_lost: 0,
            data: self.data,
        }
    }
}

/// An open clip. Blocking.
pub trait Container: Send {
    /// What its video track is.
    fn info(&self) -> StreamInfo;

    /// How long it says it is; may be wrong, so for showing progress only.
    fn claimed_length(&self) -> Option<Duration> {
        None
    }

    /// The next unit; `None` at the end.
    ///
    /// # Errors
    /// [`CaptureError::File`] when the rest cannot be read.
    fn next_unit(&mut self) -> Result<Option<ContainerUnit>, CaptureError>;
}

/// Opens clips. Blocking.
pub trait OpenContainer: Send + Sync {
    /// Opens the clip at `path`.
    ///
    /// # Errors
    /// [`CaptureError::File`] if it cannot be read, [`CaptureError::NoVideo`] if it holds no H.264
    /// or H.265.
    fn open(&self, path: &Path) -> Result<Box<dyn Container>, CaptureError>;
}

/// Opens one clip as a camera.
pub struct FileOpener {
    /// Which clip.
    pub path: PathBuf,
    /// How fast.
    pub pace: Pace,
    /// Begin again at its end.
    pub repeat: bool,
    /// Who reads containers.
    pub container: Arc<dyn OpenContainer>,
    /// The site's clock.
    pub clock: SharedClock,
}

struct FileSource {
    units: mpsc::Receiver<Result<ContainerUnit, CaptureError>>,
    info: StreamInfo,
    pace: Pace,
    begun: Option<(Instant, i64)>,
    /// Read from the thread but not due yet: keeps `next` safe to cancel.
    pending: Option<ContainerUnit>,
    clock: SharedClock,
}

/// Shortest round of a clip that repeats, in 1/90,000 s: one of a single picture is not opened more
/// often than this, though it says that it lasts no time at all.
const SHORTEST_ROUND: i64 = 9000;

/// Reads the clip, again and again if it repeats, with timestamps that run on. A round without a
/// picture that stands alone is the last one: no other would show anything either.
fn read_clip(
    opener: &dyn OpenContainer,
    path: &Path,
    mut clip: Box<dyn Container>,
    repeat: bool,
    out: &mpsc::Sender<Result<ContainerUnit, CaptureError>>,
) {
    let mut shift = 0;
    loop {
        let (mut last, mut step, mut any_key) = (0, 3600, false);
        let failed = loop {
            match clip.next_unit() {
                Ok(Some(mut unit)) => {
                    step = (unit.dts.0 - last).clamp(1, 90_000);
                    last = unit.dts.0;
                    any_key |= unit.is_key;
                    unit.pts.0 += shift;
                    unit.dts.0 += shift;
                    if out.blocking_send(Ok(unit)).is_err() {
                        return;
                    }
                }
                Ok(None) => break None,
                Err(e) => break Some(e),
            }
        };
        if let Some(e) = failed {
            // The receiver may be gone; then nobody needs the reason.
            drop(out.blocking_send(Err(e)));
            return;
        }
        if !repeat {
            return;
        }
        if !any_key {
            let why = format!(
                "{} has no picture that can be decoded by itself",
                path.display()
            );
            drop(out.blocking_send(Err(CaptureError::NoVideo(why))));
            return;
        }
        shift += (last + step).max(SHORTEST_ROUND);
        match opener.open(path) {
            Ok(again) => clip = again,
            Err(e) => {
                drop(out.blocking_send(Err(e)));
                return;
            }
        }
    }
}

impl SourceOpener for FileOpener {
    fn open(&self) -> BoxFuture<'_, Result<Box<dyn Source>, CaptureError>> {
        Box::pin(async move {
            let (units_tx, units) = mpsc::channel(8);
            let (opened_tx, opened) = tokio::sync::oneshot::channel();
            let (path, repeat, container) =
                (self.path.clone(), self.repeat, self.container.clone());
            let file_error = |why: String| CaptureError::File {
                path: self.path.display().to_string(),
                why,
            };
            std::thread::Builder::new()
                .name("file".to_owned())
                .spawn(move || match container.open(&path) {
                    Ok(clip) => {
                        if opened_tx.send(Ok(clip.info())).is_ok() {
                            read_clip(&*container, &path, clip, repeat, &units_tx);
                        }
                    }
                    // The opener may have been cancelled; then nobody needs the reason.
                    Err(e) => drop(opened_tx.send(Err(e))),
                })
                .map_err(|e| file_error(format!("no thread to read it: {e}")))?;
            let info = opened
                .await
                .map_err(|_| file_error("its reader ended".to_owned()))??;
            let (pace, clock) = (self.pace, self.clock.clone());
            let source = FileSource {
                units,
                info,
                pace,
                begun: None,
                pending: None,
                clock,
            };
            Ok(Box::new(source) as Box<dyn Source>)
        })
    }
}

impl Source for FileSource {
    fn info(&self) -> StreamInfo {
        self.info.clone()
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Option<SourceUnit>, CaptureError>> {
        Box::pin(async move {
            if self.pending.is_none() {
                self.pending = match self.units.recv().await {
                    None => return Ok(None),
                    Some(unit) => Some(unit?),
                };
            }
            if let (Pace::RealTime, Some(unit)) = (self.pace, &self.pending) {
                let (start, first) = *self
                    .begun
                    .get_or_insert_with(|| (Instant::now(), unit.dts.0));
                let due_us = u64::try_from(unit.dts.0 - first).unwrap_or(0) * 100 / 9;
                tokio::time::sleep_until(start + Duration::from_micros(due_us)).await;
            }
            Ok(self.pending.take().map(|unit| SourceUnit {
                data: unit.data,
                pts: unit.pts,
                received: self.clock.mono(),
                received_utc: self.clock.utc(),
                is_key: unit.is_key,
                is_disposable: unit.is_disposable,
                packets_lost: 0,
            }))
        })
    }

    fn can_wait(&self) -> bool {
        self.pace == Pace::Fastest
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        // Dropping the receiver ends the thread at its next unit.
        Box::pin(async {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::{ManualClock, MonoMicros, UtcMicros};
    use crate::capture::Codec;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A clip of these pictures: when each is due, and whether it stands alone. Counts its rounds.
    struct Pictures(Vec<(i64, bool)>, Arc<AtomicU64>);

    struct Round(std::vec::IntoIter<(i64, bool)>);

    impl Container for Round {
        fn info(&self) -> StreamInfo {
            StreamInfo {
                codec: Codec::H264,
                size: None,
                tool: None,
            }
        }

        fn next_unit(&mut self) -> Result<Option<ContainerUnit>, CaptureError> {
            Ok(self.0.next().map(|(dts, is_key)| ContainerUnit {
                data: Bytes::new(),
                pts: Pts90k(dts),
                dts: Pts90k(dts),
                is_key,
                is_disposable: false,
            }))
        }
    }

    impl OpenContainer for Pictures {
        fn open(&self, _path: &Path) -> Result<Box<dyn Container>, CaptureError> {
            self.1.fetch_add(1, Ordering::SeqCst);
            Ok(Box::new(Round(self.0.clone().into_iter())))
        }
    }

    /// Timestamps of the first pictures of a clip that repeats, how it ended, and its rounds.
    fn played(pictures: &[(i64, bool)], most: usize) -> (Vec<i64>, Option<CaptureError>, u64) {
        let rounds = Arc::new(AtomicU64::new(0));
        let opener = FileOpener {
            path: PathBuf::from("clip.mp4"),
            pace: Pace::Fastest,
            repeat: true,
            container: Arc::new(Pictures(pictures.to_vec(), rounds.clone())),
            clock: ManualClock::new(MonoMicros(0), UtcMicros(0)),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let (times, error) = runtime.block_on(async {
            let mut source = opener.open().await.unwrap();
            let mut times = Vec::new();
            while times.len() < most {
                match source.next().await {
                    Ok(Some(unit)) => times.push(unit.pts.0),
                    Ok(None) => return (times, None),
                    Err(e) => return (times, Some(e)),
                }
            }
            (times, None)
        });
        (times, error, rounds.load(Ordering::SeqCst))
    }

    #[test]
    fn a_repeating_clip_without_a_picture_that_stands_alone_is_played_once_and_told() {
        for pictures in [vec![], vec![(0, false)], vec![(0, false), (3600, false)]] {
            let (times, error, rounds) = played(&pictures, 1000);
            assert_eq!((times.len(), rounds), (pictures.len(), 1));
            let error = error.expect("it says why it ends");
            assert_eq!(error.reason(), "no_video");
            assert!(error.to_string().contains("clip.mp4"), "{error}");
        }
    }

    #[test]
    fn a_repeating_clip_of_one_picture_has_a_tenth_of_a_second_a_round() {
        let (times, error, _) = played(&[(0, true)], 5);
        assert!(error.is_none());
        assert_eq!(times, [0, 9000, 18_000, 27_000, 36_000]);
    }

    #[test]
    fn the_timestamps_of_a_repeating_clip_run_on() {
        let clip = [(0, true), (3600, false), (7200, false)];
        let (times, error, _) = played(&clip, 7);
        assert!(error.is_none());
        assert_eq!(times, [0, 3600, 7200, 10_800, 14_400, 18_000, 21_600]);
    }
}
