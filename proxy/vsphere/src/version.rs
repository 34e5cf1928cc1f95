//! API versions: which dialect we and the server both speak.

use crate::xml::Element;

/// The ids that this client knows, oldest first. 9.x is left out until somebody has tried it.
const KNOWN: &[&str] = &[
    "2.5", "2.5u2", "4.0", "4.1", "5.0", "5.1", "5.5", "6.0", "6.5", "6.7", "6.7.1", "6.7.2", "6.7.3", "7.0.0.0",
    "7.0.0.2", "7.0.1.0", "7.0.1.1", "7.0.2.0", "7.0.2.1", "7.0.3.0", "7.0.3.1", "7.0.3.2", "8.0.0.0", "8.0.0.1",
    "8.0.1.0", "8.0.2.0", "8.0.2.1", "8.0.3.0", "8.0.3.1",
];

/// An API version id, such as `6.7.1` or `2.5u2`. Ordered by age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiVersion {
    text: String,
    parts: Vec<u32>,
}

impl ApiVersion {
    /// The version of Virtual Infrastructure 3.5: every server accepts it.
    pub(crate) fn oldest() -> Self {
        Self { text: "2.5".to_owned(), parts: vec![2, 5] }
    }

    /// Reads numbers parted by dots or `u`. An id of another form is refused.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let parts: Option<Vec<u32>> = text.trim().split(['.', 'u']).map(|part| part.parse().ok()).collect();
        parts.filter(|p| p.len() >= 2).map(|parts| Self { text: text.trim().to_owned(), parts })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this is version `major.minor` or newer.
    pub(crate) fn at_least(&self, major: u32, minor: u32) -> bool {
        self.parts.as_slice() >= [major, minor].as_slice()
    }

    /// The next older id that we know.
    pub(crate) fn step_down(&self) -> Option<Self> {
        known().rev().find(|k| k.parts < self.parts)
    }

    /// The newest id that we know and that is not newer than `self`.
    pub(crate) fn known_or_older(&self) -> Option<Self> {
        known().rev().find(|k| k.parts <= self.parts)
    }
}

fn known() -> impl DoubleEndedIterator<Item = ApiVersion> {
    KNOWN.iter().filter_map(|text| ApiVersion::parse(text))
}

/// The newest id that `vimServiceVersions.xml` offers and that we know.
pub(crate) fn newest_common(document: &Element) -> Option<ApiVersion> {
    let vim = document.children_named("namespace").find(|n| n.text_of("name") == Some("urn:vim25"))?;
    let prior = vim.child("priorVersions");
    let mut offered: Vec<&str> = vim.text_of("version").into_iter().collect();
    offered.extend(prior.into_iter().flat_map(|p| p.children_named("version")).map(|v| v.text.as_str()));
    known().rev().find(|k| offered.contains(&k.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_number() {
        let v = |text| ApiVersion::parse(text).unwrap();
        assert!(v("6.7.1").at_least(6, 7) && v("6.7").at_least(6, 7) && !v("6.5").at_least(6, 7));
        assert!(v("10.0").at_least(9, 1) && v("2.5u2").at_least(2, 5));
        assert_eq!(v("6.7.1").step_down(), Some(v("6.7")));
        assert_eq!(v("7.0.3.9").known_or_older(), Some(v("7.0.3.2")));
        assert_eq!(v("2.5").step_down(), None);
        assert_eq!(ApiVersion::parse("dev"), None);
    }

    #[test]
    fn the_newest_version_that_both_sides_know_is_chosen() {
        let document = |newest| {
            let xml = format!(
                "<namespaces version='1.0'><namespace><name>urn:other</name><version>9</version></namespace>\
                 <namespace><name>urn:vim25</name><version>{newest}</version><priorVersions><version>6.7.3</version>\
                 <version>6.5</version></priorVersions></namespace></namespaces>"
            );
            Element::parse(&xml).unwrap()
        };
        assert_eq!(newest_common(&document("8.0.1.0")).unwrap().as_str(), "8.0.1.0");
        assert_eq!(newest_common(&document("9.0.0.0")).unwrap().as_str(), "6.7.3");
    }
}
