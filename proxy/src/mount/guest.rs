//! What was found on the disks of one VM.

use std::collections::BTreeMap;
use std::sync::Arc;

use blockdev::ByteLen;
use guestfs::{FileSystem, VolumeKind};
use uuid::Uuid;

/// One partition, or a disk without any.
pub struct GuestVolume {
    /// Its number: from 1 on, over all disks in their order and all partitions in theirs.
    pub number: u32,
    /// The disk, as the caller calls it.
    pub disk: String,
    /// The number of the partition, `None` if the volume fills the disk.
    pub partition: Option<u32>,
    /// What it is, by its first bytes.
    pub kind: VolumeKind,
    /// Its length.
    pub size: ByteLen,
    /// By which GUIDs the guest knows it.
    pub guids: Vec<Uuid>,
    /// Its file system, or why it cannot be read.
    pub content: Result<Arc<dyn FileSystem>, String>,
}

/// A drive letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The number of its volume.
    pub volume: u32,
    /// How we know.
    pub source: String,
}

/// All that can be shown of one VM.
#[derive(Default)]
pub struct Guest {
    /// The volumes, by number.
    pub volumes: Vec<GuestVolume>,
    /// Letters from `A` to `Z`.
    pub letters: BTreeMap<char, Letter>,
    /// What users should know: damaged tables, volumes that cannot be read.
    pub notes: Vec<String>,
    /// Whether a disk has no table that can be read.
    pub lost_table: bool,
}

impl Guest {
    /// The volume of this number.
    #[must_use]
    pub fn volume(&self, number: u32) -> Option<&GuestVolume> {
        self.volumes.iter().find(|volume| volume.number == number)
    }

    /// The file system of the volume of this number, if it can be read.
    #[must_use]
    pub fn file_system(&self, number: u32) -> Option<&Arc<dyn FileSystem>> {
        self.volume(number)?.content.as_ref().ok()
    }

    /// The volumes that can be read.
    pub fn readable(&self) -> impl Iterator<Item = (u32, &Arc<dyn FileSystem>)> {
        self.volumes.iter().filter_map(|volume| Some((volume.number, volume.content.as_ref().ok()?)))
    }

    /// The number of the readable volume that has this letter.
    #[must_use]
    pub fn by_letter(&self, letter: char) -> Option<u32> {
        let number = self.letters.get(&letter)?.volume;
        self.file_system(number).map(|_| number)
    }

    /// The letter of a volume; the first of several.
    #[must_use]
    pub fn letter_of(&self, number: u32) -> Option<char> {
        self.letters.iter().find(|(_, letter)| letter.volume == number).map(|(letter, _)| *letter)
    }

    /// The number of the readable volume that the guest knows by this GUID.
    #[must_use]
    pub fn by_guid(&self, guid: Uuid) -> Option<u32> {
        let known = self.volumes.iter().find(|volume| volume.guids.contains(&guid))?;
        known.content.as_ref().ok().map(|_| known.number)
    }
}
