//! libvirt's domain XML, to be read and edited.

mod edit;

use std::fmt;

use super::disks::DomainDisk;
use super::xml::Element;
use crate::error::{Error, Family, Result};

/// The port that QEMU's guest agent listens on.
const AGENT: &str = "org.qemu.guest_agent.0";
/// The namespace of our mark in a domain's metadata.
const MARK: &str = "urn:stillframe:restore";

/// What starts the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS and its like.
    Bios,
    /// UEFI.
    Efi,
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bios => "bios",
            Self::Efi => "efi",
        })
    }
}

/// The code of the firmware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loader {
    /// Its file on the host, if one is named.
    pub path: Option<String>,
    /// `rom` or `pflash`.
    pub kind: Option<String>,
    /// Whether only system management mode may write variables, which secure boot needs.
    pub secure: bool,
}

/// The variables of the firmware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nvram {
    /// Their file on the host, if it is said.
    pub path: Option<String>,
    /// `raw` or `qcow2`, if it is said.
    pub format: Option<String>,
    /// What a new file is copied from.
    pub template: Option<String>,
}

/// A trusted platform module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tpm {
    /// `tpm-crb`, `tpm-tis` and so on.
    pub model: Option<String>,
    /// `emulator` (whose state libvirt keeps in swtpm's folder), `passthrough`, `external`.
    pub backend: String,
    /// `1.2` or `2.0`.
    pub version: Option<String>,
    /// The secret that its state is encrypted with.
    pub secret: Option<String>,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// `network`, `bridge`, `user`, `direct` and so on.
    pub kind: String,
    /// The hardware address.
    pub mac: Option<String>,
    /// `virtio`, `e1000e` and so on.
    pub model: Option<String>,
    /// The network, bridge or device it is plugged into.
    pub source: Option<String>,
    /// Place in the boot order, from 1.
    pub boot_order: Option<u32>,
    /// Whether its link is up.
    pub link_up: bool,
    /// The device's name on the host, while it runs.
    pub device: Option<String>,
}

/// A domain as an editable tree: what is not known is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    root: Element,
}

impl Domain {
    /// Reads a domain's XML.
    ///
    /// # Errors
    /// [`Family::Corrupt`] if it is none, or not one that libvirt would write.
    pub fn parse(text: &str) -> Result<Self> {
        let what = "the domain XML cannot be understood";
        let root = Element::parse(text).map_err(|e| Error::new(Family::Corrupt, what).caused_by(e))?;
        Self::new(root)
    }

    /// Takes a tree as a domain.
    ///
    /// # Errors
    /// [`Family::Corrupt`] if it is none.
    pub fn new(root: Element) -> Result<Self> {
        let corrupt = |what: String| Error::new(Family::Corrupt, format!("the domain XML cannot be used: {what}"));
        if root.name != "domain" {
            return Err(corrupt(format!("its root is <{}>, not <domain>", root.name)));
        }
        let domain = Self { root };
        if domain.name().is_empty() {
            return Err(corrupt("it has no <name>".into()));
        }
        let mut seen = std::collections::HashSet::new();
        for disk in domain.disks() {
            if !seen.insert(disk.target.clone()) {
                return Err(corrupt(format!("two disks are called {}", disk.target)));
            }
        }
        Ok(domain)
    }

    /// The tree.
    #[must_use]
    pub const fn root(&self) -> &Element {
        &self.root
    }

    /// The tree, to be edited where this type has no method for it.
    pub const fn root_mut(&mut self) -> &mut Element {
        &mut self.root
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        self.root.text_of("name").unwrap_or_default()
    }

    /// Its UUID, in lower case with dashes.
    #[must_use]
    pub fn uuid(&self) -> Option<String> {
        let uuid: uuid::Uuid = self.root.text_of("uuid")?.parse().ok()?;
        Some(uuid.to_string())
    }

    /// `qemu`, `kvm` and so on.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.root.get("type").unwrap_or_default()
    }

    /// The number of the running domain.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.root.get("id")?.parse().ok()
    }

    /// The short title, if somebody gave it one.
    #[must_use]
    pub fn title(&self) -> Option<String> {
        self.root.text_of("title")
    }

    /// The description, if somebody gave it one.
    #[must_use]
    pub fn description(&self) -> Option<String> {
        self.root.text_of("description")
    }

    /// The machine type, such as `pc-q35-10.0`.
    #[must_use]
    pub fn machine(&self) -> Option<&str> {
        self.root.get_at(&["os", "type"], "machine")
    }

    /// The architecture, such as `x86_64`.
    #[must_use]
    pub fn arch(&self) -> Option<&str> {
        self.root.get_at(&["os", "type"], "arch")
    }

    /// The program that runs it.
    #[must_use]
    pub fn emulator(&self) -> Option<String> {
        self.root.child("devices")?.text_of("emulator")
    }

    /// Memory in bytes, as much as it may have.
    #[must_use]
    pub fn memory(&self) -> Option<u64> {
        let memory = self.root.child("memory")?;
        bytes(&memory.content(), memory.get("unit"))
    }

    /// Processors, as many as it may have.
    #[must_use]
    pub fn cpus(&self) -> Option<u32> {
        self.root.text_of("vcpu")?.parse().ok()
    }

    /// What starts it.
    #[must_use]
    pub fn firmware(&self) -> Firmware {
        let asked = self.root.get_at(&["os"], "firmware");
        let loader = self.loader();
        let by_loader = loader.is_some_and(|loader| {
            let path = loader.path.unwrap_or_default().to_ascii_lowercase();
            let known = ["ovmf", "edk2", "aavmf", "uefi"].iter().any(|name| path.contains(name));
            known || loader.kind.as_deref() == Some("pflash")
        });
        if asked == Some("efi") || (asked.is_none() && by_loader) { Firmware::Efi } else { Firmware::Bios }
    }

    /// Whether the firmware starts only what is signed.
    #[must_use]
    pub fn secure_boot(&self) -> bool {
        let features = self.root.at(&["os", "firmware"]);
        let feature = features.and_then(|f| f.named("feature").find(|f| f.get("name") == Some("secure-boot")));
        match feature.and_then(|feature| feature.get("enabled")) {
            Some(enabled) => enabled == "yes",
            None => self.loader().is_some_and(|loader| loader.secure),
        }
    }

    /// The code of the firmware, if it is named.
    #[must_use]
    pub fn loader(&self) -> Option<Loader> {
        let loader = self.root.at(&["os", "loader"])?;
        Some(Loader {
            path: Some(loader.content()).filter(|path| !path.is_empty()),
            kind: loader.get("type").map(str::to_owned),
            secure: loader.get("secure") == Some("yes"),
        })
    }

    /// The variables of the firmware, if it has any.
    #[must_use]
    pub fn nvram(&self) -> Option<Nvram> {
        let nvram = self.root.at(&["os", "nvram"])?;
        let text = |name: &str| nvram.get(name).map(str::to_owned);
        let path = Some(nvram.content()).filter(|path| !path.is_empty());
        Some(Nvram {
            path: path.or_else(|| nvram.get_at(&["source"], "file").map(str::to_owned)),
            format: text("format"),
            template: text("template"),
        })
    }

    /// Its trusted platform module, if it has one.
    #[must_use]
    pub fn tpm(&self) -> Option<Tpm> {
        let tpm = self.root.at(&["devices", "tpm"])?;
        let backend = tpm.child("backend")?;
        Some(Tpm {
            model: tpm.get("model").map(str::to_owned),
            backend: backend.get("type").unwrap_or("passthrough").into(),
            version: backend.get("version").map(str::to_owned),
            secret: backend.get_at(&["encryption"], "secret").map(str::to_owned),
        })
    }

    fn agent_channel(&self) -> Option<&Element> {
        let mut channels = self.root.child("devices")?.named("channel");
        channels.find(|channel| channel.get_at(&["target"], "name") == Some(AGENT))
    }

    /// Whether there is a way to a guest agent.
    #[must_use]
    pub fn has_agent(&self) -> bool {
        self.agent_channel().is_some()
    }

    /// Whether the guest agent has opened its port: only the XML of a running domain can say so.
    #[must_use]
    pub fn agent_connected(&self) -> bool {
        self.agent_channel().and_then(|channel| channel.get_at(&["target"], "state")) == Some("connected")
    }

    /// Disks, CD-ROMs and floppies in order.
    #[must_use]
    pub fn disks(&self) -> Vec<DomainDisk> {
        let Some(devices) = self.root.child("devices") else { return Vec::new() };
        devices.named("disk").filter_map(DomainDisk::read).collect()
    }

    /// Network cards in order.
    #[must_use]
    pub fn interfaces(&self) -> Vec<Interface> {
        let Some(devices) = self.root.child("devices") else { return Vec::new() };
        devices.named("interface").map(read_interface).collect()
    }

    /// The model of SCSI controller `index`, if it is said.
    #[must_use]
    pub fn scsi_model(&self, index: u32) -> Option<String> {
        let mut controllers = self.root.child("devices")?.named("controller").filter(|c| c.get("type") == Some("scsi"));
        let index = index.to_string();
        controllers.find(|c| c.get("index").unwrap_or("0") == index)?.get("model").map(str::to_owned)
    }

    /// The boot order by kinds (`hd`, `cdrom`, `network`, `fd`), which a domain has instead of orders at its devices.
    #[must_use]
    pub fn boot_kinds(&self) -> Vec<String> {
        let Some(os) = self.root.child("os") else { return Vec::new() };
        os.named("boot").filter_map(|boot| boot.get("dev")).map(str::to_owned).collect()
    }

    /// The run that restored this domain, if one of ours did.
    #[must_use]
    pub fn mark(&self) -> Option<String> {
        let metadata = self.root.child("metadata")?;
        let mark = metadata.children().find(|child| is_mark(child))?;
        mark.get("run").map(str::to_owned)
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.fmt(f)
    }
}

fn no_disk(target: &str) -> Error {
    Error::new(Family::Corrupt, format!("the domain XML has no disk {target}"))
}

fn is_mark(element: &Element) -> bool {
    element.attributes.iter().any(|(name, value)| name.starts_with("xmlns") && value == MARK)
}

/// Names that start with `ua-` were given by a person and are kept by libvirt.
fn is_users_alias(alias: &Element) -> bool {
    alias.get("name").is_some_and(|name| name.starts_with("ua-"))
}

fn read_interface(interface: &Element) -> Interface {
    let source = interface.child("source");
    let keys = ["network", "bridge", "dev", "path", "name"];
    Interface {
        kind: interface.get("type").unwrap_or_default().into(),
        mac: interface.get_at(&["mac"], "address").map(str::to_owned),
        model: interface.get_at(&["model"], "type").map(str::to_owned),
        source: source.and_then(|source| keys.iter().find_map(|key| source.get(key))).map(str::to_owned),
        boot_order: interface.get_at(&["boot"], "order").and_then(|order| order.parse().ok()),
        link_up: interface.get_at(&["link"], "state") != Some("down"),
        device: interface.get_at(&["target"], "dev").map(str::to_owned),
    }
}

/// A size with libvirt's units; KiB where none is said.
fn bytes(number: &str, unit: Option<&str>) -> Option<u64> {
    let number: u64 = number.parse().ok()?;
    let unit = unit.unwrap_or("KiB");
    let factor: u64 = match unit {
        "b" | "bytes" => 1,
        "KB" => 1000,
        "k" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "T" | "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor)
}

#[cfg(test)]
mod tests;
