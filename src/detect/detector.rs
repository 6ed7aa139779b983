//! The site's models together: classes under one numbering, and the detector that runs them all on
//! a frame.
use std::path::PathBuf;
use std::sync::Arc;

use super::card::{CardError, LoadedModel};
use super::detections::{Detection, Detections};
use super::onnx::{Network, OnnxError, Runtime};
use super::postprocess::{RawBox, decode_yolox, suppress};
use super::preprocess::Preprocessor;
use crate::base::ids::ClassId;
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
}

impl Models {
    /// Loads the runtime and all cards with their networks, and runs each network once.
    ///
    /// # Errors
    /// [`ModelsError`] names the file and what to do.
    pub fn load(runtime: Runtime, cards: &[PathBuf]) -> Result<Self, ModelsError> {
        let models = cards
            .iter()
            .map(|c| LoadedModel::load(c))
            .collect::<Result<Vec<_>, _>>()?;
        Self::of(runtime, models)
    }

    /// The same with models that are loaded already.
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
        let this = Self {
            runtime,
            loaded: models.into(),
            classes: classes.into(),
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

    /// Sessions of their own for one worker.
    ///
    /// # Errors
    /// [`OnnxError`] names the model.
    pub fn detector(&self) -> Result<Detector, OnnxError> {
        let mut stages = Vec::new();
        let mut first_class = 0;
        for model in self.loaded.iter() {
            let preprocessor = Preprocessor::new(model.card.input.clone());
            let tensor = vec![0.0; preprocessor.tensor_len()];
            let network = Network::load(&self.runtime, model)?;
            stages.push(Stage {
                model: model.clone(),
                network,
                preprocessor,
                tensor,
                first_class,
            });
            first_class += model.card.classes.len();
        }
        Ok(Detector {
            stages,
            classes: self.classes.clone(),
        })
    }
}

#[derive(Debug)]
struct Stage {
    model: LoadedModel,
    network: Network,
    preprocessor: Preprocessor,
    tensor: Vec<f32>,
    first_class: usize,
}

/// Runs all models of a site on frames, on the calling thread.
#[derive(Debug)]
pub struct Detector {
    stages: Vec<Stage>,
    classes: Arc<[ClassInfo]>,
}

impl Detector {
    /// What the models see in `frame`.
    ///
    /// # Errors
    /// [`OnnxError::Inference`]; the frame then counts as not watched.
    pub fn detect(&mut self, frame: &Frame, clock: &dyn Clock) -> Result<Detections, OnnxError> {
        let mut items = Vec::new();
        for stage in &mut self.stages {
            let letterbox = stage.preprocessor.fill(frame, &mut stage.tensor);
            let card = &stage.model.card;
            let raw = stage
                .network
                .run(&stage.tensor, |out| decode_yolox(card, &letterbox, out))?;
            let group = |class: usize| self.classes[stage.first_class + class].group;
            let kept = suppress(raw, card.thresholds.nms_iou, group);
            items.extend(
                kept.into_iter()
                    .map(|RawBox { class, score, rect }| Detection {
                        class: ClassId((stage.first_class + class) as u16),
                        score,
                        rect,
                    }),
            );
        }
        items.sort_by(|a, b| b.score.total_cmp(&a.score));
        let (camera, stamp) = (frame.camera, frame.stamp);
        Ok(Detections {
            camera,
            stamp,
            items,
            inferred: clock.mono(),
        })
    }
}
