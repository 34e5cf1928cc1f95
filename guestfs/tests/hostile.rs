//! Tables that lie: each is refused or warned of, none makes us panic, loop or allocate what it says.
#![allow(clippy::unwrap_used, reason = "what only tests call may fail as tests do")]

mod support;

use blockdev::{ByteLen, ByteOffset, MemDisk, ReadAt, ReadError};
use guestfs::{DiskLayout, PartitionError, Piece, SectorSize, TableKind, VolumeKind, Warning, volumes};
use support::{GptDisk, mbr_disk, places, put, put_slot};

fn read(bytes: &[u8]) -> Result<DiskLayout, PartitionError> {
    volumes(&MemDisk::new(bytes.to_vec()))
}

fn small_gpt() -> GptDisk {
    GptDisk::new(512, 2048, &[(64, 127), (128, 1023)])
}

const GPT_PLACES: [(u32, u64, u64); 2] = [(1, 64 * 512, 64 * 512), (2, 128 * 512, 896 * 512)];

// ---- MBR ----

#[test]
fn a_sound_mbr_is_read_without_a_warning() {
    let layout = read(&mbr_disk()).unwrap();
    assert_eq!(layout.table, TableKind::Mbr { signature: 0xdead_beef });
    assert_eq!(places(&layout), [(1, 32768, 131_072), (5, 520 * 512, 51_200), (6, 712 * 512, 102_400)]);
    assert!(layout.warnings.is_empty(), "{:?}", layout.warnings);
}

#[test]
fn a_chain_of_boot_records_that_loops_is_refused() {
    let mut bytes = mbr_disk();
    put_slot(&mut bytes, 704 * 512, 1, 0x05, 192, 212); // to itself
    assert!(matches!(read(&bytes), Err(PartitionError::ChainLoop { at: ByteOffset(360_448) })));
    put_slot(&mut bytes, 704 * 512, 1, 0x05, 0, 100); // to the first
    let err = read(&bytes).unwrap_err();
    assert_eq!(err.to_string(), "the chain of logical partitions returns to the extended boot record at byte 0x40000");
}

#[test]
fn a_chain_of_more_than_128_boot_records_is_refused_and_one_of_128_is_read() {
    let chain = |records: u32| {
        let mut bytes = vec![0; 1 << 20];
        put_slot(&mut bytes, 0, 0, 0x05, 100, 1900);
        for record in 0..records {
            let at = usize::try_from(100 + 2 * record).unwrap() * 512;
            put_slot(&mut bytes, at, 0, 0x83, 1, 1);
            if record + 1 < records {
                put_slot(&mut bytes, at, 1, 0x05, 2 * (record + 1), 2);
            }
        }
        read(&bytes)
    };
    assert_eq!(chain(128).unwrap().volumes.len(), 128);
    assert!(matches!(chain(129), Err(PartitionError::Unsupported { found: 129, .. })));
}

#[test]
fn a_link_out_of_the_extended_partition_is_refused() {
    let mut bytes = mbr_disk();
    put_slot(&mut bytes, 512 * 512, 1, 0x05, 1024, 10);
    let err = read(&bytes).unwrap_err();
    assert!(matches!(err, PartitionError::Corrupt { found: 1024, .. }), "{err}");
}

#[test]
fn a_link_to_a_sector_without_boot_record_is_refused() {
    let mut bytes = mbr_disk();
    put_slot(&mut bytes, 512 * 512, 1, 0x05, 300, 10);
    let err = read(&bytes).unwrap_err();
    assert_eq!(err.to_string(), "boot signature of the extended boot record at byte 0x65800 is 0x0: 0xaa55");
}

#[test]
fn an_extended_partition_without_boot_record_is_empty_with_a_warning() {
    let mut bytes = mbr_disk();
    put(&mut bytes, 512 * 512, &[0; 512]);
    let layout = read(&bytes).unwrap();
    assert_eq!(layout.volumes.len(), 1);
    assert!(matches!(layout.warnings[..], [Warning::ContainerEmpty { index: 2, .. }]));
}

#[test]
fn overlaps_are_refused_whoever_overlaps() {
    let with = |edit: fn(&mut [u8])| {
        let mut bytes = mbr_disk();
        edit(&mut bytes);
        match read(&bytes) {
            Err(PartitionError::Overlap { first, second, .. }) => (first, second),
            other => panic!("{other:?}"),
        }
    };
    let (partition, container, record) = (Piece::Partition, Piece::Container, Piece::BootRecord);
    let primaries = with(|b| put_slot(b, 0, 2, 0x83, 319, 10));
    assert_eq!(primaries, (partition(1), partition(3)));
    let primary_in_extended = with(|b| put_slot(b, 0, 2, 0x83, 1535, 10));
    assert_eq!(primary_in_extended, (container(2), partition(3)));
    let logical_over_next_record = with(|b| put_slot(b, 512 * 512, 0, 0x83, 8, 185));
    assert_eq!(logical_over_next_record, (partition(5), record(6)));
    let logical_over_its_record = with(|b| put_slot(b, 512 * 512, 0, 0x83, 0, 10));
    assert_eq!(logical_over_its_record, (record(5), partition(5)));
}

#[test]
fn a_partition_up_to_the_last_sector_is_read_and_one_past_it_is_refused_by_name() {
    let mut bytes = mbr_disk();
    put_slot(&mut bytes, 0, 3, 0x07, 1536, 512);
    assert_eq!(read(&bytes).unwrap().volumes.len(), 4);
    put_slot(&mut bytes, 0, 3, 0x07, 1536, 513);
    let err = read(&bytes).unwrap_err();
    assert_eq!(err.to_string(), "partition 4 lies from byte 0xc0000 to 0x100200, but the disk ends at 0x100000");
    put_slot(&mut bytes, 0, 3, 0x07, u32::MAX, u32::MAX);
    assert!(matches!(read(&bytes), Err(PartitionError::PastEnd { piece: Piece::Partition(4), .. })));
}

#[test]
fn an_extended_partition_past_the_end_is_a_warning_and_a_logical_one_past_the_end_is_refused() {
    let mut bytes = mbr_disk();
    put_slot(&mut bytes, 0, 1, 0x0f, 512, 4096);
    let layout = read(&bytes).unwrap();
    assert_eq!(layout.volumes.len(), 3);
    assert!(matches!(layout.warnings[..], [Warning::ContainerPastEnd { index: 2 }]));
    put_slot(&mut bytes, 704 * 512, 0, 0x83, 8, 2000);
    assert!(matches!(read(&bytes), Err(PartitionError::PastEnd { piece: Piece::Partition(6), .. })));
}

#[test]
fn what_is_odd_in_an_mbr_is_said() {
    let mut bytes = mbr_disk();
    put_slot(&mut bytes, 0, 2, 0x83, 0, 0);
    put_slot(&mut bytes, 0, 3, 0x83, 0, 1);
    put_slot(&mut bytes, 704 * 512, 2, 0x83, 1, 1);
    put_slot(&mut bytes, 704 * 512, 0, 0x83, 8, 825); // to one sector behind the extended partition
    let warnings: Vec<_> = read(&bytes).unwrap().warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "slot 3 is half filled (type 0x83, 0 sectors): it was not read",
            "partition 4 covers the partition table",
            "partition 6 leaves the area set aside for it: the extended partition",
            "the extended boot record at byte 0x58000 has entries beyond the two that are defined: they were not read",
        ]
    );
}

#[test]
fn a_slot_with_an_impossible_flag_is_refused_where_nothing_explains_it() {
    let mut bytes = mbr_disk();
    bytes[446 + 16] = 0x7f;
    let err = read(&bytes).unwrap_err();
    assert_eq!(err.to_string(), "flag of an MBR slot at byte 0x1ce is 0x7f: 0x00 or 0x80");
}

// ---- GPT ----

#[test]
fn a_sound_gpt_is_read_without_a_warning_in_both_sector_sizes() {
    let layout = read(&small_gpt().bytes).unwrap();
    assert_eq!(layout.table, TableKind::Gpt { disk_guid: uuid::Uuid::from_bytes([0xd1; 16]) });
    assert_eq!((places(&layout), layout.sector_size), (GPT_PLACES.to_vec(), SectorSize::B512));
    assert!(layout.warnings.is_empty(), "{:?}", layout.warnings);
    let layout = read(&GptDisk::new(4096, 256, &[(8, 100)]).bytes).unwrap();
    assert_eq!((places(&layout), layout.sector_size), (vec![(1, 32768, 93 * 4096)], SectorSize::B4096));
    assert!(layout.warnings.is_empty(), "{:?}", layout.warnings);
}

#[test]
fn the_backup_stands_in_for_a_damaged_primary_and_says_so() {
    for sector in [512, 4096] {
        for damage in ["header", "entries", "signature"] {
            let mut disk = GptDisk::new(sector, 2048, &[(64, 127)]);
            let at = match damage {
                "header" => disk.primary() + 0x30,
                "entries" => disk.entries(disk.primary()) + 0x20,
                _ => disk.primary(),
            };
            disk.bytes[at] ^= 1;
            let layout = read(&disk.bytes).unwrap();
            assert_eq!(layout.sector_size.bytes().to_usize(), Some(sector));
            assert_eq!(layout.volumes.len(), 1);
            assert!(matches!(layout.warnings[..], [Warning::BackupGptUsed { .. }]), "{damage} {:?}", layout.warnings);
        }
    }
}

#[test]
fn the_backup_is_found_on_a_disk_that_has_grown() {
    let mut disk = small_gpt();
    disk.bytes.resize(2 << 20, 0);
    assert!(read(&disk.bytes).unwrap().warnings.is_empty());
    disk.bytes[512 + 0x30] ^= 1;
    let layout = read(&disk.bytes).unwrap();
    assert_eq!(places(&layout), GPT_PLACES);
    assert!(matches!(layout.warnings[..], [Warning::BackupGptUsed { .. }]));
}

#[test]
fn a_damaged_or_differing_backup_is_a_warning() {
    let mut disk = small_gpt();
    let backup = disk.backup();
    disk.bytes[backup + 0x30] ^= 1;
    assert!(matches!(read(&disk.bytes).unwrap().warnings[..], [Warning::BackupGptDamaged { .. }]));
    let mut disk = small_gpt();
    let entries = disk.entries(backup);
    disk.bytes[entries + 0x38] ^= 1;
    disk.seal(backup);
    assert!(matches!(read(&disk.bytes).unwrap().warnings[..], [Warning::GptCopiesDiffer]));
    let mut disk = small_gpt();
    put(&mut disk.bytes, 512 + 0x20, &[1, 0, 0, 0, 0, 0, 0, 0]); // the primary calls itself its backup
    disk.seal_header(512);
    assert!(matches!(read(&disk.bytes).unwrap().warnings[..], [Warning::BackupGptDamaged { .. }]));
}

#[test]
fn two_damaged_copies_are_refused_with_the_reason_for_each() {
    let mut disk = small_gpt();
    let backup = disk.backup();
    disk.bytes[512 + 0x30] ^= 1;
    disk.bytes[backup] ^= 1;
    let err = read(&disk.bytes).unwrap_err();
    let PartitionError::GptLost { primary, backup } = &err else { panic!("{err}") };
    assert!(matches!(**primary, PartitionError::Checksum { what: "GPT header", .. }), "{primary}");
    assert!(matches!(**backup, PartitionError::NoGptHeader { .. }), "{backup}");
}

#[test]
fn headers_that_ask_for_too_much_are_refused() {
    let refused = |offset: usize, new: &[u8]| {
        let mut disk = small_gpt();
        disk.set_field(offset, new);
        match read(&disk.bytes) {
            Err(PartitionError::GptLost { primary, .. }) => *primary,
            other => panic!("{other:?}"),
        }
    };
    let (count, size) = (0x50, 0x54);
    assert!(matches!(refused(count, &[0xff; 4]), PartitionError::Unsupported { found: 549_755_813_760, .. }));
    assert!(matches!(refused(count, &[0; 4]), PartitionError::Corrupt { found: 0, .. }));
    assert!(matches!(refused(count, &[1, 0x20, 0, 0]), PartitionError::Unsupported { found: 1_048_704, .. }));
    assert!(matches!(refused(size, &[64, 0, 0, 0]), PartitionError::Corrupt { found: 64, .. }));
    assert!(matches!(refused(size, &[192, 0, 0, 0]), PartitionError::Corrupt { found: 192, .. }));
    assert!(matches!(refused(size, &[0, 0x20, 0, 0]), PartitionError::Unsupported { found: 8192, .. }));
    assert!(matches!(refused(0x48, &[0xff; 8]), PartitionError::Corrupt { field: "PartitionEntryLBA", .. }));
    assert!(matches!(refused(0x0c, &[0xff; 4]), PartitionError::Corrupt { field: "HeaderSize", .. }));
    assert!(matches!(refused(0x0c, &[91, 0, 0, 0]), PartitionError::Corrupt { field: "HeaderSize", .. }));
    assert!(matches!(refused(0x08, &[0, 0, 2, 0]), PartitionError::Unsupported { .. }));
    assert!(matches!(refused(0x18, &[9; 8]), PartitionError::Corrupt { field: "MyLBA", .. }));
    assert!(matches!(refused(0x30, &[0; 8]), PartitionError::Corrupt { field: "LastUsableLBA", .. }));
}

#[test]
fn gpt_entries_that_contradict_the_disk_are_refused_by_name() {
    let disk = |first, last| read(&GptDisk::new(512, 2048, &[(64, 127), (first, last)]).bytes);
    assert!(matches!(disk(127, 200), Err(PartitionError::Overlap { at: ByteOffset(65_024), .. })));
    assert!(matches!(disk(300, 299), Err(PartitionError::Corrupt { field: "EndingLBA", at: ByteOffset(1192), .. })));
    for (first, last) in [(200, 2048), (200, u64::MAX), (1 << 60, 1 << 61), (u64::MAX, u64::MAX)] {
        let err = disk(first, last).unwrap_err();
        assert!(matches!(err, PartitionError::PastEnd { piece: Piece::Partition(2), .. }), "{err}");
    }
    let outside = disk(34 - 1, 40).unwrap();
    assert!(matches!(outside.warnings[..], [Warning::OutsideArea { index: 2, .. }]));
}

#[test]
fn a_disk_that_was_cut_off_is_refused_naming_the_partition() {
    let disk = small_gpt();
    assert_eq!(places(&read(&disk.bytes[..512 << 10]).unwrap()), GPT_PLACES, "up to its last byte it is there");
    let err = read(&disk.bytes[..(512 << 10) - 1]).unwrap_err();
    assert!(matches!(err, PartitionError::PastEnd { piece: Piece::Partition(2), .. }), "{err}");
}

// ---- which table holds ----

#[test]
fn a_gpt_without_protective_mbr_is_read_with_a_warning() {
    let mut disk = small_gpt();
    put(&mut disk.bytes, 0, &[0; 512]);
    let layout = read(&disk.bytes).unwrap();
    assert_eq!(places(&layout), GPT_PLACES);
    assert!(matches!(layout.warnings[..], [Warning::NoProtectiveMbr]));
}

#[test]
fn an_mbr_over_an_old_gpt_holds_with_a_warning() {
    let mut disk = small_gpt();
    put_slot(&mut disk.bytes, 0, 0, 0x83, 64, 100);
    let layout = read(&disk.bytes).unwrap();
    assert_eq!(places(&layout), [(1, 32768, 51_200)]);
    assert!(matches!(layout.warnings[..], [Warning::GptNotRead]));
}

/// An NTFS boot sector as far as it is looked at.
fn put_ntfs(bytes: &mut [u8]) {
    put(bytes, 0, b"\xeb\x52\x90NTFS    ");
    put(bytes, 510, &[0x55, 0xaa]);
}

#[test]
fn a_boot_sector_whose_code_looks_like_slots_is_a_volume() {
    let mut bytes = vec![0; 1 << 20];
    put_ntfs(&mut bytes);
    put(&mut bytes, 446, b"a disk read error");
    let layout = read(&bytes).unwrap();
    assert_eq!((layout.table, layout.volumes[0].kind), (TableKind::None, VolumeKind::Ntfs));
    put(&mut bytes, 446, &[0; 64]);
    put_slot(&mut bytes, 0, 0, 0x20, 0x2020_2020, 0x2020_2020);
    let layout = read(&bytes).unwrap();
    assert_eq!((layout.table, layout.volumes[0].kind), (TableKind::None, VolumeKind::Ntfs));
    assert!(matches!(layout.warnings[..], [Warning::MbrNotRead { kind: VolumeKind::Ntfs }]));
    put_slot(&mut bytes, 0, 0, 0xee, 1, 2);
    assert_eq!(read(&bytes).unwrap().table, TableKind::None);
}

#[test]
fn a_sound_mbr_holds_although_its_boot_loader_kept_the_parameters_of_an_old_volume() {
    let mut bytes = mbr_disk();
    put_ntfs(&mut bytes);
    let layout = read(&bytes).unwrap();
    assert_eq!(layout.volumes.len(), 3);
    assert!(matches!(layout.warnings[..], [Warning::LeftoverVolume { kind: VolumeKind::Ntfs }]));
}

#[test]
fn disks_too_small_for_a_table_are_one_volume_or_none() {
    assert!(read(&[]).unwrap().volumes.is_empty());
    for len in [1, 511, 512, 513, 1024, 4096] {
        let layout = read(&vec![0; len]).unwrap();
        assert_eq!((layout.table, places(&layout)), (TableKind::None, vec![(1, 0, len as u64)]));
    }
    let mut sector = vec![0; 512];
    put_slot(&mut sector, 0, 0, 0xee, 1, 1);
    assert!(matches!(read(&sector), Err(PartitionError::GptLost { .. })));
}

// ---- kinds that no tool here makes ----

#[test]
fn signatures_are_seen_in_a_partition_and_wrong_by_a_byte_they_are_not() {
    let bitlocker_to_go = b"\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01";
    type Magic = (usize, &'static [u8]);
    let cases: [(VolumeKind, &[Magic]); 5] = [
        (VolumeKind::BitLocker, &[(3, b"-FVE-FS-")]),
        (VolumeKind::BitLocker, &[(3, b"MSWIN4.1"), (424, bitlocker_to_go)]),
        (VolumeKind::ReFs, &[(3, b"ReFS\0\0\0\0"), (16, b"FSRS")]),
        (VolumeKind::LvmPv, &[(512, b"LABELONE"), (536, b"LVM2 001")]),
        (VolumeKind::LinuxSwap, &[(4086, b"S1SUSPEND\0")]),
    ];
    for (kind, magics) in cases {
        let mut bytes = mbr_disk();
        for (at, magic) in magics {
            put(&mut bytes, 32768 + at, magic);
        }
        assert_eq!(read(&bytes).unwrap().volumes[0].kind, kind);
        bytes[32768 + magics[0].0] ^= 1;
        assert_eq!(read(&bytes).unwrap().volumes[0].kind, VolumeKind::Unknown, "{kind}");
    }
}

#[test]
fn parts_of_a_dynamic_disk_are_no_ntfs_whatever_they_begin_with() {
    let mut bytes = mbr_disk();
    put_ntfs(&mut bytes[32768..]);
    assert_eq!(read(&bytes).unwrap().volumes[0].kind, VolumeKind::Ntfs);
    bytes[446 + 4] = 0x42;
    assert_eq!(read(&bytes).unwrap().volumes[0].kind, VolumeKind::Ntfs, "the type alone proves nothing");
    put(&mut bytes, 6 * 512, b"PRIVHEAD");
    assert_eq!(read(&bytes).unwrap().volumes[0].kind, VolumeKind::Ldm);
}

// ---- everything else ----

/// A disk that fails when its sector 1 is read by itself.
struct Failing(MemDisk);

impl ReadAt for Failing {
    fn size(&self) -> ByteLen {
        self.0.size()
    }
    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        if at == ByteOffset(512) {
            return Err(ReadError::Io { at, source: std::io::ErrorKind::TimedOut.into() });
        }
        self.0.read_exact_at(at, buf)
    }
}

#[test]
fn a_disk_that_fails_is_not_taken_for_a_damaged_table() {
    let disk = Failing(MemDisk::new(small_gpt().bytes));
    assert!(matches!(volumes(&disk), Err(PartitionError::Read { .. })));
}

/// xorshift64, so that a failure can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).unwrap()).unwrap()
    }
}

/// No two volumes overlap and all lie on the disk.
fn assert_sound(layout: &DiskLayout, size: usize) {
    let mut places = places(layout);
    places.sort_by_key(|(_, start, _)| *start);
    assert!(places.iter().all(|(_, start, len)| start + len <= size as u64), "{layout:?}");
    assert!(places.windows(2).all(|pair| pair[0].1 + pair[0].2 <= pair[1].1), "{layout:?}");
}

/// Changes one byte at a time, 10,000 times, in `areas` (start, length), where the table lies.
fn corrupt(bytes: Vec<u8>, areas: &[(usize, usize)], mut judge: impl FnMut(usize, Result<DiskLayout, PartitionError>)) {
    let mut random = Random(0x5eed_1234_5678_9abc);
    let (mut bytes, began) = (bytes, std::time::Instant::now());
    for _ in 0..10_000 {
        let (start, len) = areas[random.below(areas.len())];
        let (at, flip) = (start + random.below(len), 1 + random.below(255));
        let flip = u8::try_from(flip).unwrap();
        bytes[at] ^= flip;
        let disk = MemDisk::new(bytes);
        let result = volumes(&disk);
        if let Ok(layout) = &result {
            assert_sound(layout, disk.size().to_usize().unwrap());
        }
        judge(at, result);
        bytes = disk.into_inner();
        bytes[at] ^= flip;
    }
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
}

#[test]
fn no_corrupt_byte_in_an_mbr_causes_a_panic_or_an_unsound_layout() {
    let areas = [(446, 66), (512 * 512 + 446, 66), (704 * 512 + 446, 66), (0, 512)];
    corrupt(mbr_disk(), &areas, |_, _| {});
}

#[test]
fn no_corrupt_byte_in_a_gpt_changes_its_volumes() {
    for sector in [512, 4096] {
        let disk = GptDisk::new(sector, 2048, &[(64, 127), (128, 1023)]);
        let expected = places(&read(&disk.bytes).unwrap());
        let (primary, backup) = (disk.primary(), disk.backup());
        let (entries, more) = (disk.entries(primary), disk.entries(backup));
        let areas = [(primary, 92), (backup, 92), (entries, 256), (more, 256), (0, 512)];
        corrupt(disk.bytes, &areas, |at, result| match result {
            Ok(layout) if places(&layout) == expected => {
                assert!(at < 512 || !layout.warnings.is_empty(), "byte {at:#x}: nothing was said");
            }
            // Sector 0 decides whether it is a GPT at all. If it says otherwise, the GPT must not vanish unmentioned.
            Ok(layout) => {
                assert!(at < 512, "byte {at:#x}: {layout:?}");
                assert!(layout.warnings.iter().any(|w| matches!(w, Warning::GptNotRead)), "byte {at:#x}: {layout:?}");
            }
            Err(error) => assert!(at < 512, "byte {at:#x}: {error}"),
        });
    }
}
