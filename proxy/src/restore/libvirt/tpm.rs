//! The state of a TPM, which libvirt's swtpm keeps in a folder named after the machine's UUID.

use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::error::{Context, Error, Family, Result};

/// Users that swtpm runs as, by distribution.
const USERS: [&str; 2] = ["tss", "swtpm"];

/// swtpm has two or three files.
const MAX_FILES: usize = 8;
/// They are a few KiB long.
const MAX_SIZE: u64 = 1 << 20;

/// What swtpm calls a file that was saved, perhaps with a prefix of the backup; none if it has no such file.
fn state_name(saved: &str) -> Option<&str> {
    let name = saved.strip_prefix("tpm-").filter(|rest| rest.starts_with("tpm")).unwrap_or(saved);
    let stem = name.strip_suffix(".permall").or_else(|| name.strip_suffix(".volatilestate"))?;
    matches!(stem, "tpm-00" | "tpm2-00").then_some(name)
}

/// Of the `saved` files those that are a TPM's state, each with its name for swtpm; and those that are something else. Locks are neither.
pub(super) fn choose(saved: Vec<String>, size: impl Fn(&str) -> u64) -> (Vec<(String, String)>, Vec<String>) {
    let (mut chosen, mut ignored) = (Vec::<(String, String)>::new(), Vec::new());
    for from in saved.into_iter().filter(|name| !name.ends_with(".lock")) {
        let name = state_name(&from).filter(|_| chosen.len() < MAX_FILES && size(&from) <= MAX_SIZE);
        match name.filter(|name| chosen.iter().all(|(_, known)| known != name)).map(str::to_owned) {
            Some(name) => chosen.push((from, name)),
            None => ignored.push(from),
        }
    }
    (chosen, ignored)
}

/// The folder of a TPM's files in that of its machine.
pub(super) fn version_folder(version: Option<&str>) -> &'static str {
    if version == Some("1.2") { "tpm1.2" } else { "tpm2" }
}

/// Whom the state of TPMs belongs to here: as that of other machines, else the user that swtpm runs as.
fn owner(folder: &Path) -> Option<(u32, u32)> {
    let entries = fs::read_dir(folder).ok()?.take(1000).flatten();
    let versions = entries.flat_map(|entry| ["tpm2", "tpm1.2"].map(|version| entry.path().join(version)));
    let found = versions.filter_map(|version| fs::symlink_metadata(version).ok()).find(fs::Metadata::is_dir);
    found.map(|metadata| (metadata.uid(), metadata.gid())).or_else(|| {
        let users = fs::read_to_string("/etc/passwd").ok()?;
        USERS.iter().find_map(|user| ids_of(&users, user))
    })
}

fn ids_of(users: &str, user: &str) -> Option<(u32, u32)> {
    let mut fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let fields = fields.find(|fields| fields.first() == Some(&user))?;
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}

/// Writes the files into `staged`, which is made and will be named after the machine, for swtpm to use.
pub(super) fn write(folder: &Path, staged: &Path, version: &str, files: &[(String, Vec<u8>)]) -> Result<()> {
    let what = || format!("cannot write the state of the TPM to {}", staged.display());
    let is_state = |(name, bytes): &(String, Vec<u8>)| {
        state_name(name) == Some(name.as_str()) && u64::try_from(bytes.len()).is_ok_and(|size| size <= MAX_SIZE)
    };
    if files.len() > MAX_FILES || !files.iter().all(is_state) {
        let expected =
            "expected at most 8 files of swtpm's, each of at most 1 MiB; the backup has changed since the plan";
        return Err(Error::new(Family::Corrupt, what()).hint(expected));
    }
    let inner = staged.join(version);
    DirBuilder::new().mode(0o711).create(staged).failed(what)?;
    DirBuilder::new().mode(0o700).create(&inner).failed(what)?;
    let owner = owner(folder).filter(|_| rustix::process::geteuid().is_root());
    let give = |path: &Path| match owner {
        Some((user, group)) => std::os::unix::fs::chown(path, Some(user), Some(group)).failed(what),
        None => Ok(()),
    };
    for (name, bytes) in files {
        let path = inner.join(name);
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path).failed(what)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).failed(what)?;
        give(&path)?;
    }
    give(&inner)?;
    crate::sync_folder(&inner).failed(what)?;
    crate::sync_folder(staged).failed(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_that_of_other_machines_or_the_user_of_swtpm() {
        assert_eq!(ids_of("root:x:0:0::/:/x\ntss:x:104:110:a:/b:/c\n", "tss"), Some((104, 110)));
        assert_eq!((ids_of("tss:x\n", "tss"), ids_of("", "tss"), ids_of("tss:x:a:b", "tss")), (None, None, None));
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("uuid/tpm2")).unwrap();
        let own = fs::metadata(dir.path()).unwrap();
        assert_eq!(owner(dir.path()), Some((own.uid(), own.gid())));
    }

    #[test]
    fn the_state_lies_in_a_folder_of_its_version() {
        let dir = tempfile::tempdir().unwrap();
        let staged = dir.path().join("new");
        write(dir.path(), &staged, version_folder(Some("2.0")), &[("tpm2-00.permall".into(), vec![1])]).unwrap();
        assert_eq!(fs::read(staged.join("tpm2/tpm2-00.permall")).unwrap(), [1]);
        assert_eq!((version_folder(None), version_folder(Some("1.2"))), ("tpm2", "tpm1.2"));
    }

    #[test]
    fn only_what_swtpm_knows_is_a_state() {
        let saved = [
            "tpm-tpm2-00.permall",
            "tpm2-00.volatilestate",
            "tpm-00.permall",
            ".lock",
            "tpm2-00.permall", // again
            "tpm2-01.permall",
            "tpm.sh",
            "..permall",
            ".volatilestate",
            "tpm-00.volatilestate",
        ];
        let size = |name: &str| if name == "tpm-00.volatilestate" { MAX_SIZE + 1 } else { MAX_SIZE };
        let (chosen, ignored) = choose(saved.map(String::from).to_vec(), size);
        let names: Vec<_> = chosen.iter().map(|(from, name)| (from.as_str(), name.as_str())).collect();
        let expected = [
            ("tpm-tpm2-00.permall", "tpm2-00.permall"),
            ("tpm2-00.volatilestate", "tpm2-00.volatilestate"),
            ("tpm-00.permall", "tpm-00.permall"),
        ];
        assert_eq!(names, expected);
        let others =
            ["tpm2-00.permall", "tpm2-01.permall", "tpm.sh", "..permall", ".volatilestate", "tpm-00.volatilestate"];
        assert_eq!(ignored, others);
    }

    #[test]
    fn nothing_is_written_that_is_no_state_or_too_large() {
        let dir = tempfile::tempdir().unwrap();
        let staged = dir.path().join("new");
        let good = ("tpm2-00.permall".to_owned(), vec![1]);
        for files in [
            vec![("x".to_owned(), Vec::new())],
            vec![("tpm-tpm2-00.permall".to_owned(), Vec::new())],
            vec![(good.0.clone(), vec![0; (1 << 20) + 1])],
            vec![good; 9],
        ] {
            assert_eq!(write(dir.path(), &staged, "tpm2", &files).unwrap_err().family(), Family::Corrupt);
            assert!(!staged.exists());
        }
    }
}
