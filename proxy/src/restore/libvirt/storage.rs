//! Where files go: into which folder, under which names.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::super::image::Format;
use crate::error::{Error, Family, Result};
use crate::hypervisor::DomainHost;

/// The folder of libvirt's images where no pool says another.
const IMAGES: &str = "/var/lib/libvirt/images";

/// Folders in which media lie that every machine may read.
const MEDIA: [&str; 2] = ["/var/lib/libvirt", "/usr/share"];

/// The folders that a machine's files may lie in though only its backup names them. Whoever can write a backup directory could otherwise
/// have root make a file anywhere.
pub(super) struct Homes {
    pools: Vec<PathBuf>,
    images: Option<PathBuf>,
}

impl Homes {
    pub(super) async fn of(host: &dyn DomainHost) -> Result<Self> {
        let pools = host.pool_folders().await?;
        let pools = pools.iter().filter_map(|folder| fs::canonicalize(folder).ok()).collect();
        Ok(Self { pools, images: fs::canonicalize(IMAGES).ok() })
    }

    fn has(&self, folder: &Path) -> bool {
        self.pools.iter().any(|pool| pool == folder) || self.images.as_ref().is_some_and(|own| folder.starts_with(own))
    }

    /// The place of an old file with all links resolved; none if its folder is not here any more, or if its name would hide it.
    ///
    /// # Errors
    /// [`Family::Usage`] if its folder is none for images.
    pub(super) fn old_place(&self, path: &Path) -> Result<Option<PathBuf>> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return Ok(None);
        };
        // A pool may be somebody's home, where names with a dot mean something.
        let folder = fs::canonicalize(folder).ok().filter(|_| !name.starts_with('.'));
        let Some(folder) = folder else { return Ok(None) };
        if self.has(&folder) {
            return Ok(Some(folder.join(name)));
        }
        let what = format!(
            "the backup wants {} in {}, which is neither in {IMAGES} nor the folder of a storage pool",
            path.display(),
            folder.display()
        );
        Err(Error::new(Family::Usage, what).hint("name the folder or a pool with --storage, if it is the right one"))
    }

    /// Whether the medium at `path` may be in a drive of a machine that a backup describes.
    pub(super) fn may_insert(&self, path: &str) -> bool {
        let Ok(path) = fs::canonicalize(path) else { return false };
        let common = MEDIA.iter().filter_map(|folder| fs::canonicalize(folder).ok()).any(|own| path.starts_with(own));
        common || path.parent().is_some_and(|folder| self.has(folder))
    }
}

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

/// The file that a disk gets: the old one (of [`Homes::old_place`]), if the machine comes back to its place, else one named after the
/// machine.
pub(super) fn disk_file(
    layout: &mut Layout,
    storage: &Path,
    original: Option<&Path>,
    (stem, target): (&str, &str),
    format: Format,
) -> Result<PathBuf> {
    let made = format!("{stem}-{target}.{}", format.ending());
    let place = original.and_then(|path| Some((path.parent()?, path.file_name()?.to_str()?)));
    match place {
        Some((folder, name)) => layout.take(folder, name, &made),
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
        assert_eq!(file(Some(&original), "vda"), original);
        assert_eq!(file(None, "vda"), new.path().join("vm-vda.qcow2"));
    }

    #[test]
    fn an_old_place_is_taken_only_in_folders_of_pools_and_of_libvirts_images() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        for folder in ["pool/below", "images/vm", "cron.d"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::os::unix::fs::symlink(root.join("pool"), root.join("good")).unwrap();
        std::os::unix::fs::symlink(root.join("cron.d"), root.join("images/bad")).unwrap();
        let homes = Homes { pools: vec![root.join("pool")], images: Some(root.join("images")) };
        let place = |path: &str| homes.old_place(&root.join(path));
        for (path, real) in
            [("pool/x", "pool/x"), ("good/x", "pool/x"), ("images/x", "images/x"), ("images/vm/x", "images/vm/x")]
        {
            assert_eq!(place(path).unwrap(), Some(root.join(real)), "{path}");
        }
        for path in ["cron.d/x", "pool/../cron.d/x", "images/bad/x", "pool/below/x", "imagesx"] {
            let error = place(path).unwrap_err();
            assert_eq!(error.family(), Family::Usage, "{path}");
        }
        assert!(place("cron.d/x").unwrap_err().to_string().contains("cron.d"));
        for path in ["gone/x", "pool/.profile"] {
            assert_eq!(place(path).unwrap(), None, "{path}");
        }
        assert_eq!(homes.old_place(Path::new("/")).unwrap(), None);
    }

    #[test]
    fn media_may_lie_in_pools_and_where_everybody_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        for file in ["pool/cd.iso", "secret/key"] {
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            fs::write(root.join(file), "").unwrap();
        }
        std::os::unix::fs::symlink(root.join("secret/key"), root.join("pool/link.iso")).unwrap();
        let homes = Homes { pools: vec![root.join("pool")], images: None };
        let may = |path: &str| homes.may_insert(&root.join(path).display().to_string());
        assert!(may("pool/cd.iso"));
        for path in ["secret/key", "pool/../secret/key", "pool/link.iso", "pool/gone.iso"] {
            assert!(!may(path), "{path}");
        }
        assert!(homes.may_insert("/usr/share") && !homes.may_insert("/usr/share/../../etc/passwd"));
    }

    #[test]
    fn a_disk_that_is_larger_than_all_room_is_refused_before_anything_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let needed = |bytes| vec![(dir.path().join("a"), bytes), (dir.path().join("b"), 1)];
        assert!(check_room(&needed(1)).is_ok());
        assert_eq!(check_room(&needed(u64::MAX)).unwrap_err().family(), Family::Failed);
    }
}
