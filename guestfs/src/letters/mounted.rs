//! What the mount manager of a Windows keeps in the registry: key `MountedDevices` of the SYSTEM hive.
//!
//! Values `\DosDevices\X:` are letters, values `\??\Volume{GUID}` the mount manager's own names of volumes. Their data is 12
//! bytes for a partition of an MBR disk, 24 for one of a GPT disk, else the path of a device (libyal/winreg-kb, "Mounted
//! devices").

use std::fmt;

use blockdev::{ByteLen, ByteOffset, ReadAt};
use uuid::Uuid;

use super::notes::Notes;
use crate::{FsError, Hive, Value};

/// Reads of a hive that may be spent on this: enough for 10,000 values, of which Windows keeps one for each volume it ever saw.
const READS: u64 = 1 << 16;
/// The longest data that matters; paths of devices are longer.
const LONGEST: u64 = 24;
const GPT_MARK: &[u8] = b"DMIO:ID:";

/// How Windows finds a volume again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// A partition of an MBR disk.
    Mbr {
        /// The signature of the disk.
        signature: u32,
        /// The first byte of the partition.
        start: ByteOffset,
    },
    /// A partition of a GPT disk, by its own GUID. Volumes of dynamic disks look the same, and their GUIDs are no partition's.
    Gpt(Uuid),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mbr { signature, start } => write!(f, "disk signature {signature:08x}, partition at byte {start}"),
            Self::Gpt(guid) => write!(f, "partition {guid}"),
        }
    }
}

/// The mount manager's memory. Floppies, CDs and whatever else is no partition are not in here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MountedDevices {
    /// Letters in upper case, each once, in order.
    pub letters: Vec<(char, Place)>,
    /// GUIDs that the mount manager gave to volumes, in the order of the hive. A volume may have several.
    pub guids: Vec<(Uuid, Place)>,
    /// What is odd about the hive, and values that could not be read.
    pub notes: Vec<String>,
}

impl MountedDevices {
    /// Reads them from a SYSTEM hive, in small pieces: give it a disk that caches.
    ///
    /// # Errors
    /// See [`FsError`]: the hive cannot be read as far as the key. A value that cannot be read is a note. A hive without the key
    /// is empty: a Windows that was made ready for cloning has none.
    pub fn read(disk: &dyn ReadAt) -> Result<Self, FsError> {
        let hive = Hive::open(disk, READS)?;
        let mut notes = Notes::default();
        hive.notes().iter().for_each(|note| notes.add(note.clone()));
        let mut all = Self::default();
        match hive.subkey(&hive.root()?, "MountedDevices")? {
            Some(key) => {
                for value in hive.values(&key)?.into_iter().flatten() {
                    match value.and_then(|value| all.take(&hive, &value)) {
                        Ok(None) => {}
                        Ok(Some(note)) => notes.add(note),
                        Err(error) => notes.add(format!("a value of MountedDevices: {error}")),
                    }
                }
            }
            None => notes.add("there is no MountedDevices in it".to_owned()),
        }
        all.letters.sort_by_key(|(letter, _)| *letter);
        all.notes = notes.into_vec();
        Ok(all)
    }

    /// Takes what a value says; answers what is odd about it.
    fn take(&mut self, hive: &Hive<'_>, value: &Value) -> Result<Option<String>, FsError> {
        if value.len.0 > LONGEST {
            return Ok(None);
        }
        let (letter, guid) = (letter_of(&value.name), guid_of(&value.name));
        if letter.is_none() && guid.is_none() {
            return Ok(None);
        }
        let Some(place) = place(&hive.data(value, ByteLen(LONGEST))?) else { return Ok(None) };
        if let Some(letter) = letter {
            if self.letters.iter().any(|(other, _)| *other == letter) {
                return Ok(Some(format!("{letter}: stands twice in MountedDevices: the first holds")));
            }
            self.letters.push((letter, place));
        }
        self.guids.extend(guid.map(|guid| (guid, place)));
        Ok(None)
    }
}

/// The letter of `\DosDevices\X:`, in upper case.
fn letter_of(name: &str) -> Option<char> {
    let mut rest = after(name, r"\DosDevices\")?.chars();
    let letter = rest.next().filter(char::is_ascii_alphabetic)?;
    (rest.as_str() == ":").then(|| letter.to_ascii_uppercase())
}

/// The GUID of `\??\Volume{GUID}`.
fn guid_of(name: &str) -> Option<Uuid> {
    let guid = after(name, r"\??\Volume{")?.strip_suffix('}')?;
    Uuid::try_parse(guid).ok().filter(|_| guid.len() == 36)
}

/// What follows `start` in a name, without regard to case.
fn after<'a>(name: &'a str, start: &str) -> Option<&'a str> {
    let (head, rest) = name.split_at_checked(start.len())?;
    head.eq_ignore_ascii_case(start).then_some(rest)
}

fn place(data: &[u8]) -> Option<Place> {
    if let Some((signature, start)) = data.split_first_chunk::<4>()
        && let Ok(start) = <[u8; 8]>::try_from(start)
    {
        let (signature, start) = (u32::from_le_bytes(*signature), ByteOffset(u64::from_le_bytes(start)));
        return Some(Place::Mbr { signature, start });
    }
    let guid = <[u8; 16]>::try_from(data.strip_prefix(GPT_MARK)?).ok()?;
    Some(Place::Gpt(Uuid::from_bytes_le(guid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_and_guids_are_seen_in_names() {
        assert_eq!(letter_of(r"\DosDevices\C:"), Some('C'));
        assert_eq!(letter_of(r"\dosdevices\z:"), Some('Z'));
        for other in
            [r"\DosDevices\C", r"\DosDevices\:", r"\DosDevices\C:\", r"\DosDevices\Ä:", r"\DosDevices\1:", "", "é"]
        {
            assert_eq!(letter_of(other), None, "{other}");
        }
        let guid = "62517174-f29b-11ec-85e0-806e6f6e6963";
        assert_eq!(guid_of(&format!(r"\??\Volume{{{guid}}}")), Some(guid.parse().unwrap()));
        assert_eq!(guid_of(&format!(r"\??\Volume{{{guid}")), None);
        assert_eq!(guid_of(r"\??\Volume{62517174f29b11ec85e0806e6f6e6963}"), None);
    }

    #[test]
    fn only_12_and_24_bytes_name_a_partition() {
        let start = ByteOffset(0x10_0000);
        let mbr = Place::Mbr { signature: 0xdead_beef, start };
        assert_eq!(place(b"\xef\xbe\xad\xde\0\0\x10\0\0\0\0\0"), Some(mbr));
        assert_eq!(place(b"\xef\xbe\xad\xde\0\0\x10\0\0\0\0"), None);
        let guid = uuid::uuid!("04030201-0605-0807-090a-0b0c0d0e0f10");
        let bytes: Vec<u8> = b"DMIO:ID:".iter().copied().chain(1..=16).collect();
        assert_eq!(place(&bytes), Some(Place::Gpt(guid)));
        assert_eq!(place(&bytes[..23]), None);
        assert_eq!(place(b"DMIO:XX:0123456789abcdef"), None);
        assert_eq!(place(b""), None);
    }
}
