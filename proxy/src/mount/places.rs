//! Volumes that the guest mounted on folders: each gets a place of its own wherever such a folder appears.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use super::node::{NodeId, Place};

/// A guest has a handful; each costs some memory for as long as the mount lives.
const MOST: usize = 1024;
/// A volume on a folder of a volume on a folder of …: no guest needs more.
const DEEPEST: usize = 8;

/// A volume on a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    /// The link that stands for the folder.
    pub(super) link: NodeId,
    /// The volume that holds the link.
    outer: u32,
    /// The volume that is mounted.
    pub(super) number: u32,
}

/// The places from [`Place::MOUNTED`] on that were met so far.
#[derive(Default)]
pub(super) struct Places {
    met: RwLock<HashMap<Place, Mounted>>,
}

impl Places {
    pub(super) fn get(&self, place: Place) -> Option<Mounted> {
        if place.0 < Place::MOUNTED {
            return None;
        }
        self.met.read().unwrap_or_else(PoisonError::into_inner).get(&place).copied()
    }

    /// The place at which the volume `number` appears on `link`, a link of the volume `outer`. `None` if it would lie in itself, too deep,
    /// or if there are too many.
    ///
    /// The place is a hash of the link, so that it is the same in every run; only where two links have one hash, the one that is met later
    /// takes the next free place.
    pub(super) fn mount(&self, link: NodeId, outer: u32, number: u32) -> Option<Place> {
        if !self.may_hold(link.place(), outer, number) {
            return None;
        }
        let wanted = Mounted { link, outer, number };
        let hash = blake3::hash(&link.0.to_le_bytes());
        let [first, second, ..] = *hash.as_bytes();
        let mut place = Place(u16::from_le_bytes([first, second]) | Place::MOUNTED);
        let mut met = self.met.write().unwrap_or_else(PoisonError::into_inner);
        loop {
            match met.get(&place) {
                Some(known) if *known == wanted => return Some(place),
                Some(_) => place = Place(place.0.wrapping_add(1) | Place::MOUNTED),
                None if met.len() >= MOST => return None,
                None => {
                    met.insert(place, wanted);
                    return Some(place);
                }
            }
        }
    }

    /// Whether the volume `number` is none of those that lead to the place, and these are not too many.
    fn may_hold(&self, mut place: Place, outer: u32, number: u32) -> bool {
        if outer == number {
            return false;
        }
        for _ in 0..DEEPEST {
            match self.get(place) {
                None => return true,
                Some(above) if above.outer == number => return false,
                Some(above) => place = above.link.place(),
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use guestfs::FileId;

    use super::*;

    fn link(place: Place, file: u64) -> NodeId {
        NodeId::new(place, FileId::new(file).unwrap())
    }

    #[test]
    fn one_link_is_one_place_and_the_same_one_in_another_run() {
        let (first, second) = (Places::default(), Places::default());
        let (a, b) = (link(Place(1), 40), link(Place(1), 41));
        let place = first.mount(a, 1, 2).unwrap();
        assert_eq!(first.mount(a, 1, 2), Some(place));
        assert_ne!(first.mount(b, 1, 2), Some(place));
        assert!(second.mount(b, 1, 2).is_some());
        assert_eq!(second.mount(a, 1, 2), Some(place));
        assert!(place.0 >= Place::MOUNTED);
    }

    #[test]
    fn a_volume_never_lies_in_itself_and_nesting_ends() {
        let places = Places::default();
        assert_eq!(places.mount(link(Place(1), 5), 1, 1), None);
        let second = places.mount(link(Place(1), 5), 1, 2).unwrap();
        assert_eq!(places.mount(link(second, 5), 2, 1), None);
        let mut at = Place(1);
        let depth = (1..100).take_while(|number| match places.mount(link(at, 7), *number, number + 1) {
            Some(place) => {
                at = place;
                true
            }
            None => false,
        });
        assert_eq!(depth.count(), DEEPEST);
    }

    #[test]
    fn a_guest_full_of_such_links_takes_bounded_memory() {
        let places = Places::default();
        let shown = (0..20_000).filter(|file| places.mount(link(Place(1), *file), 1, 2).is_some()).count();
        assert_eq!(shown, MOST);
    }
}
