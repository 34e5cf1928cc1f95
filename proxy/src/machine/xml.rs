//! A small tree of XML that loses nothing on its way through, except comments and the white space between elements.
//!
//! Names keep their prefixes and attributes their order, so that what we do not know (`qemu:commandline`, metadata of other programs)
//! comes out as it came in.

use std::fmt::{self, Write};

use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;

/// libvirt sends no string longer than 4 MiB.
const MAX_LEN: usize = 4 << 20;
/// libxml2, which libvirt reads with, stops at 256 levels. Chains of backing files nest, 200 deep at most.
const MAX_DEPTH: usize = 256;
/// Elements, texts and attributes of one document. A machine of a thousand disks has less than a tenth of it.
const MAX_NODES: usize = 500_000;

/// Why a document cannot be used.
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
    /// Well-formed so far, but more or other than we take.
    #[error("the XML cannot be used at byte {position}: expected {expected}")]
    Unexpected {
        /// Where the reader stood.
        position: u64,
        /// What should have been there.
        expected: &'static str,
    },
}

/// What stands inside an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// An element.
    Element(Element),
    /// Text, entities resolved.
    Text(String),
}

/// An element with everything in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// The name with its prefix, as written.
    pub name: String,
    /// Attributes in order, declarations of namespaces among them.
    pub attributes: Vec<(String, String)>,
    /// Contents in order.
    pub nodes: Vec<Node>,
}

impl Element {
    /// An empty element.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// The same with one more attribute.
    #[must_use]
    pub fn attr(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    /// The same with one more child.
    #[must_use]
    pub fn with(mut self, child: Self) -> Self {
        self.push(child);
        self
    }

    /// The same with this text as its only content.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.set_content(text);
        self
    }

    /// The value of an attribute.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Sets an attribute, in its old place if it was there.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.attributes.iter_mut().find(|(found, _)| found == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.attributes.push((name.into(), value.into())),
        }
    }

    /// Takes an attribute away.
    pub fn unset(&mut self, name: &str) {
        self.attributes.retain(|(found, _)| found != name);
    }

    /// The child elements in order.
    pub fn children(&self) -> impl DoubleEndedIterator<Item = &Self> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// The child elements in order, to be changed.
    pub fn children_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut Self> {
        self.nodes.iter_mut().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// The children called `name`.
    pub fn named<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a Self> {
        self.children().filter(move |child| child.name == name)
    }

    /// The first child called `name`.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children().find(|child| child.name == name)
    }

    /// The first child called `name`, to be changed.
    pub fn child_mut(&mut self, name: &str) -> Option<&mut Self> {
        self.children_mut().find(|child| child.name == name)
    }

    /// The element at the end of a path of first children.
    #[must_use]
    pub fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |element, name| element.child(name))
    }

    /// An attribute of the element at the end of a path of first children.
    #[must_use]
    pub fn get_at(&self, path: &[&str], attribute: &str) -> Option<&str> {
        self.at(path)?.get(attribute)
    }

    /// All text directly inside, without white space at its ends.
    #[must_use]
    pub fn content(&self) -> String {
        let texts = self.nodes.iter().filter_map(|node| match node {
            Node::Text(text) => Some(text.as_str()),
            Node::Element(_) => None,
        });
        texts.collect::<String>().trim().to_owned()
    }

    /// The text of the first child called `name`; an empty one counts as absent.
    #[must_use]
    pub fn text_of(&self, name: &str) -> Option<String> {
        self.child(name).map(Self::content).filter(|text| !text.is_empty())
    }

    /// Replaces all contents by a text.
    pub fn set_content(&mut self, text: &str) {
        self.nodes = if text.is_empty() { Vec::new() } else { vec![Node::Text(text.into())] };
    }

    /// Adds a child at the end.
    pub fn push(&mut self, child: Self) {
        self.nodes.push(Node::Element(child));
    }

    /// Adds a child in front of the first one called `before`, else at the end.
    pub fn insert_before(&mut self, before: &str, child: Self) {
        let at = self.nodes.iter().position(|node| matches!(node, Node::Element(e) if e.name == before));
        self.nodes.insert(at.unwrap_or(self.nodes.len()), Node::Element(child));
    }

    /// Takes the children away that `unwanted` says, and answers how many.
    pub fn remove_children(&mut self, mut unwanted: impl FnMut(&Self) -> bool) -> usize {
        let before = self.nodes.len();
        self.nodes.retain(|node| !matches!(node, Node::Element(child) if unwanted(child)));
        before - self.nodes.len()
    }

    /// Takes the children called `name` away, and answers how many.
    pub fn remove(&mut self, name: &str) -> usize {
        self.remove_children(|child| child.name == name)
    }

    /// Sets the text of the first child called `name`, which is made if there is none.
    pub fn set_text_of(&mut self, name: &str, text: &str) {
        match self.child_mut(name) {
            Some(child) => child.set_content(text),
            None => self.push(Self::new(name).text(text)),
        }
    }

    /// Calls `change` for this element and everything in it.
    pub fn walk_mut(&mut self, change: &mut impl FnMut(&mut Self)) {
        change(self);
        for child in self.children_mut() {
            child.walk_mut(change);
        }
    }

    /// Reads a document.
    ///
    /// # Errors
    /// [`XmlError`] if it is not well-formed, has a document type or entities of its own, or is too large.
    pub fn parse(document: &str) -> Result<Self, XmlError> {
        if document.len() > MAX_LEN {
            return Err(XmlError::Unexpected { position: 0, expected: "at most 4 MiB" });
        }
        let mut reader = Reader::from_str(document);
        let mut open: Vec<Self> = Vec::new();
        let mut nodes = 0;
        loop {
            let position = reader.buffer_position();
            let unexpected = |expected| XmlError::Unexpected { position, expected };
            let malformed = |source| XmlError::Malformed { position, source };
            let finished = match reader.read_event().map_err(malformed)? {
                Event::Start(start) => {
                    if open.len() >= MAX_DEPTH {
                        return Err(unexpected("at most 256 levels of elements"));
                    }
                    open.push(read_start(&start, position, &mut nodes)?);
                    None
                }
                Event::Empty(start) => Some(read_start(&start, position, &mut nodes)?),
                Event::End(_) => open.pop(),
                Event::Text(text) => {
                    add_text(&mut open, &text.xml10_content()).ok_or_else(|| unexpected("text only in an element"))?;
                    None
                }
                Event::CData(data) => {
                    add_text(&mut open, &data.xml10_content()).ok_or_else(|| unexpected("text only in an element"))?;
                    None
                }
                Event::GeneralRef(entity) => {
                    let text = resolve(&entity).ok_or_else(|| unexpected("only the five entities of XML itself"))?;
                    add_text(&mut open, text.encode_utf8(&mut [0; 4]))
                        .ok_or_else(|| unexpected("text only in an element"))?;
                    None
                }
                Event::DocType(_) => return Err(unexpected("no document type declaration")),
                Event::Eof => return Err(unexpected("an element that is closed before the end")),
                Event::Decl(_) | Event::PI(_) | Event::Comment(_) => None,
            };
            nodes += 1;
            if nodes > MAX_NODES {
                return Err(unexpected("at most 500000 elements, texts and attributes"));
            }
            let Some(mut element) = finished else { continue };
            element.drop_white_space();
            match open.last_mut() {
                Some(parent) => parent.push(element),
                None => return Ok(element),
            }
        }
    }

    /// White space between elements means nothing, unless other text stands there too.
    fn drop_white_space(&mut self) {
        let is_blank = |node: &Node| matches!(node, Node::Text(text) if text.trim().is_empty());
        let mixed = self.nodes.iter().any(|node| matches!(node, Node::Text(_)) && !is_blank(node));
        if !mixed && self.children().next().is_some() {
            self.nodes.retain(|node| !is_blank(node));
        }
    }

    fn write(&self, out: &mut String, depth: Option<usize>) {
        let indent = |out: &mut String, depth: Option<usize>| {
            if let Some(depth) = depth {
                out.extend(std::iter::repeat_n("  ", depth));
            }
        };
        indent(out, depth);
        let _ = write!(out, "<{}", self.name);
        for (name, value) in &self.attributes {
            let _ = write!(out, " {name}='{}'", Escaped(value, true));
        }
        if self.nodes.is_empty() {
            out.push_str("/>");
        } else {
            out.push('>');
            let only_elements = self.nodes.iter().all(|node| matches!(node, Node::Element(_)));
            let inner = depth.filter(|_| only_elements).map(|depth| depth + 1);
            if inner.is_some() {
                out.push('\n');
            }
            for node in &self.nodes {
                match node {
                    Node::Element(element) => element.write(out, inner),
                    Node::Text(text) => drop(write!(out, "{}", Escaped(text, false))),
                }
            }
            if inner.is_some() {
                indent(out, depth);
            }
            let _ = write!(out, "</{}>", self.name);
        }
        if depth.is_some() {
            out.push('\n');
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        self.write(&mut out, Some(0));
        f.write_str(&out)
    }
}

fn read_start(start: &BytesStart<'_>, position: u64, nodes: &mut usize) -> Result<Element, XmlError> {
    let malformed = |source| XmlError::Malformed { position, source };
    let mut element = Element::new(start.name().into_inner());
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|e| malformed(e.into()))?;
        let value = attribute.normalized_value(XmlVersion::Explicit1_0).map_err(malformed)?;
        element.attributes.push((attribute.key.into_inner().into(), value.into_owned()));
        *nodes += 1;
        if *nodes > MAX_NODES {
            return Err(XmlError::Unexpected { position, expected: "at most 500000 elements, texts and attributes" });
        }
    }
    Ok(element)
}

/// Text outside of the root may only be white space.
fn add_text(open: &mut [Element], text: &str) -> Option<()> {
    let Some(element) = open.last_mut() else { return text.trim().is_empty().then_some(()) };
    match element.nodes.last_mut() {
        Some(Node::Text(last)) => last.push_str(text),
        _ => element.nodes.push(Node::Text(text.into())),
    }
    Some(())
}

fn resolve(entity: &quick_xml::events::BytesRef<'_>) -> Option<char> {
    if entity.is_char_ref() {
        return entity.resolve_char_ref().ok().flatten();
    }
    Some(match entity.xml10_content().as_ref() {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        _ => return None,
    })
}

/// Text as XML takes it; in attributes line ends and tabs would become blanks.
struct Escaped<'a>(&'a str, bool);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '\'' if self.1 => f.write_str("&apos;")?,
                '\n' | '\t' if self.1 => write!(f, "&#{};", u32::from(c))?,
                '\r' => f.write_str("&#13;")?,
                '\n' | '\t' => f.write_char(c)?,
                // XML 1.0 has no way to write these.
                c if c < ' ' || matches!(c, '\u{fffe}' | '\u{ffff}') => f.write_char(char::REPLACEMENT_CHARACTER)?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_comes_out_as_it_came_in() {
        let text = "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\n  <name>a &amp; b</name>\n  <x:y xmlns:x='urn:x' z='1&#10;2 &apos;'>\n    <odd/>\n  </x:y>\n  <m>mixed <b>text</b> here</m>\n  <qemu:commandline>\n    <qemu:arg value='-foo'/>\n  </qemu:commandline>\n</domain>\n";
        assert_eq!(Element::parse(text).unwrap().to_string(), text);
    }

    #[test]
    fn comments_go_and_cdata_becomes_text() {
        let read =
            Element::parse("<?xml version='1.0'?>\n<!-- no -->\n<a>\n<!-- no -->\n<b><![CDATA[<&]]></b></a>").unwrap();
        assert_eq!(read.text_of("b").as_deref(), Some("<&"));
        assert_eq!(read.to_string(), "<a>\n  <b>&lt;&amp;</b>\n</a>\n");
    }

    #[test]
    fn documents_that_could_grow_or_lie_are_refused() {
        let deep = "<a>".repeat(257) + &"</a>".repeat(257);
        let many = format!("<a>{}</a>", "<b/>".repeat(MAX_NODES));
        let long = format!("<a>{}</a>", " ".repeat(MAX_LEN));
        for bad in [
            "",
            "<a>",
            "<a></b>",
            "x<a/>",
            "<a b='1' b='2'/>",
            "<a>&own;</a>",
            "<a b='&own;'/>",
            "<!DOCTYPE a [<!ENTITY own 'x'>]><a>&own;</a>",
            &deep,
            &many,
            &long,
        ] {
            assert!(Element::parse(bad).is_err(), "{}", &bad[..bad.len().min(60)]);
        }
        let edge = "<a>".repeat(256) + &"</a>".repeat(256);
        assert!(Element::parse(&edge).is_ok());
    }

    #[test]
    fn edits_keep_the_order_of_what_they_do_not_touch() {
        let mut a = Element::parse("<a x='1' y='2'><b/><c/><b/></a>").unwrap();
        a.set("x", "3");
        a.unset("y");
        a.insert_before("c", Element::new("n").attr("k", "v"));
        a.set_text_of("t", "text");
        assert_eq!(a.remove("b"), 2);
        assert_eq!(a.to_string(), "<a x='3'>\n  <n k='v'/>\n  <c/>\n  <t>text</t>\n</a>\n");
    }

    #[test]
    fn characters_that_xml_cannot_hold_are_replaced() {
        assert_eq!(Element::new("a").text("\u{1}").to_string(), "<a>\u{fffd}</a>\n");
    }
}
