//! Searches by what people know about a VM. Finding nothing is no error.

use crate::client::{Client, method};
use crate::datastore_path::DatastorePath;
use crate::error::Error;
use crate::xml::{Element, Moref};

impl Client {
    /// The VMs with this instance uuid (4.0); if there is none, those with this BIOS uuid. Copies share BIOS uuids, so
    /// there may be several.
    ///
    /// # Errors
    /// What the server says, or how the connection failed.
    pub async fn find_by_uuid(&self, uuid: &str) -> Result<Vec<Moref>, Error> {
        let uuid = Element::leaf("uuid", uuid);
        if self.at_least(4, 0) {
            let found = self.find_all("FindAllByUuid", "FindByUuid", uuid.clone(), Some(true)).await?;
            if !found.is_empty() {
                return Ok(found);
            }
            return self.find_all("FindAllByUuid", "FindByUuid", uuid, Some(false)).await;
        }
        self.find_all("FindAllByUuid", "FindByUuid", uuid, None).await
    }

    /// The VMs whose running tools report this address.
    ///
    /// # Errors
    /// What the server says, or how the connection failed.
    pub async fn find_by_ip(&self, ip: &str) -> Result<Vec<Moref>, Error> {
        self.find_all("FindAllByIp", "FindByIp", Element::leaf("ip", ip), None).await
    }

    /// The VMs whose running tools report this host name.
    ///
    /// # Errors
    /// What the server says, or how the connection failed.
    pub async fn find_by_dns_name(&self, name: &str) -> Result<Vec<Moref>, Error> {
        self.find_all("FindAllByDnsName", "FindByDnsName", Element::leaf("dnsName", name), None).await
    }

    /// Whatever stands at an inventory path such as `North/DC1/vm/folder/name`, with `%`, `/` and `\` in names written
    /// `%25`, `%2f` and `%5c`.
    ///
    /// # Errors
    /// What the server says, or how the connection failed.
    pub async fn find_by_inventory_path(&self, path: &str) -> Result<Option<Moref>, Error> {
        let call = method("FindByInventoryPath", &self.manager("searchIndex")?)
            .with(Element::leaf("inventoryPath", path.trim_start_matches('/')));
        Ok(morefs(&self.read(&call).await?).next())
    }

    /// The VM with this `.vmx` file in the datacenter at this inventory path.
    ///
    /// # Errors
    /// `InvalidDatastore`, another fault, or how the connection failed.
    pub async fn find_by_datastore_path(&self, datacenter: &str, vmx: &DatastorePath) -> Result<Option<Moref>, Error> {
        let Some(datacenter) = self.find_by_inventory_path(datacenter).await? else { return Ok(None) };
        let call = method("FindByDatastorePath", &self.manager("searchIndex")?)
            .with(Element::reference("datacenter", &datacenter))
            .with(Element::leaf("path", vmx.to_string()));
        Ok(morefs(&self.read(&call).await?).next())
    }

    /// The plural search from 4.0 where the server has it, else the singular one.
    async fn find_all(
        &self,
        all: &str,
        one: &str,
        key: Element,
        instance_uuid: Option<bool>,
    ) -> Result<Vec<Moref>, Error> {
        let index = self.manager("searchIndex")?;
        let call = |name: &str| {
            method(name, &index)
                .with(key.clone())
                .with(Element::leaf("vmSearch", "true"))
                .with_all(instance_uuid.map(|yes| Element::leaf("instanceUuid", yes.to_string())))
        };
        if self.at_least(4, 0) {
            match self.read(&call(all)).await {
                Err(error) if error.is_absent() => tracing::debug!(%error, "one result only"),
                answer => return Ok(morefs(&answer?).filter(|m| m.kind == "VirtualMachine").collect()),
            }
        }
        Ok(morefs(&self.read(&call(one)).await?).filter(|m| m.kind == "VirtualMachine").collect())
    }
}

fn morefs(response: &Element) -> impl Iterator<Item = Moref> {
    response.children_named("returnval").filter_map(Element::moref)
}
