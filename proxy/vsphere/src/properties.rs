//! The property collector: how objects are read.

use std::str::FromStr;

use crate::client::{Client, method, returned_object};
use crate::error::Error;
use crate::fault::Fault;
use crate::xml::{Element, Moref};

/// Objects per page. Servers may send fewer.
const PAGE: &str = "100";

/// A million objects: more than a vCenter holds (40,000 VMs in 8.0), fewer than would fill our memory.
const MAX_PAGES: usize = 10_000;

/// Which objects a query begins with.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    /// Exactly these.
    Objects(&'a [Moref]),
    /// What a container view holds.
    View(&'a Moref),
    /// These and everything above them.
    Ancestors(&'a [Moref]),
}

/// The properties wanted of one type.
pub(crate) struct Wanted {
    pub(crate) kind: &'static str,
    pub(crate) paths: Vec<&'static str>,
}

/// The properties of one object, as far as they could be read.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) moref: Moref,
    values: Vec<(String, Element)>,
    missing: Vec<(String, Fault)>,
}

impl Object {
    fn parse(content: Element) -> Option<Self> {
        let moref = content.child("obj")?.moref()?;
        let mut object = Self { moref, values: Vec::new(), missing: Vec::new() };
        for part in content.children {
            match part.name.as_str() {
                "propSet" => {
                    let name = part.text_of("name").unwrap_or_default().to_owned();
                    if let Some(value) = part.children.into_iter().find(|c| c.name == "val") {
                        object.values.push((name, value));
                    }
                }
                "missingSet" => {
                    let path = part.text_of("path").unwrap_or_default().to_owned();
                    object.missing.push((
                        path,
                        part.child("fault").map(Fault::from_localized).unwrap_or_else(|| Fault {
                            kind: "unnamed fault".to_owned(),
                            message: String::new(),
                            detail: Element::default(),
                        }),
                    ));
                }
                _ => {}
            }
        }
        Some(object)
    }

    /// The value at `path`.
    pub(crate) fn value(&self, path: &str) -> Option<&Element> {
        self.values.iter().find(|(name, _)| name == path).map(|(_, value)| value)
    }

    /// The text at `path`; an empty one, as some servers send for an enum, counts as unset.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.value(path).map(|v| v.text.as_str()).filter(|text| !text.is_empty())
    }

    /// The same, to keep.
    pub(crate) fn string(&self, path: &str) -> Option<String> {
        self.text(path).map(str::to_owned)
    }

    /// The value at `path`, if it can be read as a `T`.
    pub(crate) fn parsed<T: FromStr>(&self, path: &str) -> Option<T> {
        self.text(path)?.trim().parse().ok()
    }

    /// The object that `path` refers to.
    pub(crate) fn reference(&self, path: &str) -> Option<Moref> {
        self.value(path)?.moref()
    }

    /// The value at `path`, or why it is not there.
    pub(crate) fn required(&self, path: &str) -> Result<&Element, Error> {
        if let Some(value) = self.value(path) {
            return Ok(value);
        }
        let what = format!("property {path} of {}", self.moref);
        match self.missing.iter().find(|(name, _)| name == path) {
            Some((_, fault)) => Err(Error::fault(&what, fault.clone())),
            None => Err(Error::protocol(what, "a value", "none")),
        }
    }

    fn lost_session(&self) -> Option<&Fault> {
        self.missing.iter().map(|(_, fault)| fault).find(|fault| fault.kind == "NotAuthenticated")
    }
}

impl Client {
    /// Reads properties, in a new session if the old one is gone.
    pub(crate) async fn properties(&self, start: Start<'_>, wanted: &[Wanted]) -> Result<Vec<Object>, Error> {
        self.in_session(|| self.properties_once(start, wanted)).await
    }

    /// Reads properties of one object.
    pub(crate) async fn properties_of(
        &self,
        object: &Moref,
        kind: &'static str,
        paths: &[&'static str],
    ) -> Result<Object, Error> {
        let wanted = [Wanted { kind, paths: paths.to_vec() }];
        let found = self.properties(Start::Objects(std::slice::from_ref(object)), &wanted).await?;
        found
            .into_iter()
            .find(|o| o.moref.value == object.value)
            .ok_or_else(|| Error::protocol(format!("properties of {object}"), "the object", "none"))
    }

    /// Reads properties of everything of type `kind`, by a view that lives for this call only.
    pub(crate) async fn properties_of_all(&self, wanted: &[Wanted]) -> Result<Vec<Object>, Error> {
        self.in_session(|| async {
            let root = self.manager("rootFolder")?;
            let create = method("CreateContainerView", &self.manager("viewManager")?)
                .with(Element::reference("container", &root))
                .with_all(wanted.iter().map(|w| Element::leaf("type", w.kind)))
                .with(Element::leaf("recursive", "true"));
            let view = returned_object(self.call_once(&create, true).await?)?;
            let found = self.properties_once(Start::View(&view), wanted).await;
            if let Err(error) = self.call_once(&method("DestroyView", &view), false).await {
                tracing::debug!(%error, "a view stays until the session ends");
            }
            found
        })
        .await
    }

    async fn properties_once(&self, start: Start<'_>, wanted: &[Wanted]) -> Result<Vec<Object>, Error> {
        let mut wanted: Vec<Wanted> = wanted.iter().map(|w| Wanted { kind: w.kind, paths: w.paths.clone() }).collect();
        loop {
            let error = match self.all_pages(&filter(start, &wanted)).await {
                Ok(objects) => {
                    return match objects.iter().find_map(Object::lost_session) {
                        Some(fault) => Err(Error::fault("RetrieveProperties", fault.clone())),
                        None => Ok(objects),
                    };
                }
                Err(error) if error.fault_kind() == Some("InvalidProperty") => error,
                Err(error) => return Err(error),
            };
            // One path that this server does not know spoils the call: leave it out.
            let unknown = error.fault_field("name").unwrap_or_default();
            let before: usize = wanted.iter().map(|w| w.paths.len()).sum();
            wanted.iter_mut().for_each(|w| w.paths.retain(|path| *path != unknown));
            if wanted.iter().map(|w| w.paths.len()).sum::<usize>() == before
                || wanted.iter().any(|w| w.paths.is_empty())
            {
                return Err(error);
            }
            tracing::warn!(property = unknown, "the server does not know a property");
        }
    }

    async fn all_pages(&self, filter: &Element) -> Result<Vec<Object>, Error> {
        let collector = self.manager("propertyCollector")?;
        if !self.at_least(4, 1) {
            let call = method("RetrieveProperties", &collector).with(filter.clone());
            let response = self.call_once(&call, true).await?;
            return Ok(response.children.into_iter().filter_map(Object::parse).collect());
        }
        let mut call = method("RetrievePropertiesEx", &collector)
            .with(filter.clone())
            .with(Element::new("options").with(Element::leaf("maxObjects", PAGE)));
        let mut objects = Vec::new();
        for _ in 0..MAX_PAGES {
            // Nothing at all is the answer when nothing was found.
            let Some(page) = self.call_once(&call, true).await?.children.into_iter().next() else { return Ok(objects) };
            let token = page.text_of("token").map(str::to_owned);
            objects.extend(page.children.into_iter().filter(|c| c.name == "objects").filter_map(Object::parse));
            let Some(token) = token else { return Ok(objects) };
            call = method("ContinueRetrievePropertiesEx", &collector).with(Element::leaf("token", token));
        }
        Err(Error::protocol("RetrievePropertiesEx", format!("at most {MAX_PAGES} pages"), "more"))
    }
}

fn filter(start: Start<'_>, wanted: &[Wanted]) -> Element {
    let properties = wanted.iter().map(|w| {
        Element::new("propSet")
            .with(Element::leaf("type", w.kind))
            .with(Element::leaf("all", "false"))
            .with_all(w.paths.iter().map(|path| Element::leaf("pathSet", *path)))
    });
    let object = |moref, skip: bool| {
        Element::new("objectSet").with(Element::reference("obj", moref)).with(Element::leaf("skip", skip.to_string()))
    };
    let objects: Vec<Element> = match start {
        Start::Objects(morefs) => morefs.iter().map(|m| object(m, false)).collect(),
        Start::View(view) => vec![object(view, true).with(traversal("view", "ContainerView", "view"))],
        Start::Ancestors(morefs) => {
            let up = traversal("up", "ManagedEntity", "parent")
                .with(Element::new("selectSet").with(Element::leaf("name", "up")));
            morefs.iter().map(|m| object(m, false).with(up.clone())).collect()
        }
    };
    Element::new("specSet").with_all(properties).with_all(objects)
}

fn traversal(name: &str, kind: &str, path: &str) -> Element {
    Element::new("selectSet")
        .typed("TraversalSpec")
        .with(Element::leaf("name", name))
        .with(Element::leaf("type", kind))
        .with(Element::leaf("path", path))
        .with(Element::leaf("skip", "false"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_with_unreadable_properties_is_still_an_object() {
        let xml = r#"<objects xmlns:s="http://www.w3.org/2001/XMLSchema-instance"><obj type="VirtualMachine">vm-1</obj>
            <propSet><name>name</name><val s:type="xsd:string">a</val></propSet>
            <propSet><name>runtime.faultToleranceState</name><val s:type="vim25:X"></val></propSet>
            <missingSet><path>config</path><fault><fault s:type="NoPermission"><privilegeId>System.Read</privilegeId></fault>
            <localizedMessage>no</localizedMessage></fault></missingSet><novelty/></objects>"#;
        let object = Object::parse(Element::parse(xml).unwrap()).unwrap();
        assert_eq!(object.text("name"), Some("a"));
        assert_eq!(object.text("runtime.faultToleranceState"), None);
        let error = object.required("config").unwrap_err();
        assert_eq!((error.fault_kind(), error.fault_field("privilegeId")), (Some("NoPermission"), Some("System.Read")));
        assert!(matches!(object.required("other"), Err(Error::Protocol { .. })));
    }
}
