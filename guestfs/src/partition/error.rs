use std::fmt;

use blockdev::{ByteLen, ByteOffset, ReadError};

/// Why a partition table could not be read: the disk failed ([`Read`](Self::Read)), we do not know it
/// ([`Unsupported`](Self::Unsupported)), or the table contradicts itself or the disk (all others).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionError {
    /// The disk underneath failed.
    #[error("cannot read the {what}")]
    Read {
        /// What was to be read.
        what: &'static str,
        /// What the disk said, with the place.
        #[source]
        source: ReadError,
    },
    /// The table is beyond what this reader takes on.
    #[error("{what} at byte {at} is {found}: {limit}")]
    Unsupported {
        /// The field or thing.
        what: &'static str,
        /// Where it lies on the disk.
        at: ByteOffset,
        /// Its value.
        found: u64,
        /// What is supported.
        limit: &'static str,
    },
    /// A field contradicts the format.
    #[error("{field} at byte {at} is {found:#x}: {expected}")]
    Corrupt {
        /// The field.
        field: &'static str,
        /// Where it lies on the disk.
        at: ByteOffset,
        /// Its value.
        found: u64,
        /// What it should be.
        expected: &'static str,
    },
    /// A checksum does not match.
    #[error("the {what} at byte {at} has the CRC-32 {computed:#010x}, and {stored:#010x} is written down for it")]
    Checksum {
        /// What the checksum covers.
        what: &'static str,
        /// Where that begins.
        at: ByteOffset,
        /// The checksum of the bytes on the disk.
        computed: u32,
        /// The checksum in the header.
        stored: u32,
    },
    /// A partition passes the end of the disk: the disk was cut off, or the table belongs to a larger one.
    #[error("{piece} lies from byte {start} to {end}, but the disk ends at {}", ByteOffset(.disk.0))]
    PastEnd {
        /// What passes the end.
        piece: Piece,
        /// Its first byte.
        start: ByteOffset,
        /// The first byte behind it. 2^64 and more are given as 2^64 - 1.
        end: ByteOffset,
        /// The size of the disk.
        disk: ByteLen,
    },
    /// Two parts of the table claim the same bytes.
    #[error("{first} and {second} overlap from byte {at} on")]
    Overlap {
        /// The one that begins first.
        first: Piece,
        /// The other.
        second: Piece,
        /// The first byte that both claim.
        at: ByteOffset,
    },
    /// The chain of logical partitions comes back to a boot record it has passed.
    #[error("the chain of logical partitions returns to the extended boot record at byte {at}")]
    ChainLoop {
        /// The boot record that is met twice.
        at: ByteOffset,
    },
    /// There is no GPT header where one should be.
    #[error("there is no GPT header at byte {at}")]
    NoGptHeader {
        /// Where it should be.
        at: ByteOffset,
    },
    /// The disk is marked as GPT, and neither copy of the table is whole.
    #[error("both copies of the GPT are damaged. Primary: {primary}. Backup: {backup}")]
    GptLost {
        /// What is wrong with the primary copy.
        primary: Box<Self>,
        /// What is wrong with the backup copy.
        backup: Box<Self>,
    },
}

/// A part of the disk that a table claims, as errors name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The partition with this index.
    Partition(u32),
    /// The extended partition in this slot, which holds the logical ones.
    Container(u32),
    /// The extended boot record that describes the logical partition with this index.
    BootRecord(u32),
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition(index) => write!(f, "partition {index}"),
            Self::Container(index) => write!(f, "extended partition {index}"),
            Self::BootRecord(index) => write!(f, "the boot record of logical partition {index}"),
        }
    }
}
