//! From a URI to a logged-in hypervisor.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lab::face::{Lab, endpoint_of};
use lab::world::World;
use vsphere::{Client, Endpoint};
use zeroize::Zeroizing;

use super::vsphere::{VSphere, from_vsphere};
use super::{Hypervisor, Link, VmInfo};
use crate::config::{ConnectionUri, LibvirtUri, PasswordSources, Scheme};
use crate::error::{Context, Error, Family, Result};

/// A logged-in hypervisor, and the lab under it if this process runs one.
pub struct Connected {
    /// The hypervisor.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Where it is, with all options, for journals.
    pub uri: ConnectionUri,
    lab: Option<Lab>,
}

impl Connected {
    /// Logs out, and stops the lab if this process runs it.
    pub async fn close(self) {
        self.hypervisor.close().await;
        if let Some(lab) = self.lab {
            lab.stop().await;
        }
    }

    /// The one VM that `spec` names.
    ///
    /// # Errors
    /// [`Family::NoVm`] if there is none, or more than one.
    pub async fn one(&self, spec: &super::Spec) -> Result<VmInfo> {
        let mut found = self.hypervisor.find(spec).await?;
        match found.len() {
            0 => Err(Error::new(Family::NoVm, format!("no VM matches {spec} at {}", self.uri.place()))
                .hint("`stillframe vm list` shows what is there; names are case-sensitive")),
            1 => Ok(found.remove(0)),
            _ => {
                let names: Vec<_> = found.iter().map(|vm| format!("moref:{} ({})", vm.moref, vm.name)).collect();
                Err(Error::new(Family::NoVm, format!("{spec} matches {} VMs: {}", found.len(), names.join(", ")))
                    .hint("name one by moref: or uuid:; vcbSnapAll takes a group"))
            }
        }
    }

    /// The connection that transports read through.
    #[must_use]
    pub fn link(&self) -> Link {
        self.hypervisor.link()
    }
}

/// Connects and logs in. `snapshot_limit` replaces the time that making a snapshot may take.
///
/// # Errors
/// Each failure names the server and what to do.
pub async fn connect(
    uri: &ConnectionUri,
    passwords: &PasswordSources,
    snapshot_limit: Option<Duration>,
) -> Result<Connected> {
    if let Scheme::Libvirt(libvirt) = &uri.scheme {
        let hypervisor = libvirt_host(libvirt, uri.tls.insecure, snapshot_limit).await?;
        return Ok(Connected { hypervisor, uri: uri.clone(), lab: None });
    }
    let (server, passwords, lab) = match &uri.scheme {
        Scheme::Lab(dir) => {
            let (server, passwords, lab) = lab_server(dir).await?;
            (server, passwords, lab)
        }
        _ => (uri.clone(), passwords.clone(), None),
    };
    let user = server.user.clone().ok_or_else(|| {
        Error::new(Family::Usage, format!("nobody is named to log in at {}", server.place()))
            .hint("write the user into the URI: vpx://USER@HOST/")
    })?;
    let password = passwords.password(&server)?;
    if server.tls.insecure {
        tracing::warn!("the certificate of {} is NOT checked, as --insecure says", server.place());
    }
    let mut endpoint = Endpoint::new(&server.host);
    endpoint.port = server.port;
    endpoint.tls = server.tls.policy();
    let what = || format!("cannot connect to {}", server.place());
    let client = Client::connect(endpoint).await.map_err(|e| from_vsphere(e).within(what()))?;
    client
        .login(&user, &password)
        .await
        .map_err(|e| from_vsphere(e).within(format!("cannot log in to {} as {user}", server.place())))?;
    let hypervisor = VSphere::new(client, uri.place()).create_limit(snapshot_limit);
    Ok(Connected { hypervisor: Arc::new(hypervisor), uri: uri.clone(), lab })
}

#[cfg(feature = "libvirt")]
async fn libvirt_host(uri: &LibvirtUri, insecure: bool, limit: Option<Duration>) -> Result<Arc<dyn Hypervisor>> {
    if uri.is_clear() && !insecure {
        return Err(Error::new(Family::Usage, "qemu+tcp:// sends everything in clear, with nobody asked who he is")
            .hint("use qemu+tls:// or qemu+ssh://, or add --insecure"));
    }
    let host = super::libvirt::LibvirtHost::connect(uri, limit).await?;
    Ok(Arc::new(host))
}

#[cfg(not(feature = "libvirt"))]
#[expect(clippy::unused_async, reason = "the same face with and without the feature")]
async fn libvirt_host(uri: &LibvirtUri, _: bool, _: Option<Duration>) -> Result<Arc<dyn Hypervisor>> {
    Err(Error::new(Family::Unsupported, format!("cannot connect to {}: built without libvirt", uri.place()))
        .hint("install libvirt-dev and pkg-config, and build with --features libvirt"))
}

/// A lab that runs is used as it is; one that does not is run by this process while it lasts.
async fn lab_server(dir: &Path) -> Result<(ConnectionUri, PasswordSources, Option<Lab>)> {
    let what = || format!("cannot use the lab in {}", dir.display());
    let (info, identity, lab) = match endpoint_of(dir) {
        Some(info) => (info, lab::world::identity_of(dir).failed(what)?, None),
        None => {
            let owned = dir.to_owned();
            let world = tokio::task::spawn_blocking(move || World::open(&owned)).await.failed(what)?.failed(what)?;
            let identity = world.identity();
            let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let lab = Lab::serve(world, any_port).await.failed(what)?;
            let info = endpoint_of(dir).ok_or_else(|| Error::new(Family::Failed, what()))?;
            (info, identity, Some(lab))
        }
    };
    let mut server = ConnectionUri::server(Scheme::VCenter, &info.address.to_string())?;
    server.user = Some(identity.user);
    server.tls.pins.push(info.sha256.parse().failed(what)?);
    let passwords = PasswordSources { given: Some(Zeroizing::new(identity.password)), ..PasswordSources::default() };
    Ok((server, passwords, lab))
}
