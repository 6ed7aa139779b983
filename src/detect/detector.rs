//! The site's models together: classes under one numbering, and the detector that runs them all on
//! a frame.
use std::path::PathBuf;
use std::sync::Arc;

use super::budget::SharedBudget;
use super::card::{Card, CardError, Decoder, HeadsCard, LoadedModel, SmokingCard};
use super::config::RegionLimits;
use super::detections::{Detection, Detections};
use super::heads::{
    HeadLabel, HeadState, head_of_face, pixels, square_of_cigarette, square_of_face,
};
use super::onnx::{Network, OnnxError, Runtime};
use super::postprocess::{RawBox, decode_yolox, suppress};
use super::preprocess::{CropPx, Letterbox, Preprocessor};
use super::regions::{in_picture, is_part, regions};
use super::turns::{LeftOut, take_turns, turn_of};
use crate::base::geometry::{NormRect, SizePx};
use crate::base::ids::ClassId;
use crate::base::laps::{Part, lap};
use crate::base::pool::Pool;
use crate::base::time::Clock;
use crate::decode::Frame;

/// Why the models cannot be used together.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    /// A card or network is at fault.
    #[error(transparent)]
    Card(#[from] CardError),
    /// The runtime or a network does not work here.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// Two models give one label: a rule could not say which it means.
    #[error(
        "models {first} and {second} both give the class `{label}`: take one of them out of detect.models"
    )]
    SameLabel {
        /// The label.
        label: String,
        /// One model.
        first: String,
        /// The other.
        second: String,
    },
    /// A classifier of heads without a detector that finds them.
    #[error(
        "model {model} classifies what a detector calls {}, but no other model gives any of these: add the detector to detect.models",
        of.join(", ")
    )]
    NoHeads {
        /// The classifier.
        model: String,
        /// Labels it looks for.
        of: Vec<String>,
    },
    /// No model at all.
    #[error("detect.models is empty: name at least one model card")]
    None,
}

/// One class of the site.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassInfo {
    /// Its label, unique in the site.
    pub label: String,
    /// Classes of one group are states of one thing; see [`super::card::ClassCard::group`].
    pub group: u16,
    /// Index of its model.
    pub model: usize,
    /// The card's operating point.
    pub threshold: f32,
}

/// All models of a site, loaded and checked; shared by the workers.
#[derive(Clone, Debug)]
pub struct Models {
    runtime: Runtime,
    loaded: Arc<[LoadedModel]>,
    classes: Arc<[ClassInfo]>,
    budget: Option<SharedBudget>,
}

impl Models {
    /// Loads the runtime and all cards with their networks, and runs each network once.
    ///
    /// # Errors
    /// [`ModelsError`] names the file and what to do.
    pub fn load(runtime: Runtime, cards: &[PathBuf]) -> Result<Self, ModelsError> {
        Self::load_with(runtime, cards, RegionLimits::default())
    }

    /// The same with other limits of native-resolution regions.
    ///
    /// # Errors
    /// [`ModelsError`] names the file and what to do.
    pub fn load_with(
        runtime: Runtime,
        cards: &[PathBuf],
        regions: RegionLimits,
    ) -> Result<Self, ModelsError> {
        let mut models = cards
            .iter()
            .map(|c| LoadedModel::load(c))
            .collect::<Result<Vec<_>, _>>()?;
        for model in &mut models {
            if let (Some(of), Some(limit)) = (&mut model.card.regions, regions.per_frame) {
                of.per_frame = limit;
            }
        }
        Ok(Self {
            budget: regions.per_s.map(SharedBudget::new),
            ..Self::of(runtime, models)?
        })
    }

    /// The same with models that are loaded already, and no budget of regions: for stills.
    ///
    /// # Errors
    /// [`ModelsError`] names the model and what to do.
    pub fn of(runtime: Runtime, models: Vec<LoadedModel>) -> Result<Self, ModelsError> {
        if models.is_empty() {
            return Err(ModelsError::None);
        }
        let mut classes: Vec<ClassInfo> = Vec::new();
        let mut groups: Vec<(usize, String)> = Vec::new();
        for (m, model) in models.iter().enumerate() {
            for class in &model.card.classes {
                if let Some(other) = classes.iter().find(|c| c.label == class.name) {
                    return Err(ModelsError::SameLabel {
                        label: class.name.clone(),
                        first: models[other.model].card.name.clone(),
                        second: model.card.name.clone(),
                    });
                }
                let key = (m, class.group.clone().unwrap_or_else(|| class.name.clone()));
                let known = groups.iter().position(|g| *g == key);
                let group = known.unwrap_or_else(|| {
                    groups.push(key);
                    groups.len() - 1
                }) as u16;
                let (label, threshold) = (class.name.clone(), class.threshold);
                classes.push(ClassInfo {
                    label,
                    group,
                    model: m,
                    threshold,
                });
            }
        }
        for model in &models {
            let of = model.card.looks_for();
            let found =
                |c: &ClassInfo| of.contains(&c.label) && !models[c.model].card.is_second_stage();
            if !of.is_empty() && !classes.iter().any(found) {
                return Err(ModelsError::NoHeads {
                    model: model.card.name.clone(),
                    of: of.to_vec(),
                });
            }
        }
        let this = Self {
            runtime,
            loaded: models.into(),
            classes: classes.into(),
            budget: None,
        };
        this.detector()?;
        Ok(this)
    }

    /// All classes; a [`ClassId`] is an index into them.
    pub fn classes(&self) -> &[ClassInfo] {
        &self.classes
    }

    /// The models, in config order.
    pub fn models(&self) -> &[LoadedModel] {
        &self.loaded
    }

    /// The class with this label.
    pub fn class(&self, label: &str) -> Option<ClassId> {
        self.classes
            .iter()
            .position(|c| c.label == label)
            .map(|i| ClassId(i as u16))
    }

    /// The group of each class, by class id: what the tracker wants.
    pub fn groups(&self) -> Arc<[u16]> {
        self.classes.iter().map(|c| c.group).collect()
    }

    /// Sessions of their own for one worker; the budget of regions is all workers' together.
    ///
    /// # Errors
    /// [`OnnxError`] names the model.
    pub fn detector(&self) -> Result<Detector, OnnxError> {
        self.sessions(|_| true)
    }

    /// The same with those models only that find one of the classes `wanted` (by class id) in the whole
    /// picture, and without second looks at what they find. With another limit of native-resolution
    /// regions in a frame than the cards', and outside the site's budget of them.
    ///
    /// # Errors
    /// [`OnnxError`] names the model.
    pub fn finder(&self, wanted: &[bool], regions: usize) -> Result<Detector, OnnxError> {
        let mut finder = self.sessions(|model| self.finds(model, wanted))?;
        finder.budget = None;
        for stage in &mut finder.stages {
            if let Some(of) = &mut stage.card.regions {
                of.per_frame = regions;
            }
        }
        Ok(finder)
    }

    /// Whether the model at this index finds one of the classes `wanted` in the whole picture.
    pub fn finds(&self, model: usize, wanted: &[bool]) -> bool {
        let mut classes = self.classes.iter().zip(wanted);
        let gives = classes.any(|(class, wanted)| *wanted && class.model == model);
        gives && !self.loaded[model].card.is_second_stage()
    }

    /// The same, but their networks do not load any more.
    #[cfg(test)]
    pub(crate) fn spoiled(&self) -> Self {
        let spoil = |model: &LoadedModel| LoadedModel {
            network: Arc::from(&b"no network"[..]),
            ..model.clone()
        };
        Self {
            loaded: self.loaded.iter().map(spoil).collect(),
            ..self.clone()
        }
    }

    fn sessions(&self, of: impl Fn(usize) -> bool) -> Result<Detector, OnnxError> {
        let (mut stages, mut heads, mut smoking) = (Vec::new(), Vec::new(), Vec::new());
        let named = |labels: &[String]| -> Vec<bool> {
            let classes = self.classes.iter();
            classes.map(|c| labels.contains(&c.label)).collect()
        };
        let mut next_class = 0;
        for (index, model) in self.loaded.iter().enumerate() {
            let card = &model.card;
            let first_class = next_class;
            next_class += card.classes.len();
            if !of(index) {
                continue;
            }
            let runner = Runner {
                network: Network::load(&self.runtime, model)?,
                preprocessor: Preprocessor::new(card.input.clone(), card.step()),
            };
            match (card.output.decoder, &card.heads, &card.smoking) {
                (Decoder::Smoking, _, Some(of)) => smoking.push(SmokingStage {
                    runner,
                    faces: named(&of.of),
                    cigarettes: named(&of.cigarettes),
                    card: of.clone(),
                    label: (!card.classes.is_empty()).then_some(ClassId(first_class as u16)),
                    low: card.thresholds.low,
                    asked: Default::default(),
                }),
                (Decoder::Heads, Some(of), _) => heads.push(HeadStage {
                    runner,
                    card: of.clone(),
                    looks_at: named(&of.of),
                    labels: HeadLabel::ALL.map(|l| {
                        let at = card.classes.iter().position(|c| c.name == l.as_str());
                        at.map(|at| ClassId((first_class + at) as u16))
                    }),
                    low: card.thresholds.low,
                    asked: Vec::new(),
                }),
                _ => stages.push(Stage {
                    runner,
                    card: card.clone(),
                    first_class,
                    boxes: Boxes::default(),
                }),
            }
        }
        Ok(Detector {
            stages,
            heads,
            smoking,
            classes: self.classes.clone(),
            budget: self.budget.clone(),
            left_out: LeftOut::default(),
            lists: Pool::default(),
        })
    }
}

/// A network with what feeds it.
#[derive(Debug)]
struct Runner {
    network: Network,
    preprocessor: Preprocessor,
}

impl Runner {
    /// Runs the network on a part of the picture, stretched to the card's size.
    fn run_crop<T>(
        &mut self,
        frame: &Frame,
        crop: CropPx,
        read: impl FnOnce(&[f32]) -> T,
    ) -> Result<T, OnnxError> {
        lap(Part::Postprocess);
        let size = self.preprocessor.card();
        let preprocessor = &mut self.preprocessor;
        self.network.run(
            size,
            |tensor| preprocessor.fill_each(frame, &[crop], size, tensor),
            read,
        )
    }
}

#[derive(Debug)]
struct Stage {
    runner: Runner,
    card: Card,
    first_class: usize,
    boxes: Boxes,
}

/// Lists that are filled anew with each frame, kept for their memory.
#[derive(Debug, Default)]
struct Boxes {
    /// Of the frame, then of all that was looked at.
    kept: Vec<RawBox>,
    /// Of one region.
    region: Vec<RawBox>,
    /// Of all regions.
    more: Vec<RawBox>,
    /// The regions.
    squares: Vec<CropPx>,
}

impl Stage {
    fn detect(
        &mut self,
        frame: &Frame,
        classes: &[ClassInfo],
        items: &mut Vec<Detection>,
        budget: Option<&SharedBudget>,
        left_out: &mut LeftOut,
    ) -> Result<(), OnnxError> {
        let Runner {
            network,
            preprocessor,
        } = &mut self.runner;
        lap(Part::Postprocess);
        let letterbox = preprocessor.letterbox(frame.size);
        let card = &self.card;
        let Boxes {
            kept,
            region,
            more,
            squares,
        } = &mut self.boxes;
        network.run(
            letterbox.tensor,
            |tensor| preprocessor.fill_whole(frame, tensor),
            |out| decode_yolox(card, &letterbox, out, kept),
        )?;
        let group = |class: usize| classes[self.first_class + class].group;
        suppress(kept, card.thresholds.nms_iou, group);
        if let Some(of) = &card.regions {
            regions(of, frame.size, letterbox.scaled, &frame.moving, squares);
            let wanted = squares.len().min(of.per_frame);
            let granted = budget.map_or(wanted, |budget| {
                budget.ask(frame.camera, frame.stamp.received, wanted)
            });
            left_out.regions += (squares.len() - wanted) as u64;
            left_out.over_budget += (wanted - granted) as u64;
            take_turns(squares, granted, turn_of(&frame.stamp));
            let size = SizePx {
                width_px: of.side_px,
                height_px: of.side_px,
            };
            let whole = Letterbox {
                scaled: size,
                tensor: size,
            };
            more.clear();
            for batch in squares.chunks(network.most_at_once()) {
                lap(Part::Postprocess);
                network.run_each(
                    size,
                    batch.len(),
                    |tensor| preprocessor.fill_each(frame, batch, size, tensor),
                    |square, out| {
                        decode_yolox(card, &whole, out, region);
                        in_picture(region, &batch[square], frame.size);
                        more.append(region);
                    },
                )?;
            }
            more.retain(|b| !is_part(b, kept, group));
            if !more.is_empty() {
                more.append(kept);
                std::mem::swap(more, kept);
                suppress(kept, card.thresholds.nms_iou, group);
            }
        }
        items.extend(kept.iter().map(|&RawBox { class, score, rect }| Detection {
            class: ClassId((self.first_class + class) as u16),
            score,
            rect,
            head: None,
        }));
        Ok(())
    }
}

/// The second stage: looks at the heads that the first has found, each on its own pixels.
#[derive(Debug)]
struct HeadStage {
    runner: Runner,
    card: HeadsCard,
    /// By class id: whether its boxes are faces.
    looks_at: Vec<bool>,
    /// Class ids of [`HeadLabel::ALL`], as far as the card gives them.
    labels: [Option<ClassId>; 5],
    low: f32,
    /// Which of the frame's are looked at; kept for its memory.
    asked: Vec<usize>,
}

impl HeadStage {
    fn classify(&mut self, frame: &Frame, crop: CropPx) -> Result<Option<HeadState>, OnnxError> {
        self.runner.run_crop(frame, crop, HeadState::read)
    }

    /// Adds to `items` what is seen on the heads among them. A label's score is its probability
    /// times the score of the head: of a head that may be none, nothing is certain.
    fn look(
        &mut self,
        frame: &Frame,
        items: &mut Vec<Detection>,
        left_out: &mut LeftOut,
    ) -> Result<(), OnnxError> {
        let mut heads = std::mem::take(&mut self.asked);
        heads.clear();
        heads.extend((0..items.len()).filter(|&i| {
            let item = &items[i];
            self.looks_at[usize::from(item.class.0)] && item.score >= self.card.min_score
        }));
        heads.sort_by(|&a, &b| items[b].score.total_cmp(&items[a].score));
        left_out.heads += heads.len().saturating_sub(MAX_HEADS) as u64;
        heads.truncate(MAX_HEADS);
        for &i in &heads {
            let face = items[i];
            let crop = head_of_face(&face.rect, frame.size, &self.card);
            let Some(state) = self.classify(frame, crop)? else {
                continue;
            };
            items[i].head = Some(state);
            let (cover, p) = state.likeliest_cover();
            for (label, p) in [(cover, p), (HeadLabel::Smoking, state.smoking)] {
                let score = p * face.score;
                if let Some(class) = self.labels[label as usize]
                    && score >= self.low
                {
                    items.push(Detection {
                        class,
                        score,
                        rect: head_rect(&face.rect),
                        head: None,
                    });
                }
            }
        }
        self.asked = heads;
        Ok(())
    }
}

/// Looks for smoking on heads, and again at what may be a cigarette.
#[derive(Debug)]
struct SmokingStage {
    runner: Runner,
    card: SmokingCard,
    /// By class id: whether its boxes are faces.
    faces: Vec<bool>,
    /// By class id: whether its boxes are cigarettes.
    cigarettes: Vec<bool>,
    label: Option<ClassId>,
    low: f32,
    /// Which of the frame's heads and cigarettes are looked at; kept for their memory.
    asked: [Vec<usize>; 2],
}

impl SmokingStage {
    fn probability(&mut self, frame: &Frame, crop: CropPx) -> Result<Option<f32>, OnnxError> {
        self.runner.run_crop(frame, crop, |out| {
            let p = out.first().copied().filter(|p| p.is_finite());
            p.map(|p| p.clamp(0.0, 1.0))
        })
    }

    /// Puts into `all` which of `items` to look at: those of `kind` from `least` on, in turns where they are
    /// many; returns how many were left out.
    fn whom(
        &self,
        kind: &[bool],
        least: f32,
        turn: u64,
        items: &[Detection],
        all: &mut Vec<usize>,
    ) -> u64 {
        let asked = |&i: &usize| kind[usize::from(items[i].class.0)] && items[i].score >= least;
        all.clear();
        all.extend((0..items.len()).filter(asked));
        all.sort_by(|&a, &b| items[b].score.total_cmp(&items[a].score));
        take_turns(all, self.card.per_frame, turn)
    }

    /// Says of heads whether they smoke, and mends the scores of cigarettes.
    fn look(
        &mut self,
        frame: &Frame,
        items: &mut Vec<Detection>,
        left_out: &mut LeftOut,
    ) -> Result<(), OnnxError> {
        let turn = turn_of(&frame.stamp);
        let [mut heads, mut cigarettes] = std::mem::take(&mut self.asked);
        let least = self.card.min_score;
        left_out.smoking += self.whom(&self.faces, least, turn, items, &mut heads);
        let least = self.card.cigarettes_min_score;
        left_out.smoking += self.whom(&self.cigarettes, least, turn, items, &mut cigarettes);
        for &i in &cigarettes {
            let square = square_of_cigarette(&items[i].rect, frame.size, &self.card);
            if let Some(p) = self.probability(frame, square)? {
                // The second look, at the camera's own pixels, counts double.
                items[i].score = (items[i].score * p * p).cbrt();
            }
        }
        for &i in &heads {
            let face = items[i];
            let square = square_of_face(&face.rect, frame.size, &self.card);
            let Some(p) = self.probability(frame, square)? else {
                continue;
            };
            if let Some(state) = &mut items[i].head {
                state.smoking = p;
            }
            if let Some(class) = self.label
                && p >= self.low
            {
                items.push(Detection {
                    class,
                    score: p,
                    rect: head_rect(&face.rect),
                    head: None,
                });
            }
        }
        self.asked = [heads, cigarettes];
        Ok(())
    }
}

/// Hair and hat above a face: 0.6 of its height.
fn head_rect(face: &NormRect) -> NormRect {
    let height = face.y1 - face.y0;
    NormRect::clipped(face.x0, face.y0 - 0.6 * height, face.x1, face.y1)
}

/// Heads looked at in one picture, the likeliest: a queue at the counter must not starve the other
/// cameras.
pub const MAX_HEADS: usize = 24;

/// Runs all models of a site on frames, on the calling thread.
#[derive(Debug)]
pub struct Detector {
    stages: Vec<Stage>,
    heads: Vec<HeadStage>,
    smoking: Vec<SmokingStage>,
    classes: Arc<[ClassInfo]>,
    budget: Option<SharedBudget>,
    left_out: LeftOut,
    lists: Pool<Detection>,
}

impl Detector {
    /// What the models see in `frame`.
    ///
    /// # Errors
    /// [`OnnxError::Inference`]; the frame then counts as not watched.
    pub fn detect(&mut self, frame: &Frame, clock: &dyn Clock) -> Result<Detections, OnnxError> {
        let mut items = self.lists.take();
        for stage in &mut self.stages {
            let budget = self.budget.as_ref();
            stage.detect(frame, &self.classes, &mut items, budget, &mut self.left_out)?;
        }
        for stage in &mut self.heads {
            stage.look(frame, &mut items, &mut self.left_out)?;
        }
        for stage in &mut self.smoking {
            stage.look(frame, &mut items, &mut self.left_out)?;
        }
        items.sort_by(|a, b| b.score.total_cmp(&a.score));
        lap(Part::Postprocess);
        let (camera, stamp) = (frame.camera, frame.stamp);
        Ok(Detections {
            camera,
            stamp,
            items,
            inferred: clock.mono(),
        })
    }

    /// What was left out since this was last asked, because frames held more than is looked at.
    pub fn take_left_out(&mut self) -> LeftOut {
        std::mem::take(&mut self.left_out)
    }

    /// From here on with a budget of regions of its own, of which nothing is used: for a clip, whose time has
    /// nothing to do with what was looked at before.
    pub fn begin_anew(&mut self) {
        self.budget = self.budget.as_ref().map(SharedBudget::anew);
    }

    /// Whether a classifier of heads is among the models.
    pub fn classifies_heads(&self) -> bool {
        !self.heads.is_empty()
    }

    /// What the classifier says about a head that somebody else has found: `head` holds hair or hat
    /// and reaches to the collar. `None` without a classifier.
    ///
    /// # Errors
    /// [`OnnxError::Inference`].
    pub fn classify_head(
        &mut self,
        frame: &Frame,
        head: &NormRect,
    ) -> Result<Option<HeadState>, OnnxError> {
        match self.heads.first_mut() {
            Some(stage) => stage.classify(frame, pixels(head, frame.size)),
            None => Ok(None),
        }
    }
}
