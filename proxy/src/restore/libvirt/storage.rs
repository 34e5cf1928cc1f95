//! Where files go: into which folder, under which names.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::super::image::Format;
use crate::error::{Error, Family, Result};
use crate::hypervisor::DomainHost;

/// The folder of libvirt's images where no pool says another.
const IMAGES: &str = "/var/lib/libvirt/images";

/// The folder that `--storage` names, or the one that the host keeps images in.
pub(super) async fn folder(host: &dyn DomainHost, wish: Option<&str>) -> Result<PathBuf> {
    let usage = |what: String| Error::new(Family::Usage, what).hint("name a folder or a pool with --storage");
    let (folder, said) = match wish {
        Some(path) if path.contains('/') => (PathBuf::from(path), path),
        Some(pool) => match host.pool_folder(pool).await? {
            Some(folder) => (folder, pool),
            None => return Err(usage(format!("the host has no storage pool {pool} with a folder"))),
        },
        None => match host.pool_folder("default").await? {
            Some(folder) => (folder, "default"),
            None => (PathBuf::from(IMAGES), IMAGES),
        },
    };
    // Links are resolved now, so that what is written down for undoing stays true.
    let found = fs::canonicalize(folder.join(""));
    found.map_err(|e| usage(format!("the storage {said} cannot be used: {}", folder.display())).caused_by(e))
}

/// The names that are given out, and those that are taken.
#[derive(Default)]
pub(super) struct Layout {
    taken: HashSet<PathBuf>,
}

impl Layout {
    /// A file in `folder` that nobody has: `wish`, which must be free. The plan itself never gives a name twice.
    pub(super) fn take(&mut self, folder: &Path, wish: &str, again: &str) -> Result<PathBuf> {
        let mut path = folder.join(wish);
        if self.taken.contains(&path) {
            path = folder.join(again);
        }
        if fs::symlink_metadata(&path).is_ok() || !self.taken.insert(path.clone()) {
            return Err(Error::new(Family::Exists, format!("{} exists", path.display())).hint(
                "restore beside it with --name NEW or elsewhere with --storage; nothing that exists is replaced",
            ));
        }
        Ok(path)
    }
}

/// The file that a disk gets: the old one, if the machine comes back to its place, else one named after the machine.
pub(super) fn disk_file(
    layout: &mut Layout,
    storage: &Path,
    original: Option<&Path>,
    (stem, target): (&str, &str),
    format: Format,
) -> Result<PathBuf> {
    let made = format!("{stem}-{target}.{}", format.ending());
    let place = original.and_then(|path| Some((path.parent()?, path.file_name()?.to_str()?)));
    match place.and_then(|(folder, name)| Some((fs::canonicalize(folder).ok()?, name))) {
        Some((folder, name)) => layout.take(&folder, name, &made),
        None => layout.take(storage, &made, &made),
    }
}

/// Refuses a restore for which there is no room, as far as that can be known: `needed` bytes of data by folder.
pub(super) fn check_room(needed: &[(PathBuf, u64)]) -> Result<()> {
    let mut sums: Vec<(&Path, u64)> = Vec::new();
    for (path, bytes) in needed {
        let folder = path.parent().unwrap_or(Path::new("/"));
        match sums.iter_mut().find(|(known, _)| *known == folder) {
            Some((_, sum)) => *sum = sum.saturating_add(*bytes),
            None => sums.push((folder, *bytes)),
        }
    }
    for (folder, bytes) in sums {
        let Ok(stat) = rustix::fs::statvfs(folder) else { continue };
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < bytes {
            let what = format!("{} has {free} bytes free, and the disks hold {bytes}", folder.display());
            return Err(Error::new(Family::Failed, what).hint("name another place with --storage"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_given_once_and_never_one_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("there"), "").unwrap();
        let mut layout = Layout::default();
        assert_eq!(layout.take(dir.path(), "a", "b").unwrap(), dir.path().join("a"));
        assert_eq!(layout.take(dir.path(), "a", "b").unwrap(), dir.path().join("b"));
        for wish in ["there", "a"] {
            assert_eq!(layout.take(dir.path(), wish, wish).unwrap_err().family(), Family::Exists, "{wish}");
        }
    }

    #[test]
    fn a_machine_comes_back_to_its_old_files_and_a_copy_to_files_of_its_own() {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let original = old.path().join("x.qcow2");
        let file = |original: Option<&Path>, target| {
            let stem = ("vm", target);
            disk_file(&mut Layout::default(), new.path(), original, stem, Format::Qcow2).unwrap()
        };
        assert_eq!(file(Some(&original), "vda"), fs::canonicalize(old.path()).unwrap().join("x.qcow2"));
        assert_eq!(file(None, "vda"), new.path().join("vm-vda.qcow2"));
        assert_eq!(file(Some(Path::new("/no/such/folder/x")), "vdb"), new.path().join("vm-vdb.qcow2"));
    }

    #[test]
    fn a_disk_that_is_larger_than_all_room_is_refused_before_anything_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let needed = |bytes| vec![(dir.path().join("a"), bytes), (dir.path().join("b"), 1)];
        assert!(check_room(&needed(1)).is_ok());
        assert_eq!(check_room(&needed(u64::MAX)).unwrap_err().family(), Family::Failed);
    }
}
