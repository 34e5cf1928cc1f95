//! An NTFS volume: keeps to what `tree.rs` says of every file system, within 64 MiB (of which the cache takes 2) and 2 GiB read.
//!
//! ```text
//!   input = sector of the table of upper case (4 bytes), 0 for none | one file
//! ```
//!
//! Update sequences are put right, and the table of upper case (128 KiB) is put where the input says.
#![no_main]

use std::sync::{Arc, LazyLock};

use blockdev::{ByteLen, ReadAt};
use fuzz::{File, Input, explore, first_file, limited};
use guestfs::{Cache, CachedDisk, Ntfs};
use libfuzzer_sys::fuzz_target;

const MOST_READ: u64 = 2 << 30;

/// The table of upper case, of ASCII alone.
static UPCASE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let upper = |unit: u16| unit.wrapping_sub(if (0x61..=0x7a).contains(&unit) { 0x20 } else { 0 });
    (0..=u16::MAX).flat_map(|unit| upper(unit).to_le_bytes()).collect()
});

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let upcase = input.number(4) << 9;
    let Some(mut disk) = first_file(input) else { return };
    seal(&mut disk);
    if upcase != 0 {
        disk.put(upcase, UPCASE.clone());
    }
    let disk = Arc::new(disk);
    limited(64 << 20, || {
        let cached = CachedDisk::new(Arc::clone(&disk) as Arc<dyn ReadAt>, Cache::new(ByteLen(2 << 20)));
        match Ntfs::open(Arc::new(cached)) {
            Ok(volume) => explore(&volume),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        assert!(disk.bytes_read() <= MOST_READ, "{} bytes were read", disk.bytes_read());
    });
});

/// Puts the update sequence number into the end of each sector of what may be a record or an index block.
fn seal(disk: &mut File) {
    let mut tails = Vec::new();
    for (start, bytes) in disk.segments() {
        for (at, sector) in (start..).step_by(512).zip(bytes.chunks(512)) {
            let Some(head) = sector.first_chunk::<8>().filter(|head| matches!(&head[..4], b"FILE" | b"INDX")) else {
                continue;
            };
            let (offset, count) = (u16::from_le_bytes([head[4], head[5]]), u16::from_le_bytes([head[6], head[7]]));
            let Some(number) = sector.get(usize::from(offset)..).and_then(|array| array.first_chunk::<2>()) else {
                continue;
            };
            tails.extend((1..u64::from(count.min(129))).map(|nth| (at + 512 * nth - 2, number.to_vec())));
        }
    }
    for (at, number) in tails {
        disk.put(at, number);
    }
}
