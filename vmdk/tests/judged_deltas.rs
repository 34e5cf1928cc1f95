//! Deltas that we write over bases that we write: what qemu-img and dissect make of them, and what qemu-img does to them.
//!
//! libvmdk knows no zeroed grains, so it judges only a delta without any. qemu-img cannot change the parent of a VMDK
//! ("Operation not supported"), so disks are put onto another parent by us, and judged then.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;
#[path = "common/judges.rs"]
mod judges;
#[path = "common/peers.rs"]
mod peers;

use std::fs::{File, OpenOptions};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use blockdev::{ByteLen, ByteOffset, ExtentKind, FileDisk, ReadAt};
use common::{MIB, SUBFORMATS, assert_same, have, model, noise, options, run, runs};
use judges::{ALL, ALL_OF_DELTAS, Judges, content, realistic, vmdkinfo, write};
use vmdk_rs::{CreateOptions, Image, ImageWriter, ParentLink, PlainName, Subformat, copy_difference, open_path};

const ODD: u64 = 100 * MIB + 1536;
const DELTAS: [Subformat; 2] = [Subformat::MonolithicSparse, Subformat::TwoGbMaxExtentSparse];

/// A copy of a raw disk with changes: new data over data and over holes, zeros over data, and the very end.
fn changed(raw: &Path, path: &Path, seed: u64) -> PathBuf {
    std::fs::copy(raw, path).unwrap();
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let size = file.metadata().unwrap().len();
    for number in 0..20 {
        let at = (size / 20 * number + seed * 7919) / 512 * 512;
        file.write_all_at(&content(seed * 100 + number, 33 * 512), at.min(size - 33 * 512)).unwrap();
    }
    file.write_all_at(&vec![0; 3 << 20], size / 3 / 512 * 512).unwrap();
    file.write_all_at(&noise(seed, 512), size - 512).unwrap();
    path.to_owned()
}

fn parent_of(parent: &Image, file: &str) -> Option<ParentLink> {
    Some(ParentLink { file: PlainName::new(file).unwrap(), content_id: parent.descriptor().content_id })
}

/// Writes what `source` does not have in common with the image `parent` beside it.
fn delta(source: &dyn ReadAt, dir: &Path, parent: &str, name: &str, subformat: Subformat) -> Image {
    let below = open_path(&dir.join(parent)).unwrap();
    let options = CreateOptions {
        parent: parent_of(&below, parent),
        ..CreateOptions::like(below.descriptor(), subformat, source.size())
    };
    let writer = ImageWriter::create(dir, name, &options).unwrap();
    copy_difference(source, &below, &writer, &|_| ControlFlow::Continue(())).unwrap();
    open_path(&writer.finish().unwrap()[0]).unwrap()
}

/// A realistic base of some form, what it becomes, and the delta between them.
fn base_and_delta(dir: &Path, base: Subformat, form: Subformat) -> (PathBuf, PathBuf, Image) {
    let before = realistic(&dir.join("before.raw"), ODD, 11);
    write(&before, dir, "base.vmdk", &options(base, ODD));
    let after = changed(&before, &dir.join("after.raw"), 12);
    let image = delta(&FileDisk::open(&after).unwrap(), dir, "base.vmdk", "delta.vmdk", form);
    (before, after, image)
}

#[test]
fn a_delta_of_each_form_is_read_alike_over_a_base_of_any_form() {
    let Some(judges) = Judges::find() else { return };
    for (number, base) in SUBFORMATS.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let form = DELTAS[number % 2];
        let (_, after, image) = base_and_delta(dir.path(), base, form);
        let names: Vec<_> = image.chain().map(|(name, _)| name.to_owned()).collect();
        assert_eq!(names, ["delta.vmdk", "base.vmdk"]);
        judges.agree(dir.path(), "delta.vmdk", &after, ALL_OF_DELTAS);
        let info = vmdkinfo(dir.path(), "delta.vmdk");
        let base = open_path(&dir.path().join("base.vmdk")).unwrap();
        assert_eq!(info["Parent filename"], "base.vmdk");
        assert_eq!(info["Parent content identifier"], format!("{:#010x}", base.descriptor().content_id));
    }
}

#[test]
fn a_delta_holds_the_difference_and_no_more() {
    for form in DELTAS {
        let dir = tempfile::tempdir().unwrap();
        let (before, after, image) = base_and_delta(dir.path(), Subformat::MonolithicSparse, form);
        let [before, after] = [before, after].map(|path| FileDisk::open(&path).unwrap());
        let (mut old, mut new) = (vec![0; 65536], vec![0; 65536]);
        for at in (0..ODD).step_by(65536) {
            let len = usize::try_from(ODD - at).unwrap().min(65536);
            before.read_exact_at(ByteOffset(at), &mut old[..len]).unwrap();
            after.read_exact_at(ByteOffset(at), &mut new[..len]).unwrap();
            let expected = match () {
                () if old[..len] == new[..len] => ExtentKind::Hole,
                () if new[..len].iter().all(|byte| *byte == 0) => ExtentKind::Zero,
                () => ExtentKind::Data,
            };
            assert_eq!(image.extent_at_top(ByteOffset(at)).unwrap().kind, expected, "{form:?}: byte {at}");
        }
    }
}

#[test]
fn a_delta_without_zeroed_grains_is_read_by_libvmdk_too() {
    let Some(judges) = Judges::find() else { return };
    for form in DELTAS {
        let dir = tempfile::tempdir().unwrap();
        let before = realistic(&dir.path().join("before.raw"), ODD, 21);
        write(&before, dir.path(), "base.vmdk", &options(form, ODD));
        let after = dir.path().join("after.raw");
        std::fs::copy(&before, &after).unwrap();
        let file = OpenOptions::new().write(true).open(&after).unwrap();
        for at in [0, 20 * MIB + 512, 64 * MIB - 70_000, ODD - 100_000] {
            file.write_all_at(&noise(at + 9, 100_000), at).unwrap();
        }
        delta(&FileDisk::open(&after).unwrap(), dir.path(), "base.vmdk", "delta.vmdk", form);
        judges.agree(dir.path(), "delta.vmdk", &after, ALL);
    }
}

#[test]
fn a_delta_over_a_delta_is_read_alike() {
    let Some(judges) = Judges::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let (_, after, _) = base_and_delta(d, Subformat::StreamOptimized, Subformat::TwoGbMaxExtentSparse);
    let last = changed(&after, &d.join("last.raw"), 13);
    let image = delta(&FileDisk::open(&last).unwrap(), d, "delta.vmdk", "last.vmdk", Subformat::MonolithicSparse);
    assert_eq!(image.chain().count(), 3);
    judges.agree(d, "last.vmdk", &last, ALL_OF_DELTAS);
}

#[test]
fn a_delta_in_several_pieces_is_put_together_alike() {
    let Some(judges) = Judges::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let (piece, size) = (2047 * MIB, 2048 * MIB + 1536);
    let before = model(&d.join("before.raw"), size, &[(0, 70_000), (piece - MIB, 2 * MIB)]);
    write(&before, d, "base.vmdk", &options(Subformat::TwoGbMaxExtentSparse, size));
    let after = model(&d.join("after.raw"), size, &[(0, 70_000), (piece + 4096, MIB - 4096), (size - 1024, 1024)]);
    delta(&FileDisk::open(&after).unwrap(), d, "base.vmdk", "delta.vmdk", Subformat::TwoGbMaxExtentSparse);
    judges.agree(d, "delta.vmdk", &after, &[]);
    let parts = [(0, MIB), (piece - MIB, 2 * MIB), (size - 1536, 1536)];
    judges.agree_in(d, "delta.vmdk", &after, ALL_OF_DELTAS, &parts);
}

#[test]
fn qemu_commits_our_delta_into_our_base() {
    if !have("qemu-img") {
        return;
    }
    for (number, base) in SUBFORMATS.into_iter().filter(|form| *form != Subformat::StreamOptimized).enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let (_, after, _) = base_and_delta(dir.path(), base, DELTAS[number % 2]);
        run("qemu-img", &["commit", "-f", "vmdk", "delta.vmdk"], dir.path());
        let model = FileDisk::open(&after).unwrap();
        assert_same(&open_path(&dir.path().join("base.vmdk")).unwrap(), &model);
        let compared = run("qemu-img", &["compare", "-f", "vmdk", "-F", "raw", "base.vmdk", "after.raw"], dir.path());
        assert!(compared.contains("Images are identical"), "{base:?}: {compared}");
        run("qemu-img", &["check", "-f", "vmdk", "base.vmdk"], dir.path());
    }
}

#[test]
fn a_delta_that_qemu_makes_over_our_base_is_read_as_qemu_reads_it() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    for base in SUBFORMATS {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path();
        let before = realistic(&d.join("before.raw"), ODD, 41);
        write(&before, d, "base.vmdk", &options(base, ODD));
        let make = ["create", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", "-o", "zeroed_grain=on", "child.vmdk"];
        run("qemu-img", &make, d);
        let writes = [
            "write -P 5 0 3000k",
            "write -z 0 1M",
            "write -P 7 77k 512",
            "write -z 96M 4M",
            "write -P 9 104858624 512",
        ];
        let args = writes.iter().flat_map(|write| ["-c", write]);
        run("qemu-io", &["-f", "vmdk"].into_iter().chain(args).chain(["child.vmdk"]).collect::<Vec<_>>(), d);
        run("qemu-img", &["convert", "-f", "vmdk", "-O", "raw", "child.vmdk", "child.raw"], d);
        assert_same(&open_path(&d.join("child.vmdk")).unwrap(), &FileDisk::open(&d.join("child.raw")).unwrap());
    }
}

#[test]
fn a_disk_is_put_onto_another_parent_with_its_content() {
    let Some(judges) = Judges::find() else { return };
    for form in DELTAS {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path();
        let (_, after, image) = base_and_delta(d, Subformat::MonolithicSparse, form);
        let other = realistic(&d.join("other.raw"), ODD, 51);
        write(&other, d, "other.vmdk", &options(Subformat::TwoGbMaxExtentFlat, ODD));
        let moved = delta(&image, d, "other.vmdk", "moved.vmdk", form);
        assert_eq!(moved.chain().nth(1).unwrap().0, "other.vmdk");
        judges.agree(d, "moved.vmdk", &after, ALL_OF_DELTAS);
    }
}

/// Replaces text in a file by text of the same length.
fn replace(path: &Path, old: &str, new: &str) {
    assert_eq!(old.len(), new.len());
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.windows(old.len()).position(|part| part == old.as_bytes()).unwrap();
    bytes[at..at + new.len()].copy_from_slice(new.as_bytes());
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_delta_that_is_told_of_another_parent_reads_over_that() {
    let Some(judges) = Judges::find() else { return };
    for form in DELTAS {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path();
        let (_, after, image) = base_and_delta(d, Subformat::MonolithicFlat, form);
        let (top, old) = (d.join("delta.vmdk"), open_path(&d.join("base.vmdk")).unwrap());
        // The other parent has other content in the grains that the delta does not hold.
        let other = realistic(&d.join("other.raw"), ODD, 61);
        write(&other, d, "new1.vmdk", &options(Subformat::MonolithicSparse, ODD));
        let expected = over(&image, &after, &other, &d.join("expected.raw"));
        let new = open_path(&d.join("new1.vmdk")).unwrap();
        replace(&top, "parentFileNameHint=\"base.vmdk\"", "parentFileNameHint=\"new1.vmdk\"");
        assert!(open_path(&top).is_err(), "the content ID is still the old one's");
        let cid = |image: &Image| format!("parentCID={:08x}", image.descriptor().content_id);
        replace(&top, &cid(&old), &cid(&new));
        assert_eq!(runs(&open_path(&top).unwrap()).last().unwrap().1, ODD);
        judges.agree(d, "delta.vmdk", &expected, ALL_OF_DELTAS);
    }
}

/// What the top of `image`, which reads as `own`, has over another disk.
fn over(image: &Image, own: &Path, other: &Path, path: &Path) -> PathBuf {
    std::fs::copy(other, path).unwrap();
    let (file, own) = (OpenOptions::new().write(true).open(path).unwrap(), File::open(own).unwrap());
    let mut at = 0;
    while at < ODD {
        let extent = image.extent_at_top(ByteOffset(at)).unwrap();
        if extent.kind != ExtentKind::Hole {
            let mut bytes = vec![0; extent.len.to_usize().unwrap()];
            own.read_exact_at(&mut bytes, at).unwrap();
            file.write_all_at(&bytes, at).unwrap();
        }
        at += extent.len.0;
    }
    assert_eq!(image.size(), ByteLen(ODD));
    path.to_owned()
}
