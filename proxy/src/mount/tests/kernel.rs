use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use blockdev::{ByteLen, ByteOffset, ReadError};
use guestfs::{FsError, LinkTarget};
use nix::libc;
use nix::mount::MsFlags;
use rustix::fs::{XattrFlags, getxattr, listxattr, setxattr};
use rustix::io::Errno;

use super::memory::{Content, Memory, pattern};
use super::{Live, guest, may_mount};

fn io() -> FsError {
    let source = ReadError::Io { at: ByteOffset(0), source: std::io::Error::other("gone") };
    FsError::Read { what: "record 7".into(), source }
}

fn corrupt() -> FsError {
    FsError::Corrupt { what: "record 7".into(), field: "f", found: "0".into(), expected: "1" }
}

fn unsupported() -> FsError {
    FsError::Unsupported { what: "record 7".into(), why: "new" }
}

fn encrypted() -> FsError {
    FsError::Encrypted { what: "record 7".into() }
}

fn too_large() -> FsError {
    FsError::TooLarge { what: "record 7".into(), len: ByteLen(2), limit: ByteLen(1) }
}

fn live() -> Live {
    let mut c = Memory::new();
    c.add("Windows", Content::Folder);
    let file = c.add("Windows/win.ini", Content::Bytes(b"[fonts]\r\n".to_vec()));
    let attributes = [("user.small", vec![1, 2, 3]), ("user.empty", Vec::new()), ("user.large", vec![7; 60_000])];
    c.node_mut(file).xattrs = attributes.map(|(name, value)| (name.into(), value)).into();
    c.add("big", Content::Pattern((5 << 20) + 123));
    c.add("torn", Content::Torn(1 << 20));
    let broken: [(&str, fn() -> FsError); 5] = [
        ("io", io),
        ("corrupt", corrupt),
        ("unsupported", unsupported),
        ("encrypted", encrypted),
        ("too large", too_large),
    ];
    for (name, error) in broken {
        c.add(name, Content::Broken(error));
    }
    c.add("nowhere", Content::Link(LinkTarget::Outside("//server/share".into())));
    Live::of(guest(vec![None, Some(c)], &[('C', 2)]))
}

fn number(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_tree_has_letters_numbers_and_a_report() {
    if !may_mount() {
        return;
    }
    let live = live();
    assert_eq!(names(&live.path("")), [".stillframe", "digits", "letters"]);
    assert_eq!((names(&live.path("letters")), names(&live.path("digits"))), (vec!["C".into()], vec!["2".into()]));
    assert_eq!(fs::read(live.path(".stillframe/report.json")).unwrap(), b"{}");
    for file in ["letters/C/Windows/win.ini", "digits/2/Windows/win.ini"] {
        assert_eq!(fs::read(live.path(file)).unwrap(), b"[fonts]\r\n");
    }
    assert_eq!(fs::read(live.path("letters/C/windows/WIN.INI")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    // One volume at two places has two numbers for each file.
    let inode = |path: &str| fs::metadata(live.path(path)).unwrap().ino();
    assert_ne!(inode("letters/C/Windows"), inode("digits/2/Windows"));
    assert_eq!(inode("digits/2") >> 48, 2);
}

#[test]
fn what_is_known_of_a_file_is_what_stat_shows() {
    if !may_mount() {
        return;
    }
    let live = live();
    let file = fs::metadata(live.path("letters/C/Windows/win.ini")).unwrap();
    assert_eq!((file.len(), file.blocks(), file.nlink(), file.uid(), file.gid()), (9, 8, 1, 7, 8));
    assert_eq!((file.mtime(), file.mtime_nsec()), (-11_644_473_600 + 7, 500));
    assert_eq!((file.ctime(), file.atime()), (1_200_000_000, 1_300_000_000));
    assert_eq!(file.permissions().mode(), 0o100_444);
    assert_eq!(fs::metadata(live.path("letters/C/Windows")).unwrap().permissions().mode(), 0o040_555);
    let space = rustix::fs::statvfs(live.path("letters/C")).unwrap();
    assert_eq!((space.f_frsize * space.f_blocks, space.f_bfree, space.f_namemax), (1 << 30, 0, 765));
}

#[test]
fn every_error_arrives_as_its_own_number() {
    if !may_mount() {
        return;
    }
    let live = live();
    let expected = [
        ("io", libc::EIO),
        ("corrupt", libc::EIO),
        ("unsupported", libc::EOPNOTSUPP),
        ("encrypted", libc::EACCES),
        ("too large", libc::E2BIG),
        ("nothing", libc::ENOENT),
        ("big/more", libc::ENOTDIR),
    ];
    for (name, expected) in expected {
        let error = fs::metadata(live.path("letters/C").join(name)).unwrap_err();
        assert_eq!(number(&error), expected, "{name}");
    }
    assert_eq!(number(&fs::read(live.path("letters/C/Windows")).unwrap_err()), libc::EISDIR);
    assert_eq!(number(&fs::read_link(live.path("letters/C/big")).unwrap_err()), libc::EINVAL);
    // A file of which nothing can be known is still listed.
    assert!(names(&live.path("letters/C")).contains(&"corrupt".to_owned()));
}

#[test]
fn a_read_that_fails_gives_no_byte_that_is_not_there() {
    if !may_mount() {
        return;
    }
    let live = live();
    let file = File::open(live.path("letters/C/torn")).unwrap();
    let mut buf = vec![0; 4096];
    file.read_exact_at(&mut buf, 0).unwrap();
    assert!(buf.iter().zip(0..).all(|(byte, at)| *byte == pattern(at)));
    assert_eq!(number(&file.read_at(&mut buf, 600 << 10).unwrap_err()), libc::EIO);
    let mut all = Vec::new();
    assert_eq!(number(&(&file).read_to_end(&mut all).unwrap_err()), libc::EIO);
    assert!(all.len() <= 512 << 10 && all.iter().zip(0..).all(|(byte, at)| *byte == pattern(at)));
}

#[test]
fn attributes_are_read_and_a_small_buffer_is_told_so() {
    if !may_mount() {
        return;
    }
    let live = live();
    let file = live.path("letters/C/Windows/win.ini");
    let mut buf = vec![0; 65_536];
    let len = listxattr(&file, &mut buf[..]).unwrap();
    assert_eq!(&buf[..len], b"user.small\0user.empty\0user.large\0");
    assert_eq!(getxattr(&file, "user.small", &mut buf[..]), Ok(3));
    assert_eq!(buf[..3], [1, 2, 3]);
    assert_eq!(getxattr(&file, "user.empty", &mut buf[..]), Ok(0));
    assert_eq!(getxattr(&file, "user.large", &mut buf[..]), Ok(60_000));
    assert_eq!(getxattr(&file, "user.large", &mut buf[..10]), Err(Errno::RANGE));
    assert_eq!(listxattr(&file, &mut buf[..5]), Err(Errno::RANGE));
    assert_eq!(getxattr(&file, "user.none", &mut buf[..]), Err(Errno::NODATA));
    assert_eq!(setxattr(&file, "user.small", b"x", XattrFlags::empty()), Err(Errno::ROFS));
}

#[test]
fn every_write_is_refused_also_where_root_remounts() {
    if !may_mount() {
        return;
    }
    let live = live();
    let (file, folder) = (live.path("letters/C/Windows/win.ini"), live.path("letters/C/Windows"));
    let refused = |what: &str, result: std::io::Result<()>| {
        assert_eq!(number(&result.unwrap_err()), libc::EROFS, "{what}");
    };
    let attempts = || {
        refused("create", File::create(folder.join("new")).map(drop));
        refused("mkdir", fs::create_dir(folder.join("new")));
        refused("remove", fs::remove_file(&file));
        refused("rmdir", fs::remove_dir(&folder));
        refused("rename", fs::rename(&file, folder.join("other")));
        refused("link", fs::hard_link(&file, folder.join("other")));
        refused("symlink", std::os::unix::fs::symlink("x", folder.join("other")));
        refused("chmod", fs::set_permissions(&file, fs::Permissions::from_mode(0o600)));
        refused("chown", std::os::unix::fs::chown(&file, Some(1), Some(1)));
    };
    attempts();
    refused("open", OpenOptions::new().write(true).open(&file).map(drop));
    refused("truncate", OpenOptions::new().write(true).truncate(true).open(&file).map(drop));
    let remount = MsFlags::MS_REMOUNT;
    nix::mount::mount(None::<&str>, live.folder.path(), None::<&str>, remount, None::<&str>).unwrap();
    attempts();
    let open = OpenOptions::new().write(true).open(&file).unwrap(); // root may open what it cannot write
    refused("write", open.write_at(b"x", 0).map(drop));
    refused("truncate", open.set_len(3));
}

#[test]
fn a_folder_of_many_names_is_listed_piece_by_piece_and_once() {
    if !may_mount() {
        return;
    }
    let mut memory = Memory::new();
    memory.add("many", Content::Folder);
    for number in 0..20_000 {
        memory.add(&format!("many/a rather long name of a file, number {number:05}"), Content::Bytes(vec![1]));
    }
    let live = Live::of(guest(vec![Some(memory)], &[]));
    for _ in 0..2 {
        let found = names(&live.path("digits/1/many"));
        assert_eq!(found.len(), 20_000);
        assert!(found.is_sorted() && found[19_999].ends_with("19999"));
    }
    let dots = std::process::Command::new("ls").arg("-fai").arg(live.path("digits/1/many")).output().unwrap();
    let dots = String::from_utf8(dots.stdout).unwrap();
    let lines: Vec<_> = dots.lines().map(str::trim).collect();
    assert_eq!((lines.len(), lines[0]), (20_002, format!("{} .", (1u64 << 48) + 6).as_str()));
    assert_eq!(lines[1], format!("{} ..", (1u64 << 48) + 5));
}

#[test]
fn many_readers_at_once_read_what_is_there() {
    if !may_mount() {
        return;
    }
    let live = live();
    let path = live.path("letters/C/big");
    std::thread::scope(|scope| {
        for reader in 0..8u64 {
            let path = &path;
            scope.spawn(move || {
                let file = File::open(path).unwrap();
                for step in 0..50u64 {
                    let at = (reader * 7919 + step * 104_729) % (5 << 20);
                    let mut buf = vec![0; 3000];
                    let len = file.read_at(&mut buf, at).unwrap();
                    assert!(len > 0 && buf[..len].iter().zip(at..).all(|(byte, at)| *byte == pattern(at)));
                }
            });
        }
    });
    let whole = fs::read(&path).unwrap();
    assert_eq!(whole.len(), (5 << 20) + 123);
    assert!(whole.iter().zip(0..).all(|(byte, at)| *byte == pattern(at)));
}

#[test]
fn holes_are_found_as_the_file_system_tells_them() {
    if !may_mount() {
        return;
    }
    let live = live();
    let mut file = File::open(live.path("letters/C/big")).unwrap();
    let seek = |whence| rustix::fs::seek(&file, whence);
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(0)), Ok(1 << 20));
    assert_eq!(seek(rustix::fs::SeekFrom::Data((1 << 20) + 5)), Ok(2 << 20));
    assert_eq!(seek(rustix::fs::SeekFrom::Data(2 << 20)), Ok(2 << 20));
    assert_eq!(seek(rustix::fs::SeekFrom::Data((5 << 20) + 1)), Err(Errno::NXIO));
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(4 << 20)), Ok(5 << 20));
    assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), (5 << 20) + 123);
}

#[test]
fn numbers_and_times_are_the_same_in_two_runs() {
    if !may_mount() {
        return;
    }
    let walk = || {
        let live = live();
        let output = std::process::Command::new("find")
            .arg(".")
            .args(["-printf", "%p %i %s %T@ %C@ %y %l\\n"])
            .current_dir(live.folder.path())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let first = walk();
    assert!(first.lines().count() > 15, "{first}");
    assert_eq!(first, walk());
}
