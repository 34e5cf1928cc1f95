//! Streams: compressed grains between markers, tables and directory behind them or in front.

use libdeflater::{CompressionLvl, Compressor};

use crate::hosted::{DESCRIPTOR, Header};
use crate::model::SECTOR;
use crate::rng::Rng;
use crate::sheet::{Grains, Sheet, longs, words};

const FLAGS: usize = 1 | 1 << 16 | 1 << 17;
const TABLE: usize = 1;
const DIRECTORY: usize = 2;
const FOOTER: usize = 3;

fn marker(sectors: usize, kind: usize) -> Vec<u8> {
    let mut all = longs([sectors as u64]);
    all.extend(words([0, kind]));
    all.resize(SECTOR, 0);
    all
}

/// zlib data: compressed, or in stored blocks of odd sizes.
fn zlib(rng: &mut Rng, compressor: &mut Compressor, data: &[u8]) -> Vec<u8> {
    if !rng.one_in(3) {
        let mut packed = vec![0; compressor.zlib_compress_bound(data.len())];
        let len = compressor.zlib_compress(data, &mut packed).unwrap();
        packed.truncate(len);
        return packed;
    }
    let (mut packed, most) = (vec![0x78, 0x01], rng.within(30_000, 65_535));
    let mut blocks = data.chunks(most).peekable();
    while let Some(block) = blocks.next() {
        let len = u16::try_from(block.len()).unwrap();
        packed.push(u8::from(blocks.peek().is_none()));
        packed.extend(len.to_le_bytes());
        packed.extend((!len).to_le_bytes());
        packed.extend(block);
    }
    packed.extend(adler32(data).to_be_bytes());
    packed
}

fn adler32(data: &[u8]) -> u32 {
    let (mut a, mut b) = (1, 0);
    for part in data.chunks(5000) {
        for byte in part {
            a += u32::from(*byte);
            b += a;
        }
        (a, b) = (a % 65_521, b % 65_521);
    }
    b << 16 | a
}

struct Writer<'a> {
    sheet: Sheet,
    grains: &'a Grains<'a>,
    compressor: Compressor,
    /// Whether the last grain is filled up behind the end of the disk.
    padded: bool,
    /// Of all tables, one behind the other.
    entries: Vec<usize>,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> usize {
        let sector = self.sheet.append(bytes.len());
        self.sheet.bytes[sector * SECTOR..].fill(0); // padding is zeros
        self.sheet.write(sector, bytes);
        sector
    }

    fn grain(&mut self, rng: &mut Rng, number: usize) {
        let data = if self.padded { self.grains.padded(number) } else { self.grains.data(number).to_vec() };
        let packed = zlib(rng, &mut self.compressor, &data);
        let mut all = longs([(number * self.grains.grain) as u64]);
        all.extend(words([packed.len()]));
        all.extend(packed);
        self.entries[number] = self.put(&all);
    }

    fn table(&self, table: usize, len: usize) -> Vec<u8> {
        words(self.entries[table * len..][..len].iter().copied())
    }
}

pub(crate) fn stream(
    rng: &mut Rng,
    grains: &Grains<'_>,
    entries: usize,
    in_front: bool,
    inside: Option<&str>,
) -> Vec<u8> {
    let level = CompressionLvl::new(rng.pick(&[1, 1, 2, 6])).unwrap();
    let places = vec![0; grains.states.len().next_multiple_of(entries)];
    let compressor = Compressor::new(level);
    let mut writer = Writer { sheet: Sheet::default(), grains, compressor, padded: rng.one_in(2), entries: places };
    let header = |redundant, directory| Header {
        version: 3,
        flags: FLAGS | usize::from(redundant > 0) << 1,
        capacity: grains.sectors(),
        grain: grains.grain,
        inside: inside.is_some(),
        entries,
        redundant,
        directory,
        overhead: 21,
        algorithm: 1,
    };
    writer.put(&header(0, u64::MAX).bytes());
    let mut text = inside.unwrap_or_default().as_bytes().to_vec();
    text.resize(DESCRIPTOR * SECTOR, 0);
    writer.put(&text);
    if in_front {
        let [redundant, directory] = front(rng, &mut writer, entries);
        writer.sheet.write(0, &header(redundant, directory).bytes());
    } else {
        let directory = behind(rng, &mut writer, entries);
        writer.put(&marker(1, FOOTER));
        writer.put(&header(0, directory).bytes());
        writer.put(&marker(0, 0));
    }
    writer.sheet.bytes
}

/// Tables, each behind its grains or all at the end, and the directory. Answers where that is.
fn behind(rng: &mut Rng, writer: &mut Writer<'_>, entries: usize) -> u64 {
    let (interleaved, count) = (rng.one_in(2), writer.entries.len() / entries);
    let mut directory = vec![0; count];
    let used: Vec<usize> = (0..count).filter(|table| writer.grains.uses(*table, entries)).collect();
    let stored = writer.grains.stored();
    for table in &used {
        for number in stored.iter().filter(|number| *number / entries == *table) {
            writer.grain(rng, *number);
        }
        if interleaved {
            directory[*table] = table_behind(writer, *table, entries);
        }
    }
    for table in used.iter().filter(|_| !interleaved) {
        directory[*table] = table_behind(writer, *table, entries);
    }
    let directory = words(directory);
    writer.put(&marker(directory.len().div_ceil(SECTOR), DIRECTORY));
    writer.put(&directory) as u64
}

fn table_behind(writer: &mut Writer<'_>, table: usize, entries: usize) -> usize {
    let table = writer.table(table, entries);
    writer.put(&marker(table.len().div_ceil(SECTOR), TABLE));
    writer.put(&table)
}

/// Directories and their tables before grains in any order. Answers where the redundant one is, if there is one, and the
/// first.
fn front(rng: &mut Rng, writer: &mut Writer<'_>, entries: usize) -> [u64; 2] {
    let count = writer.entries.len() / entries;
    let copies = rng.within(1, 2);
    let mut directories = Vec::new();
    for _ in 0..copies {
        let directory = writer.sheet.append(count * 4);
        let tables: Vec<usize> = (0..count).map(|_| writer.sheet.append(entries * 4)).collect();
        directories.push((directory, tables));
    }
    let mut stored = writer.grains.stored();
    if rng.one_in(2) {
        rng.shuffle(&mut stored);
    }
    for number in stored {
        writer.grain(rng, number);
    }
    for (directory, tables) in &directories {
        writer.sheet.write(*directory, &words(tables.iter().copied()));
        for (number, sector) in tables.iter().enumerate() {
            let table = writer.table(number, entries);
            writer.sheet.write(*sector, &table);
        }
    }
    [directories.get(1).map_or(0, |copy| copy.0 as u64), directories[0].0 as u64]
}
