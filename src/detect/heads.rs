//! What a classifier says about a head, and which part of the picture it is shown.
use serde::Serialize;

use super::card::{HeadsCard, SmokingCard};
use super::preprocess::CropPx;
use crate::base::geometry::{NormRect, SizePx};

/// Outcomes for the head's cover, in output order.
pub const COVERS: [&str; 4] = ["hat", "cover-other", "bare", "unclear"];
/// Outcomes for the face, in output order.
pub const FACES: [&str; 4] = ["bare", "masked", "chin", "unseen"];

/// Labels that a classifier of heads adds to the detector's, for rules to name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadLabel {
    /// Purpose-made cook's headwear.
    Hat,
    /// Any other cover.
    CoverOther,
    /// None.
    Bare,
    /// Cannot be told. No rule should name it.
    Unclear,
    /// A cigarette in use.
    Smoking,
}

impl HeadLabel {
    /// All of them: the four covers in output order, then smoking.
    pub const ALL: [Self; 5] = [
        Self::Hat,
        Self::CoverOther,
        Self::Bare,
        Self::Unclear,
        Self::Smoking,
    ];

    /// As rules and payloads name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hat => "head-hat",
            Self::CoverOther => "head-cover-other",
            Self::Bare => "head-bare",
            Self::Unclear => "head-unclear",
            Self::Smoking => "smoking",
        }
    }
}

/// What the classifier says about one head: three answers, each on its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadState {
    /// Probabilities of [`COVERS`]; they sum to 1.
    pub cover: [f32; 4],
    /// Probabilities of [`FACES`]; they sum to 1.
    pub face: [f32; 4],
    /// Probability that this person smokes.
    pub smoking: f32,
}

impl HeadState {
    /// Values of the output tensor.
    pub const VALUES: usize = 9;

    /// From the output tensor; `None` if it is too short or holds what is no number.
    pub fn read(output: &[f32]) -> Option<Self> {
        let values: &[f32; Self::VALUES] = output.first_chunk()?;
        let [h, o, b, u, fb, fm, fc, fu, smoking] = values.map(|v| v.clamp(0.0, 1.0));
        values.iter().all(|v| v.is_finite()).then_some(Self {
            cover: [h, o, b, u],
            face: [fb, fm, fc, fu],
            smoking,
        })
    }

    /// The likeliest cover and its probability.
    pub fn likeliest_cover(&self) -> (HeadLabel, f32) {
        let mut best = (HeadLabel::ALL[0], self.cover[0]);
        for (label, &p) in HeadLabel::ALL.into_iter().zip(&self.cover).skip(1) {
            if p > best.1 {
                best = (label, p);
            }
        }
        best
    }
}

/// As `mingchu detect --json` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CoverScores {
    /// Cook's headwear.
    pub hat: f32,
    /// Any other cover.
    #[serde(rename = "cover-other")]
    pub cover_other: f32,
    /// None.
    pub bare: f32,
    /// Cannot be told.
    pub unclear: f32,
}

/// As `mingchu detect --json` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct FaceScores {
    /// Mouth and nose visible.
    pub bare: f32,
    /// Both covered.
    pub masked: f32,
    /// A mask below nose or chin.
    pub chin: f32,
    /// The face is turned away or hidden.
    pub unseen: f32,
}

impl From<&HeadState> for CoverScores {
    fn from(state: &HeadState) -> Self {
        let [hat, cover_other, bare, unclear] = state.cover;
        Self {
            hat,
            cover_other,
            bare,
            unclear,
        }
    }
}

impl From<&HeadState> for FaceScores {
    fn from(state: &HeadState) -> Self {
        let [bare, masked, chin, unseen] = state.face;
        Self {
            bare,
            masked,
            chin,
            unseen,
        }
    }
}

/// A box as pixels of a picture.
pub fn pixels(rect: &NormRect, picture: SizePx) -> CropPx {
    let (w, h) = (f64::from(picture.width_px), f64::from(picture.height_px));
    CropPx {
        x0: f64::from(rect.x0) * w,
        y0: f64::from(rect.y0) * h,
        x1: f64::from(rect.x1) * w,
        y1: f64::from(rect.y1) * h,
    }
}

/// The crop of the head that a face box belongs to: hair or hat, down to the collar.
pub fn head_of_face(face: &NormRect, picture: SizePx, card: &HeadsCard) -> CropPx {
    let CropPx { x0, y0, x1, y1 } = pixels(face, picture);
    let (w, h, middle) = (x1 - x0, y1 - y0, f64::midpoint(x0, x1));
    CropPx {
        x0: middle - card.width / 2.0 * w,
        y0: y0 - card.above * h,
        x1: middle + card.width / 2.0 * w,
        y1: y0 + card.below * h,
    }
}

/// The square in which a hand at the mouth of this face would be.
pub fn square_of_face(face: &NormRect, picture: SizePx, card: &SmokingCard) -> CropPx {
    let CropPx { x0, y0, x1, .. } = pixels(face, picture);
    let (w, middle) = (x1 - x0, f64::midpoint(x0, x1));
    let (side, top) = (card.width * w, y0 - card.above * w);
    CropPx {
        x0: middle - side / 2.0,
        y0: top,
        x1: middle + side / 2.0,
        y1: top + side,
    }
}

/// The square about a cigarette, with the hand or mouth that holds it.
pub fn square_of_cigarette(stick: &NormRect, picture: SizePx, card: &SmokingCard) -> CropPx {
    let CropPx { x0, y0, x1, y1 } = pixels(stick, picture);
    let half = card.cigarettes_width / 2.0 * (x1 - x0).max(y1 - y0);
    let (x, y) = (f64::midpoint(x0, x1), f64::midpoint(y0, y1));
    CropPx {
        x0: x - half,
        y0: y - half,
        x1: x + half,
        y1: y + half,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crop_holds_hair_and_collar_and_may_reach_beyond_the_picture() {
        let card = HeadsCard {
            of: vec!["face".to_owned()],
            min_score: 0.1,
            width: 2.0,
            above: 1.5,
            below: 1.25,
        };
        let picture = SizePx {
            width_px: 100,
            height_px: 200,
        };
        let face = NormRect {
            x0: 0.25,
            y0: 0.25,
            x1: 0.5,
            y1: 0.5,
        };
        let crop = head_of_face(&face, picture, &card);
        let want = CropPx {
            x0: 12.5,
            y0: -25.0,
            x1: 62.5,
            y1: 112.5,
        };
        assert_eq!(crop, want);
    }

    #[test]
    fn squares_follow_the_widths_of_faces_and_the_lengths_of_cigarettes() {
        let card = SmokingCard {
            of: vec!["face".to_owned()],
            min_score: 0.1,
            width: 3.0,
            above: 1.0,
            cigarettes: vec!["cigarette".to_owned()],
            cigarettes_min_score: 0.1,
            cigarettes_width: 4.0,
            per_frame: 1,
        };
        let picture = SizePx {
            width_px: 100,
            height_px: 200,
        };
        let rect = NormRect {
            x0: 0.25,
            y0: 0.25,
            x1: 0.5,
            y1: 0.5,
        };
        let square = |x0, y0, x1, y1| CropPx { x0, y0, x1, y1 };
        assert_eq!(
            square_of_face(&rect, picture, &card),
            square(0.0, 25.0, 75.0, 100.0)
        );
        assert_eq!(
            square_of_cigarette(&rect, picture, &card),
            square(-62.5, -25.0, 137.5, 175.0)
        );
    }

    #[test]
    fn an_output_that_is_no_answer_is_none() {
        assert_eq!(HeadState::read(&[0.1; 8]), None);
        let mut values = [0.1; 9];
        values[2] = 0.7;
        let state = HeadState::read(&values).unwrap();
        assert_eq!(state.likeliest_cover(), (HeadLabel::Bare, 0.7));
        values[4] = f32::NAN;
        assert_eq!(HeadState::read(&values), None);
    }
}
