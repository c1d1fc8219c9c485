//! `man/qd-protocol.7` is the specification: its example frames are these structures, byte for
//! byte, and its tables name what the code names.
//!
//! With `REWRITE_EXAMPLES=1` in the environment the examples on the page are written anew from the
//! structures here. That is right for a new example; it is wrong for an old one, whose bytes are
//! what released clients and servers speak.

#[path = "spec/examples.rs"]
mod examples;
#[path = "spec/tables.rs"]
mod tables;

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use qd_protocol::frame::{FLAG_ANSWER, FLAG_MORE, Frame, FrameCodec};
use qd_protocol::preamble::{ClientPreamble, ServerPreamble};
use qd_protocol::request::reencode_answer;
use qd_protocol::{Receipt, Request};
use tokio_util::codec::Decoder;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../man/qd-protocol.7");

/// The page's lines.
fn page() -> Vec<String> {
    let text = std::fs::read_to_string(PAGE).expect("the page is readable");
    text.lines().map(str::to_owned).collect()
}

/// What begins the name of a frame that is only a part of an answer.
const PART: &str = "stats answer in two frames: ";

/// The page's examples by name: literal blocks whose first line is `# NAME`, then hex bytes, and
/// what they look like as text behind a bar.
fn page_examples() -> BTreeMap<String, Bytes> {
    let mut examples = BTreeMap::new();
    let lines = page();
    let mut lines = lines.iter();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("# ") else {
            continue;
        };
        let mut bytes = BytesMut::new();
        for line in lines.by_ref().take_while(|line| *line != ".Ed") {
            let hex = line.split('|').next().unwrap_or_default();
            for byte in hex.split_whitespace() {
                assert_eq!(byte.len(), 2, "{name}: {line}");
                bytes.extend([u8::from_str_radix(byte, 16).expect(line)]);
            }
        }
        let twice = examples.insert(name.to_owned(), bytes.freeze());
        assert!(twice.is_none(), "{name} stands on the page twice");
    }
    examples
}

/// The lines of an example block behind its name.
fn show(bytes: &[u8]) -> Vec<String> {
    let is_frame = bytes.get(..4) != Some(b"QDMQ");
    let (header, payload) = bytes.split_at(if is_frame { 12 } else { 0 });
    let mut lines = Vec::new();
    let hex =
        |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    if is_frame {
        let [length, correlation, opcode, flags] =
            [&header[..4], &header[4..8], &header[8..10], &header[10..]].map(hex);
        lines.push(format!("{length}  {correlation}  {opcode}  {flags}"));
    }
    for row in payload.chunks(16) {
        let plain = |byte: &u8| byte.is_ascii_graphic() && !b"\\|".contains(byte);
        let text: String =
            row.iter().map(|byte| if plain(byte) { char::from(*byte) } else { '.' }).collect();
        lines.push(format!("{:<47}  |{text}|", hex(row)));
    }
    lines
}

/// Writes the examples of the code into the page.
fn rewrite(examples: &BTreeMap<String, Bytes>) {
    let mut out: Vec<String> = Vec::new();
    let mut inside = false;
    for line in page() {
        inside &= line != ".Ed";
        if inside {
            continue;
        }
        let name = line.strip_prefix("# ").map(str::to_owned);
        out.push(line);
        if let Some(name) = name {
            inside = true;
            let bytes = examples.get(&name).unwrap_or_else(|| panic!("no example {name:?}"));
            out.extend(show(bytes));
        }
    }
    std::fs::write(PAGE, out.join("\n") + "\n").expect("the page is writable");
}

fn frame(bytes: &Bytes) -> Frame {
    let mut input = BytesMut::from(&bytes[..]);
    let frame = FrameCodec::default().decode(&mut input).expect("a frame").expect("a whole frame");
    assert!(input.is_empty(), "{} bytes behind the frame", input.len());
    frame
}

#[test]
fn examples_of_the_page_are_those_of_the_code() {
    let expected = examples::all();
    if std::env::var_os("REWRITE_EXAMPLES").is_some() {
        rewrite(&expected);
    }
    let found = page_examples();
    for (name, bytes) in &expected {
        let found = found.get(name).unwrap_or_else(|| panic!("{name} is not on the page"));
        assert_eq!(show(found), show(bytes), "{name}");
    }
    for name in found.keys() {
        assert!(expected.contains_key(name), "{name} is on the page only");
    }
}

#[test]
fn examples_of_the_page_decode_and_encode_to_the_same_bytes() {
    for (name, bytes) in page_examples() {
        if name.starts_with(PART) {
            continue;
        }
        let again = match name.as_str() {
            "client preamble" => {
                let preamble: [u8; 16] = bytes[..].try_into().expect("16 bytes");
                ClientPreamble::from_bytes(&preamble).expect("a preamble").to_bytes().to_vec()
            }
            "server preamble" => {
                let preamble: [u8; 48] = bytes[..].try_into().expect("48 bytes");
                ServerPreamble::from_bytes(&preamble).expect("a preamble").to_bytes().to_vec()
            }
            _ => {
                let frame = frame(&bytes);
                let mut out = BytesMut::new();
                if frame.has(FLAG_ANSWER) {
                    reencode_answer(frame, &mut out).unwrap_or_else(|e| panic!("{name}: {e}"));
                } else {
                    let correlation = frame.correlation;
                    let (request, numbering) =
                        Request::from_frame(frame).unwrap_or_else(|e| panic!("{name}: {e}"));
                    request.put(&mut out, correlation, numbering);
                }
                out.to_vec()
            }
        };
        assert_eq!(show(&again), show(&bytes), "{name}");
    }
}

#[test]
fn every_verb_has_its_examples() {
    let examples = page_examples();
    for &(name, opcode, changes) in Request::VERBS {
        let name = name.to_ascii_lowercase();
        let request = frame(&examples[&format!("{name} request")]);
        assert_eq!(request.opcode, opcode, "{name}");
        let (_, numbering) = Request::from_frame(request).expect("a request");
        assert_eq!(numbering.is_some(), changes, "{name}");
        let answer = examples.get(&format!("{name} answer"));
        assert_eq!(answer.is_some(), name != "cancel", "{name}");
        if let Some(answer) = answer {
            assert_eq!(frame(answer).opcode, opcode, "{name}");
        }
    }
}

#[test]
fn payloads_of_an_answer_in_two_frames_are_joined_that_of_one() {
    let examples = page_examples();
    let [first, last] =
        ["first", "last"].map(|which| frame(&examples[&format!("{PART}the {which}")]));
    let whole = frame(&examples["stats answer"]);
    assert_eq!((first.flags, last.flags), (FLAG_ANSWER | FLAG_MORE, FLAG_ANSWER));
    let payload = Bytes::from([first.payload.clone(), last.payload.clone()].concat());
    assert_eq!(Frame { payload, ..last.clone() }, whole);
    for part in [first, last] {
        assert!(reencode_answer(part, &mut BytesMut::new()).is_err());
    }
}

#[test]
fn unknown_optional_fields_do_not_change_what_a_frame_says() {
    for (name, bytes) in page_examples() {
        if name.ends_with("preamble") || name.starts_with(PART) {
            continue;
        }
        let mut longer = BytesMut::from(&bytes[..]);
        longer.extend_from_slice(&[200, 3, 0, 0, 0, 1, 2, 3]);
        let length = longer.len() as u32 - 4;
        longer[..4].copy_from_slice(&length.to_le_bytes());
        let frame = frame(&longer.freeze());
        let mut out = BytesMut::new();
        if frame.has(FLAG_ANSWER) {
            reencode_answer(frame, &mut out).unwrap_or_else(|e| panic!("{name}: {e}"));
        } else {
            let correlation = frame.correlation;
            let (request, numbering) =
                Request::from_frame(frame).unwrap_or_else(|e| panic!("{name}: {e}"));
            request.put(&mut out, correlation, numbering);
        }
        assert_eq!(show(&out), show(&bytes), "{name}");
    }
}

#[test]
fn receipt_of_the_page_has_the_text_that_the_page_says() {
    let text = examples::RECEIPT.to_string();
    assert!(page().contains(&text), "{text} is not on the page");
    assert_eq!(text.parse::<Receipt>(), Ok(examples::RECEIPT));
}
