use crate::error::ErrorFamily;

/// Why a descriptor could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptorError {
    /// The text passes [`crate::MAX_DESCRIPTOR_LEN`].
    #[error("the descriptor is {actual} bytes long: at most {limit}")]
    TooLong {
        /// Its length, in bytes.
        actual: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The text has more than [`crate::MAX_EXTENTS`] extents.
    #[error("line {line} is one extent too many: at most {limit}")]
    TooManyExtents {
        /// The line, counted from 1.
        line: usize,
        /// The limit.
        limit: usize,
    },
    /// The text is in an encoding that is not known here.
    #[error("the encoding is {actual:?}: UTF-8 and others of the Encoding Standard that contain ASCII are supported")]
    Encoding {
        /// The declared name.
        actual: String,
    },
    /// The text is not in the encoding that it declares.
    #[error("byte {position} is not valid in the declared encoding UTF-8")]
    NotUtf8 {
        /// The first byte that is wrong, counted from 0.
        position: usize,
    },
    /// The text is not in the encoding that it declares.
    #[error("the text is not valid in the declared encoding {encoding}")]
    Undecodable {
        /// The declared name.
        encoding: String,
    },
    /// A line is not what it must be.
    #[error("line {line} is {actual:?}: {expected}")]
    Line {
        /// The line, counted from 1.
        line: usize,
        /// Its text, the first 120 characters.
        actual: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A required key is not there.
    #[error("the key {key} is missing")]
    Missing {
        /// Its name.
        key: &'static str,
    },
}

impl DescriptorError {
    /// Who has to act.
    #[must_use]
    pub const fn family(&self) -> ErrorFamily {
        match self {
            Self::Encoding { .. } => ErrorFamily::Unsupported,
            _ => ErrorFamily::Corrupt,
        }
    }
}
