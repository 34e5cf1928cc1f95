//! What the caller of a file is told when something cannot be read, and what the log is told.

use std::error::Error as _;
use std::sync::atomic::{AtomicU64, Ordering};

use blockdev::ReadError;
use fuser::Errno;
use guestfs::FsError;

use super::NodeId;

/// More would fill a disk when a whole volume is damaged.
const MOST_LOGGED: u64 = 20;

/// The number that says the same to programs.
pub(super) fn errno(error: &FsError) -> Errno {
    match error {
        FsError::Read { source, .. } => read_errno(source),
        FsError::Unsupported { .. } => Errno::EOPNOTSUPP,
        FsError::Encrypted { .. } => Errno::EACCES,
        FsError::NotFound { .. } => Errno::ENOENT,
        FsError::NotAFolder { .. } => Errno::ENOTDIR,
        FsError::IsAFolder { .. } => Errno::EISDIR,
        FsError::NotALink { .. } => Errno::EINVAL,
        FsError::TooLarge { .. } => Errno::E2BIG,
        _ => Errno::EIO, // corrupt, and whatever is added
    }
}

/// The same for the bytes of a file.
pub(super) fn read_errno(error: &ReadError) -> Errno {
    let inner = error.source().and_then(|source| source.downcast_ref::<FsError>());
    match (inner, error) {
        (Some(inner @ (FsError::Encrypted { .. } | FsError::Unsupported { .. })), _) => errno(inner),
        (_, ReadError::Unsupported { .. }) => Errno::EOPNOTSUPP,
        _ => Errno::EIO,
    }
}

/// The whole text of an error, each cause once.
pub(super) fn whole_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = cause.source();
    }
    text.replace(char::is_control, "?")
}

/// What went wrong in one mount: the first errors go to the log, all are counted.
#[derive(Default)]
pub(super) struct ErrorLog {
    met: AtomicU64,
}

impl ErrorLog {
    /// Notes an error. What only says that there is no such thing is none.
    pub(super) fn note(&self, node: NodeId, doing: &str, error: &FsError) -> Errno {
        let request = error.family() == guestfs::ErrorFamily::Request;
        if !request {
            self.count(node, doing, error);
        }
        errno(error)
    }

    /// Notes an error of a file's bytes.
    pub(super) fn note_read(&self, node: NodeId, doing: &str, error: &ReadError) -> Errno {
        self.count(node, doing, error);
        read_errno(error)
    }

    fn count(&self, node: NodeId, doing: &str, error: &dyn std::error::Error) {
        let before = self.met.fetch_add(1, Ordering::Relaxed);
        if before < MOST_LOGGED {
            crate::tell(&format!("node {:#x}: {doing}: {}", node.0, whole_text(error)));
        }
        if before + 1 == MOST_LOGGED {
            crate::tell("further errors are only counted");
        }
    }

    /// How many there were.
    pub(super) fn count_so_far(&self) -> u64 {
        self.met.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use blockdev::{ByteLen, ByteOffset};

    use super::*;

    fn text() -> String {
        "record 7".into()
    }

    #[test]
    fn every_error_has_the_number_that_programs_know_it_by() {
        let io = || ReadError::Io { at: ByteOffset(0), source: std::io::Error::other("gone") };
        let cases = [
            (FsError::Read { what: text(), source: io() }, Errno::EIO),
            (FsError::Corrupt { what: text(), field: "f", found: "0".into(), expected: "1" }, Errno::EIO),
            (FsError::Unsupported { what: text(), why: "new" }, Errno::EOPNOTSUPP),
            (FsError::Encrypted { what: text() }, Errno::EACCES),
            (FsError::NotFound { what: text() }, Errno::ENOENT),
            (FsError::NotAFolder { what: text() }, Errno::ENOTDIR),
            (FsError::IsAFolder { what: text() }, Errno::EISDIR),
            (FsError::NotALink { what: text() }, Errno::EINVAL),
            (FsError::TooLarge { what: text(), len: ByteLen(2), limit: ByteLen(1) }, Errno::E2BIG),
        ];
        for (error, number) in cases {
            assert_eq!(errno(&error), number, "{error}");
        }
        let of = |source: FsError| read_errno(&ReadError::Unsupported { at: ByteOffset(0), source: Box::new(source) });
        assert_eq!(of(FsError::Encrypted { what: text() }), Errno::EACCES);
        assert_eq!(of(FsError::Unsupported { what: text(), why: "new" }), Errno::EOPNOTSUPP);
        assert_eq!(read_errno(&io()), Errno::EIO);
    }

    #[test]
    fn all_errors_are_counted_and_plain_absence_is_none() {
        let log = ErrorLog::default();
        for _ in 0..30 {
            log.note(NodeId(1), "reading", &FsError::Unsupported { what: text(), why: "new" });
        }
        log.note(NodeId(1), "looking", &FsError::NotFound { what: text() });
        assert_eq!(log.count_so_far(), 30);
    }
}
