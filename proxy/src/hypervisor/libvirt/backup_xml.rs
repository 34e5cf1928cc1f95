//! The descriptions of backups and checkpoints that libvirt takes and gives.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::error::{Error, Family, Result};
use crate::job::RunId;
use crate::machine::Element;

/// What begins the names of all that we make on a host: folders, checkpoints, scratch files.
const OURS: &str = "stillframe-";
/// Characters of a UUID.
const UUID_LEN: usize = 36;

/// The name of what `run` makes.
pub(super) fn name_of(run: RunId) -> String {
    format!("{OURS}{run}")
}

/// The run that made what is called `name`. `None` for everybody else's.
pub(super) fn run_in_name(name: &str) -> Option<RunId> {
    let rest = name.strip_prefix(OURS)?;
    let run: Uuid = rest.get(..UUID_LEN)?.parse().ok()?;
    // A longer name goes on after a separator: `stillframe-<run>-vda`.
    rest.get(UUID_LEN..).filter(|more| more.is_empty() || more.starts_with(['-', '.'])).map(|_| RunId(run))
}

/// The run that made what lies at `path`.
fn run_in_path(path: &Path) -> Option<RunId> {
    path.components().find_map(|part| run_in_name(part.as_os_str().to_str()?))
}

/// Where QEMU listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Server {
    /// A socket on the host.
    Unix(PathBuf),
    /// A port of the host.
    Tcp {
        /// Name or address that it listens on.
        host: String,
        /// The port.
        port: u16,
        /// Whether it speaks only TLS.
        tls: bool,
    },
}

/// A disk in a backup that is to begin.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// `vda`.
    pub(super) target: String,
    /// Its scratch file on the host.
    pub(super) scratch: PathBuf,
    /// The checkpoint since which changes are wanted.
    pub(super) since: Option<String>,
    /// Whether a checkpoint can be made of it.
    pub(super) point: bool,
}

/// The bitmap that is exported beside each disk with changes.
const BITMAP: &str = "stillframe";

/// The description of a pull backup. `others` are the targets of all other disks of the domain.
pub(super) fn backup_xml(server: &Server, wanted: &[Wanted], others: &[String]) -> String {
    let text = |path: &Path| path.display().to_string();
    let server = match server {
        Server::Unix(socket) => Element::new("server").attr("transport", "unix").attr("socket", &text(socket)),
        Server::Tcp { host, port, tls } => {
            let tcp =
                Element::new("server").attr("transport", "tcp").attr("name", host).attr("port", &port.to_string());
            if *tls { tcp.attr("tls", "yes") } else { tcp }
        }
    };
    let mut disks = Element::new("disks");
    for disk in wanted {
        let element = Element::new("disk")
            .attr("name", &disk.target)
            .attr("backup", "yes")
            .attr("type", "file")
            .attr("exportname", &disk.target);
        let element = match &disk.since {
            Some(point) => {
                element.attr("backupmode", "incremental").attr("incremental", point).attr("exportbitmap", BITMAP)
            }
            None => element.attr("backupmode", "full"),
        };
        disks.push(
            element
                .with(Element::new("driver").attr("type", "qcow2"))
                .with(Element::new("scratch").attr("file", &text(&disk.scratch))),
        );
    }
    for target in others {
        disks.push(Element::new("disk").attr("name", target).attr("backup", "no"));
    }
    Element::new("domainbackup").attr("mode", "pull").with(server).with(disks).to_string()
}

/// The description of the checkpoint that is made with a backup; `None` if no disk can have one.
pub(super) fn checkpoint_xml(run: RunId, description: &str, wanted: &[Wanted], others: &[String]) -> Option<String> {
    if !wanted.iter().any(|disk| disk.point) {
        return None;
    }
    let mut disks = Element::new("disks");
    for disk in wanted {
        let kind = if disk.point { "bitmap" } else { "no" };
        disks.push(Element::new("disk").attr("name", &disk.target).attr("checkpoint", kind));
    }
    for target in others {
        disks.push(Element::new("disk").attr("name", target).attr("checkpoint", "no"));
    }
    let root = Element::new("domaincheckpoint")
        .with(Element::new("name").text(&name_of(run)))
        .with(Element::new("description").text(description))
        .with(disks);
    Some(root.to_string())
}

/// A backup that is at work.
#[derive(Clone, Debug)]
pub(super) struct Running {
    /// The run that began it, if it is ours.
    pub(super) run: Option<RunId>,
    /// Where QEMU listens.
    pub(super) server: Option<Server>,
    /// The disks that are in it.
    pub(super) disks: Vec<RunningDisk>,
}

/// A disk of a backup that is at work.
#[derive(Clone, Debug)]
pub(super) struct RunningDisk {
    /// `vda`.
    pub(super) target: String,
    /// The name of its export.
    pub(super) export: String,
    /// The checkpoint since which it tells changes, and the bitmap that does.
    pub(super) changes: Option<(String, String)>,
    /// Its scratch file on the host.
    pub(super) scratch: Option<PathBuf>,
}

impl Running {
    /// Reads libvirt's description.
    pub(super) fn parse(xml: &str) -> Result<Self> {
        let root = Element::parse(xml).map_err(|e| {
            Error::new(Family::Corrupt, "libvirt's description of the backup cannot be read").caused_by(e)
        })?;
        let server = root.child("server").and_then(server_of);
        let list = root.child("disks").map(|disks| disks.named("disk").filter_map(disk_of).collect::<Vec<_>>());
        let disks = list.unwrap_or_default();
        let socket = match &server {
            Some(Server::Unix(path)) => run_in_path(path),
            _ => None,
        };
        let run = socket.or_else(|| disks.iter().find_map(|disk| run_in_path(disk.scratch.as_deref()?)));
        Ok(Self { run, server, disks })
    }
}

fn server_of(server: &Element) -> Option<Server> {
    match server.get("transport")? {
        "unix" => Some(Server::Unix(PathBuf::from(server.get("socket")?))),
        "tcp" => Some(Server::Tcp {
            host: server.get("name")?.to_owned(),
            port: server.get("port")?.parse().ok()?,
            tls: server.get("tls") == Some("yes"),
        }),
        _ => None,
    }
}

fn disk_of(disk: &Element) -> Option<RunningDisk> {
    let target = disk.get("name")?.to_owned();
    if disk.get("backup") == Some("no") {
        return None;
    }
    let changes = disk.get("incremental").zip(disk.get("exportbitmap"));
    Some(RunningDisk {
        export: disk.get("exportname").unwrap_or(&target).to_owned(),
        changes: changes.map(|(point, bitmap)| (point.to_owned(), bitmap.to_owned())),
        scratch: disk.get_at(&["scratch"], "file").map(PathBuf::from),
        target,
    })
}

/// A checkpoint as libvirt describes it.
#[derive(Clone, Debug)]
pub(super) struct Point {
    /// Seconds of Unix time.
    pub(super) created: u64,
    /// The disks that are in it, and whether each can tell changes: only a description with sizes says so.
    pub(super) disks: Vec<(String, bool)>,
}

impl Point {
    /// Reads libvirt's description.
    pub(super) fn parse(xml: &str) -> Result<Self> {
        let root = Element::parse(xml).map_err(|e| {
            Error::new(Family::Corrupt, "libvirt's description of a checkpoint cannot be read").caused_by(e)
        })?;
        let disks = root.child("disks").map(|disks| {
            let noted = disks.named("disk").filter(|disk| disk.get("checkpoint") == Some("bitmap"));
            noted.filter_map(|disk| Some((disk.get("name")?.to_owned(), disk.get("size").is_some()))).collect()
        });
        let created = root.text_of("creationTime").and_then(|time| time.parse().ok()).unwrap_or_default();
        Ok(Self { created, disks: disks.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(target: &str, since: Option<&str>, point: bool) -> Wanted {
        Wanted {
            target: target.into(),
            scratch: format!("/scratch/{}/{target}", name_of(RunId(Uuid::nil()))).into(),
            since: since.map(str::to_owned),
            point,
        }
    }

    #[test]
    fn what_is_asked_for_is_what_is_read_back() {
        let disks = [wanted("vda", Some("stillframe-x"), true), wanted("vdb", None, false)];
        let server = Server::Tcp { host: "::1".into(), port: 10809, tls: true };
        let running = Running::parse(&backup_xml(&server, &disks, &["vdc".into()])).unwrap();
        assert_eq!(running.run, Some(RunId(Uuid::nil())));
        assert_eq!(running.server, Some(server));
        let targets: Vec<_> = running.disks.iter().map(|disk| disk.target.as_str()).collect();
        assert_eq!(targets, ["vda", "vdb"]);
        assert_eq!(running.disks[0].changes, Some(("stillframe-x".into(), "stillframe".into())));
        assert_eq!(running.disks[1].changes, None);
    }

    #[test]
    fn a_checkpoint_holds_only_the_disks_that_can_have_one() {
        let run = RunId(Uuid::nil());
        let disks = [wanted("vda", None, true), wanted("vdb", None, false)];
        let xml = checkpoint_xml(run, "stillframe run=x <&>", &disks, &["vdc".into()]).unwrap();
        let point = Point::parse(&xml).unwrap();
        assert_eq!(point.disks, [("vda".to_owned(), false)]);
        assert!(checkpoint_xml(run, "", &disks[1..], &[]).is_none());
    }

    #[test]
    fn only_names_that_begin_with_ours_and_a_run_are_ours() {
        let run = RunId::new();
        assert_eq!(run_in_name(&name_of(run)), Some(run));
        assert_eq!(run_in_name(&format!("{}-vda", name_of(run))), Some(run));
        for other in ["stillframe", "stillframe-", "stillframe-x", "virtnbdbackup.1", &format!("{}0", name_of(run))] {
            assert_eq!(run_in_name(other), None, "{other}");
        }
    }
}
