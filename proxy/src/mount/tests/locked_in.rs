use std::fs::File;
use std::net::{TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;

use super::may_mount;
use crate::mount::sandbox::lock_in;
use crate::mount::syscalls::programs;

const ASKED: &str = "STILLFRAME_TEST_ATTEMPTS";

/// This program again, doing what one test does when asked.
fn ask(test: &str, what: &str) -> (String, String) {
    let name = format!("mount::tests::locked_in::{test}");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture", "--test-threads=1"])
        .env(ASKED, what)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (text(output.stdout), text(output.stderr))
}

/// Tries what a locked-in process must not do, and says what came of each.
fn attempts() {
    let layers = lock_in(std::path::Path::new("/no/mount"));
    for layer in &layers {
        println!("layer {} {}", layer.name, layer.holds);
    }
    let say = |what: &str, result: std::io::Result<()>| match result {
        Ok(()) => println!("{what}: DONE"),
        Err(error) => println!("{what}: {:?}", error.kind()),
    };
    say("open", File::open("/etc/passwd").map(drop));
    say("proc", File::open("/proc/self/maps").map(drop));
    say("create", File::create("/x").map(drop));
    say("list", std::fs::read_dir("/").map(drop));
    say("tcp", TcpStream::connect("127.0.0.1:9").map(drop));
    say("udp", UdpSocket::bind("127.0.0.1:0").map(drop));
    say("socketpair", std::os::unix::net::UnixStream::pair().map(drop));
    say("fork", Command::new("/bin/true").spawn().map(drop));
    say("exec", Err(Command::new("/bin/true").exec()));
    say("ptrace", nix::sys::ptrace::traceme().map_err(Into::into));
    say(
        "kill",
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::CONT).map_err(Into::into),
    );
    say("setuid", nix::unistd::setuid(0.into()).map_err(Into::into));
    say("unshare", nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).map_err(Into::into));
    say("chroot", nix::unistd::chroot("/").map_err(Into::into));
    let answered = std::thread::Builder::new().name("worker".into()).spawn(|| 7).unwrap().join().unwrap();
    println!("thread: {answered}");
}

#[test]
fn nothing_but_serving_is_left_to_a_locked_in_process() {
    if std::env::var_os(ASKED).is_some() {
        return attempts();
    }
    if !may_mount() {
        return;
    }
    let (out, err) = ask("nothing_but_serving_is_left_to_a_locked_in_process", "all");
    let refused = [
        "open",
        "proc",
        "create",
        "list",
        "tcp",
        "udp",
        "socketpair",
        "fork",
        "exec",
        "ptrace",
        "kill",
        "setuid",
        "unshare",
        "chroot",
    ];
    for what in refused {
        assert!(out.contains(&format!("{what}: PermissionDenied")), "{what} in {out}{err}");
    }
    assert!(out.contains("thread: 7"), "{out}{err}");
    for layer in ["namespaces", "root", "user", "capabilities", "privileges", "seccomp"] {
        assert!(out.contains(&format!("layer {layer} true")), "{layer} in {out}");
    }
}

/// Memory that can be executed is asked for by the loader of any program; a filter that allows it to start shows what becomes of that.
#[test]
fn memory_cannot_be_made_executable() {
    const LOADER: [i64; 9] = [
        libc::SYS_execve,
        libc::SYS_openat,
        libc::SYS_access,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_arch_prctl,
        libc::SYS_set_tid_address,
        libc::SYS_prlimit64,
        libc::SYS_getdents64,
    ];
    if std::env::var_os(ASKED).is_some() {
        for program in programs(&LOADER).unwrap() {
            seccompiler::apply_filter(&program).unwrap();
        }
        panic!("{}", Command::new("/bin/true").exec());
    }
    let (out, err) = ask("memory_cannot_be_made_executable", "exec");
    assert!(err.contains("failed to map segment from shared object"), "{out}{err}");
}
