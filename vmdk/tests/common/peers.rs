//! The maker of images and the foreign readers in `tests/peers/vmdk` of the repository.
#![allow(dead_code, clippy::unwrap_used, reason = "each test program uses a part, and all of it is test code")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::common::{have, run};

/// A script of the peers.
pub(crate) fn script(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peers/vmdk");
    folder.join(name).to_str().unwrap().to_owned()
}

/// Whether images can be made: it takes Python, and the scripts of the repository.
pub(crate) fn have_maker() -> bool {
    have("python3") && (Path::new(&script("make.py")).exists() || absent("the repository's tests/peers/vmdk"))
}

/// The names of all scenarios.
pub(crate) fn scenarios() -> Vec<String> {
    let list = run("python3", &[&script("make.py"), "--list"], Path::new("."));
    list.lines().map(str::to_owned).collect()
}

/// Makes a scenario in the new folder `dir/NAME`. Answers the folder and what `scenario.json` says.
pub(crate) fn make(name: &str, dir: &Path) -> (PathBuf, Value) {
    let facts = run("python3", &[&script("make.py"), name, name], dir);
    (dir.join(name), serde_json::from_str(&facts).unwrap())
}

/// The venv of the foreign readers, if `tests/run` has installed it and says where.
pub(crate) fn readers() -> Option<Readers> {
    let Some(peers) = std::env::var_os("STILLFRAME_PEERS") else {
        absent("STILLFRAME_PEERS, which tests/run sets,");
        return None;
    };
    let venv = PathBuf::from(peers).join("vmdk-venv");
    if !venv.join("bin/python").exists() {
        absent(&venv.display().to_string());
        return None;
    }
    Some(Readers { venv })
}

/// Always false. Absence is an error in CI and a printed reason elsewhere.
fn absent(what: &str) -> bool {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{what} is missing, and CI must have it");
    eprintln!("skipped: {what} is not here");
    false
}

/// dissect.hypervisor and libvmdk, each run in a process of its own.
pub(crate) struct Readers {
    pub(crate) venv: PathBuf,
}

impl Readers {
    /// Has a reader read the disk `top`, or just the `windows` of it (byte, length), one behind the other. Answers the raw
    /// file.
    pub(crate) fn read(&self, reader: &str, dir: &Path, top: &str, windows: &[(u64, u64)]) -> PathBuf {
        let (script, out) = (script("read.py"), format!("{reader}.raw"));
        let windows: Vec<String> = windows.iter().map(|(at, len)| format!("{at}:{len}")).collect();
        let args = [&script, reader, top, &out].into_iter().chain(windows.iter().map(String::as_str));
        run(self.venv.join("bin/python").to_str().unwrap(), &args.collect::<Vec<&str>>(), dir);
        dir.join(out)
    }

    /// Runs `self_check.py` over scenarios.
    pub(crate) fn self_check(&self, names: &[&str]) -> Result<(), String> {
        let out = Command::new("python3").arg(script("self_check.py")).arg(&self.venv).args(names).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        if out.status.success() { Ok(()) } else { Err(format!("{text}{}", String::from_utf8_lossy(&out.stderr))) }
    }
}
