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
/// How many questions for files or for the history an agent answers at once: it has all of an answer in memory until the
/// caller took it.
pub const LONG_ANSWERS: usize = 2;
/// How much the records of one answer may hold, in bytes: more than an agent keeps.
pub const HISTORY: usize = 64 * 1024 * 1024;
/// The longest view an agent accepts, encoded, in bytes: a sparse image of half a million paths.
pub const VIEW: usize = 64 * 1024 * 1024;
/// The longest address of a source, in bytes: a name and a port.
pub const ADDRESS: usize = 300;
/// How many inodes an image may have.
pub const IMAGE_INODES: u64 = 10_000_000;
/// How many images a server may list.
pub const IMAGES: usize = 1_000_000;
/// How many images may be named in one question.
pub const NAMES: usize = 1000;
/// How many objects a server may list that no image needs.
pub const UNREFERENCED: usize = 50_000_000;
/// How much lists tell of an image at most, encoded, in bytes: some of them go into a message.
pub const IMAGE_ENTRY: usize = 64 * 1024;
/// How many may follow the images of a server at once.
pub const IMAGE_FOLLOWERS: usize = 1024;
/// How many calls may wait for images that are not there yet.
pub const IMAGE_WAITERS: usize = 4096;
/// How long a call waits for an image at most.
pub const IMAGE_WAIT: Duration = Duration::from_secs(3600);
/// How many machines a controller may list.
pub const MACHINES: usize = 1_000_000;
/// How many failures of an update are told.
pub const FAILURES: usize = 1000;
/// The longest reason for a decision, or of a failure, in bytes.
pub const REASON: usize = 1024;
/// The longest text of an error that crosses the wire, in bytes. It travels in a header.
pub const ERROR_TEXT: usize = 2048;
/// The same for what one of several sources did wrong, in bytes: all of them travel in that header, encoded in text.
pub const ERROR_TEXT_OF_SOURCE: usize = 256;
/// How much of the path of a refused call is told, in bytes.
pub const PATH_TOLD: usize = 256;
/// How many lines of a kind strangers may have written into the log in a second; the others are told of by their number.
pub const LINES: u32 = 10;
/// In how many parts the addresses are for that, so that lines about one do not leave out those about most others.
pub const LINES_APART: u64 = 8;
/// How many may watch a log at once.
pub const LOG_WATCHERS: usize = 16;
/// For how many seconds another log level than the usual one may be asked for: a week.
pub const LOG_LEVEL_SECONDS: u64 = 7 * 86_400;
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
/// How long a call waits at most until it is in the audit log.
pub const AUDIT: Duration = Duration::from_secs(2);
/// How long a stream may stand still.
pub const STALL: Duration = Duration::from_secs(120);
/// How long an order may take: a fetch, which then ends and is gone on with by the next one, or an update, which goes on
/// beyond that; the next poll tells.
pub const ORDER: Duration = Duration::from_secs(3600);
/// How long a controller waits for the directories of one machine.
pub const COMPARE: Duration = Duration::from_secs(900);
/// How often a silent connection is probed.
pub const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long a probe may go unanswered.
pub const KEEPALIVE_ANSWER: Duration = Duration::from_secs(20);
/// How long nothing is said at most of a machine somebody waits for.
pub const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// For how many machines somebody may wait at once: they are looked after before the others.
pub const FAST_UPDATES: usize = 64;
/// How old a connection gets at most before its peer has to show its certificate again; some have to a little earlier.
pub const CONNECTION_AGE: Duration = Duration::from_secs(3600);
/// How often an open connection looks at the clock on the wall, which somebody may set: whether its other end's
/// certificate is still valid.
pub const STANDING: Duration = Duration::from_secs(4);
/// How long calls under way are waited for at the end.
pub const GRACE: Duration = Duration::from_secs(5);
/// How long a handshake may last when there are as many as there may be: the oldest then makes room.
pub const HANDSHAKE_PRESSED: Duration = Duration::from_secs(5);
/// How long somebody may say nothing then.
pub const HANDSHAKE_SILENT: Duration = Duration::from_secs(1);
/// How many bytes must come, or be taken, in each second that is waited for them: in the mean of [`STALL`].
pub const SLOWEST: u64 = 1024;
/// How long the calls of a connection go on that is older than [`CONNECTION_AGE`], before it is cut off.
pub const CONNECTION_AGE_GRACE: Duration = ORDER;
/// How many connections wait for a server that has not accepted them yet.
pub const BACKLOG: u32 = 4096;
/// How many handshakes a server makes at once.
pub const HANDSHAKES: usize = 1024;
/// How many of them with one address: strangers must not keep others out.
pub const HANDSHAKES_OF_ADDRESS: usize = 128;
/// How many connections a server holds at once.
pub const CONNECTIONS: usize = 16 * 1024;
/// How many of them with one address, behind which there may be many machines.
pub const CONNECTIONS_OF_ADDRESS: usize = 4 * 1024;
/// How many of them with callers whose certificates list nothing that is offered: they must not keep out the others.
pub const POWERLESS: usize = 4 * 1024;
/// How many of those with one address.
pub const POWERLESS_OF_ADDRESS: usize = 256;
/// How many transfers of objects an address has under way; more wait. Each may hold a thread of the server's.
pub const TRANSFERS_OF_ADDRESS: usize = 16;
/// How many images an address gets at once; more wait. Each may be a whole tree in memory.
pub const TREES_OF_ADDRESS: usize = 4;
/// How many calls one connection may have under way.
pub const STREAMS: u32 = 64;
/// How many calls of one method a user without powers may have under way.
pub const CALLS_OF_USER: u32 = 4;
/// How many calls a peer may have reset before the server has begun to look at them.
pub const RESETS: usize = 32;
/// How many calls may be reset because of what a peer did wrong.
pub const ERRORS: usize = 256;
/// How many more calls a peer may give up than wait for, on one connection: to have a call begun and give it up costs
/// little, to begin it costs more.
pub const GIVEN_UP: u32 = 512;
