//! Just enough of the NAL unit syntax to frame and classify access units.
//!
//! Sources: ITU-T H.264 (table 7-1, annex B), ITU-T H.265 (table 7-1, annex B), ISO/IEC 14496-15
//! (`avcC` and `hvcC`). Input comes from cameras and files, so nothing here may panic on it.
use bytes::{BufMut, Bytes, BytesMut};

use super::unit::Codec;

const START_CODE: [u8; 4] = [0, 0, 0, 1];

/// NAL unit payloads of an Annex B byte stream, without start codes and trailing zero bytes.
pub fn annex_b_units(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = next_start(data, 0);
    std::iter::from_fn(move || {
        let (_, begin) = at?;
        let next = next_start(data, begin);
        at = next;
        let end = next.map_or(data.len(), |(code, _)| code);
        let unit = &data[begin..end];
        let keep = unit.iter().rposition(|&b| b != 0).map_or(0, |i| i + 1);
        Some(&unit[..keep])
    })
    .filter(|u| !u.is_empty())
}

/// Position of the next `00 00 01` at or after `from`, and of the byte after it.
fn next_start(data: &[u8], from: usize) -> Option<(usize, usize)> {
    let found = data.get(from..)?.windows(3).position(|w| w == [0, 0, 1])?;
    Some((from + found, from + found + 3))
}

/// What kind of access unit a set of NAL units makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnitKind {
    /// Holds a picture from which decoding can begin: an IDR picture in H.264, any IRAP picture in
    /// H.265. Cameras with an open GOP send CRA pictures only, so waiting for IDR there would
    /// wait for ever.
    pub is_key: bool,
    /// All its slices are marked as referred to by nothing.
    pub is_disposable: bool,
    /// Holds parameter sets (SPS).
    pub has_parameters: bool,
}

/// Classifies an Annex B access unit by its NAL unit headers.
pub fn classify(codec: Codec, annex_b: &[u8]) -> UnitKind {
    let mut kind = UnitKind::default();
    let (mut slices, mut referred) = (0, 0);
    for unit in annex_b_units(annex_b) {
        match codec {
            Codec::H264 => {
                let (ref_idc, nal_type) = (unit[0] >> 5 & 3, unit[0] & 0x1f);
                kind.is_key |= nal_type == 5;
                kind.has_parameters |= nal_type == 7;
                if (1..=5).contains(&nal_type) {
                    slices += 1;
                    referred += usize::from(ref_idc != 0);
                }
            }
            Codec::H265 => {
                let nal_type = unit[0] >> 1 & 0x3f;
                kind.is_key |= (16..=23).contains(&nal_type);
                kind.has_parameters |= nal_type == 33;
                if nal_type < 32 {
                    slices += 1;
                    // Even types below 16 are sub-layer non-reference pictures.
                    referred += usize::from(nal_type >= 16 || nal_type % 2 == 1);
                }
            }
        }
    }
    kind.is_disposable = slices > 0 && referred == 0;
    kind
}

/// Whether a unit is an H.265 picture that leads the key unit it follows and refers to pictures before
/// it (RASL, H.265 table 7-1): where decoding begins at that key unit, it cannot be shown.
pub fn is_skipped_leading(codec: Codec, annex_b: &[u8]) -> bool {
    let mut types = annex_b_units(annex_b).map(|unit| unit[0] >> 1 & 0x3f);
    codec == Codec::H265 && types.any(|nal_type| nal_type == 8 || nal_type == 9)
}

/// How many temporal sub-layers an H.265 stream may have, by the sequence parameter set in the unit (H.265
/// 7.3.2.2: three bits behind the NAL unit header and the video parameter set's id). `None`: it has none.
pub fn sub_layers(annex_b: &[u8]) -> Option<u8> {
    let is_sps = |unit: &&[u8]| unit[0] >> 1 & 0x3f == 33;
    let byte = annex_b_units(annex_b).find(is_sps)?.get(2)?;
    Some((byte >> 1 & 7) + 1)
}

/// How a container frames NAL units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LengthPrefixed {
    /// Bytes of the length before each unit, 1, 2 or 4.
    length_size: usize,
    /// Parameter sets in Annex B form, to be put before key units.
    parameter_sets: Bytes,
}

impl LengthPrefixed {
    /// Reads an `avcC` or `hvcC` record. `None` if it is neither, in which case the packets are
    /// Annex B already, or damaged.
    pub fn parse(codec: Codec, record: &[u8]) -> Option<Self> {
        let mut sets = BytesMut::new();
        let mut put = |unit: &[u8]| {
            sets.put_slice(&START_CODE);
            sets.put_slice(unit);
        };
        let mut r = Reader(record);
        if r.u8()? != 1 {
            return None;
        }
        let length_size = match codec {
            Codec::H264 => {
                r.take(3)?;
                let length_size = usize::from(r.u8()? & 3) + 1;
                for mask in [0x1f, 0xff] {
                    for _ in 0..r.u8()? & mask {
                        let len = r.u16()?;
                        put(r.take(len)?);
                    }
                }
                length_size
            }
            Codec::H265 => {
                r.take(20)?;
                let length_size = usize::from(r.u8()? & 3) + 1;
                for _ in 0..r.u8()? {
                    r.u8()?;
                    for _ in 0..r.u16()? {
                        let len = r.u16()?;
                        put(r.take(len)?);
                    }
                }
                length_size
            }
        };
        (length_size != 3).then(|| Self {
            length_size,
            parameter_sets: sets.freeze(),
        })
    }

    /// Turns a length-prefixed access unit into Annex B. A key unit without parameter sets of its
    /// own gets the container's before it. A length that runs past the end takes what is there:
    /// the decoder judges damaged slices better than we can.
    pub fn to_annex_b(&self, codec: Codec, packet: &[u8], is_key: bool) -> Bytes {
        let mut body = BytesMut::with_capacity(packet.len() + 64);
        let mut r = Reader(packet);
        while let Some(head) = r.take(self.length_size) {
            let len = head
                .iter()
                .fold(0usize, |n, &b| n << 8 | usize::from(b))
                .min(r.0.len());
            let unit = r.take(len).unwrap_or_default();
            if !unit.is_empty() {
                body.put_slice(&START_CODE);
                body.put_slice(unit);
            }
        }
        if !is_key || classify(codec, &body).has_parameters {
            return body.freeze();
        }
        let mut whole = BytesMut::with_capacity(self.parameter_sets.len() + body.len());
        whole.put_slice(&self.parameter_sets);
        whole.put_slice(&body);
        whole.freeze()
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn u16(&mut self) -> Option<usize> {
        let b = self.take(2)?;
        Some(usize::from(b[0]) << 8 | usize::from(b[1]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn annex_b_is_split_at_three_and_four_byte_start_codes() {
        let data = [
            0, 0, 0, 1, 0x67, 1, 2, 0, 0, 1, 0x68, 3, 0, 0, 0, 1, 0x65, 4,
        ];
        let units: Vec<_> = annex_b_units(&data).collect();
        assert_eq!(units, [&[0x67, 1, 2][..], &[0x68, 3], &[0x65, 4]]);
    }

    #[test]
    fn idr_is_key_and_a_slice_nobody_refers_to_is_disposable() {
        let idr = classify(Codec::H264, &[0, 0, 1, 0x67, 1, 0, 0, 1, 0x65, 1]);
        assert_eq!(
            idr,
            UnitKind {
                is_key: true,
                is_disposable: false,
                has_parameters: true
            }
        );
        assert!(classify(Codec::H264, &[0, 0, 1, 0x01, 1]).is_disposable);
        assert!(!classify(Codec::H264, &[0, 0, 1, 0x41, 1]).is_disposable);
    }

    #[test]
    fn an_open_gop_h265_camera_has_key_units() {
        let cra = 21u8 << 1;
        assert!(classify(Codec::H265, &[0, 0, 1, cra, 1, 1]).is_key);
        assert!(!classify(Codec::H265, &[0, 0, 1, 1 << 1, 1, 1]).is_key);
        assert!(classify(Codec::H265, &[0, 0, 1, 0, 1, 1]).is_disposable);
    }

    #[test]
    fn a_picture_that_leads_an_open_gop_and_refers_back_is_told_apart() {
        let unit = |nal_type: u8| [0, 0, 1, nal_type << 1, 1, 1];
        assert!(is_skipped_leading(Codec::H265, &unit(8)));
        assert!(is_skipped_leading(Codec::H265, &unit(9)));
        // RADL pictures refer to nothing before the key unit.
        assert!(!is_skipped_leading(Codec::H265, &unit(7)));
        assert!(!is_skipped_leading(Codec::H264, &unit(8)));
    }

    #[test]
    fn an_avcc_record_gives_the_length_size_and_the_parameter_sets() {
        let avcc = [1, 100, 0, 31, 0xff, 0xe1, 0, 2, 0x67, 9, 1, 0, 2, 0x68, 8];
        let framing = LengthPrefixed::parse(Codec::H264, &avcc).unwrap();
        let key = framing.to_annex_b(Codec::H264, &[0, 0, 0, 2, 0x65, 7], true);
        assert_eq!(
            &key[..],
            [
                0, 0, 0, 1, 0x67, 9, 0, 0, 0, 1, 0x68, 8, 0, 0, 0, 1, 0x65, 7
            ]
        );
        let other = framing.to_annex_b(Codec::H264, &[0, 0, 0, 2, 0x41, 7], false);
        assert_eq!(&other[..], [0, 0, 0, 1, 0x41, 7]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            data in prop::collection::vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..200),
            h265 in any::<bool>(),
        ) {
            let codec = if h265 { Codec::H265 } else { Codec::H264 };
            classify(codec, &data);
            if let Some(f) = LengthPrefixed::parse(codec, &data) {
                f.to_annex_b(codec, &data, true);
            }
        }

        #[test]
        fn what_was_framed_is_found_again(units in prop::collection::vec(prop::collection::vec(2u8..255, 1..20), 1..6)) {
            let mut data = Vec::new();
            for u in &units {
                data.extend_from_slice(&START_CODE);
                data.extend_from_slice(u);
            }
            let found: Vec<Vec<u8>> = annex_b_units(&data).map(<[u8]>::to_vec).collect();
            prop_assert_eq!(found, units);
        }
    }

    #[test]
    fn an_h265_stream_says_how_many_sub_layers_it_has() {
        // Start code, SPS of layer 0 and temporal id 0, then VPS id 0 and so many layers less one.
        let sps = |layers: u8| [0, 0, 0, 1, 33 << 1, 1, (layers - 1) << 1 | 1, 1];
        for layers in [1, 3, 7] {
            assert_eq!(sub_layers(&sps(layers)), Some(layers));
        }
        assert_eq!(sub_layers(&sps(1)[..6]), None, "cut off");
        assert_eq!(sub_layers(&[0, 0, 0, 1, 19 << 1, 1, 9]), None, "no SPS");
    }
}
