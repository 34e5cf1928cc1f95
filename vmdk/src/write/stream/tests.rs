use std::sync::Arc;

use blockdev::{ByteLen, ByteOffset, MemDisk, ReadAt};

use super::*;
use crate::{DenyGate, Image, Subformat};

const MIB: u64 = 1 << 20;

fn writer<W: Write>(sink: W, capacity: u64) -> StreamWriter<W> {
    let options = CreateOptions::new(Subformat::StreamOptimized, ByteLen(capacity));
    StreamWriter::new(sink, &PlainName::new("x.vmdk").unwrap(), &options).unwrap()
}

/// Half of it compresses, half does not.
fn data(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|at| if at / 1000 % 2 == 0 { next() } else { 7 }).collect()
}

fn open(bytes: Vec<u8>) -> Image {
    Image::open(Arc::new(MemDisk::new(bytes)), "x.vmdk", &DenyGate).unwrap()
}

#[test]
fn what_is_written_is_read_back_across_tables_and_to_the_last_sector() {
    let capacity = 100 * MIB + 1536;
    let stream = writer(Vec::new(), capacity);
    let places = [(0, 65536), (MIB, 3 << 20), (32 * MIB - 65536, 131_072), (100 * MIB, 1536)];
    for (at, len) in places {
        stream.write_at(ByteOffset(at), &data(at + 1, len)).unwrap();
    }
    let bytes = stream.finish().unwrap();
    assert!(bytes.len() < 3 << 20, "{} bytes", bytes.len());
    let image = open(bytes);
    assert_eq!(image.size().0, capacity);
    for (at, len) in places {
        let mut read = vec![0; len];
        image.read_exact_at(ByteOffset(at), &mut read).unwrap();
        assert!(read == data(at + 1, len), "{at}");
        image.read_exact_at(ByteOffset(at + 700), &mut read[..500]).unwrap();
        assert!(read[..500] == data(at + 1, len)[700..1200]);
    }
    let mut read = [1; 4096];
    image.read_exact_at(ByteOffset(50 * MIB), &mut read).unwrap();
    assert_eq!(read, [0; 4096]);
}

#[test]
fn an_empty_disk_is_a_few_sectors_whatever_its_size() {
    let bytes = writer(Vec::new(), 1 << 40).finish().unwrap();
    assert!(bytes.len() < 300 << 10, "{} bytes", bytes.len()); // the directory has an entry for every 32 MiB
    assert_eq!(open(bytes).size().0, 1 << 40);
}

#[test]
fn zeros_are_not_stored() {
    let stream = writer(Vec::new(), 4 * MIB);
    let mut bytes = vec![0; 2 << 20];
    bytes[MIB as usize] = 1;
    let packed = stream.prepare(ByteOffset(0), &bytes).unwrap();
    assert_eq!(packed.grains.len(), 1);
}

#[test]
fn grains_come_in_the_order_of_the_disk() {
    let stream = writer(Vec::new(), 4 * MIB);
    stream.write_at(ByteOffset(MIB), &[1; 65536]).unwrap();
    for early in [0, MIB] {
        let err = stream.write_at(ByteOffset(early), &[1; 65536]).unwrap_err();
        assert!(matches!(err, VmdkError::Request { field: "the start of a write", .. }), "{err}");
    }
    stream.write_at(ByteOffset(MIB + 65536), &[1; 65536]).unwrap();
    for (at, len) in [(1, 65536), (2 * MIB, 1000), (4 * MIB, 65536)] {
        assert!(stream.prepare(ByteOffset(at), &vec![1; len]).is_err());
    }
    stream.finish().unwrap();
}

/// Takes some bytes, then fails.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn after_a_failed_write_a_stream_can_not_be_finished() {
    let stream = writer(Full(70_000), 4 * MIB);
    assert!(matches!(stream.write_at(ByteOffset(0), &data(1, 65536)), Err(VmdkError::Io { .. })));
    assert!(matches!(stream.write_at(ByteOffset(MIB), &data(1, 65536)), Err(VmdkError::WriteFailed { .. })));
    assert!(matches!(stream.finish(), Err(VmdkError::WriteFailed { .. })));
    let options = CreateOptions::new(Subformat::StreamOptimized, ByteLen(MIB));
    assert!(StreamWriter::new(Full(100), &PlainName::new("x").unwrap(), &options).is_err());
}

#[test]
fn every_level_gives_the_same_disk() {
    let plain = data(3, 1 << 20);
    let mut sizes = Vec::new();
    for level in [1, 6, 12] {
        let stream = writer(Vec::new(), MIB).with_level(CompressionLevel::new(level).unwrap());
        stream.write_at(ByteOffset(0), &plain).unwrap();
        let bytes = stream.finish().unwrap();
        sizes.push(bytes.len());
        let mut read = vec![0; plain.len()];
        open(bytes).read_exact_at(ByteOffset(0), &mut read).unwrap();
        assert!(read == plain);
    }
    assert!(sizes[0] >= sizes[2], "{sizes:?}");
    assert_eq!((CompressionLevel::new(0), CompressionLevel::new(13)), (None, None));
}
