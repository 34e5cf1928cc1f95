//! The VCB tools, each answering by its name in any case, with the suffixes of their time (vcb.md section 3).

mod getopt;
mod mounter;
mod mountvm;
mod secret;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use super::log;
use crate::error::{Error, Family, Result};

/// A tool of the VCB family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// `vcbMounter`: back up one VM.
    Mounter,
    /// `mountvm`: show the volumes of an image.
    MountVm,
    /// A tool that is known by name and not there yet.
    Later(&'static str),
}

const TOOLS: [(&str, Tool); 10] = [
    ("mountvm", Tool::MountVm),
    ("vcbmounter", Tool::Mounter),
    ("vcbvmname", Tool::Later("vcbVmName")),
    ("vcbsnapall", Tool::Later("vcbSnapAll")),
    ("vcbsnapshot", Tool::Later("vcbSnapshot")),
    ("vcbrestore", Tool::Later("vcbRestore")),
    ("vcbresall", Tool::Later("vcbResAll")),
    ("vcbutil", Tool::Later("vcbUtil")),
    ("vcbcleanup", Tool::Later("vcbCleanup")),
    ("vcbexport", Tool::Later("vcbExport")),
];

/// The tool that `called` names, path, case and suffix aside.
#[must_use]
pub fn tool_of(called: &OsStr) -> Option<Tool> {
    let name = Path::new(called).file_name()?.to_str()?.to_ascii_lowercase();
    let name = [".exe", ".bat", ".wsf"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(&name);
    TOOLS.iter().find(|(known, _)| *known == name).map(|(_, tool)| *tool)
}

pub(super) fn main(tool: Tool, args: &[OsString]) -> ExitCode {
    super::finish(dispatch(tool, args))
}

fn dispatch(tool: Tool, args: &[OsString]) -> Result<()> {
    let args: Vec<String> = args
        .iter()
        .map(|arg| arg.to_str().map(str::to_owned))
        .collect::<Option<_>>()
        .ok_or_else(|| Error::new(Family::Usage, "an argument is not UTF-8"))?;
    match tool {
        Tool::Mounter => mounter::main(&args),
        Tool::MountVm => mountvm::main(&args),
        Tool::Later(name) => Err(Error::new(Family::Unsupported, format!("{name} is not there yet"))
            .hint("vcbMounter is; `stillframe --help` shows what else can be done")),
    }
}

/// Starts VCB's log: level 0 to 6, where 3 is the default and shows warnings.
fn start_log(level: u8) {
    log::start(log::Style::Vcb, level.saturating_sub(3));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_known_by_any_case_path_and_suffix() {
        for called in ["vcbMounter", "/usr/bin/VCBMOUNTER", "vcbmounter.exe", "C/vcbMounter.BAT"] {
            assert_eq!(tool_of(OsStr::new(called)), Some(Tool::Mounter), "{called}");
        }
        for other in ["stillframe", "vcbMounterX", "", "backup"] {
            assert_eq!(tool_of(OsStr::new(other)), None, "{other}");
        }
    }
}
