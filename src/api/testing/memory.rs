//! How much memory something takes: what each thread of a test allocates is counted.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// What there is in bytes, and the most there was.
    static TAKEN: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

fn count(bytes: isize) {
    // A thread that ends has nothing to count with any more.
    let _ = TAKEN.try_with(|taken| {
        let (now, most) = taken.get();
        taken.set((now + bytes, most.max(now + bytes)));
    });
}

fn size(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

#[expect(unsafe_code, reason = "an allocator is nothing else; this one hands everything on to the system's")]
// SAFETY: everything is done by the system's allocator, with what it was given.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(size(layout.size()));
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(size(layout.size()));
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // As if it were copied, which on Workers it is.
        count(size(new_size));
        count(-size(layout.size()));
        unsafe { System.realloc(place, layout, new_size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(-size(layout.size()));
        unsafe { System.dealloc(place, layout) }
    }
}

/// What comes of some work, and what this thread had at most while it went on, in bytes, beside what it had before.
pub(crate) fn measured<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = TAKEN.with(|taken| {
        let (now, _) = taken.get();
        taken.set((now, now));
        now
    });
    let outcome = work();
    let most = TAKEN.with(|taken| taken.get().1);
    (outcome, u64::try_from(most - before).unwrap_or_default())
}

#[test]
fn what_was_there_for_a_moment_is_counted() {
    let (left, most) = measured(|| {
        drop(vec![0_u8; 3 << 20]);
        let mut growing = vec![1_u8; 1 << 20];
        growing.reserve_exact(1 << 20);
        growing
    });
    assert!((3 << 20..4 << 20).contains(&most), "{most}");
    let (_, most) = measured(|| drop(left));
    assert_eq!(most, 0);
}
