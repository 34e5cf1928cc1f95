use std::fs;

use guestfs::{Case, LinkTarget};

use super::memory::{Content, Memory, ROOT, id};
use super::{Live, guest, guid, may_mount};
use crate::mount::{NodeId, Place, Tree};

fn names(text: &str) -> Vec<Vec<u8>> {
    text.split('/').filter(|name| !name.is_empty()).map(|name| name.as_bytes().to_vec()).collect()
}

/// C: with all kinds of links, D: with a file, and a third volume without a letter.
fn volumes() -> Vec<Option<Memory>> {
    use LinkTarget::{Letter, Outside, Relative, Root, Volume};
    let (mut c, mut d, mut e) = (Memory::new(), Memory::new(), Memory::new());
    for folder in ["Users", "Users/Ann", "ProgramData"] {
        c.add(folder, Content::Folder);
    }
    c.add("ProgramData/x.txt", Content::Bytes(b"c".to_vec()));
    d.add("Data", Content::Folder);
    d.add("Data/y.txt", Content::Bytes(b"d".to_vec()));
    e.add("z.txt", Content::Bytes(b"e".to_vec()));
    let links = [
        ("All Users", Root(names("programdata"))),
        ("Users/Ann/App", Root(names("PROGRAMDATA/X.TXT"))),
        ("Users/Ann/other", Letter('D', names("data/Y.txt"))),
        ("Users/Ann/same", Letter('C', names("ProgramData"))),
        ("Users/Ann/up", Relative(names("../../ProgramData/x.txt"))),
        ("Users/Ann/gone", Root(names("ProgramData/NoSuch"))),
        ("Users/Ann/out", Relative(names("../../../etc/passwd"))),
        ("Users/Ann/over", Root(names("../etc/passwd"))),
        ("Users/Ann/far", Letter('Q', names("x"))),
        ("Users/Ann/share", Outside("//server/share".into())),
        ("Users/Ann/byid", Volume(guid(3), names("Z.TXT"))),
        ("Users/Ann/slash", Root(vec![b"a/../../../etc".to_vec()])),
        ("Users/Mnt", Volume(guid(3), Vec::new())),
        ("Users/Self", Volume(guid(1), Vec::new())),
        ("Users/Unknown", Volume(guid(77), Vec::new())),
    ];
    for (path, target) in links {
        c.add(path, Content::Link(target));
    }
    e.add("back", Content::Link(Volume(guid(1), Vec::new())));
    e.add("to d", Content::Link(Letter('D', names("Data/y.txt"))));
    e.add("top", Content::Link(Root(names("Z.txt"))));
    vec![Some(c), Some(d), Some(e)]
}

fn guest_with_links() -> super::Guest {
    guest(volumes(), &[('C', 1), ('D', 2)])
}

#[test]
fn links_lead_to_the_file_and_never_out_of_the_tree() {
    if !may_mount() {
        return;
    }
    let live = Live::of(guest_with_links());
    for place in ["letters/C", "digits/1"] {
        let link = |name: &str| {
            let target = fs::read_link(live.path(place).join(name)).unwrap();
            target.to_str().unwrap().to_owned()
        };
        let ann = |name: &str| link(&format!("Users/Ann/{name}"));
        assert_eq!(link("All Users"), "ProgramData");
        assert_eq!(ann("App"), "../../ProgramData/x.txt");
        assert_eq!(ann("other"), "../../../../letters/D/Data/y.txt");
        assert_eq!(ann("same"), "../../ProgramData");
        assert_eq!(ann("up"), "../../ProgramData/x.txt");
        assert_eq!(ann("gone"), "../../ProgramData/NoSuch");
        assert_eq!(ann("byid"), "../../../../digits/3/z.txt");
        let dangling = [
            ("out", "..\\..\\..\\etc\\passwd"),
            ("over", "\\..\\etc\\passwd"),
            ("far", "Q:\\x"),
            ("share", "\\\\server\\share"),
            ("slash", "\\a\\..\\..\\..\\etc"),
        ];
        for (name, text) in dangling {
            assert_eq!(ann(name), text);
            assert_eq!(
                fs::metadata(live.path(place).join("Users/Ann").join(name)).unwrap_err().kind(),
                std::io::ErrorKind::NotFound
            );
        }
        let read = |name: &str| fs::read(live.path(place).join("Users/Ann").join(name)).unwrap();
        assert_eq!((read("App"), read("other"), read("byid")), (b"c".into(), b"d".into(), b"e".into()));
        // What stat says of a link is the length of its text.
        assert_eq!(fs::symlink_metadata(live.path(place).join("All Users")).unwrap().len(), 11);
    }
}

#[test]
fn a_volume_on_a_folder_is_that_folder_and_never_lies_in_itself() {
    if !may_mount() {
        return;
    }
    let live = Live::of(guest_with_links());
    for place in ["letters/C/Users", "digits/1/Users"] {
        let folder = live.path(place);
        let kind = fs::symlink_metadata(folder.join("Mnt")).unwrap().file_type();
        assert!(kind.is_dir());
        assert_eq!(fs::read(folder.join("Mnt/z.txt")).unwrap(), b"e");
        assert_eq!(fs::read(folder.join("Mnt/to d")).unwrap(), b"d");
        assert_eq!(fs::read(folder.join("Mnt/top")).unwrap(), b"e");
        let listed: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(Result::unwrap)
            .filter(|entry| entry.file_type().unwrap().is_dir())
            .map(|entry| entry.file_name())
            .collect();
        assert!(listed.contains(&"Mnt".into()) && !listed.contains(&"Self".into()), "{listed:?}");
        for end in ["Self", "Unknown", "Mnt/back"] {
            let text = fs::read_link(folder.join(end)).unwrap();
            assert!(text.to_str().unwrap().starts_with("\\\\?\\Volume{"), "{text:?}");
        }
    }
    // The third volume by its number shows the first on a folder, and that one not the third again.
    assert_eq!(fs::read(live.path("digits/3/back/ProgramData/x.txt")).unwrap(), b"c");
    assert!(fs::read_link(live.path("digits/3/back/Users/Mnt")).is_ok());
    let entries = std::process::Command::new("find").arg(live.folder.path()).output().unwrap();
    let lines = entries.stdout.iter().filter(|byte| **byte == b'\n').count();
    assert!(entries.status.success() && lines < 200, "{lines} lines, {}", String::from_utf8_lossy(&entries.stderr));
}

#[test]
fn a_way_up_without_end_is_an_error() {
    let mut memory = Memory::new();
    let mut path = String::from("f");
    memory.add(&path, Content::Folder);
    for _ in 0..1100 {
        path.push_str("/f");
        memory.add(&path, Content::Folder);
    }
    let link = memory.add(&format!("{path}/l"), Content::Link(LinkTarget::Root(names("f"))));
    let tree = Tree::new(guest(vec![Some(memory)], &[]), Vec::new());
    let error = tree.link_text(NodeId::new(Place(1), id(link))).unwrap_err();
    assert!(error.to_string().contains("more than 1024"), "{error}");
    let root = NodeId::new(Place(1), id(ROOT));
    assert!(tree.find(root, b"F", Case::Exact).unwrap().is_none());
    assert!(tree.find(root, b"F", Case::Ignored).unwrap().is_some());
}
