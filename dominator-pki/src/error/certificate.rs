//! What can be wrong with a certificate.

use dominator_core::auth::BadPattern;
use thiserror::Error;

/// A rule that a certificate breaks.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BadCertificate {
    /// Not strict DER, or not a certificate.
    #[error("it is not a DER certificate: {0}")]
    NotDer(String),
    /// Bytes after the end.
    #[error("{0} bytes follow its end")]
    TrailingBytes(usize),
    /// Larger than any honest one.
    #[error("it has {length} bytes; at most {limit} are read")]
    TooLong {
        /// Its length, in bytes.
        length: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// An extension stands in it twice, so that two readers could disagree.
    #[error("an extension stands in it twice")]
    DuplicateExtension,
    /// The subject must have exactly one common name.
    #[error("its subject has {0} common names; it must have one, the user name")]
    CommonNames(usize),
    /// The common name is no user name.
    #[error("its common name is empty, too long, or has control characters or blanks at its ends")]
    BadUser,
    /// One of our two lists is malformed.
    #[error("its list of {list} is malformed")]
    BadList {
        /// `methods` or `groups`.
        list: &'static str,
        /// How.
        source: BadList,
    },
    /// The method list holds something that is no method pattern.
    #[error("its list of methods is malformed")]
    BadPattern(#[from] BadPattern),
    /// A group name that is empty, too long, or has control characters.
    #[error("a group's name is empty, too long, or has control characters")]
    BadGroup,
    /// Two roles; a certificate plays one.
    #[error("it claims several roles; it may claim one")]
    SeveralRoles,
    /// Two machines; a certificate is that of one.
    #[error("it names several nodes; it may name one")]
    SeveralNodes,
    /// The URI of the node holds no node's id.
    #[error("its node's id is not 1 to 64 letters, digits, dots, dashes and underscores")]
    BadNode,
    /// A limit that is not understood.
    #[error(
        "the limit {0:?} is not understood, and granting everything instead would be wrong; issue it again, or update this program"
    )]
    BadScope(String),
    /// More limits than anybody could mean.
    #[error("it has more than {limit} limits of one kind")]
    LargeScope {
        /// The limit.
        limit: usize,
    },
    /// A subject alternative name that can't be read.
    #[error("a subject alternative name can't be read")]
    BadAlternativeName,
    /// A serial number of more than 20 bytes.
    #[error("its serial number has {0} bytes; 20 are allowed")]
    BadSerial(usize),
}

/// How a `SEQUENCE OF UTF8String` can be wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BadList {
    /// Ends early, or a length is not in its shortest form.
    #[error("it is truncated, or a length is not in its shortest form")]
    Malformed,
    /// Another type where a SEQUENCE or UTF8String must be.
    #[error("found DER tag {found:#04x} where {expected:#04x} must be")]
    WrongType {
        /// The tag found.
        found: u8,
        /// The tag that belongs there.
        expected: u8,
    },
    /// Bytes after the end.
    #[error("bytes follow its end")]
    TrailingBytes,
    /// Not UTF-8.
    #[error("an item is not UTF-8")]
    NotUtf8,
    /// More items than allowed.
    #[error("it has more than {limit} items")]
    TooMany {
        /// The limit.
        limit: usize,
    },
}
