//! Checkpoints: since each of ours, QEMU notes in the images which blocks change.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use libvirt::{CheckpointDelete, Code, Domain as Handle, XmlKind};

use super::LibvirtHost;
use super::backup_xml::{Point, run_in_name};
use super::errors::from_libvirt;
use super::qemu_img::qemu_img;
use crate::error::{Error, Family, Result};
use crate::hypervisor::VmId;
use crate::machine::{Domain, Source};

/// qemu-img only changes a table in an image.
const QEMU_IMG_LIMIT: Duration = Duration::from_secs(60);

/// Which disks can tell what changed since a checkpoint, and of the others why not.
pub(super) type Usable = HashMap<String, std::result::Result<(), String>>;

impl LibvirtHost {
    /// Looks at the checkpoint `name` before the guest is frozen. One of ours that is broken is removed: it can only be in the way.
    pub(super) async fn look_at_point(&self, domain: &Handle, name: &str) -> Result<Usable> {
        let xml = match domain.checkpoint_with_sizes(name).await {
            Err(error) if error.is(Code::NO_DOMAIN_CHECKPOINT) => return Ok(Usable::new()),
            Err(error) => {
                // What cannot be told is no reason to stop: the disks are read as a whole.
                tracing::warn!("the checkpoint {name} cannot be looked at: {error}");
                return Ok(Usable::new());
            }
            Ok(xml) => xml,
        };
        let point = Point::parse(&xml)?;
        let broken = point.disks.iter().any(|(_, sound)| !sound);
        if broken && run_in_name(name).is_some() && !point.disks.iter().any(|(_, sound)| *sound) {
            tracing::warn!("no disk knows the checkpoint {name} any more, as after a crash of QEMU; it is removed");
            if let Err(error) = self.delete_point(domain, name).await {
                tracing::warn!("{}", error.line());
            }
        }
        let of_disk = |(target, sound): (String, bool)| {
            let why = || format!("the bitmap of the checkpoint {name} is missing or broken, as after a crash of QEMU");
            (target, if sound { Ok(()) } else { Err(why()) })
        };
        Ok(point.disks.into_iter().map(of_disk).collect())
    }

    /// Removes a checkpoint. Gone already counts as success.
    pub(super) async fn delete_point(&self, domain: &Handle, name: &str) -> Result<()> {
        let metadata = CheckpointDelete { metadata_only: true };
        let what = || format!("cannot remove the checkpoint {name} of {}", domain.name());
        let gone = |deleted: libvirt::Result<()>| match deleted {
            Err(error) if error.is(Code::NO_DOMAIN_CHECKPOINT) => Ok(()),
            other => other.map_err(|e| from_libvirt(e).within(what())),
        };
        match domain.checkpoint_delete(name, CheckpointDelete::default()).await {
            // Only a running QEMU can take bitmaps out of images that libvirt knows.
            Err(error) if error.is(Code::OPERATION_UNSUPPORTED) => {
                self.remove_bitmaps(domain, name).await.map_err(|e| e.within(what()))?;
                gone(domain.checkpoint_delete(name, metadata).await)
            }
            Err(error) if is_broken(&error) => gone(domain.checkpoint_delete(name, metadata).await),
            deleted => gone(deleted),
        }
    }

    /// Takes the bitmaps of a checkpoint out of the images of a machine that does not run.
    async fn remove_bitmaps(&self, domain: &Handle, name: &str) -> Result<()> {
        if !self.uri.is_local() {
            return Err(Error::new(Family::Failed, "the machine does not run, and its images lie on another host")
                .hint("`stillframe cleanup` removes it when the machine runs again"));
        }
        let xml = domain.xml(XmlKind { inactive: true, ..XmlKind::default() }).await.map_err(from_libvirt)?;
        for disk in Domain::parse(&xml)?.disks() {
            let Some(Source::File(path) | Source::Block(path)) = &disk.source else { continue };
            if disk.format.as_deref() == Some("qcow2") && Path::new(path).exists() {
                remove_bitmap(path, name).await?;
            }
        }
        Ok(())
    }

    /// Removes our checkpoints but the newest `keep` and those in `needed`; answers their names.
    pub(super) async fn prune(&self, vm: &VmId, keep: usize, needed: &[String]) -> Result<Vec<String>> {
        let domain = self.connections.domain(vm).await?;
        if domain.id().is_none() {
            return Ok(Vec::new()); // it is done when the machine runs again
        }
        let mut ours = Vec::new();
        for (name, xml) in domain.checkpoints().await.map_err(from_libvirt)? {
            if run_in_name(&name).is_some() {
                ours.push((Point::parse(&xml)?.created, name));
            }
        }
        // Those made in the same second stay in the order in which libvirt lists them, parents first.
        ours.sort_by_key(|(created, _)| *created);
        let surplus = ours.len().saturating_sub(keep);
        let mut gone = Vec::new();
        for (_, name) in ours.into_iter().take(surplus).filter(|(_, name)| !needed.contains(name)) {
            self.delete_point(&domain, &name).await?;
            gone.push(name);
        }
        Ok(gone)
    }
}

/// Whether a checkpoint cannot be removed properly because its bitmaps are not what libvirt thinks.
fn is_broken(error: &libvirt::Error) -> bool {
    let text = error.to_string();
    error.is(Code::CHECKPOINT_INCONSISTENT)
        || text.contains("not found in backing chain")
        || text.contains("broken bitmap")
}

async fn remove_bitmap(path: &str, name: &str) -> Result<()> {
    // Named as qcow2, whatever a guest wrote into it.
    let arguments = ["bitmap", "--remove", "-f", "qcow2", "--", path, name];
    match qemu_img(&arguments, QEMU_IMG_LIMIT, || format!("cannot take the bitmap {name} out of {path}")).await? {
        // Bitmaps that QEMU had no time to store are not there.
        Err((said, _)) if said.contains("not found") || said.contains("No such") => Ok(()),
        removed => removed.map_err(|(_, error)| error),
    }
}
