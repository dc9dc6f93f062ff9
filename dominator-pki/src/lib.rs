//! Certificates that say who may call what: an authority that issues them, a reader that takes nothing on faith, the
//! trust that both ends of every connection judge each other by, and the places where keys and certificates lie.
//!
//! ```
//! use std::time::SystemTime;
//! use dominator_core::auth::{MethodPattern, Role};
//! use dominator_pki::Trust;
//! use dominator_pki::ca::{Authority, Leaf};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let now = SystemTime::now();
//! let authority = Authority::create("Example fleet", now)?;
//! let leaf = Leaf::new("subd")?.methods(MethodPattern::parse_list("ObjectServer.GetObjects")?);
//! let subd = authority.issue_credentials(&leaf, now)?;
//!
//! let trust = Trust::from_pem(authority.certificate_pem().as_bytes(), None)?;
//! let verified = trust.identify(subd.chain(), now)?;
//! let identity = verified.identity();
//! assert_eq!(identity.user, "subd");
//! assert_eq!(identity.role, Some(Role::Subd));
//! assert!(identity.methods.iter().any(|pattern| pattern.to_string() == "ObjectServer.GetObjects"));
//!
//! let server = trust.server_config(&subd)?; // for rustls, with client certificates mandatory
//! let client = trust.client_config(&subd, Role::ImageServer)?; // talks to image servers, and to nobody else
//! # drop((server, client));
//! # Ok(())
//! # }
//! ```
//!
//! Everything is synchronous, and time is always an argument; only the handshakes of the two TLS configurations ask a
//! clock, which [`Trust::with_clock`] replaces.
//!
//! # What is not here
//! Enrolment and renewal; the decision what a method demands (that is `dominator_core::auth`); sockets
//! and runtimes. An authority's own expiry is not enforced when chains are verified: a certificate in the CA file is
//! trusted until it is taken out of it.
#![forbid(unsafe_code)]

pub mod ca;
mod certificate;
mod credentials;
mod der;
mod error;
pub mod files;
mod glance;
mod handover;
mod inspect;
pub mod keystore;
mod path;
pub mod revocation;
mod signed;
mod trust;
mod urn;
mod verified;
mod verify;

pub use certificate::{
    AlternativeName, Certificate, Fingerprint, GROUPS_OID, IDENTITY_ONLY_URI, MAX_CERTIFICATE, MAX_GROUP,
    MAX_LIST, MAX_USER, METHODS_OID, NODE_URI, ROLE_URI, SCOPE_IMAGES_URI, SCOPE_TAG_URI, SCOPE_URI, Serial,
    Validity, rfc3339,
};
pub use credentials::{Credentials, MAX_CHAIN};
pub use error::{BadCertificate, BadList, Origin, PkiError, Revoker, refusal};
pub use glance::glance;
pub use inspect::{ShownEntry, ShownList};
pub use revocation::{DenyList, Revocation, RevocationStanding, StalePolicy};
pub use trust::{MAX_AUTHORITIES, Trust};
pub use verified::{AuthorityKey, BadAuthorityKey, Granted, Verified};
