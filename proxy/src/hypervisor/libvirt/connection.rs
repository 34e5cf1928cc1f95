//! The connection to libvirt, opened again when the daemon went away in between.

use std::time::Duration;

use libvirt::{Connection, Domain as Handle};
use tokio::sync::Mutex;

use super::errors::{from_connecting, from_libvirt};
use crate::config::LibvirtUri;
use crate::error::Result;
use crate::hypervisor::VmId;

/// How long a call may take: libvirt itself waits 30 seconds for the lock of a domain's state.
const CALL_LIMIT: Duration = Duration::from_secs(45);

/// A connection that is there when it is asked for, if the daemon is.
#[derive(Debug)]
pub(super) struct Connections {
    uri: String,
    place: String,
    held: Mutex<Connection>,
}

impl Connections {
    pub(super) async fn open(uri: &LibvirtUri) -> Result<Self> {
        let (text, place) = (uri.for_libvirt(), uri.place());
        let held = Connection::open(&text, CALL_LIMIT).await.map_err(|e| from_connecting(e, &place))?;
        Ok(Self { uri: text, place, held: Mutex::new(held) })
    }

    pub(super) async fn get(&self) -> Result<Connection> {
        let mut held = self.held.lock().await;
        if !held.is_alive().await {
            tracing::debug!("the connection to {} is lost; it is opened again", self.place);
            *held = Connection::open(&self.uri, CALL_LIMIT).await.map_err(|e| from_connecting(e, &self.place))?;
        }
        Ok(held.clone())
    }

    /// The domain that a VM is.
    pub(super) async fn domain(&self, vm: &VmId) -> Result<Handle> {
        self.get().await?.domain_by_uuid(&vm.0).await.map_err(from_libvirt)
    }
}
