//! Property values: a typed tree that is selected from by path and written as XML.
//!
//! Inside a data object the schema knows the type of each field, and only subtypes carry `xsi:type`. On its own (`val` of a
//! property) a value always needs one, and a list becomes an `ArrayOf…`. An [`vsphere::xml::Element`] does not know the
//! difference, so the tree is kept as values until it is written.

use vsphere::xml::{Element, Moref};

/// A value of any type of the schema.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// A number, text or enumeration: its `xsi:type` as written and its text.
    Leaf(&'static str, String),
    /// A managed object reference.
    Ref(Moref),
    /// A data object.
    Object(Object),
    /// A repeated field: the type of its items without prefix (`VirtualDevice`, `string`, `ManagedObjectReference`).
    List(&'static str, Vec<Value>),
    /// A field that is declared as `anyType`: typed wherever it stands.
    Any(Box<Value>),
}

/// A data object: fields in schema order. A field that exists in the schema but has no value is `None`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Object {
    kind: &'static str,
    subtype: bool,
    fields: Vec<(&'static str, Option<Value>)>,
}

/// The path names a field that its type does not have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoSuchField;

impl Object {
    /// An object of the type that its place in the schema declares.
    pub(super) fn new(kind: &'static str) -> Self {
        Self { kind, subtype: false, fields: Vec::new() }
    }

    /// An object of a subtype of what its place declares: it says so with `xsi:type`.
    pub(super) fn subtype(kind: &'static str) -> Self {
        Self { subtype: true, ..Self::new(kind) }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.fields.push((name, Some(value.into())));
        self
    }

    pub(super) fn maybe(mut self, name: &'static str, value: Option<impl Into<Value>>) -> Self {
        self.fields.push((name, value.map(Into::into)));
        self
    }

    /// Fields of the schema that have no value here.
    pub(super) fn unset(mut self, names: &[&'static str]) -> Self {
        self.fields.extend(names.iter().map(|name| (*name, None)));
        self
    }

    /// The same fields in the same order, all `true` or all `false`.
    pub(super) fn flags(self, names: &[&'static str], value: bool) -> Self {
        names.iter().fold(self, |object, name| object.with(name, value))
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.fields.iter().filter_map(|(name, value)| value.as_ref().map(|v| (*name, v)))
    }

    pub(super) fn children(&self) -> Vec<Element> {
        self.fields().flat_map(|(name, value)| value.elements(name)).collect()
    }
}

impl Value {
    /// A value of an enumeration.
    pub(super) fn constant(kind: &'static str, name: &str) -> Self {
        Self::Leaf(kind, name.to_owned())
    }

    /// A number of 64 bits; the schema has no unsigned ones.
    pub(super) fn long(number: u64) -> Self {
        Self::Leaf("xsd:long", i64::try_from(number).unwrap_or(i64::MAX).to_string())
    }

    pub(super) fn time(at: jiff::Timestamp) -> Self {
        // Milliseconds, as the real ones write it. The format has no failure for a timestamp.
        Self::Leaf("xsd:dateTime", format!("{at:.3}"))
    }

    pub(super) fn any(value: impl Into<Self>) -> Self {
        Self::Any(Box::new(value.into()))
    }

    pub(super) fn refs<'a>(to: impl IntoIterator<Item = &'a Moref>) -> Self {
        Self::List("ManagedObjectReference", to.into_iter().cloned().map(Self::Ref).collect())
    }

    /// What the path leads to; `None` if something on the way has no value.
    ///
    /// # Errors
    /// [`NoSuchField`] if a part of the path is no field of what stands there.
    pub(super) fn select<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> Result<Option<&Self>, NoSuchField> {
        let mut here = self;
        for part in path {
            let Self::Object(object) = here else { return Err(NoSuchField) };
            let (_, value) = object.fields.iter().find(|(name, _)| *name == part).ok_or(NoSuchField)?;
            match value {
                Some(value) => here = value,
                None => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    /// The references in this value: what a traversal follows.
    pub(super) fn references(&self) -> Vec<Moref> {
        match self {
            Self::Ref(to) => vec![to.clone()],
            Self::List(_, items) => items.iter().flat_map(Self::references).collect(),
            _ => Vec::new(),
        }
    }

    /// The value as a field called `name`: one element, or one per item of a list.
    pub(super) fn elements(&self, name: &str) -> Vec<Element> {
        match self {
            Self::Leaf(_, text) => vec![Element::leaf(name, text)],
            Self::Ref(to) => vec![Element::reference(name, to)],
            Self::Object(object) => {
                let element = Element::new(name).with_all(object.children());
                vec![if object.subtype { element.typed(object.kind) } else { element }]
            }
            Self::List(_, items) => items.iter().flat_map(|item| item.elements(name)).collect(),
            Self::Any(value) => vec![value.typed(name)],
        }
    }

    /// The value as an element called `name` that says its own type.
    pub(super) fn typed(&self, name: &str) -> Element {
        match self {
            Self::Leaf(kind, text) => Element::leaf(name, text).typed(*kind),
            Self::Ref(to) => Element::reference(name, to).typed("ManagedObjectReference"),
            Self::Object(object) => Element::new(name).with_all(object.children()).typed(object.kind),
            Self::List(item, items) => {
                let mut kind = String::from("ArrayOf");
                let mut letters = item.chars();
                kind.extend(letters.next().map(|c| c.to_ascii_uppercase()));
                kind.extend(letters);
                Element::new(name).with_all(items.iter().flat_map(|value| value.elements(item))).typed(kind)
            }
            Self::Any(value) => value.typed(name),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Leaf("xsd:string", text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Leaf("xsd:string", text)
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Leaf("xsd:int", number.to_string())
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Leaf("xsd:boolean", flag.to_string())
    }
}

impl From<Moref> for Value {
    fn from(to: Moref) -> Self {
        Self::Ref(to)
    }
}

impl From<&Moref> for Value {
    fn from(to: &Moref) -> Self {
        Self::Ref(to.clone())
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Self::Object(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(element: &Element) -> String {
        let mut out = String::new();
        element.write_to(&mut out);
        out
    }

    fn sample() -> Value {
        let disk = Object::subtype("VirtualDisk").with("key", 2000);
        Object::new("VirtualHardware")
            .with("numCPU", 2)
            .with("device", Value::List("VirtualDevice", vec![disk.into()]))
            .unset(&["motherboardLayout"])
            .into()
    }

    #[test]
    fn a_list_on_its_own_is_an_array_and_its_subtypes_say_so() {
        let value = sample();
        let devices = value.select(["device"]).unwrap().unwrap();
        assert_eq!(
            written(&devices.typed("val")),
            r#"<val xsi:type="ArrayOfVirtualDevice"><VirtualDevice xsi:type="VirtualDisk"><key>2000</key></VirtualDevice></val>"#
        );
        assert_eq!(
            written(&value.elements("hardware")[0]),
            r#"<hardware><numCPU>2</numCPU><device xsi:type="VirtualDisk"><key>2000</key></device></hardware>"#
        );
        assert_eq!(written(&Value::refs([]).typed("val")), r#"<val xsi:type="ArrayOfManagedObjectReference"></val>"#);
    }

    #[test]
    fn unset_fields_are_known_and_others_are_not() {
        assert_eq!(sample().select(["motherboardLayout"]), Ok(None));
        assert_eq!(sample().select(["motherboardLayout", "deeper"]), Ok(None));
        assert_eq!(sample().select(["nonsense"]), Err(NoSuchField));
        assert_eq!(sample().select(["device", "key"]), Err(NoSuchField));
        assert_eq!(sample().select(["numCPU"]), Ok(Some(&Value::from(2))));
    }
}
