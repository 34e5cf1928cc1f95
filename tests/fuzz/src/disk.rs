//! A disk of one binary dialect: the descriptor is made here, so that mutations hit headers, tables and grains.
//!
//! ```text
//!   numbers = flags (1 byte) | sectors of each extent (7) | sectors of the parent (7) | CID of the parent (4)
//!   flags   = 1: the first file is opened itself, for it has its descriptor inside
//!             2: over a parent
//!             4, 8: one more extent each
//! ```
//!
//! The extents are the files of the input in their order, from the first again where there are too few.

use blockdev::Sectors;
use vmdk_rs::{CreateType, Descriptor, ExtentLine, ExtentType};

use crate::{File, Files, Input, Naming};

/// The most sectors of the parent: 64 KiB.
const PARENT_SECTORS: u64 = 128;

/// What the extents are.
pub struct Dialect {
    /// The type of the disk.
    pub create_type: CreateType,
    /// The type of its extents.
    pub extent: ExtentType,
}

/// The files of a disk, the one to open first.
#[must_use]
pub fn disk(data: &[u8], dialect: &Dialect) -> Files {
    let mut input = Input::new(data);
    let (flags, sectors) = (input.number(1), input.number(7));
    let (parent_sectors, parent_id) = (1 + input.number(7) % PARENT_SECTORS, input.number(4) as u32);
    let packed = dialect.create_type == CreateType::StreamOptimized;
    let mut files = if packed { input.packed_files() } else { input.files() };
    for (number, (name, _)) in files.iter_mut().enumerate() {
        *name = format!("extent {number}.vmdk");
    }
    let mut parent = Descriptor::new(CreateType::Vmfs);
    parent.content_id = parent_id;
    parent.extents.push(ExtentLine::rw(Sectors(parent_sectors), ExtentType::Vmfs, "parent-flat.vmdk"));
    let mut disk = Descriptor::new(dialect.create_type.clone());
    if flags & 2 != 0 {
        disk.parent_content_id = Some(parent_id);
        disk.parent_file_name_hint = Some("parent.vmdk".to_owned());
    }
    for number in 0..1 + (flags >> 2 & 3) as usize {
        let name = format!("extent {}.vmdk", number % files.len().max(1));
        disk.extents.push(ExtentLine::rw(Sectors(sectors), dialect.extent.clone(), &name));
    }
    if flags & 1 == 0 {
        files.insert(0, ("disk.vmdk".to_owned(), File::whole(disk.to_string().into_bytes())));
    }
    files.push(("parent.vmdk".to_owned(), File::whole(parent.to_string().into_bytes())));
    files.push(("parent-flat.vmdk".to_owned(), File::whole(pattern())));
    // A descriptor inside names its parent as it likes.
    Files::new(files, Naming::Else("parent.vmdk"), data.len())
}

/// Bytes of which none is 0, `PARENT_SECTORS` of them.
fn pattern() -> Vec<u8> {
    (0..PARENT_SECTORS as u32 * 512).map(|n| (n.wrapping_mul(0x9e37_79b1) >> 24) as u8 | 1).collect()
}
