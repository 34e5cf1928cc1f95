//! Points in a domain's past: checkpoints and snapshots.

use std::ptr;

use virt_sys as sys;

use super::{Domain, c_text, check, flags, handle, list, owned_text, pointer, text};
use crate::Result;
use crate::types::{CheckpointDelete, SnapshotCreate};

handle! {
    /// A checkpoint: since it, changes of disks are noted.
    pub Checkpoint, sys::_virDomainCheckpoint, sys::virDomainCheckpointFree
}

handle! {
    /// A snapshot.
    pub Snapshot, sys::_virDomainSnapshot, sys::virDomainSnapshotFree
}

impl Domain {
    /// Its checkpoints, parents before children.
    ///
    /// # Errors
    /// libvirt's.
    pub fn checkpoints(&self) -> Result<Vec<Checkpoint>> {
        let mut array = ptr::null_mut();
        let flags = sys::VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL;
        // SAFETY: the pointer is valid while self lives; the array is taken over with all in it.
        unsafe {
            let count = sys::virDomainListAllCheckpoints(self.ptr.as_ptr(), &raw mut array, flags);
            list("virDomainListAllCheckpoints", count, array, |ptr| Checkpoint { ptr })
        }
    }

    /// The checkpoint of this name.
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN_CHECKPOINT`](crate::Code::NO_DOMAIN_CHECKPOINT) if there is none.
    pub fn checkpoint(&self, name: &str) -> Result<Checkpoint> {
        let name = c_text("the checkpoint's name", name)?;
        // SAFETY: pointer and text live through the call.
        let ptr = unsafe { sys::virDomainCheckpointLookupByName(self.ptr.as_ptr(), name.as_ptr(), 0) };
        pointer("virDomainCheckpointLookupByName", ptr).map(|ptr| Checkpoint { ptr })
    }

    /// Its snapshots, parents before children.
    ///
    /// # Errors
    /// libvirt's.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let mut array = ptr::null_mut();
        let flags = sys::VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL;
        // SAFETY: the pointer is valid while self lives; the array is taken over with all in it.
        unsafe {
            let count = sys::virDomainListAllSnapshots(self.ptr.as_ptr(), &raw mut array, flags);
            list("virDomainListAllSnapshots", count, array, |ptr| Snapshot { ptr })
        }
    }

    /// The snapshot of this name.
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN_SNAPSHOT`](crate::Code::NO_DOMAIN_SNAPSHOT) if there is none.
    pub fn snapshot(&self, name: &str) -> Result<Snapshot> {
        let name = c_text("the snapshot's name", name)?;
        // SAFETY: pointer and text live through the call.
        let ptr = unsafe { sys::virDomainSnapshotLookupByName(self.ptr.as_ptr(), name.as_ptr(), 0) };
        pointer("virDomainSnapshotLookupByName", ptr).map(|ptr| Snapshot { ptr })
    }

    /// Makes a snapshot.
    ///
    /// # Errors
    /// libvirt's.
    pub fn snapshot_create(&self, xml: &str, how: SnapshotCreate) -> Result<Snapshot> {
        let xml = c_text("the snapshot's description", xml)?;
        let flags = flags(&[
            (how.disk_only, sys::VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY),
            (how.atomic, sys::VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC),
            (how.quiesce, sys::VIR_DOMAIN_SNAPSHOT_CREATE_QUIESCE),
            (how.reuse_external, sys::VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT),
            (how.no_metadata, sys::VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA),
        ]);
        // SAFETY: pointer and text live through the call.
        let ptr = unsafe { sys::virDomainSnapshotCreateXML(self.ptr.as_ptr(), xml.as_ptr(), flags) };
        pointer("virDomainSnapshotCreateXML", ptr).map(|ptr| Snapshot { ptr })
    }
}

impl Checkpoint {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        // SAFETY: the pointer is valid while self lives; the text is the object's own.
        unsafe { text(sys::virDomainCheckpointGetName(self.ptr.as_ptr())) }.unwrap_or_default()
    }

    /// Its description, without that of the domain.
    ///
    /// # Errors
    /// libvirt's.
    pub fn xml(&self) -> Result<String> {
        let flags = sys::VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN;
        // SAFETY: the pointer is valid while self lives; the answer is ours to free.
        unsafe {
            owned_text("virDomainCheckpointGetXMLDesc", sys::virDomainCheckpointGetXMLDesc(self.ptr.as_ptr(), flags))
        }
    }

    /// The same, with the size of what changed since: a disk whose bitmap is missing or broken has none.
    ///
    /// # Errors
    /// libvirt's.
    pub fn xml_with_sizes(&self) -> Result<String> {
        let flags = sys::VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN | sys::VIR_DOMAIN_CHECKPOINT_XML_SIZE;
        // SAFETY: the pointer is valid while self lives; the answer is ours to free.
        unsafe {
            owned_text("virDomainCheckpointGetXMLDesc", sys::virDomainCheckpointGetXMLDesc(self.ptr.as_ptr(), flags))
        }
    }

    /// Deletes it. What it noted goes into the one before it.
    ///
    /// # Errors
    /// libvirt's.
    pub fn delete(&self, how: CheckpointDelete) -> Result<()> {
        let flags = flags(&[(how.metadata_only, sys::VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)]);
        // SAFETY: the pointer is valid while self lives.
        check("virDomainCheckpointDelete", unsafe { sys::virDomainCheckpointDelete(self.ptr.as_ptr(), flags) })
            .map(drop)
    }
}

impl Snapshot {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        // SAFETY: the pointer is valid while self lives; the text is the object's own.
        unsafe { text(sys::virDomainSnapshotGetName(self.ptr.as_ptr())) }.unwrap_or_default()
    }

    /// Its description.
    ///
    /// # Errors
    /// libvirt's.
    pub fn xml(&self) -> Result<String> {
        // SAFETY: the pointer is valid while self lives; the answer is ours to free.
        unsafe { owned_text("virDomainSnapshotGetXMLDesc", sys::virDomainSnapshotGetXMLDesc(self.ptr.as_ptr(), 0)) }
    }

    /// Has libvirt forget it; images are left as they are.
    ///
    /// # Errors
    /// libvirt's.
    pub fn delete_metadata(&self) -> Result<()> {
        let flags = sys::VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY;
        // SAFETY: the pointer is valid while self lives.
        check("virDomainSnapshotDelete", unsafe { sys::virDomainSnapshotDelete(self.ptr.as_ptr(), flags) }).map(drop)
    }
}
