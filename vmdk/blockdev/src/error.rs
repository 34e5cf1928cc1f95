use crate::{ByteLen, ByteOffset};

/// Why bytes could not be read. The three families are kept apart, because three different people act on them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The storage underneath failed.
    #[error("cannot read at byte {at}")]
    Io {
        /// Where the read began.
        at: ByteOffset,
        /// What the storage said.
        #[source]
        source: std::io::Error,
    },
    /// The caller asked for bytes behind the end.
    #[error("a read of {len} at byte {at} passes the end of a disk of {size}")]
    OutOfRange {
        /// Where the read began.
        at: ByteOffset,
        /// How much was asked for.
        len: ByteLen,
        /// The size of the disk.
        size: ByteLen,
    },
    /// The bytes underneath contradict the format that was promised.
    #[error("the data at byte {at} contradicts its format")]
    Corrupt {
        /// Where the read began.
        at: ByteOffset,
        /// The format's own error, with place and values.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The bytes underneath are in a form that the reader does not know.
    #[error("the data at byte {at} is in a form that is not supported")]
    Unsupported {
        /// Where the read began.
        at: ByteOffset,
        /// The format's own error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
