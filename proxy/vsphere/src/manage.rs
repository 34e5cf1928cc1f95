//! Changes that a restore makes: folders, files, registration.

use crate::client::{Client, method, returned_object};
use crate::datastore_path::DatastorePath;
use crate::error::Error;
use crate::places::{datacenter_of, path_of};
use crate::properties::Wanted;
use crate::tasks::Task;
use crate::xml::{Element, Moref};

/// Where a VM can be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// A VM folder.
    pub folder: Moref,
    /// A resource pool.
    pub pool: Moref,
    /// Inventory path of the datacenter that the folder is in.
    pub datacenter: String,
}

impl Client {
    /// The folder and pool at these inventory paths. Without a folder: the VM folder of the first datacenter. Without a pool:
    /// the root pool of the first host or cluster of that datacenter. A datacenter may stand for its VM folder, a host or
    /// cluster for its root pool.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is nothing, or something else, at a path.
    pub async fn place(&self, folder: Option<&str>, pool: Option<&str>) -> Result<Place, Error> {
        let folder = match folder {
            Some(path) => self.at_path(path, &["Folder"], "Datacenter", "vmFolder").await?,
            None => self.first_vm_folder().await?,
        };
        let chains = self.chains(std::slice::from_ref(&folder)).await?;
        let datacenter = chains.first().and_then(|chain| datacenter_of(chain)).unwrap_or_default();
        let pool = match pool {
            Some(path) => {
                self.at_path(path, &["ResourcePool", "VirtualApp"], "ComputeResource", "resourcePool").await?
            }
            None => self.first_pool_in(datacenter.last().map(|node| &node.moref)).await?,
        };
        Ok(Place { folder, pool, datacenter: path_of(datacenter) })
    }

    /// The object at `path`, if its type is one of `kinds`; for a `holder` (`ClusterComputeResource` is one of
    /// `ComputeResource`) what its property refers to.
    async fn at_path(
        &self,
        path: &str,
        kinds: &[&str],
        holder: &'static str,
        property: &'static str,
    ) -> Result<Moref, Error> {
        let wrong = |reason| Error::Argument { what: path.to_owned(), reason };
        let found = self.find_by_inventory_path(path).await?.ok_or_else(|| wrong("there is nothing at this path"))?;
        if kinds.contains(&found.kind.as_str()) {
            return Ok(found);
        }
        if !found.kind.ends_with(holder) {
            return Err(wrong("it is not a place for a VM"));
        }
        let object = self.properties_of(&found, holder, &[property]).await?;
        object.reference(property).ok_or_else(|| wrong("it has no place for a VM"))
    }

    async fn first_vm_folder(&self) -> Result<Moref, Error> {
        let found = self.properties_of_all(&[Wanted { kind: "Datacenter", paths: vec!["vmFolder"] }]).await?;
        found.iter().find_map(|o| o.reference("vmFolder")).ok_or(Error::Missing { feature: "datacenter" })
    }

    async fn first_pool_in(&self, datacenter: Option<&Moref>) -> Result<Moref, Error> {
        let found = self.properties_of_all(&[Wanted { kind: "ComputeResource", paths: vec!["resourcePool"] }]).await?;
        let owners: Vec<Moref> = found.iter().map(|o| o.moref.clone()).collect();
        let chains = self.chains(&owners).await?;
        let inside = |chain: &Vec<_>| datacenter_of(chain).and_then(<[_]>::last).map(|n| &n.moref) == datacenter;
        let mut pools = found.iter().zip(&chains).filter(|(_, chain)| inside(chain));
        pools
            .find_map(|(object, _)| object.reference("resourcePool"))
            .ok_or(Error::Missing { feature: "resource pool in the datacenter" })
    }

    /// Makes a folder on a datastore. `datacenter` is an inventory path; `parents` makes those above, too.
    ///
    /// # Errors
    /// `FileAlreadyExists`, another fault, or how the connection failed.
    pub async fn make_directory(&self, datacenter: &str, path: &DatastorePath, parents: bool) -> Result<(), Error> {
        let call = method("MakeDirectory", &self.manager("fileManager")?)
            .with(Element::leaf("name", path.to_string()))
            .with(self.datacenter_argument(datacenter).await?)
            .with(Element::leaf("createParentDirectories", parents.to_string()));
        self.call(&call).await.map(drop)
    }

    /// Begins to delete a file, or a folder with all in it. The caller must have made it.
    ///
    /// # Errors
    /// What the server says, or how the connection failed.
    pub async fn delete_datastore_file(&self, datacenter: &str, path: &DatastorePath) -> Result<Task, Error> {
        if path.path.trim_matches(['/', '.', ' ']).is_empty() {
            return Err(Error::Argument { what: path.to_string(), reason: "it is a whole datastore" });
        }
        let call = method("DeleteDatastoreFile_Task", &self.manager("fileManager")?)
            .with(Element::leaf("name", path.to_string()))
            .with(self.datacenter_argument(datacenter).await?);
        self.begin(&call).await
    }

    /// Begins to register the VM with this `.vmx` file. The task's result is the VM.
    ///
    /// # Errors
    /// `AlreadyExists`, another fault, or how the connection failed.
    pub async fn register_vm(&self, vmx: &DatastorePath, name: Option<&str>, place: &Place) -> Result<Task, Error> {
        let call = method("RegisterVM_Task", &place.folder)
            .with(Element::leaf("path", vmx.to_string()))
            .with_all(name.map(|name| Element::leaf("name", name)))
            .with(Element::leaf("asTemplate", "false"))
            .with(Element::reference("pool", &place.pool));
        self.begin(&call).await
    }

    /// Takes a VM out of the inventory. Its files stay.
    ///
    /// # Errors
    /// What the server says, or how the connection failed.
    pub async fn unregister_vm(&self, vm: &Moref) -> Result<(), Error> {
        self.call(&method("UnregisterVM", vm)).await.map(drop)
    }

    async fn begin(&self, call: &Element) -> Result<Task, Error> {
        Ok(Task::new(call.name.clone(), returned_object(self.call(call).await?)?))
    }

    async fn datacenter_argument(&self, path: &str) -> Result<Element, Error> {
        let found = self.find_by_inventory_path(path).await?.filter(|found| found.kind == "Datacenter");
        let found = found
            .ok_or_else(|| Error::Argument { what: path.to_owned(), reason: "there is no datacenter at this path" })?;
        Ok(Element::reference("datacenter", &found))
    }
}
