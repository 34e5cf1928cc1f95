//! SOAP 1.1 as the vSphere API uses it: a call comes in, a response or a fault goes out.

use vsphere::xml::{Element, Moref, XmlError, envelope};

use super::value::{Object, Value};

/// The API ids that this server speaks, newest first (the list of vsphere.md section 1, up to 8.0.1.0).
pub(super) const VERSIONS: [&str; 25] = [
    "8.0.1.0", "8.0.0.2", "8.0.0.1", "8.0.0.0", "7.0.3.2", "7.0.3.1", "7.0.3.0", "7.0.2.1", "7.0.2.0", "7.0.1.1",
    "7.0.1.0", "7.0.0.2", "7.0.0.0", "6.9.1", "6.8.7", "6.7.3", "6.7.2", "6.7.1", "6.7", "6.5", "6.0", "5.5", "5.1",
    "5.0", "4.1",
];
/// The oldest id; spoken too, and listed last.
pub(super) const OLDEST: &str = "4.0";

/// One call of a method.
#[derive(Debug)]
pub(super) struct Call {
    /// The method's name on the wire, such as `CreateSnapshot_Task`.
    pub(super) method: String,
    /// The object it is called on.
    pub(super) this: Moref,
    /// The method's element: its children are `_this` and the arguments.
    pub(super) arguments: Element,
}

impl Call {
    /// Reads an envelope.
    pub(super) fn parse(document: &str) -> Result<Self, Fault> {
        let envelope = Element::parse(document).map_err(|error| Fault::unreadable(&error))?;
        let body = envelope.child("Body").and_then(|body| body.children.first());
        let arguments = body.ok_or_else(|| Fault::invalid_request("the envelope has an empty body"))?.clone();
        let this = arguments.child("_this").and_then(Element::moref);
        let this = this.ok_or_else(|| Fault::invalid_request("the method has no `_this`"))?;
        Ok(Self { method: arguments.name.clone(), this, arguments })
    }

    /// A text argument that must be there; an empty text is one.
    pub(super) fn text(&self, name: &'static str) -> Result<&str, Fault> {
        let argument = self.arguments.child(name).ok_or_else(|| Fault::invalid_argument(name))?;
        Ok(&argument.text)
    }

    /// A boolean argument; absent means `false`.
    pub(super) fn flag(&self, name: &str) -> bool {
        is_true(self.arguments.text_of(name))
    }

    /// A number that must be there.
    pub(super) fn number<N: std::str::FromStr>(&self, name: &'static str) -> Result<N, Fault> {
        self.text(name)?.trim().parse().map_err(|_| Fault::invalid_argument(name))
    }
}

/// An `xsd:boolean`.
pub(super) fn is_true(text: Option<&str>) -> bool {
    matches!(text.map(str::trim), Some("true" | "1"))
}

/// A type name without its prefix: `type` arguments are qualified names.
pub(super) fn local(name: &str) -> &str {
    name.trim().rsplit(':').next().unwrap_or_default()
}

/// A fault of the schema, thrown by a method or kept in a task.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fault {
    kind: &'static str,
    message: String,
    fields: Object,
    code: &'static str,
}

impl Fault {
    pub(super) fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), fields: Object::subtype(kind), code: "ServerFaultCode" }
    }

    pub(super) fn field(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.fields = self.fields.with(name, value);
        self
    }

    /// The fault's type.
    pub(super) fn kind(&self) -> &'static str {
        self.kind
    }

    pub(super) fn not_found(object: &Moref) -> Self {
        let message = format!("The object '{object}' has already been deleted or has not been completely created");
        Self::new("ManagedObjectNotFound", message).field("obj", object)
    }

    pub(super) fn invalid_argument(name: &'static str) -> Self {
        Self::new("InvalidArgument", format!("A specified parameter was not correct: {name}"))
            .field("invalidProperty", name)
    }

    pub(super) fn invalid_property(path: &str) -> Self {
        Self::new("InvalidProperty", format!("The property '{path}' is not known")).field("name", path)
    }

    pub(super) fn invalid_request(message: &str) -> Self {
        Self::new("InvalidRequest", message)
    }

    pub(super) fn method_not_found(call: &Call) -> Self {
        let message = format!("The method {} is not implemented for {}", call.method, call.this);
        Self::new("MethodNotFound", message).field("receiver", &call.this).field("method", call.method.as_str())
    }

    pub(super) fn not_authenticated() -> Self {
        Self::new("NotAuthenticated", "The session is not authenticated.")
            .field("object", Moref::new("Folder", super::inventory::ROOT))
            .field("privilegeId", "System.View")
    }

    pub(super) fn not_supported(message: &str) -> Self {
        Self::new("NotSupported", message)
    }

    fn unreadable(error: &XmlError) -> Self {
        Self::new("InvalidRequest", format!("cannot read the request: {error}"))
    }

    /// The answer to a `SOAPAction` that names no version of ours.
    pub(super) fn version_mismatch(uri: &str) -> Self {
        let message = format!("Unsupported version URI \"{uri}\"");
        Self { code: "vim:VersionMismatchFaultCode", ..Self::new("InvalidRequest", message) }
    }

    /// The fault as a data object: in a task's `error`, in a `missingSet`.
    pub(super) fn localized(&self) -> Value {
        Object::new("LocalizedMethodFault")
            .with("fault", self.fields.clone())
            .with("localizedMessage", self.message.as_str())
            .into()
    }

    /// The whole answer. `detail` stands in no namespace and its child in the API's, which `envelope` cannot write.
    pub(super) fn document(&self) -> String {
        let mut out = String::from(concat!(
            r#"<?xml version="1.0" encoding="UTF-8"?>"#,
            "\n",
            r#"<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" "#,
            r#"xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">"#,
            "<soapenv:Body><soapenv:Fault>"
        ));
        Element::leaf("faultcode", self.code).write_to(&mut out);
        Element::leaf("faultstring", &self.message).write_to(&mut out);
        let kind = self.kind;
        out.push_str(&format!(r#"<detail><{kind}Fault xmlns="urn:vim25" xsi:type="{kind}">"#));
        for child in self.fields.children() {
            child.write_to(&mut out);
        }
        out.push_str(&format!("</{kind}Fault></detail></soapenv:Fault></soapenv:Body></soapenv:Envelope>"));
        out
    }
}

/// What a method returns: `None` for methods that return nothing, or found nothing.
pub(super) type Returned = Result<Option<Value>, Fault>;

/// The answer to `method` with its `returnval`; a list is written as several of them.
pub(super) fn response(method: &str, value: Option<&Value>) -> String {
    let values = value.map(|v| v.elements("returnval")).unwrap_or_default();
    envelope(&Element::new(format!("{method}Response")).with_all(values))
}

/// Whether the `SOAPAction` header names a version of ours; an absent or empty one counts as the oldest.
pub(super) fn check_version(action: Option<&str>) -> Result<(), Fault> {
    let uri = action.unwrap_or_default().trim().trim_matches('"');
    let Some(version) = uri.strip_prefix("urn:vim25/") else { return Ok(()) };
    let known = version == OLDEST || VERSIONS.contains(&version);
    if known { Ok(()) } else { Err(Fault::version_mismatch(uri)) }
}

/// The document `/sdk/vimServiceVersions.xml`.
pub(super) fn versions_document() -> String {
    let prior = VERSIONS.iter().skip(1).chain([&OLDEST]);
    let prior: String = prior.map(|version| format!("<version>{version}</version>")).collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<namespaces version=\"1.0\"><namespace><name>urn:vim25</name>\
         <version>{}</version><priorVersions>{prior}</priorVersions></namespace></namespaces>\n",
        VERSIONS[0]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_names_its_type_twice_and_keeps_detail_out_of_the_namespace() {
        let fault = Fault::invalid_property("config.nonsense");
        let text = fault.document();
        assert!(
            text.contains(r#"<detail><InvalidPropertyFault xmlns="urn:vim25" xsi:type="InvalidProperty">"#),
            "{text}"
        );
        let parsed = Element::parse(&text).unwrap();
        let inner = parsed.at(&["Body", "Fault", "detail", "InvalidPropertyFault"]).unwrap();
        assert_eq!(inner.text_of("name"), Some("config.nonsense"));
    }

    #[test]
    fn versions_that_are_not_listed_are_refused() {
        for good in [None, Some(""), Some("\"urn:vim25/8.0.1.0\""), Some("urn:vim25/4.0"), Some("\"urn:vim25\"")] {
            assert_eq!(check_version(good), Ok(()), "{good:?}");
        }
        let fault = check_version(Some("\"urn:vim25/9.9\"")).unwrap_err();
        assert!(fault.document().contains("Unsupported version URI &quot;urn:vim25/9.9&quot;"), "{}", fault.document());
        assert!(versions_document().contains("<version>4.0</version></priorVersions>"));
    }

    #[test]
    fn a_call_without_an_object_is_refused() {
        let envelope = |body: &str| format!("<e:Envelope xmlns:e='x'><e:Body>{body}</e:Body></e:Envelope>");
        let call =
            Call::parse(&envelope("<CurrentTime><_this type='ServiceInstance'>ServiceInstance</_this></CurrentTime>"));
        assert_eq!(call.unwrap().this, Moref::new("ServiceInstance", "ServiceInstance"));
        assert!(Call::parse(&envelope("<CurrentTime/>")).is_err());
        assert!(Call::parse(&envelope("")).is_err());
        assert!(Call::parse("no xml").is_err());
    }
}
