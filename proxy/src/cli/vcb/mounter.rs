//! `vcbMounter`: back one VM up into a directory of VCB's layout, or mount its files there (vcb.md sections 3, 4 and 10).

use std::path::{Component, PathBuf};

use clap::Args;
use vmdk_rs::Subformat;

use super::getopt::Options;
use super::{secret, start_log};
use crate::cli::args::ConnectArgs;
use crate::cli::backup::with_backup;
use crate::cli::mount::{keep_and_show, show_unmounted};
use crate::config::{ConnectionUri, Scheme, StateDir};
use crate::error::{Error, Family, Result};
use crate::hypervisor::Spec;
use crate::job::{BackupOptions, HoldOptions, HostLimit, Progress, ProgressMode, Quiesce, Retry};
use crate::mount::{KeepRequest, unmount};
use crate::transport::Transport;

const USAGE: &str = "usage: vcbMounter -h HOST -u USER [-p PASSWORD] -a SPEC -r DIR [-t fullvm|file] [-m nbd|nbdssl] [-M 0|1] [-F 0|1] \
    [-L 0-6], or vcbMounter -U -r DIR";
const WITH_VALUE: &str = "huparmctMFL";

pub(super) fn main(args: &[String]) -> Result<()> {
    secret::scrub("vcbMounter", args, WITH_VALUE, USAGE)?;
    let password = secret::handed_over()?;
    let options = Options::parse(args, WITH_VALUE, "U?", USAGE)?;
    if options.has('?') {
        crate::cli::output::line(USAGE);
        return Ok(());
    }
    let level = options.value('L').map_or(Ok(3), |text| one_of(text, 'L', 6))?;
    start_log(level);
    if password.is_some() {
        tracing::warn!("-p shows the password to everybody who lists processes; use a password file, or leave it out");
    }
    let mut passwords = ConnectArgs::passwords();
    passwords.given = password;
    match Job::from(&options)? {
        Job::Unmount { directory } => crate::cli::run(async move {
            let progress = Progress::new(ProgressMode::Auto);
            let unmounted = unmount(&StateDir::from_environment()?, &directory, false, &progress).await?;
            show_unmounted(&unmounted);
            Ok(())
        }),
        Job::Files { uri, vm, directory, transport } => {
            let request = KeepRequest {
                uri: uri.to_string(),
                vm,
                hold: HoldOptions {
                    quiesce: Quiesce::Try,
                    transport,
                    exclude: Vec::new(),
                    removals: Retry::REMOVALS,
                    command: "vcbMounter -t file".into(),
                },
                snapshot_limit: None,
                state: StateDir::from_environment()?.path().to_owned(),
                directory,
                allow_other: false,
                progress: ProgressMode::Auto,
                log: (true, level.saturating_sub(3)),
            };
            crate::cli::run(async move { keep_and_show(&request, &passwords, false, false).await })
        }
        Job::Image { uri, spec, options } => {
            let result = crate::cli::run(async move {
                let progress = Progress::new(ProgressMode::Auto);
                with_backup(*uri, spec, options, progress, passwords, None).await
            })?;
            crate::cli::backup::show(&result)
        }
    }
}

/// What the options ask for.
enum Job {
    /// All disks into a new directory.
    Image { uri: Box<ConnectionUri>, spec: Spec, options: BackupOptions },
    /// The guest's files under a new directory.
    Files { uri: Box<ConnectionUri>, vm: String, directory: PathBuf, transport: Transport },
    /// The end of such a mount.
    Unmount { directory: PathBuf },
}

fn usage(what: String) -> Error {
    Error::new(Family::Usage, what).hint(USAGE)
}

/// A digit from 0 to `most`.
fn one_of(text: &str, letter: char, most: u8) -> Result<u8> {
    text.parse()
        .ok()
        .filter(|n| *n <= most)
        .ok_or_else(|| usage(format!("-{letter} {text} is not a number from 0 to {most}")))
}

impl Job {
    fn from(options: &Options) -> Result<Self> {
        let need = |letter| options.value(letter).ok_or_else(|| usage(format!("-{letter} is missing")));
        let target = destination(need('r')?)?;
        if options.has('U') {
            return Ok(Self::Unmount { directory: target });
        }
        let spec: Spec = need('a')?.parse()?;
        let transport = mode(options.value('m').unwrap_or("san"))?;
        let files = match options.value('t').map(str::to_ascii_lowercase).as_deref() {
            None | Some("fullvm") => false,
            Some("file") => true,
            Some(other) => return Err(usage(format!("-t {other} is neither fullvm nor file"))),
        };
        let digit = |letter| options.value(letter).map_or(Ok(0), |text| one_of(text, letter, 1));
        // vcb.md section 10: -M is one file per disk, -F is flat.
        let subformat = match (digit('M')?, digit('F')?) {
            (0, 0) => Subformat::TwoGbMaxExtentSparse,
            (0, _) => Subformat::TwoGbMaxExtentFlat,
            (_, 0) => Subformat::MonolithicSparse,
            _ => Subformat::MonolithicFlat,
        };
        let uri = Box::new(connection(need('h')?, options.value('u'))?);
        if files {
            // -M and -F are about images; scripts that say them all the same are let be.
            return Ok(Self::Files { uri, vm: need('a')?.to_owned(), directory: target, transport });
        }
        let options = BackupOptions {
            target,
            since: None,
            subformat,
            quiesce: Quiesce::Try,
            transport,
            streams: 2,
            exclude: Vec::new(),
            audit: false,
            keep_points: crate::job::KEEP_POINTS,
            disks_at_once: 4,
            host: HostLimit::default(),
            bandwidth: None,
            removals: Retry::REMOVALS,
            command: "vcbMounter".into(),
        };
        Ok(Self::Image { uri, spec, options })
    }
}

/// The modes VCB knew; ours are not among them.
fn mode(text: &str) -> Result<Transport> {
    let text = text.to_ascii_lowercase();
    if !["san", "cos", "nbd", "nbdssl", "hotadd"].contains(&text.as_str()) {
        return Err(usage(format!("-m {text} is none of san, cos, nbd, nbdssl, hotadd")));
    }
    text.parse()
}

fn connection(host: &str, user: Option<&str>) -> Result<ConnectionUri> {
    let mut uri = if host.starts_with("lab:") || host.contains("://") {
        host.parse()?
    } else {
        ConnectionUri::server(Scheme::VCenter, host)?
    };
    if let Some(user) = user {
        uri.user = Some(user.to_owned());
    }
    // Certificates and password files come from the environment, as VCB has no flags for them.
    let flags = Environment::read()?;
    flags.connect.add_to(&mut uri)?;
    Ok(uri)
}

#[derive(clap::Parser)]
struct Environment {
    #[command(flatten)]
    connect: ConnectArgs,
}

impl Environment {
    fn read() -> Result<Self> {
        let command = <Self as Args>::augment_args(clap::Command::new("vcbMounter"));
        let matches = command.try_get_matches_from(["vcbMounter"]);
        let read = matches.and_then(|m| <Self as clap::FromArgMatches>::from_arg_matches(&m));
        read.map_err(|e| Error::new(Family::Usage, "the environment cannot be used").caused_by(e))
    }
}

fn destination(text: &str) -> Result<PathBuf> {
    if text.starts_with("scp://") || text.starts_with("sftp://") {
        return Err(
            Error::new(Family::Unsupported, "remote destinations are not there yet").hint("name a local directory")
        );
    }
    let path = PathBuf::from(text);
    match path.components().next_back() {
        Some(Component::Normal(_)) => Ok(path),
        _ => Err(usage(format!("-r {text} names no directory to make"))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn job(args: &[&str]) -> Result<Job> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Job::from(&Options::parse(&args, WITH_VALUE, "U?", USAGE)?)
    }

    const BASE: [&str; 8] = ["-h", "vc", "-u", "root", "-aname:x", "-r", "/b/x", "-mnbd"];

    #[test]
    fn the_two_digits_choose_the_four_create_types() {
        let subformat = |args: &[&str]| match job(args).unwrap() {
            Job::Image { options, .. } => options.subformat,
            Job::Files { .. } | Job::Unmount { .. } => panic!("no image"),
        };
        let of = |m, f| subformat(&[&BASE[..], &["-M", m, "-F", f]].concat());
        assert_eq!(of("0", "0"), Subformat::TwoGbMaxExtentSparse);
        assert_eq!(of("0", "1"), Subformat::TwoGbMaxExtentFlat);
        assert_eq!(of("1", "0"), Subformat::MonolithicSparse);
        assert_eq!(of("1", "1"), Subformat::MonolithicFlat);
        assert_eq!(subformat(&BASE), Subformat::TwoGbMaxExtentSparse);
    }

    #[test]
    fn files_are_mounted_and_unmounted_by_their_directory_alone() {
        let files = job(&[&BASE[..], &["-t", "File"]].concat()).unwrap();
        assert!(matches!(files, Job::Files { vm, directory, .. } if vm == "name:x" && directory == Path::new("/b/x")));
        let undone = job(&["-U", "-r", "/b/x"]).unwrap();
        assert!(matches!(undone, Job::Unmount { directory } if directory == Path::new("/b/x")));
        assert_eq!(job(&["-U"]).map(|_| ()).unwrap_err().family(), Family::Usage);
    }

    #[test]
    fn missing_and_wrong_options_are_usage_errors() {
        let no_host = &BASE[2..];
        assert_eq!(job(no_host).map(|_| ()).unwrap_err().family(), Family::Usage);
        for extra in [["-M", "2"], ["-m", "tape"], ["-t", "half"], ["-r", "/"], ["-a", "dns:x"]] {
            let args = [&BASE[..], &extra].concat();
            assert_eq!(job(&args).map(|_| ()).unwrap_err().family(), Family::Usage, "{extra:?}");
        }
    }

    #[test]
    fn both_lan_modes_take_the_lan_route_and_san_is_not_there_yet() {
        for lan in ["nbd", "nbdssl", "NBD"] {
            assert!(mode(lan).unwrap().route(&Scheme::VCenter).is_ok(), "{lan}");
        }
        assert_eq!(mode("san").unwrap().route(&Scheme::VCenter).unwrap_err().family(), Family::Unsupported);
    }
}
