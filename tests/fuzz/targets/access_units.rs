//! Encoded pictures of a hostile or broken camera into the decoder and all that looks at their bytes.
//!
//! First byte: bit 0 the codec, bit 1 whether pictures are copied at another size. The rest is an Annex B
//! stream; each slice or parameter set that begins a new run of units becomes an access unit.
#![no_main]
use libfuzzer_sys::fuzz_target;
use mingchu::base::geometry::SizePx;
use mingchu::capture::{Codec, nal};
use mingchu::decode::{Decoder, Frame};

/// Pictures looked at in one input.
const MOST_PICTURES: usize = 64;

fn empty() -> Frame {
    Frame::new(SizePx::default(), Vec::new())
}

fn drain(decoder: &mut Decoder, other_size: bool, seen: &mut usize) -> bool {
    loop {
        let mut frame = empty();
        let copied = match decoder.picture() {
            Err(_) => return false,
            Ok(None) => return true,
            Ok(Some(picture)) => {
                let size = picture.size;
                assert!(size.width_px > 0 && size.height_px > 0);
                if picture.has_8_bit_luma() {
                    picture.luma_rows(16, |row| assert_eq!(row.len(), size.width_px as usize));
                }
                if other_size {
                    picture.copy_at(
                        SizePx {
                            width_px: 64,
                            height_px: 36,
                        },
                        &mut frame,
                    )
                } else {
                    picture.copy_into(&mut frame)
                }
            }
        };
        if copied.is_ok() {
            assert_eq!(frame.pixels.len(), Frame::byte_len(frame.size));
        }
        *seen += 1;
        if *seen >= MOST_PICTURES {
            return false;
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&flags, stream)) = input.split_first() else {
        return;
    };
    let codec = if flags & 1 == 0 {
        Codec::H264
    } else {
        Codec::H265
    };
    let Ok(mut decoder) = Decoder::new(codec) else {
        return;
    };
    let (mut unit, mut tag, mut seen) = (Vec::new(), 0, 0);
    for nal in nal::annex_b_units(stream) {
        unit.extend_from_slice(&[0, 0, 0, 1]);
        unit.extend_from_slice(nal);
        let kind = nal::classify(codec, &unit);
        let _ = nal::is_skipped_leading(codec, &unit);
        if kind.has_parameters && !kind.is_key {
            continue;
        }
        tag += 1;
        // As the decode thread does: a decoder that refuses is built anew.
        let good =
            decoder.send(&unit, tag).is_ok() && drain(&mut decoder, flags & 2 != 0, &mut seen);
        unit.clear();
        if seen >= MOST_PICTURES {
            return;
        }
        if !good {
            match Decoder::new(codec) {
                Ok(fresh) => decoder = fresh,
                Err(_) => return,
            }
        }
    }
    let _ = nal::LengthPrefixed::parse(codec, stream)
        .map(|prefixed| prefixed.to_annex_b(codec, stream, true));
    if decoder.finish().is_ok() {
        drain(&mut decoder, false, &mut seen);
    }
});
