//! What a restore asks of a libvirt host.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use libvirt::{Code, Undefine, XmlKind};

use super::LibvirtHost;
use super::errors::from_libvirt;
use crate::error::{Error, Family, Result};
use crate::hypervisor::{DomainHost, VmId};
use crate::machine::Element;
use crate::machine::convert::HostFacts;

/// The first of these calls makes libvirt ask QEMU what it can do, which may take a minute on a busy host, more with a KVM that does not
/// work. An answer that is not waited for would come when everything is thought to be undone.
const SLOW: Duration = Duration::from_secs(300);

#[async_trait]
impl DomainHost for LibvirtHost {
    fn is_local(&self) -> bool {
        self.uri.is_local()
    }

    async fn facts(&self) -> Result<HostFacts> {
        let connection = self.connection().await?;
        let asked = connection.run("virConnectGetCapabilities", SLOW, |c| c.capabilities()).await;
        let xml = asked.map_err(from_libvirt)?;
        HostFacts::of_capabilities(&xml)
            .map_err(|e| Error::new(Family::Corrupt, "the host's capabilities cannot be read").caused_by(e))
    }

    async fn by_name(&self, name: &str) -> Result<Option<VmId>> {
        match self.connection().await?.domain_by_name(name).await {
            Err(error) if error.is(Code::NO_DOMAIN) => Ok(None),
            found => found.map(|domain| Some(VmId(domain.uuid().to_owned()))).map_err(from_libvirt),
        }
    }

    async fn by_uuid(&self, uuid: &str) -> Result<Option<String>> {
        match self.connection().await?.domain_by_uuid(uuid).await {
            Err(error) if error.is(Code::NO_DOMAIN) => Ok(None),
            found => found.map(|domain| Some(domain.name().to_owned())).map_err(from_libvirt),
        }
    }

    async fn stored_xml(&self, vm: &VmId) -> Result<Option<String>> {
        let domain = match self.connections.domain(vm).await {
            Err(gone) if gone.family() == Family::NoVm => return Ok(None),
            domain => domain?,
        };
        let xml = domain.xml(XmlKind { inactive: true, ..XmlKind::default() }).await;
        xml.map(Some).map_err(from_libvirt)
    }

    async fn define(&self, xml: &str) -> Result<VmId> {
        let xml = xml.to_owned();
        let connection = self.connection().await?;
        let defined = connection.run("virDomainDefineXMLFlags", SLOW, move |c| c.define(&xml)?.uuid()).await;
        defined.map(VmId).map_err(from_libvirt)
    }

    async fn undefine(&self, vm: &VmId) -> Result<()> {
        let domain = match self.connections.domain(vm).await {
            Err(gone) if gone.family() == Family::NoVm => return Ok(()),
            domain => domain?,
        };
        if domain.id().is_some() {
            let what = format!("{} runs, and stays defined", domain.name());
            return Err(Error::new(Family::LeftBehind, what).hint("stop it first"));
        }
        let keep = Undefine {
            snapshots_metadata: true,
            checkpoints_metadata: true,
            managed_save: false,
            nvram: Some(false),
            tpm: Some(false),
        };
        match domain.undefine(keep).await {
            Err(error) if error.is(Code::NO_DOMAIN) => Ok(()),
            undefined => undefined.map_err(from_libvirt),
        }
    }

    async fn start(&self, vm: &VmId) -> Result<()> {
        let domain = self.connections.domain(vm).await?;
        domain.run("virDomainCreateWithFlags", SLOW, |domain| domain.create()).await.map_err(from_libvirt)
    }

    async fn pool_folder(&self, pool: &str) -> Result<Option<PathBuf>> {
        let pools = self.connection().await?.pools().await.map_err(from_libvirt)?;
        let Some(found) = pools.into_iter().find(|known| known.name == pool) else { return Ok(None) };
        let root = Element::parse(&found.xml)
            .map_err(|e| Error::new(Family::Corrupt, format!("the pool {pool} cannot be read")).caused_by(e))?;
        Ok(root.child("target").and_then(|target| target.text_of("path")).map(PathBuf::from))
    }

    async fn networks(&self) -> Result<Vec<String>> {
        self.connection().await?.networks().await.map_err(from_libvirt)
    }

    fn tpm_folder(&self) -> PathBuf {
        if !self.uri.is_session() {
            return PathBuf::from("/var/lib/libvirt/swtpm");
        }
        let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".config");
        let config = std::env::var_os("XDG_CONFIG_HOME").map_or_else(home, PathBuf::from);
        config.join("libvirt/qemu/swtpm")
    }
}
