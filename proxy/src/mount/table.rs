//! What is mounted where, by `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Family, Result};
use crate::job::RunId;

/// The type of our mounts, `fuse` and a subtype.
pub(super) const SUBTYPE: &str = "stillframe";

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    /// `major:minor` of its device.
    pub(super) device: String,
    /// Where.
    pub(super) point: PathBuf,
    kind: String,
    source: String,
}

impl Mounted {
    /// The run that mounted it, if it is ours.
    pub(super) fn run(&self) -> Option<RunId> {
        if self.kind != format!("fuse.{SUBTYPE}") {
            return None;
        }
        self.source.strip_prefix("stillframe-")?.parse().ok().map(RunId)
    }
}

/// The name under which a run's mount stands in the table.
pub(super) fn source_name(run: RunId) -> String {
    format!("stillframe-{run}")
}

/// All mounts of this process's view, oldest first.
pub(super) fn read() -> Result<Vec<Mounted>> {
    let table = std::fs::read("/proc/self/mountinfo").failed(|| "cannot read the table of mounts".into())?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(line).collect())
}

/// What is mounted at `path`; of several on top of each other the one that is seen.
pub(super) fn at(path: &Path) -> Result<Option<Mounted>> {
    Ok(read()?.into_iter().rev().find(|mounted| mounted.point == path))
}

fn line(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let device = fields.nth(2)?;
    let point = fields.nth(1)?;
    let kind = fields.by_ref().skip_while(|field| *field != b"-").nth(1)?;
    let source = fields.next()?;
    let point = PathBuf::from(OsString::from_vec(unescaped(point)));
    Some(Mounted { device: text(device), point, kind: text(kind), source: text(source) })
}

/// Blanks, tabs, line ends and backslashes stand there as `\040` and so on.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, more)) = rest.split_first() {
        let code = more.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match (first, code) {
            (b'\\', Some(byte)) => {
                out.push(byte);
                rest = more.get(3..).unwrap_or_default();
            }
            _ => {
                out.push(*first);
                rest = more;
            }
        }
    }
    out
}

/// The whole path of a mount point without touching it: one whose server died answers nothing.
///
/// # Errors
/// [`Family::Usage`] if its parent cannot be found.
pub(super) fn whole(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).failed(|| format!("cannot use {}", path.display()))?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new(Family::Usage, format!("{} names no directory to mount on", path.display())));
    };
    let parent = std::fs::canonicalize(parent).map_err(|e| {
        let what = format!("{} is not there, in which {} would lie", parent.display(), Path::new(name).display());
        Error::new(Family::Usage, what).caused_by(e)
    })?;
    Ok(parent.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gives_device_place_and_run() {
        let run = RunId::new();
        let text = format!(
            "98 25 0:45 / /mnt/a\\040b\\134c rw,nosuid shared:9 master:2 - fuse.stillframe stillframe-{run} ro,user_id=0"
        );
        let mounted = line(text.as_bytes()).unwrap();
        assert_eq!((mounted.device.as_str(), mounted.point.as_path()), ("0:45", Path::new("/mnt/a b\\c")));
        assert_eq!(mounted.run(), Some(run));
        let other = text.replace("fuse.stillframe", "fuse.sshfs");
        assert_eq!(line(other.as_bytes()).unwrap().run(), None);
        assert_eq!(line(b"98 25 0:45 /"), None);
    }

    #[test]
    fn the_root_of_this_machine_is_in_the_table() {
        assert!(read().unwrap().iter().any(|mounted| mounted.point == Path::new("/")));
    }
}
