//! What must not be done by accident.

use super::tls::Tls;

/// Connections over plain TCP, on which nobody proves anything and everybody is user `insecure` and may call
/// everything: for trying things out on one machine. Only loopback addresses are listened at and dialled; that keeps
/// the network out, and nobody who has an account on the machine.
///
/// Whoever uses this says so in every line of its log.
pub fn permit_insecure() -> Tls {
    Tls::insecure()
}
