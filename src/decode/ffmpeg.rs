//! libavcodec, libavformat and libswscale: the only file that names them, and the only `unsafe`.
//!
//! Decoding is single-threaded per camera: with several cameras the cores are shared by cameras,
//! which costs less than slices or frame threads inside one, and a stuck decoder is one thread.
#![allow(unsafe_code)]
use std::path::{Path, PathBuf};
use std::sync::Once;

use ffmpeg_next as ff;
use ffmpeg_next::format::Pixel;
use ffmpeg_next::software::scaling;

use super::clip_time::clip_times;
use super::frame::{Frame, YuvMatrix};
use crate::base::geometry::SizePx;
use crate::base::time::Pts90k;
use crate::capture::nal::{LengthPrefixed, classify, is_skipped_leading};
use crate::capture::{
    AccessUnit, CaptureError, Codec, Container, ContainerUnit, MOST_PIXELS, OpenContainer,
    StreamInfo, parameter_sets,
};

/// Why an access unit gave no picture.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The library has no decoder for this codec: nothing on this machine will help.
    #[error("libavcodec has no {0} decoder")]
    NoDecoder(&'static str),
    /// The decoder refused the data; the next key unit may do better.
    #[error("the decoder refused the picture: {0}")]
    Refused(String),
    /// The picture came out in a form that could not be converted.
    #[error("no conversion of {from} pictures: {why}")]
    Conversion {
        /// Pixel format.
        from: String,
        /// libswscale's reason.
        why: String,
    },
}

fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Registers nothing since FFmpeg 4; it fails only when out of memory.
        if let Err(e) = ff::init() {
            tracing::error!(err = %e, "ffmpeg did not start");
        }
        // Its own log goes to stderr past our format; what matters comes back as errors.
        ff::util::log::set_level(ff::util::log::Level::Fatal);
    });
}

fn codec_id(codec: Codec) -> ff::codec::Id {
    match codec {
        Codec::H264 => ff::codec::Id::H264,
        Codec::H265 => ff::codec::Id::HEVC,
    }
}

/// One camera's decoder. Access units in, pictures out in order of presentation.
pub struct Decoder {
    inner: ff::decoder::Video,
    picture: ff::frame::Video,
    to_i420: Option<(ScalerKey, scaling::Context, ff::frame::Video)>,
}

/// Pixel format and size of a picture, and the size it is copied at.
type ScalerKey = (Pixel, SizePx, SizePx);

// SAFETY: libswscale's context is owned by this value alone and holds no thread-local state; it is
// only ever used through `&mut self`, so moving it to another thread is sound. The other fields are
// `Send` already.
unsafe impl Send for Decoder {}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decoder")
    }
}

/// A decoded picture before anyone has decided whether it is worth copying.
pub struct Picture<'d> {
    decoder: &'d mut Decoder,
    /// The tag given to [`Decoder::send`] with the unit that held it.
    pub tag: i64,
    /// Its size.
    pub size: SizePx,
}

impl Decoder {
    /// A decoder for `codec`, which refuses pictures of more than [`MOST_PIXELS`].
    ///
    /// # Errors
    /// [`DecodeError::NoDecoder`] if the library was built without it.
    pub fn new(codec: Codec) -> Result<Self, DecodeError> {
        Self::with(codec, true)
    }

    /// The same; without `loop_filter` the edges of blocks are not smoothed, which is 21 to 30 % of the
    /// work, and since pictures refer to such pictures they drift until the next key unit.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with(codec: Codec, loop_filter: bool) -> Result<Self, DecodeError> {
        init();
        let found =
            ff::decoder::find(codec_id(codec)).ok_or(DecodeError::NoDecoder(codec.name()))?;
        let mut context = ff::codec::Context::new_with_codec(found);
        context.set_threading(ff::threading::Config {
            kind: ff::threading::Type::None,
            count: 1,
            ..ff::threading::Config::default()
        });
        let refused = |e: ff::Error| DecodeError::Refused(e.to_string());
        // A few bytes can ask for a gigabyte.
        let mut options = ff::Dictionary::new();
        options.set("max_pixels", &MOST_PIXELS.to_string());
        if !loop_filter {
            options.set("skip_loop_filter", "all");
        }
        let inner = context
            .decoder()
            .open_as_with(found, options)
            .and_then(ff::decoder::Opened::video)
            .map_err(refused)?;
        Ok(Self {
            inner,
            picture: ff::frame::Video::empty(),
            to_i420: None,
        })
    }

    /// Hands over one access unit (Annex B). `tag` comes back with its picture. Call
    /// [`Decoder::picture`] until it gives none before sending the next.
    ///
    /// # Errors
    /// [`DecodeError::Refused`]; the decoder should be rebuilt at the next key unit.
    pub fn send(&mut self, annex_b: &[u8], tag: i64) -> Result<(), DecodeError> {
        if annex_b.is_empty() {
            return Ok(());
        }
        // The copy has the padding behind it that the bitstream reader may read into.
        let mut packet = ff::Packet::copy(annex_b);
        packet.set_pts(Some(tag));
        packet.set_dts(Some(tag));
        self.inner
            .send_packet(&packet)
            .map_err(|e| DecodeError::Refused(e.to_string()))
    }

    /// No more units follow: pictures held back for reordering come out now.
    ///
    /// # Errors
    /// [`DecodeError::Refused`].
    pub fn finish(&mut self) -> Result<(), DecodeError> {
        self.inner
            .send_eof()
            .map_err(|e| DecodeError::Refused(e.to_string()))
    }

    /// Forgets what it was given: the next unit must be a key unit. Also after [`finish`](Self::finish).
    pub fn restart(&mut self) {
        self.inner.flush();
    }

    /// The next picture, if one is ready.
    ///
    /// # Errors
    /// [`DecodeError::Refused`] for damaged data found late.
    pub fn picture(&mut self) -> Result<Option<Picture<'_>>, DecodeError> {
        match self.inner.receive_frame(&mut self.picture) {
            Ok(()) => {
                let size = SizePx {
                    width_px: self.picture.width(),
                    height_px: self.picture.height(),
                };
                let tag = self
                    .picture
                    .pts()
                    .or(self.picture.timestamp())
                    .unwrap_or_default();
                Ok(Some(Picture {
                    decoder: self,
                    tag,
                    size,
                }))
            }
            Err(ff::Error::Eof) => Ok(None),
            Err(ff::Error::Other { errno }) if errno == ff::error::EAGAIN => Ok(None),
            Err(e) => Err(DecodeError::Refused(e.to_string())),
        }
    }
}

impl Picture<'_> {
    /// Copies the picture's luma rows to `row`, without conversion: for the motion gate.
    pub fn luma_rows(&self, every: usize, mut row: impl FnMut(&[u8])) {
        let p = &self.decoder.picture;
        // Every 8-bit format of libavcodec's H.264 and H.265 decoders has luma in plane 0.
        let (data, stride, width) = (p.data(0), p.stride(0), p.width() as usize);
        for y in (0..p.height() as usize).step_by(every.max(1)) {
            row(&data[y * stride..y * stride + width]);
        }
    }

    /// Whether plane 0 holds one byte of luma per pixel.
    pub fn has_8_bit_luma(&self) -> bool {
        matches!(
            self.decoder.picture.format(),
            Pixel::YUV420P
                | Pixel::YUVJ420P
                | Pixel::YUV422P
                | Pixel::YUVJ422P
                | Pixel::YUV444P
                | Pixel::YUVJ444P
                | Pixel::GRAY8
                | Pixel::NV12
        )
    }

    /// Copies the picture into `frame.pixels` as planar 4:2:0 and sets size, range and matrix; the
    /// rest of `frame` is left alone. The buffer is reused if it is large enough.
    ///
    /// # Errors
    /// [`DecodeError::Conversion`] for pixel formats libswscale cannot turn into 4:2:0.
    pub fn copy_into(self, frame: &mut Frame) -> Result<(), DecodeError> {
        let size = self.size;
        self.copy_at(size, frame)
    }

    /// The same, shrunk or enlarged to `size`.
    ///
    /// # Errors
    /// [`DecodeError::Conversion`] for what libswscale cannot turn into 4:2:0 of that size.
    pub fn copy_at(self, size: SizePx, frame: &mut Frame) -> Result<(), DecodeError> {
        use ff::util::color::{Range, Space};
        let Decoder {
            picture, to_i420, ..
        } = self.decoder;
        let format = picture.format();
        let jpeg = matches!(format, Pixel::YUVJ420P | Pixel::YUVJ422P | Pixel::YUVJ444P);
        // RGB (PNG) is converted to full range.
        let rgb = picture.color_space() == Space::RGB || is_rgb(format);
        frame.full_range = jpeg || rgb || picture.color_range() == Range::JPEG;
        frame.matrix = match picture.color_space() {
            Space::BT709 => YuvMatrix::Bt709,
            _ => YuvMatrix::Bt601,
        };
        frame.size = size;
        frame.pixels.clear();
        frame.pixels.reserve_exact(Frame::byte_len(size));

        let is_planar = matches!(format, Pixel::YUV420P | Pixel::YUVJ420P);
        let planar = if is_planar && self.size == size {
            &*picture
        } else {
            let key = (format, self.size, size);
            let failed = |e: ff::Error| DecodeError::Conversion {
                from: format!("{format:?}"),
                why: e.to_string(),
            };
            if to_i420.as_ref().is_none_or(|(k, ..)| *k != key) {
                let (w, h) = (size.width_px, size.height_px);
                let (from_w, from_h) = (self.size.width_px, self.size.height_px);
                let flags = if self.size == size {
                    scaling::Flags::POINT
                } else {
                    scaling::Flags::AREA
                };
                // libswscale converts the range too where one of the formats is a "J" one.
                let to = if jpeg || rgb {
                    Pixel::YUVJ420P
                } else {
                    Pixel::YUV420P
                };
                let scaler = scaling::Context::get(format, from_w, from_h, to, w, h, flags);
                let scaler = scaler.map_err(failed)?;
                *to_i420 = Some((key, scaler, ff::frame::Video::empty()));
            }
            let (_, scaler, out) = to_i420.as_mut().expect("set just above");
            scaler.run(picture, out).map_err(failed)?;
            &*out
        };
        let (w, h) = (size.width_px as usize, size.height_px as usize);
        for (plane, (pw, ph)) in [
            (w, h),
            (w.div_ceil(2), h.div_ceil(2)),
            (w.div_ceil(2), h.div_ceil(2)),
        ]
        .into_iter()
        .enumerate()
        {
            let (data, stride) = (planar.data(plane), planar.stride(plane));
            for row in data.chunks(stride).take(ph) {
                frame.pixels.extend_from_slice(&row[..pw]);
            }
        }
        Ok(())
    }
}

/// Pixel formats of pictures that are not YUV: what PNG, BMP and WebP files give.
fn is_rgb(format: Pixel) -> bool {
    matches!(
        format,
        Pixel::RGB24
            | Pixel::BGR24
            | Pixel::RGBA
            | Pixel::BGRA
            | Pixel::ARGB
            | Pixel::ABGR
            | Pixel::PAL8
            | Pixel::RGB48BE
            | Pixel::RGBA64BE
            | Pixel::GBRP
    )
}

/// Why a picture file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// It cannot be opened.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no picture that libavcodec knows.
    #[error("{}: not a picture that can be read: {why}. Give a JPEG, PNG, BMP or WebP file", path.display())]
    NotAPicture {
        /// Which file.
        path: PathBuf,
        /// libavformat's or libavcodec's reason.
        why: String,
    },
}

/// Reads a picture file (JPEG, PNG, …), the first frame of a clip too, as the frame that a camera
/// would have given. Camera and stamp are the defaults. Blocking.
///
/// # Errors
/// [`PictureError`] names the file.
pub fn read_picture(path: &Path) -> Result<Frame, PictureError> {
    init();
    let not_a_picture = |why: String| PictureError::NotAPicture {
        path: path.to_owned(),
        why,
    };
    let failed = |e: ff::Error| not_a_picture(e.to_string());
    // Looked at first because libavformat's words for a missing file name no file.
    std::fs::File::open(path).map_err(|source| PictureError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let mut input = ff::format::input(path).map_err(failed)?;
    let Some(stream) = input.streams().best(ff::media::Type::Video) else {
        return Err(not_a_picture("it has no picture in it".to_owned()));
    };
    let index = stream.index();
    let context =
        ff::codec::context::Context::from_parameters(stream.parameters()).map_err(failed)?;
    let inner = context.decoder().video().map_err(failed)?;
    let mut decoder = Decoder {
        inner,
        picture: ff::frame::Video::empty(),
        to_i420: None,
    };
    let mut packet = ff::Packet::empty();
    while let Ok(()) = packet.read(&mut input) {
        if packet.stream() != index {
            continue;
        }
        decoder.inner.send_packet(&packet).map_err(failed)?;
        if let Some(frame) =
            first_picture(&mut decoder).map_err(|e| not_a_picture(e.to_string()))?
        {
            return Ok(frame);
        }
    }
    decoder.finish().map_err(|e| not_a_picture(e.to_string()))?;
    let frame = first_picture(&mut decoder).map_err(|e| not_a_picture(e.to_string()))?;
    frame.ok_or_else(|| not_a_picture("it ends before the picture does".to_owned()))
}

fn first_picture(decoder: &mut Decoder) -> Result<Option<Frame>, DecodeError> {
    let Some(picture) = decoder.picture()? else {
        return Ok(None);
    };
    let mut frame = Frame::new(picture.size, Vec::new());
    picture.copy_into(&mut frame)?;
    Ok(Some(frame))
}

/// Why a clip could not be written.
#[derive(Debug, thiserror::Error)]
pub enum RemuxError {
    /// There is nothing to write.
    #[error("there are no pictures of that time")]
    Empty,
    /// The first unit does not say how its pictures are encoded: not even a player could tell.
    #[error("its first picture comes without parameter sets")]
    NoParameters,
    /// The first picture cannot be decoded, so the others cannot be either.
    #[error("its first picture cannot be decoded: {0}")]
    Undecodable(#[from] DecodeError),
    /// libavformat cannot write it.
    #[error("{}: {why}", path.display())]
    Unwritable {
        /// Which file.
        path: PathBuf,
        /// libavformat's reason.
        why: String,
    },
}

/// The time base of RTP video and of the files written here.
const CLOCK_90K: ff::Rational = ff::Rational(1, 90_000);

/// Writes compressed pictures, as they are, into an MP4 file whose index comes first, so that browsers
/// play it while it loads. `units` are in the order they are decoded, the first one a key unit; pictures
/// that follow it and refer to what came before are left out, since no player can show them.
/// Blocking.
///
/// # Errors
/// [`RemuxError`]; a part of the file may be there.
pub fn remux(units: &[AccessUnit], to: &Path) -> Result<(), RemuxError> {
    init();
    let first = units.first().ok_or(RemuxError::Empty)?;
    let parameters = parameter_sets(first);
    if parameters.is_empty() {
        return Err(RemuxError::NoParameters);
    }
    let size = size_of(first)?;
    let failed = |e: ff::Error| RemuxError::Unwritable {
        path: to.to_owned(),
        why: e.to_string(),
    };
    let mut output = ff::format::output_as(to, "mp4").map_err(failed)?;
    let id = codec_id(first.codec);
    let mut stream = output.add_stream(id).map_err(failed)?;
    stream.set_time_base(CLOCK_90K);
    describe(&mut stream, first.codec, size, &parameters).map_err(failed)?;
    let mut options = ff::Dictionary::new();
    options.set("movflags", "faststart");
    drop(output.write_header_with(options).map_err(failed)?);
    let time_base = output.stream(0).map_or(CLOCK_90K, |s| s.time_base());
    let second_key = units.iter().skip(1).position(|u| u.is_key);
    let leading = second_key.map_or(units.len(), |n| n + 1);
    let playable =
        |(n, u): &(usize, &AccessUnit)| *n >= leading || !is_skipped_leading(u.codec, &u.data);
    let units = units.iter().enumerate().filter(playable);
    let units: Vec<&AccessUnit> = units.map(|(_, unit)| unit).collect();
    let shown: Vec<Pts90k> = units.iter().map(|u| u.stamp.pts).collect();
    let times = clip_times(&shown);
    for (n, (unit, time)) in units.iter().zip(&times).enumerate() {
        let mut packet = ff::Packet::copy(&unit.data);
        packet.set_stream(0);
        packet.set_dts(Some(time.dts));
        packet.set_pts(Some(time.pts));
        let next = times.get(n + 1).map(|next| next.dts - time.dts);
        let before = n.checked_sub(1).map(|b| time.dts - times[b].dts);
        packet.set_duration(next.or(before).unwrap_or(3600));
        if unit.is_key {
            packet.set_flags(ff::packet::Flags::KEY);
        }
        packet.rescale_ts(CLOCK_90K, time_base);
        packet.write_interleaved(&mut output).map_err(failed)?;
    }
    output.write_trailer().map_err(failed)
}

/// Size of a key unit's picture, by decoding it.
fn size_of(unit: &AccessUnit) -> Result<SizePx, DecodeError> {
    let mut decoder = Decoder::new(unit.codec)?;
    decoder.send(&unit.data, 0)?;
    decoder.finish()?;
    match decoder.picture()? {
        Some(picture) => Ok(picture.size),
        None => Err(DecodeError::Refused("it gives no picture".to_owned())),
    }
}

/// Says what the stream holds. Parameter sets go into the file's header, which `avc1` and `hvc1`
/// promise and Safari insists on.
fn describe(
    stream: &mut ff::format::stream::StreamMut<'_>,
    codec: Codec,
    size: SizePx,
    parameters: &[u8],
) -> Result<(), ff::Error> {
    let tag = match codec {
        Codec::H264 => b"avc1",
        Codec::H265 => b"hvc1",
    };
    let padding = ff::ffi::AV_INPUT_BUFFER_PADDING_SIZE as usize;
    // SAFETY: the stream was made just before and has codec parameters of its own, which nobody else
    // refers to while `stream` is borrowed mutably. The extradata is allocated with libav's own
    // allocator, which frees it with the stream; it is zeroed, has the padding that libav asks for
    // behind it, and `parameters.len()` bytes fit.
    unsafe {
        let p = &mut *(*stream.as_mut_ptr()).codecpar;
        p.codec_type = ff::ffi::AVMediaType::AVMEDIA_TYPE_VIDEO;
        p.codec_id = codec_id(codec).into();
        p.codec_tag = u32::from_le_bytes(*tag);
        p.width = size.width_px as i32;
        p.height = size.height_px as i32;
        let room = ff::ffi::av_mallocz(parameters.len() + padding).cast::<u8>();
        if room.is_null() {
            return Err(ff::Error::Other {
                errno: ff::error::ENOMEM,
            });
        }
        std::ptr::copy_nonoverlapping(parameters.as_ptr(), room, parameters.len());
        p.extradata = room;
        p.extradata_size = parameters.len() as i32;
    }
    Ok(())
}

/// H.264 encoders that are asked for by name, the best first; one that only some hardware has comes
/// after these.
const ENCODERS: [&str; 2] = ["libx264", "libopenh264"];
/// What an encoded clip may take of a line, bit/s: legible at the sizes it is made for.
const CLIP_BITS: usize = 1_000_000;
/// Between key pictures, so that a player can wind.
const KEY_EVERY: u32 = 50;
/// Sizes that no encoder refuses.
const LEAST_SIDE: u32 = 16;

/// Why pictures could not be written as a clip.
#[derive(Debug, thiserror::Error)]
pub enum FilmError {
    /// The library was built without one, or none works on this machine.
    #[error("libavcodec has no H.264 encoder that works here")]
    NoEncoder,
    /// A picture is not like the first one.
    #[error("a picture does not fit the clip: {0}")]
    Misfit(String),
    /// The encoder or the disk refused.
    #[error("{}: {why}", path.display())]
    Unwritable {
        /// Which file.
        path: PathBuf,
        /// The library's reason.
        why: String,
    },
}

/// Whether pictures can be written as H.264 with this libavcodec. Says nothing of hardware that may
/// still refuse.
pub fn can_film() -> bool {
    init();
    encoders().next().is_some()
}

fn encoders() -> impl Iterator<Item = ff::Codec> {
    let named = ENCODERS.into_iter().filter_map(ff::encoder::find_by_name);
    named.chain(ff::encoder::find(ff::codec::Id::H264))
}

/// Writes pictures as H.264 (4:2:0) into an MP4 file whose index comes first, without sound. Blocking;
/// on the caller's thread alone.
pub struct Film {
    output: ff::format::context::Output,
    encoder: ff::encoder::Video,
    picture: ff::frame::Video,
    size: SizePx,
    last: Option<i64>,
    path: PathBuf,
}

impl std::fmt::Debug for Film {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Film").field(&self.path).finish()
    }
}

impl Film {
    /// Begins a clip of pictures like `first`, about `fps` of them a second; `to` is made or replaced.
    ///
    /// # Errors
    /// [`FilmError`].
    pub fn begin(to: &Path, first: &Frame, fps: f64) -> Result<Self, FilmError> {
        init();
        let failed = |e: ff::Error| FilmError::Unwritable {
            path: to.to_owned(),
            why: e.to_string(),
        };
        let size = first.size;
        if [size.width_px, size.height_px]
            .iter()
            .any(|side| *side < LEAST_SIDE || side % 2 == 1)
        {
            let SizePx {
                width_px,
                height_px,
            } = size;
            return Err(FilmError::Misfit(format!(
                "it has {width_px} x {height_px}"
            )));
        }
        let (codec, encoder) = encoders()
            .find_map(|codec| Some((codec, open_encoder(codec, first, fps).ok()?)))
            .ok_or(FilmError::NoEncoder)?;
        let mut output = ff::format::output_as(to, "mp4").map_err(failed)?;
        let mut stream = output.add_stream(codec).map_err(failed)?;
        stream.set_time_base(CLOCK_90K);
        stream.set_parameters(&encoder);
        let mut options = ff::Dictionary::new();
        options.set("movflags", "faststart");
        drop(output.write_header_with(options).map_err(failed)?);
        let mut picture = ff::frame::Video::new(Pixel::YUV420P, size.width_px, size.height_px);
        picture.set_color_range(range_of(first));
        picture.set_color_space(space_of(first));
        Ok(Self {
            output,
            encoder,
            picture,
            size,
            last: None,
            path: to.to_owned(),
        })
    }

    /// Adds the next picture, shown at `frame.stamp.pts`.
    ///
    /// # Errors
    /// [`FilmError`].
    pub fn add(&mut self, frame: &Frame) -> Result<(), FilmError> {
        if frame.size != self.size || frame.pixels.len() != Frame::byte_len(self.size) {
            return Err(FilmError::Misfit("it has another size".to_owned()));
        }
        // The encoder keeps what it was given for a while; then this makes a copy to write into.
        // SAFETY: `picture` holds a valid AVFrame with buffers of its own for as long as `self` lives,
        // and nobody else refers to it during the call.
        let writable = unsafe { ff::ffi::av_frame_make_writable(self.picture.as_mut_ptr()) };
        if writable < 0 {
            return Err(self.failed(ff::Error::from(writable)));
        }
        for (plane, rows) in frame.planes().into_iter().enumerate() {
            let width = self.picture.plane_width(plane) as usize;
            let stride = self.picture.stride(plane);
            let to = self.picture.data_mut(plane).chunks_mut(stride);
            for (to, from) in to.zip(rows.chunks(width)) {
                to[..width].copy_from_slice(from);
            }
        }
        // Two pictures of one time would be refused.
        let at = self.last.map_or(frame.stamp.pts.0, |last| {
            frame.stamp.pts.0.max(last.saturating_add(1))
        });
        self.last = Some(at);
        self.picture.set_pts(Some(at));
        let sent = self.encoder.send_frame(&self.picture);
        sent.map_err(|e| self.failed(e))?;
        self.drain()
    }

    /// Writes what the encoder holds back, and the file's index.
    ///
    /// # Errors
    /// [`FilmError`]; the file is of no use then.
    pub fn finish(mut self) -> Result<(), FilmError> {
        let ended = self.encoder.send_eof();
        ended.map_err(|e| self.failed(e))?;
        self.drain()?;
        let written = self.output.write_trailer();
        written.map_err(|e| self.failed(e))
    }

    fn drain(&mut self) -> Result<(), FilmError> {
        loop {
            let mut packet = ff::Packet::empty();
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => {}
                Err(ff::Error::Eof) => return Ok(()),
                Err(ff::Error::Other { errno }) if errno == ff::error::EAGAIN => return Ok(()),
                Err(e) => return Err(self.failed(e)),
            }
            packet.set_stream(0);
            let time_base = self.output.stream(0).map_or(CLOCK_90K, |s| s.time_base());
            packet.rescale_ts(CLOCK_90K, time_base);
            let written = packet.write_interleaved(&mut self.output);
            written.map_err(|e| self.failed(e))?;
        }
    }

    fn failed(&self, e: ff::Error) -> FilmError {
        FilmError::Unwritable {
            path: self.path.clone(),
            why: e.to_string(),
        }
    }
}

fn range_of(frame: &Frame) -> ff::color::Range {
    if frame.full_range {
        ff::color::Range::JPEG
    } else {
        ff::color::Range::MPEG
    }
}

fn space_of(frame: &Frame) -> ff::color::Space {
    match frame.matrix {
        YuvMatrix::Bt709 => ff::color::Space::BT709,
        YuvMatrix::Bt601 => ff::color::Space::SMPTE170M,
    }
}

/// One thread, no pictures out of order, and a ceiling for its bits.
fn open_encoder(
    codec: ff::Codec,
    first: &Frame,
    fps: f64,
) -> Result<ff::encoder::Video, ff::Error> {
    let mut context = ff::codec::Context::new_with_codec(codec);
    context.set_threading(ff::threading::Config {
        kind: ff::threading::Type::None,
        count: 1,
        ..ff::threading::Config::default()
    });
    // MP4 wants the parameter sets in its header.
    context.set_flags(ff::codec::Flags::GLOBAL_HEADER);
    context.set_time_base(CLOCK_90K);
    // Without it the ceiling would be reckoned by 90,000 pictures a second.
    context.set_frame_rate(Some(ff::Rational((fps * 1000.0).round() as i32, 1000)));
    let mut video = context.encoder().video()?;
    video.set_width(first.size.width_px);
    video.set_height(first.size.height_px);
    video.set_format(Pixel::YUV420P);
    video.set_gop(KEY_EVERY);
    video.set_max_b_frames(0);
    video.set_color_range(range_of(first));
    video.set_colorspace(space_of(first));
    let mut options = ff::Dictionary::new();
    if codec.name() == ENCODERS[0] {
        let ceiling = CLIP_BITS.to_string();
        options.set("preset", "veryfast");
        options.set("crf", "26");
        options.set("maxrate", &ceiling);
        options.set("bufsize", &ceiling);
    } else {
        video.set_bit_rate(CLIP_BITS);
    }
    video.open_as_with(codec, options)
}

/// Opens recorded clips with libavformat.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clips;

struct Clip {
    input: ff::format::context::Input,
    path: String,
    stream: usize,
    info: StreamInfo,
    framing: Option<LengthPrefixed>,
    time_base: ff::Rational,
    first_dts: Option<i64>,
}

impl OpenContainer for Clips {
    fn open(&self, path: &Path) -> Result<Box<dyn Container>, CaptureError> {
        init();
        let name = path.display().to_string();
        let file_error = |why: String| CaptureError::File {
            path: name.clone(),
            why,
        };
        // Looked at first because libavformat's words for a missing file name no file.
        std::fs::File::open(path).map_err(|e| file_error(e.to_string()))?;
        let input = ff::format::input(path)
            .map_err(|e| file_error(format!("not a video file that can be read: {e}")))?;
        let Some(stream) = input.streams().best(ff::media::Type::Video) else {
            return Err(CaptureError::NoVideo(format!("{name} has no video track")));
        };
        let parameters = stream.parameters();
        let codec = match parameters.id() {
            ff::codec::Id::H264 => Codec::H264,
            ff::codec::Id::HEVC => Codec::H265,
            other => {
                return Err(CaptureError::NoVideo(format!("{name} is {}", other.name())));
            }
        };
        // SAFETY: `parameters` owns the AVCodecParameters for as long as it lives, which is to the
        // end of this function. `extradata` is either null or points to `extradata_size` bytes that
        // libavformat allocated; they are copied (by `parse`) before `parameters` is dropped.
        let (extradata, size) = unsafe {
            let p = &*parameters.as_ptr();
            let bytes = if p.extradata.is_null() || p.extradata_size <= 0 {
                &[][..]
            } else {
                std::slice::from_raw_parts(p.extradata, p.extradata_size as usize)
            };
            (
                bytes,
                SizePx {
                    width_px: p.width.max(0) as u32,
                    height_px: p.height.max(0) as u32,
                },
            )
        };
        let framing = LengthPrefixed::parse(codec, extradata);
        let (index, time_base) = (stream.index(), stream.time_base());
        let info = StreamInfo {
            codec,
            size: (size.width_px > 0).then_some(size),
            tool: None,
        };
        Ok(Box::new(Clip {
            input,
            path: name,
            stream: index,
            info,
            framing,
            time_base,
            first_dts: None,
        }))
    }
}

impl Container for Clip {
    fn info(&self) -> StreamInfo {
        self.info.clone()
    }

    fn claimed_length(&self) -> Option<std::time::Duration> {
        // In AV_TIME_BASE units: microseconds.
        let us = u64::try_from(self.input.duration()).ok()?;
        (us > 0).then(|| std::time::Duration::from_micros(us))
    }

    fn next_unit(&mut self) -> Result<Option<ContainerUnit>, CaptureError> {
        loop {
            let mut packet = ff::Packet::empty();
            match packet.read(&mut self.input) {
                Ok(()) => {}
                Err(ff::Error::Eof) => return Ok(None),
                Err(e) => {
                    let why = format!("damaged: {e}");
                    return Err(CaptureError::File {
                        path: self.path.clone(),
                        why,
                    });
                }
            }
            let Some(data) = packet.data().filter(|_| packet.stream() == self.stream) else {
                continue;
            };
            let codec = self.info.codec;
            let data = match &self.framing {
                Some(framing) => framing.to_annex_b(codec, data, packet.is_key()),
                None => bytes::Bytes::copy_from_slice(data),
            };
            let kind = classify(codec, &data);
            let dts = packet.dts().or(packet.pts()).unwrap_or_default();
            let first = *self.first_dts.get_or_insert(dts);
            let scaled = |t: i64| {
                let (num, den) = (
                    self.time_base.numerator(),
                    self.time_base.denominator().max(1),
                );
                let t = i128::from(t.saturating_sub(first));
                Pts90k((t * 90_000 * i128::from(num) / i128::from(den)) as i64)
            };
            return Ok(Some(ContainerUnit {
                pts: scaled(packet.pts().unwrap_or(dts)),
                dts: scaled(dts),
                is_key: kind.is_key,
                is_disposable: kind.is_disposable,
                data,
            }));
        }
    }
}
