//! What a leaf shall say.

use std::collections::BTreeSet;
use std::time::SystemTime;

use dominator_core::auth::{MethodPattern, NodeId, Role, Scope};
use dominator_core::image::ImageName;
use rcgen::{CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls_pki_types::DnsName;

use super::{DEFAULT_DAYS, parameters, random_serial, signing};
use crate::certificate::{
    AlternativeName, GROUPS_OID, METHODS_OID, NODE_URI, ROLE_URI, SCOPE_IMAGES_URI, SCOPE_TAG_URI, Serial,
    check_user,
};
use crate::der;
use crate::error::{Origin, PkiError};

/// What a certificate shall say.
#[derive(Clone, Debug)]
pub struct Leaf {
    user: String,
    methods: Vec<MethodPattern>,
    groups: Vec<String>,
    role: Option<Role>,
    node: Option<NodeId>,
    scope: Scope,
    names: Vec<AlternativeName>,
    days: u32,
    serial: Option<Serial>,
}

impl Leaf {
    /// A certificate for `user`, granting nothing; with a role when the user name is a role's.
    ///
    /// # Errors
    /// [`PkiError::BadCertificate`] when `user` can't be a user name.
    pub fn new(user: &str) -> Result<Self, PkiError> {
        check_user(user).map_err(|source| PkiError::BadCertificate { origin: Origin::Memory, source })?;
        let (methods, groups, names) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self {
            user: user.into(),
            methods,
            groups,
            role: Role::named(user),
            node: None,
            scope: Scope::default(),
            names,
            days: DEFAULT_DAYS,
            serial: None,
        })
    }

    /// Grants these methods.
    #[must_use]
    pub fn methods(mut self, methods: impl IntoIterator<Item = MethodPattern>) -> Self {
        self.methods.extend(methods);
        self
    }

    /// Puts the user into these groups.
    #[must_use]
    pub fn groups<S: Into<String>>(mut self, groups: impl IntoIterator<Item = S>) -> Self {
        self.groups.extend(groups.into_iter().map(Into::into));
        self
    }

    /// Lets the certificate play `role` under whatever user name.
    #[must_use]
    pub fn role(mut self, role: Role) -> Self {
        self.role = Some(role);
        self
    }

    /// Makes the certificate that of one machine, or of one instance of a daemon.
    #[must_use]
    pub fn node(mut self, node: NodeId) -> Self {
        self.node = Some(node);
        self
    }

    /// Grants the methods within `scope` only. A verifier that knows nothing of scopes grants them everywhere.
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// Binds the certificate to these names: a server with it is believed under them only.
    #[must_use]
    pub fn alternative_names(mut self, names: impl IntoIterator<Item = AlternativeName>) -> Self {
        self.names.extend(names);
        self
    }

    /// How many days it shall be valid, 1 to [`MAX_DAYS`](super::MAX_DAYS).
    #[must_use]
    pub fn days(mut self, days: u32) -> Self {
        self.days = days;
        self
    }

    /// Its serial number; a random one otherwise.
    #[must_use]
    pub fn serial(mut self, serial: Serial) -> Self {
        self.serial = Some(serial);
        self
    }

    /// Whether it grants methods, or a role as a server.
    pub(super) fn claims_powers(&self) -> bool {
        !self.methods.is_empty() || self.role.is_some()
    }

    pub(super) fn parameters(&self, now: SystemTime) -> Result<CertificateParams, PkiError> {
        let serial = self.serial.clone().map_or_else(random_serial, Ok)?;
        let mut params = parameters(&self.user, serial, self.days, now)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = self.subject_alternative_names()?;
        let methods: Vec<String> = self.methods.iter().map(ToString::to_string).collect();
        let lists = [(METHODS_OID, &methods), (GROUPS_OID, &self.groups)];
        // Not critical: TLS libraries refuse critical extensions they do not know.
        params.custom_extensions = lists
            .into_iter()
            .filter(|(_, items)| !items.is_empty())
            .map(|(oid, items)| {
                CustomExtension::from_oid_content(oid, der::encode(items.iter().map(String::as_str)))
            })
            .collect();
        Ok(params)
    }

    fn subject_alternative_names(&self) -> Result<Vec<SanType>, PkiError> {
        let role = self.role.map(|role| format!("{ROLE_URI}{role}"));
        let node = self.node.as_ref().map(|node| format!("{NODE_URI}{node}"));
        let uris = role.into_iter().chain(node).map(Ok).chain(scope(&self.scope));
        let ours: Vec<_> = uris.map(|uri| uri.map(AlternativeName::Uri)).collect::<Result<_, _>>()?;
        ours.iter().chain(&self.names).map(subject_alternative_name).collect()
    }
}

/// The URIs that say `scope`.
fn scope(scope: &Scope) -> impl Iterator<Item = Result<String, PkiError>> {
    // Written down, a key without values would be no limit at all.
    let empty = scope.tags.values().any(BTreeSet::is_empty).then_some(Err(PkiError::BadRequest {
        what: "a tag without values limits the methods to no machine at all",
    }));
    let tags = scope.tags.iter().flat_map(|(key, values)| values.iter().map(move |value| tag(key, value)));
    empty.into_iter().chain(tags).chain(scope.directories.iter().map(|path| directory(path)))
}

/// A directory of images is named as images are, which is all that a URI can hold.
fn directory(path: &str) -> Result<String, PkiError> {
    let bad = |_| PkiError::BadRequest { what: "a directory of images is named as in base/debian" };
    path.parse::<ImageName>().map(|path| format!("{SCOPE_IMAGES_URI}{path}")).map_err(bad)
}

fn tag(key: &str, value: &str) -> Result<String, PkiError> {
    if key.is_empty() || key.chars().chain(value.chars()).any(char::is_control) {
        return Err(PkiError::BadRequest { what: "a tag is KEY=VALUE, without control characters" });
    }
    Ok(format!("{SCOPE_TAG_URI}{}={}", percent_encoded(key), percent_encoded(value)))
}

/// Everything but letters, digits and `-._~` is written as `%` and two digits.
fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let one = |byte| if plain(byte) { char::from(byte).into() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}

fn subject_alternative_name(name: &AlternativeName) -> Result<SanType, PkiError> {
    let bad = PkiError::BadRequest {
        what: "an alternative name is neither a host name, nor an address, nor a URI",
    };
    match name {
        AlternativeName::Dns(host) if DnsName::try_from(host.as_str()).is_ok() => {
            host.as_str().try_into().map(SanType::DnsName).map_err(signing)
        }
        AlternativeName::Ip(address) => Ok(SanType::IpAddress(*address)),
        AlternativeName::Uri(uri) => uri.as_str().try_into().map(SanType::URI).map_err(signing),
        AlternativeName::Dns(_) | AlternativeName::Other(_) => Err(bad),
    }
}
