use std::ffi::c_ulong;
use std::ptr;

use virt_sys as sys;

use super::{Domain, c_text, check, handle, last_error, list, owned_text, pointer};
use crate::{Result, events};

handle! {
    /// A connection to a libvirt daemon. It ends when it and everything that came from it are dropped.
    pub Connection, sys::_virConnect, sys::virConnectClose
}

impl Connection {
    /// Connects. Nobody is asked for a user or a password.
    ///
    /// # Errors
    /// libvirt's.
    pub fn open(uri: &str) -> Result<Self> {
        events::start();
        let uri = c_text("the URI", uri)?;
        // SAFETY: the text lives through the call.
        let ptr = pointer("virConnectOpen", unsafe { sys::virConnectOpen(uri.as_ptr()) })?;
        Ok(Self { ptr })
    }

    /// Has both sides ask each other every `interval` seconds whether they live; after `count` questions without an answer the
    /// connection breaks. False if the connection has no such thing.
    ///
    /// # Errors
    /// libvirt's.
    pub fn keep_alive(&self, interval: i32, count: u32) -> Result<bool> {
        // SAFETY: the pointer is valid while self lives.
        let answer = unsafe { sys::virConnectSetKeepAlive(self.ptr.as_ptr(), interval, count) };
        check("virConnectSetKeepAlive", answer).map(|answer| answer == 0)
    }

    /// Whether the connection works, as far as can be told without a call.
    ///
    /// # Errors
    /// libvirt's.
    pub fn is_alive(&self) -> Result<bool> {
        // SAFETY: the pointer is valid while self lives.
        check("virConnectIsAlive", unsafe { sys::virConnectIsAlive(self.ptr.as_ptr()) }).map(|alive| alive == 1)
    }

    /// The name of the host.
    ///
    /// # Errors
    /// libvirt's.
    pub fn host_name(&self) -> Result<String> {
        // SAFETY: the pointer is valid while self lives; the answer is ours to free.
        unsafe { owned_text("virConnectGetHostname", sys::virConnectGetHostname(self.ptr.as_ptr())) }
    }

    /// The version of libvirt at the other end: major, minor, release.
    ///
    /// # Errors
    /// libvirt's.
    pub fn libvirt_version(&self) -> Result<(u64, u64, u64)> {
        let mut version: c_ulong = 0;
        // SAFETY: the pointer is valid while self lives, the number is written in the call.
        let answer = unsafe { sys::virConnectGetLibVersion(self.ptr.as_ptr(), &raw mut version) };
        check("virConnectGetLibVersion", answer)?;
        Ok(split(version))
    }

    /// The version of the hypervisor: major, minor, release.
    ///
    /// # Errors
    /// libvirt's.
    pub fn hypervisor_version(&self) -> Result<(u64, u64, u64)> {
        let mut version: c_ulong = 0;
        // SAFETY: as above.
        let answer = unsafe { sys::virConnectGetVersion(self.ptr.as_ptr(), &raw mut version) };
        check("virConnectGetVersion", answer)?;
        Ok(split(version))
    }

    /// What the host can run, as XML.
    ///
    /// # Errors
    /// libvirt's.
    pub fn capabilities(&self) -> Result<String> {
        // SAFETY: the pointer is valid while self lives; the answer is ours to free.
        unsafe { owned_text("virConnectGetCapabilities", sys::virConnectGetCapabilities(self.ptr.as_ptr())) }
    }

    /// Every domain, running or not.
    ///
    /// # Errors
    /// libvirt's.
    pub fn list_all_domains(&self) -> Result<Vec<Domain>> {
        let mut array = ptr::null_mut();
        // SAFETY: the pointer is valid while self lives; the array is taken over with all in it.
        unsafe {
            let count = sys::virConnectListAllDomains(self.ptr.as_ptr(), &raw mut array, 0);
            list("virConnectListAllDomains", count, array, |ptr| Domain { ptr })
        }
    }

    /// The domain of this name.
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN`](crate::Code::NO_DOMAIN) if there is none.
    pub fn domain_by_name(&self, name: &str) -> Result<Domain> {
        let name = c_text("the name", name)?;
        // SAFETY: pointer and text live through the call.
        let ptr = unsafe { sys::virDomainLookupByName(self.ptr.as_ptr(), name.as_ptr()) };
        pointer("virDomainLookupByName", ptr).map(|ptr| Domain { ptr })
    }

    /// The domain of this UUID.
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN`](crate::Code::NO_DOMAIN) if there is none.
    pub fn domain_by_uuid(&self, uuid: &str) -> Result<Domain> {
        let uuid = c_text("the UUID", uuid)?;
        // SAFETY: pointer and text live through the call.
        let ptr = unsafe { sys::virDomainLookupByUUIDString(self.ptr.as_ptr(), uuid.as_ptr()) };
        pointer("virDomainLookupByUUIDString", ptr).map(|ptr| Domain { ptr })
    }

    /// The running domain of this number.
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN`](crate::Code::NO_DOMAIN) if there is none.
    pub fn domain_by_id(&self, id: i32) -> Result<Domain> {
        // SAFETY: the pointer is valid while self lives.
        let ptr = unsafe { sys::virDomainLookupByID(self.ptr.as_ptr(), id) };
        pointer("virDomainLookupByID", ptr).map(|ptr| Domain { ptr })
    }

    /// Makes the host know a domain, or know it differently.
    ///
    /// # Errors
    /// libvirt's.
    pub fn define(&self, xml: &str) -> Result<Domain> {
        let xml = c_text("the description", xml)?;
        // SAFETY: pointer and text live through the call.
        let ptr = unsafe { sys::virDomainDefineXMLFlags(self.ptr.as_ptr(), xml.as_ptr(), 0) };
        pointer("virDomainDefineXMLFlags", ptr).map(|ptr| Domain { ptr })
    }

    /// Another reference to the same connection.
    ///
    /// # Errors
    /// libvirt's.
    pub fn another(&self) -> Result<Self> {
        // SAFETY: the pointer is valid while self lives; the new reference is given back by the new value.
        match unsafe { sys::virConnectRef(self.ptr.as_ptr()) } {
            answer if answer < 0 => Err(last_error("virConnectRef")),
            _ => Ok(Self { ptr: self.ptr }),
        }
    }
}

const fn split(version: c_ulong) -> (u64, u64, u64) {
    (version / 1_000_000, version / 1000 % 1000, version % 1000)
}
