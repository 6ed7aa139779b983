//! Buffers that are used again, so that what is made for each picture is not allocated for each: the 3 MB of its
//! pixels, whose pages the system would have to clear, and the lists of what was seen in it.
//!
//! Whoever lets go of a buffer last gives it back, on whatever thread. At most [`MOST_SPARE`] wait there: those beyond
//! are freed.
//!
//! What must not be here: what a buffer holds.
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers that wait to be used again: 12 MB of pixels at 1080p. Of a site's pictures few are between decoding and
/// detection at once, and fewer are done with in the same moment.
pub const MOST_SPARE: usize = 4;

/// Where buffers come from and go to. Clones share them.
#[derive(Debug)]
pub struct Pool<T> {
    spare: Arc<Mutex<Vec<Vec<T>>>>,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        let spare = Vec::with_capacity(MOST_SPARE);
        Self {
            spare: Arc::new(Mutex::new(spare)),
        }
    }
}

impl<T> Clone for Pool<T> {
    fn clone(&self) -> Self {
        let spare = self.spare.clone();
        Self { spare }
    }
}

impl<T> Pool<T> {
    /// An empty buffer, one that was used before if there is one.
    pub fn take(&self) -> Pooled<T> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        Pooled {
            items: spare.pop().unwrap_or_default(),
            pool: Some(self.clone()),
        }
    }

    fn give_back(&self, mut items: Vec<T>) {
        items.clear();
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < MOST_SPARE {
            spare.push(items);
        }
    }
}

/// A buffer. Dropped, it goes back to the pool it is from, if it is from one.
#[derive(Debug)]
pub struct Pooled<T> {
    items: Vec<T>,
    pool: Option<Pool<T>>,
}

impl<T> Pooled<T> {
    /// What it holds, for who keeps it.
    pub fn into_vec(mut self) -> Vec<T> {
        std::mem::take(&mut self.items)
    }
}

impl<T> Drop for Pooled<T> {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool
            && self.items.capacity() > 0
        {
            pool.give_back(std::mem::take(&mut self.items));
        }
    }
}

impl<T> Default for Pooled<T> {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl<T: Clone> Clone for Pooled<T> {
    /// A copy in memory of its own, for who keeps it.
    fn clone(&self) -> Self {
        self.items.clone().into()
    }
}

impl<T> From<Vec<T>> for Pooled<T> {
    fn from(items: Vec<T>) -> Self {
        Self { items, pool: None }
    }
}

impl<T: PartialEq> PartialEq for Pooled<T> {
    fn eq(&self, other: &Self) -> bool {
        self.items == other.items
    }
}

impl<T> Deref for Pooled<T> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        &self.items
    }
}

impl<T> DerefMut for Pooled<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_and_comes_back_empty() {
        let pool = Pool::<u8>::default();
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
        let pool = Pool::<u8>::default();
        let mut taken: Vec<Pooled<u8>> = (0..MOST_SPARE + 3).map(|_| pool.take()).collect();
        for pixels in &mut taken {
            pixels.resize(10, 1);
        }
        taken.push(pool.take());
        drop(taken);
        let spare = pool.spare.lock().unwrap();
        assert_eq!(spare.len(), MOST_SPARE);
        assert!(spare.iter().all(|items| items.capacity() > 0));
    }

    #[test]
    fn a_copy_is_no_business_of_the_pool() {
        let pool = Pool::<u8>::default();
        let mut first = pool.take();
        first.extend([1, 2, 3]);
        let copy = first.clone();
        assert_eq!(copy, first);
        drop(first);
        drop(copy);
        assert_eq!(pool.spare.lock().unwrap().len(), 1);
    }
}
