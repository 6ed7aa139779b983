//! The conversion that the daemon runs against the plain one, on every recorded clip: the shipped networks see the same
//! in the pictures.
use mingchu::base::geometry::SizePx;
use mingchu::base::ids::CameraIx;
use mingchu::base::metrics::Metrics;
use mingchu::base::time::SystemClock;
use mingchu::capture::OpenContainer as _;
use mingchu::decode::{Clips, DecodeConfig, Frame, FrameSampler, Sampled};
use mingchu::detect::{
    CropPx, Letterbox, LoadedModel, Network, Preprocessor, RawBox, Reference, Runtime, TensorMut,
    decode_yolox, suppress,
};

use crate::support::{root, shared_clip, shared_clips};

/// Pictures of a clip, spread over its first half minute.
const PICTURES: usize = 12;
/// How far a score or a probability may be from the plain way's.
const SCORE: f32 = 0.03;
/// Of two boxes that are the same.
const OVERLAP: f32 = 0.9;

struct Ours {
    model: LoadedModel,
    network: Network,
    preprocessor: Preprocessor,
    groups: Vec<u16>,
}

impl Ours {
    fn new(card: &str) -> Self {
        let model = LoadedModel::load(&root(card)).unwrap();
        let network = Network::load(&Runtime::load(None).unwrap(), &model).unwrap();
        let preprocessor = Preprocessor::new(model.card.input.clone(), model.card.step());
        let group = |i: usize| {
            let class = &model.card.classes[i];
            class.group.clone().unwrap_or_else(|| class.name.clone())
        };
        let first = |i: usize| (0..=i).find(|j| group(*j) == group(i)).unwrap_or(i) as u16;
        let groups = (0..model.card.classes.len()).map(first).collect();
        Self {
            model,
            network,
            preprocessor,
            groups,
        }
    }

    /// What the network says of the picture or a part of it: by our conversion, and by the plain one.
    fn both(&mut self, frame: &Frame, crop: Option<CropPx>) -> (Letterbox, [Vec<f32>; 2]) {
        let Self {
            model,
            network,
            preprocessor,
            ..
        } = self;
        let (input, step) = (&model.card.input, model.card.step());
        let letterbox = preprocessor.letterbox(frame.size);
        let size = crop.map_or(letterbox.tensor, |_| preprocessor.card());
        let fast = network.run(
            size,
            |tensor| match crop {
                Some(crop) => preprocessor.fill_each(frame, &[crop], size, tensor),
                None => preprocessor.fill_whole(frame, tensor),
            },
            <[f32]>::to_vec,
        );
        let mut floats = Vec::new();
        match crop {
            Some(crop) => Reference::part(frame.size, crop, size, input),
            None => Reference::whole(frame.size, input, step),
        }
        .fill(frame, &mut floats);
        let plain = network.run(
            size,
            |tensor| match tensor {
                TensorMut::F32(tensor) => tensor.copy_from_slice(&floats),
                TensorMut::U8(tensor) => {
                    let rounded = floats.iter().map(|v| v.round() as u8);
                    tensor.iter_mut().zip(rounded).for_each(|(to, v)| *to = v);
                }
            },
            <[f32]>::to_vec,
        );
        (letterbox, [fast.unwrap(), plain.unwrap()])
    }

    fn boxes(&self, letterbox: &Letterbox, output: &[f32]) -> Vec<RawBox> {
        let card = &self.model.card;
        let mut found = Vec::new();
        decode_yolox(card, letterbox, output, &mut found);
        suppress(&mut found, card.thresholds.nms_iou, |class| {
            self.groups[class]
        });
        found
    }

    fn threshold(&self, class: usize) -> f32 {
        self.model.card.classes[class].threshold
    }
}

fn pictures(clip: &std::path::Path) -> Vec<Frame> {
    let config = DecodeConfig {
        analyse_fps: 0.4,
        late: false,
        motion: None,
        ..DecodeConfig::default()
    };
    let metrics = Metrics::default();
    let mut sampler = FrameSampler::new(CameraIx(0), "clip", config, &metrics);
    let mut container = Clips.open(clip).unwrap();
    let codec = container.info().codec;
    let mut frames = Vec::new();
    for seq in 0.. {
        let Some(unit) = container.next_unit().unwrap() else {
            break;
        };
        let unit = unit.as_sent(CameraIx(0), codec, seq);
        let mut take = |sampled: Sampled| {
            if let Sampled::Frame(frame) = sampled {
                frames.push(frame);
            }
        };
        sampler.feed(unit, &SystemClock, &mut take).unwrap();
        if frames.len() >= PICTURES {
            break;
        }
    }
    frames
}

/// Each box of `those` that is clearly above its threshold has its like among `these`.
fn are_found(ours: &Ours, those: &[RawBox], these: &[RawBox], what: &str) -> usize {
    let clear: Vec<&RawBox> = (those.iter())
        .filter(|b| b.score >= ours.threshold(b.class) + SCORE)
        .collect();
    for b in &clear {
        let like = |a: &&RawBox| {
            a.class == b.class
                && a.rect.iou(&b.rect) >= OVERLAP
                && (a.score - b.score).abs() <= SCORE
        };
        assert!(these.iter().any(|a| like(&a)), "{what}: {b:?}, {these:?}");
    }
    clear.len()
}

/// The middle of the picture, a head's shape.
fn middle(size: SizePx) -> CropPx {
    let (w, h) = (f64::from(size.width_px), f64::from(size.height_px));
    CropPx {
        x0: w * 0.4,
        y0: h * 0.3,
        x1: w * 0.4 + h * 0.3,
        y1: h * 0.7,
    }
}

#[test]
#[cfg_attr(not(has_shared), ignore = "needs ../shared/data")]
fn the_networks_see_the_same_by_the_fused_conversion_as_by_the_plain_one_in_every_clip() {
    let mut detector = Ours::new("models/kitchen.toml");
    let mut classifiers = ["models/heads.toml", "models/smoking.toml"].map(Ours::new);
    let (mut pictures_seen, mut boxes) = (0, 0);
    let mut furthest: f32 = 0.0;
    for path in shared_clips() {
        for (n, frame) in pictures(&path).iter().enumerate() {
            let what = format!("{}, picture {n}", path.display());
            let (letterbox, outputs) = detector.both(frame, None);
            let [fast, plain] = outputs.map(|output| detector.boxes(&letterbox, &output));
            boxes += are_found(&detector, &plain, &fast, &what);
            are_found(&detector, &fast, &plain, &what);
            for classifier in &mut classifiers {
                let (_, [fast, plain]) = classifier.both(frame, Some(middle(frame.size)));
                let off = fast.iter().zip(&plain).map(|(a, b)| (a - b).abs());
                furthest = off.fold(furthest, f32::max);
                assert!(furthest <= SCORE, "{what}: {fast:?}, {plain:?}");
            }
            pictures_seen += 1;
        }
    }
    // Of 123 pictures and 153 boxes the furthest was 0.011.
    assert!(
        pictures_seen >= 90 && boxes >= 100,
        "{pictures_seen} pictures, {boxes} boxes"
    );
}

#[test]
#[cfg_attr(not(has_shared), ignore = "needs ../shared/data")]
fn the_int8_copies_see_what_the_networks_that_they_are_made_from_see() {
    let mut wide = ["kitchen", "heads", "smoking"].map(|n| Ours::new(&format!("models/{n}.toml")));
    let mut small =
        ["kitchen", "heads", "smoking"].map(|n| Ours::new(&format!("models/{n}-int8.toml")));
    let frames = pictures(&shared_clip("shop-masks.mp4"));
    let (mut alike, mut boxes) = (0, 0);
    for frame in &frames {
        let (letterbox, [output, _]) = wide[0].both(frame, None);
        let wanted = wide[0].boxes(&letterbox, &output);
        let (letterbox, [output, _]) = small[0].both(frame, None);
        let found = small[0].boxes(&letterbox, &output);
        for b in wanted
            .iter()
            .filter(|b| b.score >= wide[0].threshold(b.class) + 0.1)
        {
            boxes += 1;
            let like = |a: &&RawBox| a.class == b.class && a.rect.iou(&b.rect) >= 0.7;
            alike += usize::from(found.iter().any(|a| like(&a)));
        }
        for which in 1..3 {
            let (_, [wanted, _]) = wide[which].both(frame, Some(middle(frame.size)));
            let (_, [found, _]) = small[which].both(frame, Some(middle(frame.size)));
            let off = wanted
                .iter()
                .zip(&found)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(off <= 0.35, "{which}: {wanted:?}, {found:?}");
        }
    }
    assert!(boxes >= 8 && alike * 10 >= boxes * 9, "{alike} of {boxes}");
}
