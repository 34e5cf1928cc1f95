//! What the starting process tells the server, and what the server tells it: a line of JSON each, over a socket pair.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::report::Report;
use crate::disk::{SourceFormat, SourceSpec};
use crate::error::{Context, Error, Family, Result};
use crate::job::RunId;

/// A report of some thousand volumes is shorter.
const LONGEST_LINE: u64 = 16 << 20;

/// A disk image to show.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageSpec {
    /// The file.
    pub path: PathBuf,
    /// Whether the user said that it holds the bytes alone, or that it is a VMDK; else its name tells.
    pub raw: Option<bool>,
    /// Other files that it may name, and what is opened for them.
    pub map: Vec<(String, PathBuf)>,
}

impl ImageSpec {
    /// The same as the disk room wants it.
    #[must_use]
    pub fn source(&self) -> SourceSpec {
        let format = self.raw.map(|raw| if raw { SourceFormat::Raw } else { SourceFormat::Vmdk });
        SourceSpec { path: self.path.clone(), format, map: self.map.clone() }
    }
}

/// What to mount where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountSpec {
    /// The run.
    pub run: RunId,
    /// Where the run's journal and log are.
    pub state: PathBuf,
    /// The command, for the journal.
    pub command: String,
    /// The images, in the order of their numbers.
    pub images: Vec<ImageSpec>,
    /// What is shown, for people.
    pub source: String,
    /// The directory.
    pub directory: PathBuf,
    /// Whether other users may read.
    pub allow_other: bool,
}

/// What became of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    Ready(Box<Report>),
    Failed { exit_code: u8, line: String },
}

impl Answer {
    pub(super) fn of(result: Result<Report>) -> Self {
        match result {
            Ok(report) => Self::Ready(Box::new(report)),
            Err(error) => Self::Failed { exit_code: error.family().exit_code(), line: error.line() },
        }
    }

    pub(super) fn into_result(self) -> Result<Report> {
        const FAMILIES: [Family; 8] = [
            Family::Failed,
            Family::Usage,
            Family::NoVm,
            Family::Unsupported,
            Family::Corrupt,
            Family::Exists,
            Family::LeftBehind,
            Family::Cancelled,
        ];
        match self {
            Self::Ready(report) => Ok(*report),
            Self::Failed { exit_code, line } => {
                let family = FAMILIES.into_iter().find(|family| family.exit_code() == exit_code);
                Err(Error::new(family.unwrap_or(Family::Failed), line))
            }
        }
    }
}

pub(super) fn send(stream: &mut UnixStream, value: &impl Serialize) -> Result<()> {
    let what = || "cannot talk to the other half of the mount".to_owned();
    let mut line = serde_json::to_vec(value).failed(what)?;
    line.push(b'\n');
    stream.write_all(&line).failed(what)
}

/// The next line of the other side, `None` if it ended without one.
pub(super) fn receive<T: DeserializeOwned>(stream: &UnixStream) -> Result<Option<T>> {
    let what = || "cannot understand the other half of the mount".to_owned();
    let mut line = Vec::new();
    BufReader::new(stream.take(LONGEST_LINE)).read_until(b'\n', &mut line).failed(what)?;
    if line.is_empty() { Ok(None) } else { serde_json::from_slice(&line).map(Some).failed(what) }
}
