use super::*;
use crate::base::heap::requests_by_thread;
use proptest::prelude::*;

use super::super::reference::Reference;

fn card(width_px: u32, height_px: u32) -> InputCard {
    InputCard {
        width_px,
        height_px,
        of: ValueType::F32,
        channels: Channels::Rgb,
        mean: [0.0; 3],
        scale: 1.0,
        pad: 114.0,
        fit: Fit::Card,
    }
}

fn frame(w: u32, h: u32, y: u8, u: u8, v: u8, full_range: bool) -> Frame {
    let size = SizePx {
        width_px: w,
        height_px: h,
    };
    let (n, c) = ((w * h) as usize, (w.div_ceil(2) * h.div_ceil(2)) as usize);
    let pixels = [vec![y; n], vec![u; c], vec![v; c]].concat();
    assert_eq!(pixels.len(), Frame::byte_len(size));
    Frame {
        full_range,
        ..Frame::new(size, pixels)
    }
}

fn fill_crop(p: &mut Preprocessor, frame: &Frame, crop: CropPx, tensor: &mut Vec<f32>) {
    p.fill_part(frame, crop, p.card(), tensor);
}

fn rgb_at(tensor: &[f32], w: usize, x: usize, y: usize) -> [f32; 3] {
    let plane = tensor.len() / 3;
    [0, 1, 2].map(|c| tensor[c * plane + y * w + x])
}

#[test]
fn colours_come_out_as_the_standard_says() {
    // BT.601 limited range: white, black, and 75 % red of the colour bars.
    for (yuv, rgb) in [
        ((235, 128, 128), [255.0, 255.0, 255.0]),
        ((16, 128, 128), [0.0, 0.0, 0.0]),
        ((65, 100, 212), [191.0, 0.0, 0.0]),
    ] {
        let mut p = Preprocessor::new(card(32, 32), 32);
        let mut t = Vec::new();
        p.fill(&frame(64, 64, yuv.0, yuv.1, yuv.2, false), &mut t);
        for (got, want) in rgb_at(&t, 32, 5, 5).iter().zip(rgb) {
            assert!((got - want).abs() < 2.0, "{yuv:?}: {got} for {want}");
        }
    }
}

#[test]
fn the_picture_lies_top_left_and_the_rest_is_padding() {
    let mut p = Preprocessor::new(card(64, 64), 32);
    let mut t = Vec::new();
    let l = p.fill(&frame(128, 64, 200, 128, 128, true), &mut t);
    assert_eq!(
        l.scaled,
        SizePx {
            width_px: 64,
            height_px: 32
        }
    );
    let close = |a: [f32; 3], b: f32| a.iter().all(|v| (v - b).abs() < 0.01);
    assert!(close(rgb_at(&t, 64, 63, 31), 200.0));
    assert!(close(rgb_at(&t, 64, 0, 32), 114.0));
}

#[test]
fn bgr_swaps_the_outer_planes() {
    let f = frame(64, 64, 81, 90, 240, false);
    let mut rgb = Preprocessor::new(card(32, 32), 32);
    let mut bgr = Preprocessor::new(
        InputCard {
            channels: Channels::Bgr,
            ..card(32, 32)
        },
        32,
    );
    let (mut a, mut b) = (Vec::new(), Vec::new());
    rgb.fill(&f, &mut a);
    bgr.fill(&f, &mut b);
    let (mut x, y) = (rgb_at(&a, 32, 3, 3), rgb_at(&b, 32, 3, 3));
    x.reverse();
    assert!(x.iter().zip(y).all(|(a, b)| (a - b).abs() < 1e-3));
    assert!(y[2] > 200.0, "red is the last plane of bgr");
}

#[test]
fn shrinking_averages_over_the_covered_area() {
    let mut f = frame(8, 8, 0, 128, 128, true);
    // A checkerboard averages to grey; picking pixels would give black or white.
    for (i, p) in f.pixels[..64].iter_mut().enumerate() {
        *p = if (i / 8 + i % 8) % 2 == 0 { 255 } else { 0 };
    }
    let mut p = Preprocessor::new(card(4, 4), 4);
    let mut t = Vec::<f32>::new();
    p.fill(&f, &mut t);
    assert!(t.iter().all(|v| (v - 127.5).abs() < 0.01), "{t:?}");
}

fn size(width_px: u32, height_px: u32) -> SizePx {
    SizePx {
        width_px,
        height_px,
    }
}

#[test]
fn a_tensor_that_follows_the_frame_wastes_nothing_on_padding() {
    let input = InputCard {
        fit: Fit::Frame,
        ..card(416, 416)
    };
    for (picture, tensor) in [
        (size(416, 416), size(416, 416)),
        (size(1920, 1080), size(512, 288)),
        (size(1280, 720), size(512, 288)),
        (size(720, 1280), size(288, 512)),
        (size(640, 480), size(480, 352)),
        (size(10, 4000), size(32, 4000 / 32 * 32)),
    ] {
        let found = tensor_size(picture, &input, 32);
        assert!(found.width_px * found.height_px <= 416 * 416, "{found:?}");
        if picture.height_px < 4000 {
            assert_eq!(found, tensor, "for {picture:?}");
        }
    }
    assert_eq!(
        tensor_size(size(1920, 1080), &card(416, 416), 32),
        size(416, 416)
    );
}

#[test]
fn a_crop_beyond_the_picture_is_padded_and_a_crop_within_is_stretched() {
    let f = frame(64, 64, 200, 128, 128, true);
    let mut p = Preprocessor::new(card(32, 32), 1);
    let mut t = Vec::new();
    let crop = |x0, y0, x1, y1| CropPx { x0, y0, x1, y1 };
    fill_crop(&mut p, &f, crop(10.0, 10.0, 30.0, 50.0), &mut t);
    assert!(t.iter().all(|v| (v - 200.0).abs() < 0.05));
    // The upper half lies above the picture.
    fill_crop(&mut p, &f, crop(0.0, -32.0, 64.0, 32.0), &mut t);
    assert!(t[..16 * 32].iter().all(|v| (v - 114.0).abs() < 0.01));
    assert!(t[16 * 32..32 * 32].iter().all(|v| (v - 200.0).abs() < 0.05));
    for nowhere in [crop(-90.0, 0.0, -70.0, 20.0), crop(f64::NAN, 0.0, 5.0, 5.0)] {
        fill_crop(&mut p, &f, nowhere, &mut t);
        assert!(t.iter().all(|v| (v - 114.0).abs() < 0.01), "{nowhere:?}");
    }
}

/// How far a number may be from the reference's, in levels of 255.
const TOLERANCE: f32 = 0.25;

/// All instruction sets of this machine.
fn levels() -> Vec<Level> {
    let best = Level::new();
    #[cfg(target_arch = "x86_64")]
    let others = [
        best.as_sse2().map(Level::Sse2),
        best.as_sse4_2().map(Level::Sse4_2),
        best.as_avx2().map(Level::Avx2),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let others = [None];
    [Some(best)].into_iter().chain(others).flatten().collect()
}

/// Left, top, right, bottom, as shares of the picture.
fn part_of(picture: SizePx, [x0, y0, x1, y1]: [f64; 4]) -> CropPx {
    let (w, h) = (f64::from(picture.width_px), f64::from(picture.height_px));
    CropPx {
        x0: x0 * w,
        y0: y0 * h,
        x1: x1 * w,
        y1: y1 * h,
    }
}

/// A frame of noise, or of the hardest edges there are.
fn noisy(picture: SizePx, seed: u64, hard: bool) -> Frame {
    let mut frame = frame(picture.width_px, picture.height_px, 0, 0, 0, false);
    let mut random = fastrand::Rng::with_seed(seed);
    for pixel in frame.pixels.iter_mut() {
        *pixel = if hard {
            255 * random.u8(0..=1)
        } else {
            random.u8(..)
        };
    }
    frame.full_range = random.bool();
    if random.bool() {
        frame.matrix = YuvMatrix::Bt709;
    }
    frame
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().zip(b);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn nothing_is_allocated_once_the_sizes_are_known() {
    let bytes = InputCard {
        of: ValueType::U8,
        ..card(96, 128)
    };
    let mut p = Preprocessor::new(bytes, 32);
    let frames = [size(1280, 720), size(640, 360), size(406, 720)].map(|s| noisy(s, 1, false));
    let (mut whole, mut part) = (Vec::<u8>::new(), Vec::new());
    let mut random = fastrand::Rng::with_seed(3);
    let mut all = |p: &mut Preprocessor, crops: usize| {
        for frame in &frames {
            p.fill(frame, &mut whole);
            let side = |length: u32| f64::from(length);
            let (w, h) = (side(frame.size.width_px), side(frame.size.height_px));
            let everything = CropPx {
                x0: 0.0,
                y0: 0.0,
                x1: w,
                y1: h,
            };
            fill_crop(p, frame, everything, &mut part);
            for _ in 0..crops {
                let mut edge = |limit: f64| (random.f64() * 1.4 - 0.2) * limit;
                let crop = CropPx {
                    x0: edge(w),
                    y0: edge(h),
                    x1: edge(w),
                    y1: edge(h),
                };
                fill_crop(p, frame, crop, &mut part);
                p.fill_part(frame, crop, size(64, 64), &mut part);
            }
        }
    };
    all(&mut p, 0);
    let before = requests_by_thread();
    all(&mut p, 40);
    assert_eq!(requests_by_thread() - before, 0);
}

#[test]
#[should_panic(expected = "bytes for a card that says floats")]
fn bytes_are_not_made_with_the_mean_and_scale_of_floats() {
    let mut p = Preprocessor::new(card(32, 32), 32);
    p.fill(&frame(64, 64, 0, 128, 128, true), &mut Vec::<u8>::new());
}

proptest! {
    #[test]
    fn the_fast_way_gives_what_the_plain_one_does_on_every_instruction_set(
        picture in (2u32..420, 2u32..420),
        tensor in (1u32..90, 1u32..90),
        crop in prop::option::of(prop::array::uniform4(-0.3f64..1.3)),
        bgr in any::<bool>(),
        follows in any::<bool>(),
        mean in prop::array::uniform3(0f32..130.0),
        scale in prop_oneof![Just(1.0f32), Just(1.0 / 255.0), Just(-0.02), 0.001f32..2.0],
        pad in 0f32..255.0,
        seed in any::<u64>(),
        hard in any::<bool>(),
    ) {
        let picture = size(picture.0, picture.1);
        let input = InputCard {
            channels: if bgr { Channels::Bgr } else { Channels::Rgb },
            fit: if follows { Fit::Frame } else { Fit::Card },
            mean,
            scale,
            pad,
            ..card(tensor.0.max(8), tensor.1.max(8))
        };
        let part = crop.map(|c| part_of(picture, c));
        let frame = noisy(picture, seed, hard);
        let part_size = size(tensor.0, tensor.1);
        let mut plain = Vec::new();
        match part {
            Some(crop) => Reference::part(picture, crop, part_size, &input),
            None => Reference::whole(picture, &input, 8),
        }
        .fill(&frame, &mut plain);
        let mut first: Option<Vec<f32>> = None;
        for level in levels() {
            let mut p = Preprocessor::with_level(input.clone(), 8, level);
            // What an earlier picture left must not show.
            let mut fast = vec![f32::NAN; plain.len()];
            match part {
                Some(crop) => p.fill_part(&frame, crop, part_size, &mut fast),
                None => drop(p.fill(&frame, &mut fast)),
            }
            let off = furthest(&plain, &fast);
            prop_assert!(off <= TOLERANCE * scale.abs(), "{level:?}: {off}, scale {scale}");
            prop_assert!(!fast.iter().any(|v| v.is_nan()));
            prop_assert!(first.get_or_insert_with(|| fast.clone()) == &fast, "{level:?}");
        }
    }

    #[test]
    fn a_byte_is_the_nearest_to_what_would_be_the_float(
        picture in (2u32..420, 2u32..420),
        tensor in (1u32..90, 1u32..90),
        crop in prop::option::of(prop::array::uniform4(-0.3f64..1.3)),
        pad in any::<u8>(),
        seed in any::<u64>(),
        hard in any::<bool>(),
    ) {
        let picture = size(picture.0, picture.1);
        let input = InputCard {
            of: ValueType::U8,
            pad: f32::from(pad),
            ..card(tensor.0.max(8), tensor.1.max(8))
        };
        let part = crop.map(|c| part_of(picture, c));
        let frame = noisy(picture, seed, hard);
        let part_size = size(tensor.0, tensor.1);
        for level in levels() {
            let mut p = Preprocessor::with_level(input.clone(), 8, level);
            let (mut floats, mut bytes) = (Vec::<f32>::new(), vec![7_u8; 3]);
            if let Some(crop) = part {
                p.fill_part(&frame, crop, part_size, &mut floats);
                p.fill_part(&frame, crop, part_size, &mut bytes);
            } else {
                p.fill(&frame, &mut floats);
                p.fill(&frame, &mut bytes);
            }
            let rounded: Vec<u8> = floats.iter().map(|v| v.round_ties_even() as u8).collect();
            prop_assert!(rounded == bytes, "{level:?}");
        }
    }

    #[test]
    fn no_crop_makes_it_panic(c in prop::array::uniform4(-300f64..300.0), w in 2u32..90, h in 2u32..90) {
        let mut p = Preprocessor::new(card(24, 32), 1);
        let crop = CropPx { x0: c[0], y0: c[1], x1: c[2], y1: c[3] };
        fill_crop(&mut p, &frame(w, h, 90, 100, 140, true), crop, &mut Vec::new());
    }

    #[test]
    fn a_box_survives_the_round_trip(w in 16u32..4000, h in 16u32..4000, b in prop::array::uniform4(0.0f32..1.0)) {
        let l = Letterbox::new(SizePx { width_px: w, height_px: h }, SizePx { width_px: 640, height_px: 384 });
        let r = NormRect::clipped(b[0], b[1], b[2], b[3]);
        let (sw, sh) = (l.scaled.width_px as f32, l.scaled.height_px as f32);
        let back = l.to_picture(r.x0 * sw, r.y0 * sh, r.x1 * sw, r.y1 * sh);
        prop_assert!((back.x0 - r.x0).abs() < 1e-5 && (back.y1 - r.y1).abs() < 1e-5);
        prop_assert!(l.scaled.width_px <= 640 && l.scaled.height_px <= 384);
    }
}
