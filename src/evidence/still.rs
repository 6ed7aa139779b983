//! The deciding frame as a JPEG, kept on the box.
//!
//! A still is written whole (temporary name, sync, rename) before the finding that names it is
//! committed, so a finding never refers to a file that is not there. Stills stay on the box: what
//! leaves the site must have its faces blurred first, and nothing here can do that yet.
//! Runs on the analytics thread.
use std::collections::VecDeque;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use jpeg_encoder::{Encoder, ImageBuffer, JpegColorType};

use super::config::EvidenceConfig;
use crate::base::digest::sha256_hex;
use crate::base::metrics::{Counter, Metric, Metrics};
use crate::decode::{Frame, YuvMatrix};

/// Why a still could not be kept. The finding goes on without it and says so.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// The folder cannot be made or written. A person must look.
    #[error("{}: {source}", path.display())]
    Folder {
        /// Which path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The picture cannot be encoded.
    #[error("the deciding frame cannot be encoded: {0}")]
    Encode(String),
}

impl EvidenceError {
    /// Label of `evidence_failures_total`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Folder { .. } => "folder",
            Self::Encode(_) => "encode",
        }
    }
}

/// One still on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Still {
    /// Where.
    pub path: PathBuf,
    /// SHA-256 of the file, lowercase hex.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
}

/// The site's folder of stills, kept below its byte budget.
#[derive(Debug)]
pub struct StillStore {
    config: EvidenceConfig,
    /// Oldest first, with sizes.
    kept: VecDeque<(PathBuf, u64)>,
    total_bytes: u64,
    stills: Counter,
    removed: Counter,
}

/// Feeds planar 4:2:0 to the encoder row by row, as the YCbCr it already is: JPEG (JFIF) wants
/// full-range BT.601, so other frames are converted per pixel and those that fit are only copied.
struct Rows<'f> {
    frame: &'f Frame,
    planes: [&'f [u8]; 3],
}

impl ImageBuffer for Rows<'_> {
    fn get_jpeg_color_type(&self) -> JpegColorType {
        JpegColorType::Ycbcr
    }

    fn width(&self) -> u16 {
        self.frame.size.width_px as u16
    }

    fn height(&self) -> u16 {
        self.frame.size.height_px as u16
    }

    fn fill_buffers(&self, y: u16, buffers: &mut [Vec<u8>; 4]) {
        let w = self.frame.size.width_px as usize;
        let (half, row) = (w.div_ceil(2), usize::from(y));
        let luma = &self.planes[0][row * w..][..w];
        let cb = &self.planes[1][row / 2 * half..][..half];
        let cr = &self.planes[2][row / 2 * half..][..half];
        let byte = |v: f32| v.round().clamp(0.0, 255.0) as u8;
        for x in 0..w {
            let (mut yy, mut u, mut v) = (
                f32::from(luma[x]),
                f32::from(cb[x / 2]),
                f32::from(cr[x / 2]),
            );
            if !self.frame.full_range {
                yy = (yy - 16.0) * (255.0 / 219.0);
                u = (u - 128.0) * (255.0 / 224.0) + 128.0;
                v = (v - 128.0) * (255.0 / 224.0) + 128.0;
            }
            if self.frame.matrix == YuvMatrix::Bt709 {
                // BT.709 to BT.601, both full range (the product of the two standards' matrices).
                let (du, dv) = (u - 128.0, v - 128.0);
                yy += 0.1016 * du + 0.1963 * dv;
                u = 128.0 + 0.9899 * du - 0.1109 * dv;
                v = 128.0 - 0.0725 * du + 0.9834 * dv;
            }
            buffers[0].push(byte(yy));
            buffers[1].push(byte(u));
            buffers[2].push(byte(v));
        }
    }
}

/// The frame as a JPEG.
///
/// # Errors
/// [`EvidenceError::Encode`], for pictures above 65,535 pixels a side for instance.
pub fn encode_jpeg(frame: &Frame, quality: u8) -> Result<Vec<u8>, EvidenceError> {
    let limit = u32::from(u16::MAX);
    if frame.size.width_px > limit || frame.size.height_px > limit {
        return Err(EvidenceError::Encode(format!(
            "{} is too large for JPEG",
            frame.size
        )));
    }
    let mut out = Vec::with_capacity(frame.pixels.len() / 8);
    let mut encoder = Encoder::new(&mut out, quality.clamp(1, 100));
    encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::F_2_2);
    encoder
        .encode_image(Rows {
            frame,
            planes: frame.planes(),
        })
        .map_err(|e| EvidenceError::Encode(e.to_string()))?;
    Ok(out)
}

impl StillStore {
    /// Opens the folder, makes it if needed, and takes stock of what is there.
    ///
    /// # Errors
    /// [`EvidenceError::Folder`].
    pub fn open(config: EvidenceConfig, metrics: &Metrics) -> Result<Self, EvidenceError> {
        let failed = |path: &Path, source| EvidenceError::Folder {
            path: path.to_owned(),
            source,
        };
        fs::create_dir_all(&config.dir).map_err(|e| failed(&config.dir, e))?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&config.dir)
            .map_err(|e| failed(&config.dir, e))?
            .flatten()
        {
            let path = entry.path();
            match path.extension().and_then(|e| e.to_str()) {
                // Left by a crash in the middle of a write; no finding names it.
                Some("part") => fs::remove_file(&path).map_err(|e| failed(&path, e))?,
                Some("jpg") => {
                    let meta = entry.metadata().map_err(|e| failed(&path, e))?;
                    found.push((meta.modified().ok(), path, meta.len()));
                }
                _ => {}
            }
        }
        found.sort();
        let total_bytes = found.iter().map(|(_, _, bytes)| bytes).sum();
        Ok(Self {
            config,
            kept: found
                .into_iter()
                .map(|(_, path, bytes)| (path, bytes))
                .collect(),
            total_bytes,
            stills: metrics.counter(Metric::EvidenceStills, &[]),
            removed: metrics.counter(Metric::EvidenceRemoved, &[]),
        })
    }

    /// Keeps `frame` under `name` (no extension), and removes the oldest stills if that is needed to
    /// stay within the budget.
    ///
    /// # Errors
    /// [`EvidenceError`]; nothing half-written is left behind under the final name.
    pub fn keep(&mut self, frame: &Frame, name: &str) -> Result<Still, EvidenceError> {
        let jpeg = encode_jpeg(frame, self.config.jpeg_quality)?;
        let path = self.config.dir.join(format!("{name}.jpg"));
        let part = self.config.dir.join(format!("{name}.part"));
        let failed = |path: &Path, source| EvidenceError::Folder {
            path: path.to_owned(),
            source,
        };
        let write = || -> std::io::Result<()> {
            let mut file = fs::File::create(&part)?;
            file.write_all(&jpeg)?;
            file.sync_all()?;
            fs::rename(&part, &path)?;
            fs::File::open(&self.config.dir)?.sync_all()
        };
        write().map_err(|e| failed(&path, e))?;
        let bytes = jpeg.len() as u64;
        self.kept.push_back((path.clone(), bytes));
        self.total_bytes += bytes;
        self.stills.add(1);
        while self.total_bytes > self.config.max_bytes && self.kept.len() > 1 {
            let (oldest, bytes) = self.kept.pop_front().expect("more than one is kept");
            self.total_bytes -= bytes;
            self.removed.add(1);
            if let Err(e) = fs::remove_file(&oldest) {
                tracing::warn!(err = %e, file = %oldest.display(), "an old still could not be removed");
            }
        }
        let sha256 = sha256_hex(&jpeg);
        Ok(Still {
            path,
            sha256,
            bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::geometry::SizePx;
    use crate::base::ids::CameraIx;
    use crate::base::time::{FrameStamp, MonoMicros};

    fn frame(size: SizePx) -> Frame {
        let pixels = (0..Frame::byte_len(size))
            .map(|i| (i * 7 % 256) as u8)
            .collect();
        Frame {
            camera: CameraIx(0),
            stamp: FrameStamp::default(),
            size,
            full_range: false,
            matrix: YuvMatrix::Bt709,
            pixels,
            moving: Vec::new(),
            decoded: MonoMicros(0),
        }
    }

    fn store(dir: &Path, max_bytes: u64, metrics: &Metrics) -> StillStore {
        let config = EvidenceConfig {
            dir: dir.join("evidence"),
            jpeg_quality: 80,
            max_bytes,
        };
        StillStore::open(config, metrics).unwrap()
    }

    #[test]
    fn a_still_is_a_jpeg_with_the_hash_it_claims() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = store(dir.path(), 1 << 20, &Metrics::default());
        let still = store
            .keep(
                &frame(SizePx {
                    width_px: 65,
                    height_px: 33,
                }),
                "a",
            )
            .unwrap();
        let bytes = fs::read(&still.path).unwrap();
        assert_eq!(
            (&bytes[..2], &bytes[bytes.len() - 2..]),
            (&[0xff, 0xd8][..], &[0xff, 0xd9][..])
        );
        let sha = sha256_hex(&bytes);
        assert_eq!((sha, bytes.len() as u64), (still.sha256, still.bytes));
    }

    #[test]
    fn the_oldest_stills_go_first_and_the_budget_outlives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Metrics::default();
        let f = frame(SizePx {
            width_px: 64,
            height_px: 64,
        });
        let one = store(dir.path(), 1 << 20, &metrics)
            .keep(&f, "0")
            .unwrap()
            .bytes;
        fs::write(dir.path().join("evidence/x.part"), b"half").unwrap();
        let mut store = store(dir.path(), one * 3, &metrics);
        for name in ["1", "2", "3", "4"] {
            store.keep(&f, name).unwrap();
        }
        let mut left: Vec<_> = fs::read_dir(dir.path().join("evidence"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["2.jpg", "3.jpg", "4.jpg"]);
        assert_eq!(metrics.total(Metric::EvidenceRemoved), 2);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("evidence"), b"a file").unwrap();
        let config = EvidenceConfig {
            dir: dir.path().join("evidence"),
            jpeg_quality: 80,
            max_bytes: 1,
        };
        let e = StillStore::open(config, &Metrics::default()).unwrap_err();
        assert!(e.to_string().contains("evidence"), "{e}");
    }
}
