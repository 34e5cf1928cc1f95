//! Files that the Windows Overlay Filter keeps compressed (CompactOS): their reparse data, and their bytes from the alternate stream
//! `WofCompressedData`. [MS-FSCC] section 2.1.2.1 names the reparse tag; the structures are `WOF_EXTERNAL_INFO` and
//! `FILE_PROVIDER_EXTERNAL_INFO_V1` of the Windows SDK. The stream has the form of a resource of a WIM file:
//!
//! ```text
//!   stream = where each chunk but the first begins, from the end of this table on (4 bytes each, 8 for 4 GiB and more) | chunk...
//! ```
//!
//! A chunk that is no shorter than its plain bytes is those bytes.

use std::sync::{Arc, Mutex, PoisonError};

use blockdev::{ByteLen, ByteOffset, ReadAt, ReadError};

use super::{lzx, xpress};
use crate::FsError;

/// The name of the stream that holds the compressed bytes.
pub const STREAM: &str = "WofCompressedData";

/// Compressed bytes that are read at once, if the caller asked for that much.
const BATCH: u64 = 256 << 10;
/// Chunks that are read at once.
const BATCH_CHUNKS: usize = 64;
/// Bytes of the table that are read at once, and kept.
const PIECE: u64 = 4096;
/// Unpacked chunks that are kept for small reads.
const KEPT: usize = 2;

/// How a file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// XPRESS in chunks of 4 KiB.
    Xpress4k,
    /// LZX in chunks of 32 KiB.
    Lzx,
    /// XPRESS in chunks of 8 KiB.
    Xpress8k,
    /// XPRESS in chunks of 16 KiB.
    Xpress16k,
}

impl Algorithm {
    /// The algorithm that reparse data name. `data` are those of the tag 0x80000017, without the 8 bytes that all tags begin with;
    /// `whose` names the file.
    ///
    /// # Errors
    /// [`FsError::Unsupported`] for files whose bytes are in a WIM file, and for what is not known; [`FsError::Corrupt`] for data
    /// that are too short.
    pub fn of_reparse_data(data: &[u8], whose: &str) -> Result<Self, FsError> {
        let (fields, _) = data.as_chunks();
        let &[version, provider, file_version, algorithm, ..] = fields else {
            return Err(FsError::Corrupt {
                what: format!("the WOF reparse data of {whose}"),
                field: "length",
                found: ByteLen::of(data).to_string(),
                expected: "at least 16 bytes",
            });
        };
        let unsupported = |why| Err(FsError::Unsupported { what: whose.to_owned(), why });
        match (u32::from_le_bytes(version), u32::from_le_bytes(provider), u32::from_le_bytes(file_version)) {
            (1, 2, 1) => {}
            (1, 1, _) => return unsupported("its bytes are in a WIM file outside (WOF provider 1)"),
            (1, 2, _) => return unsupported("its WOF file provider has a version other than 1"),
            (1, ..) => return unsupported("its WOF provider is neither 1 nor 2"),
            _ => return unsupported("its WOF data have a version other than 1"),
        }
        match u32::from_le_bytes(algorithm) {
            0 => Ok(Self::Xpress4k),
            1 => Ok(Self::Lzx),
            2 => Ok(Self::Xpress8k),
            3 => Ok(Self::Xpress16k),
            _ => unsupported("it is packed by a WOF algorithm above 3"),
        }
    }

    /// Plain bytes of each chunk but the last, as a power of two.
    const fn chunk_bits(self) -> u32 {
        match self {
            Self::Xpress4k => 12,
            Self::Xpress8k => 13,
            Self::Xpress16k => 14,
            Self::Lzx => 15,
        }
    }

    /// Plain bytes of each chunk but the last.
    const fn chunk_len(self) -> u64 {
        1u64.wrapping_shl(self.chunk_bits())
    }

    /// The chunk that holds byte `at` of the file, and where in it that is.
    const fn place(self, at: u64) -> (u64, u64) {
        (at.wrapping_shr(self.chunk_bits()), at & self.chunk_len().wrapping_sub(1))
    }
}

/// The plain bytes of a packed file.
pub struct WofReader<R> {
    stream: R,
    algorithm: Algorithm,
    /// Plain length.
    size: ByteLen,
    /// Length of the table of chunks. It lies inside the stream.
    table_len: u64,
    /// The file, for errors.
    whose: String,
    kept: Mutex<Kept>,
}

/// What was read lately.
#[derive(Default)]
struct Kept {
    /// Unpacked chunks by number, the latest first.
    chunks: [Option<(u64, Arc<[u8]>)>; KEPT],
    /// A piece of the table, by number.
    piece: Option<(u64, Arc<[u8]>)>,
}

impl<R: ReadAt> WofReader<R> {
    /// The file of `size` whose packed bytes `stream` holds. `whose` names it in errors.
    ///
    /// # Errors
    /// [`FsError::Corrupt`] if the stream cannot hold as many chunks as `size` has.
    pub fn new(stream: R, size: ByteLen, algorithm: Algorithm, whose: String) -> Result<Self, FsError> {
        let mut reader = Self { stream, algorithm, size, table_len: 0, whose, kept: Mutex::default() };
        let entries = reader.chunks().saturating_sub(1);
        let table_len = entries.checked_mul(reader.entry_len()).filter(|len| *len <= reader.stream.size().0);
        let Some(table_len) = table_len else {
            let found = format!("{} chunks", reader.chunks());
            return Err(reader.corrupt("table of chunks", found, "no longer than the stream"));
        };
        reader.table_len = table_len;
        Ok(reader)
    }

    const fn chunks(&self) -> u64 {
        self.size.0.div_ceil(self.algorithm.chunk_len())
    }

    /// Bytes of an entry of the table.
    const fn entry_len(&self) -> u64 {
        if self.size.0 >> 32 == 0 { 4 } else { 8 }
    }

    /// Plain bytes of a chunk that exists.
    fn plain_len(&self, chunk: u64) -> usize {
        let start = chunk.saturating_mul(self.algorithm.chunk_len());
        let len = self.size.0.saturating_sub(start).min(self.algorithm.chunk_len());
        usize::try_from(len).unwrap_or(0) // at most 32 KiB
    }

    fn corrupt(&self, field: &'static str, found: String, expected: &'static str) -> FsError {
        FsError::Corrupt { what: format!("{STREAM} of {}", self.whose), field, found, expected }
    }

    fn read_stream(&self, at: u64, buf: &mut [u8]) -> Result<(), FsError> {
        let read = self.stream.read_exact_at(ByteOffset(at), buf);
        read.map_err(|source| FsError::Read { what: format!("{STREAM} of {}", self.whose), source })
    }

    /// Does something with what is kept. Nothing that takes long: other threads wait.
    fn with_kept<T>(&self, work: impl FnOnce(&mut Kept) -> T) -> T {
        work(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where a chunk begins, or the last one ends, from the end of the table on.
    fn boundary(&self, chunk: u64) -> Result<u64, FsError> {
        let data_len = self.stream.size().0.saturating_sub(self.table_len);
        let Some(entry) = chunk.checked_sub(1) else { return Ok(0) };
        if chunk >= self.chunks() {
            return Ok(data_len);
        }
        let at = entry.saturating_mul(self.entry_len());
        let piece = self.piece(at / PIECE)?;
        let within = usize::try_from(at % PIECE).unwrap_or(0);
        let bytes = piece.get(within..).unwrap_or_default();
        let found = match self.entry_len() {
            4 => bytes.first_chunk().map(|bytes| u64::from(u32::from_le_bytes(*bytes))),
            _ => bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)),
        };
        match found {
            Some(start) if start <= data_len => Ok(start),
            _ => {
                let found = found.map_or_else(|| "missing".to_owned(), |start| format!("{start:#x}"));
                Err(self.corrupt("start of a chunk", found, "inside the stream"))
            }
        }
    }

    /// A piece of the table.
    fn piece(&self, number: u64) -> Result<Arc<[u8]>, FsError> {
        let kept = self.with_kept(|kept| kept.piece.clone());
        if let Some((_, piece)) = kept.filter(|(kept, _)| *kept == number) {
            return Ok(piece);
        }
        let start = number.saturating_mul(PIECE);
        let len = self.table_len.saturating_sub(start).min(PIECE);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)]; // at most PIECE
        self.read_stream(start, &mut bytes)?;
        let piece: Arc<[u8]> = bytes.into();
        self.with_kept(|kept| kept.piece = Some((number, Arc::clone(&piece))));
        Ok(piece)
    }

    /// Unpacks whole chunks to the front of `out`, which has room for one at least; answers how many bytes that gave.
    fn read_chunks(&self, first: u64, out: &mut [u8]) -> Result<usize, FsError> {
        let start = self.boundary(first)?;
        let (mut end, mut room) = (start, out.len());
        let mut lens = Vec::new();
        for chunk in (first..self.chunks()).take(BATCH_CHUNKS) {
            let plain = self.plain_len(chunk);
            let chunk_end = self.boundary(chunk.saturating_add(1))?;
            let packed = chunk_end.checked_sub(end).and_then(|len| usize::try_from(len).ok());
            let Some(packed) = packed.filter(|len| (1..=plain).contains(len)) else {
                let found = format!("{end:#x} to {chunk_end:#x}");
                return Err(self.corrupt("place of a chunk", found, "at least a byte, and no more than are in it"));
            };
            if room < plain || (chunk > first && chunk_end.saturating_sub(start) > BATCH) {
                break;
            }
            lens.push((packed, plain));
            (end, room) = (chunk_end, room.saturating_sub(plain));
        }
        let len = end.saturating_sub(start);
        let mut packed = vec![0; usize::try_from(len).unwrap_or(0)]; // at most BATCH, or one chunk
        self.read_stream(self.table_len.saturating_add(start), &mut packed)?;
        let (mut packed, all) = (&packed[..], out.len());
        let mut rest = out;
        for (chunk, (packed_len, plain_len)) in (first..).zip(lens) {
            let (from, behind) = packed.split_at(packed_len.min(packed.len()));
            let (to, room) = rest.split_at_mut(plain_len.min(rest.len()));
            self.unpack(chunk, from, to)?;
            (packed, rest) = (behind, room);
        }
        Ok(all.saturating_sub(rest.len()))
    }

    fn unpack(&self, chunk: u64, packed: &[u8], plain: &mut [u8]) -> Result<(), FsError> {
        if packed.len() == plain.len() {
            plain.copy_from_slice(packed);
            return Ok(());
        }
        let unpacked = match self.algorithm {
            Algorithm::Lzx => lzx::decompress(packed, plain).map(|_| ()),
            Algorithm::Xpress4k | Algorithm::Xpress8k | Algorithm::Xpress16k => xpress::decompress(packed, plain),
        };
        unpacked.map_err(|error| error.of(&format!("chunk {chunk} of {}", self.whose)))
    }

    /// A chunk, kept or unpacked.
    fn chunk(&self, number: u64) -> Result<Arc<[u8]>, FsError> {
        let kept = self.with_kept(|kept| {
            let found = kept.chunks.iter().position(|chunk| chunk.as_ref().is_some_and(|(kept, _)| *kept == number))?;
            kept.chunks.get_mut(..=found)?.rotate_right(1);
            kept.chunks.first()?.as_ref().map(|(_, chunk)| Arc::clone(chunk))
        });
        if let Some(chunk) = kept {
            return Ok(chunk);
        }
        let mut bytes = vec![0; self.plain_len(number)];
        self.read_chunks(number, &mut bytes)?;
        let chunk: Arc<[u8]> = bytes.into();
        self.with_kept(|kept| {
            kept.chunks.rotate_right(1);
            if let Some(latest) = kept.chunks.first_mut() {
                *latest = Some((number, Arc::clone(&chunk)));
            }
        });
        Ok(chunk)
    }

    /// Reads some bytes to the front of `buf`, at least one; answers how many. The range lies inside the file.
    fn read_some(&self, at: u64, buf: &mut [u8]) -> Result<usize, FsError> {
        let (number, within) = self.algorithm.place(at);
        if within == 0 && buf.len() >= self.plain_len(number) {
            return self.read_chunks(number, buf);
        }
        let chunk = self.chunk(number)?;
        let source = usize::try_from(within).ok().and_then(|within| chunk.get(within..)).unwrap_or_default();
        let len = source.len().min(buf.len());
        if let (Some(target), Some(source)) = (buf.get_mut(..len), source.get(..len)) {
            target.copy_from_slice(source);
        }
        Ok(len)
    }
}

impl<R: ReadAt> ReadAt for WofReader<R> {
    fn size(&self) -> ByteLen {
        self.size
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        let (size, len) = (self.size, ByteLen::of(buf));
        if at.checked_add(len).is_none_or(|end| end.0 > size.0) {
            return Err(ReadError::OutOfRange { at, len, size });
        }
        let mut at = at;
        let mut rest = buf;
        while !rest.is_empty() {
            let read = self.read_some(at.0, rest).map_err(|error| error.at(at))?;
            let (done, behind) = rest.split_at_mut(read.clamp(1, rest.len()));
            at = ByteOffset(at.0.saturating_add(ByteLen::of(done).0));
            rest = behind;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use blockdev::MemDisk;

    use super::*;

    /// Zeros, and some bytes, that count reads.
    #[derive(Default)]
    struct Sparse {
        size: u64,
        parts: Vec<(u64, Vec<u8>)>,
        reads: AtomicU64,
    }

    impl ReadAt for Sparse {
        fn size(&self) -> ByteLen {
            ByteLen(self.size)
        }
        fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            assert!(at.checked_add(ByteLen::of(buf)).unwrap().0 <= self.size, "inside the stream");
            buf.fill(0);
            for (start, part) in &self.parts {
                for (position, byte) in (*start..).zip(part).filter(|(position, _)| *position >= at.0) {
                    if let Some(target) = buf.get_mut(usize::try_from(position.wrapping_sub(at.0)).unwrap()) {
                        *target = *byte;
                    }
                }
            }
            Ok(())
        }
    }

    fn reader<R: ReadAt>(stream: R, size: u64) -> WofReader<R> {
        WofReader::new(stream, ByteLen(size), Algorithm::Xpress4k, "file 7".to_owned()).unwrap()
    }

    fn reason(error: &ReadError) -> String {
        std::error::Error::source(error).unwrap().to_string()
    }

    #[test]
    fn reparse_data_name_the_algorithm() {
        let of = |numbers: [u32; 4]| {
            let data: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            Algorithm::of_reparse_data(&data, "file 7").map_err(|error| error.to_string())
        };
        assert_eq!(of([1, 2, 1, 0]), Ok(Algorithm::Xpress4k));
        assert_eq!(of([1, 2, 1, 1]), Ok(Algorithm::Lzx));
        assert_eq!(of([1, 2, 1, 2]), Ok(Algorithm::Xpress8k));
        assert_eq!(of([1, 2, 1, 3]), Ok(Algorithm::Xpress16k));
        for (numbers, why) in [
            ([1, 1, 1, 0], "its bytes are in a WIM file outside (WOF provider 1)"),
            ([1, 3, 1, 0], "its WOF provider is neither 1 nor 2"),
            ([2, 2, 1, 0], "its WOF data have a version other than 1"),
            ([1, 2, 2, 0], "its WOF file provider has a version other than 1"),
            ([1, 2, 1, 4], "it is packed by a WOF algorithm above 3"),
        ] {
            assert_eq!(of(numbers), Err(format!("file 7 cannot be read: {why}")));
        }
        let error = Algorithm::of_reparse_data(&[1; 15], "file 7").unwrap_err();
        assert_eq!(error.to_string(), "length of the WOF reparse data of file 7 is 15 bytes: at least 16 bytes");
    }

    /// A stream of raw chunks: two whole ones and one of ten bytes, each of its own byte.
    fn raw_chunks() -> Vec<u8> {
        [&4096u32.to_le_bytes()[..], &8192u32.to_le_bytes(), &[1; 4096], &[2; 4096], &[3; 10]].concat()
    }

    #[test]
    fn small_reads_of_a_chunk_cost_one_read_of_it() {
        let stream = Sparse { size: 8210, parts: vec![(0, raw_chunks())], ..Sparse::default() };
        let reader = reader(stream, 8202);
        for at in 0..8192 {
            let mut buf = [0; 10];
            reader.read_exact_at(ByteOffset(at), &mut buf).unwrap();
            let ones = usize::try_from(4096u64.saturating_sub(at).min(10)).unwrap();
            assert!(buf[..ones].iter().all(|byte| *byte == 1) && buf[ones..].iter().all(|byte| *byte >= 2));
        }
        assert_eq!(reader.stream.reads.load(Ordering::Relaxed), 4, "three chunks and the table");
        assert!(reader.read_exact_at(ByteOffset(8200), &mut [0; 3]).is_err());
    }

    #[test]
    fn a_large_read_costs_one_read_of_its_chunks() {
        let stream = Sparse { size: 8210, parts: vec![(0, raw_chunks())], ..Sparse::default() };
        let reader = reader(stream, 8202);
        let mut all = vec![0; 8202];
        reader.read_exact_at(ByteOffset(0), &mut all).unwrap();
        assert_eq!(all, [vec![1; 4096], vec![2; 4096], vec![3; 10]].concat());
        assert_eq!(reader.stream.reads.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn tables_of_four_gibibytes_and_more_have_entries_of_eight_bytes() {
        let chunks = (1u64 << 32) / 4096;
        for (size, entry_len) in [((1u64 << 32) - 1, 4), (1 << 32, 8)] {
            let (last, table_len) = (chunks - 1, (chunks - 1) * entry_len);
            // the last chunk is raw, behind a gap of nothing that others would need
            let plain_len = size - last * 4096;
            let start = 1000u64;
            let parts = vec![
                ((last - 1) * entry_len, start.to_le_bytes()[..usize::try_from(entry_len).unwrap()].to_vec()),
                (table_len + start, vec![9; usize::try_from(plain_len).unwrap()]),
            ];
            let reader = reader(Sparse { size: table_len + start + plain_len, parts, ..Sparse::default() }, size);
            let mut buf = [0; 7];
            reader.read_exact_at(ByteOffset(size - 7), &mut buf).unwrap();
            assert_eq!(buf, [9; 7]);
            assert!(reader.stream.reads.load(Ordering::Relaxed) <= 2);
        }
    }

    #[test]
    fn tables_that_lie_are_refused() {
        let open =
            |size| WofReader::new(MemDisk::new(raw_chunks()), ByteLen(size), Algorithm::Lzx, "file 7".to_owned());
        let error = open(u64::MAX).map(|_| ()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "table of chunks of WofCompressedData of file 7 is 562949953421312 chunks: no longer than the stream"
        );
        assert!(open(0).unwrap().read_exact_at(ByteOffset(0), &mut []).is_ok());
        for (first, second, why) in [
            (8203, 8192, "start of a chunk of WofCompressedData of file 7 is 0x200b: inside the stream"),
            (
                4097,
                8192,
                "place of a chunk of WofCompressedData of file 7 is 0x0 to 0x1001: at least a byte, and no more than are in it",
            ),
            (
                0,
                8192,
                "place of a chunk of WofCompressedData of file 7 is 0x0 to 0x0: at least a byte, and no more than are in it",
            ),
        ] {
            let mut stream = raw_chunks();
            stream[..4].copy_from_slice(&u32::to_le_bytes(first));
            stream[4..8].copy_from_slice(&u32::to_le_bytes(second));
            let error = reader(MemDisk::new(stream), 8202).read_exact_at(ByteOffset(0), &mut [0]).unwrap_err();
            assert!(matches!(error, ReadError::Corrupt { at: ByteOffset(0), .. }));
            assert_eq!(reason(&error), why);
        }
    }

    #[test]
    fn a_broken_chunk_is_an_error_of_its_own_bytes_alone() {
        let mut stream = raw_chunks();
        stream.remove(8 + 4096); // the second chunk is one byte shorter, so it is packed
        stream[4..8].copy_from_slice(&8191u32.to_le_bytes());
        let reader = reader(MemDisk::new(stream), 8202);
        reader.read_exact_at(ByteOffset(0), &mut [0; 4096]).unwrap();
        reader.read_exact_at(ByteOffset(8192), &mut [0; 10]).unwrap();
        let error = reader.read_exact_at(ByteOffset(5000), &mut [0; 1]).unwrap_err();
        let why = "sum of the code lengths of byte 0x0 of the XPRESS data of chunk 1 of file 7 is 0x";
        assert!(reason(&error).starts_with(why), "{}", reason(&error));
    }
}
