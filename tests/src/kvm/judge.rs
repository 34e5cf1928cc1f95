//! What does an image of a guest's disk hold? Judged by e2fsck, debugfs and the numbers and checksums of the records.
//!
//! The form of the records is that of `tests/peers/kvm/guest.rs`, written down once more and independently.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::program;

/// Bytes of a block of a ring, and of its head.
pub const BLOCK: u64 = 4096;
/// What the head of a ring disk begins with; the number of blocks follows.
pub const RING_MAGIC: &[u8; 16] = b"STILLFRAME-RING\n";

/// What the guest's own volume holds.
#[derive(Debug)]
pub struct Log {
    /// Number of the last whole record; 0 for none.
    pub last: u64,
    /// The number that the hook wrote at its latest freeze.
    pub consistent: Option<u64>,
    /// Whether e2fsck finds nothing to do.
    pub clean: bool,
    /// What is wrong.
    pub problems: Vec<String>,
}

/// Reads the log on an ext4 volume that begins at byte `offset` of a raw file. A volume that is not clean is mended first,
/// in a copy, as a kernel would do.
///
/// # Panics
/// If the tools cannot be run.
#[expect(clippy::expect_used, reason = "a test without its judge is over")]
pub fn log_of(raw: &Path, offset: u64) -> Log {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut problems = Vec::new();
    let place = |path: &Path| format!("{}?offset={offset}", path.display());
    let checked = e2fsck(&["-fn", &place(raw)]);
    let clean = checked.0 == 0 && !checked.1.contains("recovery");
    let mended = folder.path().join("mended.raw");
    let mut volume = place(raw);
    if !clean {
        let copied = Command::new("cp").args(["--sparse=always"]).arg(raw).arg(&mended).status();
        assert!(copied.is_ok_and(|status| status.success()), "no copy of {}", raw.display());
        volume = place(&mended);
        // 0 and 1: nothing to do, or done.
        let (code, said) = e2fsck(&["-fy", &volume]);
        if code > 1 {
            problems.push(format!("e2fsck -fy ended with {code}: {said}"));
        }
        let (code, said) = e2fsck(&["-fn", &volume]);
        if code != 0 {
            problems.push(format!("e2fsck finds faults even after it mended them: {said}"));
        }
    }
    let log = dump(&volume, "/log", folder.path());
    let (last, wrong) = check_lines(&log.unwrap_or_default());
    problems.extend(wrong);
    let number = |name| String::from_utf8_lossy(&dump(&volume, name, folder.path())?).trim().parse().ok();
    let consistent = number("/consistent");
    // The guest does not sync it, so only a volume that was frozen or unmounted has to hold it.
    let seq = number("/seq");
    if clean && last > 0 && seq != Some(last) {
        problems.push(format!("/seq is {seq:?}, the last record of /log is {last}"));
    }
    Log { last, consistent, clean, problems }
}

/// A file of a volume, by debugfs.
fn dump(volume: &str, file: &str, folder: &Path) -> Option<Vec<u8>> {
    let to = folder.join("dumped");
    drop(fs::remove_file(&to));
    let command = format!("dump {file} {}", to.display());
    Command::new(program("debugfs")?).args(["-R", &command, volume]).output().ok()?;
    fs::read(&to).ok()
}

#[expect(clippy::expect_used, reason = "a test without its judge is over")]
fn e2fsck(args: &[&str]) -> (i32, String) {
    let tool = program("e2fsck").expect("e2fsck");
    let output = Command::new(tool).args(args).output().expect("e2fsck starts");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap_or(-1), said)
}

/// Every line of the log from the first record on: numbers without a gap, and what follows from the number in each.
fn check_lines(log: &[u8]) -> (u64, Vec<String>) {
    let text = String::from_utf8_lossy(log);
    let mut last = 0;
    let mut lines: Vec<&str> = text.split('\n').collect();
    // What is after the last end of line was not finished.
    lines.pop();
    for line in lines {
        if line != line_of(last + 1) {
            let line: String = line.chars().take(120).collect();
            return (last, vec![format!("after record {last} of the log comes {line:?}")]);
        }
        last += 1;
    }
    (last, Vec::new())
}

fn line_of(number: u64) -> String {
    let mut bytes = [0; 32];
    noise(number, &mut bytes);
    let payload: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{number} {:016x} {payload}", checksum(format!("{number} {payload}").as_bytes()))
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

/// The payload of a record, and what the command `noise` writes.
pub fn noise(seed: u64, bytes: &mut [u8]) {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for chunk in bytes.chunks_mut(8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        chunk.copy_from_slice(&x.to_le_bytes()[..chunk.len()]);
    }
}

/// What a ring disk holds.
#[derive(Debug)]
pub struct Ring {
    /// The highest number; 0 for none.
    pub last: u64,
    /// What is wrong.
    pub problems: Vec<String>,
}

/// Reads a ring from a raw file: every slot must hold just the record that belongs there when `last` is the newest one.
///
/// # Panics
/// If the file cannot be read.
#[expect(clippy::expect_used, reason = "a test without its image is over")]
pub fn ring_of(raw: &Path) -> Ring {
    let bytes = fs::read(raw).expect("the raw file of a ring");
    let wrong = |what: &str| Ring { last: 0, problems: vec![what.to_owned()] };
    if bytes.len() < 24 || bytes[..16] != RING_MAGIC[..] {
        return wrong("the head is not that of a ring");
    }
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let blocks = word(16);
    if bytes.len() as u64 != (blocks + 1) * BLOCK {
        return wrong("the disk is not as long as its head says");
    }
    let at = |slot: u64| usize::try_from(slot * BLOCK).expect("an index of memory");
    let last =
        (1..=blocks).filter(|slot| bytes[at(*slot)..].starts_with(b"SFRECORD")).map(|slot| word(at(slot) + 8)).max();
    let last = last.unwrap_or(0);
    let mut problems = Vec::new();
    for slot in 1..=blocks {
        // The newest number that belongs into this slot, up to the last.
        let rounds = (last + blocks - slot) / blocks;
        let mut expected = vec![0; at(1)];
        if rounds > 0 {
            let number = (rounds - 1) * blocks + slot;
            noise(number, &mut expected[24..]);
            expected[..8].copy_from_slice(b"SFRECORD");
            expected[8..16].copy_from_slice(&number.to_le_bytes());
            let sum = checksum(&expected[24..]);
            expected[16..24].copy_from_slice(&sum.to_le_bytes());
        }
        if bytes[at(slot)..at(slot + 1)] != expected[..] {
            problems.push(format!("block {slot} of the ring is not as after record {last}"));
        }
    }
    problems.truncate(5);
    Ring { last, problems }
}

/// Demands that raw images of the volume and of rings were taken in a freeze at record `number`, not before and not after.
///
/// # Panics
/// With what is wrong.
#[track_caller]
pub fn assert_quiesced(log: &Path, rings: &[&Path], number: u64) {
    let found = log_of(log, 0);
    assert!(found.clean && found.problems.is_empty(), "frozen at {number}: {found:?}");
    assert_eq!((found.last, found.consistent), (number, Some(number)), "frozen at {number}: {found:?}");
    for ring in rings {
        let found = ring_of(ring);
        assert!(found.problems.is_empty() && found.last == number, "{}, frozen at {number}: {found:?}", ring.display());
    }
}

/// Demands that raw images of the volume and of rings (in the order of their disks) were taken at one moment, while the
/// guest wrote, and gives the last record of the log. The volume must be whole once its journal is replayed.
///
/// # Panics
/// With what is wrong.
#[track_caller]
pub fn assert_crash_consistent(log: &Path, rings: &[&Path]) -> u64 {
    let found = log_of(log, 0);
    assert!(found.problems.is_empty(), "{found:?}");
    let mut before = found.last;
    for ring in rings {
        let ring = ring_of(ring);
        assert!(ring.problems.is_empty(), "{ring:?}, {found:?}");
        assert!(ring.last <= before && ring.last + 1 >= found.last, "{ring:?} after {before}, {found:?}");
        before = ring.last;
    }
    found.last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_with_a_gap_or_a_changed_byte_is_refused() {
        let whole: String = (1..=5).map(|number| line_of(number) + "\n").collect();
        assert_eq!(check_lines(whole.as_bytes()), (5, vec![]));
        assert_eq!(check_lines(&whole.as_bytes()[..whole.len() - 3]), (4, vec![]));
        let gap = whole.replacen(&(line_of(3) + "\n"), "", 1);
        assert_eq!(check_lines(gap.as_bytes()).0, 2);
        assert_eq!(check_lines(gap.as_bytes()).1.len(), 1);
        let changed = whole.replacen("4 ", "4  ", 1);
        assert_eq!(check_lines(changed.as_bytes()).1.len(), 1);
    }

    #[test]
    fn a_ring_with_a_record_of_another_round_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ring.raw");
        let ring = |last: u64, blocks: u64| {
            let mut bytes = vec![0; ((blocks + 1) * BLOCK) as usize];
            bytes[..16].copy_from_slice(RING_MAGIC);
            bytes[16..24].copy_from_slice(&blocks.to_le_bytes());
            for number in 1..=last {
                let slot = (1 + (number - 1) % blocks) as usize * BLOCK as usize;
                let block = &mut bytes[slot..slot + BLOCK as usize];
                noise(number, &mut block[24..]);
                block[..8].copy_from_slice(b"SFRECORD");
                block[8..16].copy_from_slice(&number.to_le_bytes());
                let sum = checksum(&block[24..]);
                block[16..24].copy_from_slice(&sum.to_le_bytes());
            }
            bytes
        };
        for last in [0, 1, 7, 8, 9, 20] {
            fs::write(&file, ring(last, 8)).unwrap();
            let found = ring_of(&file);
            assert!(found.last == last && found.problems.is_empty(), "{last}: {found:?}");
        }
        // Record 11, where 19 should be.
        let (new, old) = (ring(20, 8), ring(12, 8));
        let slot = 3 * BLOCK as usize..4 * BLOCK as usize;
        let mut mixed = new;
        mixed[slot.clone()].copy_from_slice(&old[slot]);
        fs::write(&file, mixed).unwrap();
        assert!(!ring_of(&file).problems.is_empty());
    }
}
