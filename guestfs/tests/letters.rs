//! Which volume does the guest call C? Told by hives that are built here; oracle_hivex.rs shows that they are hives.
#![allow(clippy::unwrap_used, reason = "what only tests call may fail as tests do")]

mod support;

use blockdev::{ByteOffset, MemDisk};
use guestfs::{
    FileSystem, Letters, MountedDevices, Origin, PartitionType, TableKind, VolumeKind, VolumeToLetter, letters,
};
use support::hive::{HiveBuilder, List, sample};
use support::system_volume::SystemVolume;
use uuid::{Uuid, uuid};

const XP: &str = "windows/system32/CONFIG/System";
const NT: &str = "WINNT/system32/config/system";
const GUID: Uuid = uuid!("04030201-0605-0807-090a-0b0c0d0e0f10");
const OTHER: Uuid = uuid!("62517174-f29b-11ec-85e0-806e6f6e6963");

/// A volume of an MBR disk.
fn mbr(signature: u32, start: u64, files: Option<&dyn FileSystem>) -> VolumeToLetter<'_> {
    let table_type = Some(PartitionType::Mbr(7));
    let (table, start) = (TableKind::Mbr { signature }, ByteOffset(start));
    VolumeToLetter { table, table_type, start, guid: None, kind: VolumeKind::Ntfs, files }
}

/// A volume of a GPT disk.
fn gpt(guid: Uuid, table_type: Uuid, files: Option<&dyn FileSystem>) -> VolumeToLetter<'_> {
    let table_type = Some(PartitionType::Gpt(table_type));
    let (table, start) = (TableKind::Gpt { disk_guid: Uuid::nil() }, ByteOffset(0x10_0000));
    VolumeToLetter { table, table_type, start, guid: Some(guid), kind: VolumeKind::Ntfs, files }
}

const DATA: Uuid = uuid!("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7");

/// What a hive has for a volume of an MBR disk.
fn at(signature: u32, start: u64) -> Vec<u8> {
    [&signature.to_le_bytes()[..], &start.to_le_bytes()].concat()
}

/// What a hive has for a volume of a GPT disk.
fn on(guid: Uuid) -> Vec<u8> {
    [b"DMIO:ID:".as_slice(), &guid.to_bytes_le()].concat()
}

/// A hive with these letters, and GUIDs where the name is one.
fn hive(names: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let full = |name: &str| {
        if name.len() == 1 { format!(r"\DosDevices\{name}:") } else { format!(r"\??\Volume{{{name}}}") }
    };
    let names: Vec<(String, &[u8])> = names.iter().map(|(name, data)| (full(name), data.as_slice())).collect();
    let names: Vec<(&str, &[u8])> = names.iter().map(|(name, data)| (name.as_str(), *data)).collect();
    sample(&names, &[])
}

/// The letters alone, `-` for none.
fn text(letters: &Letters) -> String {
    letters.letters.iter().map(|letter| letter.as_ref().map_or('-', |letter| letter.letter)).collect()
}

#[test]
fn the_guest_says_which_volume_has_which_letter() {
    let device: Vec<u8> = r"\??\FDC#GENERIC".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let names =
        [("C", at(7, 512)), ("A", device), ("e", on(GUID)), ("D", at(7, 1024)), (&OTHER.to_string(), at(8, 512))];
    let files = SystemVolume::new(XP, Some(hive(&names)));
    let found = letters(&[mbr(7, 512, Some(&files)), mbr(7, 1024, None), mbr(8, 512, None), gpt(GUID, DATA, None)]);
    assert_eq!(text(&found), "CD-E");
    let origin = Origin::Hive { volume: 0, path: "Windows/System32/config/SYSTEM".to_owned() };
    assert!(found.letters.iter().flatten().all(|letter| letter.origin == origin), "{:?}", found.letters);
    assert_eq!(found.guids.into_iter().collect::<Vec<_>>(), [(OTHER, 2)]);
    assert_eq!(found.notes, [""; 0]);
}

#[test]
fn windows_2000_lies_in_another_folder() {
    let files = SystemVolume::new(NT, Some(hive(&[("D", at(7, 512))])));
    let found = letters(&[mbr(7, 512, Some(&files))]);
    assert_eq!(text(&found), "D");
    let Origin::Hive { path, .. } = &found.letters[0].as_ref().unwrap().origin else { panic!("{found:?}") };
    assert_eq!(path, "WINNT/system32/config/system");
}

#[test]
fn an_mbr_volume_is_no_gpt_volume_and_the_whole_place_must_fit() {
    let files = SystemVolume::new(XP, Some(hive(&[("C", at(7, 512)), ("D", on(GUID)), ("E", at(7, 1 << 40))])));
    let mut gpt_in_mbr = mbr(7, 1024, None);
    gpt_in_mbr.guid = Some(GUID);
    let volumes = [mbr(7, 512, Some(&files)), mbr(7, 513, None), mbr(6, 512, None), gpt_in_mbr, mbr(7, 1 << 40, None)];
    assert_eq!(text(&letters(&volumes)), "C---E");
}

#[test]
fn letters_of_volumes_elsewhere_are_noted() {
    let files = SystemVolume::new(XP, Some(hive(&[("C", at(7, 512)), ("F", at(0xabc, 0x7e00)), ("G", on(GUID))])));
    let found = letters(&[mbr(7, 512, Some(&files)), mbr(7, 1024, Some(&files))]);
    assert_eq!(text(&found), "C-");
    let hive = "the registry hive Windows/System32/config/SYSTEM of volume 1";
    let elsewhere = "is that of a volume which is on none of the machine's disks";
    let disk = "disk signature 00000abc, partition at byte 0x7e00";
    assert_eq!(
        found.notes,
        [format!("{hive}: letter F ({disk}) {elsewhere}"), format!("{hive}: letter G (partition {GUID}) {elsewhere}")]
    );
}

#[test]
fn of_cloned_disks_neither_gets_the_letter() {
    let names = [("C", at(7, 512)), ("D", at(8, 512)), (&OTHER.to_string(), at(7, 512))];
    let files = SystemVolume::new(XP, Some(hive(&names)));
    let found = letters(&[mbr(7, 512, Some(&files)), mbr(8, 512, None), mbr(7, 512, None)]);
    assert_eq!(text(&found), "-D-");
    assert!(found.guids.is_empty());
    assert!(
        found.notes[0].ends_with("can be volume 1 and volume 3: one disk is a clone of the other"),
        "{:?}",
        found.notes
    );
    // Even where no letter is left, letters are not assumed: the guest has told them.
    let found = letters(&[mbr(7, 512, Some(&files)), mbr(7, 512, None)]);
    assert_eq!(text(&found), "--");
}

#[test]
fn a_volume_has_one_letter_and_the_first_holds() {
    let files = SystemVolume::new(XP, Some(hive(&[("D", at(7, 512)), ("C", at(7, 512))])));
    let found = letters(&[mbr(7, 512, Some(&files))]);
    assert_eq!(text(&found), "C");
    assert!(found.notes[0].ends_with("is that of volume 1, which is C already"), "{:?}", found.notes);
}

#[test]
fn of_two_systems_the_one_whose_own_volume_is_c_holds() {
    let (one, two, third) = (GUID.to_string(), OTHER.to_string(), DATA.to_string());
    let first = hive(&[("D", at(7, 512)), ("C", at(7, 1024)), (&one, at(7, 512)), (&third, at(7, 512))]);
    let second = hive(&[("C", at(7, 1024)), ("E", at(7, 512)), (&two, at(7, 512)), (&third, at(7, 1024))]);
    let (first, second) = (SystemVolume::new(XP, Some(first)), SystemVolume::new(XP, Some(second)));
    let found = letters(&[mbr(7, 512, Some(&first)), mbr(7, 1024, Some(&second))]);
    assert_eq!(text(&found), "EC");
    let guids = |found: &Letters| {
        let mut guids: Vec<_> = found.guids.iter().map(|(guid, volume)| (*guid, *volume)).collect();
        guids.sort();
        guids
    };
    assert_eq!(guids(&found), [(GUID, 0), (OTHER, 0), (DATA, 1)]);
    let turned = letters(&[mbr(7, 1024, Some(&second)), mbr(7, 512, Some(&first))]);
    assert_eq!((text(&turned).as_str(), guids(&turned)), ("CE", vec![(GUID, 1), (OTHER, 1), (DATA, 0)]));
    let path = "the registry hive Windows/System32/config/SYSTEM";
    let note = format!(
        "{path} of volume 1 gives other letters than {path} of volume 2, which hold: the machine has two systems"
    );
    assert_eq!(found.notes, [note]);
}

#[test]
fn of_two_systems_of_which_none_is_c_the_first_holds() {
    let first = SystemVolume::new(XP, Some(hive(&[("D", at(7, 512))]))).and(NT, hive(&[("E", at(7, 512))]));
    let found = letters(&[mbr(7, 512, Some(&first))]);
    assert_eq!(text(&found), "D");
    assert_eq!(found.notes.len(), 1);
    let same = SystemVolume::new(XP, Some(hive(&[("D", at(7, 512))]))).and(NT, hive(&[("D", at(7, 512))]));
    assert_eq!(letters(&[mbr(7, 512, Some(&same))]).notes, [""; 0]);
}

#[test]
fn a_hive_that_cannot_be_read_is_a_note_and_letters_are_assumed() {
    let closed = SystemVolume::new(XP, None);
    let nonsense = SystemVolume::new(XP, Some(vec![0; 8192]));
    let short = SystemVolume::new(NT, Some(Vec::new()));
    let found = letters(&[mbr(7, 1, Some(&closed)), mbr(7, 2, Some(&nonsense)), mbr(7, 3, Some(&short))]);
    assert_eq!(text(&found), "CDE");
    assert!(found.letters.iter().flatten().all(|letter| letter.origin == Origin::Assumed));
    let path = "the registry hive Windows/System32/config/SYSTEM";
    assert_eq!(found.notes.len(), 4);
    assert!(found.notes[0].starts_with(&format!("{path} of volume 1 is not used: ")), "{:?}", found.notes);
    assert!(found.notes[0].ends_with("is encrypted by the guest"));
    assert!(found.notes[1].starts_with(&format!("{path} of volume 2 is not used: signature of the hive header")));
    assert!(found.notes[2].ends_with("a read of 512 bytes at byte 0x0 passes the end of a disk of 0 bytes"));
    assert_eq!(
        found.notes[3],
        "no registry hive tells the guest's drive letters: they are assumed, in the order of the volumes"
    );
}

#[test]
fn a_dirty_hive_is_used_and_noted() {
    let mut bytes = hive(&[("D", at(7, 512))]);
    bytes[4] ^= 1;
    let files = SystemVolume::new(XP, Some(bytes));
    let found = letters(&[mbr(7, 512, Some(&files))]);
    assert_eq!(text(&found), "D");
    assert!(found.notes[0].contains("volume 1: the hive is dirty (sequence numbers 6 and 7)"), "{:?}", found.notes);
}

#[test]
fn a_hive_that_knows_no_volume_leaves_letters_to_be_assumed() {
    let strange = SystemVolume::new(XP, Some(hive(&[("X", at(1, 1)), (&OTHER.to_string(), at(7, 512))])));
    let found = letters(&[mbr(7, 512, Some(&strange))]);
    assert_eq!(text(&found), "C");
    assert_eq!(found.guids.get(&OTHER), Some(&0));
    assert!(
        found.notes[0].ends_with("knows no volume of the machine by a letter: it is not used"),
        "{:?}",
        found.notes
    );
    let none = SystemVolume::new(XP, Some(hive(&[])));
    assert_eq!(text(&letters(&[mbr(7, 512, Some(&none))])), "C");
    let better = SystemVolume::new(XP, Some(hive(&[("D", at(8, 512))])));
    assert_eq!(text(&letters(&[mbr(7, 512, Some(&strange)), mbr(8, 512, Some(&better))])), "-D");
}

#[test]
fn a_broken_value_costs_its_own_letter_only() {
    let mut bytes = hive(&[("C", at(7, 512)), ("D", at(7, 1024))]);
    let name = br"\DosDevices\C:";
    let place = bytes.windows(name.len()).position(|window| window == name).unwrap() - 0x14;
    bytes[place] = b'x';
    let files = SystemVolume::new(XP, Some(bytes));
    let found = letters(&[mbr(7, 512, Some(&files)), mbr(7, 1024, None)]);
    assert_eq!(text(&found), "-D");
    assert!(
        found.notes[0].contains("a value of MountedDevices: signature of the value at byte 0x"),
        "{:?}",
        found.notes
    );
}

#[test]
fn many_broken_values_are_few_notes() {
    let mut builder = HiveBuilder::new();
    let values: Vec<u32> = (0..150).map(|n| builder.cell(&[n; 0x14])).collect();
    let key = builder.key("mounteddevices", &[], List::Lf, &values);
    let root = builder.key("ROOT", &[key], List::Lf, &[]);
    let mounted = MountedDevices::read(&MemDisk::new(builder.finish(root))).unwrap();
    assert_eq!(mounted.notes.len(), 101);
    assert_eq!(mounted.notes[100], "50 more of this kind");
}

#[test]
fn a_letter_that_stands_twice_is_noted() {
    let files = SystemVolume::new(XP, Some(hive(&[("c", at(7, 512)), ("C", at(7, 1024))])));
    let found = letters(&[mbr(7, 512, Some(&files)), mbr(7, 1024, None)]);
    assert_eq!(text(&found), "C-");
    assert!(found.notes[0].ends_with("C: stands twice in MountedDevices: the first holds"), "{:?}", found.notes);
}

#[test]
fn letters_are_assumed_for_what_windows_would_letter() {
    let files = SystemVolume::empty();
    let files: Option<&dyn FileSystem> = Some(&files);
    let with_kind = |kind| VolumeToLetter { kind, ..mbr(7, 512, files) };
    let with_type = |byte| VolumeToLetter { table_type: Some(PartitionType::Mbr(byte)), ..mbr(7, 512, files) };
    let hidden = [
        uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b"),
        uuid!("e3c9e316-0b5c-4db8-817d-f92df00215ae"),
        uuid!("de94bba4-06d1-4d40-a16a-bfd50179d6ac"),
    ]
    .map(|table_type| gpt(GUID, table_type, files));
    let mut volumes = vec![with_type(0x27), with_type(0xef), with_type(6), mbr(7, 512, None), gpt(GUID, DATA, files)];
    volumes.extend(hidden);
    volumes.extend([VolumeKind::Fat12, VolumeKind::Ext4, VolumeKind::ExFat, VolumeKind::BitLocker].map(with_kind));
    volumes.push(VolumeToLetter { table: TableKind::None, table_type: None, ..with_kind(VolumeKind::Fat32) });
    assert_eq!(text(&letters(&volumes)), "--C-D---E-F-G");
}

#[test]
fn nothing_is_said_where_there_is_nothing_to_letter() {
    let ext4 = VolumeToLetter { kind: VolumeKind::Ext4, ..mbr(7, 512, None) };
    let found = letters(&[ext4]);
    assert_eq!((text(&found).as_str(), found.notes.len()), ("-", 0));
    assert_eq!(letters(&[]), Letters::default());
}

#[test]
fn z_is_the_last_letter_assumed() {
    let files = SystemVolume::empty();
    let found = letters(&[mbr(7, 512, Some(&files)); 26]);
    assert_eq!(text(&found), "CDEFGHIJKLMNOPQRSTUVWXYZ--");
    assert_eq!(found.notes[1], "2 more volumes would have a letter, and Z was the last");
}
