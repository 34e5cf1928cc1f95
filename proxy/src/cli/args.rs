use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use vmdk_rs::Subformat;
use zeroize::Zeroizing;

use super::disk_args::DiskArgs;
use super::mount_args::{FsArgs, MountArgs, MountsArgs, UnmountArgs};
use super::nbd::NbdArgs;
use super::output::ShowArgs;
use super::restore_args::RestoreArgs;
use crate::config::{ConnectionUri, PasswordSources, TlsChoice};
use crate::error::{Error, Family, Result};
use crate::hypervisor::{Connected, connect};
use crate::job::{Cancel, Quiesce, Retry};

/// Backs up running virtual machines from outside, restores them, and proves both.
#[derive(Parser)]
#[command(name = "stillframe", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 done, 1 I/O, network or hypervisor failed, 2 usage, 3 no VM or more than one, \
    4 not supported, 5 data wrong, 6 something exists, 8 data good but a snapshot is left, 130 cancelled.")]
pub(super) struct Cli {
    /// Say more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Show virtual machines
    Vm(VmArgs),
    /// Back one VM up into a new directory
    Backup(BackupArgs),
    /// Bring a VM back from a backup directory
    Restore(RestoreArgs),
    /// Read a whole backup and compare it with what was backed up
    Verify(VerifyArgs),
    /// Show or remove snapshots
    Snapshot(SnapshotArgs),
    /// Undo what dead runs left
    Cleanup(CleanupArgs),
    /// Look into disk images, check and convert them
    Disk(DiskArgs),
    /// Serve disks to NBD clients
    Nbd(NbdArgs),
    /// Show the files in disk images under drive letters, read-only
    Mount(MountArgs),
    /// End a mount and remove the directory that it made
    Unmount(UnmountArgs),
    /// List the mounts of this machine
    Mounts(MountsArgs),
    /// Look at the files in disk images without mounting them
    Fs(FsArgs),
    /// Show on a built-in lab what the program does, and prove it
    Demo(DemoArgs),
    /// Run a simulated vCenter with real disks and guests that write
    Lab(LabArgs),
    /// Keep the password of a connection in the kernel's keyring
    Login(LoginArgs),
    /// Forget the password of a connection
    Logout(LoginArgs),
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write all of them into a directory
    Man {
        /// Where to
        directory: Option<PathBuf>,
    },
}

/// How to reach the hypervisor.
#[derive(Args, Clone, Default)]
pub(super) struct ConnectArgs {
    /// vpx://USER@HOST/, esx://USER@HOST/, qemu:///system (and what libvirt has beside it) or lab:DIR
    #[arg(short, long, value_name = "URI", env = "STILLFRAME_URI")]
    pub(super) connect: Option<String>,
    /// A file whose first line is the password
    #[arg(long, value_name = "FILE")]
    pub(super) password_file: Option<PathBuf>,
    /// Certificate authorities to trust instead of the system's (PEM)
    #[arg(long, value_name = "FILE", env = "STILLFRAME_CA_FILE")]
    pub(super) ca_file: Option<PathBuf>,
    /// Accept the certificate with this SHA-1 or SHA-256 digest; may stand more than once
    #[arg(long, value_name = "DIGEST", env = "STILLFRAME_THUMBPRINT")]
    pub(super) thumbprint: Vec<String>,
    /// Accept any certificate; warned about in every run
    #[arg(long)]
    pub(super) insecure: bool,
}

impl ConnectArgs {
    /// The connection that was asked for, options and all.
    pub(super) fn uri(&self) -> Result<ConnectionUri> {
        let text = self.connect.as_deref().ok_or_else(|| {
            Error::new(Family::Usage, "no connection is named").hint("use --connect URI, or set STILLFRAME_URI")
        })?;
        let mut uri: ConnectionUri = text.parse()?;
        self.add_to(&mut uri)?;
        Ok(uri)
    }

    /// Adds what the flags and the environment say to a connection.
    pub(super) fn add_to(&self, uri: &mut ConnectionUri) -> Result<()> {
        let tls = TlsChoice {
            ca_file: absolute(self.ca_file.as_ref().or(uri.tls.ca_file.as_ref()))?,
            pins: uri.tls.pins.clone(),
            insecure: uri.tls.insecure || self.insecure,
        };
        uri.tls = tls;
        for pin in &self.thumbprint {
            let pin =
                pin.parse().map_err(|e| Error::new(Family::Usage, format!("\"{pin}\" is no digest")).caused_by(e))?;
            uri.tls.pins.push(pin);
        }
        uri.password_file = absolute(self.password_file.as_ref().or(uri.password_file.as_ref()))?;
        if let crate::config::Scheme::Lab(dir) = &mut uri.scheme {
            *dir = absolute(Some(dir))?.unwrap_or_default();
        }
        Ok(())
    }

    /// The ways to a password.
    pub(super) fn passwords() -> PasswordSources {
        PasswordSources {
            given: None,
            file: None,
            environment: std::env::var("STILLFRAME_PASSWORD").ok().map(Zeroizing::new),
            may_prompt: true,
        }
    }

    /// Connects and logs in, unless the user cancels first.
    pub(super) async fn open(&self, cancel: &Cancel) -> Result<Connected> {
        let uri = self.uri()?;
        cancel.or_stop(connect(&uri, &Self::passwords(), None)).await
    }
}

/// A cleanup may run in another directory, so the journal wants whole paths.
fn absolute(path: Option<&PathBuf>) -> Result<Option<PathBuf>> {
    path.map(std::path::absolute)
        .transpose()
        .map_err(|e| Error::new(Family::Usage, "a path cannot be made absolute").caused_by(e))
}

#[derive(Args)]
pub(super) struct VmArgs {
    #[command(subcommand)]
    pub(super) command: VmCommand,
}

#[derive(Subcommand)]
pub(super) enum VmCommand {
    /// List the VMs that match
    List {
        /// name:, uuid:, ipaddr:, moref:, powerstate:, any: (default) or none:
        #[arg(default_value = "any:")]
        spec: String,
        #[command(flatten)]
        connect: ConnectArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// The kinds of VMDK that can be written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Format {
    /// One sparse file
    #[value(name = "monolithicSparse")]
    MonolithicSparse,
    /// A descriptor and one flat file
    #[value(name = "monolithicFlat")]
    MonolithicFlat,
    /// Sparse pieces of at most 2 GB
    #[value(name = "twoGbMaxExtentSparse")]
    TwoGbMaxExtentSparse,
    /// Flat pieces of at most 2 GB
    #[value(name = "twoGbMaxExtentFlat")]
    TwoGbMaxExtentFlat,
}

impl From<Format> for Subformat {
    fn from(format: Format) -> Self {
        match format {
            Format::MonolithicSparse => Self::MonolithicSparse,
            Format::MonolithicFlat => Self::MonolithicFlat,
            Format::TwoGbMaxExtentSparse => Self::TwoGbMaxExtentSparse,
            Format::TwoGbMaxExtentFlat => Self::TwoGbMaxExtentFlat,
        }
    }
}

#[derive(Args)]
pub(super) struct BackupArgs {
    /// The VM: name:, uuid:, ipaddr: or moref:
    pub(super) spec: String,
    /// The directory to make; its parent must exist
    #[arg(short, long, value_name = "DIR")]
    pub(super) output: PathBuf,
    /// Copy only what changed since this earlier backup of the VM, which lies beside the new one and is needed with it from then on
    #[arg(long, value_name = "DIR")]
    pub(super) since: Option<PathBuf>,
    /// The kind of VMDK to write; what changed is always written as monolithicSparse
    #[arg(long, value_enum, default_value = "monolithicSparse")]
    pub(super) format: Format,
    #[command(flatten)]
    pub(super) freeze: FreezeArgs,
    /// Requests in flight per disk
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(super) streams: u8,
    /// Disks to copy side by side
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(super) disks: u8,
    /// Runs of this machine that may be at work on the host at the same time; one more waits
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) host_jobs: u32,
    /// Seconds to wait for a turn on the host
    #[arg(long, value_name = "SECONDS", default_value_t = 21600)]
    pub(super) wait: u64,
    /// Bytes a second to read from the host, over all disks: 100M, 1G
    #[arg(long, value_name = "RATE", value_parser = super::disk_args::bytes)]
    pub(super) bandwidth: Option<u64>,
    /// Read every disk a second time and compare, which finds bytes that the host or the way to it got wrong
    #[arg(long)]
    pub(super) audit: bool,
    /// Checkpoints of ours to keep on a libvirt machine; each lets later backups ask what changed since it
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) keep_points: u16,
    #[command(flatten)]
    pub(super) show: ShowArgs,
}

/// How a VM is reached and frozen.
#[derive(Args)]
pub(super) struct FreezeArgs {
    #[command(flatten)]
    pub(super) connect: ConnectArgs,
    /// What to do when the guest cannot be quiesced: fail, go on, or do not ask it
    #[arg(long, value_enum, default_value = "try")]
    pub(super) quiesce: Quiesce,
    /// auto, https, nbd, nbdssl, san, file, hotadd or cos. The images of a libvirt machine that does not run are locked while they are
    /// read, so it cannot start meanwhile
    #[arg(long, default_value = "auto")]
    pub(super) transport: String,
    /// Leave this disk out, such as scsi0:1 or vda; may stand more than once
    #[arg(long, value_name = "ADDRESS")]
    pub(super) exclude_disk: Vec<String>,
    /// How often the removal of the snapshot is tried again
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(super) retries: u32,
    /// Seconds before the first repetition; doubled each time, up to a minute
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub(super) backoff: u64,
    /// Seconds that making the snapshot may take; at libvirt, that the guest may stand still, and never more than 60
    #[arg(long, value_name = "SECONDS", default_value_t = 1200, value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub(super) snapshot_timeout: u64,
}

impl FreezeArgs {
    pub(super) fn snapshot_limit(&self) -> Duration {
        Duration::from_secs(self.snapshot_timeout)
    }

    /// How often the removal of the snapshot is tried.
    pub(super) fn removals(&self) -> Retry {
        Retry {
            times: self.retries,
            wait: Duration::from_secs(self.backoff),
            longest: Duration::from_secs(self.backoff.max(60)),
        }
    }
}

#[derive(Args)]
pub(super) struct VerifyArgs {
    /// The backup directory
    pub(super) directory: PathBuf,
    #[command(flatten)]
    pub(super) show: ShowArgs,
}

#[derive(Args)]
pub(super) struct SnapshotArgs {
    #[command(subcommand)]
    pub(super) command: SnapshotCommand,
}

#[derive(Subcommand)]
pub(super) enum SnapshotCommand {
    /// List the snapshots of the VMs that match
    List {
        /// Which VMs
        #[arg(default_value = "any:")]
        spec: String,
        #[command(flatten)]
        connect: ConnectArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove one snapshot that a backup of ours made
    Remove {
        /// The VM
        spec: String,
        /// The snapshot's id, as listed
        id: String,
        #[command(flatten)]
        connect: ConnectArgs,
        /// Remove it although it is not ours
        #[arg(long)]
        not_ours: bool,
    },
}

#[derive(Args)]
pub(super) struct CleanupArgs {
    /// Do not ask
    #[arg(short = 'y', long)]
    pub(super) yes: bool,
    /// Also look for snapshots of ours that no journal here knows, on the named server
    #[arg(long, requires = "connect")]
    pub(super) unjournaled: bool,
    /// With --unjournaled: also those that another machine made, though a backup there may be reading them
    #[arg(long, requires = "unjournaled")]
    pub(super) force: bool,
    #[command(flatten)]
    pub(super) connect: ConnectArgs,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args)]
pub(super) struct DemoArgs {
    /// Keep the lab and the backups in this new directory
    #[arg(long)]
    pub(super) dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args)]
pub(super) struct LabArgs {
    #[command(subcommand)]
    pub(super) command: LabCommand,
}

#[derive(Subcommand)]
pub(super) enum LabCommand {
    /// Serve the lab in a directory until a signal; an empty directory becomes a lab with two VMs
    Serve {
        /// Where the lab lives
        #[arg(long)]
        dir: PathBuf,
        /// Address and port
        #[arg(long, default_value = "127.0.0.1:8443")]
        listen: std::net::SocketAddr,
    },
    /// Add a VM whose disks are copied from files; the lab must not be served meanwhile
    AddVm {
        /// Where the lab lives
        #[arg(long)]
        dir: PathBuf,
        /// Display name
        #[arg(long)]
        name: String,
        /// A raw image or (if it ends in .vmdk) a VMDK; may stand more than once
        #[arg(long = "disk", value_name = "FILE", required = true)]
        disks: Vec<PathBuf>,
        /// Leave it powered off
        #[arg(long)]
        off: bool,
        /// Track its blocks
        #[arg(long)]
        change_tracking: bool,
    },
}

#[derive(Args)]
pub(super) struct LoginArgs {
    /// The connection
    pub(super) uri: String,
}
