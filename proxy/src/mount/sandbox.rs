//! The server locks itself in before it reads anything that a guest wrote. Every layer that a kernel has is used; one that it lacks is
//! a warning in the report.

use std::path::Path;

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus, Scope};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, chdir, pivot_root, setgroups, setresgid, setresuid};
use rustix::process::geteuid;
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

use super::syscalls;

/// The user and group that own nothing.
const NOBODY: u32 = 65_534;

/// One layer of the lock-in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Its name.
    pub name: String,
    /// Whether it holds.
    pub holds: bool,
    /// What it does, or why it does not hold.
    pub note: String,
}

type Outcome = Result<&'static str, String>;

/// Locks this process in, for ever. It must have one thread only, and everything it will need must be open. `mounted` is where it serves.
pub(super) fn lock_in(mounted: &Path) -> Vec<Layer> {
    let namespaces = enter_namespaces();
    if namespaces.is_ok() {
        forget_mount(mounted);
    }
    let root = match &namespaces {
        Ok(_) => empty_root(),
        Err(_) => Err("there is no mount namespace of its own".into()),
    };
    // In this order: each step takes away what only the steps before it need.
    let layers = [
        ("namespaces", namespaces),
        ("root", root),
        ("user", become_nobody()),
        ("capabilities", drop_capabilities()),
        ("privileges", no_new_privileges()),
        ("landlock", landlock()),
        ("seccomp", syscalls::restrict().map(|()| "all system calls but those that serving takes are refused")),
    ];
    let layer = |(name, outcome): (&str, Outcome)| match outcome {
        Ok(note) => Layer { name: name.into(), holds: true, note: note.into() },
        Err(note) => Layer { name: name.into(), holds: false, note },
    };
    layers.into_iter().map(layer).collect()
}

fn said(what: &str) -> impl FnOnce(nix::Error) -> String {
    move |error| format!("{what}: {error}")
}

fn enter_namespaces() -> Outcome {
    let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC;
    unshare(flags)
        .or_else(|_| unshare(flags | CloneFlags::CLONE_NEWUSER))
        .map(|()| "mounts, network and IPC of its own")
        .map_err(said("unshare"))
}

/// A copy of its own mount in this namespace would keep its file system alive after it was unmounted outside.
fn forget_mount(mounted: &Path) {
    let none = None::<&str>;
    // Private, so that it goes here only. What cannot be done shows when the mount is to end: then the server is killed.
    if mount(none, mounted, none, MsFlags::MS_PRIVATE, none).is_ok() {
        let _ = umount2(mounted, MntFlags::MNT_DETACH);
    }
}

/// Leaves nothing to open: the root becomes an empty file system in memory, and the old mounts go from this process's view.
fn empty_root() -> Outcome {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(said("making mounts private"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let place = ["/tmp", "/proc", "/dev"].into_iter().find(|place| Path::new(place).is_dir()).unwrap_or("/tmp");
    mount(Some("tmpfs"), place, Some("tmpfs"), flags, Some("size=4k,mode=0555")).map_err(said("mounting tmpfs"))?;
    chdir(place).map_err(said("chdir"))?;
    pivot_root(".", ".").map_err(said("pivot_root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(said("leaving the old root"))?;
    chdir("/").map_err(said("chdir"))?;
    let read_only = flags | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, "/", none, read_only, none).map_err(said("making the root read-only"))?;
    Ok("an empty root, no file of the machine is in sight")
}

fn become_nobody() -> Outcome {
    if !geteuid().is_root() {
        return Ok("the user who mounts, who is not root");
    }
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    setgroups(&[]).map_err(said("setgroups"))?;
    setresgid(group, group, group).map_err(said("setresgid"))?;
    setresuid(user, user, user).map_err(said("setresuid"))?;
    Ok("nobody")
}

fn drop_capabilities() -> Outcome {
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).map_err(|e| format!("capset: {e}"))?;
    Ok("none")
}

fn no_new_privileges() -> Outcome {
    // After the change of the user, which decides anew whether memory may be dumped.
    nix::sys::prctl::set_dumpable(false).map_err(said("PR_SET_DUMPABLE"))?;
    nix::sys::prctl::set_no_new_privs().map_err(said("PR_SET_NO_NEW_PRIVS"))?;
    Ok("no program gives more, nobody may look into its memory")
}

fn landlock() -> Outcome {
    const KNOWN: ABI = ABI::V6;
    let restricted = || {
        Ruleset::default()
            .handle_access(AccessFs::from_all(KNOWN))?
            .handle_access(AccessNet::from_all(KNOWN))?
            .scope(Scope::from_all(KNOWN))?
            .create()?
            .restrict_self()
    };
    match restricted().map(|status| status.ruleset) {
        Ok(RulesetStatus::FullyEnforced) => Ok("no file, no port, no foreign process"),
        Ok(RulesetStatus::PartiallyEnforced) => Ok("what this kernel knows of it: no file"),
        Ok(RulesetStatus::NotEnforced) => Err("this kernel has no Landlock".into()),
        Err(error) => Err(error.to_string()),
    }
}
