//! Names: what a camera, site or rule may be called, and the index form used on hot paths.
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, or longer than [`Name::MAX_LEN`].
    #[error("must have 1 to 48 characters, has {0}")]
    Length(usize),
    /// Holds something else than `a-z 0-9 - .`, or does not begin with a letter or digit.
    #[error("may hold only a-z, 0-9, '-' and '.', and begins with a letter or digit")]
    Character,
}

/// A name that is safe as an MQTT topic level, a log field and part of a file name: 1 to 48 of
/// `[a-z0-9-.]`, the first a letter or digit. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// Longest name accepted, in characters.
    pub const MAX_LEN: usize = 48;

    /// Checks `text` and keeps it.
    ///
    /// # Errors
    /// [`NameError`] says which of the two rules it broke.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > Self::MAX_LEN {
            return Err(NameError::Length(text.len()));
        }
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if !text.bytes().all(|b| plain(b) || b == b'-' || b == b'.') || !plain(text.as_bytes()[0]) {
            return Err(NameError::Character);
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// A camera's name in the config; also its MQTT topic level and log field.
pub type CameraId = Name;

/// Position of a camera in the site's camera list and, while the site runs, its slot (see
/// [`CameraSlots`]); indexes per-camera arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CameraIx(pub u16);

impl CameraIx {
    /// As an index into a per-camera array.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// More cameras came and went in one process than there are slots for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_SLOTS} cameras of different names have been watched since the start")]
pub struct NoSlot;

/// Cameras that one process can watch in its life, those taken out of the config included.
pub const MAX_SLOTS: usize = 1024;

/// Which [`CameraIx`] each camera has. Clones share it.
///
/// A slot belongs to a camera's name for as long as the process lives: a camera that is taken out of
/// the config leaves a hole and gets the same slot when it comes back, so that a picture still on its
/// way can never be taken for another camera's.
#[derive(Clone, Debug, Default)]
pub struct CameraSlots(Arc<Mutex<Vec<CameraId>>>);

impl CameraSlots {
    fn lock(&self) -> MutexGuard<'_, Vec<CameraId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot of `id`: the one it has, else a new one behind the others.
    ///
    /// # Errors
    /// There are [`MAX_SLOTS`] already.
    pub fn slot(&self, id: &CameraId) -> Result<CameraIx, NoSlot> {
        let mut names = self.lock();
        if let Some(at) = names.iter().position(|n| n == id) {
            return Ok(CameraIx(at as u16));
        }
        if names.len() >= MAX_SLOTS {
            return Err(NoSlot);
        }
        names.push(id.clone());
        Ok(CameraIx((names.len() - 1) as u16))
    }

    /// All names by slot, those without a camera included.
    pub fn names(&self) -> Vec<CameraId> {
        self.lock().clone()
    }

    /// How many slots there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Position of a class in the site's class table: the classes of all loaded models, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(pub u16);

/// Position of a rule in the site's rule list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleIx(pub u16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_safe_topic_level() {
        assert_eq!(Name::new("wok-1").unwrap().as_str(), "wok-1");
        for bad in ["Wok", "a/b", "a+b", "#", "-a", ".a", "küche", "a b"] {
            assert_eq!(Name::new(bad), Err(NameError::Character), "{bad}");
        }
        assert_eq!(Name::new(""), Err(NameError::Length(0)));
        assert_eq!(Name::new(&"a".repeat(49)), Err(NameError::Length(49)));
    }

    #[test]
    fn a_slot_stays_with_its_camera() {
        let name = |i: usize| Name::new(&format!("c{i}")).unwrap();
        let slots = CameraSlots::default();
        assert_eq!(slots.slot(&name(0)), Ok(CameraIx(0)));
        assert_eq!(slots.slot(&name(1)), Ok(CameraIx(1)));
        assert_eq!(slots.slot(&name(0)), Ok(CameraIx(0)));
        for i in 2..MAX_SLOTS {
            slots.slot(&name(i)).unwrap();
        }
        assert_eq!(slots.slot(&name(MAX_SLOTS)), Err(NoSlot));
        assert_eq!(slots.slot(&name(1)), Ok(CameraIx(1)));
        assert_eq!(slots.len(), MAX_SLOTS);
    }
}
