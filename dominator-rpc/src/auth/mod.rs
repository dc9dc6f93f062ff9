//! The one door: every call of every service passes here, and nowhere else is decided who may call what.
//!
//! A [`Policy`] says what a server offers to whom, [`Authorise`] is the layer that holds callers to it, and a [`Caller`]
//! answers handlers whether what a request names may be touched. Nothing of it is particular to the services of this crate.

mod budget;
mod call;
mod caller;
mod layer;
mod policy;
mod record;
mod shares;
mod table;

pub use call::Running;
pub use caller::{Caller, Gate, Permit};
pub(crate) use layer::waive_powers;
pub use layer::{Authorise, Guarded};
pub use policy::{BadPolicy, Policy};
pub use record::Audit;
pub(crate) use table::path;
pub use table::{methods, rule};
