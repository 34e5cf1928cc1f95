//! Frozen disks behind an NBD server: QEMU's own during a pull backup, or a `qemu-nbd` of ours for machines that do not run.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use blockdev::ReadAt;
use bytes::Bytes;
use nbd::{Client, Options, ReadStream, Status};

use super::{Allocation, ByteStream, FrozenDisk, NbdDisk, Span, from_nbd};
use crate::error::{Error, Family, Result};
use crate::hypervisor::{Disk, NbdExport};

/// The context that tells data from holes and zeros.
const ALLOCATION: &str = "base:allocation";
/// QEMU cuts longer requests, and a server that thinks this long is not there any more.
const TIMEOUT: Duration = Duration::from_secs(60);
/// More runs than this are no map any more: each costs memory, here and in the plan of the copy.
const MAX_RUNS: usize = 4 << 20;
/// From so many spans on, those that lie near each other are read as one, so that a disk in shreds costs no memory.
const MANY_SPANS: usize = 64 << 10;
const NEAR: u64 = 1 << 20;

/// Opens a frozen disk.
pub(super) async fn open(frozen: &NbdExport, disk: &Disk) -> Result<Box<dyn FrozenDisk>> {
    let mut contexts = vec![ALLOCATION.to_owned()];
    contexts.extend(frozen.changes.as_ref().map(|(_, context)| context.clone()));
    let options = Options { contexts, timeout: TIMEOUT, ..Options::default() };
    let what = || format!("cannot read {} over NBD", disk.file);
    let client = Client::connect(&frozen.uri, &options).await.map_err(|e| from_server(e).within(what()))?;
    if client.size() != disk.capacity {
        let what = format!("{} has {} bytes, and its export {}", disk.file, disk.capacity, client.size());
        return Err(Error::new(Family::Corrupt, what).hint("the disk was resized meanwhile; run it again"));
    }
    Ok(Box::new(NbdFrozen { client, changes: frozen.changes.clone(), unknown: frozen.unknown.clone() }))
}

/// How far apart two spans may lie that are read as one.
const fn slack(spans: usize) -> u64 {
    if spans < MANY_SPANS { 0 } else { NEAR }
}

struct NbdFrozen {
    client: Client,
    changes: Option<(String, String)>,
    unknown: Option<String>,
}

impl NbdFrozen {
    /// The spans of `context` that `wanted` wants, or why they are not known.
    async fn spans(&self, context: &str, wanted: impl Fn(&Status) -> bool) -> Allocation {
        if !self.client.export().has_context(context) {
            return Allocation::Unknown(format!("the NBD server does not offer {context}"));
        }
        let (size, mut at) = (self.client.size(), 0);
        let mut spans: Vec<Span> = Vec::new();
        while at < size {
            let runs = match self.client.block_status_once(context, at..size).await {
                Ok(runs) => runs,
                Err(error) => {
                    return Allocation::Unknown(format!("the NBD server does not tell {context}: {}", error.line()));
                }
            };
            let end = runs.last().map_or(at, Status::end).min(size);
            if end <= at || spans.len() > MAX_RUNS {
                return Allocation::Unknown(format!("what the NBD server tells of {context} has no use"));
            }
            let joined = spans.len();
            for run in runs.iter().filter(|run| wanted(run)) {
                match spans.last_mut() {
                    Some(last) if last.end.saturating_add(slack(joined)) >= run.start => last.end = run.end().min(size),
                    _ => spans.push(run.start..run.end().min(size)),
                }
            }
            at = end;
        }
        Allocation::Known(spans)
    }
}

#[async_trait]
impl FrozenDisk for NbdFrozen {
    fn capacity(&self) -> u64 {
        self.client.size()
    }

    async fn allocation(&self) -> Allocation {
        self.spans(ALLOCATION, |run| run.flags & nbd::state::ZERO == 0).await
    }

    async fn changes(&self, point: &str) -> Allocation {
        match &self.changes {
            Some((known, context)) if known == point => {
                self.spans(context, |run| run.flags & nbd::state::DIRTY != 0).await
            }
            _ => Allocation::Unknown(
                self.unknown.clone().unwrap_or_else(|| format!("the host does not know what changed since {point}")),
            ),
        }
    }

    async fn open(&self, span: Span) -> Result<Box<dyn ByteStream>> {
        Ok(Box::new(Bytestream(self.client.stream(span))))
    }

    fn reader(&self) -> Arc<dyn ReadAt> {
        Arc::new(NbdDisk::new(self.client.clone(), tokio::runtime::Handle::current()))
    }
}

struct Bytestream(ReadStream);

#[async_trait]
impl ByteStream for Bytestream {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        self.0.next().await.map_err(from_server)
    }
}

/// What a server of frozen disks did, with what to do about it.
fn from_server(error: nbd::Error) -> Error {
    use nbd::Family as Theirs;
    let hint = match error.family() {
        Theirs::Changed => "the disk was changed under the backup; run it again",
        Theirs::Tls => {
            "check the certificates: nbd-tls=DIR in the connection URI names ours, backup_tls_x509_cert_dir in qemu.conf the host's"
        }
        Theirs::NotFound => "the export, its socket or a certificate is not there; did the machine stop?",
        // The client has tried again what may pass.
        _ => return from_nbd(error),
    };
    from_nbd(error).hint(hint)
}
