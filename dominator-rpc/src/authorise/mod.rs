//! The one door: every call of every service passes here, and nowhere else is decided who may call what.

mod layer;
mod table;

pub(crate) use layer::Authorise;
pub use layer::{Caller, Refusals};
pub use table::{access, methods};
