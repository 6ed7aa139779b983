//! What blurring a clip needs of the other stages: pictures and an encoder of `decode`, and faces by the
//! detector that the site watches with.
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::evidence::{faces, word};
use crate::base::geometry::NormRect;
use crate::base::time::SharedClock;
use crate::decode::{Film, Frame, can_film, each_picture};
use crate::detect::{Detector, Models};
use crate::evidence::{Each, FindFaces, Footage, ModelWord, WriteFilm};

/// Squares of a picture's own pixels that are looked at besides the whole, in turns: a picture as large
/// as blurred clips are has about 30, so each is looked at twice within the second for which a face
/// that was found is held.
const SQUARES: usize = 8;

/// The site's footage; clones share the models, which another config may change.
#[derive(Clone, Debug)]
pub struct SiteFootage {
    models: Arc<Mutex<Models>>,
    clock: SharedClock,
}

/// Whether clips can be blurred by what finds faces; else why not, for people.
pub fn can_blur(faces: &[bool]) -> Result<(), &'static str> {
    if !faces.contains(&true) {
        Err("no model here finds faces")
    } else if !can_film() {
        Err("libavcodec has no H.264 encoder here")
    } else {
        Ok(())
    }
}

impl SiteFootage {
    /// Faces are found by these.
    pub fn new(models: Models, clock: SharedClock) -> Self {
        Self {
            models: Arc::new(Mutex::new(models)),
            clock,
        }
    }

    /// From the next clip on by these.
    pub fn change(&self, models: &Models) {
        let mut known = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        *known = models.clone();
    }
}

impl Footage for SiteFootage {
    fn finder(&self) -> Result<(Box<dyn FindFaces>, Vec<ModelWord>), String> {
        let models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        let models = models.clone();
        let faces = faces(models.classes());
        can_blur(&faces)?;
        let finder = models.finder(&faces, SQUARES).map_err(|e| e.to_string())?;
        let used = models.models().iter().enumerate();
        let used = used.filter(|(i, _)| models.finds(*i, &faces));
        let words = used.map(|(_, model)| word(model)).collect();
        let faces = FaceFinder {
            finder,
            faces,
            clock: self.clock.clone(),
        };
        Ok((Box::new(faces), words))
    }

    fn pictures(&self, clip: &Path, most_px: u32, each: Each<'_>) -> Result<(), String> {
        each_picture(clip, most_px, each).map_err(|e| e.to_string())
    }

    fn film(&self, to: &Path, first: &Frame, fps: f64) -> Result<Box<dyn WriteFilm>, String> {
        let film = Film::begin(to, first, fps).map_err(|e| e.to_string())?;
        Ok(Box::new(FilmWriter(film)))
    }
}

struct FilmWriter(Film);

impl WriteFilm for FilmWriter {
    fn add(&mut self, frame: &Frame) -> Result<(), String> {
        self.0.add(frame).map_err(|e| e.to_string())
    }

    fn finish(self: Box<Self>) -> Result<(), String> {
        self.0.finish().map_err(|e| e.to_string())
    }
}

struct FaceFinder {
    finder: Detector,
    /// By class.
    faces: Vec<bool>,
    clock: SharedClock,
}

impl FindFaces for FaceFinder {
    fn faces(&mut self, frame: &mut Frame) -> Result<Vec<NormRect>, String> {
        // Nobody knows what moves in it: all of it may.
        frame.moving = vec![NormRect::clipped(0.0, 0.0, 1.0, 1.0)].into();
        let seen = self.finder.detect(frame, &*self.clock);
        let seen = seen.map_err(|e| e.to_string())?;
        let is_face = |class: u16| self.faces.get(usize::from(class)) == Some(&true);
        let boxes = seen.items.iter().filter(|d| is_face(d.class.0));
        Ok(boxes.map(|d| d.rect).collect())
    }
}
