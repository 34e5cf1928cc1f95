//! Where an object stands in the inventory: the names above it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::error::Error;
use crate::properties::{Object, Start, Wanted};
use crate::xml::Moref;

/// Names are remembered this long: a job asks for the same folders for each VM, and people rename folders.
const REMEMBERED: Duration = Duration::from_secs(300);

/// Inventories nest a few folders deep; a longer chain is a circle.
const MAX_DEPTH: usize = 100;

/// One object of the inventory tree.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) moref: Moref,
    /// As the server stores it (`%2f` for a slash).
    pub(crate) name: String,
    parent: Option<Moref>,
    read_at: Instant,
}

/// The nodes that were read lately.
#[derive(Default)]
pub(crate) struct Nodes(Mutex<HashMap<Moref, Node>>);

impl Nodes {
    fn get(&self, moref: &Moref) -> Option<Node> {
        let nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.get(moref).filter(|node| node.read_at.elapsed() < REMEMBERED).cloned()
    }

    fn put(&self, objects: Vec<Object>) {
        let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for object in objects {
            let node = Node {
                name: object.string("name").unwrap_or_default(),
                parent: object.reference("parent"),
                moref: object.moref.clone(),
                read_at: Instant::now(),
            };
            nodes.insert(object.moref, node);
        }
    }

    /// The object and all above it, outermost first; nothing if any is not remembered.
    fn chain(&self, of: &Moref) -> Option<Vec<Node>> {
        let mut chain = Vec::new();
        let mut next = Some(of.clone());
        while let Some(moref) = next {
            if chain.len() >= MAX_DEPTH {
                break;
            }
            match self.get(&moref) {
                Some(node) => {
                    next = node.parent.clone();
                    chain.push(node);
                }
                None => return None,
            }
        }
        chain.reverse();
        Some(chain)
    }

    /// The same as far as it is known: parents may be hidden from this user.
    fn visible_chain(&self, of: &Moref) -> Vec<Node> {
        let mut chain = Vec::new();
        let mut next = self.get(of);
        while let Some(node) = next {
            next = node.parent.as_ref().filter(|_| chain.len() < MAX_DEPTH).and_then(|parent| self.get(parent));
            chain.push(node);
        }
        chain.reverse();
        chain
    }
}

impl Client {
    /// For each of `objects`, it and all above it, outermost first, without the invisible root folder. One call for all
    /// that are not remembered.
    pub(crate) async fn chains(&self, objects: &[Moref]) -> Result<Vec<Vec<Node>>, Error> {
        let mut unknown: Vec<Moref> =
            objects.iter().filter(|moref| self.nodes().chain(moref).is_none()).cloned().collect();
        unknown.sort();
        unknown.dedup();
        if !unknown.is_empty() {
            let wanted = [Wanted { kind: "ManagedEntity", paths: vec!["name", "parent"] }];
            self.nodes().put(self.properties(Start::Ancestors(&unknown), &wanted).await?);
        }
        let root = self.manager("rootFolder")?;
        let visible = |moref| self.nodes().visible_chain(moref).into_iter().filter(|n| n.moref.value != root.value);
        Ok(objects.iter().map(|moref| visible(moref).collect()).collect())
    }
}

/// The path of the last node, in the form that `FindByInventoryPath` takes: no leading slash.
pub(crate) fn path_of(chain: &[Node]) -> String {
    chain.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join("/")
}

/// The part of the chain down to the datacenter.
pub(crate) fn datacenter_of(chain: &[Node]) -> Option<&[Node]> {
    let at = chain.iter().position(|node| node.moref.kind == "Datacenter")?;
    chain.get(..=at)
}
