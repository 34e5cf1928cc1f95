use std::fmt;

use blockdev::{ByteLen, Sectors};
use uuid::Uuid;

use super::{Geometry, PIECE_LEN};
use crate::convert::MAX_CAPACITY;
use crate::{CreateType, Descriptor, ExtentLine, ExtentType, PlainName, VmdkError};

/// The form of a new image. Its [`CreateType`] is of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Subformat {
    /// `x.vmdk` and `x-flat.vmdk`.
    MonolithicFlat,
    /// `x.vmdk` and flat pieces of at most 2047 MiB, `x-f001.vmdk` and so on; disks of 8 TiB at most.
    TwoGbMaxExtentFlat,
    /// `x.vmdk` alone, growing; disks of just under 2 TiB at most.
    MonolithicSparse,
    /// `x.vmdk` and growing pieces of at most 2047 MiB, `x-s001.vmdk` and so on; disks of 8 TiB at most.
    TwoGbMaxExtentSparse,
    /// `x.vmdk` and `x-flat.vmdk` as ESX writes them.
    VmfsFlat,
    /// `x.vmdk` alone, compressed, written from its beginning to its end; at most 2 TiB of compressed data.
    StreamOptimized,
}

impl Subformat {
    /// The `createType` of its descriptor.
    #[must_use]
    pub const fn create_type(self) -> CreateType {
        match self {
            Self::MonolithicFlat => CreateType::MonolithicFlat,
            Self::TwoGbMaxExtentFlat => CreateType::TwoGbMaxExtentFlat,
            Self::MonolithicSparse => CreateType::MonolithicSparse,
            Self::TwoGbMaxExtentSparse => CreateType::TwoGbMaxExtentSparse,
            Self::VmfsFlat => CreateType::Vmfs,
            Self::StreamOptimized => CreateType::StreamOptimized,
        }
    }

    /// Whether it can be a delta: grains that are not stored are the parent's.
    #[must_use]
    pub const fn can_be_delta(self) -> bool {
        self.is_sparse()
    }

    /// Whether the descriptor lies inside the one file.
    pub(super) const fn is_one_file(self) -> bool {
        matches!(self, Self::MonolithicSparse | Self::StreamOptimized)
    }

    pub(super) const fn is_sparse(self) -> bool {
        matches!(self, Self::MonolithicSparse | Self::TwoGbMaxExtentSparse)
    }

    pub(super) const fn extent_type(self) -> ExtentType {
        match self {
            Self::MonolithicFlat | Self::TwoGbMaxExtentFlat => ExtentType::Flat,
            Self::MonolithicSparse | Self::TwoGbMaxExtentSparse | Self::StreamOptimized => ExtentType::Sparse,
            Self::VmfsFlat => ExtentType::Vmfs,
        }
    }

    /// The length of every piece but the last, in bytes.
    pub(super) const fn piece_len(self, capacity: u64) -> u64 {
        match self {
            Self::TwoGbMaxExtentFlat | Self::TwoGbMaxExtentSparse => PIECE_LEN,
            _ => capacity,
        }
    }

    /// The name of piece `number` (from 1), for a descriptor `stem.vmdk`.
    pub(super) fn piece_name(self, stem: &str, number: usize) -> String {
        match self {
            Self::MonolithicFlat | Self::VmfsFlat => format!("{stem}-flat.vmdk"),
            Self::MonolithicSparse | Self::StreamOptimized => format!("{stem}.vmdk"),
            Self::TwoGbMaxExtentFlat => format!("{stem}-f{number:03}.vmdk"),
            Self::TwoGbMaxExtentSparse => format!("{stem}-s{number:03}.vmdk"),
        }
    }
}

/// The virtual controller that a disk was made for. It decides the geometry that old guests see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdapterType {
    /// IDE; SATA and NVMe disks are written so too.
    Ide,
    /// BusLogic SCSI.
    BusLogic,
    /// LSI Logic SCSI, parallel or SAS; products write paravirtual SCSI disks so too.
    LsiLogic,
    /// The SCSI controller of ESX before version 3.
    LegacyEsx,
}

impl AdapterType {
    /// The value of `ddb.adapterType`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ide => "ide",
            Self::BusLogic => "buslogic",
            Self::LsiLogic => "lsilogic",
            Self::LegacyEsx => "legacyESX",
        }
    }

    /// The adapter that a value of `ddb.adapterType` names. Letter case does not count.
    #[must_use]
    pub fn from_ddb(value: &str) -> Option<Self> {
        let all = [Self::Ide, Self::BusLogic, Self::LsiLogic, Self::LegacyEsx];
        all.into_iter().find(|adapter| adapter.as_str().eq_ignore_ascii_case(value))
    }
}

impl fmt::Display for AdapterType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a new image is to be.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Its form.
    pub subformat: Subformat,
    /// Its size: a multiple of 512 bytes, at least 512 bytes, at most 64 TiB.
    pub capacity: ByteLen,
    /// The controller it is for.
    pub adapter: AdapterType,
    /// `ddb.virtualHWVersion`, such as 19.
    pub hardware_version: u32,
    /// `ddb.uuid`. Without one the line is left out, and VMware's products make one up.
    pub uuid: Option<Uuid>,
    /// `ddb.toolsVersion`. Without one the line is left out.
    pub tools_version: Option<u32>,
    /// `CID`. Without one it is random.
    pub content_id: Option<u32>,
    /// The geometry that old guests see. Without one it follows from capacity and adapter.
    pub geometry: Option<Geometry>,
    /// The disk that this one is a delta to.
    pub parent: Option<ParentLink>,
    /// The folder of that disk, if it is not the delta's own but another one beside it: the delta then says `../folder/file`.
    pub parent_folder: Option<PlainName>,
}

/// What a delta says of its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentLink {
    /// `parentFileNameHint`: the name of the parent's descriptor beside the delta's.
    pub file: PlainName,
    /// `parentCID`: the parent's content ID.
    pub content_id: u32,
}

impl CreateOptions {
    /// A new disk for an LSI Logic controller and virtual hardware 4, the oldest that every product takes, with random IDs
    /// and no parent.
    #[must_use]
    pub const fn new(subformat: Subformat, capacity: ByteLen) -> Self {
        Self {
            subformat,
            capacity,
            adapter: AdapterType::LsiLogic,
            hardware_version: 4,
            uuid: None,
            tools_version: None,
            content_id: None,
            geometry: None,
            parent: None,
            parent_folder: None,
        }
    }

    /// A copy of the disk that `source` describes: its adapter, hardware version, UUID and tools version, and if it is of the
    /// same size its geometry. The copy's content ID is its own, and it has no parent.
    #[must_use]
    pub fn like(source: &Descriptor, subformat: Subformat, capacity: ByteLen) -> Self {
        let new = Self::new(subformat, capacity);
        let same_size = source.size() == Some(capacity);
        Self {
            adapter: source.adapter().unwrap_or(new.adapter),
            hardware_version: source.hardware_version().unwrap_or(new.hardware_version),
            uuid: source.uuid(),
            tools_version: source.tools_version(),
            geometry: source.geometry().filter(|_| same_size),
            ..new
        }
    }

    /// The capacity in sectors, once the options are found to be such that a disk can be made of them.
    ///
    /// # Errors
    /// The parent's content ID is the one that stands for none; the capacity is no multiple of 512 bytes, 0, or more than 64 TiB.
    pub(super) fn sectors(&self) -> Result<Sectors, VmdkError> {
        if self.parent.as_ref().is_some_and(|parent| parent.content_id == u32::MAX) {
            let expected = "another content ID, as this one stands for no parent; write to the parent first";
            return Err(VmdkError::Request {
                field: "the content ID of the parent",
                actual: u32::MAX.into(),
                expected,
            });
        }
        let sectors = self.capacity.to_sectors().filter(|s| s.0 > 0 && *s <= MAX_CAPACITY);
        sectors.ok_or(VmdkError::Request {
            field: "the capacity in bytes",
            actual: self.capacity.0,
            expected: "a multiple of 512, at most 64 TiB",
        })
    }

    /// The descriptor of a disk whose bytes lie in the one flat file `flat` beside it, for callers that store that file
    /// themselves.
    ///
    /// # Errors
    /// The capacity is none that a disk can have.
    pub fn flat_descriptor(&self, flat: &PlainName) -> Result<Descriptor, VmdkError> {
        let mut descriptor = self.descriptor();
        descriptor.create_type = CreateType::Vmfs;
        descriptor.extents = vec![ExtentLine::rw(self.sectors()?, ExtentType::Vmfs, flat.as_str())];
        Ok(descriptor)
    }

    /// The descriptor, still without extents.
    pub(super) fn descriptor(&self) -> Descriptor {
        let random = Uuid::new_v4().simple().to_string();
        let content_id = self.content_id.unwrap_or_else(|| random_content_id(Uuid::new_v4()));
        let mut descriptor = Descriptor::new(self.subformat.create_type());
        descriptor.content_id = content_id;
        if let Some(parent) = &self.parent {
            descriptor.parent_content_id = Some(parent.content_id);
            descriptor.parent_file_name_hint = Some(match &self.parent_folder {
                Some(folder) => format!("../{folder}/{}", parent.file),
                None => parent.file.to_string(),
            });
        }
        let geometry = self.geometry.unwrap_or_else(|| Geometry::of(self.capacity, self.adapter));
        descriptor.set_ddb("ddb.adapterType", self.adapter.as_str());
        descriptor.set_ddb("ddb.geometry.cylinders", &geometry.cylinders.to_string());
        descriptor.set_ddb("ddb.geometry.heads", &geometry.heads.to_string());
        descriptor.set_ddb("ddb.geometry.sectors", &geometry.sectors.to_string());
        // 128 bits, of which the last 32 are the content ID.
        let long = format!("{}{content_id:08x}", random.get(..24).unwrap_or_default());
        descriptor.set_ddb("ddb.longContentID", &long);
        if let Some(version) = self.tools_version {
            descriptor.set_ddb("ddb.toolsVersion", &version.to_string());
        }
        if let Some(uuid) = self.uuid {
            descriptor.set_ddb("ddb.uuid", &ddb_uuid(uuid));
        }
        descriptor.set_ddb("ddb.virtualHWVersion", &self.hardware_version.to_string());
        descriptor
    }
}

/// `ffffffff` and `fffffffe` have meanings of their own, so the topmost bit stays clear.
fn random_content_id(random: Uuid) -> u32 {
    let (_, _, _, last) = random.as_fields();
    let [a, b, c, d, ..] = *last;
    u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff
}

/// 16 bytes in hexadecimal, a blank between them, a hyphen in the middle.
fn ddb_uuid(uuid: Uuid) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    let (first, second) = uuid.as_bytes().split_at(8);
    format!("{}-{}", hex(first), hex(second))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> CreateOptions {
        CreateOptions {
            subformat: Subformat::VmfsFlat,
            capacity: ByteLen(1 << 30),
            adapter: AdapterType::LsiLogic,
            hardware_version: 19,
            uuid: Some(Uuid::from_u128(0x6000_c293_7a0f_9e6e_3c1f_9ab2_c3d4_e5f6)),
            tools_version: Some(12_345),
            content_id: Some(0xabcd_ef01),
            ..CreateOptions::new(Subformat::VmfsFlat, ByteLen(1 << 30))
        }
    }

    #[test]
    fn the_disk_database_is_complete_and_sorted_as_products_sort_it() {
        let descriptor = options().descriptor();
        assert_eq!(descriptor.ddb("ddb.uuid"), Some("60 00 c2 93 7a 0f 9e 6e-3c 1f 9a b2 c3 d4 e5 f6"));
        let long = descriptor.ddb("ddb.longContentID").unwrap();
        assert!(long.len() == 32 && long.ends_with("abcdef01"), "{long}");
        assert!(descriptor.ddb.is_sorted_by(|a, b| a.0.to_lowercase() < b.0.to_lowercase()));
        assert_eq!(descriptor.ddb.len(), 8);
        let random = CreateOptions { content_id: None, uuid: None, tools_version: None, ..options() }.descriptor();
        assert!(random.content_id < 0x8000_0000);
        assert_eq!(random.ddb.len(), 6);
    }

    #[test]
    fn a_copy_keeps_what_the_disk_was_made_for_but_not_its_content_id() {
        let mut source = options().descriptor();
        source.set_ddb("ddb.geometry.heads", "16");
        source.set_ddb("ddb.adapterType", "ide");
        source.extents.push(ExtentLine::rw(Sectors(2 << 20), ExtentType::Vmfs, "x-flat.vmdk"));
        let copy = CreateOptions::like(&source, Subformat::MonolithicSparse, ByteLen(1 << 30));
        assert_eq!((copy.adapter, copy.hardware_version, copy.tools_version), (AdapterType::Ide, 19, Some(12_345)));
        assert_eq!((copy.uuid, copy.content_id), (options().uuid, None));
        assert_eq!(copy.geometry.unwrap().heads, 16);
        let larger = CreateOptions::like(&source, Subformat::MonolithicSparse, ByteLen(2 << 30));
        assert_eq!(larger.geometry, None);
        assert_eq!(larger.descriptor().ddb("ddb.geometry.heads"), Some("16")); // IDE
    }

    #[test]
    fn the_capacity_is_whole_sectors_up_to_64_tib() {
        let sectors = |bytes| CreateOptions { capacity: ByteLen(bytes), ..options() }.sectors();
        assert_eq!(sectors(512).unwrap(), Sectors(1));
        assert_eq!(sectors(64 << 40).unwrap(), MAX_CAPACITY);
        for wrong in [0, 511, 513, (64 << 40) + 512, u64::MAX] {
            assert!(matches!(sectors(wrong), Err(VmdkError::Request { .. })), "{wrong}");
        }
    }
}
