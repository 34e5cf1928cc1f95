//! `mountvm`: shows the volumes of an exported image, and undoes that (vcb.md section 3).

use std::path::PathBuf;

use super::start_log;
use crate::cli::mount::{mount_and_show, show_unmounted};
use crate::config::StateDir;
use crate::error::{Context, Error, Family, Result};
use crate::job::{Progress, ProgressMode, RunId};
use crate::mount::{ImageSpec, MountSpec, unmount};

const USAGE: &str = "usage: mountvm -d VMDK [-cycleId] MOUNTPOINT, or mountvm -u MOUNTPOINT";

#[derive(Debug, PartialEq, Eq)]
enum Job {
    Mount { image: PathBuf, directory: PathBuf },
    Unmount { directory: PathBuf },
    Help,
}

pub(super) fn main(args: &[String]) -> Result<()> {
    let job = parse(args)?;
    start_log(3);
    match job {
        Job::Help => {
            crate::cli::output::line(USAGE);
            Ok(())
        }
        Job::Mount { image, directory } => crate::cli::run(async move { mount(image, directory).await }),
        Job::Unmount { directory } => crate::cli::run(async move {
            let state = StateDir::from_environment()?;
            let unmounted = unmount(&state, &directory, false, &Progress::new(ProgressMode::Auto)).await?;
            show_unmounted(&unmounted);
            Ok(())
        }),
    }
}

async fn mount(image: PathBuf, directory: PathBuf) -> Result<()> {
    let path = std::path::absolute(&image).failed(|| format!("cannot use {}", image.display()))?;
    let spec = MountSpec {
        run: RunId::new(),
        state: StateDir::from_environment()?.path().to_owned(),
        command: "mountvm".into(),
        images: vec![ImageSpec { path, raw: None, map: Vec::new() }],
        source: image.display().to_string(),
        directory,
        allow_other: false,
    };
    mount_and_show(&spec, false, false).await
}

fn parse(args: &[String]) -> Result<Job> {
    let usage = |what: &str| Error::new(Family::Usage, what).hint(USAGE);
    let (mut image, mut undo, mut directory) = (None, false, None);
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "-?" => return Ok(Job::Help),
            "-d" => image = Some(PathBuf::from(rest.next().ok_or_else(|| usage("-d lacks its value"))?)),
            "-u" => undo = true,
            // It gave the disk a signature of its own, for Windows hosts; nothing here goes by signatures.
            other if other.eq_ignore_ascii_case("-cycleid") => {}
            other if other.starts_with('-') => return Err(usage(&format!("{other} is not known"))),
            _ if directory.is_some() => return Err(usage(&format!("\"{arg}\" is not expected"))),
            _ => directory = Some(PathBuf::from(arg)),
        }
    }
    let directory = directory.ok_or_else(|| usage("the mount point is missing"))?;
    match (image, undo) {
        (Some(image), false) => Ok(Job::Mount { image, directory }),
        (None, true) => Ok(Job::Unmount { directory }),
        (Some(_), true) => Err(usage("-d and -u do not go together")),
        (None, false) => Err(usage("-d or -u is missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(args: &[&str]) -> Result<Job> {
        parse(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn both_forms_are_understood_and_nothing_else() {
        let mount = Job::Mount { image: "a.vmdk".into(), directory: "/m".into() };
        assert_eq!(of(&["-d", "a.vmdk", "-cycleId", "/m"]).unwrap(), mount);
        assert_eq!(of(&["-u", "/m"]).unwrap(), Job::Unmount { directory: "/m".into() });
        for bad in [&["/m"][..], &["-d", "a"], &["-d"], &["-u"], &["-u", "-d", "a", "/m"], &["-u", "/m", "/n"], &["-x"]]
        {
            assert_eq!(of(bad).unwrap_err().family(), Family::Usage, "{bad:?}");
        }
    }
}
