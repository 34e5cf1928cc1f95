//! What a guest is made of: the description that a test gives, and the domain XML and the disks made from it.

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::kvm::judge::{BLOCK, RING_MAGIC};
use crate::tool;

/// What is on a disk when the guest starts for the first time.
#[derive(Debug, Clone)]
pub enum Content {
    /// An empty ext4 volume on the whole disk: the guest's log goes there.
    Ext4,
    /// A ring for records.
    Ring,
    /// Nothing.
    Blank,
    /// A copy of a raw file; the size is that of the file.
    Copy(PathBuf),
}

/// One disk of a guest.
#[derive(Debug, Clone)]
pub struct DiskSpec {
    /// `vda`, `sdb`, …
    pub target: String,
    /// `virtio`, `scsi`, `ide`, `sata`.
    pub bus: String,
    /// `qcow2` or `raw`.
    pub format: String,
    /// What is on it.
    pub content: Content,
    /// Capacity.
    pub mib: u64,
    /// More attributes of the `<driver>` element: `cache='unsafe'`.
    pub driver: String,
    /// A `<source …/>` to be used as it is, with its disk type (`network`, `block`) before it; no file is made then.
    pub source: Option<(String, String)>,
}

impl DiskSpec {
    /// A virtio disk.
    pub fn new(target: &str, format: &str, content: Content, mib: u64) -> Self {
        let text = |text: &str| text.to_owned();
        let (target, format) = (text(target), text(format));
        Self { target, bus: text("virtio"), format, content, mib, driver: String::new(), source: None }
    }

    /// On another bus.
    #[must_use]
    pub fn on(mut self, bus: &str) -> Self {
        bus.clone_into(&mut self.bus);
        self
    }

    /// Where its file lies, below the folder of its guest.
    pub fn file(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.{}", self.target, self.format))
    }

    /// Makes the file.
    #[expect(clippy::expect_used, reason = "a test without its guest is over")]
    fn make(&self, folder: &Path) {
        if self.source.is_some() {
            return;
        }
        let file = self.file(folder);
        let raw = if self.format == "raw" { file.clone() } else { folder.join(format!("{}.seed", self.target)) };
        if let Content::Copy(from) = &self.content {
            let args = ["convert", "-f", "raw", "-O", &self.format].map(std::ffi::OsStr::new);
            tool("qemu-img", &args.into_iter().chain([from.as_os_str(), file.as_os_str()]).collect::<Vec<_>>());
            return;
        }
        let seed = File::create(&raw).expect("a new disk");
        seed.set_len(self.mib << 20).expect("a disk of that size");
        match self.content {
            Content::Ext4 => {
                let args = ["-q", "-F", "-E", "lazy_itable_init=0,nodiscard"].map(std::ffi::OsStr::new);
                tool("mkfs.ext4", &args.into_iter().chain([raw.as_os_str()]).collect::<Vec<_>>());
            }
            Content::Ring => {
                let blocks = (self.mib << 20) / BLOCK - 1;
                let head = [RING_MAGIC.as_slice(), &blocks.to_le_bytes()].concat();
                seed.write_all_at(&head, 0).expect("the head of a ring");
            }
            Content::Blank | Content::Copy(_) => {}
        }
        if raw != file {
            let args = ["convert", "-f", "raw", "-O", &self.format].map(std::ffi::OsStr::new);
            tool("qemu-img", &args.into_iter().chain([raw.as_os_str(), file.as_os_str()]).collect::<Vec<_>>());
            std::fs::remove_file(&raw).expect("the seed is ours");
        }
    }

    fn xml(&self, folder: &Path) -> String {
        let (kind, source) = self
            .source
            .clone()
            .unwrap_or_else(|| ("file".to_owned(), format!("<source file='{}'/>", self.file(folder).display())));
        format!(
            "<disk type='{kind}' device='disk'><driver name='qemu' type='{}' {}/>{source}<target dev='{}' bus='{}'/></disk>",
            self.format, self.driver, self.target, self.bus
        )
    }
}

/// What the guest has for an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agent {
    /// A channel, and an agent that answers.
    Running,
    /// A channel, and nobody at its other end.
    Silent,
    /// No channel in the domain.
    Absent,
}

/// How the guest starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    /// From a kernel outside, which has the records' writer.
    Kernel,
    /// From its first disk.
    Disk,
}

/// A guest to be.
#[derive(Debug, Clone)]
pub struct GuestSpec {
    /// Name of the domain; the guest's host name too.
    pub name: String,
    /// The disks, the data volume first.
    pub disks: Vec<DiskSpec>,
    /// How it starts.
    pub boot: Boot,
    /// `q35` or `pc`.
    pub machine: String,
    /// Memory.
    pub mib: u64,
    /// The agent.
    pub agent: Agent,
    /// What its freeze hook does: `ok`, `none`, `fail`, `hang`, `hang:SECONDS`.
    pub hook: String,
    /// Records per second; 0 for none.
    pub rate: u32,
    /// Address of a network card that only the host's user-mode network knows.
    pub ip: Option<String>,
    /// More of the kernel's command line.
    pub cmdline: String,
    /// More devices, as XML.
    pub devices: String,
}

impl GuestSpec {
    /// The usual guest: `vda` qcow2 with the log, `vdb` a raw ring, `vdc` a qcow2 ring.
    pub fn new(name: &str) -> Self {
        let text = |text: &str| text.to_owned();
        Self {
            name: text(name),
            disks: vec![
                DiskSpec::new("vda", "qcow2", Content::Ext4, 128),
                DiskSpec::new("vdb", "raw", Content::Ring, 16),
                DiskSpec::new("vdc", "qcow2", Content::Ring, 16),
            ],
            boot: Boot::Kernel,
            machine: text("q35"),
            mib: 192,
            agent: Agent::Running,
            hook: text("ok"),
            rate: 5,
            ip: None,
            cmdline: String::new(),
            devices: String::new(),
        }
    }

    /// Only these disks; the log goes to the first one.
    #[must_use]
    pub fn disks(mut self, disks: Vec<DiskSpec>) -> Self {
        self.disks = disks;
        self
    }

    /// One more disk.
    #[must_use]
    pub fn disk(mut self, disk: DiskSpec) -> Self {
        self.disks.push(disk);
        self
    }

    /// With this agent.
    #[must_use]
    pub fn agent(mut self, agent: Agent) -> Self {
        self.agent = agent;
        self
    }

    /// With this hook.
    #[must_use]
    pub fn hook(mut self, hook: &str) -> Self {
        hook.clone_into(&mut self.hook);
        self
    }

    /// With so many records in a second.
    #[must_use]
    pub fn rate(mut self, rate: u32) -> Self {
        self.rate = rate;
        self
    }

    /// Makes the disks and copies the kernel: libvirt gives what a guest uses to the guest's user, so each has its own.
    #[expect(clippy::expect_used, reason = "a test without its guest is over")]
    pub(super) fn make(&self, folder: &Path, peers: &Path) {
        for disk in &self.disks {
            disk.make(folder);
        }
        if self.boot == Boot::Kernel {
            for name in ["vmlinuz", "initrd.gz"] {
                std::fs::copy(peers.join(name), folder.join(name)).expect("the guest's kernel");
            }
        }
    }

    /// The domain.
    pub(super) fn xml(&self, folder: &Path) -> String {
        let mut xml = format!(
            "<domain type='qemu'><name>{}</name><memory unit='MiB'>{}</memory><vcpu>1</vcpu>{}\
             <features><acpi/></features><cpu mode='maximum'/>\
             <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash><devices>\n",
            self.name,
            self.mib,
            self.os(folder)
        );
        for disk in &self.disks {
            // Writing to a String cannot fail.
            let _ = writeln!(xml, "{}", disk.xml(folder));
        }
        if self.disks.iter().any(|disk| disk.bus == "scsi") && !self.devices.contains("type='scsi'") {
            xml.push_str("<controller type='scsi' model='virtio-scsi'/>\n");
        }
        let _ = writeln!(
            xml,
            "<controller type='usb' model='none'/><memballoon model='none'/>\
             <serial type='file'><source path='{}' append='on'/></serial>",
            folder.join("serial").display()
        );
        if self.agent != Agent::Absent {
            xml.push_str("<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\n");
        }
        xml.push_str("<channel type='unix'><target type='virtio' name='stillframe.control'/></channel>\n");
        if self.ip.is_some() {
            xml.push_str("<interface type='user'><model type='virtio'/></interface>\n");
        }
        xml.push_str(&self.devices);
        xml.push_str("</devices></domain>\n");
        xml
    }

    fn os(&self, folder: &Path) -> String {
        let kind = format!("<type arch='x86_64' machine='{}'>hvm</type>", self.machine);
        if self.boot == Boot::Disk {
            return format!("<os>{kind}<boot dev='hd'/></os>");
        }
        let mut line = format!("console=ttyS0 panic=-1 quiet rdinit=/init name={} rate={}", self.name, self.rate);
        let agent = if self.agent == Agent::Running { "on" } else { "off" };
        let _ = write!(line, " hook={} agent={agent}", self.hook);
        if let Some(first) = self.disks.first() {
            let _ = write!(line, " data=/dev/{}", first.target);
        }
        if let Some(ip) = &self.ip {
            let _ = write!(line, " ip={ip}");
        }
        let (kernel, initrd) = (folder.join("vmlinuz"), folder.join("initrd.gz"));
        format!(
            "<os>{kind}<kernel>{}</kernel><initrd>{}</initrd><cmdline>{line} {}</cmdline></os>",
            kernel.display(),
            initrd.display(),
            self.cmdline
        )
    }
}
