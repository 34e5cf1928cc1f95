//! A limit on memory. Past it an allocation fails, as on a machine that has no more: Rust then aborts, and libFuzzer
//! keeps the input.

use std::alloc::System;

use cap::Cap;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Runs `work` with at most `bytes` more than are in use now.
pub fn limited(bytes: usize, work: impl FnOnce()) {
    let limit = |limit| ALLOCATOR.set_limit(limit).expect("the limit is above what is in use");
    limit(ALLOCATOR.allocated().saturating_add(bytes));
    work();
    limit(usize::MAX);
}
