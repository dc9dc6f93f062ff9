//! Ports in memory, for tests of what stands on them.
