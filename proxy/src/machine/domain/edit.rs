//! What is changed in a domain's XML.

use super::super::disks::Source;
use super::super::xml::{Element, Node};
use super::{Domain, MARK, is_mark, is_users_alias, no_disk};
use crate::error::{Error, Family, Result};

impl Domain {
    /// Gives it another name.
    pub fn set_name(&mut self, name: &str) {
        self.root.set_text_of("name", name);
    }

    /// Gives it this UUID; none lets libvirt choose one.
    pub fn set_uuid(&mut self, uuid: Option<&str>) {
        match uuid {
            Some(uuid) if self.root.child("uuid").is_none() => {
                let at = usize::from(matches!(self.root.nodes.first(), Some(Node::Element(e)) if e.name == "name"));
                self.root.nodes.insert(at, Node::Element(Element::new("uuid").text(uuid)));
            }
            Some(uuid) => self.root.set_text_of("uuid", uuid),
            None => drop(self.root.remove("uuid")),
        }
        // A system UUID in the SMBIOS tables must be the domain's own.
        let Some(system) = self.root.child_mut("sysinfo").and_then(|sysinfo| sysinfo.child_mut("system")) else {
            return;
        };
        for entry in system.children_mut().filter(|entry| entry.get("name") == Some("uuid")) {
            entry.set_content(uuid.unwrap_or_default());
        }
        system.remove_children(|entry| entry.get("name") == Some("uuid") && entry.content().is_empty());
    }

    /// Gives network card `index` (in the order of [`interfaces`](Self::interfaces)) this hardware address; none lets libvirt choose.
    pub fn set_mac(&mut self, index: usize, mac: Option<&str>) {
        let Some(interface) = self.device_mut("interface", index) else { return };
        interface.remove("mac");
        if let Some(mac) = mac {
            interface.nodes.insert(0, Node::Element(Element::new("mac").attr("address", mac)));
        }
    }

    /// Plugs network card `index` into a libvirt network.
    pub fn set_network(&mut self, index: usize, network: &str) {
        let Some(interface) = self.device_mut("interface", index) else { return };
        interface.set("type", "network");
        interface.unset("trustGuestRxFilters");
        for gone in ["source", "virtualport", "backend", "portForward", "ip", "route"] {
            interface.remove(gone);
        }
        let source = Element::new("source").attr("network", network);
        interface.insert_before("model", source);
    }

    /// Leaves network card `index` without a link.
    pub fn unplug(&mut self, index: usize) {
        self.set_network(index, "");
        let Some(interface) = self.device_mut("interface", index) else { return };
        interface.set("type", "user");
        interface.remove("source");
        interface.remove("link");
        interface.push(Element::new("link").attr("state", "down"));
    }

    /// Gives it another machine type.
    pub fn set_machine(&mut self, machine: &str) {
        let kind = self.root.child_mut("os").and_then(|os| os.child_mut("type"));
        if let Some(kind) = kind {
            kind.set("machine", machine);
        }
    }

    /// Lets libvirt choose the code of the firmware, of the same kind.
    pub fn forget_loader(&mut self) {
        let (firmware, secure) = (self.firmware().to_string(), self.secure_boot());
        let Some(os) = self.root.child_mut("os") else { return };
        os.remove("loader");
        os.set("firmware", &firmware);
        if os.child("firmware").is_none() && firmware == "efi" {
            let enabled = if secure { "yes" } else { "no" };
            let feature = Element::new("feature").attr("enabled", enabled).attr("name", "secure-boot");
            os.push(Element::new("firmware").with(feature));
        }
        self.forget_template();
    }

    /// No longer names what a new file of variables would be copied from.
    pub fn forget_template(&mut self) {
        let Some(nvram) = self.root.child_mut("os").and_then(|os| os.child_mut("nvram")) else { return };
        nvram.unset("template");
        nvram.unset("templateFormat");
    }

    /// Points disk `target` at a new place. Chains below, locks and jobs of the old place go.
    ///
    /// # Errors
    /// [`Family::Corrupt`] if there is no such disk; [`Family::Unsupported`] if the source cannot be written.
    pub fn set_disk(&mut self, target: &str, source: &Source, format: &str) -> Result<()> {
        let unsupported = || Error::new(Family::Unsupported, format!("{target} cannot be set to {source}"));
        let (kind, element) = source.write().ok_or_else(unsupported)?;
        let disk = self.disk_mut(target)?;
        disk.set("type", kind);
        disk.unset("snapshot");
        for gone in ["source", "backingStore", "mirror", "auth", "encryption"] {
            disk.remove(gone);
        }
        match disk.child_mut("driver") {
            Some(driver) => {
                driver.set("type", format);
                // These belong to the old storage.
                driver.remove("metadata_cache");
                driver.unset("statistics");
            }
            None => {
                let driver = Element::new("driver").attr("name", "qemu").attr("type", format);
                disk.nodes.insert(0, Node::Element(driver));
            }
        }
        disk.insert_before("target", element);
        Ok(())
    }

    /// Takes the medium out of a CD-ROM or floppy.
    ///
    /// # Errors
    /// [`Family::Corrupt`] if there is no such drive.
    pub fn eject(&mut self, target: &str) -> Result<()> {
        let disk = self.disk_mut(target)?;
        disk.set("type", "file");
        for gone in ["source", "backingStore", "mirror", "auth", "encryption"] {
            disk.remove(gone);
        }
        Ok(())
    }

    /// Takes disk `target` out.
    ///
    /// # Errors
    /// [`Family::Corrupt`] if there is no such disk.
    pub fn remove_disk(&mut self, target: &str) -> Result<()> {
        let is_it = |e: &Element| e.name == "disk" && e.get_at(&["target"], "dev") == Some(target);
        let gone = self.root.child_mut("devices").map_or(0, |devices| devices.remove_children(is_it));
        if gone == 0 { Err(no_disk(target)) } else { Ok(()) }
    }

    /// Takes all chains of backing files out: libvirt finds them in the images.
    pub fn drop_backing_chains(&mut self) {
        let Some(devices) = self.root.child_mut("devices") else { return };
        for disk in devices.children_mut().filter(|child| child.name == "disk") {
            disk.remove("backingStore");
            disk.remove("mirror");
        }
    }

    /// Puts the variables of the firmware into this file; none lets libvirt choose a place.
    pub fn set_nvram(&mut self, path: Option<&str>) {
        let Some(nvram) = self.root.child_mut("os").and_then(|os| os.child_mut("nvram")) else {
            if let (Some(path), Some(os)) = (path, self.root.child_mut("os")) {
                os.push(Element::new("nvram").text(path));
            }
            return;
        };
        let path = path.unwrap_or_default();
        if nvram.child("source").is_some() {
            nvram.unset("type");
        }
        nvram.set_content(path);
        if path.is_empty() && nvram.attributes.is_empty() {
            let os = self.root.child_mut("os");
            os.map(|os| os.remove("nvram"));
        }
    }

    /// Says in the metadata that `run` restored this domain.
    pub fn set_mark(&mut self, run: &str) {
        self.remove_mark();
        let mark = Element::new("stillframe:restore").attr("xmlns:stillframe", MARK).attr("run", run);
        match self.root.child_mut("metadata") {
            Some(metadata) => metadata.push(mark),
            None => {
                let metadata = Element::new("metadata").with(mark);
                self.root.insert_before("memory", metadata);
            }
        }
    }

    /// Takes that mark away.
    pub fn remove_mark(&mut self) {
        let Some(metadata) = self.root.child_mut("metadata") else { return };
        metadata.remove_children(is_mark);
        if metadata.nodes.is_empty() {
            self.root.remove("metadata");
        }
    }

    /// Takes out what only a running domain has: ids, aliases that libvirt gave, security labels, terminals, ports, states.
    pub fn drop_runtime(&mut self) {
        self.root.unset("id");
        self.root.remove("seclabel");
        self.root.remove("resource");
        self.root.walk_mut(&mut |element| {
            element.remove_children(|child| child.name == "alias" && !is_users_alias(child));
            match element.name.as_str() {
                "source" | "backingStore" | "mirrorStore" => element.unset("index"),
                "console" | "serial" => element.unset("tty"),
                "target" => element.unset("state"),
                _ => {}
            }
        });
        let Some(devices) = self.root.child_mut("devices") else { return };
        for device in devices.children_mut() {
            match device.name.as_str() {
                "interface" => {
                    let host_side =
                        |e: &Element| e.name == "target" && e.get("dev").is_some_and(|dev| dev.starts_with("vnet"));
                    device.remove_children(host_side);
                }
                "graphics" if device.get("autoport") == Some("yes") => {
                    device.set("port", "-1");
                    device.unset("tlsPort");
                    device.unset("websocket");
                }
                // A terminal or socket that libvirt chose.
                "serial" | "console" if device.get("type") == Some("pty") => drop(device.remove("source")),
                "channel" if device.get("type") == Some("unix") => {
                    device.remove_children(|e| {
                        e.name == "source" && e.get("path").is_some_and(|p| p.contains("/libvirt/qemu/"))
                    });
                }
                _ => {}
            }
        }
        self.drop_backing_chains();
    }

    /// The element of disk `target`.
    fn disk_mut(&mut self, target: &str) -> Result<&mut Element> {
        let devices = self.root.child_mut("devices").ok_or_else(|| no_disk(target))?;
        let mut disks = devices.children_mut().filter(|child| child.name == "disk");
        disks.find(|disk| disk.get_at(&["target"], "dev") == Some(target)).ok_or_else(|| no_disk(target))
    }

    fn device_mut(&mut self, name: &str, index: usize) -> Option<&mut Element> {
        let devices = self.root.child_mut("devices")?;
        devices.children_mut().filter(|child| child.name == name).nth(index)
    }
}
