//! The element tree that SOAP bodies are read into and written from. Both sides of the wire use it.

use std::fmt;

use quick_xml::NsReader;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{Namespace, ResolveResult};

/// The namespace of `xsi:type`.
pub const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
/// The namespace of every vSphere type and method.
pub const VIM25: &str = "urn:vim25";

/// Elements nest at most this deep: the deepest answers (snapshot trees of 32 levels inside properties) stay below 50,
/// and the parser below would recurse in `Drop` for deeper ones.
const MAX_DEPTH: usize = 200;

/// A reference to a managed object: opaque, valid for one server, written `VirtualMachine:vm-62`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moref {
    /// The managed object type, such as `VirtualMachine`.
    pub kind: String,
    /// The server's own id, such as `vm-62`.
    pub value: String,
}

impl Moref {
    /// A reference of type `kind` and id `value`.
    pub fn new(kind: impl Into<String>, value: impl Into<String>) -> Self {
        Self { kind: kind.into(), value: value.into() }
    }
}

impl fmt::Display for Moref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

/// Why a document could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum XmlError {
    /// Not well-formed.
    #[error("the XML is not well-formed at byte {position}")]
    Malformed {
        /// Where the reader stood.
        position: u64,
        /// What it found.
        #[source]
        source: quick_xml::Error,
    },
    /// Well-formed so far, but not a document of the kind we read.
    #[error("the XML at byte {position} is not a SOAP document: {expected}")]
    Unexpected {
        /// Where the reader stood.
        position: u64,
        /// What should have been there.
        expected: &'static str,
    },
}

/// An element: local name, the two attributes that SOAP uses, text, and children in order. Prefixes are resolved and dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Local name.
    pub name: String,
    /// The `type` attribute (of a managed object reference).
    pub kind: Option<String>,
    /// The local name in `xsi:type`.
    pub xsi_type: Option<String>,
    /// Character data, entities resolved. Only leaves have any.
    pub text: String,
    /// Child elements in document order.
    pub children: Vec<Element>,
}

impl Element {
    /// An empty element.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// A leaf with text.
    pub fn leaf(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into(), ..Self::default() }
    }

    /// A leaf that refers to a managed object.
    pub fn reference(name: impl Into<String>, to: &Moref) -> Self {
        Self { kind: Some(to.kind.clone()), ..Self::leaf(name, &to.value) }
    }

    /// The same element with `xsi:type` set, prefix and all as it is to be written (`xsd:string`, `VirtualDisk`).
    #[must_use]
    pub fn typed(mut self, xsi_type: impl Into<String>) -> Self {
        self.xsi_type = Some(xsi_type.into());
        self
    }

    /// The same element with one more child.
    #[must_use]
    pub fn with(mut self, child: Self) -> Self {
        self.children.push(child);
        self
    }

    /// The same element with more children.
    #[must_use]
    pub fn with_all(mut self, children: impl IntoIterator<Item = Self>) -> Self {
        self.children.extend(children);
        self
    }

    /// The first child called `name`.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|c| c.name == name)
    }

    /// The children called `name`.
    pub fn children_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |c| c.name == name)
    }

    /// The element at the end of a path of first children.
    #[must_use]
    pub fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |element, name| element.child(name))
    }

    /// The text of the first child called `name`; an empty one counts as absent.
    #[must_use]
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|c| c.text.as_str()).filter(|text| !text.is_empty())
    }

    /// This element as a managed object reference.
    #[must_use]
    pub fn moref(&self) -> Option<Moref> {
        let kind = self.kind.as_ref()?;
        (!self.text.is_empty()).then(|| Moref::new(kind, &self.text))
    }

    /// Reads a document.
    ///
    /// # Errors
    /// [`XmlError`] if it is not well-formed, has a document type, or nests deeper than 200 elements.
    pub fn parse(document: &str) -> Result<Self, XmlError> {
        let mut reader = NsReader::from_str(document);
        let mut open: Vec<Self> = Vec::new();
        loop {
            let position = reader.buffer_position();
            let unexpected = |expected| XmlError::Unexpected { position, expected };
            let malformed = |source| XmlError::Malformed { position, source };
            let finished = match reader.read_event().map_err(malformed)? {
                Event::Start(start) => {
                    if open.len() >= MAX_DEPTH {
                        return Err(unexpected("at most 200 levels of elements"));
                    }
                    open.push(Self::from_start(&reader, &start).map_err(malformed)?);
                    None
                }
                Event::Empty(start) => Some(Self::from_start(&reader, &start).map_err(malformed)?),
                Event::End(_) => open.pop(),
                Event::Text(text) => {
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&text.xml10_content());
                    }
                    None
                }
                Event::CData(data) => {
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&data.xml10_content());
                    }
                    None
                }
                Event::GeneralRef(entity) => {
                    let text = resolve(&entity).ok_or_else(|| unexpected("only the five entities of XML itself"))?;
                    if let Some(element) = open.last_mut() {
                        element.text.push(text);
                    }
                    None
                }
                Event::DocType(_) => return Err(unexpected("no document type declaration")),
                Event::Eof => return Err(unexpected("an element that is closed before the end")),
                Event::Decl(_) | Event::PI(_) | Event::Comment(_) => None,
            };
            let Some(mut element) = finished else { continue };
            if !element.children.is_empty() {
                element.text.clear(); // white space between children
            }
            match open.last_mut() {
                Some(parent) => parent.children.push(element),
                None => return Ok(element),
            }
        }
    }

    fn from_start(reader: &NsReader<&[u8]>, start: &BytesStart<'_>) -> Result<Self, quick_xml::Error> {
        let mut element = Self::new(start.local_name().as_ref());
        for attribute in start.attributes() {
            let attribute = attribute?;
            let (namespace, local) = reader.resolver().resolve_attribute(attribute.key);
            if local.as_ref() != "type" {
                continue;
            }
            let value = attribute.normalized_value(quick_xml::XmlVersion::Implicit1_0)?;
            match namespace {
                ResolveResult::Bound(Namespace(ns)) if ns == XSI => {
                    element.xsi_type = Some(value.rsplit(':').next().unwrap_or_default().to_owned());
                }
                ResolveResult::Unbound => element.kind = Some(value.into_owned()),
                _ => {}
            }
        }
        Ok(element)
    }

    /// Writes the element and all below it.
    pub fn write_to(&self, out: &mut String) {
        out.push('<');
        out.push_str(&self.name);
        for (name, value) in [("type", &self.kind), ("xsi:type", &self.xsi_type)] {
            if let Some(value) = value {
                out.push(' ');
                out.push_str(name);
                out.push_str("=\"");
                out.push_str(&quick_xml::escape::escape(value.as_str()));
                out.push('"');
            }
        }
        out.push('>');
        out.push_str(&quick_xml::escape::escape(self.text.as_str()));
        for child in &self.children {
            child.write_to(out);
        }
        out.push_str("</");
        out.push_str(&self.name);
        out.push('>');
    }
}

fn resolve(entity: &quick_xml::events::BytesRef<'_>) -> Option<char> {
    if let Ok(Some(character)) = entity.resolve_char_ref() {
        return Some(character);
    }
    match entity.as_ref() {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => None,
    }
}

/// A SOAP 1.1 envelope around `body`. A request's or response's own element declares the `urn:vim25` namespace.
#[must_use]
pub fn envelope(body: &Element) -> String {
    let mut out = String::with_capacity(1024);
    out.push_str(concat!(
        r#"<?xml version="1.0" encoding="UTF-8"?>"#,
        "\n",
        r#"<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" "#,
        r#"xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">"#,
        "<soapenv:Body>"
    ));
    let start = out.len().saturating_add(1).saturating_add(body.name.len());
    body.write_to(&mut out);
    if !body.name.contains(':') {
        out.insert_str(start, r#" xmlns="urn:vim25""#);
    }
    out.push_str("</soapenv:Body></soapenv:Envelope>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_prefix_for_the_schema_instance_namespace_is_understood() {
        let xml = format!(r#"<a xmlns:q="{XSI}"><b q:type="vim25:VirtualDisk" type="x">1 &lt; &#50; &amp; 3</b></a>"#);
        let element = Element::parse(&xml).unwrap();
        let b = element.child("b").unwrap();
        assert_eq!(b.xsi_type.as_deref(), Some("VirtualDisk"));
        assert_eq!(b.kind.as_deref(), Some("x"));
        assert_eq!(b.text, "1 < 2 & 3");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let element = Element::new("Login")
            .with(Element::reference("_this", &Moref::new("SessionManager", "SessionManager")))
            .with(Element::leaf("password", "a<b>&\"'\u{e9}"))
            .with(Element::leaf("spec", "1").typed("ns:Spec"));
        let parsed = Element::parse(&envelope(&element)).unwrap();
        let login = parsed.at(&["Body", "Login"]).unwrap();
        assert_eq!(login.text_of("password"), Some("a<b>&\"'\u{e9}"));
        assert_eq!(login.child("_this").unwrap().moref(), Some(Moref::new("SessionManager", "SessionManager")));
        assert_eq!(login.child("spec").unwrap().xsi_type.as_deref(), Some("Spec"));
    }

    #[test]
    fn document_types_deep_nesting_and_open_ends_are_refused() {
        for bad in ["<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "<a>&b;</a>", "<a><b></a>", "<a>", "", "x"] {
            assert!(Element::parse(bad).is_err(), "{bad}");
        }
        let deep = format!("{}{}", "<a>".repeat(300), "</a>".repeat(300));
        assert!(Element::parse(&deep).is_err());
    }
}
