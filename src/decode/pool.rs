//! Buffers of pictures that are used again, so that a picture of 3 MB is not allocated, and its pages not cleared,
//! for each that is analysed.
//!
//! A site has one [`FramePool`]; its cameras' decode threads take from it, and whoever lets go of a picture last
//! gives its buffer back, on whatever thread. At most [`MOST_SPARE`] wait there: those beyond are freed.
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers that wait to be used again: 12 MB at 1080p. Of a site's pictures few are between decoding and detection
/// at once, and fewer are done with in the same moment.
pub const MOST_SPARE: usize = 4;

/// Where the buffers of pictures come from and go to. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct FramePool {
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl FramePool {
    /// An empty buffer, one that was used before if there is one.
    pub fn take(&self) -> Pixels {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        Pixels {
            bytes: spare.pop().unwrap_or_default(),
            pool: Some(self.clone()),
        }
    }

    fn give_back(&self, mut bytes: Vec<u8>) {
        bytes.clear();
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < MOST_SPARE {
            spare.push(bytes);
        }
    }
}

/// The bytes of a picture. Dropped, they go back to the pool they are from, if they are from one.
#[derive(Debug, Default)]
pub struct Pixels {
    bytes: Vec<u8>,
    pool: Option<FramePool>,
}

impl Drop for Pixels {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool
            && self.bytes.capacity() > 0
        {
            pool.give_back(std::mem::take(&mut self.bytes));
        }
    }
}

impl Clone for Pixels {
    /// A copy in memory of its own, for who keeps it.
    fn clone(&self) -> Self {
        self.bytes.clone().into()
    }
}

impl From<Vec<u8>> for Pixels {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, pool: None }
    }
}

impl PartialEq for Pixels {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Deref for Pixels {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Pixels {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_and_comes_back_empty() {
        let pool = FramePool::default();
        let mut first = pool.take();
        first.resize(1000, 7);
        let place = first.as_ptr();
        drop(first);
        let again = pool.take();
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
        assert!(again.capacity() >= 1000);
    }

    #[test]
    fn no_more_are_kept_than_the_limit_and_none_that_was_never_filled() {
        let pool = FramePool::default();
        let mut taken: Vec<Pixels> = (0..MOST_SPARE + 3).map(|_| pool.take()).collect();
        taken.iter_mut().for_each(|pixels| pixels.resize(10, 1));
        taken.push(pool.take());
        drop(taken);
        let spare = pool.spare.lock().unwrap();
        assert_eq!(spare.len(), MOST_SPARE);
        assert!(spare.iter().all(|bytes| bytes.capacity() > 0));
    }

    #[test]
    fn a_copy_is_no_business_of_the_pool() {
        let pool = FramePool::default();
        let mut first = pool.take();
        first.extend([1, 2, 3]);
        let copy = first.clone();
        assert_eq!(copy, first);
        drop(first);
        drop(copy);
        assert_eq!(pool.spare.lock().unwrap().len(), 1);
    }
}
