use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::disk_args::MapArgs;
use super::output;
use crate::disk::{Place, ServeOptions, Serving, SourceFormat, SourceSpec};
use crate::error::Result;
use crate::job::Cancel;

#[derive(Args)]
pub(super) struct NbdArgs {
    #[command(subcommand)]
    pub(super) command: NbdCommand,
}

#[derive(Subcommand)]
pub(super) enum NbdCommand {
    /// Export an image, or every disk of a backup, to NBD clients until a signal
    #[command(after_help = SERVE_HELP)]
    Serve(ServeArgs),
}

const SERVE_HELP: &str = "The disks of a backup are exported by their addresses, such as scsi0:0; the first one is also what clients get that \
    name none. When the server is ready, the URI of each export is printed. Clients read them with nbdcopy, qemu-img or `stillframe disk`; \
    with --overlay a machine can boot from them (qemu: -drive file=URI,format=raw).";

#[derive(Args)]
pub(super) struct ServeArgs {
    /// An image (the file with the descriptor, or a raw disk), or the directory of a backup
    #[arg(value_name = "IMAGE|BACKUP")]
    image: PathBuf,
    /// The image's format; without it the name tells (.vmdk, .raw, .img). Nothing is guessed from the content
    #[arg(long, value_enum, value_name = "FORMAT")]
    from: Option<SourceFormat>,
    #[command(flatten)]
    map: MapArgs,
    /// Take clients on this unix socket, which only this user can use; a socket file that nobody answers on is replaced
    #[arg(long, value_name = "PATH", required_unless_present = "listen", conflicts_with = "listen")]
    socket: Option<PathBuf>,
    /// Take clients on this address and port; port 0 is any that is free
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Encrypt: a folder with ca-cert.pem, server-cert.pem and server-key.pem. Clear text is refused then
    #[arg(long, value_name = "DIR")]
    tls_certificates: Option<PathBuf>,
    /// Let in only clients with a certificate of that authority
    #[arg(long, requires = "tls_certificates")]
    tls_verify_peer: bool,
    /// Allow clear text on an address that other machines reach
    #[arg(long)]
    insecure_plain: bool,
    /// Let clients write: into a temporary file, which ends with the server; the image stays as it is
    #[arg(long)]
    overlay: bool,
    /// Where that file lies; it grows with what is written
    #[arg(long, value_name = "DIR", requires = "overlay")]
    overlay_dir: Option<PathBuf>,
    /// What the export of an image is called
    #[arg(long, value_name = "NAME")]
    export_name: Option<String>,
    /// End when the last client has gone
    #[arg(long)]
    once: bool,
    /// End when for so long no client was there
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    timeout: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: NbdArgs) -> Result<()> {
    match args.command {
        NbdCommand::Serve(args) => serve(args).await,
    }
}

async fn serve(args: ServeArgs) -> Result<()> {
    let cancel = Cancel::on_signals()?;
    let place = match (args.socket, args.listen) {
        (Some(path), _) => Place::Socket(path),
        // One of the two is there, by the rules of the arguments.
        (None, address) => Place::Tcp(address.unwrap_or_else(|| ([127, 0, 0, 1], ::nbd::DEFAULT_PORT).into())),
    };
    let options = ServeOptions {
        source: SourceSpec { path: args.image, format: args.from, map: args.map.map },
        export_name: args.export_name,
        place,
        certificates: args.tls_certificates,
        verify_peer: args.tls_verify_peer,
        insecure_plain: args.insecure_plain,
        overlay: args.overlay.then(|| args.overlay_dir.unwrap_or_else(std::env::temp_dir)),
    };
    let serving = cancel.or_stop(Serving::begin(options)).await?;
    if args.json {
        output::json(&json!({ "exports": serving.exports, "writable": args.overlay }))?;
    } else {
        serving.exports.iter().for_each(|export| output::line(&export.uri));
    }
    // Scripts wait for it.
    output::finish()?;
    serving.run(args.once, args.timeout.map(Duration::from_secs), &cancel).await
}
