//! A domain at a new place: other files, perhaps another name and other addresses, and a host that may have less than the old one.

use std::collections::HashSet;
use std::path::{Component, Path};

use super::convert::{HostFacts, Network};
use super::{Domain, Element, Source};
use crate::error::{Error, Family, Result};

/// Where one disk is now.
#[derive(Clone, Debug)]
pub struct NewDisk {
    /// Its name in the domain.
    pub target: String,
    /// Its new place.
    pub source: Source,
    /// `raw` or `qcow2`.
    pub format: &'static str,
}

/// How a domain changes.
pub struct Rehome<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its UUID.
    pub uuid: &'a str,
    /// New addresses of network cards, in order; none keeps the old ones.
    pub macs: Option<&'a [String]>,
    /// The disks that come back. All others go.
    pub disks: &'a [NewDisk],
    /// The file with the variables of the firmware, if it has any.
    pub nvram: Option<&'a str>,
    /// What the host can do.
    pub host: &'a HostFacts,
    /// The networks of the host.
    pub networks: &'a [String],
    /// Plug all cards into this.
    pub network: Option<&'a str>,
    /// Whether the host has this file or folder.
    pub has_path: &'a dyn Fn(&str) -> bool,
    /// Whether a drive may hold the medium at this path: the XML may come from anywhere, and the guest reads what it names.
    pub may_insert: &'a dyn Fn(&str) -> bool,
}

/// Rewrites `domain`; answers it with everything that is not as it was.
///
/// # Errors
/// [`crate::Family::Corrupt`] if a disk of the backup is none of the domain's, or if the XML is not one that libvirt would write.
pub fn rehome(mut domain: Domain, wish: &Rehome<'_>) -> Result<(Domain, Vec<String>)> {
    // libvirt would read them all, and what follows only the first.
    for name in ["devices", "os"] {
        if domain.root().named(name).count() > 1 {
            return Err(Error::new(Family::Corrupt, format!("the domain XML has more than one <{name}>")));
        }
    }
    let mut notes = Vec::new();
    domain.drop_runtime();
    domain.set_name(wish.name);
    domain.set_uuid(Some(wish.uuid));
    disks(&mut domain, wish, &mut notes)?;
    cards(&mut domain, wish, &mut notes);
    firmware(&mut domain, wish, &mut notes);
    host(&mut domain, wish, &mut notes);
    paths::check(&mut domain, wish, &mut notes);
    others(&mut domain, &mut notes);
    Ok((domain, notes))
}

fn disks(domain: &mut Domain, wish: &Rehome<'_>, notes: &mut Vec<String>) -> Result<()> {
    for disk in wish.disks {
        domain.set_disk(&disk.target, &disk.source, disk.format)?;
    }
    for disk in domain.disks() {
        let target = &disk.target;
        if wish.disks.iter().any(|new| new.target == *target) {
            continue;
        }
        if disk.device == "disk" || disk.device == "lun" {
            notes.push(format!("{target} is not in the backup; the VM comes back without it"));
            domain.remove_disk(target)?;
            continue;
        }
        let why = match &disk.source {
            Some(Source::File(path) | Source::Block(path)) if !(wish.has_path)(path) => {
                format!("there is no {path} here")
            }
            Some(Source::File(path) | Source::Block(path)) if !(wish.may_insert)(path) => {
                format!("{path} is in none of the host's storage pools")
            }
            Some(source @ Source::Other(_)) => format!("it was {source}"),
            Some(_) => continue,
            None => {
                domain.eject(target)?;
                continue;
            }
        };
        notes.push(format!("the {} {target} comes back empty: {why}", disk.device));
        domain.eject(target)?;
    }
    Ok(())
}

fn cards(domain: &mut Domain, wish: &Rehome<'_>, notes: &mut Vec<String>) {
    for (n, card) in domain.interfaces().into_iter().enumerate() {
        if let Some(macs) = wish.macs {
            domain.set_mac(n, macs.get(n).map(String::as_str));
        }
        let device = |name: &str| (wish.has_path)(&format!("/sys/class/net/{name}"));
        let missing = match (card.kind.as_str(), card.source.as_deref()) {
            ("network", Some(name)) => (!wish.networks.iter().any(|n| n == name)).then(|| format!("network {name}")),
            ("bridge", Some(name)) => (!device(name)).then(|| format!("bridge {name}")),
            ("direct", Some(name)) => (!device(name)).then(|| format!("device {name}")),
            _ => None,
        };
        if let Some(network) = wish.network {
            domain.set_network(n, network);
            let was = card.source.unwrap_or(card.kind);
            if was != network {
                notes.push(format!("network card {n} was plugged into {was} and is plugged into {network}"));
            }
        } else if let Some(missing) = missing {
            match default_network(wish.networks) {
                Network::Named(name) => {
                    domain.set_network(n, &name);
                    notes.push(format!("network card {n} is plugged into {name}: there is no {missing} here"));
                }
                Network::Unplugged => {
                    domain.unplug(n);
                    notes.push(format!("network card {n} has no link: there is no {missing} here"));
                }
            }
        }
    }
}

/// Where cards go if nothing is said: the network `default`, if the host has it.
#[must_use]
pub fn default_network(networks: &[String]) -> Network {
    let default = networks.iter().find(|name| *name == "default");
    default.map_or(Network::Unplugged, |name| Network::Named(name.clone()))
}

fn firmware(domain: &mut Domain, wish: &Rehome<'_>, notes: &mut Vec<String>) {
    let nvram = domain.nvram();
    let had_variables =
        nvram.is_some() || domain.loader().is_some_and(|loader| loader.kind.as_deref() == Some("pflash"));
    if let Some(path) = wish.nvram {
        domain.set_nvram(Some(path));
    } else if had_variables {
        domain.set_nvram(None);
        notes.push("the backup holds no variables of the firmware: boot entries and keys start anew".into());
    }
    let loader = domain.loader().and_then(|loader| loader.path);
    if let Some(path) = loader.filter(|path| !(wish.has_path)(path)) {
        domain.forget_loader();
        notes.push(format!("the firmware {path} is not here; libvirt chooses another one"));
    } else if let Some(template) = nvram.and_then(|nvram| nvram.template).filter(|path| !(wish.has_path)(path)) {
        domain.forget_template();
        notes
            .push(format!("the template {template} of the firmware's variables is not here and is not named any more"));
    }
}

fn host(domain: &mut Domain, wish: &Rehome<'_>, notes: &mut Vec<String>) {
    if domain.kind() == "kvm" && !wish.host.kvm && wish.host.emulation {
        domain.root_mut().set("type", "qemu");
        notes.push("this host has no KVM: the VM is emulated, which is slow".into());
        let cpu = domain.root_mut().child_mut("cpu");
        if let Some(cpu) = cpu.filter(|cpu| matches!(cpu.get("mode"), Some("host-passthrough" | "host-model"))) {
            *cpu = Element::new("cpu").attr("mode", "maximum");
        }
    }
    let cpu = domain.root().child("cpu");
    if let Some(model) =
        cpu.filter(|cpu| cpu.get("mode").unwrap_or("custom") == "custom").and_then(|c| c.text_of("model"))
    {
        notes.push(format!("the host must offer the processor {model} with its features"));
    }
    let machine = domain.machine().unwrap_or_default().to_owned();
    let ours = domain.arch().is_none_or(|arch| arch == "x86_64");
    if ours && !machine.is_empty() && !wish.host.has_machine(&machine) {
        let family = if machine.contains("q35") { "q35" } else { "pc" };
        domain.set_machine(family);
        notes.push(format!("this host has no machine type {machine}; the VM becomes a {family}"));
    }
    let Some(emulator) = domain.emulator() else { return };
    let why = match (is_program(&emulator), (wish.has_path)(&emulator)) {
        (true, true) => return,
        (true, false) => "is not here",
        (false, _) => "is not in a folder of programs",
    };
    let devices = domain.root_mut().child_mut("devices");
    devices.map(|devices| devices.remove("emulator"));
    notes.push(format!("the emulator {emulator} {why}; libvirt chooses another one"));
}

/// Whether it lies where distributions put emulators: libvirt runs it.
fn is_program(path: &str) -> bool {
    let path = Path::new(path);
    let straight = path.components().all(|part| part != Component::ParentDir);
    straight && ["/usr/bin", "/usr/libexec", "/usr/lib"].iter().any(|folder| path.starts_with(folder))
}

fn others(domain: &mut Domain, notes: &mut Vec<String>) {
    // Guests take a new one as the sign that time has gone back.
    if domain.root().child("genid").is_some() {
        domain.root_mut().set_text_of("genid", "");
        notes.push("the generation id is a new one".into());
    }
    let Some(devices) = domain.root().child("devices") else { return };
    let needed: [(&str, &str); 4] = [
        ("hostdev", "a device of the host"),
        ("filesystem", "a folder of the host"),
        ("vsock", "a socket to the host"),
        ("shmem", "shared memory"),
    ];
    for (name, what) in needed {
        let count = devices.named(name).count();
        if count > 0 {
            notes.push(format!("{what} is needed at the start ({count} of <{name}>)"));
        }
    }
    if let Some(secret) = domain.tpm().and_then(|tpm| tpm.secret) {
        notes.push(format!("the TPM's state is encrypted with the secret {secret}, which the host must have"));
    }
    let commands: HashSet<_> =
        domain.root().children().filter(|c| c.name.contains(':')).map(|c| c.name.clone()).collect();
    for command in commands {
        notes.push(format!("<{command}> stays as it was"));
    }
}

mod paths;
#[cfg(test)]
mod tests;
