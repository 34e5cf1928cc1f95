//! `-p PASSWORD` stands in process lists for anybody to read (CVE-2008-2101). Old scripts use it, so it works; but the process puts the
//! password into an anonymous file and replaces itself by one whose arguments do not have it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{MemfdFlags, memfd_create};
use zeroize::Zeroizing;

use super::getopt::Options;
use crate::config::Password;
use crate::error::{Context, Error, Family, Result};

/// Names the file descriptor that the password came over.
const VARIABLE: &str = "STILLFRAME_PASSWORD_FD";
/// No password is longer.
const MAX_PASSWORD: u64 = 4096;

/// The arguments without `-p`, and the password if there was one. Letters in `with_value` take a value.
fn split(args: &[String], with_value: &str) -> (Vec<String>, Option<Password>) {
    let mut kept = Vec::new();
    let mut password = None;
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let letter = arg.strip_prefix('-').and_then(|arg| arg.chars().next());
        match letter {
            Some('p') if arg.len() > 2 => password = Some(Zeroizing::new(arg[2..].to_owned())),
            Some('p') => password = rest.next().map(|value| Zeroizing::new(value.clone())),
            Some(letter) if with_value.contains(letter) && arg.len() == 2 => {
                kept.push(arg.clone());
                kept.extend(rest.next().cloned());
            }
            _ => kept.push(arg.clone()),
        }
    }
    (kept, password)
}

/// The password that an earlier self took off the command line.
pub(super) fn handed_over() -> Result<Option<Password>> {
    let Some(number) = std::env::var_os(VARIABLE) else { return Ok(None) };
    let number: u32 = number
        .to_str()
        .and_then(|n| n.parse().ok())
        .ok_or_else(|| Error::new(Family::Usage, format!("{VARIABLE} is not the number of a file descriptor")))?;
    let what = || "cannot read the password".to_owned();
    let mut file = File::options().read(true).write(true).open(format!("/proc/self/fd/{number}")).failed(what)?;
    file.rewind().failed(what)?;
    let mut password = Zeroizing::new(String::new());
    (&mut file).take(MAX_PASSWORD).read_to_string(&mut password).failed(what)?;
    // Processes that this one starts inherit the descriptor.
    file.set_len(0).failed(what)?;
    Ok(Some(password))
}

/// Takes `-p` off the command line of this process, if it is there: then this process is replaced, and the call does not come back.
pub(super) fn scrub(tool: &str, args: &[String], with_value: &str, usage: &str) -> Result<()> {
    let (kept, Some(password)) = split(args, with_value) else { return Ok(()) };
    Options::parse(&kept, with_value, "U?", usage)?;
    let what = || "cannot take the password off the command line".to_owned();
    // Inherited on purpose, so without CLOEXEC.
    let file = memfd_create("stillframe", MemfdFlags::empty()).failed(what)?;
    let mut file = File::from(file);
    file.write_all(password.as_bytes()).failed(what)?;
    let program = std::env::current_exe().failed(what)?;
    let error = Command::new(program)
        .arg0(Path::new(OsStr::new(tool)))
        .args(kept)
        .env(VARIABLE, file.as_raw_fd().to_string())
        .exec();
    Err(error).failed(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_taken_out_and_nothing_else() {
        let args: Vec<String> = ["-h", "-p", "-a", "name:x", "-psecret"].map(str::to_owned).to_vec();
        let (kept, password) = split(&args, "hap");
        assert_eq!(kept, ["-h", "-p", "-a", "name:x"]);
        assert_eq!(password.unwrap().as_str(), "secret");
    }

    #[test]
    fn a_separate_password_goes_with_its_letter() {
        let args: Vec<String> = ["-p", "a b", "-U"].map(str::to_owned).to_vec();
        let (kept, password) = split(&args, "hap");
        assert_eq!((kept, password.unwrap().as_str()), (vec!["-U".to_owned()], "a b"));
    }
}
