//! The text that describes a disk: Virtual Disk Format 1.1, section "The Descriptor File".

mod database;
mod error;
mod kinds;
mod lines;
mod parse;
mod text;

use std::fmt;

use blockdev::Sectors;

pub use error::DescriptorError;
pub use kinds::{Access, CreateType, ExtentType};
pub use lines::ExtentLine;

/// The longest descriptor that is read, in bytes. Real ones take a few kilobytes, and [`MAX_EXTENTS`] lines fit.
pub const MAX_DESCRIPTOR_LEN: usize = 1 << 20;

/// The most extents of one descriptor. The largest disk of hosted products, 8 TiB, takes 4099 pieces of 2047 MiB;
/// each is an open file, so more than such a disk needs is not granted.
pub const MAX_EXTENTS: usize = 4100;

/// The most keys of one descriptor that are not known here. Real ones have some twenty; a megabyte of the shortest would
/// take thirty times its size in memory, in each disk of a chain.
const MAX_KEYS: usize = 4096;

/// "No parent" in `parentCID`.
const NO_PARENT: u32 = 0xffff_ffff;

/// A descriptor: a plain record, read with [`parse`](Self::parse) and written with `Display`.
///
/// ```
/// use vmdk_rs::{CreateType, Descriptor, ExtentLine, ExtentType};
/// use blockdev::Sectors;
///
/// let mut disk = Descriptor::new(CreateType::Vmfs);
/// disk.content_id = 0x1234abcd;
/// disk.extents.push(ExtentLine::rw(Sectors(2048), ExtentType::Vmfs, "my vm-flat.vmdk"));
/// disk.set_ddb("ddb.adapterType", "lsilogic");
/// let text = disk.to_string();
/// assert!(text.contains("RW 2048 VMFS \"my vm-flat.vmdk\"\n"));
/// assert_eq!(Descriptor::parse(text.as_bytes())?, disk);
/// # Ok::<(), vmdk_rs::DescriptorError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The version of the descriptor, 1 to 4; written as 1 by every product.
    pub version: u32,
    /// `CID`: changes whenever the content is written to for the first time after opening.
    pub content_id: u32,
    /// `parentCID`: the content of the parent that this disk is a delta to. `None` for a disk of its own (`ffffffff`).
    pub parent_content_id: Option<u32>,
    /// `isNativeSnapshot`: whether the storage array keeps the delta.
    pub is_native_snapshot: Option<bool>,
    /// `createType`.
    pub create_type: CreateType,
    /// `parentFileNameHint`: the parent's descriptor, as a path of the machine that wrote it.
    pub parent_file_name_hint: Option<String>,
    /// Other keys in their order, such as `changeTrackPath`. `encoding` is not among them: text here is Unicode.
    pub other: Vec<(String, String)>,
    /// The extents, in the order in which they make up the disk.
    pub extents: Vec<ExtentLine>,
    /// The disk database: full keys such as `ddb.adapterType`, in their order.
    pub ddb: Vec<(String, String)>,
}

impl Descriptor {
    /// A descriptor of version 1 with no extents and no parent, and content ID `fffffffe`, which stands for "never written".
    #[must_use]
    pub const fn new(create_type: CreateType) -> Self {
        Self {
            version: 1,
            content_id: 0xffff_fffe,
            parent_content_id: None,
            is_native_snapshot: None,
            create_type,
            parent_file_name_hint: None,
            other: Vec::new(),
            extents: Vec::new(),
            ddb: Vec::new(),
        }
    }

    /// Reads a descriptor. Comments and blank lines are dropped; the text ends at its first NUL.
    ///
    /// # Errors
    /// Too long, an encoding that is not known, a line that is neither a key nor an extent, a required key missing.
    pub fn parse(bytes: &[u8]) -> Result<Self, DescriptorError> {
        parse::parse(bytes)
    }

    /// The sum of the extents, or `None` past 2^64.
    #[must_use]
    pub fn capacity(&self) -> Option<Sectors> {
        self.extents.iter().try_fold(0u64, |sum, extent| sum.checked_add(extent.sectors.0)).map(Sectors)
    }
}

/// Writes the descriptor as VMware's products do, in UTF-8, with a final newline.
///
/// The format knows no way to write a quotation mark or a control character inside a value; each becomes `?`.
impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Disk DescriptorFile\nversion={}\nencoding=\"UTF-8\"", self.version)?;
        writeln!(f, "CID={:08x}", self.content_id)?;
        writeln!(f, "parentCID={:08x}", self.parent_content_id.unwrap_or(NO_PARENT))?;
        if let Some(native) = self.is_native_snapshot {
            writeln!(f, "isNativeSnapshot=\"{}\"", if native { "yes" } else { "no" })?;
        }
        writeln!(f, "createType=\"{}\"", text::Value(self.create_type.as_str()))?;
        if let Some(hint) = &self.parent_file_name_hint {
            writeln!(f, "parentFileNameHint=\"{}\"", text::Value(hint))?;
        }
        writeln!(f, "\n# Extent description")?;
        for extent in &self.extents {
            writeln!(f, "{extent}")?;
        }
        if !self.other.is_empty() {
            writeln!(f)?;
        }
        for (key, value) in &self.other {
            writeln!(f, "{}=\"{}\"", text::Value(key), text::Value(value))?;
        }
        writeln!(f, "\n# The Disk Data Base\n#DDB\n")?;
        for (key, value) in &self.ddb {
            writeln!(f, "{} = \"{}\"", text::Value(key), text::Value(value))?;
        }
        Ok(())
    }
}
