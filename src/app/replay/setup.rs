//! What a replay runs with: the site's config, or the shipped models and a rule for each code that
//! they can see.
//!
//! What must not be here: the daemon's parts. A replay takes the daemon's facts and payloads, never
//! its store or uplink; `tests/it/architecture.rs` holds it to that.
use std::path::Path;

use anyhow::Context as _;

use super::ReplayOptions;
use super::evaluate::Scene;
use super::recording::ModelDigest;
use crate::app::analytics::Facts;
use crate::app::config::{
    CODES, SiteConfig, check_labels, load, operating_point, resolve_rules, rule_of,
};
use crate::app::exit::{ExitCode, Failure, OrExit as _};
use crate::app::models::shipped_or;
use crate::base::ids::{CameraIx, Name};
use crate::decode::DecodeConfig;
use crate::detect::{Models, Runtime};
use crate::rules::{RuleConfig, When};
use crate::track::TrackConfig;
use crate::uplink::SiteIdentity;

/// The only camera where there is no config.
pub const NO_CAMERA: &str = "clip";

/// What a replay runs with, the same for each clip.
pub struct Setup {
    /// What track and rules need.
    pub scene: Scene,
    /// What findings must say.
    pub facts: Facts,
    /// How each camera's stream is sampled.
    pub decode: Vec<DecodeConfig>,
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a valid name")
}

/// A rule for each code that the models can see.
fn rules_of_codes(models: &Models) -> Vec<RuleConfig> {
    let rules = CODES.iter().filter_map(|c| {
        let classes: Vec<_> = c.labels.iter().filter_map(|l| models.class(l)).collect();
        (!classes.is_empty()).then(|| RuleConfig {
            cameras: vec![CameraIx(0)],
            threshold: operating_point(&classes, models),
            classes,
            ..rule_of(name(c.code), name(c.code), None)
        })
    });
    rules.collect()
}

fn load_models(
    config: Option<(&Path, &SiteConfig)>,
    options: &ReplayOptions,
) -> Result<Models, Failure> {
    let Some((path, config)) = config else {
        let runtime = Runtime::load(None).or_exit(ExitCode::Config)?;
        let cards = shipped_or(&options.models)?;
        return Models::load(runtime, &cards).or_exit(ExitCode::Config);
    };
    let runtime = Runtime::load(config.detect.onnxruntime.as_deref()).or_exit(ExitCode::Config)?;
    let runtime = runtime.on(config.detect.provider);
    let cards = if options.models.is_empty() {
        &config.detect.models
    } else {
        &options.models
    };
    let models = Models::load_with(runtime, cards, config.detect.region_limits());
    let models = models.or_exit(ExitCode::Config)?;
    let labels: Vec<_> = config.rules.iter().flat_map(|r| r.labels.clone()).collect();
    if let Some(problem) = check_labels(path, &labels, &models).into_iter().next() {
        return Err(Failure::new(ExitCode::Config, anyhow::anyhow!("{problem}")));
    }
    Ok(models)
}

impl Setup {
    /// By the config that `options` name, or without one.
    ///
    /// # Errors
    /// A config, card or network that cannot be used.
    pub fn of(options: &ReplayOptions) -> Result<Self, Failure> {
        let config = match &options.config {
            Some(path) => Some((path, load(path).or_exit(ExitCode::Config)?)),
            None => None,
        };
        let known = config
            .as_ref()
            .map(|(path, config)| (path.as_path(), config));
        let models = load_models(known, options)?;
        let rules = match &config {
            Some((_, config)) => resolve_rules(&config.rules, &models),
            None => rules_of_codes(&models),
        };
        let asks_hours = |r: &RuleConfig| r.when != When::Always || r.off_hours.is_some();
        if let Some(rule) = rules
            .iter()
            .find(|r| asks_hours(r) && options.begins.is_none())
        {
            tracing::warn!(rule = %rule.id, "a rule asks the time of day, and the clips are taken to begin in 1970: say when they do with --begins");
        }
        let (site, cameras, decode, track) = match config {
            Some((_, config)) => {
                let cameras = config.cameras.iter();
                (
                    config.identity,
                    cameras
                        .clone()
                        .map(|c| (c.id.clone(), c.gb28181.clone()))
                        .collect(),
                    cameras.map(|c| c.decode.clone()).collect(),
                    config.track,
                )
            }
            None => (
                SiteIdentity {
                    region: name("replay"),
                    site: name("replay"),
                    uscc: None,
                },
                vec![(name(NO_CAMERA), None)],
                vec![DecodeConfig::default()],
                TrackConfig::default(),
            ),
        };
        Ok(Self {
            scene: Scene {
                classes: models.classes().to_vec(),
                track,
                rules: rules.clone(),
                begins: options.begins.unwrap_or_default(),
            },
            facts: Facts {
                site,
                cameras,
                rules,
                models,
            },
            decode,
        })
    }

    /// The camera called `id`, as `option` wrote it.
    ///
    /// # Errors
    /// The config has no such camera; those that it has are named.
    pub fn camera(&self, id: &str, option: &str) -> Result<CameraIx, Failure> {
        let names = self.names();
        let at = names.iter().position(|c| *c == id);
        let missing = || format!("{option}: the config has {}", names.join(", "));
        let at = at.with_context(missing).or_exit(ExitCode::Usage)?;
        Ok(CameraIx(at as u16))
    }

    /// Names of the cameras, by index.
    pub fn names(&self) -> Vec<&str> {
        let cameras = self.facts.cameras.iter();
        cameras.map(|(id, _)| id.as_str()).collect()
    }

    /// What the models are, for recordings.
    pub fn digests(&self) -> Vec<ModelDigest> {
        let loaded = self.facts.models.models().iter();
        loaded
            .map(|m| ModelDigest {
                name: m.card.name.clone(),
                version: m.card.version.clone(),
                sha256: m.card.sha256.clone(),
            })
            .collect()
    }
}
