//! Which of our crates may use which? The picture is in the architecture: arrows point down.

use std::io;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// A crate, and those of ours it may depend on, in any way: for building, for tests, for its build script.
const ALLOWED: &[(&str, &[&str])] = &[
    ("blockdev", &[]),
    ("vmdk-rs", &["blockdev"]),
    ("guestfs", &["blockdev"]),
    ("libvirt", &[]),
    ("nbd", &["blockdev"]),
    ("vsphere", &[]),
    ("lab", &["blockdev", "vmdk-rs", "vsphere"]),
    ("stillframe", &["blockdev", "guestfs", "lab", "libvirt", "nbd", "vmdk-rs", "vsphere"]),
    ("acceptance", &["blockdev", "guestfs", "lab", "libvirt", "nbd", "stillframe", "vmdk-rs", "vsphere"]),
];

/// What cargo says of the workspace, without the network.
pub(crate) fn metadata(top: &Path) -> io::Result<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(top)
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Every arrow that the table does not have.
pub(crate) fn problems(metadata: &Value) -> Vec<String> {
    let packages = list(&metadata["packages"]);
    let ours: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut problems = Vec::new();
    for package in packages {
        let Some(name) = package["name"].as_str() else { continue };
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| *known == name) else {
            problems.push(format!("{name} is not in the table of tests/tidy/arrows.rs: say what it may use"));
            continue;
        };
        for dependency in list(&package["dependencies"]) {
            let Some(used) = dependency["name"].as_str() else { continue };
            if ours.contains(&used) && !allowed.contains(&used) {
                problems.push(format!("{name} must not depend on {used}"));
            }
        }
    }
    problems.sort();
    problems.dedup();
    problems
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod self_tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_arrow_between_the_leaves_is_refused() {
        let sample = json!({"packages": [
            {"name": "guestfs", "dependencies": [{"name": "blockdev"}, {"name": "vmdk-rs", "kind": "dev"}]},
            {"name": "vmdk-rs", "dependencies": [{"name": "blockdev"}, {"name": "uuid"}]},
            {"name": "blockdev", "dependencies": []},
        ]});
        assert_eq!(problems(&sample), ["guestfs must not depend on vmdk-rs"]);
    }

    #[test]
    fn a_crate_that_nobody_placed_is_refused() {
        let sample = json!({"packages": [{"name": "utils", "dependencies": []}]});
        assert_eq!(problems(&sample), ["utils is not in the table of tests/tidy/arrows.rs: say what it may use"]);
    }
}
