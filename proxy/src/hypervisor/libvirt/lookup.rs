//! Which machines are there, and which of them is meant.

use std::net::{IpAddr, ToSocketAddrs};

use futures_util::{StreamExt, TryStreamExt, stream};
use libvirt::{AddressSource, Domain as Handle, Lease};

use super::LibvirtHost;
use super::cache::Known;
use super::config::{Standing, info, live};
use super::errors::from_libvirt;
use crate::error::{Context, Result};
use crate::hypervisor::{Power, Spec, VmInfo};

/// Machines that are asked side by side.
const AT_ONCE: usize = 8;

/// A machine and all that its guest is called.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) info: VmInfo,
    /// Addresses of the guest.
    pub(super) addresses: Vec<String>,
}

impl LibvirtHost {
    /// Every machine, without what only guests can tell.
    async fn all(&self) -> Result<Vec<(Handle, VmInfo)>> {
        let domains = self.connection().await?.list_all_domains().await.map_err(from_libvirt)?;
        let infos = domains.into_iter().map(|domain| async {
            match Standing::of(&domain).await {
                Ok(standing) => Ok(Some((info(&domain, standing), domain))),
                // It went away since it was listed.
                Err(gone) if gone.family() == crate::error::Family::NoVm => Ok(None),
                Err(error) => Err(error),
            }
        });
        let all: Vec<_> = stream::iter(infos).buffered(AT_ONCE).try_collect().await?;
        let mut all: Vec<_> = all.into_iter().flatten().map(|(info, domain)| (domain, info)).collect();
        all.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name).then_with(|| a.moref.0.cmp(&b.moref.0)));
        Ok(all)
    }

    /// The machines that `spec` names, with addresses.
    pub(super) async fn seen(&self, spec: &Spec) -> Result<Vec<Seen>> {
        let mut all = self.all().await?;
        if !matches!(spec, Spec::IpAddr(_)) {
            all.retain(|(_, info)| spec.matches(info));
        }
        let leases = match all.is_empty() {
            true => Vec::new(),
            false => self.connection().await?.leases().await.unwrap_or_default(),
        };
        let asked = all.into_iter().map(|(domain, info)| with_addresses(domain, info, &leases));
        let mut seen: Vec<_> = stream::iter(asked).buffered(AT_ONCE).collect().await;
        if let Spec::IpAddr(address) = spec {
            let wanted = addresses_of(address).await?;
            let known = self.names.read();
            seen.retain(|seen| wanted.iter().any(|wanted| is_known_as(seen, wanted, &known)));
        }
        Ok(seen)
    }

    /// Notes under which addresses a machine is known now, for when it is off.
    pub(super) async fn note_addresses(&self, domain: &Handle) {
        let Ok(standing) = Standing::of(domain).await else { return };
        let leases = domain.connection().leases().await.unwrap_or_default();
        let seen = with_addresses(domain.clone(), info(domain, standing), &leases).await;
        let mut addresses = seen.addresses;
        addresses.extend(seen.info.host_name);
        if addresses.is_empty() {
            return;
        }
        let time = jiff::Timestamp::now().to_string();
        let uuid = domain.uuid().to_owned();
        self.names.note(Known { uuid, moref: seen.info.moref, name: seen.info.name, addresses, time });
    }
}

/// Whether a machine is known under a name or address: by its guest while that runs, else by what was noted at its last backup.
fn is_known_as(seen: &Seen, wanted: &str, known: &[Known]) -> bool {
    let is = |own: &str| same_address(own, wanted);
    if seen.addresses.iter().any(|own| is(own)) || seen.info.host_name.as_deref().is_some_and(is) {
        return true;
    }
    let off = seen.info.power != Some(Power::On);
    let noted =
        known.iter().find(|known| known.moref == seen.info.moref && Some(&known.uuid) == seen.info.uuid.as_ref());
    off && noted.is_some_and(|known| known.addresses.iter().any(|own| is(own)))
}

fn same_address(own: &str, wanted: &str) -> bool {
    match (own.parse::<IpAddr>(), wanted.parse::<IpAddr>()) {
        (Ok(own), Ok(wanted)) => own == wanted,
        _ => own.eq_ignore_ascii_case(wanted),
    }
}

/// What was written, and the addresses that it resolves to if it is a name.
async fn addresses_of(wanted: &str) -> Result<Vec<String>> {
    let name = wanted.to_owned();
    if name.parse::<IpAddr>().is_ok() {
        return Ok(vec![name]);
    }
    let resolve = move || {
        let found = (name.as_str(), 0).to_socket_addrs().map(|found| found.map(|at| at.ip().to_string()).collect());
        let mut all: Vec<String> = found.unwrap_or_default();
        // This machine's own addresses stand for no guest.
        all.retain(|address| address.parse::<IpAddr>().is_ok_and(|ip| !ip.is_loopback() && !ip.is_unspecified()));
        all.push(name);
        all
    };
    tokio::task::spawn_blocking(resolve).await.failed(|| "a name was not resolved".into())
}

async fn with_addresses(domain: Handle, mut info: VmInfo, leases: &[Lease]) -> Seen {
    if info.power != Some(Power::On) {
        return Seen { info, addresses: Vec::new() };
    }
    let Ok(live) = live(&domain).await else { return Seen { info, addresses: Vec::new() } };
    let mut addresses = Vec::new();
    // A guest without an agent that answers would cost seconds each time it is asked.
    if live.agent_connected() {
        addresses.extend(asked(&domain, AddressSource::Agent).await);
        info.host_name = domain.guest_host_name(AddressSource::Agent).await.ok();
    }
    let macs: Vec<_> = live.interfaces().into_iter().filter_map(|card| card.mac).collect();
    let of_its_cards =
        |lease: &&Lease| lease.mac.as_ref().is_some_and(|mac| macs.iter().any(|own| own.eq_ignore_ascii_case(mac)));
    for lease in leases.iter().filter(of_its_cards) {
        addresses.push(lease.address.clone());
        info.host_name = info.host_name.or_else(|| lease.host_name.clone());
    }
    if addresses.is_empty() && !macs.is_empty() {
        addresses.extend(asked(&domain, AddressSource::Arp).await);
    }
    let mut seen = std::collections::HashSet::new();
    addresses.retain(|address| is_of_a_guest(address) && seen.insert(address.clone()));
    // IPv4 first: that is what people ask for.
    addresses.sort_by_key(|address| address.contains(':'));
    info.ip = addresses.first().cloned();
    Seen { info, addresses }
}

async fn asked(domain: &Handle, source: AddressSource) -> Vec<String> {
    let cards = domain.interface_addresses(source).await.unwrap_or_default();
    cards.into_iter().flat_map(|card| card.addresses).collect()
}

/// Whether an address means this guest and no other: not its loopback, not link-local.
fn is_of_a_guest(address: &str) -> bool {
    match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified(),
        Ok(IpAddr::V6(ip)) => !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_unspecified(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::VmId;

    fn seen(power: Power, addresses: &[&str]) -> Seen {
        let uuid = Some("u".to_owned());
        let info = VmInfo {
            moref: VmId("u".into()),
            name: "vm".into(),
            uuid,
            instance_uuid: None,
            power: Some(power),
            ip: None,
            host_name: Some("Guest.example".into()),
            template: false,
        };
        Seen { info, addresses: addresses.iter().map(|&address| address.to_owned()).collect() }
    }

    fn known(uuid: &str, address: &str) -> Known {
        Known {
            uuid: uuid.into(),
            moref: VmId("u".into()),
            name: "vm".into(),
            addresses: vec![address.into()],
            time: String::new(),
        }
    }

    #[test]
    fn a_running_guest_is_known_by_every_address_and_its_name_and_never_by_an_old_one() {
        let running = seen(Power::On, &["10.0.0.1", "fd00::1"]);
        for name in ["10.0.0.1", "fd00:0::1", "guest.EXAMPLE"] {
            assert!(is_known_as(&running, name, &[]), "{name}");
        }
        assert!(!is_known_as(&running, "10.0.0.9", &[known("u", "10.0.0.9")]));
    }

    #[test]
    fn a_stopped_machine_is_known_by_what_was_noted_of_this_very_machine() {
        let off = seen(Power::Off, &[]);
        assert!(is_known_as(&off, "10.0.0.9", &[known("u", "10.0.0.9")]));
        assert!(!is_known_as(&off, "10.0.0.9", &[known("another", "10.0.0.9")]));
    }
}
