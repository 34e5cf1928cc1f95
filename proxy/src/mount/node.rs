//! Numbers of what a mount shows.

use guestfs::FileId;

/// One thing in the tree, by the number that the kernel knows it by and that `stat` shows: the place in the upper 16 bits, the file in the
/// lower 48. It is the same in every run of an unchanged guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

/// A spot at which a volume's topmost folder appears. A volume appears at several, and a folder cannot have two names under one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place(pub u16);

impl Place {
    /// What is of no volume: the folders above the volumes, and the report.
    pub const OURS: Self = Self(0);
    /// `digits/1` has place 1.
    pub const MOST_NUMBERS: u16 = 0x3fff;
    const LETTERS: u16 = 0x4000;
    /// Volumes mounted on folders have the places from here on.
    pub(super) const MOUNTED: u16 = 0x8000;

    /// The place of `digits/NUMBER`.
    #[must_use]
    pub fn of_number(number: u32) -> Option<Self> {
        u16::try_from(number).ok().filter(|n| (1..=Self::MOST_NUMBERS).contains(n)).map(Self)
    }

    /// The place of `letters/LETTER`.
    #[must_use]
    pub fn of_letter(letter: char) -> Option<Self> {
        let offset = u32::from(letter).checked_sub(u32::from('A')).filter(|offset| *offset < 26)?;
        Some(Self(Self::LETTERS + u16::try_from(offset).ok()?))
    }
}

impl NodeId {
    /// The top of the tree, whose number the kernel prescribes.
    pub const TOP: Self = Self(1);

    /// The number of `file` as it appears at `place`.
    #[must_use]
    pub fn new(place: Place, file: FileId) -> Self {
        Self((u64::from(place.0) << FileId::BITS) | file.get())
    }

    /// Where it appears.
    #[must_use]
    pub fn place(self) -> Place {
        Place(u16::try_from(self.0 >> FileId::BITS).unwrap_or(u16::MAX)) // 16 bits are left
    }

    /// What it is in the volume that appears there.
    #[must_use]
    pub fn file(self) -> Option<FileId> {
        FileId::new(self.0 & ((1 << FileId::BITS) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_gives_place_and_file_back() {
        let file = FileId::new((1 << 48) - 1).unwrap();
        for place in [Place(1), Place::of_letter('Z').unwrap(), Place(u16::MAX)] {
            let node = NodeId::new(place, file);
            assert_eq!((node.place(), node.file()), (place, Some(file)));
        }
    }

    #[test]
    fn numbers_letters_and_folders_never_share_a_place() {
        assert_eq!(Place::of_number(0x3fff), Some(Place(0x3fff)));
        assert_eq!((Place::of_number(0), Place::of_number(0x4000)), (None, None));
        assert_eq!((Place::of_letter('A'), Place::of_letter('Z')), (Some(Place(0x4000)), Some(Place(0x4019))));
        assert_eq!((Place::of_letter('a'), Place::of_letter('é')), (None, None));
    }
}
