//! Random histories of a base and three deltas of mixed dialects, read back equal to a plain byte model.
//!
//! What fails is made smaller, and printed with the seed it began with. `VMDK_HISTORY=SEED` runs just that one;
//! `VMDK_HISTORIES=COUNT` runs more or fewer than usual.
#![allow(clippy::unwrap_used, reason = "test code")]

#[path = "histories/build.rs"]
mod build;
#[path = "histories/check.rs"]
mod check;
#[path = "histories/copies.rs"]
mod copies;
#[path = "histories/history.rs"]
mod history;
#[path = "histories/hosted.rs"]
mod hosted;
#[path = "histories/model.rs"]
mod model;
#[path = "histories/rng.rs"]
mod rng;
#[path = "histories/sesparse.rs"]
mod sesparse;
#[path = "histories/sheet.rs"]
mod sheet;
#[path = "histories/stream.rs"]
mod stream;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use history::History;

/// How many are run.
const COUNT: u64 = 10_000;
/// How many are copied, which takes files.
const COPIES: u64 = 100;

/// Seeds that failed once. They mean other histories when the generator is changed; then the printed history is worth more.
const FOUND: &[u64] = &[];

/// What is wrong with how we read a history; a panic is wrong too.
fn problem(history: &History, seed: u64) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(|| check::problem(history, seed))) {
        Ok(problem) => problem,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Some(format!("a panic: {}", text.unwrap_or("?")))
        }
    }
}

/// The first seed of `seeds` that fails, found by all processors.
fn first_bad(seeds: &[u64]) -> Option<u64> {
    let (next, bad) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let work = || {
        while bad.load(Ordering::Relaxed) == u64::MAX {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(seed) = seeds.get(usize::try_from(index).unwrap()) else { return };
            if problem(&History::random(*seed), *seed).is_some() {
                bad.fetch_min(index, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(work);
        }
    });
    seeds.get(usize::try_from(bad.into_inner()).unwrap()).copied()
}

/// Leaves out whatever the failure does not need.
fn made_smaller(mut history: History, seed: u64) -> History {
    loop {
        let smaller = history.smaller().find(|smaller| problem(smaller, seed).is_some());
        let Some(smaller) = smaller else { return history };
        history = smaller;
    }
}

fn seeds() -> Vec<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().unwrap());
    match number("VMDK_HISTORY") {
        Some(seed) => vec![seed],
        None => FOUND.iter().copied().chain(0..number("VMDK_HISTORIES").unwrap_or(COUNT)).collect(),
    }
}

#[test]
fn histories_of_mixed_chains_read_as_plain_bytes() {
    if let Some(seed) = first_bad(&seeds()) {
        let history = made_smaller(History::random(seed), seed);
        let problem = problem(&history, seed);
        panic!("VMDK_HISTORY={seed}: {}\nmade smaller: {history:#?}", problem.unwrap_or_default());
    }
}

#[test]
fn histories_are_copied_whole_and_as_differences() {
    for seed in 0..COPIES {
        let problem = copies::problem(&History::random(seed), seed);
        assert_eq!(problem, None, "seed {seed}");
    }
}

#[test]
fn a_wrong_byte_or_map_is_noticed() {
    let (mut bytes, mut maps) = (0, 0);
    for seed in 0..50 {
        let history = History::random(seed);
        let built = build::build(&history);
        let image = built.open().unwrap();
        let mut wrong = built.model.clone();
        let last = wrong.bytes.len() - 1;
        wrong.bytes[last] ^= 1;
        bytes += u32::from(check::bytes_problem(&image, &wrong).is_some());
        let mut wrong = built.model.clone();
        wrong.owners[0] = model::Owner::Data(9);
        maps += u32::from(check::map_problem(&image, &wrong, history.layers.len()).is_some());
    }
    assert_eq!((bytes, maps), (50, 50));
}
