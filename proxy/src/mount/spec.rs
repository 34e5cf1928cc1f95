//! What the starting process tells the server, and what the server tells it: a message each, over a socket pair.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::report::Report;
use crate::disk::{SourceFormat, SourceSpec};
use crate::error::{Context, Error, Family, Result};
use crate::job::RunId;

/// A report of some thousand volumes is shorter.
const LONGEST_MESSAGE: usize = 16 << 20;

/// A disk image to show.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageSpec {
    /// The file, or an NBD URI.
    pub path: PathBuf,
    /// Whether the user said that it holds the bytes alone, or that it is a VMDK; else its name tells.
    pub raw: Option<bool>,
    /// Other files that it may name, and what is opened for them.
    pub map: Vec<(String, PathBuf)>,
}

impl ImageSpec {
    /// Whether it is behind a network: then another process keeps it.
    ///
    /// # Errors
    /// [`Family::Usage`] if it is a URI, and wrong.
    pub fn is_remote(&self) -> Result<bool> {
        Ok(crate::disk::uri_of(&self.path)?.is_some())
    }

    /// The same as the disk room wants it.
    #[must_use]
    pub fn source(&self) -> SourceSpec {
        let format = self.raw.map(|raw| if raw { SourceFormat::Raw } else { SourceFormat::Vmdk });
        SourceSpec { path: self.path.clone(), format, map: self.map.clone() }
    }
}

/// What to mount where.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MountSpec {
    /// The run.
    pub run: RunId,
    /// Where the run's journal and log are.
    pub state: PathBuf,
    /// The command, for the journal.
    pub command: String,
    /// The images, in the order of their numbers.
    pub images: Vec<ImageSpec>,
    /// The names of the disks that another process keeps; then there are no images.
    pub kept: Vec<String>,
    /// What is shown, for people.
    pub source: String,
    /// The directory.
    pub directory: PathBuf,
    /// Whether other users may read.
    pub allow_other: bool,
    /// The snapshot that keeps the disks still, if there is one.
    pub snapshot: Option<String>,
    /// What users should know, beside what is found on the disks.
    pub warnings: Vec<String>,
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
            Err(error) => Self::failed(&error),
        }
    }

    pub(super) fn failed(error: &Error) -> Self {
        Self::Failed { exit_code: error.family().exit_code(), line: error.line() }
    }

    pub(super) fn into_result(self) -> Result<Report> {
        match self {
            Self::Ready(report) => Ok(*report),
            Self::Failed { exit_code, line } => Err(Error::new(Family::of_exit_code(exit_code), line)),
        }
    }
}

/// A message: its length (32 bits, little-endian), then JSON.
pub(super) fn send(stream: &mut UnixStream, value: &impl Serialize) -> Result<()> {
    let what = || "cannot talk to the other half of the mount".to_owned();
    let text = Zeroizing::new(serde_json::to_vec(value).failed(what)?); // it may hold a password
    let len = u32::try_from(text.len()).failed(what)?;
    stream.write_all(&len.to_le_bytes()).and_then(|()| stream.write_all(&text)).failed(what)
}

/// The next message of the other side, `None` if it ended without one.
pub(super) fn receive<T: DeserializeOwned>(mut stream: &UnixStream) -> Result<Option<T>> {
    let what = || "cannot understand the other half of the mount".to_owned();
    let mut len = [0; 4];
    if stream.read(&mut len[..1]).failed(what)? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut len[1..]).failed(what)?;
    let len = usize::try_from(u32::from_le_bytes(len)).failed(what)?;
    if len > LONGEST_MESSAGE {
        return Err(Error::new(Family::Failed, what()));
    }
    let mut text = Zeroizing::new(vec![0; len]);
    stream.read_exact(&mut text).failed(what)?;
    serde_json::from_slice(&text).map(Some).failed(what)
}
