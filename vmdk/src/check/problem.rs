use blockdev::{ByteLen, ByteOffset, ReadError};

use crate::{ErrorFamily, VmdkError};

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Data is lost, or may be wrong.
    Corrupt,
    /// The disk reads well; what is wrong beside it is right in a fresh copy.
    Mendable,
    /// Space is taken for nothing.
    Leak,
    /// Something could not be looked at: a file is absent or cannot be read, a device was not provided, a dialect is not known.
    Unchecked,
}

/// What a check can find.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A file cannot be opened or understood.
    #[error("{}", chain(.0))]
    Image(VmdkError),
    /// A table or its entry cannot be used, and there is no second copy.
    #[error("grain {grain} of the extent cannot be found: {why}")]
    Lost {
        /// Which grain.
        grain: u64,
        /// Why.
        why: String,
    },
    /// Two grains or tables are stored in one place.
    #[error("{what} lies where something else lies")]
    UsedTwice {
        /// What was met second.
        what: &'static str,
    },
    /// Both copies of a table can be used, and they are not the same.
    #[error("{count} entries of grain table {table} differ between its two copies, the first is that of grain {grain}")]
    CopiesDiffer {
        /// Which table.
        table: u64,
        /// How many entries differ.
        count: u64,
        /// The grain of the first one.
        grain: u64,
    },
    /// One of two copies of a table or directory cannot be used; the other can.
    #[error("one of two copies is damaged, the other is used: {why}")]
    CopyDamaged {
        /// What is wrong with it.
        why: String,
    },
    /// A stream has something between its grains that is no marker.
    #[error("{found} where a marker should be")]
    Marker {
        /// What is there.
        found: &'static str,
    },
    /// A stream goes on behind its end.
    #[error("{len} follow the end-of-stream marker")]
    BehindEnd {
        /// How much.
        len: ByteLen,
    },
    /// Grains that no table names.
    #[error("{grains} grains ({len}) are stored and belong to no place of the disk")]
    Leaked {
        /// How many.
        grains: u64,
        /// How much space they take.
        len: ByteLen,
    },
    /// The product that wrote the extent did not close it.
    #[error("the extent was not closed by the program that wrote it (uncleanShutdown is set)")]
    Unclean,
    /// The long content ID does not end with the content ID.
    #[error("ddb.longContentID {long:032x} does not end with the content ID {content_id:08x}")]
    LongContentId {
        /// `ddb.longContentID`.
        long: u128,
        /// `CID`.
        content_id: u32,
    },
}

impl Problem {
    /// How bad it is.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::Image(error) if error.family() != ErrorFamily::Corrupt => Severity::Unchecked,
            Self::CopyDamaged { .. } | Self::Unclean | Self::LongContentId { .. } | Self::BehindEnd { .. } => {
                Severity::Mendable
            }
            Self::Leaked { .. } => Severity::Leak,
            _ => Severity::Corrupt,
        }
    }

    /// Grains that are leaked.
    pub(super) const fn leaked(&self) -> u64 {
        match self {
            Self::Leaked { grains, .. } => *grains,
            _ => 0,
        }
    }
}

impl From<VmdkError> for Problem {
    fn from(error: VmdkError) -> Self {
        Self::Image(error)
    }
}

/// An error with its causes, one behind the other.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// What a table could not be read for, without the place on the disk that readers put in front.
pub(super) fn cause_of(error: &ReadError) -> String {
    match error {
        ReadError::Corrupt { source, .. } | ReadError::Unsupported { source, .. } => chain(&**source),
        other => chain(other),
    }
}

/// Where a read error says that the damage is, if it does.
pub(super) fn place_of(error: &ReadError) -> Option<ByteOffset> {
    let (ReadError::Corrupt { source, .. } | ReadError::Unsupported { source, .. }) = error else { return None };
    place_in_file(source.downcast_ref::<VmdkError>()?)
}

/// Where in its file an error says that the damage is, if it does.
pub(super) const fn place_in_file(error: &VmdkError) -> Option<ByteOffset> {
    match error {
        VmdkError::Field { position, .. } | VmdkError::PackedGrain { position, .. } => Some(*position),
        VmdkError::Short { start, .. } => Some(*start),
        VmdkError::NoFooter { at, .. } => Some(*at),
        _ => None,
    }
}
