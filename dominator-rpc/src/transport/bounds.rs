use std::time::Duration;

use crate::limits;

/// How much of strangers and callers a server takes upon itself. By default what [`limits`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How many handshakes it makes at once.
    pub handshakes: usize,
    /// How many of them with one address.
    pub handshakes_of_address: usize,
    /// How long a handshake may last, and after it the first words of HTTP/2.
    pub handshake: Duration,
    /// How long a handshake may last when there are as many as there may be.
    pub handshake_pressed: Duration,
    /// How long somebody may say nothing then.
    pub handshake_silent: Duration,
    /// How many connections it holds at once.
    pub connections: usize,
    /// How many of them with one address.
    pub connections_of_address: usize,
    /// How many of them with callers whose certificates list nothing that is offered.
    pub powerless: usize,
    /// How many of those with one address.
    pub powerless_of_address: usize,
    /// How often a silent connection is probed.
    pub keepalive: Duration,
    /// How long a probe may go unanswered.
    pub keepalive_answer: Duration,
    /// How long is waited for bytes to come or to be taken before it is looked how many did.
    pub stall: Duration,
    /// How many bytes must have come or been taken in a second then.
    pub slowest: u64,
    /// How many more calls a peer may give up than wait for, on one connection.
    pub given_up: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            handshakes: limits::HANDSHAKES,
            handshakes_of_address: limits::HANDSHAKES_OF_ADDRESS,
            handshake: limits::HANDSHAKE,
            handshake_pressed: limits::HANDSHAKE_PRESSED,
            handshake_silent: limits::HANDSHAKE_SILENT,
            connections: limits::CONNECTIONS,
            connections_of_address: limits::CONNECTIONS_OF_ADDRESS,
            powerless: limits::POWERLESS,
            powerless_of_address: limits::POWERLESS_OF_ADDRESS,
            keepalive: limits::KEEPALIVE,
            keepalive_answer: limits::KEEPALIVE_ANSWER,
            stall: limits::STALL,
            slowest: limits::SLOWEST,
            given_up: limits::GIVEN_UP,
        }
    }
}
