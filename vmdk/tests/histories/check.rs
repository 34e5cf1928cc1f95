//! Whether we read a history as its model says.

use std::error::Error;

use blockdev::{ByteOffset, ExtentKind, ReadAt};
use vmdk_rs::Image;

use crate::build::build;
use crate::history::History;
use crate::model::{Model, Owner, SECTOR};
use crate::rng::Rng;

/// Reads of each of two threads.
const READS: usize = 8;

pub(crate) fn problem(history: &History, seed: u64) -> Option<String> {
    let built = build(history);
    let image = match built.open() {
        Ok(image) => image,
        Err(error) => return Some(format!("it is not opened: {}", chain_of(&error))),
    };
    let (model, layers) = (&built.model, history.layers.len());
    // Caches are cold for the threads of one half, and warm for those of the other.
    let parts = || parts_problem(&image, model, seed);
    let early = if seed.is_multiple_of(2) { parts() } else { None };
    early
        .or_else(|| bytes_problem(&image, model))
        .or_else(parts)
        .or_else(|| map_problem(&image, model, layers))
        .or_else(|| top_problem(&image, model, layers))
        .or_else(|| odd_problem(&image, model, seed))
}

fn chain_of(error: &dyn Error) -> String {
    let source = error.source().map(|source| format!(": {}", chain_of(source)));
    format!("{error}{}", source.unwrap_or_default())
}

pub(crate) fn bytes_problem(image: &Image, model: &Model) -> Option<String> {
    if image.size().0 != model.bytes.len() as u64 {
        return Some(format!("{} bytes instead of {}", image.size().0, model.bytes.len()));
    }
    part_problem(image, model, 0, model.bytes.len())
}

/// Reads a part and compares it.
fn part_problem(image: &Image, model: &Model, at: usize, len: usize) -> Option<String> {
    let (mut read, expected) = (vec![0x55; len], &model.bytes[at..at + len]);
    if let Err(error) = image.read_exact_at(ByteOffset(at as u64), &mut read) {
        return Some(format!("{len} bytes at {at} are not read: {}", chain_of(&error)));
    }
    if read == expected {
        return None;
    }
    let byte = at + (0..len).find(|i| read[*i] != expected[*i]).unwrap();
    Some(format!("{len} bytes at {at} are read wrong, first at byte {byte}, sector {}", byte / SECTOR))
}

/// Reads at odd places by two threads.
fn parts_problem(image: &Image, model: &Model, seed: u64) -> Option<String> {
    let reads = |thread: u64| {
        let mut rng = Rng::new(seed ^ thread << 32);
        let mut read = || {
            let at = rng.below(model.bytes.len());
            let most = rng.pick(&[1, 100, 513, 5000, 70_000]);
            let len = rng.within(1, most).min(model.bytes.len() - at);
            part_problem(image, model, at, len)
        };
        (0..READS).find_map(|_| read())
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| reads(1));
        let mine = reads(2);
        mine.or(other.join().unwrap())
    })
}

/// A run of a disk: first sector, end, who decides.
type Run = (usize, usize, Owner);

fn runs(model: &Model, owner: impl Fn(Owner) -> Owner) -> Vec<Run> {
    let mut all: Vec<Run> = Vec::new();
    for (sector, owner) in model.owners.iter().map(|decides| owner(*decides)).enumerate() {
        match all.last_mut() {
            Some(last) if last.2 == owner => last.1 = sector + 1,
            _ => all.push((sector, sector + 1, owner)),
        }
    }
    all
}

/// Walks a disk from run to run, each of which must lie in one of `expected`. `ask` answers the extent's end and kind, and
/// the depth of the layer; that of a hole says nothing where a disk of the chain is smaller than the top.
fn walk_problem(
    expected: &[Run],
    layers: usize,
    ask: impl Fn(u64) -> Result<(u64, ExtentKind, usize), String>,
) -> Option<String> {
    let mut at = 0;
    for (start, end, owner) in expected {
        let depth = |layer: usize| Some((layers - 1).wrapping_sub(layer));
        let expected = match owner {
            Owner::Nobody => (ExtentKind::Hole, None),
            Owner::Zero(layer) => (ExtentKind::Zero, depth(*layer)),
            Owner::Data(layer) => (ExtentKind::Data, depth(*layer)),
        };
        let limit = (end * SECTOR) as u64;
        while at < limit {
            let (next, kind, depth) = match ask(at) {
                Ok(answer) => answer,
                Err(problem) => return Some(problem),
            };
            let depth = Some(depth).filter(|_| kind != ExtentKind::Hole);
            if (kind, depth) != expected || next <= at || next > limit {
                return Some(format!(
                    "the run at byte {at} ends at {next}, is {kind:?} at depth {depth:?}; it should be {expected:?}, sectors {start} to {end}"
                ));
            }
            at = next;
        }
    }
    None
}

/// Whether runs cover the disk once, with the right kind and layer.
pub(crate) fn map_problem(image: &Image, model: &Model, layers: usize) -> Option<String> {
    walk_problem(&runs(model, |owner| owner), layers, |at| {
        let placement = image.placement_at(ByteOffset(at)).map_err(|error| chain_of(&error))?;
        let extent = placement.extent;
        if Ok(extent) != image.extent_at(ByteOffset(at)).map_err(|_| ()) || extent.start.0 != at {
            return Err(format!("the extent at byte {at} is {extent:?}"));
        }
        if placement.stored.is_some() != (extent.kind == ExtentKind::Data) {
            return Err(format!("the place at byte {at} is {:?} and {:?}", extent.kind, placement.stored));
        }
        Ok((extent.end().0, extent.kind, placement.depth))
    })
}

/// Whether the top alone has what it wrote, and nothing of its parents.
fn top_problem(image: &Image, model: &Model, layers: usize) -> Option<String> {
    let top = layers - 1;
    let only = |owner| match owner {
        Owner::Data(layer) | Owner::Zero(layer) if layer == top => owner,
        _ => Owner::Nobody,
    };
    let problem = walk_problem(&runs(model, only), layers, |at| {
        let extent = image.extent_at_top(ByteOffset(at)).map_err(|error| chain_of(&error))?;
        Ok((extent.end().0, extent.kind, 0))
    });
    problem.map(|problem| format!("of the top alone: {problem}"))
}

/// Whether extents asked for at odd bytes agree with the sector they are in, and what is free reads as zeros.
fn odd_problem(image: &Image, model: &Model, seed: u64) -> Option<String> {
    let mut rng = Rng::new(!seed);
    for _ in 0..READS {
        let at = rng.below(model.bytes.len());
        let extent = match image.extent_at(ByteOffset(at as u64)) {
            Ok(extent) => extent,
            Err(error) => return Some(chain_of(&error)),
        };
        let kind = match model.owners[at / SECTOR] {
            Owner::Nobody => ExtentKind::Hole,
            Owner::Zero(_) => ExtentKind::Zero,
            Owner::Data(_) => ExtentKind::Data,
        };
        let end = usize::try_from(extent.end().0).unwrap();
        let free = kind != ExtentKind::Data;
        if extent.start.0 != at as u64 || extent.kind != kind || end <= at || end > model.bytes.len() {
            return Some(format!("the extent at the odd byte {at} is {extent:?} instead of {kind:?}"));
        }
        if free && model.bytes[at..end].iter().any(|byte| *byte != 0) {
            return Some(format!("the extent at the odd byte {at} is {extent:?}, and holds something"));
        }
    }
    None
}
