//! Drive letters: which volume does the guest call C?

mod assumed;
mod mounted;
mod notes;
mod search;

use std::collections::HashMap;

use blockdev::ByteOffset;
use uuid::Uuid;

pub use mounted::{MountedDevices, Place};

use crate::{FileSystem, PartitionType, TableKind, VolumeKind};
use search::Found;

/// A volume of a machine, as far as its letter depends on it.
#[derive(Clone, Copy)]
pub struct VolumeToLetter<'a> {
    /// The partition table of its disk.
    pub table: TableKind,
    /// Its type in that table.
    pub table_type: Option<PartitionType>,
    /// Its first byte on the disk.
    pub start: ByteOffset,
    /// Its own GUID in a GPT.
    pub guid: Option<Uuid>,
    /// What it is.
    pub kind: VolumeKind,
    /// Its files, if they can be read.
    pub files: Option<&'a dyn FileSystem>,
}

impl VolumeToLetter<'_> {
    fn is_at(&self, place: Place) -> bool {
        match (self.table, place) {
            (TableKind::Mbr { signature }, Place::Mbr { signature: wanted, start }) => {
                signature == wanted && self.start == start
            }
            (TableKind::Gpt { .. }, Place::Gpt(wanted)) => self.guid == Some(wanted),
            _ => false,
        }
    }
}

/// A letter of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// `A` to `Z`.
    pub letter: char,
    /// How it is known.
    pub origin: Origin,
}

/// How a letter is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The guest says so itself.
    Hive {
        /// Index of the volume that holds the hive.
        volume: usize,
        /// The path of the hive.
        path: String,
    },
    /// The guest says nothing; letters were given in the order of disks and partitions.
    Assumed,
}

/// What the guest calls its volumes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Letters {
    /// The letter of each volume, in the order in which the volumes were given; each letter once.
    pub letters: Vec<Option<Letter>>,
    /// By the GUIDs of the guest's mount manager, the index of the volume. This also names volumes that are mounted on folders.
    pub guids: HashMap<Uuid, usize>,
    /// What people should know. Volumes are counted from 1 in here.
    pub notes: Vec<String>,
}

/// Finds the letters of all volumes of a machine, given in the order of its disks and their tables.
///
/// The guest's registry decides: the first SYSTEM hive by whose own account the volume that holds it is C, else the first that
/// knows a volume of the machine by a letter. Volumes that it does not letter have no letter. Without such a hive, letters are
/// [assumed](Origin::Assumed) from C on for readable NTFS, FAT and exFAT volumes, but for partitions that Windows hides.
///
/// Nothing fails here: hives that cannot be read, letters of volumes that are elsewhere, volumes that cannot be told apart and
/// hives that contradict each other are notes.
#[must_use]
pub fn letters(volumes: &[VolumeToLetter<'_>]) -> Letters {
    let mut notes = Vec::new();
    let hives = search::hives(volumes, &mut notes);
    for hive in &hives {
        let name = hive.name();
        notes.extend(hive.mounted.notes.iter().map(|note| format!("{name}: {note}")));
    }
    let accounts: Vec<Account<'_>> = hives.iter().map(|hive| Account::new(hive, volumes)).collect();
    let best = accounts.iter().find(|account| account.holds_c());
    let best = best.or_else(|| accounts.iter().find(|account| account.knows_a_volume));
    // Each system has GUIDs of its own, and its junctions name them. Where two contradict each other the best holds.
    let guids = accounts.iter().chain(best).flat_map(|account| &account.guids).map(|(guid, volume)| (*guid, *volume));
    let guids = guids.collect();
    for account in &accounts {
        notes.extend(account.standing(best));
    }
    let letters = match best {
        Some(best) => {
            notes.extend(best.notes.iter().cloned());
            best.letters.iter().map(|letter| letter.map(|letter| best.letter(letter))).collect()
        }
        None => assumed::letters(volumes, &mut notes),
    };
    Letters { letters, guids, notes }
}

/// What a hive says of the machine's volumes.
struct Account<'a> {
    hive: &'a Found,
    letters: Vec<Option<char>>,
    guids: HashMap<Uuid, usize>,
    /// Some letter is that of a volume of the machine, even if it cannot be said which of two.
    knows_a_volume: bool,
    notes: Vec<String>,
}

impl<'a> Account<'a> {
    fn new(hive: &'a Found, volumes: &[VolumeToLetter<'_>]) -> Self {
        let letters = vec![None; volumes.len()];
        let mut account = Self { hive, letters, guids: HashMap::new(), knows_a_volume: false, notes: Vec::new() };
        let name = hive.name();
        for (letter, place) in &hive.mounted.letters {
            let volume = find(*place, volumes);
            account.knows_a_volume |= !matches!(volume, Match::None);
            match account.give(*letter, volume) {
                None => {}
                Some(odd) => account.notes.push(format!("{name}: letter {letter} ({place}) {odd}")),
            }
        }
        for (guid, place) in &hive.mounted.guids {
            if let Match::One(volume) = find(*place, volumes) {
                account.guids.insert(*guid, volume);
            }
        }
        account
    }

    /// Gives a letter to a volume; answers why not.
    fn give(&mut self, letter: char, volume: Match) -> Option<String> {
        let index = match volume {
            Match::One(index) => index,
            Match::Two(one, other) => {
                let (one, other) = (one.saturating_add(1), other.saturating_add(1));
                return Some(format!("can be volume {one} and volume {other}: one disk is a clone of the other"));
            }
            Match::None => return Some("is that of a volume which is on none of the machine's disks".to_owned()),
        };
        match self.letters.get_mut(index)? {
            Some(other) => Some(format!("is that of volume {}, which is {other} already", index.saturating_add(1))),
            free => {
                *free = Some(letter);
                None
            }
        }
    }

    /// What is odd about the account beside the one that holds.
    fn standing(&self, best: Option<&Self>) -> Option<String> {
        let name = self.hive.name();
        match best {
            _ if !self.knows_a_volume => {
                Some(format!("{name} knows no volume of the machine by a letter: it is not used"))
            }
            Some(best) if best.letters != self.letters => Some(format!(
                "{name} gives other letters than {}, which hold: the machine has two systems",
                best.hive.name()
            )),
            _ => None,
        }
    }

    /// Whether the volume that holds the hive is C.
    fn holds_c(&self) -> bool {
        self.letters.get(self.hive.volume) == Some(&Some('C'))
    }

    fn letter(&self, letter: char) -> Letter {
        Letter { letter, origin: Origin::Hive { volume: self.hive.volume, path: self.hive.path.clone() } }
    }
}

/// How many volumes are at a place.
#[derive(Clone, Copy)]
enum Match {
    None,
    One(usize),
    Two(usize, usize),
}

fn find(place: Place, volumes: &[VolumeToLetter<'_>]) -> Match {
    let mut there = volumes.iter().enumerate().filter(|(_, volume)| volume.is_at(place)).map(|(index, _)| index);
    match (there.next(), there.next()) {
        (Some(one), Some(other)) => Match::Two(one, other),
        (Some(one), None) => Match::One(one),
        _ => Match::None,
    }
}
