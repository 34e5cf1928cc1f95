//! The words of a descriptor: access, extent types, create types.

use std::fmt;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
            /// A word that is not known here, kept as it stands.
            Other(String),
        }

        impl $name {
            /// The word as the format spells it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)*
                    Self::Other(text) => text,
                }
            }
        }

        /// Letter case does not count.
        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                $(if text.eq_ignore_ascii_case($text) {
                    return Self::$variant;
                })*
                Self::Other(text.to_owned())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// `createType`: the dialect of a disk.
    CreateType {
        /// One flat file with a descriptor beside it, hosted products.
        MonolithicFlat = "monolithicFlat",
        /// One growing file with the descriptor inside, hosted products.
        MonolithicSparse = "monolithicSparse",
        /// Flat pieces of at most 2 GiB.
        TwoGbMaxExtentFlat = "twoGbMaxExtentFlat",
        /// Growing pieces of at most 2 GiB.
        TwoGbMaxExtentSparse = "twoGbMaxExtentSparse",
        /// A flat file on VMFS or NFS, ESX.
        Vmfs = "vmfs",
        /// As `vmfs`, thin; older products.
        VmfsThin = "vmfsThin",
        /// As `vmfs`, allocated in advance; older products.
        VmfsPreallocated = "vmfsPreallocated",
        /// As `vmfs`, zeroed in advance; older products.
        VmfsEagerZeroedThick = "vmfsEagerZeroedThick",
        /// A redo log of ESX ("COWD").
        VmfsSparse = "vmfsSparse",
        /// A space-efficient redo log of ESX.
        SeSparse = "seSparse",
        /// Compressed grains in one stream, for transport.
        StreamOptimized = "streamOptimized",
        /// Extents of several types, hosted products.
        Custom = "custom",
        /// A whole physical disk, hosted products.
        FullDevice = "fullDevice",
        /// Partitions of a physical disk, hosted products.
        PartitionedDevice = "partitionedDevice",
        /// A raw device, ESX.
        VmfsRaw = "vmfsRaw",
        /// A raw device map, ESX.
        VmfsRawDeviceMap = "vmfsRawDeviceMap",
        /// A raw device map that passes commands through, ESX.
        VmfsPassthroughRawDeviceMap = "vmfsPassthroughRawDeviceMap",
    }
}

words! {
    /// The type of an extent.
    ExtentType {
        /// Bytes as they are, hosted products.
        Flat = "FLAT",
        /// Grains behind tables ("KDMV"), hosted products.
        Sparse = "SPARSE",
        /// Zeros; no file.
        Zero = "ZERO",
        /// Bytes as they are, ESX.
        Vmfs = "VMFS",
        /// Grains behind tables ("COWD"), ESX.
        VmfsSparse = "VMFSSPARSE",
        /// Space-efficient grains, ESX.
        SeSparse = "SESPARSE",
        /// A raw device map, ESX.
        VmfsRdm = "VMFSRDM",
        /// A raw device, ESX.
        VmfsRaw = "VMFSRAW",
    }
}

/// What may be done with an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reading and writing.
    Rw,
    /// Reading.
    ReadOnly,
    /// Nothing.
    NoAccess,
}

impl Access {
    /// The word as the format spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rw => "RW",
            Self::ReadOnly => "RDONLY",
            Self::NoAccess => "NOACCESS",
        }
    }

    pub(super) fn from_word(word: &str) -> Option<Self> {
        [Self::Rw, Self::ReadOnly, Self::NoAccess].into_iter().find(|a| word.eq_ignore_ascii_case(a.as_str()))
    }
}
