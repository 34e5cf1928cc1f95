//! Snapshots: list, create, remove, and what they froze.

use crate::client::{Client, method, returned_object};
use crate::disks::{DiskConfig, disks_in};
use crate::error::Error;
use crate::inventory::PowerState;
use crate::names::{escape_percent, unescape};
use crate::tasks::Task;
use crate::xml::{Element, Moref};

/// One snapshot of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotNode {
    /// The snapshot.
    pub moref: Moref,
    /// Its name, unescaped.
    pub name: String,
    /// Its description, unescaped.
    pub description: String,
    /// Counts up in each VM.
    pub id: Option<i32>,
    /// As the server writes it, RFC 3339.
    pub create_time: Option<String>,
    /// Whether the guest was quiesced; also false when that was asked for and silently left out.
    pub quiesced: bool,
    /// Whether the VM ran.
    pub power_state: Option<PowerState>,
    /// The snapshot below.
    pub parent: Option<Moref>,
    /// 0 for the oldest.
    pub depth: usize,
}

impl Client {
    /// All snapshots of `vm`, parents before children.
    ///
    /// # Errors
    /// What the server says, or how the connection failed.
    pub async fn snapshots(&self, vm: &Moref) -> Result<Vec<SnapshotNode>, Error> {
        let object = self.properties_of(vm, "VirtualMachine", &["snapshot"]).await?;
        let mut nodes = Vec::new();
        match object.value("snapshot") {
            Some(info) => flatten(info, "rootSnapshotList", None, 0, &mut nodes)?,
            // No snapshot is no value; a value that may not be read is an error.
            None => {
                if let Err(error @ Error::Fault { .. }) = object.required("snapshot") {
                    return Err(error);
                }
            }
        }
        Ok(nodes)
    }

    /// Begins a snapshot without memory. `quiesce` is silently ignored by the server when the VM is off or its tools do
    /// not run: see [`SnapshotNode::quiesced`].
    ///
    /// # Errors
    /// What the server says, or how the connection failed. After [`Error::Dropped`] or [`Error::Timeout`] the snapshot may
    /// exist: look for it before trying again.
    pub async fn create_snapshot(
        &self,
        vm: &Moref,
        name: &str,
        description: &str,
        quiesce: bool,
    ) -> Result<Task, Error> {
        let call = method("CreateSnapshot_Task", vm)
            .with(Element::leaf("name", escape_percent(name)))
            .with(Element::leaf("description", escape_percent(description)))
            .with(Element::leaf("memory", "false"))
            .with(Element::leaf("quiesce", quiesce.to_string()));
        Ok(Task::new(call.name.clone(), returned_object(self.call(&call).await?)?))
    }

    /// Begins to remove one snapshot, none of its children. May run for hours.
    ///
    /// # Errors
    /// What the server says ([`Error::is_object_gone`]: there is nothing left to do), or how the connection failed.
    pub async fn remove_snapshot(&self, snapshot: &Moref) -> Result<Task, Error> {
        let call = method("RemoveSnapshot_Task", snapshot)
            .with(Element::leaf("removeChildren", "false"))
            .with_all(self.at_least(5, 0).then(|| Element::leaf("consolidate", "true")));
        Ok(Task::new(call.name.clone(), returned_object(self.call(&call).await?)?))
    }

    /// The disks as `snapshot` froze them: the files that no longer change, and the change ids to keep.
    ///
    /// # Errors
    /// What the server says, or how the connection failed.
    pub async fn snapshot_config(&self, snapshot: &Moref) -> Result<Vec<DiskConfig>, Error> {
        let object = self.properties_of(snapshot, "VirtualMachineSnapshot", &["config"]).await?;
        disks_in(object.required("config")?)
    }
}

/// Snapshot trees are at most 32 deep; the XML reader bounds the recursion at less than 200.
fn flatten(
    holder: &Element,
    list: &str,
    parent: Option<&Moref>,
    depth: usize,
    into: &mut Vec<SnapshotNode>,
) -> Result<(), Error> {
    for tree in holder.children_named(list) {
        let moref = tree
            .child("snapshot")
            .and_then(Element::moref)
            .ok_or_else(|| Error::protocol("snapshot tree", "a reference to the snapshot", "none"))?;
        into.push(SnapshotNode {
            name: unescape(tree.text_of("name").unwrap_or_default()),
            description: unescape(tree.text_of("description").unwrap_or_default()),
            id: tree.text_of("id").and_then(|id| id.parse().ok()),
            create_time: tree.text_of("createTime").map(str::to_owned),
            quiesced: tree.text_of("quiesced") == Some("true"),
            power_state: tree.text_of("state").and_then(PowerState::parse),
            parent: parent.cloned(),
            depth,
            moref: moref.clone(),
        });
        flatten(tree, "childSnapshotList", Some(&moref), depth.saturating_add(1), into)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_listed_parents_first() {
        let tree = |id: &str, name: &str, children: &str| {
            format!(
                "<childSnapshotList><snapshot type='VirtualMachineSnapshot'>s-{id}</snapshot><name>{name}</name><description/>\
                 <id>{id}</id><state>poweredOn</state><quiesced>true</quiesced>{children}</childSnapshotList>"
            )
        };
        let xml = format!(
            "<val>{}{}</val>",
            tree("1", "100%25", &(tree("2", "b", "") + &tree("3", "c", &tree("4", "d", "")))),
            tree("5", "e", "")
        );
        let mut nodes = Vec::new();
        flatten(&Element::parse(&xml).unwrap(), "childSnapshotList", None, 0, &mut nodes).unwrap();
        let seen: Vec<_> =
            nodes.iter().map(|n| (n.id.unwrap(), n.depth, n.parent.as_ref().map(|p| p.value.as_str()))).collect();
        let expected = [(1, 0, None), (2, 1, Some("s-1")), (3, 1, Some("s-1")), (4, 2, Some("s-3")), (5, 0, None)];
        assert_eq!(seen, expected);
        assert_eq!((nodes[0].name.as_str(), nodes[0].description.as_str()), ("100%", ""));
        assert_eq!((nodes[0].quiesced, nodes[0].power_state), (true, Some(PowerState::On)));
    }
}
