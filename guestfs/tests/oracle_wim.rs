//! What wimlib compresses, we unpack: a compressed resource of a WIM file has the form of WOF's stream. And what we make by hand where
//! wimlib makes none, wimlib unpacks as well.
#![allow(clippy::unwrap_used, reason = "what only tests call may fail as tests do")]

mod support;
#[path = "support/wim.rs"]
mod wim;

use std::collections::HashMap;
use std::process::Command;

use blockdev::{ByteLen, ByteOffset, ReadAt};
use guestfs::unpack::lzx::{self, Blocks};
use support::{has, put, run};
use wim::{PACKINGS, Resource, WIMLIB, capture, reader, resources};

/// Files of every kind, each of another length: that is how they are known again in a WIM file.
fn contents() -> HashMap<u64, Vec<u8>> {
    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap(); // machine code, and text in its symbols
    let text: Vec<u8> = include_str!("../src/unpack/lzx.rs").bytes().cycle().take(150_001).collect();
    let noise = random(100_002);
    let mixed: Vec<u8> =
        text[..120_000].chunks(4096).zip(noise.chunks(4096)).flat_map(|(a, b)| [a, b].concat()).collect();
    // other bytes every 10 KiB: a chunk is best packed as several blocks
    let bright: Vec<u8> = noise.iter().map(|byte| byte & 0x1f | 0xc0).collect();
    let changing: Vec<u8> = text.chunks(10_240).zip(bright.chunks(10_240)).flat_map(|(a, b)| [a, b].concat()).collect();
    let numbers: Vec<u8> = (0..70_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
    // calls everywhere, to before the chunk, behind the file, and in the last bytes where none are
    let calls: Vec<u8> =
        (0..20_000i32).flat_map(|n| [&[0xe8][..], &(n * 1201 - 12_000_000).to_le_bytes()].concat()).collect();
    let files = [
        program[..program.len().min(3_000_003)].to_vec(),
        text.clone(),
        mixed,
        changing[..200_005].to_vec(),
        numbers,
        calls.clone(),
        calls[..32768 + 23].to_vec(),
        vec![0; 1_000_004],
        b"abc".repeat(30_000),
        text[..32768].to_vec(),
        text[..32769].to_vec(),
        text[..16385].to_vec(),
        text[..4097].to_vec(),
        text[..4095].to_vec(),
        vec![b'x'; 300],
        vec![b'x'; 1],
    ];
    let count = files.len();
    let by_len: HashMap<u64, Vec<u8>> = files.into_iter().map(|bytes| (ByteLen::of(&bytes).0, bytes)).collect();
    assert_eq!(by_len.len(), count, "all lengths differ");
    by_len
}

fn random(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()[6]
    };
    (0..len).map(|_| next()).collect()
}

fn read(reader: &dyn ReadAt, at: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0xee; usize::try_from(len).unwrap()];
    reader.read_exact_at(ByteOffset(at), &mut bytes).unwrap();
    bytes
}

#[test]
fn files_that_wimlib_compressed_are_read_whole_and_in_pieces() {
    if !has(WIMLIB) {
        return;
    }
    let files = contents();
    for (compress, chunk, algorithm) in PACKINGS {
        let folder = tempfile::tempdir().unwrap();
        let wim = capture(folder.path(), &files, compress, chunk);
        let resources = resources(&std::fs::read(&wim).unwrap());
        assert!(resources.len() >= files.len() - 2, "all but the shortest are compressed: {}", resources.len());
        for resource in resources {
            let expected = &files[&resource.plain];
            let reader = reader(&wim, &resource, algorithm);
            let what = format!("{compress} {chunk}: file of {}", resource.plain);
            assert!(read(&reader, 0, resource.plain) == *expected, "{what}");
            for step in [1000, 4096, 5003, 70_001] {
                for at in (0..resource.plain.min(400_000)).step_by(step) {
                    let len = u64::try_from(step).unwrap().min(resource.plain - at);
                    let from = usize::try_from(at).unwrap();
                    let expected = &expected[from..from + usize::try_from(len).unwrap()];
                    assert!(read(&reader, at, len) == expected, "{what}, {len} bytes at {at}");
                }
            }
        }
    }
}

/// The chunks of a resource: packed bytes and plain length.
fn chunks(wim: &[u8], resource: &Resource, chunk: u64) -> Vec<(Vec<u8>, usize)> {
    let start = usize::try_from(resource.start).unwrap();
    let data = &wim[start..start + usize::try_from(resource.packed).unwrap()];
    let count = usize::try_from(resource.plain.div_ceil(chunk)).unwrap();
    let (table, data) = data.split_at(4 * (count - 1));
    let mut places: Vec<_> =
        table.as_chunks().0.iter().map(|at| usize::try_from(u32::from_le_bytes(*at)).unwrap()).collect();
    places.insert(0, 0);
    places.push(data.len());
    let plain = |index: usize| (resource.plain - chunk * u64::try_from(index).unwrap()).min(chunk);
    let chunk_of =
        |(index, place): (usize, &[usize])| (data[place[0]..place[1]].to_vec(), usize::try_from(plain(index)).unwrap());
    places.windows(2).enumerate().map(chunk_of).collect()
}

#[test]
fn both_kinds_of_compressed_blocks_and_chunks_of_several_blocks_are_among_what_was_read() {
    if !has(WIMLIB) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let wim = std::fs::read(capture(folder.path(), &contents(), "LZX:100", "32768")).unwrap();
    let (mut all, mut several) = (Blocks::default(), 0);
    for resource in resources(&wim) {
        for (packed, plain) in chunks(&wim, &resource, 32768) {
            if packed.len() < plain {
                let blocks = lzx::decompress(&packed, &mut vec![0; plain]).unwrap();
                let cut = lzx::decompress(&packed[..packed.len() - 4], &mut vec![0; plain]);
                assert!(cut.is_err(), "the last unit is padding at most, so bits are missing");
                all.verbatim += blocks.verbatim;
                all.aligned += blocks.aligned;
                several += u32::from(blocks.verbatim + blocks.aligned > 1);
            }
        }
    }
    println!("{all:?}, {several} chunks of several blocks");
    assert!(all.verbatim >= 10 && all.aligned >= 10 && several >= 10, "{all:?}, {several}");
}

/// Bits of LZX: units of 16, the topmost first.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    unit: u16,
    used: u32,
}

impl Writer {
    fn bits(&mut self, count: u32, value: u32) {
        for bit in (0..count).rev() {
            self.unit = self.unit << 1 | u16::try_from(value >> bit & 1).unwrap();
            self.used += 1;
            if self.used == 16 {
                self.bytes.extend(self.unit.to_le_bytes());
                (self.unit, self.used) = (0, 0);
            }
        }
    }

    /// Ends the unit; begins and ends another one if none was begun, as uncompressed blocks want it.
    fn align(&mut self) {
        self.bits(16 - self.used, 0);
    }

    fn uncompressed(&mut self, last: [u32; 3], plain: &[u8]) {
        self.bits(3, 3);
        self.bits(1, 0);
        self.bits(16, u32::try_from(plain.len()).unwrap());
        self.align();
        for last in last {
            self.bytes.extend(last.to_le_bytes());
        }
        self.bytes.extend(plain);
        self.bytes.extend(&[0xee][..plain.len() % 2]);
    }

    /// Lengths of codes: all 0 but for two of 1. The code before has 0, 17 and 18 with lengths 1 (18), 2 (17), 3 (0) and 3 (16).
    fn lengths(&mut self, count: u32, ones: [u32; 2]) {
        for symbol in 0..20 {
            self.bits(
                4,
                match symbol {
                    18 => 1,
                    17 => 2,
                    0 | 16 => 3,
                    _ => 0,
                },
            );
        }
        let mut at = 0;
        for end in ones.into_iter().chain([count]) {
            while at < end.min(count) {
                match end.min(count) - at {
                    left @ 20.. => {
                        self.bits(1, 0);
                        self.bits(5, left.min(51) - 20);
                        at += left.min(51);
                    }
                    left @ 4.. => {
                        self.bits(2, 0b10);
                        self.bits(4, left.min(19) - 4);
                        at += left.min(19);
                    }
                    _ => {
                        self.bits(3, 0b110);
                        at += 1;
                    }
                }
            }
            if at < count {
                self.bits(3, 0b111); // 0 - 16 is 1 modulo 17
                at += 1;
            }
        }
    }

    /// A verbatim block that is `count` repetitions of 257 bytes at the last distance, and one byte `x`.
    fn repetitions(&mut self, count: u32) {
        self.bits(3, 1);
        self.bits(1, 0);
        self.bits(16, count * 257 + 1);
        self.lengths(256, [u32::from(b'x'), 256]);
        self.lengths(240, [7, 240]);
        self.lengths(249, [0, 248]);
        for _ in 0..count {
            self.bits(2, 0b11); // symbol 256 + 7, length symbol 248
        }
        self.bits(1, 0);
        self.align();
    }
}

#[test]
fn wimlib_and_we_agree_on_uncompressed_blocks_made_by_hand() {
    if !has(WIMLIB) {
        return;
    }
    let mut chunk = Writer::default();
    let bytes = random(1500);
    chunk.uncompressed([1, 1, 1], &bytes[..1001]); // odd: a byte of padding
    chunk.uncompressed([1000, 7, 9], &bytes[1001..]);
    chunk.repetitions(30);
    let mut plain = bytes;
    for at in 1500..1500 + 30 * 257 {
        plain.push(plain[at - 1000]);
    }
    plain.push(b'x');

    let mut unpacked = vec![0; plain.len()];
    let blocks = lzx::decompress(&chunk.bytes, &mut unpacked).unwrap();
    assert_eq!(blocks, Blocks { verbatim: 1, aligned: 0, uncompressed: 2 });
    assert!(unpacked == plain);

    // a WIM file with these bytes, whose compressed ones are replaced; wimlib compares their SHA-1
    let folder = tempfile::tempdir().unwrap();
    let files = HashMap::from([(ByteLen::of(&plain).0, plain)]);
    let path = capture(folder.path(), &files, "LZX", "32768");
    let mut wim = std::fs::read(&path).unwrap();
    let entry = resources(&wim)[0].entry;
    let (len, start) = (ByteLen::of(&chunk.bytes).0, ByteLen::of(&wim).0);
    put(&mut wim, entry, &(len | 0x04 << 56).to_le_bytes());
    put(&mut wim, entry + 8, &start.to_le_bytes());
    wim.extend(&chunk.bytes);
    std::fs::write(&path, &wim).unwrap();
    run(WIMLIB, &["verify", "x.wim", "--quiet"], folder.path(), "");
    wim[usize::try_from(start).unwrap() + 100] ^= 1; // the judge can say no
    std::fs::write(&path, &wim).unwrap();
    let verify = Command::new(WIMLIB).args(["verify", "x.wim", "--quiet"]).current_dir(folder.path()).output().unwrap();
    assert!(!verify.status.success());
}
