//! Files of the host that a definition names beside its disks. A copy that used them would overwrite those of its original, and a definition
//! from elsewhere could name any file.

use super::Rehome;
use crate::machine::{Domain, Element};

/// The port of QEMU's guest agent.
const AGENT: &str = "org.qemu.guest_agent.0";

/// Takes them out, or says that they are used.
pub(super) fn check(domain: &mut Domain, wish: &Rehome<'_>, notes: &mut Vec<String>) {
    if let Some(devices) = domain.root_mut().child_mut("devices") {
        characters(devices, notes);
        scripts(devices, notes);
    }
    firmware_entries(domain.root_mut(), notes);
    kernel(domain, wish, notes);
}

/// The path of a character device that is one of the host's, empty if it is not said.
fn path_of(device: &Element) -> Option<&str> {
    let path = device.named("source").find_map(|source| source.get("path"));
    match device.get("type") {
        Some("file" | "dev" | "pipe") => Some(path.unwrap_or_default()),
        Some("unix") => path,
        _ => None,
    }
}

/// Whether it is a channel that nobody needs on the host. The guest agent's is libvirt's own; those of SPICE have no path.
fn is_spare(device: &Element) -> bool {
    device.name == "channel" && device.get_at(&["target"], "name") != Some(AGENT) && path_of(device).is_some()
}

fn characters(devices: &mut Element, notes: &mut Vec<String>) {
    let kinds = ["serial", "console", "parallel", "channel"];
    for device in devices.children_mut().filter(|child| kinds.contains(&child.name.as_str())) {
        let name = device.name.clone();
        if let Some(log) = device.child("log") {
            let file = log.get("file").unwrap_or_default();
            notes.push(format!("what comes from a {name} device is not written to {file} any more"));
            device.remove("log");
        }
        let Some(path) = path_of(device).map(str::to_owned) else { continue };
        if is_spare(device) {
            let port = device.get_at(&["target"], "name").unwrap_or("without a name");
            notes.push(format!("the channel {port} to {path} is left out"));
            continue;
        }
        let (kind, what) = if name == "channel" {
            ("unix", "a socket that libvirt chooses") // what the agent is reached by
        } else {
            ("pty", "a terminal")
        };
        notes.push(format!("a {name} device was connected to {path} and is connected to {what}"));
        device.set("type", kind);
        device.remove("source");
    }
    devices.remove_children(is_spare);
}

/// libvirt runs these as root.
fn scripts(devices: &mut Element, notes: &mut Vec<String>) {
    let cards = devices.children_mut().filter(|child| child.name == "interface");
    for (n, card) in cards.enumerate() {
        for name in ["script", "downscript"] {
            let path = card.get_at(&[name], "path").unwrap_or_default().to_owned();
            if card.remove(name) > 0 {
                notes.push(format!("the script {path} is not run for network card {n} any more"));
            }
        }
    }
}

/// Entries of the firmware's configuration whose contents are files.
fn firmware_entries(root: &mut Element, notes: &mut Vec<String>) {
    let sysinfo = |element: &Element| element.name == "sysinfo";
    for info in root.children_mut().filter(|child| sysinfo(child)) {
        for entry in info.named("entry") {
            if let Some(file) = entry.get("file") {
                let name = entry.get("name").unwrap_or_default();
                notes.push(format!("the firmware's entry {name} with the file {file} is left out"));
            }
        }
        info.remove_children(|entry| entry.name == "entry" && entry.get("file").is_some());
    }
    root.remove_children(|child| {
        sysinfo(child) && child.get("type") == Some("fwcfg") && child.child("entry").is_none()
    });
}

/// What a machine is started from if it is not its disk.
fn kernel(domain: &mut Domain, wish: &Rehome<'_>, notes: &mut Vec<String>) {
    let Some(os) = domain.root_mut().child_mut("os") else { return };
    for name in ["kernel", "initrd", "dtb"] {
        let Some(path) = os.text_of(name) else { continue };
        if (wish.has_path)(&path) {
            notes.push(format!("the VM starts with the host's file {path} as its <{name}>"));
            continue;
        }
        notes.push(format!("the <{name}> {path} is not here and is left out"));
        os.remove(name);
        if name == "kernel" {
            // They are nothing without it.
            os.remove("initrd");
            os.remove("cmdline");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::convert::HostFacts;

    /// What becomes of a domain on a host that has all files but those called "gone".
    fn checked(text: &str) -> (String, Vec<String>) {
        let host = HostFacts { machines: Vec::new(), kvm: true, emulation: true };
        let wish = Rehome {
            name: "a",
            uuid: "",
            macs: None,
            disks: &[],
            nvram: None,
            host: &host,
            networks: &[],
            network: None,
            has_path: &|path| !path.contains("gone"),
            may_insert: &|_| true,
        };
        let mut domain = Domain::parse(&format!("<domain><name>a</name>{text}</domain>")).unwrap();
        let mut notes = Vec::new();
        check(&mut domain, &wish, &mut notes);
        (domain.to_string(), notes)
    }

    fn all_said(notes: &[String], words: &[&str]) {
        assert_eq!(notes.len(), words.len(), "{notes:#?}");
        for (note, word) in notes.iter().zip(words) {
            assert!(note.contains(word), "{word}: {note}");
        }
    }

    #[test]
    fn terminals_take_the_place_of_files_of_the_host() {
        for kind in ["serial", "console", "parallel"] {
            for source in ["file", "dev", "pipe", "unix"] {
                let text = format!(
                    "<devices><{kind} type='{source}'><source path='/h/x' append='off'/><target port='3'/></{kind}></devices>"
                );
                let (xml, notes) = checked(&text);
                assert!(xml.contains(&format!("<{kind} type='pty'>")) && xml.contains("port='3'"), "{xml}");
                assert!(!xml.contains("/h/x"), "{xml}");
                all_said(&notes, &["/h/x"]);
            }
        }
        let log = "<devices><serial type='pty'><log file='/h/log' append='off'/></serial></devices>";
        let (xml, notes) = checked(log);
        assert!(!xml.contains("log"), "{xml}");
        all_said(&notes, &["/h/log"]);
    }

    #[test]
    fn channels_to_files_and_sockets_go_but_for_the_agents() {
        let (xml, notes) = checked(
            "<devices><channel type='unix'><source mode='bind' path='/h/a'/><target type='virtio' name='mine'/></channel>\
             <channel type='file'><source path='/h/b'/><target type='virtio' name='com.redhat.spice.0'/></channel>\
             <channel type='file'><source path='/h/c'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices>",
        );
        assert!(!xml.contains("/h/") && !xml.contains("mine") && !xml.contains("spice"), "{xml}");
        assert!(xml.contains("<channel type='unix'>") && xml.contains(AGENT), "{xml}");
        all_said(&notes, &["mine", "/h/b", "/h/c"]);
    }

    #[test]
    fn devices_without_files_of_the_host_stay_as_they_are() {
        for device in [
            "<serial type='pty'><target port='0'/></serial>",
            "<serial type='tcp'><source mode='bind' host='127.0.0.1' service='1'/></serial>",
            "<channel type='unix'><target type='virtio' name='mine'/></channel>",
            "<channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>",
        ] {
            let text = format!("<devices>{device}</devices>");
            let before = Domain::parse(&format!("<domain><name>a</name>{text}</domain>")).unwrap().to_string();
            assert_eq!(checked(&text), (before, Vec::new()));
        }
    }

    #[test]
    fn scripts_of_network_cards_are_not_run() {
        let (xml, notes) = checked(
            "<devices><interface type='ethernet'><script path='/h/up'/><downscript path='/h/down'/><mac address='m'/></interface></devices>",
        );
        assert!(!xml.contains("script") && xml.contains("<mac"), "{xml}");
        all_said(&notes, &["/h/up", "/h/down"]);
    }

    #[test]
    fn files_do_not_reach_the_guest_by_its_firmwares_configuration() {
        let (xml, notes) = checked(
            "<sysinfo type='smbios'/><sysinfo type='fwcfg'><entry name='opt/a'>text</entry><entry name='opt/b' file='/h/b'/></sysinfo>",
        );
        assert!(xml.contains("opt/a") && xml.contains("smbios") && !xml.contains("opt/b"), "{xml}");
        all_said(&notes, &["/h/b"]);
        let (xml, _) = checked("<sysinfo type='fwcfg'><entry name='opt/b' file='/h/b'/></sysinfo>");
        assert!(!xml.contains("sysinfo"), "{xml}");
    }

    #[test]
    fn a_kernel_outside_is_named_and_left_out_where_it_is_not() {
        let (xml, notes) = checked("<os><kernel>/k</kernel><initrd>/i</initrd><dtb>/d</dtb></os>");
        assert!(["/k", "/i", "/d"].iter().all(|path| xml.contains(path)), "{xml}");
        all_said(&notes, &["/k", "/i", "/d"]);
        let (xml, notes) = checked("<os><kernel>/gone</kernel><initrd>/i</initrd><cmdline>c</cmdline></os>");
        assert!(!xml.contains("kernel") && !xml.contains("initrd") && !xml.contains("cmdline"), "{xml}");
        all_said(&notes, &["/gone"]);
    }
}
