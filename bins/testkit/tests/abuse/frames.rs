//! HTTP/2 by hand: what no library would send.

pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const PING: u8 = 6;
pub const CONTINUATION: u8 = 9;
const SETTINGS: u8 = 4;

pub const END_HEADERS: u8 = 4;
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Settings that say nothing.
pub fn settings() -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[])
}

/// A call of a method, without the message.
pub fn request(method: &str) -> Vec<u8> {
    let path = format!("/dominator.v1.{method}");
    // POST and http, from the table; the path and the authority under names from it.
    let mut block = vec![0x83, 0x86, 0x04];
    text(&mut block, &path);
    block.push(0x01);
    text(&mut block, "dominator");
    block.extend(headers(&[("content-type", "application/grpc"), ("te", "trailers")]));
    block
}

/// Headers that are not to be remembered.
pub fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    block
}

/// As HPACK writes it: its length, in as many bytes as that takes, and the bytes as they are.
fn text(block: &mut Vec<u8>, text: &str) {
    match text.len() {
        short @ 0..127 => block.push(short as u8),
        long => {
            block.push(127);
            let mut rest = long - 127;
            while rest >= 128 {
                block.push((rest % 128 + 128) as u8);
                rest /= 128;
            }
            block.push(rest as u8);
        }
    }
    block.extend(text.as_bytes());
}
