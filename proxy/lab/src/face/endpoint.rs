//! `endpoint.json`: where a lab's server listens and which certificate it shows, for clients on this machine.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ServeError;
use crate::world::lock_holder;

/// File name beneath the lab's folder.
const FILE: &str = "endpoint.json";

/// Where a lab's server is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointInfo {
    /// Where it listens.
    pub address: SocketAddr,
    /// SHA-1 of its certificate, as `AA:BB:…`.
    pub sha1: String,
    /// SHA-256 of its certificate, as `AA:BB:…`.
    pub sha256: String,
    /// The server's process.
    pub pid: u32,
}

/// Where the server of the lab in `dir` is; `None` if none runs. A file that a killed server left behind does not count.
#[must_use]
pub fn endpoint_of(dir: &Path) -> Option<EndpointInfo> {
    let text = fs::read(dir.join(FILE)).ok()?;
    let info: EndpointInfo = serde_json::from_slice(&text).ok()?;
    // The question who holds the lock disturbs a server that takes it at this moment, so it is not asked in vain.
    Path::new("/proc").join(info.pid.to_string()).exists().then_some(())?;
    (lock_holder(dir) == Some(info.pid)).then_some(info)
}

/// Writes the file in one step: a reader sees the old one, none, or the new one.
pub(super) fn write(dir: &Path, info: &EndpointInfo) -> Result<(), ServeError> {
    let (path, new) = (dir.join(FILE), dir.join("endpoint.json.new"));
    let put = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec_pretty(info)?)?;
        fs::rename(&new, &path)
    };
    put().map_err(ServeError::io("write", &path))
}

/// Removes the file: the server stops.
pub(super) fn remove(dir: &Path) {
    // Without the lock it counts for nothing, so a failure changes nothing.
    let _ = fs::remove_file(dir.join(FILE));
}
