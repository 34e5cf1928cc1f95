//! What the checker finds, on images that we and qemu-img wrote and that were damaged in one place each.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::fs::{File, OpenOptions};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blockdev::{ByteLen, ByteOffset, FileDisk, ReadAt};
use common::{MIB, SUBFORMATS, have, model, options, run};
use vmdk_rs::{CheckReport, CreateOptions, FolderGate, ImageWriter, ParentLink, PlainName, Problem, Subformat, check};

const SIZE: u64 = 100 * MIB + 1536;
const PLACES: [(u64, u64); 4] = [(0, 512), (5 * MIB, 3 * MIB), (64 * MIB - 100, 70_000), (SIZE - 512, 512)];

fn check_file(path: &Path) -> CheckReport {
    let gate = FolderGate::open_folder(path.parent().unwrap()).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    check(Arc::new(FileDisk::open(path).unwrap()), name, &gate)
}

fn problems(report: &CheckReport) -> Vec<String> {
    report.findings.iter().map(|finding| finding.problem.to_string()).collect()
}

fn write(dir: &Path, subformat: Subformat) -> PathBuf {
    let raw = dir.join("model.raw");
    if !raw.exists() {
        model(&raw, SIZE, &PLACES);
    }
    let writer = ImageWriter::create(dir, "x.vmdk", &options(subformat, SIZE)).unwrap();
    vmdk_rs::copy(&FileDisk::open(&raw).unwrap(), &writer, &|_| ControlFlow::Continue(())).unwrap();
    writer.finish().unwrap().swap_remove(0)
}

fn in_folder(test: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    test(dir.path());
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn get(file: &File, at: u64) -> u32 {
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, at).unwrap();
    u32::from_le_bytes(bytes)
}

fn put(file: &File, at: u64, value: u32) {
    file.write_all_at(&value.to_le_bytes(), at).unwrap();
}

/// The byte of the first table of the directory that the header field at `field` names.
fn first_table(file: &File, field: u64) -> u64 {
    u64::from(get(file, u64::from(get(file, field)) * 512)) * 512
}

const GD: u64 = 0x38;
const RGD: u64 = 0x30;

#[test]
fn what_we_write_is_clean_and_its_grains_are_counted() {
    for subformat in SUBFORMATS {
        in_folder(|dir| {
            let report = check_file(&write(dir, subformat));
            assert!(report.is_clean(), "{subformat:?}: {:?}", problems(&report));
            let sparse = subformat.can_be_delta() || subformat == Subformat::StreamOptimized;
            assert_eq!(report.grains, if sparse { SIZE.div_ceil(65536) } else { 0 }, "{subformat:?}");
            let stored = if sparse { 1 + 48 + 2 + 1 + 1 } else { 0 };
            assert!(report.stored.abs_diff(stored) <= 1, "{subformat:?}: {}", report.stored);
            assert_eq!(report.compressed, if subformat == Subformat::StreamOptimized { report.stored } else { 0 });
        });
    }
}

#[test]
fn what_qemu_writes_is_clean_too() {
    if !have("qemu-img") {
        return;
    }
    for subformat in ["monolithicSparse", "twoGbMaxExtentSparse", "streamOptimized", "monolithicFlat"] {
        in_folder(|dir| {
            model(&dir.join("model.raw"), SIZE, &PLACES);
            let option = format!("subformat={subformat}");
            run("qemu-img", &["convert", "-f", "raw", "-O", "vmdk", "-o", &option, "model.raw", "x.vmdk"], dir);
            let report = check_file(&dir.join("x.vmdk"));
            assert!(report.is_clean(), "{subformat}: {:?}", problems(&report));
        });
    }
}

#[test]
fn a_grain_that_two_places_name_is_found() {
    in_folder(|dir| {
        let path = write(dir, Subformat::MonolithicSparse);
        let file = open(&path);
        for field in [GD, RGD] {
            let table = first_table(&file, field);
            put(&file, table + 100 * 4, get(&file, table + 82 * 4)); // 5 MiB + 2 grains
        }
        let report = check_file(&path);
        assert_eq!(problems(&report)[0], "a grain lies where something else lies");
        assert_eq!((report.corruptions, report.leaks), (1, 1)); // what grain 100 had is nobody's now
    });
}

#[test]
fn a_grain_on_top_of_a_table_or_the_descriptor_is_found() {
    in_folder(|dir| {
        let path = write(dir, Subformat::MonolithicSparse);
        let file = open(&path);
        for field in [GD, RGD] {
            let table = first_table(&file, field);
            put(&file, table, 1); // the descriptor: an entry of 1 is a zeroed grain, which the header does not announce
            put(&file, table + 200 * 4, 2);
        }
        let report = check_file(&path);
        let all = problems(&report);
        assert!(all.iter().any(|text| text.contains("0x1: no zeroed grain")), "{all:?}");
        assert!(all.iter().any(|text| text == "a grain lies where something else lies"), "{all:?}");
    });
}

#[test]
fn grains_that_nobody_names_are_leaks() {
    in_folder(|dir| {
        let path = write(dir, Subformat::MonolithicSparse);
        let file = open(&path);
        for field in [GD, RGD] {
            put(&file, first_table(&file, field) + 82 * 4, 0);
        }
        file.set_len(file.metadata().unwrap().len() + 3 * 65536).unwrap();
        let report = check_file(&path);
        assert_eq!((report.corruptions, report.mendable, report.leaks), (0, 0, 4), "{:?}", problems(&report));
        assert_eq!(problems(&report), ["4 grains (256 KiB) are stored and belong to no place of the disk"]);
    });
}

#[test]
fn a_damaged_copy_is_mendable_and_damage_in_both_is_not() {
    in_folder(|dir| {
        let path = write(dir, Subformat::MonolithicSparse);
        let file = open(&path);
        let directory = u64::from(get(&file, GD)) * 512;
        let table = get(&file, directory);
        put(&file, directory, 0x00ff_ffff);
        let report = check_file(&path);
        assert_eq!((report.corruptions, report.mendable), (0, 1), "{:?}", problems(&report));
        assert!(matches!(report.findings[0].problem, Problem::CopyDamaged { .. }));
        put(&file, u64::from(get(&file, RGD)) * 512, 0x00ff_ffff);
        let report = check_file(&path);
        assert!(matches!(report.findings[0].problem, Problem::Lost { grain: 0, .. }), "{:?}", problems(&report));
        put(&file, directory, table);
        let report = check_file(&path);
        assert_eq!((report.corruptions, report.mendable), (0, 1), "{:?}", problems(&report));
        put(&file, GD, 0x00ff_ffff);
        assert!(check_file(&path).corruptions > 0); // the one usable directory names a damaged table
    });
}

/// Which of two directories is right when one names a table and the other does not, nobody knows: zeros would be a guess.
#[test]
fn a_table_that_the_first_directory_lacks_is_neither_read_as_zeros_nor_called_mendable() {
    in_folder(|dir| {
        let path = write(dir, Subformat::MonolithicSparse);
        let file = open(&path);
        let table = get(&file, u64::from(get(&file, GD)) * 512);
        put(&file, u64::from(get(&file, GD)) * 512, 0);
        let image = vmdk_rs::open_path(&path).unwrap();
        assert!(image.read_exact_at(ByteOffset(0), &mut [0; 512]).is_err());
        assert!(image.extent_at(ByteOffset(20 * MIB)).is_err());
        image.read_exact_at(ByteOffset(64 * MIB), &mut [0; 512]).unwrap();
        let report = check_file(&path);
        assert_eq!((report.corruptions, report.mendable), (1, 0), "{:?}", problems(&report));
        // The other way round the first directory, which readers trust, has everything.
        put(&file, u64::from(get(&file, GD)) * 512, table);
        put(&file, u64::from(get(&file, RGD)) * 512, 0);
        vmdk_rs::open_path(&path).unwrap().read_exact_at(ByteOffset(0), &mut [0; 512]).unwrap();
        let report = check_file(&path);
        assert_eq!((report.corruptions, report.mendable), (0, 1), "{:?}", problems(&report));
    });
}

#[test]
fn an_entry_that_is_damaged_in_one_copy_and_empty_in_the_other_is_lost() {
    in_folder(|dir| {
        let path = write(dir, Subformat::MonolithicSparse);
        let file = open(&path);
        put(&file, first_table(&file, GD), 0x00ff_fff0);
        put(&file, first_table(&file, RGD), 0);
        assert!(vmdk_rs::open_path(&path).unwrap().read_exact_at(ByteOffset(0), &mut [0; 512]).is_err());
        let report = check_file(&path);
        assert!(matches!(report.findings[0].problem, Problem::Lost { grain: 0, .. }), "{:?}", problems(&report));
        assert_eq!((report.corruptions, report.mendable), (1, 0), "{:?}", problems(&report));
    });
}

#[test]
fn one_file_for_two_extents_is_found() {
    in_folder(|dir| {
        let path = write(dir, Subformat::TwoGbMaxExtentSparse);
        let text = std::fs::read_to_string(&path).unwrap();
        let line = text.lines().find(|line| line.starts_with("RW ")).unwrap();
        std::fs::write(&path, text.replace(line, &format!("{line}\n{line}"))).unwrap();
        assert_eq!(problems(&check_file(&path)), ["an extent lies where something else lies"]);
        let flat = write(
            &{
                let flat = dir.join("flat");
                std::fs::create_dir(&flat).unwrap();
                flat
            },
            Subformat::VmfsFlat,
        );
        let text = std::fs::read_to_string(&flat).unwrap();
        let lines = "RW 100 FLAT \"x-flat.vmdk\" 0\nRW 100 FLAT \"x-flat.vmdk\" 99\nRW 100 FLAT \"x-flat.vmdk\" 199";
        let line = text.lines().find(|line| line.starts_with("RW ")).unwrap();
        std::fs::write(&flat, text.replace(line, lines)).unwrap();
        assert_eq!(problems(&check_file(&flat)), ["an extent lies where something else lies"]);
    });
}

#[test]
fn entries_that_differ_between_copies_are_told_with_their_number() {
    in_folder(|dir| {
        let path = write(dir, Subformat::MonolithicSparse);
        let file = open(&path);
        let table = first_table(&file, RGD);
        put(&file, table + 82 * 4, get(&file, table + 83 * 4));
        put(&file, table + 90 * 4, 0);
        let report = check_file(&path);
        let expected = "2 entries of grain table 0 differ between its two copies, the first is that of grain 82";
        assert_eq!(problems(&report), [expected]);
        assert_eq!(report.corruptions, 1);
        put(&file, table + 82 * 4, u32::MAX);
        put(&file, table + 90 * 4, u32::MAX);
        let report = check_file(&path);
        assert_eq!((report.corruptions, report.mendable), (0, 1), "{:?}", problems(&report));
    });
}

#[test]
fn files_that_are_too_short_are_found_in_every_form() {
    for subformat in SUBFORMATS {
        in_folder(|dir| {
            let path = write(dir, subformat);
            let data = match subformat {
                Subformat::MonolithicFlat | Subformat::VmfsFlat => dir.join("x-flat.vmdk"),
                Subformat::TwoGbMaxExtentFlat => dir.join("x-f001.vmdk"),
                Subformat::TwoGbMaxExtentSparse => dir.join("x-s001.vmdk"),
                _ => path.clone(),
            };
            let file = open(&data);
            file.set_len(file.metadata().unwrap().len() - 65536).unwrap();
            let report = check_file(&path);
            assert!(report.corruptions > 0, "{subformat:?}");
            std::fs::remove_file(&data).unwrap();
            if data != path {
                assert!(check_file(&path).unchecked > 0, "{subformat:?}");
            }
        });
    }
}

#[test]
fn an_unclean_shutdown_and_ids_that_disagree_are_mendable() {
    in_folder(|dir| {
        let path = write(dir, Subformat::TwoGbMaxExtentSparse);
        open(&dir.join("x-s001.vmdk")).write_all_at(&[1], 0x48).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let at = text.find("longContentID = \"").unwrap() + "longContentID = \"".len() + 24;
        open(&path).write_all_at(b"00000000", at as u64).unwrap();
        let report = check_file(&path);
        assert_eq!((report.corruptions, report.mendable), (0, 2), "{:?}", problems(&report));
    });
}

#[test]
fn a_parent_that_changed_and_one_that_is_gone_are_found() {
    in_folder(|dir| {
        let base = write(dir, Subformat::MonolithicSparse);
        let file = PlainName::new("x.vmdk").unwrap();
        let content_id = vmdk_rs::open_path(&base).unwrap().descriptor().content_id;
        let options = CreateOptions {
            parent: Some(ParentLink { file, content_id }),
            ..CreateOptions::new(Subformat::MonolithicSparse, ByteLen(SIZE))
        };
        let delta = ImageWriter::create(dir, "delta.vmdk", &options).unwrap().finish().unwrap().swap_remove(0);
        let report = check_file(&delta);
        assert!(report.is_clean() && report.grains == 2 * SIZE.div_ceil(65536), "{:?}", problems(&report));
        let text = std::fs::read(&base).unwrap();
        let at = text.windows(5).position(|window| window == b"\nCID=").unwrap() + 5;
        open(&base).write_all_at(b"00000001", at as u64).unwrap();
        let report = check_file(&delta);
        assert!(problems(&report).iter().any(|text| text.contains("but the content of x.vmdk is 00000001")));
        std::fs::remove_file(&base).unwrap();
        assert_eq!(check_file(&delta).unchecked, 1);
    });
}

/// Where the marker of the first grain is, in a stream of ours.
const FIRST_MARKER: u64 = 65536;

#[test]
fn damaged_markers_of_a_stream_are_found() {
    in_folder(|dir| {
        let path = write(dir, Subformat::StreamOptimized);
        let file = open(&path);
        let size = get(&file, FIRST_MARKER + 8);
        put(&file, FIRST_MARKER, 128); // says that it is grain 1
        let report = check_file(&path);
        let all = problems(&report);
        assert!(all.iter().any(|text| text.contains("its marker names another place of the disk")), "{all:?}");
        assert_eq!((report.corruptions, report.leaks), (1, 1), "{all:?}");
        put(&file, FIRST_MARKER, 0);
        put(&file, FIRST_MARKER + 8, u32::MAX);
        let all = problems(&check_file(&path));
        assert!(
            all.iter().any(|text| text == "the marker of a grain that cannot be where a marker should be"),
            "{all:?}"
        );
        put(&file, FIRST_MARKER + 8, size);
        assert!(check_file(&path).is_clean());
    });
}

#[test]
fn a_stream_without_its_end_is_found() {
    in_folder(|dir| {
        let path = write(dir, Subformat::StreamOptimized);
        let file = open(&path);
        file.set_len(file.metadata().unwrap().len() - 512).unwrap();
        let all = problems(&check_file(&path));
        assert!(all.len() == 1 && all[0].contains("cut off or is not finished"), "{all:?}");
    });
}

#[test]
fn a_file_that_is_no_image_is_one_problem() {
    in_folder(|dir| {
        std::fs::write(dir.join("x.vmdk"), vec![0; 4096]).unwrap();
        let report = check_file(&dir.join("x.vmdk"));
        assert_eq!((report.corruptions, report.findings.len()), (1, 1));
    });
}
