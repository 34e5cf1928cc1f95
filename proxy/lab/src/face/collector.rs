//! The property collector: from a filter to objects and their properties.

use std::collections::{HashMap, HashSet, VecDeque};

use vsphere::xml::{Element, Moref};

use super::inventory::{Inventory, is_a};
use super::soap::{Fault, is_true, local};
use super::value::{Object, Value};

/// One object of a result.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) object: Moref,
    pub(super) properties: Vec<(String, Value)>,
}

impl Found {
    /// As `ObjectContent`.
    pub(super) fn value(&self) -> Value {
        let properties = self.properties.iter().map(|(name, value)| {
            Value::from(
                Object::new("DynamicProperty").with("name", name.as_str()).with("val", Value::any(value.clone())),
            )
        });
        Object::new("ObjectContent")
            .with("obj", &self.object)
            .with("propSet", Value::List("DynamicProperty", properties.collect()))
            .into()
    }
}

/// A `PropertyFilterSpec`.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    properties: Vec<Wanted>,
    starts: Vec<Start>,
    /// Objects that are gone are left out instead of being a fault.
    lenient: bool,
}

/// A `PropertySpec`.
#[derive(Clone, Debug)]
struct Wanted {
    kind: String,
    all: bool,
    paths: Vec<String>,
}

/// An `ObjectSpec`, its traversals in one list so that they can name each other.
#[derive(Clone, Debug)]
struct Start {
    object: Moref,
    skip: bool,
    select: Vec<Selection>,
    traversals: Vec<Traversal>,
    names: HashMap<String, usize>,
}

/// A `TraversalSpec`.
#[derive(Clone, Debug, Default)]
struct Traversal {
    kind: String,
    path: String,
    skip: bool,
    select: Vec<Selection>,
}

/// An entry of a `selectSet`: a traversal given in place, or the name of one.
#[derive(Clone, Debug)]
enum Selection {
    Here(usize),
    Named(String),
}

impl Spec {
    /// Reads a `PropertyFilterSpec`.
    pub(super) fn parse(element: &Element) -> Result<Self, Fault> {
        let properties = element.children_named("propSet").map(|set| Wanted {
            kind: local(set.text_of("type").unwrap_or_default()).to_owned(),
            all: is_true(set.text_of("all")),
            paths: set.children_named("pathSet").map(|path| path.text.clone()).collect(),
        });
        let starts = element.children_named("objectSet").map(Start::parse).collect::<Result<_, _>>()?;
        let lenient = is_true(element.text_of("reportMissingObjectsInResults"));
        Ok(Self { properties: properties.collect(), starts, lenient })
    }

    /// Walks the inventory. Each object appears once, in the order in which it is met first.
    pub(super) fn evaluate(&self, inventory: &Inventory<'_>) -> Result<Vec<Found>, Fault> {
        let mut found = Vec::new();
        let mut met = HashSet::new();
        for start in &self.starts {
            if !inventory.exists(&start.object) {
                if self.lenient {
                    continue;
                }
                return Err(Fault::not_found(&start.object));
            }
            for object in start.walk(inventory)? {
                if met.insert(object.clone())
                    && let Some(properties) = self.read(inventory, &object)?
                {
                    found.push(Found { object, properties });
                }
            }
        }
        Ok(found)
    }

    /// The wanted properties of an object; `None` if nothing is wanted of its type.
    fn read(&self, inventory: &Inventory<'_>, of: &Moref) -> Result<Option<Vec<(String, Value)>>, Fault> {
        let mut properties: Vec<(String, Value)> = Vec::new();
        let mut wanted = false;
        for set in self.properties.iter().filter(|set| is_a(&of.kind, &set.kind)) {
            wanted = true;
            let all = if set.all { Inventory::property_names(of) } else { &[] };
            for path in all.iter().copied().chain(set.paths.iter().map(String::as_str)) {
                if properties.iter().any(|(name, _)| name == path) {
                    continue;
                }
                let value = inventory.property(of, path).map_err(|_| Fault::invalid_property(path))?;
                properties.extend(value.map(|value| (path.to_owned(), value)));
            }
        }
        Ok(wanted.then_some(properties))
    }
}

impl Start {
    fn parse(element: &Element) -> Result<Self, Fault> {
        let object = element.child("obj").and_then(Element::moref).ok_or_else(|| Fault::invalid_argument("specSet"))?;
        let skip = is_true(element.text_of("skip"));
        let mut start = Self { object, skip, select: Vec::new(), traversals: Vec::new(), names: HashMap::new() };
        start.select = element.children_named("selectSet").map(|set| start.add(set)).collect();
        Ok(start)
    }

    /// Takes in a selection; those within it first, as deep as the XML reader allows.
    fn add(&mut self, element: &Element) -> Selection {
        let name = element.text_of("name");
        let (Some(kind), Some(path)) = (element.text_of("type"), element.text_of("path")) else {
            return Selection::Named(name.unwrap_or_default().to_owned());
        };
        let select = element.children_named("selectSet").map(|set| self.add(set)).collect();
        let skip = is_true(element.text_of("skip"));
        let index = self.traversals.len();
        self.traversals.push(Traversal { kind: local(kind).to_owned(), path: path.to_owned(), skip, select });
        if let Some(name) = name {
            self.names.insert(name.to_owned(), index);
        }
        Selection::Here(index)
    }

    /// The objects that this start leads to and that are not skipped.
    fn walk(&self, inventory: &Inventory<'_>) -> Result<Vec<Moref>, Fault> {
        let mut result = Vec::new();
        let mut done: HashSet<(Moref, usize)> = HashSet::new();
        let mut waiting = VecDeque::from([(self.object.clone(), self.skip, &self.select)]);
        while let Some((object, skip, select)) = waiting.pop_front() {
            for selection in select {
                let index = match selection {
                    Selection::Here(index) => Some(index),
                    Selection::Named(name) => self.names.get(name),
                };
                let traversal = index.and_then(|index| self.traversals.get(*index));
                let (Some(index), Some(traversal)) = (index, traversal) else {
                    return Err(Fault::invalid_argument("specSet.objectSet.selectSet"));
                };
                // A traversal that leads back to where it was taken before is not taken again.
                if !is_a(&object.kind, &traversal.kind) || !done.insert((object.clone(), *index)) {
                    continue;
                }
                let value = inventory.property(&object, &traversal.path);
                let value = value.map_err(|_| Fault::invalid_property(&traversal.path))?;
                for next in value.map(|value| value.references()).unwrap_or_default() {
                    waiting.push_back((next, traversal.skip, &traversal.select));
                }
            }
            if !skip {
                result.push(object);
            }
        }
        Ok(result)
    }
}
