//! What a restore asks of a libvirt host.

use std::path::PathBuf;

use async_trait::async_trait;

use super::VmId;
use crate::error::Result;
use crate::machine::convert::HostFacts;

/// A host whose machines are domains.
#[async_trait]
pub trait DomainHost: Send + Sync {
    /// Whether it is this machine: files written here are files there.
    fn is_local(&self) -> bool;

    /// What it can do.
    async fn facts(&self) -> Result<HostFacts>;

    /// The domain of this name.
    async fn by_name(&self, name: &str) -> Result<Option<VmId>>;

    /// The name of the domain with this UUID.
    async fn by_uuid(&self, uuid: &str) -> Result<Option<String>>;

    /// The stored XML of a domain; none if there is no such domain.
    async fn stored_xml(&self, vm: &VmId) -> Result<Option<String>>;

    /// Defines a domain. The caller has looked that neither its name nor its UUID is there: libvirt would replace it.
    async fn define(&self, xml: &str) -> Result<VmId>;

    /// Takes the definition of a domain away, which must not run; all its files stay. Gone already counts as success.
    async fn undefine(&self, vm: &VmId) -> Result<()>;

    /// Starts a domain.
    async fn start(&self, vm: &VmId) -> Result<()>;

    /// The folder of a storage pool; none if there is no such pool.
    async fn pool_folder(&self, pool: &str) -> Result<Option<PathBuf>>;

    /// The folders of all storage pools that keep files.
    async fn pool_folders(&self) -> Result<Vec<PathBuf>>;

    /// Names of the virtual networks.
    async fn networks(&self) -> Result<Vec<String>>;

    /// The folder in which libvirt keeps the state of TPMs, by UUID.
    fn tpm_folder(&self) -> PathBuf;
}
