//! `stillframe disk convert` beside `nbdcopy`: the disk of a running guest, from the NBD server of its QEMU to a raw file.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use acceptance::kvm::{Content, DiskSpec};

use super::{Bench, Pull, warm};
use crate::Options;
use crate::full_image::{memory_target, same_as};
use crate::measure::{self, Contender};
use crate::problem::{Problem, Result, io};
use crate::report::{Ratio, Report, Row, Target};
use crate::stage::disk_command;

const SIZE: u64 = 4 << 30;
const WAYS: [&str; 3] = ["unix", "tcp", "tls"];

pub(crate) fn run(options: &Options) -> Result<Report> {
    let bench = Bench::start()?;
    let raw = bench.vm_data(SIZE)?;
    let guest = bench.guest("read", vec![DiskSpec::new("vdb", "raw", Content::Copy(raw.clone()), SIZE >> 20)]);
    let dest = options.dest.as_deref().unwrap_or(bench.data.path());
    let (mut rows, mut ratios, mut targets) = (Vec::new(), Vec::new(), Vec::new());
    for way in WAYS.into_iter().filter(|way| options.wants(way)) {
        let port = free_port()?;
        let server = |folder: &Path| match way {
            "unix" => format!("<server transport='unix' socket='{}/nbd'/>", folder.display()),
            "tcp" => format!("<server transport='tcp' name='127.0.0.1' port='{port}'/>"),
            _ => format!("<server transport='tcp' tls='yes' name='127.0.0.1' port='{port}'/>"),
        };
        let pull = Pull::begin(&bench.host, &guest, "vdb", server)?;
        let uri = match way {
            "unix" => format!("nbd+unix:///vdb?socket={}/nbd", pull.folder.display()),
            "tcp" => format!("nbd://127.0.0.1:{port}/vdb"),
            _ => format!("nbds://localhost:{port}/vdb?tls-certificates={}", bench.host.pki("nbd-client").display()),
        };
        let contenders = [ours(way, &uri, &raw), nbdcopy(way, &uri, &raw)];
        let samples = measure::in_turn(&contenders, options.runs, dest, guest.qemu_pid(), warm(guest.disk("vdb")))?;
        let names = contenders.into_iter().map(|contender| contender.name);
        let pair: Vec<Row> = names.zip(samples).map(|(name, samples)| Row { name, samples }).collect();
        if let [ours, peer] = pair.as_slice() {
            let ratio = Ratio::of(ours, peer);
            let what = format!("{way}: our time / theirs, both on disk");
            targets.push(Target { what, value: ratio.durable.median, limit: 1.0 });
            targets.push(memory_target(ours));
            ratios.push(ratio);
        }
        rows.extend(pair);
    }
    if rows.is_empty() {
        return Err(Problem::Nothing);
    }
    let about = "the 4 GiB disk of a running guest, 27 % holes, read to a raw file".to_owned();
    Ok(Report { benchmark: "kvm-read", about, rows, ratios, targets, held_ms: Vec::new(), lab_peak: 0 })
}

/// A port that nobody holds now.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(io("listen on", Path::new("127.0.0.1")))?;
    Ok(listener.local_addr().map_err(io("ask for the port of", Path::new("127.0.0.1")))?.port())
}

fn ours(way: &str, uri: &str, raw: &Path) -> Contender<'static> {
    let uri = uri.to_owned();
    Contender {
        name: format!("ours {way}"),
        command: Box::new(move |dir| {
            let mut command = disk_command(&["convert", "--progress", "none", "--format", "raw", "-o"])?;
            command.arg(dir.join("copy.raw")).arg(&uri);
            Ok(command)
        }),
        check: same_as(raw.to_owned(), "copy.raw".to_owned()),
    }
}

fn nbdcopy(way: &str, uri: &str, raw: &Path) -> Contender<'static> {
    let uri = uri.to_owned();
    Contender {
        name: format!("nbdcopy {way}"),
        command: Box::new(move |dir| {
            let mut command = Command::new("nbdcopy");
            command.arg(&uri).arg(dir.join("copy.raw"));
            Ok(command)
        }),
        check: same_as(raw.to_owned(), "copy.raw".to_owned()),
    }
}
