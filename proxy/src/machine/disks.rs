//! The disks of a domain and where their bytes lie.

use std::fmt;

use super::xml::Element;
use crate::hypervisor::{Bus, DiskAddress};

/// Chains of backing files are longer than this only by mistake; libvirt stops at 200.
const MAX_CHAIN: usize = 200;

/// A host of a network disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkHost {
    /// Name or address.
    pub name: Option<String>,
    /// Port, as written.
    pub port: Option<String>,
    /// `tcp`, `unix`, `rdma`.
    pub transport: Option<String>,
    /// Path of a Unix socket.
    pub socket: Option<String>,
}

/// Where the bytes of a disk lie.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// A file on the host.
    File(String),
    /// A block device of the host.
    Block(String),
    /// Somewhere in the network.
    Network {
        /// `iscsi`, `nbd`, `rbd`, `https` and so on.
        protocol: String,
        /// Export, volume or path.
        name: Option<String>,
        /// Servers.
        hosts: Vec<NetworkHost>,
        /// Whether the connection is encrypted.
        tls: bool,
    },
    /// A volume of a storage pool.
    Volume {
        /// The pool's name.
        pool: String,
        /// The volume's name.
        volume: String,
    },
    /// A kind that we cannot read, by its name: `nvme`, `vhostuser`, `dir`.
    Other(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) | Self::Block(path) => f.write_str(path),
            Self::Network { protocol, name, hosts, .. } => {
                let host = hosts.first().and_then(|host| host.name.as_deref().or(host.socket.as_deref()));
                let port = hosts.first().and_then(|host| host.port.as_deref());
                write!(f, "{protocol}://{}", host.unwrap_or_default())?;
                if let Some(port) = port {
                    write!(f, ":{port}")?;
                }
                write!(f, "/{}", name.as_deref().unwrap_or_default())
            }
            Self::Volume { pool, volume } => write!(f, "{pool}/{volume}"),
            Self::Other(kind) => write!(f, "a source of type {kind}"),
        }
    }
}

impl Source {
    /// The path on the host, of a file or block device.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::File(path) | Self::Block(path) => Some(path),
            _ => None,
        }
    }

    /// What the element `disk`, `backingStore` or `mirror` with its child `source` says.
    pub(super) fn read(element: &Element) -> Option<Self> {
        let source = element.child("source")?;
        let text = |name: &str| source.get(name).map(str::to_owned);
        Some(match element.get("type").unwrap_or("file") {
            "file" => Self::File(text("file")?),
            "block" => Self::Block(text("dev")?),
            "network" => Self::Network {
                protocol: text("protocol")?,
                name: text("name"),
                hosts: source.named("host").map(read_host).collect(),
                tls: source.get("tls") == Some("yes"),
            },
            "volume" => Self::Volume { pool: text("pool")?, volume: text("volume")? },
            other => Self::Other(other.into()),
        })
    }

    /// `type` of the disk and its `source` element. None for a kind that we do not write.
    pub(super) fn write(&self) -> Option<(&'static str, Element)> {
        let source = Element::new("source");
        Some(match self {
            Self::File(path) => ("file", source.attr("file", path)),
            Self::Block(path) => ("block", source.attr("dev", path)),
            Self::Volume { pool, volume } => ("volume", source.attr("pool", pool).attr("volume", volume)),
            Self::Network { protocol, name, hosts, tls } => {
                let mut source = source.attr("protocol", protocol);
                if let Some(name) = name {
                    source.set("name", name);
                }
                if *tls {
                    source.set("tls", "yes");
                }
                for host in hosts {
                    source.push(write_host(host));
                }
                ("network", source)
            }
            Self::Other(_) => return None,
        })
    }
}

fn read_host(host: &Element) -> NetworkHost {
    let text = |name: &str| host.get(name).map(str::to_owned);
    NetworkHost { name: text("name"), port: text("port"), transport: text("transport"), socket: text("socket") }
}

fn write_host(host: &NetworkHost) -> Element {
    let mut element = Element::new("host");
    let pairs = [("name", &host.name), ("port", &host.port), ("transport", &host.transport), ("socket", &host.socket)];
    for (key, value) in pairs {
        if let Some(value) = value {
            element.set(key, value);
        }
    }
    element
}

/// Where a disk is on its controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DriveAddress {
    /// Index of the controller.
    pub controller: u32,
    /// Channel; on IDE the primary or secondary one.
    pub bus: u32,
    /// SCSI target.
    pub target: u32,
    /// Unit.
    pub unit: u32,
}

/// One disk, CD-ROM or floppy of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainDisk {
    /// Its name in the domain, unique: `vda`.
    pub target: String,
    /// `virtio`, `scsi`, `sata`, `ide`, `usb`, `fdc`. libvirt says it always.
    pub bus: String,
    /// `disk`, `cdrom`, `floppy` or `lun`.
    pub device: String,
    /// Its place on a controller, for buses that have one.
    pub drive: Option<DriveAddress>,
    /// `qcow2`, `raw` and so on: the type of the driver, if it is said.
    pub format: Option<String>,
    /// Where the bytes lie. An empty CD-ROM has none.
    pub source: Option<Source>,
    /// The chain below, nearest first, with formats. Only the XML of a running domain says it; a chain that is pinned in the stored XML
    /// stands there too.
    pub backing: Vec<(Source, Option<String>)>,
    /// The guest cannot write to it.
    pub read_only: bool,
    /// Several domains may write to it: no point in time exists for it.
    pub shareable: bool,
    /// What the guest writes is thrown away at its end.
    pub transient: bool,
    /// Place in the boot order, from 1.
    pub boot_order: Option<u32>,
    /// Serial number that the guest sees.
    pub serial: Option<String>,
    /// The device's name in QEMU, while it runs.
    pub alias: Option<String>,
    /// The number of the source's node in QEMU, while it runs.
    pub index: Option<u32>,
    /// Whether the source is encrypted by QEMU (LUKS in the image).
    pub encrypted: bool,
    /// A block job that copies or commits to another place is under way.
    pub mirrored: bool,
}

impl DomainDisk {
    pub(super) fn read(disk: &Element) -> Option<Self> {
        let target = disk.child("target")?;
        let name = target.get("dev")?.to_owned();
        let source = Source::read(disk);
        let number = |text: Option<&str>| text.and_then(|text| text.parse().ok());
        Some(Self {
            bus: target.get("bus").map_or_else(|| bus_of(&name), Into::into),
            device: disk.get("device").unwrap_or("disk").into(),
            drive: drive_address(disk),
            format: disk.get_at(&["driver"], "type").map(str::to_owned),
            backing: backing_chain(disk),
            read_only: disk.child("readonly").is_some(),
            shareable: disk.child("shareable").is_some(),
            transient: disk.child("transient").is_some(),
            boot_order: number(disk.get_at(&["boot"], "order")),
            serial: disk.text_of("serial"),
            alias: disk.get_at(&["alias"], "name").map(str::to_owned),
            index: number(disk.get_at(&["source"], "index")),
            encrypted: disk.at(&["source", "encryption"]).or_else(|| disk.child("encryption")).is_some(),
            mirrored: disk.child("mirror").is_some(),
            source,
            target: name,
        })
    }

    /// Where it is plugged in, in the words of catalogs and command lines: `virtio0:0` for vda, `scsi0:1` by its place on a SCSI controller.
    /// None for buses that we do not know.
    #[must_use]
    pub fn address(&self) -> Option<DiskAddress> {
        let bus = match self.bus.as_str() {
            "virtio" => Bus::Virtio,
            "scsi" => Bus::Scsi,
            "sata" => Bus::Sata,
            "ide" => Bus::Ide,
            "usb" => Bus::Usb,
            _ => return None,
        };
        let (controller, unit) = match (bus, self.drive) {
            (Bus::Ide, Some(drive)) => (drive.controller.checked_mul(2)?.checked_add(drive.bus)?, drive.unit),
            (Bus::Sata, Some(drive)) => (drive.controller, drive.unit),
            // A target and a LUN make one number; nearly always one of them is 0.
            (Bus::Scsi, Some(drive)) => {
                let target = drive.bus.checked_mul(1 << 16)?.checked_add(drive.target.checked_mul(256)?)?;
                (drive.controller, target.checked_add(drive.unit)?)
            }
            _ => (0, target_number(&self.target)?),
        };
        Some(DiskAddress { bus, controller, unit })
    }

    /// Whether this is a disk with data of its own, not a CD-ROM, a floppy or a device passed through.
    #[must_use]
    pub fn is_disk(&self) -> bool {
        self.device == "disk"
    }
}

/// The bus that libvirt takes when none is said, by the prefix of the name.
fn bus_of(target: &str) -> String {
    let buses = [("vd", "virtio"), ("sd", "scsi"), ("hd", "ide"), ("fd", "fdc"), ("xvd", "xen"), ("ubd", "uml")];
    buses.iter().find(|(prefix, _)| target.starts_with(prefix)).map_or("ide", |(_, bus)| bus).into()
}

fn drive_address(disk: &Element) -> Option<DriveAddress> {
    let address = disk.named("address").find(|address| address.get("type") == Some("drive"))?;
    let number = |name: &str| address.get(name).unwrap_or("0").parse().ok();
    Some(DriveAddress {
        controller: number("controller")?,
        bus: number("bus")?,
        target: number("target")?,
        unit: number("unit")?,
    })
}

fn backing_chain(disk: &Element) -> Vec<(Source, Option<String>)> {
    let mut chain = Vec::new();
    let mut next = disk.child("backingStore");
    while let Some(backing) = next.filter(|_| chain.len() < MAX_CHAIN) {
        let Some(source) = Source::read(backing) else { break };
        chain.push((source, backing.get_at(&["format"], "type").map(str::to_owned)));
        next = backing.child("backingStore");
    }
    chain
}

/// The number of a disk by its name: `vda` is 0, `sdab` 27.
#[must_use]
pub fn target_number(target: &str) -> Option<u32> {
    let letters = ["xvd", "vd", "sd", "hd", "fd", "ubd"].iter().find_map(|prefix| target.strip_prefix(prefix))?;
    if letters.is_empty() || letters.len() > 4 || !letters.bytes().all(|b| b.is_ascii_lowercase()) {
        return None;
    }
    let number = letters.bytes().fold(0_u32, |sum, letter| sum * 26 + u32::from(letter - b'a') + 1);
    Some(number - 1)
}

/// The name of disk `number` with this prefix: `vda` for 0.
#[must_use]
pub fn target_name(prefix: &str, number: u32) -> String {
    let mut letters = Vec::new();
    let mut rest = u64::from(number) + 1;
    while rest > 0 {
        rest -= 1;
        letters.push(char::from(b'a' + (rest % 26) as u8));
        rest /= 26;
    }
    prefix.chars().chain(letters.into_iter().rev()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_disks_are_numbers_in_letters() {
        for (name, number) in [("vda", 0), ("vdz", 25), ("vdaa", 26), ("vdab", 27), ("vdzz", 701), ("vdaaa", 702)] {
            assert_eq!((target_number(name), target_name("vd", number)), (Some(number), name.to_owned()));
        }
        assert_eq!((target_number("vd"), target_number("nvme0n1"), target_number("vda1")), (None, None, None));
    }

    #[test]
    fn a_disk_has_the_address_of_its_controller_or_its_name() {
        let address = |text: &str| {
            let disk = Element::parse(&format!("<disk>{text}</disk>")).unwrap();
            DomainDisk::read(&disk).unwrap().address().map(|address| address.to_string())
        };
        let drive = |target: &str, place: &str| address(&format!("{target}<address type='drive' {place}/>"));
        assert_eq!(address("<target dev='vdc' bus='virtio'/><address type='pci'/>").as_deref(), Some("virtio0:2"));
        let scsi = "<target dev='sdf' bus='scsi'/>";
        assert_eq!(drive(scsi, "controller='1' bus='0' target='0' unit='3'").as_deref(), Some("scsi1:3"));
        assert_eq!(drive(scsi, "controller='0' bus='0' target='2' unit='1'").as_deref(), Some("scsi0:513"));
        assert_eq!(address(scsi).as_deref(), Some("scsi0:5"));
        assert_eq!(drive("<target dev='hdd' bus='ide'/>", "bus='1' unit='1'").as_deref(), Some("ide1:1"));
        assert_eq!(drive("<target dev='sda' bus='sata'/>", "unit='4'").as_deref(), Some("sata0:4"));
        assert_eq!((address("<target dev='xvda' bus='xen'/>"), address("<target dev='x'/>")), (None, None));
    }

    #[test]
    fn every_kind_of_source_that_is_read_is_written_the_same() {
        for text in [
            "<disk type='file'><source file='/a b'/></disk>",
            "<disk type='block'><source dev='/dev/x'/></disk>",
            "<disk type='volume'><source pool='p' volume='v'/></disk>",
            "<disk type='network'><source protocol='nbd' name='e' tls='yes'><host name='h' port='1'/><host transport='unix' socket='/s'/></source></disk>",
        ] {
            let disk = Element::parse(text).unwrap();
            let (kind, source) = Source::read(&disk).unwrap().write().unwrap();
            assert_eq!(Element::new("disk").attr("type", kind).with(source), disk);
        }
        let nvme = Element::parse("<disk type='nvme'><source type='pci'/></disk>").unwrap();
        assert_eq!(Source::read(&nvme), Some(Source::Other("nvme".into())));
    }
}
