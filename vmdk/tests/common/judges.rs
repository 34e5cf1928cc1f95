//! Every foreign reader as the judge of what we write, and disks that look like those of guests.
#![allow(dead_code, clippy::unwrap_used, reason = "each test program uses a part, and all of it is test code")]

use std::collections::HashMap;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use blockdev::{FileDisk, ReadAt, Window};
use vmdk_rs::{CopyTarget, CreateOptions, ImageWriter};

use crate::common::{MIB, assert_same, have, noise, qemu_runs, run, runs};
use crate::peers::{Readers, readers};

/// The readers that can read all that we write; libvmdk does not know zeroed grains, which deltas may have.
pub(crate) const ALL: &[&str] = &["libvmdk", "dissect"];
pub(crate) const ALL_OF_DELTAS: &[&str] = &["dissect"];

/// Whether everything is here that judges.
pub(crate) struct Judges {
    pub(crate) readers: Readers,
}

impl Judges {
    /// `None` after a printed reason: return from the test then.
    pub(crate) fn find() -> Option<Self> {
        // vmdkinfo knows no --version.
        let vmdkinfo = Command::new("vmdkinfo").arg("-V").output().is_ok_and(|out| out.status.success());
        if !have("qemu-img") || !(vmdkinfo || have("vmdkinfo")) {
            return None;
        }
        Some(Self { readers: readers()? })
    }

    /// Has `top` read by qemu-img and by `readers`, and by us: all see what `raw` has.
    pub(crate) fn agree(&self, dir: &Path, top: &str, raw: &Path, readers: &[&str]) {
        let model = FileDisk::open(raw).unwrap();
        let image = vmdk_rs::open_path(&dir.join(top)).unwrap();
        assert_same(&image, &model);
        assert_eq!(runs(&image), qemu_runs(dir, top), "{top}");
        let compared = run("qemu-img", &["compare", "-f", "vmdk", "-F", "raw", top, raw.to_str().unwrap()], dir);
        assert!(compared.contains("Images are identical"), "{top}: {compared}");
        run("qemu-img", &["check", "-f", "vmdk", top], dir);
        for reader in readers {
            let out = self.readers.read(reader, dir, top, &[]);
            println!("{top}: {reader}");
            assert_same(&FileDisk::open(&out).unwrap(), &model);
        }
    }

    /// Has parts of `top` (byte, length) read by `readers`, for disks that take too long as a whole.
    pub(crate) fn agree_in(&self, dir: &Path, top: &str, raw: &Path, readers: &[&str], parts: &[(u64, u64)]) {
        let model = FileDisk::open(raw).unwrap();
        for reader in readers {
            let out = FileDisk::open(&self.readers.read(reader, dir, top, parts)).unwrap();
            let mut behind = 0;
            for (at, len) in parts {
                println!("{top}: {reader}: bytes {at} to {}", at + len);
                assert_same(&window(&out, behind, *len), &window(&model, *at, *len));
                behind += len;
            }
            assert_eq!(out.size().0, behind);
        }
    }
}

fn window(disk: &FileDisk, at: u64, len: u64) -> Window<&FileDisk> {
    Window::new(disk, blockdev::ByteOffset(at), blockdev::ByteLen(len)).unwrap()
}

/// What vmdkinfo says, by its labels.
pub(crate) fn vmdkinfo(dir: &Path, top: &str) -> HashMap<String, String> {
    let text = run("vmdkinfo", &[top], dir);
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(label, value)| (label.trim().to_owned(), value.trim().to_owned())).collect()
}

/// Copies a raw disk.
pub(crate) fn copy<T: CopyTarget>(raw: &Path, target: &T) {
    vmdk_rs::copy(&FileDisk::open(raw).unwrap(), target, &|_| ControlFlow::Continue(())).unwrap();
}

/// Writes a raw disk as `name` in `dir`.
pub(crate) fn write(raw: &Path, dir: &Path, name: &str, options: &CreateOptions) -> Vec<PathBuf> {
    let writer = ImageWriter::create(dir, name, options).unwrap();
    copy(raw, &writer);
    writer.finish().unwrap()
}

/// The last piece of a realistic disk is the end of it, which is no multiple of anything.
const PIECES: u64 = 60;

/// A disk as guests leave it: text, noise, zeros that were written, long runs and single sectors, and mostly holes.
pub(crate) fn realistic(path: &Path, size: u64, seed: u64) -> PathBuf {
    let file = File::create_new(path).unwrap();
    file.set_len(size).unwrap();
    for number in 0..PIECES {
        let word = seed * 1000 + number;
        let [place, len] = [noise(word, 8), noise(word + 500, 8)].map(|b| u64::from_le_bytes(b.try_into().unwrap()));
        let most = if number % 10 == 0 { 2 * MIB } else { 40_000 };
        let len = (len >> 9) % most.min(size) / 512 * 512 + 512;
        let at = if number == 0 { 0 } else { (place >> 9) % (size - len + 1) / 512 * 512 };
        let at = if number == PIECES - 1 { size - len } else { at };
        file.write_all_at(&content(word, usize::try_from(len).unwrap()), at).unwrap();
    }
    path.to_owned()
}

/// Bytes that compress well, badly, to nothing, or in part.
pub(crate) fn content(seed: u64, len: usize) -> Vec<u8> {
    let text = format!("line {seed} of a file that a guest has written\n").into_bytes();
    match seed % 5 {
        0 => noise(seed, len),
        1 | 2 => text.into_iter().cycle().take(len).collect(),
        3 => vec![0; len],
        _ => noise(seed, len)
            .chunks(512)
            .enumerate()
            .flat_map(|(i, c)| if i % 3 == 0 { c.to_vec() } else { vec![b'x'; c.len()] })
            .collect(),
    }
}
