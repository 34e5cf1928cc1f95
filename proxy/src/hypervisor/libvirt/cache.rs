//! Under which addresses machines were known when they were backed up, so that `ipaddr:` finds them when they are off (vcb.md section 7).

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::StateDir;
use crate::hypervisor::VmId;

/// A line for each machine of a host; a larger file is not ours.
const MAX_CACHE: u64 = 16 << 20;

/// One machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) uuid: String,
    pub(super) moref: VmId,
    pub(super) name: String,
    /// Host name and addresses of the guest.
    pub(super) addresses: Vec<String>,
    /// When, RFC 3339.
    pub(super) time: String,
}

/// The file for one host. It is never a reason to fail: what cannot be read is empty, what cannot be written is not kept.
#[derive(Clone, Debug)]
pub(super) struct NameCache {
    path: Option<PathBuf>,
}

impl NameCache {
    /// The cache in the state directory for the host at `place`.
    pub(super) fn of(place: &str) -> Self {
        let name = blake3::hash(place.as_bytes()).to_hex();
        let path =
            StateDir::from_environment().ok().map(|state| state.path().join(format!("names-{}.jsonl", &name[..16])));
        Self { path }
    }

    #[cfg(test)]
    fn at(path: &Path) -> Self {
        Self { path: Some(path.to_owned()) }
    }

    pub(super) fn read(&self) -> Vec<Known> {
        let mut text = String::new();
        let file = self.path.as_ref().and_then(|path| fs::File::open(path).ok());
        if file.and_then(|file| file.take(MAX_CACHE).read_to_string(&mut text).ok()).is_none() {
            return Vec::new();
        }
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Notes a machine instead of what was known of it.
    pub(super) fn note(&self, known: Known) {
        let Some(path) = &self.path else { return };
        let mut all = self.read();
        all.retain(|other| other.moref != known.moref);
        all.push(known);
        let lines: Vec<_> = all.iter().filter_map(|known| serde_json::to_string(known).ok()).collect();
        if let Err(error) = replace(path, &(lines.join("\n") + "\n")) {
            tracing::debug!("the name cache {} is not written: {error}", path.display());
        }
    }
}

fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let new = path.with_extension(format!("{}.new", std::process::id()));
    fs::write(&new, text)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(uuid: &str, address: &str) -> Known {
        let time = jiff::Timestamp::UNIX_EPOCH.to_string();
        Known { uuid: uuid.into(), moref: VmId(uuid.into()), name: "n".into(), addresses: vec![address.into()], time }
    }

    #[test]
    fn a_machine_is_known_by_its_latest_addresses_and_a_broken_line_costs_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let cache = NameCache::at(&dir.path().join("names"));
        assert!(cache.read().is_empty());
        cache.note(known("a", "10.0.0.1"));
        cache.note(known("b", "10.0.0.2"));
        cache.note(known("a", "10.0.0.3"));
        fs::write(dir.path().join("names"), fs::read_to_string(dir.path().join("names")).unwrap() + "nonsense\n")
            .unwrap();
        assert_eq!(cache.read(), [known("b", "10.0.0.2"), known("a", "10.0.0.3")]);
    }
}
