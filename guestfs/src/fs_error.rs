use blockdev::{ByteLen, ByteOffset, ReadError};

/// Who has to act on an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorFamily {
    /// The storage underneath failed: its administrator.
    Io,
    /// The volume or the request is fine, but this library cannot do it: its authors.
    Unsupported,
    /// The volume contradicts its format: the owner of the disk.
    Corrupt,
    /// The caller asked for something that is not there, or is something else.
    Request,
}

/// Why something of a volume could not be read. [`family`](Self::family) tells who has to act.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FsError {
    /// The disk underneath failed.
    #[error("cannot read {what}")]
    Read {
        /// What was to be read.
        what: String,
        /// What the disk said, with the place.
        #[source]
        source: ReadError,
    },
    /// A field contradicts the format.
    #[error("{field} of {what} is {found}: {expected}")]
    Corrupt {
        /// The structure, with its place: "record 1234", "the FAT at byte 0x4000".
        what: String,
        /// The field, by its name in the format's description.
        field: &'static str,
        /// Its value.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The content is in a form that is not read.
    #[error("{what} cannot be read: {why}")]
    Unsupported {
        /// The thing, with its place.
        what: String,
        /// What it is, and what can be done.
        why: &'static str,
    },
    /// The content is encrypted by the guest.
    #[error("{what} is encrypted by the guest")]
    Encrypted {
        /// The file.
        what: String,
    },
    /// A value is longer than the caller takes.
    #[error("{what} has {len}, and at most {limit} were asked for")]
    TooLarge {
        /// The value.
        what: String,
        /// Its length.
        len: ByteLen,
        /// What the caller takes.
        limit: ByteLen,
    },
    /// There is no such file.
    #[error("there is no {what}")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// Something in a path is no folder.
    #[error("{what} is no folder")]
    NotAFolder {
        /// The thing.
        what: String,
    },
    /// Bytes were asked of something that has none.
    #[error("{what} is a folder")]
    IsAFolder {
        /// The thing.
        what: String,
    },
    /// A target was asked of something that is no link.
    #[error("{what} is no link")]
    NotALink {
        /// The thing.
        what: String,
    },
}

impl FsError {
    /// Who has to act.
    #[must_use]
    pub const fn family(&self) -> ErrorFamily {
        match self {
            Self::Read { source: ReadError::Corrupt { .. } | ReadError::OutOfRange { .. }, .. } => ErrorFamily::Corrupt,
            Self::Read { source: ReadError::Unsupported { .. }, .. } => ErrorFamily::Unsupported,
            Self::Read { .. } => ErrorFamily::Io,
            Self::Corrupt { .. } => ErrorFamily::Corrupt,
            Self::Unsupported { .. } | Self::Encrypted { .. } => ErrorFamily::Unsupported,
            Self::TooLarge { .. }
            | Self::NotFound { .. }
            | Self::NotAFolder { .. }
            | Self::IsAFolder { .. }
            | Self::NotALink { .. } => ErrorFamily::Request,
        }
    }

    /// This error as that of a file's [`ReadAt`](blockdev::ReadAt). `at` is a position in the file.
    pub(crate) fn at(self, at: ByteOffset) -> ReadError {
        match self.family() {
            ErrorFamily::Io => ReadError::Io { at, source: std::io::Error::other(self) },
            ErrorFamily::Unsupported => ReadError::Unsupported { at, source: Box::new(self) },
            ErrorFamily::Corrupt | ErrorFamily::Request => ReadError::Corrupt { at, source: Box::new(self) },
        }
    }
}
