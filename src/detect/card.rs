//! Model cards: what a network is, how to feed it, what its output means, how good it is.
//!
//! A card is a TOML file beside the network. The daemon reads only what it needs to run; quality,
//! training data and failures are there for people. A network whose SHA-256 differs from its card
//! is refused by name: a truncated copy or a swapped file must not run in silence.
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::heads::{HeadLabel, HeadState};
use crate::base::digest::sha256_hex;
use crate::base::geometry::SizePx;

/// Why a model was refused. All of them are for whoever installed it.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// The card or the network cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The card is no valid card.
    #[error("{}: {why}", path.display())]
    Invalid {
        /// Which card.
        path: PathBuf,
        /// What to change.
        why: String,
    },
    /// The network is not the one the card describes.
    #[error(
        "{}: its SHA-256 is {found}, its card says {expected}. Copy the network again, or take the card that came with it",
        path.display()
    )]
    HashMismatch {
        /// Which network.
        path: PathBuf,
        /// From the card.
        expected: String,
        /// Of the file.
        found: String,
    },
}

/// Order of the colour planes a network wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    /// Blue, green, red.
    Bgr,
    /// Red, green, blue.
    Rgb,
}

/// What decides the size of the input tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// The card: exactly `width_px` x `height_px`.
    #[default]
    Card,
    /// The frame: the network takes any multiples of its largest stride, and gets the frame's own
    /// shape with at most `width_px` x `height_px` pixels; see [`super::tensor_size`].
    Frame,
}

/// What the values of the input tensor are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueType {
    /// float32: `(pixel - mean) * scale`.
    #[default]
    F32,
    /// uint8: the pixels themselves, rounded to whole ones. For networks that begin with bytes, as those of int8 can:
    /// the tensor takes a quarter of the memory, and nothing is turned into floats and back.
    U8,
}

impl ValueType {
    /// The word in the card.
    pub fn word(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::U8 => "u8",
        }
    }
}

/// How to fill the input tensor: `[1, 3, height_px, width_px]` of what `type` says (where the network leaves the
/// batch free, several at once), the picture scaled to fit and put in the top-left corner, the rest filled with `pad`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputCard {
    /// Columns.
    pub width_px: u32,
    /// Rows.
    pub height_px: u32,
    /// What its values are.
    #[serde(default, rename = "type")]
    pub of: ValueType,
    /// Plane order.
    pub channels: Channels,
    /// value = (pixel - mean) * scale, per plane in `channels` order, pixel in 0..=255.
    pub mean: [f32; 3],
    /// See `mean`.
    pub scale: f32,
    /// Pixel value of what the picture does not cover.
    pub pad: f32,
    /// Whether the tensor is always that size.
    #[serde(default)]
    pub fit: Fit,
}

/// What the output tensor means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decoder {
    /// Anchor-free grid of YOLOX (Ge et al. 2021, <https://arxiv.org/abs/2107.08430>): float32
    /// `[1, cells, 5 + classes]`, rows by stride then row-major; centre offset x, y and log w, h
    /// relative to the stride, objectness and class probabilities already through the sigmoid.
    Yolox,
    /// A classifier of head crops: float32 `[1, 9]`, probabilities of the head's cover
    /// ([`super::COVERS`]), of its face ([`super::FACES`]), and of smoking. Needs the card's
    /// `[heads]`.
    Heads,
    /// Whether somebody smokes in a square: float32 `[1, 1]`, a probability. Needs the card's
    /// `[smoking]`.
    Smoking,
}

/// The output section.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputCard {
    /// Which decoder.
    pub decoder: Decoder,
    /// Pixels per cell of each grid, in output order. None for a classifier.
    #[serde(default)]
    pub strides: Vec<u32>,
}

/// Which heads a classifier looks at, and how they are cut out.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadsCard {
    /// Labels of the detector whose boxes are faces: where the face is, or would be if it were
    /// seen.
    pub of: Vec<String>,
    /// Boxes below this score are not looked at.
    pub min_score: f32,
    /// Width of the crop, centred on the box, in widths of the box.
    pub width: f64,
    /// How far it reaches above the box's top, in heights of the box.
    pub above: f64,
    /// How far it reaches below the box's top, in heights of the box.
    pub below: f64,
}

/// Where a network looks for smoking: squares about heads, and about what the detector takes for a
/// cigarette, however unsure it is.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmokingCard {
    /// Labels of the detector whose boxes are faces.
    pub of: Vec<String>,
    /// Faces below this score are not looked at.
    pub min_score: f32,
    /// Side of the square, centred on the face, in widths of the face.
    pub width: f64,
    /// How far it reaches above the face's top, in widths of the face.
    pub above: f64,
    /// Labels of the detector whose boxes are cigarettes. Their score becomes the geometric mean of
    /// what it was and, counted twice, of what is seen here.
    pub cigarettes: Vec<String>,
    /// Cigarettes below this score are not looked at.
    pub cigarettes_min_score: f32,
    /// Side of the square about a cigarette's middle, in longer sides of its box.
    pub cigarettes_width: f64,
    /// Faces looked at in one frame at most, and as many cigarettes; taking turns where there are more.
    pub per_frame: usize,
}

/// Native-resolution regions: where something moves, a square of the camera's own pixels is looked at
/// too, because a small thing is lost in a frame that is shrunk to the tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionsCard {
    /// Side of a region in pixels of the camera, a multiple of the largest stride.
    pub side_px: u32,
    /// Regions looked at in one frame at most; each costs `side_px`² / the frame's tensor of its time. In a second
    /// the site's budget holds, too.
    pub per_frame: usize,
}

/// The thresholds section.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThresholdsCard {
    /// Boxes below this score are dropped before anything else sees them.
    pub low: f32,
    /// Of two boxes of one group that overlap more than this, the better one stays.
    pub nms_iou: f32,
}

/// One class. Further keys (precision, recall, …) are for people.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ClassCard {
    /// Its label, as rules name it.
    pub name: String,
    /// Classes of one group are states of one thing (a face, bare or masked): they suppress each
    /// other and share tracks. Default: a group of its own.
    #[serde(default)]
    pub group: Option<String>,
    /// The operating point the card's figures were measured at; what a rule takes if it names none.
    pub threshold: f32,
}

/// A model card.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// Short name.
    pub name: String,
    /// Rises with every new set of weights.
    pub version: String,
    /// The network's file, beside the card.
    pub file: PathBuf,
    /// SHA-256 of that file, lowercase hex.
    pub sha256: String,
    /// Licence of the weights.
    pub licence: String,
    /// One sentence for people.
    pub summary: String,
    /// How to feed it.
    pub input: InputCard,
    /// What comes out.
    pub output: OutputCard,
    /// Where to cut.
    pub thresholds: ThresholdsCard,
    /// What it tells apart: of a detector in output order, of a classifier the labels it adds
    /// ([`super::HeadLabel`]), any of them.
    pub classes: Vec<ClassCard>,
    /// For a classifier of heads.
    #[serde(default)]
    pub heads: Option<HeadsCard>,
    /// For a network that looks for smoking.
    #[serde(default)]
    pub smoking: Option<SmokingCard>,
    /// For a detector with `input.fit = "frame"`.
    #[serde(default)]
    pub regions: Option<RegionsCard>,
    /// For people.
    #[serde(default)]
    pub training: toml::Table,
    /// For people.
    #[serde(default)]
    pub quality: toml::Table,
}

/// A card with its network, checked against each other.
#[derive(Clone)]
pub struct LoadedModel {
    /// The card.
    pub card: Card,
    /// The network's bytes: read once, so that what was hashed is what runs.
    pub network: std::sync::Arc<[u8]>,
}

impl std::fmt::Debug for LoadedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LoadedModel").field(&self.card.name).finish()
    }
}

impl LoadedModel {
    /// Reads the card at `path` and the network it names.
    ///
    /// # Errors
    /// [`CardError`] names the file and what to do.
    pub fn load(path: &Path) -> Result<Self, CardError> {
        let unreadable = |path: &Path, source| CardError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let text = std::fs::read_to_string(path).map_err(|e| unreadable(path, e))?;
        let invalid = |why: String| CardError::Invalid {
            path: path.to_owned(),
            why,
        };
        let card: Card = toml::from_str(&text).map_err(|e| invalid(e.to_string()))?;
        card.check().map_err(invalid)?;
        let file = path.parent().unwrap_or(Path::new(".")).join(&card.file);
        let network = std::fs::read(&file).map_err(|e| unreadable(&file, e))?;
        let found = sha256_hex(&network);
        if found != card.sha256 {
            return Err(CardError::HashMismatch {
                path: file,
                expected: card.sha256,
                found,
            });
        }
        Ok(Self {
            card,
            network: network.into(),
        })
    }
}

impl Card {
    fn check(&self) -> Result<(), String> {
        let i = &self.input;
        match self.output.decoder {
            Decoder::Yolox
                if self.output.strides.is_empty() || self.output.strides.contains(&0) =>
            {
                return Err("output.strides needs at least one stride above 0".to_owned());
            }
            _ if self.heads.is_some() && self.output.decoder != Decoder::Heads => {
                return Err("[heads] is for the decoder `heads`: take it out".to_owned());
            }
            _ if self.smoking.is_some() && self.output.decoder != Decoder::Smoking => {
                return Err("[smoking] is for the decoder `smoking`: take it out".to_owned());
            }
            Decoder::Yolox => {}
            Decoder::Heads => self.check_heads()?,
            Decoder::Smoking => self.check_smoking()?,
        }
        let largest = self.step();
        if i.width_px == 0 || i.height_px == 0 || i.width_px > 4096 || i.height_px > 4096 {
            return Err("input.width_px and input.height_px must be 1 to 4096".to_owned());
        }
        if !i.width_px.is_multiple_of(largest) || !i.height_px.is_multiple_of(largest) {
            return Err(format!(
                "input size must be a multiple of the largest stride, {largest}"
            ));
        }
        let mut off = i.mean.iter().copied().chain([i.scale - 1.0]);
        let is_plain = off.all(|v| v.abs() < f32::EPSILON);
        if i.of == ValueType::U8 && !is_plain {
            return Err(
                "input.type = \"u8\" needs input.mean = [0.0, 0.0, 0.0] and input.scale = 1.0: a byte is the pixel itself"
                    .to_owned(),
            );
        }
        if !(0.0..=255.0).contains(&i.pad) || (i.of == ValueType::U8 && i.pad.fract() != 0.0) {
            return Err(
                "input.pad must be a pixel, 0 to 255, and a whole one if input.type = \"u8\""
                    .to_owned(),
            );
        }
        if let Some(regions) = &self.regions {
            if i.fit != Fit::Frame || self.output.decoder != Decoder::Yolox {
                return Err("[regions] needs a detector with input.fit = \"frame\"".to_owned());
            }
            let side = regions.side_px;
            if side == 0 || side > 1024 || !side.is_multiple_of(largest) {
                return Err(format!(
                    "regions.side_px must be a multiple of the largest stride, {largest}, up to 1024"
                ));
            }
        }
        if self.classes.is_empty() {
            return Err("at least one [[classes]] is needed".to_owned());
        }
        let share = |v: f32| (0.0..=1.0).contains(&v);
        if !share(self.thresholds.low) || !share(self.thresholds.nms_iou) {
            return Err("thresholds.low and thresholds.nms_iou must be 0.0 to 1.0".to_owned());
        }
        if let Some(c) = self.classes.iter().find(|c| !share(c.threshold)) {
            return Err(format!("class {}: threshold must be 0.0 to 1.0", c.name));
        }
        Ok(())
    }

    fn check_heads(&self) -> Result<(), String> {
        let Some(heads) = &self.heads else {
            return Err("the decoder `heads` needs the table [heads]".to_owned());
        };
        self.check_classifier(&HeadLabel::ALL.map(HeadLabel::as_str))?;
        if heads.of.is_empty() {
            return Err("heads.of needs at least one label of a detector".to_owned());
        }
        let size = |v: f64| v > 0.0 && v <= 10.0;
        if !size(heads.width) || !size(heads.below) || !(0.0..=10.0).contains(&heads.above) {
            return Err(
                "heads.width and heads.below must be above 0 and at most 10, heads.above 0 to 10"
                    .to_owned(),
            );
        }
        if !(0.0..=1.0).contains(&heads.min_score) {
            return Err("heads.min_score must be 0.0 to 1.0".to_owned());
        }
        Ok(())
    }

    fn check_smoking(&self) -> Result<(), String> {
        let Some(smoking) = &self.smoking else {
            return Err("the decoder `smoking` needs the table [smoking]".to_owned());
        };
        self.check_classifier(&[HeadLabel::Smoking.as_str()])?;
        if smoking.of.is_empty() || smoking.cigarettes.is_empty() {
            return Err(
                "smoking.of and smoking.cigarettes each need at least one label of a detector"
                    .to_owned(),
            );
        }
        let size = |v: f64| v > 0.0 && v <= 10.0;
        if !size(smoking.width)
            || !size(smoking.cigarettes_width)
            || !(0.0..=10.0).contains(&smoking.above)
        {
            return Err(
                "smoking.width and smoking.cigarettes_width must be above 0 and at most 10, smoking.above 0 to 10"
                    .to_owned(),
            );
        }
        let share = |v: f32| (0.0..=1.0).contains(&v);
        if !share(smoking.min_score) || !share(smoking.cigarettes_min_score) {
            return Err(
                "smoking.min_score and smoking.cigarettes_min_score must be 0.0 to 1.0".to_owned(),
            );
        }
        Ok(())
    }

    /// What every network that looks at crops must keep to; `gives` are the labels it may add.
    fn check_classifier(&self, gives: &[&str]) -> Result<(), String> {
        if self.input.fit == Fit::Frame || !self.output.strides.is_empty() {
            return Err(
                "a classifier has neither input.fit = \"frame\" nor output.strides".to_owned(),
            );
        }
        match self
            .classes
            .iter()
            .find(|c| !gives.contains(&c.name.as_str()))
        {
            Some(class) => Err(format!(
                "class {}: this classifier gives {}",
                class.name,
                gives.join(", ")
            )),
            None => Ok(()),
        }
    }

    /// What the sides of the input tensor are multiples of.
    pub fn step(&self) -> u32 {
        self.output.strides.iter().copied().max().unwrap_or(1)
    }

    /// Cells of all grids together for a tensor of this size: rows of the output tensor.
    pub fn cells(&self, tensor: SizePx) -> usize {
        let grids = self.output.strides.iter();
        grids
            .map(|s| (tensor.width_px / s) as usize * (tensor.height_px / s) as usize)
            .sum()
    }

    /// Values of the output tensor for an input of this size.
    pub fn output_len(&self, tensor: SizePx) -> usize {
        match self.output.decoder {
            Decoder::Yolox => self.cells(tensor) * (5 + self.classes.len()),
            Decoder::Heads => HeadState::VALUES,
            Decoder::Smoking => 1,
        }
    }

    /// Whether it looks at what a detector has found, and adds labels to that.
    pub fn is_second_stage(&self) -> bool {
        self.output.decoder != Decoder::Yolox
    }

    /// Labels of a detector that it cannot do without.
    pub fn looks_for(&self) -> &[String] {
        let of_heads = self.heads.as_ref().map(|h| &h.of);
        of_heads
            .or_else(|| self.smoking.as_ref().map(|s| &s.of))
            .map_or(&[], Vec::as_slice)
    }

    /// The input tensor's size as the card gives it.
    pub fn tensor(&self) -> SizePx {
        SizePx {
            width_px: self.input.width_px,
            height_px: self.input.height_px,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub const CARD: &str = r#"
name = "toy"
version = "1"
file = "toy.onnx"
sha256 = "SHA"
licence = "Apache-2.0"
summary = "for tests"
[input]
width_px = 64
height_px = 32
channels = "bgr"
mean = [0.0, 0.0, 0.0]
scale = 1.0
pad = 114
[output]
decoder = "yolox"
strides = [8, 16, 32]
[thresholds]
low = 0.1
nms_iou = 0.5
[[classes]]
name = "face-bare"
group = "face"
threshold = 0.5
precision = 0.9
[[classes]]
name = "face-masked"
group = "face"
threshold = 0.5
"#;

    fn write(dir: &Path, card: &str) -> PathBuf {
        std::fs::write(dir.join("toy.onnx"), b"network").unwrap();
        std::fs::write(dir.join("toy.toml"), card).unwrap();
        dir.join("toy.toml")
    }

    #[test]
    fn a_network_that_is_not_the_cards_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &CARD.replace("SHA", "0000"));
        let e = LoadedModel::load(&path).unwrap_err();
        assert!(matches!(&e, CardError::HashMismatch { expected, .. } if expected == "0000"));
        assert!(e.to_string().contains("toy.onnx"), "{e}");
        let path = write(dir.path(), &CARD.replace("SHA", &sha256_hex(b"network")));
        let model = LoadedModel::load(&path).unwrap();
        assert_eq!(model.card.cells(model.card.tensor()), 8 * 4 + 4 * 2 + 2);
    }

    #[test]
    fn a_card_that_makes_no_sense_says_what_to_change() {
        let dir = tempfile::tempdir().unwrap();
        for (from, to, says) in [
            (
                "width_px = 64",
                "width_px = 60",
                "multiple of the largest stride",
            ),
            ("low = 0.1", "low = 7.0", "thresholds.low"),
            (
                "scale = 1.0",
                "scale = 0.5\ntype = \"u8\"",
                "needs input.mean",
            ),
            ("pad = 114", "pad = 0.5\ntype = \"u8\"", "input.pad"),
            ("pad = 114", "pad = 300", "input.pad"),
            ("pad = 114", "pad = 114\ntype = \"i8\"", "`f32` or `u8`"),
            ("strides = [8, 16, 32]", "strides = []", "stride above 0"),
            ("scale = 1.0", "scale = 1.0\nscael = 2.0", "scael"),
            ("\"yolox\"", "\"heads\"", "needs the table [heads]"),
            ("\"yolox\"", "\"smoking\"", "needs the table [smoking]"),
            (
                "[thresholds]",
                "[regions]\nside_px = 64\nper_frame = 1\n[thresholds]",
                "input.fit",
            ),
            (
                "pad = 114",
                "pad = 114\nfit = \"frame\"\n[regions]\nside_px = 50\nper_frame = 1",
                "regions.side_px",
            ),
        ] {
            let path = write(dir.path(), &CARD.replace(from, to));
            let e = LoadedModel::load(&path).unwrap_err().to_string();
            assert!(e.contains(says) && e.contains("toy.toml"), "{e}");
        }
        let e = LoadedModel::load(&dir.path().join("none.toml")).unwrap_err();
        assert!(matches!(e, CardError::Unreadable { .. }));
    }
}
