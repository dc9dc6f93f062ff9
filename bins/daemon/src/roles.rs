//! What listens where.

use dominator_core::auth::Role;

use crate::failure::Failure;
use crate::value::HostPort;

/// Parses a role by its name.
///
/// # Errors
/// Text that names those there are.
pub fn role(name: &str) -> Result<Role, String> {
    let known = || Role::ALL.map(Role::name).join(", ");
    Role::named(name).ok_or_else(|| format!("there are these: {}", known()))
}

/// What must listen at `server`: what was said, or else what its well-known port is for.
///
/// # Errors
/// [`Failure`] when that is no well-known port.
pub fn expected(said: Option<Role>, server: &HostPort) -> Result<Role, Failure> {
    said.or_else(|| role_at(server.port())).ok_or_else(|| {
        Failure::new(format!("say with --role what listens at port {} of {}", server.port(), server.host()))
    })
}

/// Who listens at a well-known port.
fn role_at(port: u16) -> Option<Role> {
    match port {
        6969 => Some(Role::Subd),
        6970 => Some(Role::Dominator),
        6971 => Some(Role::ImageServer),
        6972 => Some(Role::FilegenServer),
        6973 => Some(Role::Mdbd),
        6975 => Some(Role::Imaginator),
        6979 => Some(Role::DisruptionManager),
        _ => None,
    }
}
