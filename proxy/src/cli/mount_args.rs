use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::args::FreezeArgs;
use super::disk_args::MapArgs;
use super::output::ShowArgs;
use crate::disk::SourceFormat;

/// Which disks are looked into.
#[derive(Args)]
pub(super) struct ImagesArgs {
    /// The images' format; without it their names tell (.vmdk, .raw, .img). Nothing is guessed from the content
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(super) format: Option<SourceFormat>,
    #[command(flatten)]
    pub(super) map: MapArgs,
}

#[derive(Args)]
pub(super) struct MountArgs {
    /// The VM: name:, uuid:, ipaddr: or moref:. With --image, the directory to mount on
    #[arg(value_name = "SPEC")]
    pub(super) word: String,
    /// The directory to mount on: an empty one, or one to make; its parent must exist
    #[arg(short, long, value_name = "DIR")]
    pub(super) output: Option<PathBuf>,
    /// A disk image, an NBD URI or the directory of a backup, instead of a VM; may stand more than once
    #[arg(long = "image", value_name = "FILE")]
    pub(super) images: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) source: ImagesArgs,
    #[command(flatten)]
    pub(super) freeze: FreezeArgs,
    /// Let other users read too
    #[arg(long)]
    pub(super) allow_other: bool,
    /// Stay until it is unmounted; a signal unmounts it
    #[arg(long)]
    pub(super) foreground: bool,
    #[command(flatten)]
    pub(super) show: ShowArgs,
}

#[derive(Args)]
pub(super) struct UnmountArgs {
    /// Where it is mounted
    pub(super) directory: PathBuf,
    /// Also when somebody has files open in it
    #[arg(long)]
    pub(super) force: bool,
    #[command(flatten)]
    pub(super) show: ShowArgs,
}

#[derive(Args)]
pub(super) struct MountsArgs {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args)]
pub(super) struct FsArgs {
    #[command(subcommand)]
    pub(super) command: FsCommand,
}

/// Images, and behind them a path in the guest.
#[derive(Args)]
pub(super) struct WhereArgs {
    /// Disk images, NBD URIs or backup directories; last may stand a path in the guest: C:\Windows, letters/C/Windows, digits/1
    #[arg(required = true, value_name = "IMAGE… [PATH]")]
    pub(super) words: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) source: ImagesArgs,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Subcommand)]
pub(super) enum FsCommand {
    /// List a folder
    Ls(WhereArgs),
    /// Write a file to standard output
    Cat(WhereArgs),
    /// Show all that is known of a file
    Stat(WhereArgs),
    /// Print the paths of files by their names
    Find {
        #[command(flatten)]
        place: WhereArgs,
        /// What the names are like: * is any text, ? any character; case does not matter
        #[arg(long, value_name = "GLOB", default_value = "*")]
        name: String,
    },
    /// Read every file to its end and tell what cannot be read
    Verify {
        #[command(flatten)]
        place: WhereArgs,
        /// How progress is shown
        #[arg(long, value_enum, default_value = "auto")]
        progress: crate::job::ProgressMode,
    },
}
