//! Who calls, and what part a certificate plays.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::{MethodPattern, Scope};

/// Who a verified certificate says is calling, and what it grants. Only the leaf certificate counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user name: the certificate's common name, never empty.
    pub user: String,
    /// Groups the user belongs to.
    pub groups: BTreeSet<String>,
    /// What the certificate grants; empty when it was signed by an authority trusted for identity only.
    pub methods: Vec<MethodPattern>,
    /// The part in the system this certificate may play as a server, if any.
    pub role: Option<Role>,
    /// The machine the certificate was made for, if it was made for one.
    pub node: Option<NodeId>,
    /// Where the methods are granted; everywhere, if it says nothing of it.
    pub scope: Scope,
}

/// The name of one machine (or one instance of a daemon) in its certificate, which stays the same when the certificate is
/// renewed, the machine moved or renamed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(String);

impl NodeId {
    /// The longest, in bytes.
    pub const MAX_LEN: usize = 64;

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeId {
    type Err = BadNodeId;

    fn from_str(text: &str) -> Result<Self, BadNodeId> {
        let fits = (1..=Self::MAX_LEN).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        fits.then(|| Self(text.into())).ok_or(BadNodeId)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text that can't be a [`NodeId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a node's id is 1 to 64 letters, digits, dots, dashes and underscores")]
pub struct BadNodeId;

/// The parts a certificate can play. A server proves its role to its clients, so that no machine can pose as an
/// image server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Role {
    /// The agent on a machine.
    Subd,
    /// The controller.
    Dominator,
    /// The image and object server.
    ImageServer,
    /// The image builder.
    Imaginator,
    /// The generator of computed files.
    FilegenServer,
    /// The machine data base.
    Mdbd,
    /// The gate for disruptive updates.
    DisruptionManager,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 7] = [
        Self::Subd,
        Self::Dominator,
        Self::ImageServer,
        Self::Imaginator,
        Self::FilegenServer,
        Self::Mdbd,
        Self::DisruptionManager,
    ];

    /// The name as it stands in certificates; it is the user name of such a daemon, too.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Subd => "subd",
            Self::Dominator => "dominator",
            Self::ImageServer => "imageserver",
            Self::Imaginator => "imaginator",
            Self::FilegenServer => "filegen-server",
            Self::Mdbd => "mdbd",
            Self::DisruptionManager => "disruption-manager",
        }
    }

    /// The role of that name, if there is one.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
