//! Who may call what: method names, the patterns a certificate lists, and the one decision every server takes.

mod audit;
mod decision;
mod identity;
mod method;
mod pattern;
mod people;
mod rule;
mod scope;

pub use audit::{
    AuditCaller, AuditEvent, AuditFault, AuditLog, AuditNotice, AuditRecord, CallId, Opening, Outcome,
    Written,
};
pub use decision::{Decision, Denied, Ground, Powers, Question, Target, decide};
pub use identity::{BadNodeId, Identity, NodeId, Role};
pub use method::{BadMethod, Method};
pub use pattern::{BadPattern, MethodPattern};
pub use people::People;
pub use rule::{Access, Effect, Reach, Rule};
pub use scope::Scope;
