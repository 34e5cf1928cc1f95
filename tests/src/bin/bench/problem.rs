//! Why there is no number.

use std::io;
use std::path::Path;
use std::process::ExitStatus;

pub(crate) type Result<T> = std::result::Result<T, Problem>;

/// Why a benchmark broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("cannot {action}: {source}")]
    Io { action: String, source: io::Error },
    #[error("{program} ended with {status}: {said}")]
    Ended { program: String, status: ExitStatus, said: String },
    #[error("{program} answered what cannot be understood: expected {expected}, found {found}")]
    Answer { program: String, expected: &'static str, found: String },
    #[error("the lab cannot be made: {0}")]
    Lab(#[from] lab::world::LabError),
    #[error("{what} is wrong: {found}")]
    Wrong { what: String, found: String },
    #[error("nothing is left of the benchmark: no program's name holds the word of --only")]
    Nothing,
}

/// For `map_err` on what the operating system refused.
pub(crate) fn io(action: &str, path: &Path) -> impl FnOnce(io::Error) -> Problem {
    let action = format!("{action} {}", path.display());
    |source| Problem::Io { action, source }
}

/// For `map_err` on an image or a disk that cannot be read.
pub(crate) fn wrong<E: std::error::Error>(path: &Path) -> impl FnOnce(E) -> Problem {
    let what = path.display().to_string();
    |error| Problem::Wrong { what, found: error.to_string() }
}
