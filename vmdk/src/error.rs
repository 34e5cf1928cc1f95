use std::io;

use blockdev::{ByteLen, ByteOffset, ReadError};

use crate::{DescriptorError, NameError};

/// Who has to act on an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorFamily {
    /// The storage underneath failed: its administrator.
    Io,
    /// The image or the request is fine, but this library cannot do it: its authors.
    Unsupported,
    /// The image contradicts its format, or names what it must not name: the owner of the disk.
    Corrupt,
}

/// Why an image could not be opened, read or written. [`family`](Self::family) tells who has to act.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmdkError {
    /// The storage under a file failed.
    #[error("cannot {action} {file}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        file: String,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A file of the image could not be read.
    #[error("cannot read {file}")]
    Read {
        /// The file.
        file: String,
        /// Why, and where in the file.
        #[source]
        source: Box<ReadError>,
    },
    /// The image is of a dialect that is not read (yet).
    #[error("{file} is of the dialect {dialect}, which is not supported")]
    Dialect {
        /// The file.
        file: String,
        /// The create type, the extent type or the name of the format.
        dialect: String,
    },
    /// A value that may be right, but is not supported.
    #[error("{field} of {file} is {actual}, which is not supported: {expected}")]
    Unsupported {
        /// The file.
        file: String,
        /// The name of the field.
        field: &'static str,
        /// What it is.
        actual: u64,
        /// What is supported.
        expected: &'static str,
    },
    /// The caller allows no other files.
    #[error("the image names the file {name:?}, and no other files may be opened")]
    Denied {
        /// The name.
        name: String,
    },
    /// The caller provides no such device.
    #[error("the image stands for the device {name:?}, and no such device was provided")]
    NoDevice {
        /// The name in the descriptor.
        name: String,
    },
    /// The file is no descriptor and holds none.
    #[error("{file} is not a descriptor: {found}")]
    NotADescriptor {
        /// The file.
        file: String,
        /// What it is.
        found: &'static str,
    },
    /// The descriptor cannot be understood.
    #[error("cannot understand the descriptor {file}")]
    Descriptor {
        /// The file.
        file: String,
        /// Why, and in which line.
        #[source]
        source: DescriptorError,
    },
    /// The image names a file that it must not name.
    #[error("the image names the file {name:?}")]
    Name {
        /// The name.
        name: String,
        /// Why it is refused.
        #[source]
        source: NameError,
    },
    /// A field contradicts the format.
    #[error("{field} at byte {position} of {file} is {actual:#x}: {expected}")]
    Field {
        /// The file.
        file: String,
        /// The name of the field in the specification.
        field: &'static str,
        /// Where it stands.
        position: ByteOffset,
        /// What it is.
        actual: u64,
        /// What would be right.
        expected: &'static str,
    },
    /// A file is shorter than the image says.
    #[error("{what} takes bytes {start} to {end} of {file}, which has {size}")]
    Short {
        /// The file.
        file: String,
        /// What should lie there.
        what: &'static str,
        /// Where it should begin.
        start: ByteOffset,
        /// Where it should end.
        end: ByteOffset,
        /// The size of the file.
        size: ByteLen,
    },
    /// A stream ends without its footer: it was cut off, or is still being written.
    #[error(
        "the stream {file} should end with a footer, and has {found} at byte {at}: it was cut off or is not finished"
    )]
    NoFooter {
        /// The file.
        file: String,
        /// Where something else was found.
        at: ByteOffset,
        /// What was found.
        found: &'static str,
    },
    /// A compressed grain cannot be unpacked.
    #[error("the compressed grain at byte {position} of {file} is damaged: {problem}")]
    PackedGrain {
        /// The file.
        file: String,
        /// Where its marker begins.
        position: ByteOffset,
        /// What is wrong.
        problem: &'static str,
    },
    /// The descriptor says that the disk is a delta, but not to which parent.
    #[error("{file} is a delta to content {parent_content_id:08x}, but has no parentFileNameHint")]
    NoParent {
        /// The descriptor.
        file: String,
        /// Its `parentCID`.
        parent_content_id: u32,
    },
    /// The descriptor names a parent, and its content ID says that there is none.
    #[error("{file} names the parent {hint:?}, and its parentCID ffffffff says that it has none")]
    ParentWithoutContent {
        /// The descriptor.
        file: String,
        /// Its `parentFileNameHint`.
        hint: String,
    },
    /// The parent was changed after the delta was begun, or is another disk.
    #[error("{child} is a delta to content {expected:08x}, but the content of {parent} is {actual:08x}")]
    ContentId {
        /// The delta.
        child: String,
        /// Its `parentCID`.
        expected: u32,
        /// The parent.
        parent: String,
        /// Its `CID`.
        actual: u32,
    },
    /// The chain names a disk twice.
    #[error("the chain of {file} comes back to {again}")]
    Loop {
        /// The disk that was opened.
        file: String,
        /// The name that came again.
        again: String,
    },
    /// The chain is too long.
    #[error("the chain of {file} has more than {limit} disks")]
    TooDeep {
        /// The disk that was opened.
        file: String,
        /// The limit.
        limit: usize,
    },
    /// The caller asked for something that cannot be done.
    #[error("{field} is {actual}: {expected}")]
    Request {
        /// What was asked for.
        field: &'static str,
        /// Its value.
        actual: u64,
        /// What would be right.
        expected: &'static str,
    },
    /// An earlier write failed, so the image cannot be finished.
    #[error("cannot finish {file}: an earlier write to it failed")]
    WriteFailed {
        /// The descriptor.
        file: String,
    },
}

impl VmdkError {
    /// Who has to act.
    #[must_use]
    pub fn family(&self) -> ErrorFamily {
        match self {
            Self::Io { .. } | Self::WriteFailed { .. } => ErrorFamily::Io,
            Self::Read { source, .. } => match **source {
                ReadError::Io { .. } => ErrorFamily::Io,
                ReadError::Unsupported { .. } => ErrorFamily::Unsupported,
                _ => ErrorFamily::Corrupt,
            },
            Self::Dialect { .. }
            | Self::Unsupported { .. }
            | Self::Denied { .. }
            | Self::NoDevice { .. }
            | Self::Request { .. } => ErrorFamily::Unsupported,
            Self::Descriptor { source, .. } => source.family(),
            Self::NotADescriptor { .. }
            | Self::Name { .. }
            | Self::Field { .. }
            | Self::Short { .. }
            | Self::NoFooter { .. }
            | Self::PackedGrain { .. }
            | Self::NoParent { .. }
            | Self::ParentWithoutContent { .. }
            | Self::ContentId { .. }
            | Self::Loop { .. }
            | Self::TooDeep { .. } => ErrorFamily::Corrupt,
        }
    }

    /// This error as one of reading byte `at` of a disk.
    pub(crate) fn into_read_error(self, at: ByteOffset) -> ReadError {
        match self.family() {
            ErrorFamily::Unsupported => ReadError::Unsupported { at, source: Box::new(self) },
            _ => ReadError::Corrupt { at, source: Box::new(self) },
        }
    }

    pub(crate) fn io(action: &'static str, file: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let file = file.into();
        move |source| Self::Io { action, file, source }
    }

    pub(crate) fn read(file: &str) -> impl FnOnce(ReadError) -> Self + '_ {
        |source| Self::Read { file: file.to_owned(), source: Box::new(source) }
    }
}
