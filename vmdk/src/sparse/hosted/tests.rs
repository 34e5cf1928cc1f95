use blockdev::MemDisk;
use zerocopy::IntoBytes;

use super::*;
use crate::ErrorFamily;

fn valid() -> RawHosted {
    RawHosted {
        magic: HOSTED_MAGIC,
        version: 1.into(),
        flags: 3.into(),
        capacity: 2048.into(),
        grain_size: 128.into(),
        descriptor_offset: 1.into(),
        descriptor_size: 20.into(),
        gtes_per_gt: 512.into(),
        rgd_offset: 21.into(),
        gd_offset: 26.into(),
        over_head: 128.into(),
        unclean_shutdown: 0,
        line_ends: RawHosted::LINE_END_CHARS,
        compress_algorithm: 0.into(),
        pad: [0; 433],
    }
}

fn read(change: impl FnOnce(&mut RawHosted)) -> Result<HostedHeader, VmdkError> {
    let mut raw = valid();
    change(&mut raw);
    HostedHeader::read(&MemDisk::new(raw.as_bytes().to_vec()), "x.vmdk")
}

fn text(change: impl FnOnce(&mut RawHosted)) -> String {
    let err = read(change).unwrap_err();
    assert_eq!(err.family(), ErrorFamily::Corrupt, "{err}");
    err.to_string()
}

#[test]
fn a_valid_header_gives_places_in_bytes() {
    let header = read(|_| ()).unwrap();
    assert_eq!(header.grains.capacity, 1 << 20);
    assert_eq!(header.grains.grain_len, 65536);
    assert_eq!(header.grains.directories, [26 * 512, 21 * 512]);
    assert_eq!(header.descriptor, Some((ByteOffset(512), 10240)));
    assert_eq!(header.grains.table_count(), 1);
}

#[test]
fn capacity_is_1_sector_to_64_tib() {
    assert!(read(|h| h.capacity = 1.into()).is_ok());
    assert!(read(|h| h.capacity = (1 << 37).into()).is_ok());
    assert_eq!(text(|h| h.capacity = 0.into()), "capacity at byte 0xc of x.vmdk is 0x0: 1 sector to 64 TiB");
    assert!(read(|h| h.capacity = ((1 << 37) + 1).into()).is_err());
    assert!(read(|h| h.capacity = u64::MAX.into()).is_err());
}

#[test]
fn grains_are_powers_of_two_from_8_to_65536_sectors() {
    for edge in [8, 65536] {
        assert!(read(|h| h.grain_size = edge.into()).is_ok());
    }
    for wrong in [0, 4, 129, 131_072, u64::MAX] {
        assert!(read(|h| h.grain_size = wrong.into()).is_err(), "{wrong}");
    }
    let expected = "grainSize at byte 0x14 of x.vmdk is 0x0: a power of two from 8 to 65536 sectors";
    assert_eq!(text(|h| h.grain_size = 0.into()), expected);
}

#[test]
fn tables_have_1_to_4096_entries() {
    for edge in [1, 4096] {
        assert!(read(|h| h.gtes_per_gt = edge.into()).is_ok());
    }
    for wrong in [0, 4097, u32::MAX] {
        assert!(read(|h| h.gtes_per_gt = wrong.into()).is_err(), "{wrong}");
    }
}

#[test]
fn versions_1_to_3_are_read_and_others_are_unsupported() {
    assert!(read(|h| h.version = 3.into()).is_ok());
    for wrong in [0, 4] {
        assert_eq!(read(|h| h.version = wrong.into()).unwrap_err().family(), ErrorFamily::Unsupported);
    }
}

/// A stream: header, one grain table, the directory, the end.
fn stream(change: impl FnOnce(&mut RawHosted, &mut RawHosted, &mut [RawMarker; 2])) -> Vec<u8> {
    let mut header = valid();
    header.flags = 0x30001.into();
    header.version = 3.into();
    header.compress_algorithm = 1.into();
    header.gd_offset = GD_AT_END.into();
    let mut footer = header.clone();
    footer.gd_offset = 2.into();
    let mut markers = [Marker::Footer.raw(1), Marker::EndOfStream.raw(0)];
    change(&mut header, &mut footer, &mut markers);
    let parts: [&[u8]; 5] =
        [header.as_bytes(), &[0; 2048], markers[0].as_bytes(), footer.as_bytes(), markers[1].as_bytes()];
    parts.concat()
}

fn read_stream(bytes: Vec<u8>) -> Result<HostedHeader, VmdkError> {
    HostedHeader::read(&MemDisk::new(bytes), "x.vmdk")
}

#[test]
fn the_footer_of_a_stream_says_where_the_directory_is() {
    let header = read_stream(stream(|_, _, _| ())).unwrap();
    assert!(header.grains.packed);
    assert_eq!(header.grains.directories, [1024]);
    let header = read_stream(stream(|header, _, _| header.gd_offset = 3.into())).unwrap(); // at the front: as qemu-img
    assert_eq!(header.grains.directories, [1536]);
}

#[test]
fn a_stream_that_was_cut_off_says_so() {
    let whole = stream(|_, _, _| ());
    for missing in [1, 511, 512, 1024, 1536] {
        let err = read_stream(whole[..whole.len() - missing].to_vec()).unwrap_err();
        assert_eq!(err.family(), ErrorFamily::Corrupt);
        assert!(matches!(err, VmdkError::NoFooter { .. }), "{missing}: {err}");
    }
    let err = read_stream(stream(|_, _, markers| markers[0].kind = 2.into())).unwrap_err();
    let text = "the stream x.vmdk should end with a footer, and has no footer marker at byte 0xa00: it was cut off or is not finished";
    assert_eq!(err.to_string(), text);
    assert!(read_stream(stream(|_, _, markers| markers[1].size = 1.into())).is_err());
}

#[test]
fn a_footer_that_contradicts_the_header_is_refused() {
    for change in [
        |footer: &mut RawHosted| footer.capacity = 4096.into(),
        |footer: &mut RawHosted| footer.grain_size = 8.into(),
        |footer: &mut RawHosted| footer.gtes_per_gt = 4096.into(),
        |footer: &mut RawHosted| footer.flags = 3.into(),
        |footer: &mut RawHosted| footer.magic = *b"KDMX",
        |footer: &mut RawHosted| footer.gd_offset = 0.into(),
        |footer: &mut RawHosted| footer.gd_offset = GD_AT_END.into(),
    ] {
        let err = read_stream(stream(|_, footer, _| change(footer))).unwrap_err();
        assert_eq!(err.family(), ErrorFamily::Corrupt, "{err}");
    }
    let err = read_stream(stream(|_, footer, _| footer.gd_offset = 0.into())).unwrap_err();
    assert!(err.to_string().starts_with("gdOffset at byte 0xc38 of x.vmdk"), "{err}");
}

#[test]
fn compression_is_deflate_with_markers_or_none() {
    let unsupported = |change: fn(&mut RawHosted)| {
        let err = read(change).unwrap_err();
        assert_eq!(err.family(), ErrorFamily::Unsupported, "{err}");
        err.to_string()
    };
    assert!(unsupported(|h| h.flags = (3 | RawHosted::COMPRESSED).into()).starts_with("flags of x.vmdk is 65539"));
    assert!(unsupported(|h| h.flags = (3 | RawHosted::MARKERS).into()).starts_with("flags"));
    assert!(unsupported(|h| h.flags = 0x30003.into()).starts_with("compressAlgorithm of x.vmdk is 0"));
    let packed = |sectors: u64| {
        read(|h| {
            h.flags = 0x30003.into();
            h.compress_algorithm = 1.into();
            h.grain_size = sectors.into();
        })
    };
    assert!(packed(4096).unwrap().grains.packed);
    assert!(packed(8192).is_err());
}

#[test]
fn a_file_changed_by_a_text_transfer_is_refused_where_the_flag_says_so() {
    assert!(text(|h| h.line_ends = *b"\n \n\n").contains("transfer in text mode"));
    let unflagged = |h: &mut RawHosted| {
        h.line_ends = [0; 4];
        h.flags = 2.into();
    };
    assert!(read(unflagged).is_ok());
}

#[test]
fn a_descriptor_takes_at_most_1_mib() {
    assert!(read(|h| h.descriptor_size = 2048.into()).is_ok());
    assert!(read(|h| h.descriptor_size = 2049.into()).is_err());
    assert!(read(|h| h.descriptor_size = u64::MAX.into()).is_err());
    assert!(read(|h| h.descriptor_offset = u64::MAX.into()).is_err());
    assert_eq!(read(|h| h.descriptor_offset = 0.into()).unwrap().descriptor, None);
}

#[test]
fn a_directory_must_be_somewhere() {
    assert_eq!(read(|h| h.gd_offset = 0.into()).unwrap().grains.directories, [21 * 512]);
    assert_eq!(read(|h| h.gd_offset = u64::MAX.into()).unwrap().grains.directories, [21 * 512]);
    assert_eq!(read(|h| h.flags = 1.into()).unwrap().grains.directories, [26 * 512]);
    let nowhere = |h: &mut RawHosted| {
        h.gd_offset = 0.into();
        h.flags = 1.into();
    };
    assert!(text(nowhere).starts_with("gdOffset at byte 0x38"));
}

#[test]
fn a_wrong_magic_and_a_short_file_are_refused() {
    assert!(text(|h| h.magic = *b"KDMX").starts_with("magicNumber at byte 0x0"));
    let err = HostedHeader::read(&MemDisk::new(vec![0; 511]), "x.vmdk").unwrap_err();
    assert_eq!(err.to_string(), "the header takes bytes 0x0 to 0x200 of x.vmdk, which has 511 bytes");
}
