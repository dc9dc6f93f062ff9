//! DER, as far as we read it ourselves; above all the one encoding both our extensions use: `SEQUENCE OF UTF8String`.

use crate::error::BadList;

pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const BIT_STRING: u8 = 0x03;
const UTF8_STRING: u8 = 0x0c;

/// Encodes `items` in DER.
pub(crate) fn encode<'a>(items: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    let mut body = Vec::new();
    for item in items {
        element(UTF8_STRING, item.as_bytes(), &mut body);
    }
    let mut whole = Vec::with_capacity(body.len() + 1 + size_of::<usize>());
    element(SEQUENCE, &body, &mut whole);
    whole
}

/// Decodes strictly; every list has one encoding only, so that no two readers see different ones.
pub(crate) fn decode(der: &[u8], limit: usize) -> Result<Vec<&str>, BadList> {
    let (mut body, rest) = take(SEQUENCE, der)?;
    if !rest.is_empty() {
        return Err(BadList::TrailingBytes);
    }
    let mut items = Vec::new();
    while !body.is_empty() {
        let (item, rest) = take(UTF8_STRING, body)?;
        if items.len() == limit {
            return Err(BadList::TooMany { limit });
        }
        items.push(std::str::from_utf8(item).map_err(|_| BadList::NotUtf8)?);
        body = rest;
    }
    Ok(items)
}

fn element(tag: u8, content: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    match u8::try_from(content.len()) {
        Ok(short @ 0..=0x7f) => out.push(short),
        _ => {
            let bytes = content.len().to_be_bytes();
            let digits = bytes.iter().skip_while(|byte| **byte == 0);
            out.push(
                0x80 | u8::try_from(digits.clone().count()).expect("invariant: a usize has at most 16 bytes"),
            );
            out.extend(digits);
        }
    }
    out.extend_from_slice(content);
}

/// Splits the first element, which must have `expected` as its tag, from what follows it.
pub(crate) fn take(expected: u8, der: &[u8]) -> Result<(&[u8], &[u8]), BadList> {
    let (&found, rest) = der.split_first().ok_or(BadList::Malformed)?;
    if found != expected {
        return Err(BadList::WrongType { found, expected });
    }
    let (length, rest) = length(rest)?;
    rest.split_at_checked(length).ok_or(BadList::Malformed)
}

fn length(der: &[u8]) -> Result<(usize, &[u8]), BadList> {
    let (&first, rest) = der.split_first().ok_or(BadList::Malformed)?;
    if first < 0x80 {
        return Ok((usize::from(first), rest));
    }
    let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f)).ok_or(BadList::Malformed)?;
    let shortest = digits.first().is_some_and(|digit| *digit != 0) && digits.len() <= size_of::<u32>();
    let length = digits.iter().fold(0_u64, |sum, digit| (sum << 8) | u64::from(*digit));
    match usize::try_from(length) {
        Ok(length) if shortest && length >= 0x80 => Ok((length, rest)),
        _ => Err(BadList::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_one_strict_encoding_is_read() {
        assert_eq!(decode(b"\x30\x05\x0c\x03a.b", 9), Ok(vec!["a.b"]));
        assert_eq!(decode(b"\x30\x00", 9), Ok(vec![]));
        let bad: [(&[u8], BadList); 9] = [
            (b"", BadList::Malformed),
            (b"\x30\x06\x0c\x03a.b", BadList::Malformed),
            (b"\x30\x05\x0c\x04a.b", BadList::Malformed),
            (b"\x30\x81\x05\x0c\x03a.b", BadList::Malformed),
            (b"\x30\x80\x0c\x03a.b\x00\x00", BadList::Malformed),
            (b"\x30\x05\x0c\x03a.b\x00", BadList::TrailingBytes),
            (b"\x31\x05\x0c\x03a.b", BadList::WrongType { found: 0x31, expected: SEQUENCE }),
            (b"\x30\x05\x13\x03a.b", BadList::WrongType { found: 0x13, expected: UTF8_STRING }),
            (b"\x30\x03\x0c\x01\xff", BadList::NotUtf8),
        ];
        for (der, error) in bad {
            assert_eq!(decode(der, 9), Err(error), "{der:02x?}");
        }
    }

    #[test]
    fn a_list_longer_than_the_limit_is_refused() {
        let ten = encode(["a.b"; 10]);
        assert_eq!(decode(&ten, 10).unwrap().len(), 10);
        assert_eq!(decode(&ten, 9), Err(BadList::TooMany { limit: 9 }));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(items in prop::collection::vec("\\PC{0,300}", 0..20)) {
            let der = encode(items.iter().map(String::as_str));
            prop_assert_eq!(decode(&der, items.len()).unwrap(), items);
        }

        #[test]
        fn what_is_read_has_no_second_encoding(der in prop::collection::vec(prop_oneof![Just(0x30), Just(0x0c), 0_u8..6, any::<u8>()], 0..12)) {
            if let Ok(items) = decode(&der, 9) {
                prop_assert_eq!(encode(items), der);
            }
        }
    }
}
