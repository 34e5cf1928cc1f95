//! From one hypervisor's machine to another's. Everything that is not the same afterwards is said in a note.
//!
//! What is aimed at is that the guest boots without a change to its drivers: every controller and card becomes one that the same driver
//! knows, as far as QEMU has it.

mod from_vmx;
mod to_vmx;

pub use self::from_vmx::{DiskBus, FromVmx, VmxDisk, domain_of_vmx};
pub use self::to_vmx::{MadeVmx, ToVmx, vmx_of_domain};

use super::xml::Element;

/// What network cards are plugged into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// A network of libvirt.
    Named(String),
    /// Nothing: the card is there, its link is down.
    Unplugged,
}

/// What a libvirt host can do, as its capabilities say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Machine types of x86_64 guests, aliases among them. Empty: not known.
    pub machines: Vec<String>,
    /// Whether guests run on the processor itself (KVM).
    pub kvm: bool,
    /// Whether guests run by emulation.
    pub emulation: bool,
}

impl HostFacts {
    /// Reads `<capabilities>`.
    ///
    /// # Errors
    /// Those of [`Element::parse`].
    pub fn of_capabilities(xml: &str) -> Result<Self, super::XmlError> {
        let root = Element::parse(xml)?;
        let mut facts = Self::default();
        let is_ours = |guest: &&Element| guest.get_at(&["arch"], "name") == Some("x86_64");
        for arch in root.named("guest").filter(is_ours).filter_map(|guest| guest.child("arch")) {
            for machine in arch.named("machine") {
                facts.machines.push(machine.content());
                facts.machines.extend(machine.get("canonical").map(str::to_owned));
            }
            facts.kvm |= arch.named("domain").any(|domain| domain.get("type") == Some("kvm"));
            facts.emulation |= arch.named("domain").any(|domain| domain.get("type") == Some("qemu"));
        }
        Ok(facts)
    }

    /// The type of a domain on this host.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        if self.kvm { "kvm" } else { "qemu" }
    }

    /// Whether the host knows this machine type. One that does not say is believed to.
    #[must_use]
    pub fn has_machine(&self, machine: &str) -> bool {
        self.machines.is_empty() || self.machines.iter().any(|known| known == machine)
    }
}

#[cfg(test)]
mod tests;
