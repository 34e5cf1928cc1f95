//! Images that were made to do harm: they are refused, and cost nothing.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blockdev::{ByteLen, ByteOffset, ExtentKind, MemDisk, ReadAt, ReadError};
use vmdk_rs::{DenyGate, ErrorFamily, FnGate, Image, PlainName, VmdkError};

fn descriptor(create_type: &str, extents: &str) -> Arc<dyn ReadAt> {
    let text = format!("version=1\nCID=1\nparentCID=ffffffff\ncreateType=\"{create_type}\"\n{extents}\n");
    Arc::new(MemDisk::new(text.into_bytes()))
}

/// A gate of one file of `len` zeros, by any name.
fn zeros(len: usize) -> FnGate<impl Fn(&PlainName) -> Result<Arc<dyn ReadAt>, VmdkError>> {
    FnGate::new(move |_| Ok(Arc::new(MemDisk::new(vec![0; len])) as Arc<dyn ReadAt>))
}

/// A file of any size that begins with `start` and is zero behind it, and counts what is read.
struct Huge {
    start: Vec<u8>,
    size: u64,
    read: AtomicU64,
}

impl Huge {
    fn new(start: Vec<u8>, size: u64) -> Self {
        Self { start, size, read: AtomicU64::new(0) }
    }
}

impl ReadAt for Huge {
    fn size(&self) -> ByteLen {
        ByteLen(self.size)
    }
    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        buf.fill(0);
        let from = usize::try_from(at.0).unwrap().min(self.start.len());
        let len = buf.len().min(self.start.len() - from);
        buf[..len].copy_from_slice(&self.start[from..from + len]);
        Ok(())
    }
}

/// A hosted sparse file with its descriptor inside. `gd` in sectors.
fn hosted(capacity: u64, extent_sectors: u64, grain: u64, gd: u64) -> Vec<u8> {
    let mut file = vec![0; 2048];
    file[..4].copy_from_slice(b"KDMV");
    file[4..12].copy_from_slice(&[1, 0, 0, 0, 1, 0, 0, 0]);
    for (at, value) in [(0x0c, capacity), (0x14, grain), (0x1c, 1), (0x24, 2), (0x38, gd)] {
        file[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    file[0x2c..0x30].copy_from_slice(&512u32.to_le_bytes());
    file[0x49..0x4d].copy_from_slice(b"\n \r\n");
    let text = format!(
        "version=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\nRW {extent_sectors} SPARSE \"/etc/passwd\"\n"
    );
    file[512..512 + text.len()].copy_from_slice(text.as_bytes());
    file
}

#[test]
fn a_file_with_its_descriptor_inside_asks_for_no_other_file() {
    let image = Image::open(Arc::new(MemDisk::new(hosted(8, 8, 8, 3))), "x.vmdk", &DenyGate).unwrap();
    assert_eq!(image.extent_at(ByteOffset(0)).unwrap().kind, ExtentKind::Hole);
    let err = Image::open(descriptor("vmfs", "RW 1 VMFS \"x-flat.vmdk\""), "x.vmdk", &DenyGate).unwrap_err();
    assert!(matches!(err, VmdkError::Denied { .. }));
}

#[test]
fn a_flat_extent_fits_its_file_exactly_or_is_refused() {
    let open =
        |line: &str, len| Image::open(descriptor("vmfs", line), "x.vmdk", &zeros(len)).map(|image| image.size().0);
    assert_eq!(open("RW 2 FLAT \"a\" 1", 1536).unwrap(), 1024);
    let err = open("RW 2 FLAT \"a\" 1", 1535).unwrap_err();
    assert_eq!(err.to_string(), "the extent takes bytes 0x200 to 0x600 of a, which has 1535 bytes");
    assert!(open("RW 2 FLAT \"a\" 36028797018963967", 1536).is_err()); // the end overflows
    assert!(open("RW 2 FLAT \"a\" 18446744073709551615", 1536).is_err());
    assert!(open("RW 0 FLAT \"a\" 0", 1536).is_err());
    assert!(open("", 1536).is_err());
}

#[test]
fn sizes_stop_at_64_tib_whether_in_one_extent_or_many() {
    let open = |lines: &str| Image::open(descriptor("custom", lines), "x.vmdk", &DenyGate).map(|image| image.size().0);
    let (all, half) = (1u64 << 37, 1u64 << 36);
    assert_eq!(open(&format!("RW {all} ZERO")).unwrap(), 64 << 40);
    assert_eq!(open(&format!("RW {half} ZERO\nRW {half} ZERO")).unwrap(), 64 << 40);
    assert!(open(&format!("RW {} ZERO", all + 1)).is_err());
    assert!(open(&format!("RW {half} ZERO\nRW {half} ZERO\nRW 1 ZERO")).is_err());
    assert!(open(&format!("RW {} ZERO\nRW {} ZERO", u64::MAX, u64::MAX)).is_err());
}

#[test]
fn zero_extents_read_as_zeros_between_others() {
    let image =
        Image::open(descriptor("custom", "RW 2 FLAT \"a\"\nRW 3 ZERO\nRW 1 FLAT \"a\" 1"), "x.vmdk", &zeros(1024));
    let image = image.unwrap();
    let extent = image.extent_at(ByteOffset(1024)).unwrap();
    assert_eq!((extent.kind, extent.len.0), (ExtentKind::Zero, 3 * 512));
    image.read_exact_at(ByteOffset(0), &mut [1; 6 * 512]).unwrap();
}

#[test]
fn extents_that_are_not_read_are_named() {
    for (line, dialect) in [("RW 1 NEW \"a\"", "NEW"), ("NOACCESS 1 FLAT \"a\" 0", "NOACCESS")] {
        let err = Image::open(descriptor("custom", line), "x.vmdk", &zeros(512)).unwrap_err();
        assert_eq!(err.family(), ErrorFamily::Unsupported);
        assert!(matches!(err, VmdkError::Dialect { dialect: d, .. } if d == dialect));
    }
    let err = Image::open(descriptor("newType", "RW 1 ZERO"), "x.vmdk", &zeros(512)).unwrap_err();
    assert!(matches!(err, VmdkError::Dialect { dialect, .. } if dialect == "newType"));
    for kind in ["VMFSRDM", "VMFSRAW"] {
        let err = Image::open(descriptor("vmfsRawDeviceMap", &format!("RW 1 {kind} \"a\"")), "x.vmdk", &zeros(512));
        assert!(matches!(err.unwrap_err(), VmdkError::NoDevice { name } if name == "a"));
    }
}

#[test]
fn a_disk_of_62_tib_is_opened_and_walked_with_few_reads() {
    let sectors = 62u64 << 31;
    let file = Arc::new(Huge::new(hosted(sectors, sectors, 128, 4), 1 << 40));
    let image = Image::open(Arc::clone(&file) as Arc<dyn ReadAt>, "x.vmdk", &DenyGate).unwrap();
    assert!(file.read.load(Ordering::Relaxed) < 4096);
    let end = (0..u64::MAX).try_fold(0, |at, _| match image.extent_at(ByteOffset(at)) {
        Ok(extent) => {
            assert_eq!(extent.kind, ExtentKind::Hole);
            Ok(at + extent.len.0)
        }
        Err(_) => Err(at),
    });
    assert_eq!(end, Err(62 << 40));
    assert!(file.read.load(Ordering::Relaxed) <= 9 << 20, "the directory is 7.75 MiB");
}

#[test]
fn an_extent_may_be_smaller_than_its_file_says_but_not_larger() {
    let open = |capacity, sectors| {
        let file = MemDisk::new(hosted(capacity, sectors, 8, 3));
        Image::open(Arc::new(file), "x.vmdk", &DenyGate).map(|image| image.size().0)
    };
    assert_eq!(open(8, 8).unwrap(), 4096);
    assert_eq!(open(8, 7).unwrap(), 7 * 512);
    let err = open(8, 9).unwrap_err();
    let expected = "capacity at byte 0xc of x.vmdk is 0x8: at least the sectors that the descriptor says";
    assert_eq!(err.to_string(), expected);
}

#[test]
fn files_that_are_no_descriptor_say_what_they_are() {
    let open = |bytes: Vec<u8>| Image::open(Arc::new(MemDisk::new(bytes)), "x", &DenyGate).unwrap_err();
    assert!(matches!(open(b"COWD\x01\0\0\0".to_vec()), VmdkError::NotADescriptor { .. }));
    assert!(matches!(open(0xcafe_babe_u64.to_le_bytes().to_vec()), VmdkError::NotADescriptor { .. }));
    assert!(matches!(open(vec![b'#'; (1 << 20) + 1]), VmdkError::NotADescriptor { .. }));
    assert!(matches!(open(vec![b'#'; 1 << 20]), VmdkError::Descriptor { .. }));
    for short in [&b""[..], b"K", b"KDMV"] {
        assert_eq!(open(short.to_vec()).family(), ErrorFamily::Corrupt);
    }
    let mut inside = hosted(8, 8, 8, 3);
    inside[0x1c] = 0;
    assert!(matches!(open(inside), VmdkError::NotADescriptor { .. }));
    let mut behind = hosted(8, 8, 8, 3);
    behind[0x24] = 200;
    assert!(matches!(open(behind), VmdkError::Short { what: "the descriptor", .. }));
}

#[test]
fn every_flipped_byte_of_a_header_is_survived() {
    let good = hosted(64, 64, 8, 3);
    for at in 0..700 {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            if let Ok(image) = Image::open(Arc::new(MemDisk::new(bytes)), "x.vmdk", &DenyGate) {
                let len = usize::try_from(image.size().0.min(65536)).unwrap();
                let _ = image.read_exact_at(ByteOffset(0), &mut vec![0; len]);
                let _ = image.extent_at(ByteOffset(0));
            }
        }
    }
}

#[test]
fn the_last_grain_need_not_be_whole() {
    // 9 sectors in grains of 8; the header rounds up to 16, the file ends with the ninth sector.
    let mut file = hosted(16, 9, 8, 4);
    file.resize(16 * 512, 0);
    file[4 * 512..][..4].copy_from_slice(&5u32.to_le_bytes()); // a table in sectors 5 to 8
    file[5 * 512 + 4..][..4].copy_from_slice(&15u32.to_le_bytes());
    file[15 * 512..].fill(7);
    let image = Image::open(Arc::new(MemDisk::new(file.clone())), "x.vmdk", &DenyGate).unwrap();
    let mut read = [1; 9 * 512];
    image.read_exact_at(ByteOffset(0), &mut read).unwrap();
    assert!(read[..8 * 512] == [0; 8 * 512] && read[8 * 512..] == [7; 512]);
    file.truncate(16 * 512 - 1);
    let image = Image::open(Arc::new(MemDisk::new(file)), "x.vmdk", &DenyGate).unwrap();
    assert!(matches!(image.read_exact_at(ByteOffset(0), &mut read), Err(ReadError::Corrupt { .. })));
}
