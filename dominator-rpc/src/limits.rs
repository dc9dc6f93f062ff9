//! Every limit of the wire, in one place. What is longer is refused before room is made for it.

use std::time::Duration;

use dominator_core::port::Piece;

/// The longest message but one, in bytes.
pub const MESSAGE: usize = 4 * 1024 * 1024;
/// The longest answer to a poll, in bytes: the root's attributes and the directories that were kept are in it.
pub const POLL_REPLY: usize = 16 * 1024 * 1024;
/// The most data in one part of a longer encoding or an object, in bytes.
pub const CHUNK: usize = Piece::MAX_DATA;
/// How much is gathered into one message when there is more at once, in bytes.
pub const BATCH: usize = 256 * 1024;
/// How many objects are named in one message.
pub const IDS: usize = 16 * 1024;
/// How many objects an order to fetch may name, and one call may add.
pub const IDS_IN_CALL: usize = 2_000_000;
/// How many objects one call may get. Whoever wants more calls again.
pub const OBJECTS_IN_CALL: usize = 64 * 1024;
/// How many directories one call may ask an agent for.
pub const DIRECTORIES_IN_CALL: usize = 64 * 1024;
/// How many bytes of directories one call may bring.
pub const DIRECTORY_BYTES: u64 = 512 * 1024 * 1024;
/// How many bytes of directories an image may have.
pub const IMAGE_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// The longest plan an agent accepts, encoded, in bytes: room for a million operations.
pub const PLAN: usize = 256 * 1024 * 1024;
/// The longest traits of a machine, encoded, in bytes.
pub const TRAITS: usize = 256 * 1024;
/// How many orders an agent receives at once; it carries out one at a time.
pub const ORDERS: usize = 4;
/// The longest view an agent accepts, encoded, in bytes: a sparse image of half a million paths.
pub const VIEW: usize = 64 * 1024 * 1024;
/// The longest address of a source, in bytes.
pub const ADDRESS: usize = 512;
/// How many inodes an image may have.
pub const IMAGE_INODES: u64 = 10_000_000;
/// How many images a server may list.
pub const IMAGES: usize = 1_000_000;
/// How many machines a controller may list.
pub const MACHINES: usize = 1_000_000;
/// The longest reason for a decision, in bytes.
pub const REASON: usize = 1024;
/// The longest text of an error that crosses the wire, in bytes. It travels in a header.
pub const ERROR_TEXT: usize = 2048;
/// How large the headers of one call may be, in bytes.
pub const HEADERS: u32 = 16 * 1024;

/// How long a connection may take, name resolution and handshakes included.
pub const CONNECT: Duration = Duration::from_secs(15);
/// How long a server waits for a handshake.
pub const HANDSHAKE: Duration = Duration::from_secs(15);
/// How long the answer to a poll may be put off.
pub const POLL_WAIT: Duration = Duration::from_secs(300);
/// How long a call may take that carries little and changes nothing.
pub const CALL: Duration = Duration::from_secs(60);
/// How long a stream may stand still.
pub const STALL: Duration = Duration::from_secs(120);
/// How long an order may take: a fetch or an update. It goes on beyond that; the next poll tells.
pub const ORDER: Duration = Duration::from_secs(3600);
/// How long a controller waits for the directories of one machine.
pub const COMPARE: Duration = Duration::from_secs(900);
/// How often a silent connection is probed.
pub const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long a probe may go unanswered.
pub const KEEPALIVE_ANSWER: Duration = Duration::from_secs(20);
/// How old a connection gets before its peer has to show its certificate again.
pub const CONNECTION_AGE: Duration = Duration::from_secs(3600);
/// How long calls under way are waited for at the end.
pub const GRACE: Duration = Duration::from_secs(5);
/// How many handshakes a server makes at once.
pub const HANDSHAKES: usize = 1024;
/// How many of them with one address: strangers must not keep others out.
pub const HANDSHAKES_OF_ADDRESS: usize = 128;
/// How many connections a server holds at once.
pub const CONNECTIONS: usize = 16 * 1024;
/// How many of them with one address, behind which there may be many machines.
pub const CONNECTIONS_OF_ADDRESS: usize = 4 * 1024;
/// How many transfers of objects an address has under way; more wait. Each may hold a thread of the server's.
pub const TRANSFERS_OF_ADDRESS: usize = 16;
/// How many images an address gets at once; more wait. Each may be a whole tree in memory.
pub const TREES_OF_ADDRESS: usize = 4;
/// How many calls one connection may have under way.
pub const STREAMS: u32 = 64;
