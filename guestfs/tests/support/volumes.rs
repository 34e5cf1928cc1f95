//! Volumes made by foreign tools, and the comparison with what was written.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use blockdev::{ByteLen, ByteOffset, FileDisk, ReadAt};
use guestfs::{Cache, CachedDisk, Case, FileId, FileKind, FileSystem, FsError, LinkTarget, Ntfs};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::has;

/// An image, and what is in it.
pub(crate) struct Fixture {
    _folder: tempfile::TempDir,
    pub(crate) image: PathBuf,
    pub(crate) truth: Value,
}

impl Fixture {
    /// Makes one by name. `None`, with a printed reason, where its makers are missing.
    pub(crate) fn make(name: &str) -> Option<Self> {
        if !["ntfs-3g", "mkntfs", "wimlib-imagex", "python3"].into_iter().all(has) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("volume.img");
        let maker = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peers/guestfs/make_ntfs.py");
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        let made = Command::new("python3").arg(maker).arg(name).arg(&image).env("PATH", path).output().unwrap();
        assert!(made.status.success(), "{name}: {}", String::from_utf8_lossy(&made.stderr));
        let truth = std::fs::read(folder.path().join("volume.img.truth.json")).unwrap();
        Some(Self { _folder: folder, image, truth: serde_json::from_slice(&truth).unwrap() })
    }

    pub(crate) fn disk(&self) -> Arc<dyn ReadAt> {
        Arc::new(FileDisk::open(&self.image).unwrap())
    }

    pub(crate) fn open(&self) -> Ntfs {
        open_ntfs(self.disk()).unwrap()
    }
}

pub(crate) fn open_ntfs(disk: Arc<dyn ReadAt>) -> Result<Ntfs, FsError> {
    Ntfs::open(Arc::new(CachedDisk::new(disk, Cache::new(ByteLen(4 << 20)))))
}

/// Every path below a folder, with its file.
pub(crate) fn walk(volume: &dyn FileSystem) -> BTreeMap<Vec<u8>, FileId> {
    let mut found = BTreeMap::from([(Vec::new(), volume.root())]);
    let mut folders = vec![(Vec::new(), volume.root())];
    while let Some((path, folder)) = folders.pop() {
        let mut from = 0;
        // In portions, so that going on where a listing ended is tried too.
        loop {
            let (start, mut taken) = (from, 0);
            volume
                .list(folder, from, &mut |entry| {
                    if taken == 7 {
                        return ControlFlow::Break(());
                    }
                    taken += 1;
                    from = entry.next;
                    let mut child: Vec<u8> = path.clone();
                    if !child.is_empty() {
                        child.push(b'/');
                    }
                    child.extend(&entry.name);
                    let kind = volume.metadata(entry.file).unwrap().kind;
                    assert_eq!(kind, entry.kind, "{}", child.escape_ascii());
                    if kind == FileKind::Folder {
                        folders.push((child.clone(), entry.file));
                    }
                    assert_eq!(found.insert(child.clone(), entry.file), None, "twice: {}", child.escape_ascii());
                    ControlFlow::Continue(())
                })
                .unwrap();
            if taken < 7 {
                break;
            }
            assert_ne!(start, from);
        }
    }
    found
}

/// The truth writes bytes that are no UTF-8, and `%`, as `%XX`.
fn path_of(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let hex = std::str::from_utf8(&tail[..2]).unwrap();
            bytes.push(u8::from_str_radix(hex, 16).unwrap());
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    bytes
}

/// The digest of a file, read in odd pieces.
pub(crate) fn digest(file: &dyn ReadAt) -> Result<String, blockdev::ReadError> {
    let mut hash = Sha256::new();
    let mut buf = vec![0; 100_003];
    let mut at = 0;
    while at < file.size().0 {
        let take = buf.len().min(usize::try_from(file.size().0 - at).unwrap());
        file.read_exact_at(ByteOffset(at), &mut buf[..take])?;
        hash.update(&buf[..take]);
        at += u64::try_from(take).unwrap();
    }
    Ok(hex(&hash.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares a volume with the truth: nothing missing, nothing more, everything equal.
pub(crate) fn check_against_truth(fixture: &Fixture) {
    let volume = fixture.open();
    let truth = fixture.truth["files"].as_object().unwrap();
    let found = walk(&volume);
    let wanted: BTreeMap<Vec<u8>, &Value> = truth.iter().map(|(path, facts)| (path_of(path), facts)).collect();
    let missing: Vec<_> =
        wanted.keys().filter(|path| !found.contains_key(*path)).map(|p| p.escape_ascii().to_string()).collect();
    let extra: Vec<_> =
        found.keys().filter(|path| !wanted.contains_key(*path)).map(|p| p.escape_ascii().to_string()).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing: {missing:?}, not in the truth: {extra:?}");
    assert_eq!(volume.about().label.as_deref(), fixture.truth["volume"]["label"].as_str());
    assert_eq!(Some(volume.about().cluster.0), fixture.truth["volume"]["cluster"].as_u64());

    let mut by_name: HashMap<&str, FileId> = HashMap::new();
    for (path, facts) in &wanted {
        let file = found[path];
        let shown = path.escape_ascii().to_string();
        check_file(&volume, file, facts, &shown);
        check_names(&volume, path, file, &found);
        let same = facts["same"].as_str().unwrap();
        assert_eq!(*by_name.entry(same).or_insert(file), file, "{shown}: names of one file are one file");
    }
    let distinct: std::collections::HashSet<_> = by_name.values().collect();
    assert_eq!(distinct.len(), by_name.len(), "different files have different ids");
}

/// Each name is found by itself and in other case, and leads back to its folder.
fn check_names(volume: &dyn FileSystem, path: &[u8], file: FileId, found: &BTreeMap<Vec<u8>, FileId>) {
    let shown = path.escape_ascii().to_string();
    if path.is_empty() {
        assert_eq!(volume.parent(file).unwrap(), None);
        return;
    }
    let split = path.iter().rposition(|byte| *byte == b'/');
    let (folder, name) = split.map_or((&b""[..], path), |at| (&path[..at], &path[at + 1..]));
    assert_eq!(volume.find(found[folder], name, Case::Exact).unwrap(), Some(file), "{shown}");
    let upper = name.to_ascii_uppercase();
    let ignoring = volume.find(found[folder], &upper, Case::Ignored).unwrap();
    assert!(ignoring.is_some(), "{shown} in upper case");
    assert_eq!(volume.find(found[folder], &[name, b"\xff"].concat(), Case::Exact).unwrap(), None);
    assert_eq!(volume.find(found[folder], &[name, b"~"].concat(), Case::Ignored).unwrap(), None);
    let parent = volume.parent(file).unwrap().unwrap();
    assert!(parent == found[folder] || volume.metadata(file).unwrap().links > 1, "{shown}: its folder");
}

fn check_file(volume: &dyn FileSystem, file: FileId, facts: &Value, shown: &str) {
    let about = volume.metadata(file).unwrap();
    let kind = match facts["kind"].as_str().unwrap() {
        "folder" => FileKind::Folder,
        "link" | "interix" => FileKind::Link,
        _ => FileKind::File,
    };
    assert_eq!(about.kind, kind, "{shown}");
    assert_eq!(u64::from(about.links), facts["links"].as_u64().unwrap(), "{shown}: links");
    check_facts(volume, file, facts, shown);
    check_streams(volume, file, facts, shown);
    if let Some(target) = facts.get("target") {
        assert_eq!(volume.link_target(file).unwrap(), target_of(target), "{shown}");
    } else {
        assert!(matches!(volume.link_target(file), Err(FsError::NotALink { .. })), "{shown}");
    }
    match (kind, facts["refuse"].as_str()) {
        (FileKind::Folder, _) => assert!(matches!(volume.open(file), Err(FsError::IsAFolder { .. })), "{shown}"),
        (FileKind::Link, _) => {}
        // Reading what has no bytes is no lie: what it is shows in its reparse data.
        (_, Some("tag")) if facts["size"] == 0 => {}
        (_, Some(why)) => check_refused(volume, file, why, shown),
        (..) => {
            assert_eq!(about.size.0, facts["size"].as_u64().unwrap_or(0), "{shown}: size");
            let bytes = volume.open(file).unwrap_or_else(|e| panic!("{shown}: {e}"));
            assert_eq!(bytes.size(), about.size, "{shown}");
            if let Some(sha256) = facts["sha256"].as_str() {
                assert_eq!(digest(&*bytes).unwrap_or_else(|e| panic!("{shown}: {e}")), sha256, "{shown}: content");
            }
            check_extents(&*bytes, shown);
        }
    }
}

/// Extents cover the file, and what they call a hole reads as zeros.
fn check_extents(file: &dyn ReadAt, shown: &str) {
    let mut at = 0;
    while at < file.size().0 {
        let extent = file.extent_at(ByteOffset(at)).unwrap();
        assert!(extent.start.0 == at && extent.len.0 > 0 && extent.end().0 <= file.size().0, "{shown}: {extent:?}");
        if extent.kind != blockdev::ExtentKind::Data {
            let mut buf = vec![1; usize::try_from(extent.len.0.min(1 << 20)).unwrap()];
            file.read_exact_at(extent.start, &mut buf).unwrap();
            assert!(buf.iter().all(|byte| *byte == 0), "{shown}: {extent:?}");
        }
        at = extent.end().0;
    }
}

fn check_refused(volume: &dyn FileSystem, file: FileId, why: &str, shown: &str) {
    let Err(error) = volume.open(file) else { panic!("{shown} ({why}) must not be readable") };
    let fits = match (&error, why) {
        (FsError::Encrypted { .. }, "encrypted") => true,
        (FsError::Unsupported { why: text, .. }, "dedup") => text.contains("deduplicated"),
        (FsError::Unsupported { why: text, .. }, "cloud") => text.contains("placeholder"),
        (FsError::Unsupported { .. }, "wof" | "tag") => true,
        _ => false,
    };
    assert!(fits, "{shown} ({why}): {error}");
}

/// What was set by itself: attributes, times, security, short names, reparse data.
fn check_facts(volume: &dyn FileSystem, file: FileId, facts: &Value, shown: &str) {
    let xattr = |name: &str| volume.xattr(file, name.as_bytes(), 1 << 20).unwrap();
    if let Some(attributes) = facts["attributes"].as_u64() {
        let found = u32::from_le_bytes(xattr("system.ntfs_attrib").unwrap().try_into().unwrap());
        // Folder and "normal" are said by the reader.
        assert_eq!(u64::from(found & !0x90), attributes & !0x90, "{shown}: attributes");
        assert_eq!(volume.metadata(file).unwrap().attributes, found, "{shown}");
    }
    if let Some(times) = facts.get("times") {
        let bytes = xattr("system.ntfs_times").unwrap();
        let found: Vec<u64> = bytes.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect();
        let wanted = |name: &str| times[name].as_u64().unwrap();
        assert_eq!(found[..3], [wanted("created"), wanted("modified"), wanted("accessed")], "{shown}: times");
        let modified = volume.metadata(file).unwrap().modified;
        let ticks = (modified.seconds + 11_644_473_600) * 10_000_000 + i64::from(modified.nanos / 100);
        assert_eq!(u64::try_from(ticks).unwrap(), wanted("modified"), "{shown}: modified");
    }
    if let Some(security) = facts["security"].as_str() {
        assert_eq!(hex(&xattr("system.ntfs_acl").unwrap()), security, "{shown}: security");
    }
    if let Some(name) = facts["short_name"].as_str() {
        assert_eq!(xattr("system.ntfs_dos_name").unwrap(), name.as_bytes(), "{shown}: short name");
    }
    if let Some(data) = facts["reparse"]["data"].as_str() {
        let hidden = facts.get("wof").is_some();
        let wanted = (!hidden && !facts["reparse"]["tag"].as_str().unwrap().ends_with("80000017")).then_some(data);
        assert_eq!(xattr("system.ntfs_reparse_data").map(|data| hex(&data)).as_deref(), wanted, "{shown}: reparse");
    }
}

fn check_streams(volume: &dyn FileSystem, file: FileId, facts: &Value, shown: &str) {
    let empty = serde_json::Map::new();
    let wanted = facts["streams"].as_object().unwrap_or(&empty);
    let wof = facts["reparse"]["tag"].as_str().is_some_and(|tag| tag.ends_with("80000017"));
    let wanted: BTreeMap<Vec<u8>, &Value> = wanted
        .iter()
        .filter(|(name, _)| !(wof && *name == "WofCompressedData"))
        .map(|(n, f)| (path_of(n), f))
        .collect();
    let streams = volume.streams(file).unwrap();
    assert_eq!(
        streams.iter().map(|stream| &stream.name).collect::<Vec<_>>(),
        wanted.keys().collect::<Vec<_>>(),
        "{shown}"
    );
    // What Linux cannot hand out is not listed.
    let listed = |(name, facts): &(&Vec<u8>, &&Value)| facts["size"].as_u64().unwrap() <= 65536 && name.len() <= 250;
    let names: Vec<Vec<u8>> =
        wanted.iter().filter(listed).map(|(name, _)| [b"user.", name.as_slice()].concat()).collect();
    assert_eq!(volume.xattrs(file).unwrap(), names, "{shown}: streams");
    for (name, facts) in wanted {
        let value = volume.xattr(file, &[b"user.", name.as_slice()].concat(), 64 << 20).unwrap().unwrap();
        assert_eq!(hex(&Sha256::digest(&value)), facts["sha256"].as_str().unwrap(), "{shown}: stream");
        assert_eq!(u64::try_from(value.len()).unwrap(), facts["size"].as_u64().unwrap());
        let by_path = match volume.metadata(file).unwrap().kind {
            FileKind::Folder => volume.find(file, &[b":", name.as_slice()].concat(), Case::Exact).unwrap(),
            _ => continue,
        };
        let stream = volume.open(by_path.unwrap()).unwrap();
        assert_eq!(digest(&*stream).unwrap(), facts["sha256"].as_str().unwrap(), "{shown}: stream by path");
    }
}

fn target_of(truth: &Value) -> LinkTarget {
    let parts = |path: &Value| -> Vec<Vec<u8>> {
        path.as_str().unwrap().split('/').filter(|part| !part.is_empty()).map(path_of).collect()
    };
    if let Some(letter) = truth["letter"].as_str() {
        return LinkTarget::Letter(letter.chars().next().unwrap(), parts(&truth["path"]));
    }
    if let Some(guid) = truth["volume"].as_str() {
        return LinkTarget::Volume(guid.parse().unwrap(), parts(&truth["path"]));
    }
    if truth.get("relative").is_some() {
        return LinkTarget::Relative(parts(&truth["relative"]));
    }
    if truth.get("root").is_some() {
        return LinkTarget::Root(parts(&truth["root"]));
    }
    LinkTarget::Outside(truth["outside"].as_str().unwrap().to_owned())
}
