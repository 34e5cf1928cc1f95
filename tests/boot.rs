//! The boot fixture itself, before anything is proven with it: it boots, and it notices a changed file.
#![expect(clippy::unwrap_used, reason = "helpers of tests: clippy lets only the marked functions unwrap")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use acceptance::{peer, program};

/// The disk and the line that it reports, or `None` when a peer is absent.
fn fixture() -> Option<(PathBuf, String)> {
    program("qemu-system-x86_64")?;
    program("qemu-img")?;
    let disk = peer("linux/disk.raw")?;
    let facts = fs::read(peer("linux/disk.json")?).unwrap();
    let facts: serde_json::Value = serde_json::from_slice(&facts).unwrap();
    Some((disk, facts["boot_line"].as_str().unwrap().to_owned()))
}

fn boot(disk: &Path, format: &str) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/linux/boot.sh");
    Command::new(script).arg(disk).arg(format).output().unwrap()
}

fn convert(from: &Path, to: &Path, format: &str) {
    let status = Command::new("qemu-img").args(["convert", "-f", "raw", "-O", format]).arg(from).arg(to).status();
    assert!(status.unwrap().success());
}

#[test]
fn the_fixture_boots_from_a_vmdk() {
    let Some((disk, line)) = fixture() else { return };
    let folder = tempfile::tempdir().unwrap();
    let vmdk = folder.path().join("linux 01, boot.vmdk");
    convert(&disk, &vmdk, "vmdk");
    let output = boot(&vmdk, "vmdk");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), line);
}

#[test]
fn the_fixture_reports_a_changed_file() {
    let Some((disk, _)) = fixture() else { return };
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.raw");
    convert(&disk, &copy, "raw");
    // A word of /usr/lib/os-release; it stands at the beginning of a block of 4096 bytes.
    let word = b"PRETTY_NAME=\"Debian";
    let bytes = fs::read(&copy).unwrap();
    let at = bytes.chunks(4096).position(|block| block.starts_with(word)).unwrap() * 4096;
    File::options().write(true).open(&copy).unwrap().write_all_at(b"X", at as u64).unwrap();
    let output = boot(&copy, "raw");
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("STILLFRAME-BOOT-BAD 1 files differ: ./usr/lib/os-release"), "{told}");
}
