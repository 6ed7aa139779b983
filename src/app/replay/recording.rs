//! What the models saw in a clip, in memory and as a file (`*.jsonl`).
//!
//! A recording holds everything above the cards' least scores, so that track and rules run on it as
//! they would on the clip, with whatever thresholds. As a file it is JSON lines, one clip after
//! another, each a head, a line for each picture that was analysed, and an end:
//!
//! ```text
//! {"recording":1,"clip":"wok.mp4","models":[{"name":"kitchen","version":"3","sha256":"…"}]}
//! {"at_us":400000,"seq":12,"pts":36000,"objects":[{"label":"face-bare","score":0.91,"box":[0.1,0.2,0.3,0.4]}]}
//! {"end_us":12000000,"pictures":360,"faults":[{"from_us":4000000,"to_us":9000000,"fault":"dark"}]}
//! ```
//! Times are microseconds from the clip's beginning. `models` may be empty (a recording written by
//! hand); otherwise they must be those that are loaded.
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::base::geometry::NormRect;
use crate::base::ids::{CameraIx, ClassId};
use crate::base::time::{FrameStamp, MonoMicros, Pts90k, UtcMicros};
use crate::decode::PictureFault;
use crate::detect::{ClassInfo, Detection, HeadState};

/// Version of the file's format.
const FORMAT: u32 = 1;
const REMEDY: &str = "record the clip again with --save";

/// One clip as the models saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// The clip's file name.
    pub clip: String,
    /// Whose rules count.
    pub camera: CameraIx,
    /// Its length.
    pub length_us: u64,
    /// Pictures it has.
    pub pictures: u64,
    /// Those that were analysed.
    pub pictures_seen: Vec<Picture>,
    /// When the pictures were not what a camera should show, in order.
    pub faults: Vec<FaultSpan>,
}

/// A time in which something was wrong with the pictures. It begins when that was certain, as in the
/// daemon, not when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultSpan {
    /// From the clip's beginning.
    pub from_us: u64,
    /// From the clip's beginning.
    pub to_us: u64,
    /// What.
    pub fault: PictureFault,
}

/// What was seen in one picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// From the clip's beginning.
    pub at_us: u64,
    /// Its times count from the clip's beginning too.
    pub stamp: FrameStamp,
    /// Highest score first.
    pub items: Vec<Detection>,
}

impl Recording {
    /// Its length in seconds.
    pub fn seconds(&self) -> f64 {
        self.length_us as f64 / 1e6
    }
}

impl Picture {
    /// The stamp of a picture of a clip.
    pub fn stamp(seq: u64, pts: Pts90k, at_us: u64) -> FrameStamp {
        FrameStamp {
            seq,
            session: 1,
            pts,
            received: MonoMicros(at_us),
            received_utc: UtcMicros(at_us as i64),
        }
    }
}

/// Which network saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelDigest {
    /// Name on its card.
    pub name: String,
    /// Version on its card.
    pub version: String,
    /// Digest of its file.
    pub sha256: String,
}

impl std::fmt::Display for ModelDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digest: String = self.sha256.chars().take(12).collect();
        write!(f, "{} {} (sha256 {digest}…)", self.name, self.version)
    }
}

#[derive(Serialize, Deserialize)]
struct Head {
    recording: u32,
    clip: String,
    #[serde(default)]
    models: Vec<ModelDigest>,
}

#[derive(Serialize, Deserialize)]
struct Seen {
    at_us: u64,
    seq: u64,
    #[serde(default)]
    pts: i64,
    objects: Vec<Object>,
}

#[derive(Serialize, Deserialize)]
struct Object {
    label: String,
    score: f32,
    #[serde(rename = "box")]
    rect: [f32; 4],
    #[serde(default, skip_serializing_if = "Option::is_none")]
    head: Option<HeadAnswers>,
}

/// A head's state: covers, faces, smoking.
#[derive(Serialize, Deserialize)]
struct HeadAnswers {
    cover: [f32; 4],
    face: [f32; 4],
    smoking: f32,
}

#[derive(Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the file's own words")]
struct End {
    end_us: u64,
    pictures: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    faults: Vec<Fault>,
}

#[derive(Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the file's own words")]
struct Fault {
    from_us: u64,
    to_us: u64,
    fault: String,
}

fn push_line(text: &mut String, value: &impl Serialize) {
    // None of these types holds a map whose keys are no text, so they always serialize.
    text.push_str(&serde_json::to_string(value).unwrap_or_default());
    text.push('\n');
}

/// The file of some recordings.
pub fn write<'r>(
    recordings: impl IntoIterator<Item = &'r Recording>,
    classes: &[ClassInfo],
    models: &[ModelDigest],
) -> String {
    let object = |d: &Detection| Object {
        label: classes[usize::from(d.class.0)].label.clone(),
        score: d.score,
        rect: [d.rect.x0, d.rect.y0, d.rect.x1, d.rect.y1],
        head: d.head.map(|h| HeadAnswers {
            cover: h.cover,
            face: h.face,
            smoking: h.smoking,
        }),
    };
    let mut text = String::new();
    for recording in recordings {
        let head = Head {
            recording: FORMAT,
            clip: recording.clip.clone(),
            models: models.to_vec(),
        };
        push_line(&mut text, &head);
        for picture in &recording.pictures_seen {
            let seen = Seen {
                at_us: picture.at_us,
                seq: picture.stamp.seq,
                pts: picture.stamp.pts.0,
                objects: picture.items.iter().map(object).collect(),
            };
            push_line(&mut text, &seen);
        }
        let faults = recording.faults.iter().map(|f| Fault {
            from_us: f.from_us,
            to_us: f.to_us,
            fault: f.fault.word().to_owned(),
        });
        let end = End {
            end_us: recording.length_us,
            pictures: recording.pictures,
            faults: faults.collect(),
        };
        push_line(&mut text, &end);
    }
    text
}

/// Reads the recordings in a file.
///
/// # Errors
/// It cannot be read, was made with other models than `models`, or a line of it is wrong: with the
/// line and what to do.
pub fn load(
    path: &Path,
    classes: &[ClassInfo],
    models: &[ModelDigest],
) -> anyhow::Result<Vec<Recording>> {
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("{name}"))?;
    read(&text, classes, models).with_context(|| format!("{name}"))
}

/// The same from text.
///
/// # Errors
/// As [`load`], without the file's name.
pub fn read(
    text: &str,
    classes: &[ClassInfo],
    models: &[ModelDigest],
) -> anyhow::Result<Vec<Recording>> {
    let mut done = Vec::new();
    let mut open: Option<Recording> = None;
    for (i, line) in text
        .lines()
        .enumerate()
        .filter(|(_, l)| !l.trim().is_empty())
    {
        let at = || format!("line {}", i + 1);
        match Line::parse(line).with_context(at)? {
            Line::Head(head) => {
                if let Some(open) = &open {
                    bail!("line {}: {}", i + 1, cut_off(&open.clip));
                }
                check_head(&head, models).with_context(at)?;
                open = Some(Recording {
                    clip: head.clip,
                    camera: CameraIx(0),
                    length_us: 0,
                    pictures: 0,
                    pictures_seen: Vec::new(),
                    faults: Vec::new(),
                });
            }
            Line::Seen(seen) => {
                let Some(open) = &mut open else {
                    bail!(
                        "line {}: a picture before the line that names its clip: {REMEDY}",
                        i + 1
                    );
                };
                let before = open.pictures_seen.last().map_or(0, |p| p.at_us);
                if seen.at_us < before {
                    bail!(
                        "line {}: `at_us` goes back in time, from {before} to {}: {REMEDY}",
                        i + 1,
                        seen.at_us
                    );
                }
                open.pictures_seen
                    .push(picture(seen, classes).with_context(at)?);
            }
            Line::End(end) => {
                let Some(mut recording) = open.take() else {
                    bail!("line {}: the end of no clip: {REMEDY}", i + 1);
                };
                recording.length_us = end.end_us;
                recording.pictures = end.pictures;
                for fault in end.faults {
                    recording.faults.push(fault_span(&fault).with_context(at)?);
                }
                done.push(recording);
            }
        }
    }
    if let Some(open) = open {
        bail!("{}", cut_off(&open.clip));
    }
    if done.is_empty() {
        bail!("no recording in it: {REMEDY}");
    }
    Ok(done)
}

fn fault_span(fault: &Fault) -> anyhow::Result<FaultSpan> {
    let known = PictureFault::ALL
        .into_iter()
        .find(|f| f.word() == fault.fault);
    let Some(kind) = known else {
        bail!("no fault is called `{}`: {REMEDY}", fault.fault);
    };
    if fault.from_us > fault.to_us {
        bail!(
            "the fault `{}` ends before it begins: {REMEDY}",
            fault.fault
        );
    }
    Ok(FaultSpan {
        from_us: fault.from_us,
        to_us: fault.to_us,
        fault: kind,
    })
}

fn cut_off(clip: &str) -> String {
    format!("the recording of {clip} has no end, it was cut off: {REMEDY}")
}

/// A line by what makes it one.
enum Line {
    Head(Head),
    Seen(Seen),
    End(End),
}

impl Line {
    fn parse(line: &str) -> anyhow::Result<Self> {
        let shape = || {
            format!(
                "not a line of a recording: expected {{\"recording\": {FORMAT}, \"clip\": …}}, {{\"at_us\": …, \"seq\": …, \"objects\": […]}} or {{\"end_us\": …, \"pictures\": …}}"
            )
        };
        let value: serde_json::Value = serde_json::from_str(line).with_context(shape)?;
        let has = |key: &str| value.get(key).is_some();
        let of = if has("recording") {
            serde_json::from_str(line).map(Self::Head)
        } else if has("at_us") {
            serde_json::from_str(line).map(Self::Seen)
        } else if has("end_us") {
            serde_json::from_str(line).map(Self::End)
        } else {
            bail!("{}", shape());
        };
        of.with_context(shape)
    }
}

fn check_head(head: &Head, models: &[ModelDigest]) -> anyhow::Result<()> {
    if head.recording != FORMAT {
        bail!(
            "the recording has format {}, this program reads {FORMAT}: {REMEDY}",
            head.recording
        );
    }
    if head.models.is_empty() {
        return Ok(());
    }
    let other = head.models.iter().find(|m| !models.contains(m));
    let Some(other) = other.or_else(|| models.iter().find(|m| !head.models.contains(m))) else {
        return Ok(());
    };
    let names = |models: &[ModelDigest]| {
        let names: Vec<String> = models.iter().map(ToString::to_string).collect();
        names.join(" and ")
    };
    bail!(
        "{} was recorded with {}, but loaded are {}: they differ in {}. Record the clip again, or name the cards of then with --models",
        head.clip,
        names(&head.models),
        names(models),
        other.name
    )
}

fn picture(seen: Seen, classes: &[ClassInfo]) -> anyhow::Result<Picture> {
    let items = seen.objects.into_iter().map(|object| {
        let Some(class) = classes.iter().position(|c| c.label == object.label) else {
            bail!(
                "no loaded model knows the label `{}`: name the card that does with --models",
                object.label
            );
        };
        if !(0.0..=1.0).contains(&object.score) {
            bail!("a score of {}: scores are from 0 to 1", object.score);
        }
        let [x0, y0, x1, y1] = object.rect;
        if !(x0 <= x1 && y0 <= y1) {
            bail!(
                "a box {:?}: left, top, right, bottom are needed, as fractions of the picture",
                object.rect
            );
        }
        Ok(Detection {
            class: ClassId(class as u16),
            score: object.score,
            rect: NormRect { x0, y0, x1, y1 },
            head: object.head.map(|h| HeadState {
                cover: h.cover,
                face: h.face,
                smoking: h.smoking,
            }),
        })
    });
    Ok(Picture {
        at_us: seen.at_us,
        stamp: Picture::stamp(seen.seq, Pts90k(seen.pts), seen.at_us),
        items: items.collect::<anyhow::Result<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn classes() -> Vec<ClassInfo> {
        ["face-bare", "rat"]
            .iter()
            .enumerate()
            .map(|(i, label)| ClassInfo {
                label: (*label).to_owned(),
                group: i as u16,
                model: 0,
                threshold: 0.5,
            })
            .collect()
    }

    fn digest(sha256: &str) -> ModelDigest {
        ModelDigest {
            name: "kitchen".to_owned(),
            version: "3".to_owned(),
            sha256: sha256.repeat(64),
        }
    }

    fn refusal(text: &str) -> String {
        let error = read(text, &classes(), &[digest("a")]).unwrap_err();
        format!("{error:#}")
    }

    const HEAD: &str = r#"{"recording":1,"clip":"a.mp4"}"#;

    #[test]
    fn what_is_wrong_in_a_recording_is_named_with_its_line_and_what_to_do() {
        let cases = [
            ("", "no recording in it"),
            ("nonsense", "line 1: not a line of a recording"),
            (
                r#"{"at_us":1,"seq":1,"objects":[]}"#,
                "line 1: a picture before",
            ),
            (HEAD, "has no end"),
            (
                &format!(
                    "{HEAD}\n{{\"at_us\":5,\"seq\":1,\"objects\":[]}}\n{{\"at_us\":4,\"seq\":2,\"objects\":[]}}"
                ),
                "line 3: `at_us` goes back in time, from 5 to 4",
            ),
            (
                &format!(
                    "{HEAD}\n{{\"at_us\":5,\"seq\":1,\"objects\":[{{\"label\":\"cow\",\"score\":0.5,\"box\":[0,0,1,1]}}]}}"
                ),
                "line 2: no loaded model knows the label `cow`",
            ),
            (
                &format!(
                    "{HEAD}\n{{\"at_us\":5,\"seq\":1,\"objects\":[{{\"label\":\"rat\",\"score\":1.5,\"box\":[0,0,1,1]}}]}}"
                ),
                "line 2: a score of 1.5",
            ),
            (
                &format!(
                    "{HEAD}\n{{\"at_us\":5,\"seq\":1,\"objects\":[{{\"label\":\"rat\",\"score\":0.5,\"box\":[1,0,0,1]}}]}}"
                ),
                "line 2: a box",
            ),
            (
                r#"{"recording":7,"clip":"a.mp4"}"#,
                "line 1: the recording has format 7",
            ),
        ];
        for (text, want) in cases {
            let got = refusal(text);
            assert!(got.contains(want), "{text}: {got}");
        }
    }

    #[test]
    fn a_recording_of_other_models_is_refused_by_name() {
        let text = write([], &classes(), &[]);
        assert_eq!(text, "");
        let recording = Recording {
            clip: "a.mp4".to_owned(),
            camera: CameraIx(0),
            length_us: 1,
            pictures: 0,
            pictures_seen: Vec::new(),
            faults: Vec::new(),
        };
        let text = write([&recording], &classes(), &[digest("b")]);
        let got = refusal(&text);
        assert!(
            got.contains("kitchen 3 (sha256 bbbbbbbbbbbb…)")
                && got.contains("kitchen 3 (sha256 aaaaaaaaaaaa…)"),
            "{got}"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_to_the_last_bit(
            scores in prop::collection::vec((0.0f32..=1.0, 0.0f32..0.5, 0.5f32..=1.0, any::<bool>()), 0..20),
            at_us in 0u64..1 << 40,
            faults in prop::collection::vec(prop::sample::select(&PictureFault::ALL[..]), 0..3),
        ) {
            let faults = faults.into_iter();
            let items = scores.iter().map(|&(score, a, b, rat)| Detection {
                class: ClassId(u16::from(rat)),
                score,
                rect: NormRect { x0: a, y0: a, x1: b, y1: b },
                head: rat.then_some(HeadState { cover: [a, b, score, a], face: [b; 4], smoking: score }),
            });
            let recording = Recording {
                clip: "a \"b\".mp4".to_owned(),
                camera: CameraIx(0),
                length_us: at_us + 7,
                pictures: 3,
                pictures_seen: vec![Picture { at_us, stamp: Picture::stamp(9, Pts90k(-5), at_us), items: items.collect() }],
                faults: faults.map(|fault| FaultSpan { from_us: at_us, to_us: at_us + 5, fault }).collect(),
            };
            let models = [digest("a")];
            let text = write([&recording], &classes(), &models);
            prop_assert_eq!(read(&text, &classes(), &models).unwrap(), vec![recording]);
        }
    }
}
