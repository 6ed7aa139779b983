//! How much of the heap each thread holds, so that work for a hostile peer can be given a limit, and how
//! often it has asked, so that work which should not allocate can be shown not to; and how the system's allocator is
//! set for a program that runs for months.
//!
//! A library that parses what a camera sends keeps what it has not understood yet, and most of them
//! without a limit. What cannot be told to such a library is measured from outside: the thread that
//! runs it looks at [`held_by_thread`] and gives up.
//!
//! What must not be here: any limit, and any decision. The allocator is the system's; all that is
//! added is a sum per thread, without a lock. Memory that C libraries ask for themselves is not in it.
#![allow(unsafe_code)]
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, which counts.
#[derive(Debug)]
pub struct CountingAllocator;

#[global_allocator]
static HEAP: CountingAllocator = CountingAllocator;

thread_local! {
    static HELD: Cell<i64> = const { Cell::new(0) };
    static REQUESTS: Cell<u64> = const { Cell::new(0) };
}

/// Bytes this thread has asked for less those it has given back; what another thread gives back, or
/// asked for, is not in it, so it may be negative. Compare two values of one thread.
pub fn held_by_thread() -> i64 {
    // While a thread ends there is no account any more.
    HELD.try_with(Cell::get).unwrap_or(0)
}

/// How often this thread has asked for memory, or for another size of what it has.
pub fn requests_by_thread() -> u64 {
    REQUESTS.try_with(Cell::get).unwrap_or(0)
}

/// Sets glibc's allocator for a daemon with many threads. Call before there are any.
///
/// * Two heaps for all threads: each camera has a thread that receives and one that decodes, and glibc would give each
///   a heap of its own that keeps what it once needed: 480 MB after half an hour of eight cameras with faults, against
///   325 MB with two.
/// * Blocks from 256 KiB on come from the system and go back to it. Left alone, glibc raises that limit with the first
///   picture that is freed, and from then on pictures and decoders leave holes of their size among small blocks that
///   stay: 38 MB of them with eight cameras. Such blocks are rare, for pictures are used again (`base::pool`),
///   and so are those of decoders and networks.
pub fn settle() {
    #[cfg(target_env = "gnu")]
    for (what, value) in [(libc::M_ARENA_MAX, 2), (libc::M_MMAP_THRESHOLD, 256 * 1024)] {
        // SAFETY: mallopt(3) takes two numbers and may be called at any time. What it refuses stays as it was.
        let _refused = unsafe { libc::mallopt(what, value) } == 0;
    }
}

/// Gives pages that hold nothing back to the system; without this only those at the end of a heap go. It takes
/// milliseconds, in which whoever needs memory waits.
pub fn give_back() {
    // SAFETY: malloc_trim(3) takes a number and may be called at any time.
    #[cfg(target_env = "gnu")]
    let _nothing = unsafe { libc::malloc_trim(0) } == 0;
}

fn asked(bytes: i64) {
    let _ending = REQUESTS
        .try_with(|requests| requests.set(requests.get().wrapping_add(1)))
        .is_err();
    count(bytes);
}

fn count(bytes: i64) {
    // The same; and no panic may come out of an allocator. `held` is a plain number without a
    // destructor, so that this never allocates.
    let _ending = HELD
        .try_with(|held| held.set(held.get().wrapping_add(bytes)))
        .is_err();
}

// SAFETY: each call goes to the system's allocator as it is, which keeps the contract.
unsafe impl GlobalAlloc for CountingAllocator {
    // SAFETY: the caller keeps `GlobalAlloc::alloc`'s contract, which is passed on unchanged.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        asked(layout.size() as i64);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: the caller keeps `GlobalAlloc::alloc_zeroed`'s contract, which is passed on unchanged.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        asked(layout.size() as i64);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    // SAFETY: the caller keeps `GlobalAlloc::dealloc`'s contract, which is passed on unchanged.
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    // SAFETY: the caller keeps `GlobalAlloc::realloc`'s contract, which is passed on unchanged.
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        asked(size as i64 - layout.size() as i64);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_of_a_thread_counts_though_it_is_given_back() {
        let before = requests_by_thread();
        for size in 1..=10 {
            drop(std::hint::black_box(Vec::<u8>::with_capacity(size)));
        }
        assert_eq!(requests_by_thread() - before, 10);
    }

    #[test]
    fn a_thread_is_told_what_it_holds_and_nothing_of_what_others_do() {
        let before = held_by_thread();
        let mut block = vec![0u8; 100_000];
        block.resize(300_000, 1);
        let held = held_by_thread() - before;
        assert!((300_000..400_000).contains(&held), "{held}");
        let elsewhere = std::thread::spawn(move || {
            let begun = held_by_thread();
            drop(block);
            held_by_thread() - begun
        });
        assert_eq!(elsewhere.join().unwrap(), -300_000);
        assert!(held_by_thread() - before >= 300_000);
    }
}
