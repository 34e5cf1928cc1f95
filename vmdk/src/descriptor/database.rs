//! The disk database: what the keys `ddb.…` say, read and written.

use blockdev::ByteLen;
use uuid::Uuid;

use super::Descriptor;
use crate::{AdapterType, Geometry};

impl Descriptor {
    /// The value of a key of the disk database, such as `ddb.adapterType`. Letter case does not count.
    #[must_use]
    pub fn ddb(&self, key: &str) -> Option<&str> {
        self.ddb.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, value)| value.as_str())
    }

    /// Sets a key of the disk database in its place, or adds it at the end.
    pub fn set_ddb(&mut self, key: &str, value: &str) {
        match self.ddb.iter_mut().find(|(k, _)| k.eq_ignore_ascii_case(key)) {
            Some((_, old)) => value.clone_into(old),
            None => self.ddb.push((key.to_owned(), value.to_owned())),
        }
    }

    /// `ddb.adapterType`, if it is one that is known here.
    #[must_use]
    pub fn adapter(&self) -> Option<AdapterType> {
        self.ddb("ddb.adapterType").and_then(AdapterType::from_ddb)
    }

    /// `ddb.geometry.cylinders`, `.heads` and `.sectors`, if all three are numbers and none of the last two is 0.
    #[must_use]
    pub fn geometry(&self) -> Option<Geometry> {
        let number = |key| self.ddb(key)?.parse::<u64>().ok();
        let geometry = Geometry {
            cylinders: number("ddb.geometry.cylinders")?,
            heads: number("ddb.geometry.heads")?,
            sectors: number("ddb.geometry.sectors")?,
        };
        (geometry.heads > 0 && geometry.sectors > 0).then_some(geometry)
    }

    /// `ddb.uuid`, however its bytes are grouped.
    #[must_use]
    pub fn uuid(&self) -> Option<Uuid> {
        let digits: String = self.ddb("ddb.uuid")?.chars().filter(|c| !matches!(c, ' ' | '-')).collect();
        Uuid::try_parse(&digits).ok()
    }

    /// `ddb.virtualHWVersion`.
    #[must_use]
    pub fn hardware_version(&self) -> Option<u32> {
        self.ddb("ddb.virtualHWVersion")?.parse().ok()
    }

    /// `ddb.toolsVersion`.
    #[must_use]
    pub fn tools_version(&self) -> Option<u32> {
        self.ddb("ddb.toolsVersion")?.parse().ok()
    }

    /// `ddb.longContentID`: 128 bits, of which the last 32 are the content ID.
    #[must_use]
    pub fn long_content_id(&self) -> Option<u128> {
        u128::from_str_radix(self.ddb("ddb.longContentID")?, 16).ok()
    }

    /// The size of the disk in bytes, or `None` past 2^64.
    #[must_use]
    pub fn size(&self) -> Option<ByteLen> {
        self.capacity()?.to_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CreateType;

    #[test]
    fn values_are_read_as_what_they_mean() {
        let mut disk = Descriptor::new(CreateType::Vmfs);
        assert_eq!((disk.adapter(), disk.geometry(), disk.uuid()), (None, None, None));
        for (key, value) in [
            ("ddb.adapterType", "LsiLogic"),
            ("ddb.geometry.cylinders", "5221"),
            ("ddb.geometry.heads", "255"),
            ("ddb.geometry.sectors", "63"),
            ("ddb.uuid", "60 00 C2 93 7a 0f 9e 6e-3c 1f 9a b2 c3 d4 e5 f6"),
            ("ddb.virtualHWVersion", "19"),
            ("ddb.toolsVersion", "12345"),
            ("ddb.longContentID", "0123456789abcdef01234567fffffffe"),
        ] {
            disk.set_ddb(key, value);
        }
        assert_eq!(disk.adapter(), Some(AdapterType::LsiLogic));
        assert_eq!(disk.geometry(), Some(Geometry { cylinders: 5221, heads: 255, sectors: 63 }));
        assert_eq!(disk.uuid().unwrap().as_u128(), 0x6000_c293_7a0f_9e6e_3c1f_9ab2_c3d4_e5f6);
        assert_eq!((disk.hardware_version(), disk.tools_version()), (Some(19), Some(12345)));
        assert_eq!(disk.long_content_id(), Some(0x0123_4567_89ab_cdef_0123_4567_ffff_fffe));
        disk.set_ddb("DDB.Geometry.Heads", "0");
        assert_eq!(disk.geometry(), None);
        assert_eq!(disk.ddb.len(), 8);
    }
}
