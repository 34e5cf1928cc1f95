//! A vSphere machine as a libvirt domain.

use std::collections::BTreeMap;

use super::{HostFacts, Network};
use crate::error::{Error, Family, Result};
use crate::hypervisor::{Bus, DiskAddress};
use crate::machine::vmx::{Settings, parse_address};
use crate::machine::{Domain, Element, Source, target_name};

/// Targets of QEMU's SAS controller; vSphere's controllers have 15 or more.
const SAS_TARGETS: u32 = 8;
/// Targets of QEMU's pvscsi.
const PVSCSI_TARGETS: u32 = 64;
/// Ports of an AHCI controller.
const AHCI_PORTS: u32 = 6;
/// vSphere's largest machines have 24 TiB.
const MAX_MEMORY_MIB: u64 = 24 << 20;
/// vSphere's largest machines have 768 processors.
const MAX_CPUS: u64 = 768;
/// vSphere's machines have at most 10.
const MAX_CARDS: usize = 32;

/// The kind of controller that all disks come to, if one is wished for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskBus {
    /// virtio-blk.
    Virtio,
    /// virtio-scsi.
    Scsi,
    /// AHCI.
    Sata,
    /// IDE, at most four.
    Ide,
}

/// A disk of the backup and where its bytes will lie.
#[derive(Clone, Debug)]
pub struct VmxDisk {
    /// Where it was plugged in: `scsi0:1`.
    pub address: String,
    /// Its new place.
    pub source: Source,
    /// `raw` or `qcow2`.
    pub format: &'static str,
}

/// How a machine is to be converted.
pub struct FromVmx<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its UUID; none lets libvirt choose.
    pub uuid: Option<&'a str>,
    /// Whether network cards keep their addresses.
    pub keep_macs: bool,
    /// The disks.
    pub disks: &'a [VmxDisk],
    /// Where network cards go.
    pub network: Network,
    /// Put all disks on this kind of controller.
    pub disk_bus: Option<DiskBus>,
    /// What the host can do.
    pub host: &'a HostFacts,
}

/// Makes a domain of a `.vmx`. Answers it with everything that is not as it was.
///
/// # Errors
/// [`Family::Corrupt`] if the `.vmx` cannot be used or does not plug in a disk of the backup; [`Family::Unsupported`] if there is no room
/// for a disk.
pub fn domain_of_vmx(vmx: &str, wish: &FromVmx<'_>) -> Result<(Domain, Vec<String>)> {
    let settings = Settings::of(vmx)?;
    let mut made = Making { settings, wish, efi: false, devices: Element::new("devices"), notes: Vec::new() };
    made.efi = made.settings.get("firmware").is_some_and(|firmware| firmware.eq_ignore_ascii_case("efi"));
    made.controllers_and_disks()?;
    made.drives_without_disks();
    made.cards();
    made.others();
    let domain = made.domain()?;
    Ok((domain, made.notes))
}

struct Making<'a> {
    settings: Settings,
    wish: &'a FromVmx<'a>,
    efi: bool,
    devices: Element,
    notes: Vec<String>,
}

impl Making<'_> {
    fn domain(&mut self) -> Result<Domain> {
        let wish = self.wish;
        let mut root = Element::new("domain").attr("type", wish.host.kind());
        root.push(Element::new("name").text(wish.name));
        if let Some(uuid) = wish.uuid {
            root.push(Element::new("uuid").text(uuid));
        }
        if let Some(text) = self.settings.get("annotation") {
            root.push(Element::new("description").text(text));
        }
        let memory = self.settings.number("memsize").unwrap_or(1024).clamp(4, MAX_MEMORY_MIB);
        root.push(Element::new("memory").attr("unit", "MiB").text(&memory.to_string()));
        let cpus = self.settings.number("numvcpus").unwrap_or(1).clamp(1, MAX_CPUS);
        root.push(Element::new("vcpu").text(&cpus.to_string()));
        root.push(self.os());
        root.push(self.features());
        root.push(self.cpu(cpus));
        root.push(self.clock());
        for (event, what) in [("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")] {
            root.push(Element::new(event).text(what));
        }
        root.push(std::mem::take(&mut self.devices));
        Domain::new(root)
    }

    fn secure_boot(&self) -> bool {
        self.efi && self.settings.is_true("uefi.secureBoot.enabled")
    }

    fn os(&mut self) -> Element {
        // VMware's machines with BIOS have the chip set that `pc` has; OVMF with secure boot runs on q35 only.
        let machine = if self.efi { "q35" } else { "pc" };
        let kind = Element::new("type").attr("arch", "x86_64").attr("machine", machine).text("hvm");
        let mut os = Element::new("os").with(kind);
        if self.efi {
            os.set("firmware", "efi");
            let secure = if self.secure_boot() { "yes" } else { "no" };
            let feature = |name: &str| Element::new("feature").attr("enabled", secure).attr("name", name);
            os.push(Element::new("firmware").with(feature("enrolled-keys")).with(feature("secure-boot")));
            self.notes.push(
                "the firmware starts with no boot entries: VMware's NVRAM cannot be used by OVMF, which boots \\EFI\\BOOT\\BOOTX64.EFI"
                    .into(),
            );
            if self.secure_boot() {
                self.notes.push("secure boot stays on, with the keys that OVMF brings".into());
            }
        }
        os
    }

    fn features(&self) -> Element {
        let mut features = Element::new("features").with(Element::new("acpi")).with(Element::new("apic"));
        if self.secure_boot() {
            features.push(Element::new("smm").attr("state", "on"));
        }
        features
    }

    fn cpu(&mut self, cpus: u64) -> Element {
        let mode = if self.wish.host.kvm { "host-model" } else { "maximum" };
        let mut cpu = Element::new("cpu").attr("mode", mode);
        let cores = self.settings.number("cpuid.coresPerSocket").unwrap_or(1);
        if cores > 1 && cpus.is_multiple_of(cores) {
            let topology = Element::new("topology").attr("sockets", &(cpus / cores).to_string());
            cpu.push(topology.attr("cores", &cores.to_string()).attr("threads", "1"));
        }
        self.notes.push(format!("the processor is {mode} of this host"));
        cpu
    }

    fn clock(&self) -> Element {
        let guest = self.settings.get("guestOS").unwrap_or_default().to_ascii_lowercase();
        let local = guest.starts_with("win");
        let mut clock = Element::new("clock").attr("offset", if local { "localtime" } else { "utc" });
        for (name, policy) in [("rtc", "catchup"), ("pit", "delay")] {
            clock.push(Element::new("timer").attr("name", name).attr("tickpolicy", policy));
        }
        clock.push(Element::new("timer").attr("name", "hpet").attr("present", "no"));
        clock
    }

    /// The disks in the order of the `.vmx`, each on the controller that its driver knows.
    fn controllers_and_disks(&mut self) -> Result<()> {
        let mut plugged: Vec<(DiskAddress, &VmxDisk)> = Vec::new();
        for disk in self.wish.disks {
            let file = self.settings.get(&format!("{}.fileName", disk.address));
            let address = file.and_then(|_| parse_address(&disk.address)).ok_or_else(|| {
                let what = format!("the .vmx does not plug in {}, which the backup holds", disk.address);
                Error::new(Family::Corrupt, what)
            })?;
            plugged.push((address, disk));
        }
        plugged.sort_by_key(|(address, _)| *address);
        let order = self.boot_order(&plugged);
        let mut places = Places::default();
        for (address, disk) in &plugged {
            let place = self.place(*address, &mut places)?;
            if place.bus != bus_name(address.bus) || place.changed {
                self.notes.push(format!("{address} comes to {}", place.text));
            }
            let target = places.name(place.bus);
            let (kind, source) = disk.source.write().ok_or_else(|| {
                Error::new(Family::Unsupported, format!("{} cannot be put on {}", disk.address, disk.source))
            })?;
            let driver = Element::new("driver").attr("name", "qemu").attr("type", disk.format);
            let mut element = Element::new("disk").attr("type", kind).attr("device", "disk").with(driver).with(source);
            element.push(Element::new("target").attr("dev", &target).attr("bus", place.bus));
            if order.first() == Some(address) {
                element.push(Element::new("boot").attr("order", "1"));
            }
            if place.named {
                element.push(Element::new("wwn").text(&self.world_wide_name(*address)));
            }
            if let Some(address) = place.address {
                element.push(address);
            }
            self.devices.push(element);
        }
        for ((kind, index), model) in places.controllers {
            let index = index.to_string();
            let mut controller = Element::new("controller").attr("type", kind).attr("index", &index);
            if let Some(model) = model {
                controller.set("model", model);
            }
            self.devices.push(controller);
        }
        Ok(())
    }

    /// A name for a SAS disk: of the kind that is assigned locally, the same for the same disk of the same machine.
    fn world_wide_name(&self, address: DiskAddress) -> String {
        let seed = format!("{} {} {address}", self.wish.name, self.wish.uuid.unwrap_or_default());
        format!("3{}", &blake3::hash(seed.as_bytes()).to_hex()[..15])
    }

    /// The disks in the order in which the firmware tries them.
    fn boot_order(&self, plugged: &[(DiskAddress, &VmxDisk)]) -> Vec<DiskAddress> {
        let wished = self.settings.get("bios.hddOrder").unwrap_or_default();
        let mut order: Vec<DiskAddress> = wished.split(',').filter_map(|text| parse_address(text.trim())).collect();
        order.retain(|wish| plugged.iter().any(|(address, _)| address == wish));
        order.extend(plugged.iter().map(|(address, _)| *address));
        order
    }

    fn place(&mut self, from: DiskAddress, places: &mut Places) -> Result<DiskPlace> {
        match self.wish.disk_bus {
            Some(DiskBus::Virtio) => return Ok(DiskPlace::virtio()),
            Some(DiskBus::Scsi) => return Ok(places.scsi(from, "virtio-scsi", PVSCSI_TARGETS, true)),
            Some(DiskBus::Sata) => return Ok(places.sata()),
            Some(DiskBus::Ide) => return places.ide(from),
            None => {}
        }
        match from.bus {
            Bus::Scsi => {
                let model = self.settings.get(&format!("scsi{}.virtualDev", from.controller)).unwrap_or("lsilogic");
                match model.to_ascii_lowercase().as_str() {
                    "pvscsi" => Ok(places.scsi(from, "vmpvscsi", PVSCSI_TARGETS, false)),
                    "lsisas1068" => Ok(places.scsi(from, "lsisas1068", SAS_TARGETS, false)),
                    // QEMU has no 53C1030. Its SAS sibling is driven by the same family of drivers.
                    other => {
                        let mut place = places.scsi(from, "lsisas1068", SAS_TARGETS, true);
                        place.text.push_str(&format!(": its driver is mptsas or LSI_SAS, not that of {other}"));
                        Ok(place)
                    }
                }
            }
            Bus::Ide if !self.efi => places.ide(from),
            // q35 has no IDE, and libvirt no NVMe disk that is a file.
            Bus::Sata | Bus::Ide | Bus::Nvme => Ok(places.sata()),
            Bus::Virtio => Ok(DiskPlace::virtio()),
            Bus::Usb => Ok(places.sata()),
        }
    }

    /// CD-ROMs stay as empty drives; disks that the backup does not hold go.
    fn drives_without_disks(&mut self) {
        let mut units = 0..4_u32;
        let ide_disks =
            self.devices.named("disk").filter(|disk| disk.get_at(&["target"], "bus") == Some("ide")).count();
        let sata_disks =
            self.devices.named("disk").filter(|disk| disk.get_at(&["target"], "bus") == Some("sata")).count();
        for (address, kind) in self.settings.drives() {
            let text = address.to_string();
            if self.wish.disks.iter().any(|disk| disk.address == text) {
                continue;
            }
            if !kind.contains("cdrom") {
                self.notes.push(format!("{text} is not in the backup; the VM comes back without it"));
                continue;
            }
            // At the end of the first free controller, behind all disks.
            let Some(unit) = units.next() else { continue };
            let used = if self.efi { sata_disks } else { ide_disks } as u32;
            let (bus, controller, channel, unit) = match (self.efi, used + unit) {
                (true, n) => ("sata", n / AHCI_PORTS, 0, n % AHCI_PORTS),
                (false, n) if n < 4 => ("ide", 0, n / 2, n % 2),
                (false, _) => {
                    self.notes.push(format!("the CD-ROM drive {text} finds no place and goes"));
                    continue;
                }
            };
            let number = if self.efi { self.count("sd") } else { used + unit };
            let target = target_name(if self.efi { "sd" } else { "hd" }, number);
            let mut drive = Element::new("disk").attr("type", "file").attr("device", "cdrom");
            drive.push(Element::new("target").attr("dev", &target).attr("bus", bus));
            drive.push(Element::new("readonly"));
            if bus == "sata" {
                drive.push(drive_address(controller, channel, 0, unit));
            }
            self.notes.push(format!("the CD-ROM drive {text} comes back empty as {target}"));
            self.devices.push(drive);
        }
    }

    /// How many disks have names with this prefix.
    fn count(&self, prefix: &str) -> u32 {
        let names = self.devices.named("disk").filter_map(|disk| disk.get_at(&["target"], "dev"));
        names.filter(|name| name.starts_with(prefix)).count() as u32
    }

    fn cards(&mut self) {
        for n in self.settings.present("ethernet").into_iter().take(MAX_CARDS) {
            let get = |key: &str| self.settings.get(&format!("ethernet{n}.{key}"));
            let was = get("virtualDev").unwrap_or("e1000").to_ascii_lowercase();
            let model = match was.as_str() {
                "e1000" | "e1000e" | "vmxnet3" => was.as_str(),
                "vlance" | "flexible" => "pcnet",
                _ => "e1000",
            };
            let static_one = get("addressType").is_some_and(|kind| kind.eq_ignore_ascii_case("static"));
            let mac = if static_one { get("address") } else { get("generatedAddress").or_else(|| get("address")) };
            let mac = mac.filter(|mac| self.wish.keep_macs && is_mac(mac)).map(str::to_ascii_lowercase);
            let network = get("networkName").unwrap_or("its network").to_owned();
            let mut card = Element::new("interface");
            if let Some(mac) = &mac {
                card.push(Element::new("mac").attr("address", mac));
            }
            let to = match &self.wish.network {
                Network::Named(name) => {
                    card.set("type", "network");
                    card.push(Element::new("source").attr("network", name));
                    format!("the network {name}")
                }
                Network::Unplugged => {
                    card.set("type", "user");
                    "nothing: its link is down".into()
                }
            };
            card.push(Element::new("model").attr("type", model));
            if self.wish.network == Network::Unplugged {
                card.push(Element::new("link").attr("state", "down"));
            }
            self.devices.push(card);
            let mut note = format!("ethernet{n} was plugged into {network} and is plugged into {to}");
            if model != was {
                note.push_str(&format!("; its model {was} becomes {model}"));
            }
            if mac.is_none() {
                note.push_str("; it gets a new hardware address");
            }
            self.notes.push(note);
        }
    }

    fn others(&mut self) {
        let agent = Element::new("target").attr("type", "virtio").attr("name", "org.qemu.guest_agent.0");
        self.devices.push(Element::new("channel").attr("type", "unix").with(agent));
        self.devices.push(Element::new("serial").attr("type", "pty"));
        self.devices.push(Element::new("input").attr("type", "tablet").attr("bus", "usb"));
        let vnc = Element::new("graphics").attr("type", "vnc").attr("port", "-1").attr("autoport", "yes");
        self.devices.push(vnc.attr("listen", "127.0.0.1"));
        self.devices.push(Element::new("video").with(Element::new("model").attr("type", "vga")));
        self.notes.push("the display is a standard VGA card, reached by VNC on this host alone".into());
        if self.settings.is_true("vtpm.present") {
            let backend = Element::new("backend").attr("type", "emulator").attr("version", "2.0");
            self.devices.push(Element::new("tpm").attr("model", "tpm-crb").with(backend));
            self.notes
                .push("the TPM is a new, empty one: what was sealed by the old one asks for its recovery key".into());
        }
        let gone = [
            ("floppy", "the floppy drive"),
            ("sound", "the sound card"),
            ("serial", "the serial port"),
            ("parallel", "the parallel port"),
            ("pciPassthru", "the device passed through"),
            ("vmci", "the VMware communication interface"),
        ];
        for (prefix, what) in gone {
            for n in self.settings.present(&prefix.to_ascii_lowercase()) {
                self.notes.push(format!("{what} {prefix}{n} goes"));
            }
        }
    }
}

/// Where a disk is put.
struct DiskPlace {
    bus: &'static str,
    address: Option<Element>,
    /// Another driver may be needed, or another family of controllers is there.
    changed: bool,
    /// Drivers find the disk only by a world wide name: Linux' mptsas passes over those of QEMU that have none.
    named: bool,
    text: String,
}

impl DiskPlace {
    fn virtio() -> Self {
        Self {
            bus: "virtio",
            address: None,
            changed: true,
            named: false,
            text: "virtio, which needs a driver in the guest".into(),
        }
    }
}

/// What is taken already.
#[derive(Default)]
struct Places {
    controllers: BTreeMap<(&'static str, u32), Option<&'static str>>,
    /// The controllers that one of VMware's became, and how many disks the last of them has.
    scsi: BTreeMap<u32, (u32, u32)>,
    sata: u32,
    ide: u32,
    names: BTreeMap<&'static str, u32>,
}

impl Places {
    /// The next name of a disk on this bus.
    fn name(&mut self, bus: &str) -> String {
        let prefix = match bus {
            "virtio" => "vd",
            "ide" => "hd",
            _ => "sd",
        };
        let next = self.names.entry(prefix).or_default();
        *next += 1;
        target_name(prefix, *next - 1)
    }

    fn scsi(&mut self, from: DiskAddress, model: &'static str, targets: u32, changed: bool) -> DiskPlace {
        let next = self.controllers.keys().filter(|(kind, _)| *kind == "scsi").count() as u32;
        let (controller, used) = self.scsi.entry(from.controller).or_insert((next, 0));
        if *used == targets {
            (*controller, *used) = (next, 0);
        }
        let (controller, target) = (*controller, *used);
        *used += 1;
        self.controllers.insert(("scsi", controller), Some(model));
        let address = Some(drive_address(controller, 0, target, 0));
        let moved = changed || controller != from.controller;
        let named = model == "lsisas1068";
        DiskPlace {
            bus: "scsi",
            address,
            changed: moved,
            named,
            text: format!("target {target} of a {model} controller"),
        }
    }

    fn sata(&mut self) -> DiskPlace {
        let (controller, unit) = (self.sata / AHCI_PORTS, self.sata % AHCI_PORTS);
        self.sata += 1;
        self.controllers.insert(("sata", controller), None);
        let address = Some(drive_address(controller, 0, 0, unit));
        DiskPlace {
            bus: "sata",
            address,
            changed: false,
            named: false,
            text: format!("port {unit} of an AHCI controller"),
        }
    }

    fn ide(&mut self, from: DiskAddress) -> Result<DiskPlace> {
        let n = self.ide;
        if n == 4 {
            return Err(Error::new(Family::Unsupported, format!("{from} is the fifth IDE disk, and four have room"))
                .hint("use --disk-bus sata"));
        }
        self.ide += 1;
        let address = Some(drive_address(0, n / 2, 0, n % 2));
        Ok(DiskPlace { bus: "ide", address, changed: false, named: false, text: format!("IDE {}:{}", n / 2, n % 2) })
    }
}

fn drive_address(controller: u32, bus: u32, target: u32, unit: u32) -> Element {
    let address = Element::new("address").attr("type", "drive").attr("controller", &controller.to_string());
    address.attr("bus", &bus.to_string()).attr("target", &target.to_string()).attr("unit", &unit.to_string())
}

const fn bus_name(bus: Bus) -> &'static str {
    match bus {
        Bus::Scsi => "scsi",
        Bus::Ide => "ide",
        Bus::Sata => "sata",
        Bus::Nvme => "nvme",
        Bus::Virtio => "virtio",
        Bus::Usb => "usb",
    }
}

/// Six bytes in hexadecimal, of which the first bit says that it names one card only.
pub(super) fn is_mac(text: &str) -> bool {
    let bytes: Vec<_> =
        text.split(':').map(|byte| (byte.len() == 2).then(|| u8::from_str_radix(byte, 16).ok())).collect();
    let bytes: Option<Vec<u8>> = bytes.into_iter().map(Option::flatten).collect();
    bytes.is_some_and(|bytes| bytes.len() == 6 && bytes[0] & 1 == 0 && bytes.iter().any(|byte| *byte != 0))
}
