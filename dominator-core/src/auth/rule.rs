//! What a server says of its methods.

/// What a server demands of callers of one method, and what a call comes to. A method without a rule is denied to
/// everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Who may call.
    pub access: Access,
    /// Whether anything is another afterwards.
    pub effect: Effect,
    /// What a certificate's scope is compared with.
    pub reach: Reach,
}

impl Rule {
    /// For those with powers; what it changes is in nobody's scope and out of nobody's.
    pub const CHANGES: Self = Self { access: Access::Listed, effect: Effect::Changes, reach: Reach::Nothing };
    /// For those with powers; what it tells is in nobody's scope and out of nobody's.
    pub const READS: Self = Self { access: Access::Listed, effect: Effect::Reads, reach: Reach::Nothing };

    /// The same for those whom `access` lets in.
    #[must_use]
    pub const fn open_to(self, access: Access) -> Self {
        Self { access, ..self }
    }

    /// The same with another reach.
    #[must_use]
    pub const fn reaching(self, reach: Reach) -> Self {
        Self { reach, ..self }
    }
}

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Those with powers: a certificate that lists it, or the server's own trust.
    Listed,
    /// Any verified identity; the handler sees whether it had powers as well.
    Public,
    /// Anybody, also without a certificate.
    Unauthenticated,
}

/// Whether anything is another after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Nothing but what is found out.
    Reads,
    /// Something: such calls are audited, and closed when it can't be known who was revoked.
    Changes,
}

/// What a call can touch, as far as the scope of certificates knows such things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// Neither machines nor images by name.
    Nothing,
    /// The machine on which the server runs.
    ThisMachine,
    /// Machines which the request names: its handler asks for each.
    NamedMachines,
    /// Images which the request names: its handler asks for each.
    NamedImages,
    /// All machines.
    Fleet,
}

impl Reach {
    /// Whether only the handler knows what is touched.
    pub const fn is_named(self) -> bool {
        match self {
            Self::NamedMachines | Self::NamedImages => true,
            Self::Nothing | Self::ThisMachine | Self::Fleet => false,
        }
    }
}
