//! Images of every dialect, made by another hand (`tests/peers/vmdk/make.py`), and what we read of them: all bytes, and the
//! layer and kind of each run. Foreign readers are not asked here; `self_check_peers` holds the maker to them.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;
#[path = "common/peers.rs"]
mod peers;

use std::path::Path;

use blockdev::{ByteOffset, ExtentKind, FileDisk, ReadAt};
use serde_json::Value;
use vmdk_rs::{Image, Placement, open_path};

/// Each test takes the scenarios whose names begin with one of these.
const HOSTED: &[&str] = &["hosted-", "two-gb-"];
const FLAT: &[&str] = &["flat"];
const COWD: &[&str] = &["cowd-"];
const SESPARSE: &[&str] = &["sesparse-"];
const STREAM: &[&str] = &["stream-"];
const CHAINS: &[&str] = &["chain-", "mixed-", "custom-", "grown-"];
const DESCRIPTOR: &[&str] = &["descriptor-"];

/// What is compared at once.
const PIECE: usize = 1 << 20;

/// A run of a disk: first byte, end, depth of the layer that answers, kind.
type Run = (u64, u64, u64, String);

fn belongs(name: &str, group: &[&str]) -> bool {
    group.iter().any(|prefix| name.starts_with(prefix))
}

fn read_all(group: &[&str]) {
    if !peers::have_maker() {
        return;
    }
    let names = peers::scenarios();
    let names: Vec<&String> = names.iter().filter(|name| belongs(name, group)).collect();
    assert!(!names.is_empty());
    let bad: Vec<String> = names.into_iter().filter_map(|name| Some(format!("{name}: {}", problem(name)?))).collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// What is wrong with how we read a scenario.
fn problem(name: &str) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let (folder, facts) = peers::make(name, dir.path());
    let image = match open_path(&folder.join(facts["top"].as_str().unwrap())) {
        Ok(image) => image,
        Err(error) => return Some(chain_of(&error)),
    };
    if image.size().0 != facts["capacity"].as_u64().unwrap() {
        return Some(format!("{} bytes instead of {}", image.size().0, facts["capacity"]));
    }
    bytes_problem(&image, &facts, &folder).or_else(|| map_problem(&image, &facts))
}

/// An error and what it came from.
fn chain_of(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!(": {}", chain_of(source)));
    format!("{error}{}", source.unwrap_or_default())
}

fn bytes_problem(image: &Image, facts: &Value, folder: &Path) -> Option<String> {
    let model = FileDisk::open(&folder.join(facts["model"].as_str().unwrap())).unwrap();
    let whole = [serde_json::json!({"start": 0, "length": image.size().0})];
    let windows = facts["windows"].as_array().map_or(whole.as_slice(), Vec::as_slice);
    let packed = facts["packed"].as_bool() == Some(true);
    let mut behind = 0;
    for window in windows {
        let (start, len) = (window["start"].as_u64().unwrap(), window["length"].as_u64().unwrap());
        let there = if packed { behind } else { start };
        if let Some(problem) = part_problem(image, start, &model, there, len) {
            return Some(problem);
        }
        behind += len;
    }
    (packed && behind != model.size().0).then(|| format!("the model has {} instead of {behind} bytes", model.size()))
}

/// Compares `len` bytes from `start` of the image on with those from `there` of the model on, whatever both say of holes.
fn part_problem(image: &Image, start: u64, model: &FileDisk, there: u64, len: u64) -> Option<String> {
    let (mut ours, mut theirs) = (vec![1; PIECE], vec![2; PIECE]);
    for at in (0..len).step_by(PIECE) {
        let piece = usize::try_from(len - at).unwrap().min(PIECE);
        let (ours, theirs) = (&mut ours[..piece], &mut theirs[..piece]);
        if let Err(error) = image.read_exact_at(ByteOffset(start + at), ours) {
            return Some(chain_of(&error));
        }
        model.read_exact_at(ByteOffset(there + at), theirs).unwrap();
        if let Some(byte) = (0..piece).find(|byte| ours[*byte] != theirs[*byte]) {
            return Some(format!("byte {} differs", start + at + byte as u64));
        }
    }
    None
}

fn map_problem(image: &Image, facts: &Value) -> Option<String> {
    let ours = match our_map(image) {
        Ok(map) => map,
        Err(problem) => return Some(problem),
    };
    let theirs = joined(facts["map"].as_array().unwrap().iter().map(|run| {
        let (start, len) = (run["start"].as_u64().unwrap(), run["length"].as_u64().unwrap());
        (start, start + len, run["depth"].as_u64().unwrap(), run["kind"].as_str().unwrap().to_owned())
    }));
    let first = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
    let first = first.map(|(ours, theirs)| format!("our map has {ours:?} instead of {theirs:?}"));
    first.or_else(|| (ours.len() != theirs.len()).then(|| "one of the maps ends early".to_owned()))
}

/// All runs from the first byte to the last; each begins where the one before ends.
fn our_map(image: &Image) -> Result<Vec<Run>, String> {
    let (mut at, size) = (0, image.size().0);
    let mut runs = Vec::new();
    while at < size {
        let placement = image.placement_at(ByteOffset(at)).map_err(|error| chain_of(&error))?;
        let extent = placement.extent;
        if extent.start.0 != at || extent.len.0 == 0 || extent.end().0 > size {
            return Err(format!("the run at byte {at} is {extent:?}"));
        }
        runs.push((at, extent.end().0, placement.depth as u64, kind_of(&placement).to_owned()));
        at = extent.end().0;
    }
    Ok(joined(runs.into_iter()))
}

/// What has a place is data to the maker, even where it is a hole of the flat file.
fn kind_of(placement: &Placement<'_>) -> &'static str {
    match placement.extent.kind {
        _ if placement.stored.is_some() => "data",
        ExtentKind::Data => "data without a place",
        ExtentKind::Zero => "zero",
        ExtentKind::Hole => "hole",
    }
}

fn joined(runs: impl Iterator<Item = Run>) -> Vec<Run> {
    let mut all: Vec<Run> = Vec::new();
    for run in runs {
        match all.last_mut() {
            Some(last) if last.1 == run.0 && (last.2, &last.3) == (run.2, &run.3) => last.1 = run.1,
            _ => all.push(run),
        }
    }
    all
}

#[test]
fn each_scenario_is_read_by_one_test() {
    if peers::have_maker() {
        for name in peers::scenarios() {
            let groups = [HOSTED, FLAT, COWD, SESPARSE, STREAM, CHAINS, DESCRIPTOR];
            assert_eq!(groups.iter().filter(|group| belongs(&name, group)).count(), 1, "{name}");
        }
    }
}

#[test]
fn hosted_sparse_extents_are_read_as_they_were_made() {
    read_all(HOSTED);
}

#[test]
fn flat_extents_are_read_as_they_were_made() {
    read_all(FLAT);
}

#[test]
fn redo_logs_are_read_as_they_were_made() {
    read_all(COWD);
}

#[test]
fn space_efficient_extents_are_read_as_they_were_made() {
    read_all(SESPARSE);
}

#[test]
fn streams_are_read_as_they_were_made() {
    read_all(STREAM);
}

#[test]
fn chains_and_mixtures_are_read_as_they_were_made() {
    read_all(CHAINS);
}

#[test]
fn descriptors_are_read_in_whatever_hand_they_are_written() {
    read_all(DESCRIPTOR);
}
