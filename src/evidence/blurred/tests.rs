use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::*;
use crate::evidence::disk::Disk;
use crate::evidence::index::ClipState;
use crate::evidence::keeper::tests::{FakeRemux, Site, frame};
use crate::evidence::manifest::Body;
use crate::evidence::manifest::tests::draft;

/// A clip of noise at 10 pictures a second, with a face in the middle, and everything that can go wrong
/// with it.
#[derive(Clone, Default)]
struct Fake {
    wrong: Wrong,
    /// The detector gives out at this look.
    gives_out: Option<usize>,
    /// The detector sees nothing from this look on.
    blind_from: Option<usize>,
    pictures: i64,
    passes: Arc<AtomicBool>,
    /// Every picture that was written, with its time.
    written: Arc<Mutex<Vec<Written>>>,
}

type Written = (i64, Vec<u8>);

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Wrong {
    #[default]
    Nothing,
    NoModel,
    NoEncoder,
    /// The second pass has a picture less.
    Fickle,
    Panics,
}

struct FakeFinder(Fake, usize);

const FACE: NormRect = NormRect {
    x0: 0.4,
    y0: 0.4,
    x1: 0.6,
    y1: 0.6,
};

impl FindFaces for FakeFinder {
    fn faces(&mut self, _frame: &mut Frame) -> Result<Vec<NormRect>, String> {
        let look = self.1;
        self.1 += 1;
        assert_ne!(self.0.wrong, Wrong::Panics);
        if self.0.gives_out == Some(look) {
            return Err("no memory".to_owned());
        }
        let blind = self.0.blind_from.is_some_and(|from| look >= from);
        Ok(if blind { Vec::new() } else { vec![FACE] })
    }
}

struct FakeFilm(Fake, Rc<RefCell<Vec<u8>>>, PathBuf);

impl WriteFilm for FakeFilm {
    fn add(&mut self, frame: &Frame) -> Result<(), String> {
        let mut written = self.0.written.lock().unwrap();
        written.push((frame.stamp.pts.0, frame.pixels.to_vec()));
        self.1.borrow_mut().extend(&frame.pixels[..64]);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), String> {
        fs::write(&self.2, &*self.1.borrow()).map_err(|e| e.to_string())
    }
}

impl Footage for Fake {
    fn finder(&self) -> Result<(Box<dyn FindFaces>, Vec<ModelWord>), String> {
        if self.wrong == Wrong::NoModel {
            return Err("no model here finds faces".to_owned());
        }
        let words = draft(1).models;
        Ok((Box::new(FakeFinder(self.clone(), 0)), words))
    }

    fn pictures(&self, _clip: &Path, most_px: u32, each: Each<'_>) -> Result<(), String> {
        assert_eq!(most_px, MOST_PX);
        let second = self.passes.fetch_xor(true, Ordering::Relaxed);
        let less = i64::from(self.wrong == Wrong::Fickle && second);
        for n in 0..self.pictures - less {
            let mut frame = frame();
            frame.stamp.pts = Pts90k(n * 9000);
            each(&mut frame)?;
        }
        Ok(())
    }

    fn film(&self, to: &Path, _first: &Frame, fps: f64) -> Result<Box<dyn WriteFilm>, String> {
        if self.wrong == Wrong::NoEncoder {
            return Err("libavcodec has no H.264 encoder".to_owned());
        }
        assert!((9.9..10.1).contains(&fps), "{fps}");
        fs::write(to, "begun").map_err(|e| e.to_string())?;
        Ok(Box::new(FakeFilm(
            self.clone(),
            Rc::default(),
            to.to_owned(),
        )))
    }
}

fn fake() -> Fake {
    Fake {
        pictures: 30,
        ..Fake::default()
    }
}

/// Asks for a copy of bundle 1's clip `times` times, one after the other; nothing is left half made.
fn ask(site: &Site, fake: &Fake, times: usize) -> Vec<BlurAnswer> {
    let (keeper, jobs) = site.open(Disk::default()).unwrap();
    let footage = Box::new(fake.clone());
    let clock = site.clock.clone();
    let (blurrer, blurs) = Blurrer::new(&site.evidence(), jobs, footage, &site.metrics, clock);
    let Some(ClipState::Ready(clip)) = keeper.index().clip(draft(1).finding) else {
        panic!("there is a clip");
    };
    let around = site.around(FakeRemux(true));
    let keeping = std::thread::spawn(move || keeper.run(&around));
    let blurring = std::thread::spawn(move || blurrer.run());
    let answers = (0..times)
        .map(|_| {
            let asked = blurs.ask(draft(1).finding, clip.clone());
            asked.blocking_recv().unwrap()
        })
        .collect();
    drop(blurs);
    blurring.join().unwrap();
    keeping.join().unwrap();
    assert!(!site.evidence().join(BEING_MADE).exists());
    answers
}

fn with_bundle() -> Site {
    let site = Site::new();
    site.bundle(1);
    site
}

fn why(site: &Site, fake: &Fake) -> BlurError {
    let why = ask(site, fake, 1).remove(0).unwrap_err();
    let verdict = site.verify();
    assert!(verdict.ok && verdict.entries == 1, "{verdict:#?}");
    let bundle = site.evidence().join(draft(1).folder);
    assert!(
        !bundle.join(BLURRED_CLIP).exists(),
        "nothing that could leave"
    );
    why
}

#[test]
fn a_blurred_clip_is_made_once_and_signed_and_verifies() {
    let site = with_bundle();
    let fake = fake();
    let answers = ask(&site, &fake, 2);
    assert_eq!(answers[0], answers[1]);
    let made = answers[0].clone().unwrap();
    assert!(made.redacted && !made.sealed);
    let file = fs::read(site.evidence().join(&made.path)).unwrap();
    assert_eq!(sha256_hex(&file), made.sha256);
    let written = fake.written.lock().unwrap();
    assert_eq!(written.len(), 30, "every picture, once");
    for (at, pixels) in &*written {
        assert_ne!(*pixels, *frame().pixels, "picture at {at} is bare");
    }
    let entries = site.entries();
    let Body::Derived(body) = &entries[1] else {
        panic!("{entries:?}");
    };
    let Body::Bundle(bundle) = &entries[0] else {
        panic!("{entries:?}");
    };
    assert!(bundle.files.contains(&body.from));
    assert_eq!(body.from.name, "sealed/clip.mp4");
    assert_eq!(body.file.sha256, made.sha256);
    assert_eq!((body.pictures, body.redaction.faces), (30, 1));
    assert_eq!(body.models, draft(1).models);
    let verdict = site.verify();
    assert!(verdict.ok, "{verdict:#?}");
    assert_eq!((verdict.entries, verdict.files), (2, 6));
    assert_eq!(verdict.notes, Vec::<String>::new());
    // It is there after a restart, and is not made again.
    assert_eq!(ask(&site, &fake, 1), [Ok(made)]);
    assert_eq!(site.entries().len(), 2);
}

#[test]
fn a_face_that_the_detector_loses_stays_blurred_for_a_second() {
    let site = with_bundle();
    let fake = Fake {
        blind_from: Some(10),
        ..fake()
    };
    ask(&site, &fake, 1).remove(0).unwrap();
    let written = fake.written.lock().unwrap();
    let bare = |(_, pixels): &&Written| *pixels == *frame().pixels;
    // Seen for the last time at 0.9 s.
    let bare: Vec<i64> = written.iter().filter(bare).map(|(at, _)| *at).collect();
    assert_eq!(bare, (20..30).map(|n| n * 9000).collect::<Vec<_>>());
}

#[test]
fn whatever_fails_nothing_leaves_and_the_answer_says_why() {
    let site = with_bundle();
    let unable = Fake {
        wrong: Wrong::NoModel,
        ..fake()
    };
    let finds_none = BlurError::Unable("no model here finds faces".to_owned());
    assert_eq!(why(&site, &unable), finds_none);
    let gives_out = Fake {
        gives_out: Some(7),
        ..fake()
    };
    let not_looked = BlurError::NotLooked("no memory".to_owned());
    assert_eq!(why(&site, &gives_out), not_looked);
    let no_film = Fake {
        wrong: Wrong::NoEncoder,
        ..fake()
    };
    assert!(matches!(why(&site, &no_film), BlurError::Broken(why) if why.contains("encoder")));
    let fickle = Fake {
        wrong: Wrong::Fickle,
        ..fake()
    };
    assert!(matches!(why(&site, &fickle), BlurError::Broken(why) if why.contains("twice")));
    let empty = Fake {
        pictures: 0,
        ..fake()
    };
    assert!(matches!(why(&site, &empty), BlurError::Broken(_)));
    let panics = Fake {
        wrong: Wrong::Panics,
        ..fake()
    };
    assert!(matches!(why(&site, &panics), BlurError::Broken(why) if why.contains("panic")));
    let endless = Fake {
        pictures: i64::MAX,
        ..fake()
    };
    assert_eq!(why(&site, &endless), BlurError::TooLong);
    // The finding's picture shows a face.
    let blind = Fake {
        blind_from: Some(0),
        ..fake()
    };
    assert_eq!(why(&site, &blind), BlurError::NoneFound(1));
    let count = |outcome: &str| {
        let labels = [("outcome", outcome)];
        let counter = site.metrics.counter(Metric::EvidenceClipsBlurred, &labels);
        counter.value()
    };
    assert_eq!(
        (count("refused"), count("failed"), count("made")),
        (3, 5, 0)
    );
}

#[test]
fn a_clip_that_was_changed_on_the_disk_is_not_passed_on_as_evidence() {
    let site = with_bundle();
    let clip = site
        .evidence()
        .join(draft(1).folder)
        .join("sealed/clip.mp4");
    fs::write(clip, "another").unwrap();
    let answer = ask(&site, &fake(), 1).remove(0);
    assert_eq!(answer, Err(BlurError::Changed));
}

#[test]
fn nobody_who_gave_up_keeps_the_thread_busy_and_more_than_two_do_not_wait() {
    let site = with_bundle();
    let (keeper, jobs) = site.open(Disk::default()).unwrap();
    let Some(ClipState::Ready(clip)) = keeper.index().clip(draft(1).finding) else {
        panic!("there is a clip");
    };
    let footage = Box::new(Fake {
        pictures: i64::MAX,
        ..fake()
    });
    let clock = site.clock.clone();
    let (blurrer, blurs) = Blurrer::new(&site.evidence(), jobs, footage, &site.metrics, clock);
    let asked: Vec<_> = (0..3)
        .map(|_| blurs.ask(draft(1).finding, clip.clone()))
        .collect();
    let mut asked = asked.into_iter();
    drop((asked.next(), asked.next()));
    assert_eq!(
        asked.next().unwrap().blocking_recv(),
        Ok(Err(BlurError::Busy))
    );
    drop(blurs);
    blurrer.run();
    let labels = [("outcome", "given_up")];
    let counter = site.metrics.counter(Metric::EvidenceClipsBlurred, &labels);
    assert_eq!(counter.value(), 2);
}

/// Where the power goes at each step that reaches the disk while a copy is signed.
#[test]
fn wherever_the_power_goes_a_blurred_clip_is_whole_or_not_there() {
    let (mut without, mut with) = (0, 0);
    for steps in 0..8 {
        let site = with_bundle();
        let disk = Disk {
            steps_left: Some(std::cell::Cell::new(u32::MAX)),
            ..Disk::default()
        };
        let (mut keeper, _jobs) = site.open(disk).unwrap();
        let made = b"a film";
        fs::write(site.evidence().join(BEING_MADE), made).unwrap();
        let Some(ClipState::Ready(clip)) = keeper.index().clip(draft(1).finding) else {
            panic!("there is a clip");
        };
        let body = DerivedBody {
            finding: draft(1).finding,
            folder: clip.folder.clone(),
            how: DerivedBody::BLURRED.to_owned(),
            from: FileEntry {
                name: "sealed/clip.mp4".to_owned(),
                sha256: clip.sha256.clone(),
                bytes: clip.bytes,
            },
            file: FileEntry {
                name: BLURRED_CLIP.to_owned(),
                sha256: sha256_hex(made),
                bytes: made.len() as u64,
            },
            pictures: 1,
            models: Vec::new(),
            redaction: draft(1).redaction,
        };
        keeper.cut_power_after(steps);
        let done = keeper.sign_derived(&body);
        let verdict = site.verify();
        assert!(verdict.ok, "{steps}: {verdict:#?}");
        drop(keeper);
        site.restart();
        let verdict = site.verify();
        assert!(verdict.ok, "{steps}: {verdict:#?}");
        assert_eq!(verdict.notes, Vec::<String>::new(), "{steps}");
        let folder = site.evidence().join(&clip.folder);
        let there = folder.join(BLURRED_CLIP).is_file();
        assert_eq!(there, site.entries().len() == 2);
        assert!(there || done.is_err(), "{steps}");
        if there {
            with += 1;
        } else {
            without += 1;
        }
    }
    assert!(without > 1 && with > 1, "{without} {with}");
}

#[test]
fn a_copy_that_was_removed_for_room_is_made_again_and_the_chain_knows_both() {
    let mut site = with_bundle();
    let made = ask(&site, &fake(), 1).remove(0).unwrap();
    let (keeper, _jobs) = site.open(Disk::default()).unwrap();
    let held = keeper.index().bytes();
    drop(keeper);
    // A copy goes before its original.
    site.max_bytes = held - 1;
    site.restart();
    assert!(!site.evidence().join(&made.path).exists());
    site.max_bytes = 1 << 30;
    let shorter = Fake {
        pictures: 20,
        ..fake()
    };
    let again = ask(&site, &shorter, 1).remove(0).unwrap();
    assert_ne!(again.sha256, made.sha256);
    let verdict = site.verify();
    assert!(verdict.ok, "{verdict:#?}");
    assert_eq!((verdict.entries, verdict.files), (4, 6));
    assert_eq!(verdict.notes, Vec::<String>::new());
    let bundle = site.evidence().join(draft(1).folder);
    let alone = crate::evidence::verify(&bundle, None).unwrap();
    assert!(alone.ok && alone.files == 6, "{alone:#?}");
    // An entry that is not of the chain proves nothing.
    let entry = bundle.join("blurred.json");
    let text = fs::read_to_string(&entry).unwrap();
    fs::write(
        &entry,
        text.replacen("\"pictures\":20", "\"pictures\":30", 1),
    )
    .unwrap();
    for path in [&bundle, &site.evidence()] {
        let verdict = crate::evidence::verify(path, None).unwrap();
        assert!(
            !verdict.ok && verdict.broken[0].file.ends_with("blurred.json"),
            "{verdict:#?}"
        );
    }
}
