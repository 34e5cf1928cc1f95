//! Partition tables of the demo's disks: one partition, in an MBR or a GPT.

use uuid::Uuid;

/// Where the partition begins, in sectors: 1 MiB, as every partitioning tool of today has it.
pub(super) const START: u64 = 2048;
/// Room behind the partition, in sectors. The copy of a GPT takes the last 33.
pub(super) const TAIL: u64 = 2048;
/// UEFI 2.10, section 5.3.2: at least 16 KiB for entries; 128 of 128 bytes.
const ENTRIES: u32 = 128;
const ENTRY_SIZE: u32 = 128;
const ENTRIES_SECTORS: u64 = 32;
/// Microsoft "basic data".
const BASIC_DATA: Uuid = Uuid::from_u128(0xebd0_a0a2_b9e5_4433_87c0_68b6_b726_99c7);

/// How the partition is described.
#[derive(Clone, Copy)]
pub(super) enum Partition {
    /// MBR, type 0C.
    MbrFat32,
    /// MBR, type 83.
    MbrLinux,
    /// GPT, type "basic data".
    GptData,
}

/// The pieces of the partition table of a disk, each with the sector where it belongs.
pub(super) fn table(kind: Partition, sectors: u64, disk_sectors: u64) -> Vec<(u64, Vec<u8>)> {
    match kind {
        Partition::MbrFat32 => vec![(0, mbr(0x0c, START, sectors))],
        Partition::MbrLinux => vec![(0, mbr(0x83, START, sectors))],
        Partition::GptData => gpt(sectors, disk_sectors),
    }
}

/// A master boot record without code, with a random disk signature.
fn mbr(kind: u8, start: u64, sectors: u64) -> Vec<u8> {
    let low = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes(); // "the rest of the disk" where it does not fit
    let mut sector = vec![0; 440];
    sector.extend(rand::random::<u32>().to_le_bytes());
    sector.extend([0, 0]);
    // Active unless it only protects a GPT; FE FF FF is "look at the sector numbers" in the old geometry fields.
    let active = if kind == 0xee { 0 } else { 0x80 };
    sector.extend([active, 0xfe, 0xff, 0xff, kind, 0xfe, 0xff, 0xff]);
    sector.extend(low(start));
    sector.extend(low(sectors));
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector
}

/// A GUID partition table: UEFI 2.10, section 5.3.
fn gpt(sectors: u64, disk_sectors: u64) -> Vec<(u64, Vec<u8>)> {
    let last = disk_sectors - 1;
    let mut entries = BASIC_DATA.to_bytes_le().to_vec();
    entries.extend(Uuid::new_v4().to_bytes_le());
    entries.extend(START.to_le_bytes());
    entries.extend((START + sectors - 1).to_le_bytes());
    entries.extend(0u64.to_le_bytes()); // attributes
    entries.extend("Basic data partition".encode_utf16().flat_map(u16::to_le_bytes));
    entries.resize((ENTRIES * ENTRY_SIZE) as usize, 0);
    let disk = Uuid::new_v4();
    let header = |here: u64, other: u64, entries_at: u64| {
        let mut header = b"EFI PART\0\0\x01\0".to_vec(); // revision 1.0
        header.extend(92u32.to_le_bytes()); // length of this header
        header.extend([0; 8]); // its CRC, reserved
        for number in [here, other, 2 + ENTRIES_SECTORS, last - ENTRIES_SECTORS - 1] {
            header.extend(number.to_le_bytes());
        }
        header.extend(disk.to_bytes_le());
        header.extend(entries_at.to_le_bytes());
        for number in [ENTRIES, ENTRY_SIZE, crc32fast::hash(&entries)] {
            header.extend(number.to_le_bytes());
        }
        let crc = crc32fast::hash(&header);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        header.resize(512, 0);
        header
    };
    let copy = last - ENTRIES_SECTORS;
    vec![
        (0, mbr(0xee, 1, last)),
        (1, header(1, last, 2)),
        (2, entries.clone()),
        (copy, entries.clone()),
        (last, header(last, 1, copy)),
    ]
}
