//! Networks, storage pools and their volumes.

use std::ffi::c_uint;
use std::ptr;

use virt_sys as sys;

use super::{Connection, c_text, check, handle, list, owned_text, pointer, text};
use crate::Result;
use crate::types::{Lease, PoolInfo};

handle! { Network, sys::_virNetwork, sys::virNetworkFree }
handle! { Pool, sys::_virStoragePool, sys::virStoragePoolFree }
handle! { Volume, sys::_virStorageVol, sys::virStorageVolFree }

impl Connection {
    /// The addresses that the networks of libvirt gave away.
    ///
    /// # Errors
    /// libvirt's.
    pub fn leases(&self) -> Result<Vec<Lease>> {
        let mut array = ptr::null_mut();
        // SAFETY: the pointer is valid while self lives; the array is taken over with all in it.
        let networks = unsafe {
            let flags = sys::VIR_CONNECT_LIST_NETWORKS_ACTIVE;
            let count = sys::virConnectListAllNetworks(self.ptr.as_ptr(), &raw mut array, flags);
            list("virConnectListAllNetworks", count, array, |ptr| Network { ptr })?
        };
        let mut leases = Vec::new();
        for network in networks {
            leases.extend(network.leases()?);
        }
        Ok(leases)
    }

    /// The names of the networks.
    ///
    /// # Errors
    /// libvirt's.
    pub fn networks(&self) -> Result<Vec<String>> {
        let mut array = ptr::null_mut();
        // SAFETY: the pointer is valid while self lives; the array is taken over with all in it.
        let networks = unsafe {
            let count = sys::virConnectListAllNetworks(self.ptr.as_ptr(), &raw mut array, 0);
            list("virConnectListAllNetworks", count, array, |ptr| Network { ptr })?
        };
        Ok(networks.iter().map(Network::name).collect())
    }

    /// The storage pools.
    ///
    /// # Errors
    /// libvirt's.
    pub fn pools(&self) -> Result<Vec<PoolInfo>> {
        let mut array = ptr::null_mut();
        // SAFETY: the pointer is valid while self lives; the array is taken over with all in it.
        let pools = unsafe {
            let count = sys::virConnectListAllStoragePools(self.ptr.as_ptr(), &raw mut array, 0);
            list("virConnectListAllStoragePools", count, array, |ptr| Pool { ptr })?
        };
        pools.iter().map(Pool::info).collect()
    }

    /// The volumes of a storage pool: name and path.
    ///
    /// # Errors
    /// libvirt's.
    pub fn volumes(&self, pool: &str) -> Result<Vec<(String, String)>> {
        let name = c_text("the pool's name", pool)?;
        // SAFETY: pointer and text live through the call.
        let ptr = unsafe { sys::virStoragePoolLookupByName(self.ptr.as_ptr(), name.as_ptr()) };
        let pool = pointer("virStoragePoolLookupByName", ptr).map(|ptr| Pool { ptr })?;
        let mut array = ptr::null_mut();
        // SAFETY: the pointer is valid while the pool lives; the array is taken over with all in it.
        let volumes = unsafe {
            let count = sys::virStoragePoolListAllVolumes(pool.ptr.as_ptr(), &raw mut array, 0 as c_uint);
            list("virStoragePoolListAllVolumes", count, array, |ptr| Volume { ptr })?
        };
        volumes.iter().map(|volume| Ok((volume.name(), volume.path()?))).collect()
    }
}

impl Network {
    fn name(&self) -> String {
        // SAFETY: the pointer is valid while self lives; the text is the object's own.
        unsafe { text(sys::virNetworkGetName(self.ptr.as_ptr())) }.unwrap_or_default()
    }

    fn leases(&self) -> Result<Vec<Lease>> {
        let network = self.name();
        let mut array = ptr::null_mut();
        // SAFETY: the array is taken over with all in it; each lease is freed after it was copied.
        unsafe {
            let count = sys::virNetworkGetDHCPLeases(self.ptr.as_ptr(), ptr::null(), &raw mut array, 0);
            list("virNetworkGetDHCPLeases", count, array, |theirs| {
                let lease = theirs.as_ref();
                let copy = Lease {
                    network: network.clone(),
                    mac: text(lease.mac),
                    address: text(lease.ipaddr).unwrap_or_default(),
                    host_name: text(lease.hostname),
                };
                sys::virNetworkDHCPLeaseFree(theirs.as_ptr());
                copy
            })
        }
    }
}

impl Pool {
    fn info(&self) -> Result<PoolInfo> {
        let mut theirs = sys::virStoragePoolInfo { state: 0, capacity: 0, allocation: 0, available: 0 };
        // SAFETY: the pointer is valid while self lives; numbers are written in the call, the description is ours to free.
        unsafe {
            check("virStoragePoolGetInfo", sys::virStoragePoolGetInfo(self.ptr.as_ptr(), &raw mut theirs))?;
            Ok(PoolInfo {
                name: text(sys::virStoragePoolGetName(self.ptr.as_ptr())).unwrap_or_default(),
                active: u32::try_from(theirs.state) == Ok(sys::VIR_STORAGE_POOL_RUNNING),
                capacity: theirs.capacity,
                available: theirs.available,
                xml: owned_text("virStoragePoolGetXMLDesc", sys::virStoragePoolGetXMLDesc(self.ptr.as_ptr(), 0))?,
            })
        }
    }
}

impl Volume {
    fn name(&self) -> String {
        // SAFETY: the pointer is valid while self lives; the text is the object's own.
        unsafe { text(sys::virStorageVolGetName(self.ptr.as_ptr())) }.unwrap_or_default()
    }

    fn path(&self) -> Result<String> {
        // SAFETY: the pointer is valid while self lives; the answer is ours to free.
        unsafe { owned_text("virStorageVolGetPath", sys::virStorageVolGetPath(self.ptr.as_ptr())) }
    }
}
