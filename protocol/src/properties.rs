//! What holds for any value and any bytes: what is encoded decodes to the same, and decoding
//! never panics.

mod values;

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use tokio_util::codec::Decoder;

use crate::address::Address;
use crate::frame::{Frame, FrameCodec, put_frame};
use crate::message::{Headers, Properties, without_dead_letters};
use crate::name::QueueName;
use crate::preamble::{ClientPreamble, MAGIC, ServerPreamble};
use crate::receipt::Receipt;
use crate::request::{
    AnswerError, Numbering, Request, put_answer, put_refusal, read_answer, reencode_answer,
};
use crate::verbs::{
    Create, Created, Delete, Describe, Discard, Drop, Dropped, Extend, Hello, List, Peek, Ping,
    Pong, Purge, Receive, Redrive, Reject, Release, Reschedule, Send, Settled, Shutdown,
    ShuttingDown, Stats, Transact, Update, Updated, Verb, Welcome,
};
use crate::wire::{Payload, Reader};

fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

fn frames(bytes: &[u8]) -> Vec<Frame> {
    let mut codec = FrameCodec::default();
    let mut input = BytesMut::from(bytes);
    let mut frames = Vec::new();
    while let Ok(Some(frame)) = codec.decode(&mut input) {
        frames.push(frame);
    }
    frames
}

fn one_frame(bytes: &BytesMut) -> Frame {
    let mut found = frames(bytes);
    assert_eq!(found.len(), 1);
    found.remove(0)
}

fn answer_survives<V>(answer: &V::Answer) -> Result<(), TestCaseError>
where
    V: Verb,
    V::Answer: PartialEq + std::fmt::Debug,
{
    let mut out = BytesMut::new();
    put_answer(&mut out, 7, V::OPCODE, answer);
    let again = read_answer::<V>(one_frame(&out));
    prop_assert_eq!(again.as_ref(), Ok(answer));
    Ok(())
}

/// What a request decodes to is encoded to something that decodes to the same.
fn request_is_steady(frame: Frame) -> Result<(), TestCaseError> {
    if let Ok((request, numbering)) = Request::from_frame(frame) {
        let mut out = BytesMut::new();
        request.put(&mut out, 1, numbering);
        prop_assert_eq!(Request::from_frame(one_frame(&out)), Ok((request, numbering)));
    }
    Ok(())
}

fn answer_is_steady(frame: Frame) -> Result<(), TestCaseError> {
    let mut once = BytesMut::new();
    if reencode_answer(frame.clone(), &mut once).is_ok() {
        let mut twice = BytesMut::new();
        prop_assert_eq!(reencode_answer(one_frame(&once), &mut twice), Ok(()));
        prop_assert_eq!(once, twice);
    }
    if let Ok(extended) = read_answer::<Extend>(frame.clone()) {
        let _ = Extend::check_answer(&extended);
        prop_assert!(extended.entries().count() <= extended.lease_until_ms.len());
    }
    if let Ok(peeked) = read_answer::<Peek>(frame.clone()) {
        let _ = Peek::check_answer(&peeked);
        for message in &peeked.messages {
            let _ = message.headers();
            let _ = message.properties();
            let _ = message.dead_letter();
        }
    }
    if let Ok(transacted) = read_answer::<Transact>(frame.clone()) {
        for sent in &transacted.sent {
            let _ = sent.entries().take(100).count();
        }
    }
    if let Ok(received) = read_answer::<Receive>(frame) {
        let _ = Receive::check_answer(&received);
        for message in &received.messages {
            let _ = message.headers();
            let _ = message.properties();
            let _ = message.dead_letter();
            let _ = without_dead_letters(&message.fields);
            let _ = Headers::stored_have(&message.fields, "key", "value");
        }
    }
    Ok(())
}

/// Bytes of a frame of a verb, with any payload.
fn any_frame() -> impl Strategy<Value = Frame> {
    let opcodes: Vec<u16> = Request::VERBS.iter().map(|verb| verb.1).chain([0, 9_999]).collect();
    let opcode = proptest::sample::select(opcodes);
    (any::<u32>(), opcode, 0..16u16, vec(any::<u8>(), 0..200)).prop_map(
        |(correlation, opcode, flags, payload)| Frame {
            correlation,
            opcode,
            flags,
            payload: payload.into(),
        },
    )
}

/// Bytes of a request or an answer, some of them changed, some cut off or put in.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let valid = prop_oneof![
        values::request().prop_map(|request| {
            let mut out = BytesMut::new();
            let numbering = request.changes().then_some(Numbering { number: 9, answered_below: 3 });
            request.put(&mut out, 1, numbering);
            out
        }),
        values::received().prop_map(|answer| answer_bytes::<Receive>(&answer)),
        values::sent().prop_map(|answer| answer_bytes::<Send>(&answer)),
        values::extended().prop_map(|answer| answer_bytes::<Extend>(&answer)),
        values::redriven().prop_map(|answer| answer_bytes::<Redrive>(&answer)),
        values::peeked().prop_map(|answer| answer_bytes::<Peek>(&answer)),
        values::purged().prop_map(|answer| answer_bytes::<Purge>(&answer)),
        values::transacted().prop_map(|answer| answer_bytes::<Transact>(&answer)),
        values::listed().prop_map(|answer| answer_bytes::<List>(&answer)),
        values::counted().prop_map(|answer| answer_bytes::<Stats>(&answer)),
        values::refusal().prop_map(|refusal| {
            let mut out = BytesMut::new();
            put_refusal(&mut out, 1, Ping::OPCODE, &refusal);
            out
        }),
    ];
    let place = || any::<proptest::sample::Index>();
    let changes = vec((place(), any::<u8>()), 0..4);
    let splice = (place(), 0..6usize, vec(any::<u8>(), 0..6));
    (valid, changes, proptest::option::of(splice)).prop_map(|(valid, changes, splice)| {
        let mut bytes = valid.to_vec();
        for (place, byte) in changes {
            let at = place.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some((place, cut, put)) = splice {
            let at = place.index(bytes.len());
            let end = (at + cut).min(bytes.len());
            bytes.splice(at..end, put);
        }
        bytes
    })
}

fn answer_bytes<V: Verb>(answer: &V::Answer) -> BytesMut {
    let mut out = BytesMut::new();
    put_answer(&mut out, 1, V::OPCODE, answer);
    out
}

/// The frames in `bytes`, and one frame of all of it behind the header, whatever its length says.
fn frames_of(bytes: &[u8]) -> Vec<Frame> {
    let mut all = frames(bytes);
    if let Some((header, payload)) = bytes.split_at_checked(12) {
        let mut whole = BytesMut::new();
        let opcode = u16::from_le_bytes([header[8], header[9]]);
        let flags = u16::from_le_bytes([header[10], header[11]]);
        put_frame(&mut whole, 1, opcode, flags, |out| out.extend_from_slice(payload));
        all.extend(frames(&whole));
    }
    all
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_request_survives_the_wire(
        request in values::request(),
        correlation in any::<u32>(),
        numbers in proptest::option::of((1..u64::MAX, any::<u64>())),
    ) {
        let numbering = numbers
            .map(|(number, below)| Numbering { number, answered_below: below % (number + 1) });
        let mut out = BytesMut::new();
        request.put(&mut out, correlation, numbering);
        let frame = one_frame(&out);
        prop_assert_eq!(frame.correlation, correlation);
        prop_assert_eq!(Request::from_frame(frame), Ok((request, numbering)));
    }

    #[test]
    fn any_answer_of_a_batch_survives_the_wire(
        sent in values::sent(),
        received in values::received(),
        statuses in values::statuses(),
        extended in values::extended(),
        redriven in values::redriven(),
        transacted in values::transacted(),
    ) {
        answer_survives::<Send>(&sent)?;
        answer_survives::<Receive>(&received)?;
        let settled = Settled { statuses };
        answer_survives::<Delete>(&settled)?;
        answer_survives::<Release>(&settled)?;
        answer_survives::<Discard>(&settled)?;
        answer_survives::<Reschedule>(&settled)?;
        answer_survives::<Reject>(&settled)?;
        answer_survives::<Redrive>(&redriven)?;
        answer_survives::<Extend>(&extended)?;
        answer_survives::<Transact>(&transacted)?;
    }

    #[test]
    fn any_answer_about_queues_survives_the_wire(
        listed in values::listed(),
        counted in values::counted(),
        peeked in values::peeked(),
        purged in values::purged(),
        description in values::description(),
        flag in any::<bool>(),
        messages in any::<u64>(),
        server in values::text(),
    ) {
        answer_survives::<List>(&listed)?;
        answer_survives::<Stats>(&counted)?;
        answer_survives::<Peek>(&peeked)?;
        answer_survives::<Purge>(&purged)?;
        answer_survives::<Describe>(&description)?;
        answer_survives::<Create>(&Created { created: flag })?;
        answer_survives::<Update>(&Updated { changed: flag })?;
        answer_survives::<Drop>(&Dropped { messages })?;
        answer_survives::<Ping>(&Pong { time_ms: messages })?;
        answer_survives::<Hello>(&Welcome { server })?;
        answer_survives::<Shutdown>(&ShuttingDown)?;
    }

    #[test]
    fn any_refusal_survives_the_wire(refusal in values::refusal()) {
        let mut out = BytesMut::new();
        put_refusal(&mut out, 1, Ping::OPCODE, &refusal);
        let again = read_answer::<Ping>(one_frame(&out));
        prop_assert_eq!(again, Err(AnswerError::Refused(refusal)));
    }

    #[test]
    fn headers_survive_the_way_through_a_message(headers in values::headers()) {
        let received = values::message_with(&headers);
        prop_assert_eq!(received.headers(), Ok(headers));
    }

    #[test]
    fn dead_letter_survives_the_way_through_a_message(
        headers in values::headers(),
        dead in values::dead_lettered(),
    ) {
        let mut received = values::message_with(&headers);
        received.fields = dead.appended_to(&received.fields).unwrap();
        prop_assert_eq!(received.dead_letter(), Ok(Some(dead)));
        prop_assert_eq!(received.headers(), Ok(headers));
    }

    #[test]
    fn properties_survive_the_way_through_a_message(
        entry in values::entry(),
        dead in values::dead_lettered(),
    ) {
        let stored = entry.stored_fields();
        prop_assert_eq!(Properties::of(&stored), Ok(entry.properties.clone()));
        let fields = dead.appended_to(&stored).unwrap();
        prop_assert_eq!(Properties::of(&fields), Ok(entry.properties));
        prop_assert_eq!(without_dead_letters(&fields), Ok(stored));
        let mut received = values::message_with(&entry.headers);
        received.fields = fields;
        prop_assert_eq!(received.headers(), Ok(entry.headers));
    }

    #[test]
    fn entry_takes_the_bytes_that_it_says(entry in values::entry()) {
        let mut out = BytesMut::new();
        entry.encode(&mut out);
        prop_assert_eq!(out.len(), entry.encoded_bytes());
    }

    #[test]
    fn frames_of_any_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        for frame in frames_of(&bytes) {
            request_is_steady(frame.clone())?;
            answer_is_steady(frame)?;
        }
    }

    #[test]
    fn payloads_of_any_bytes_never_panic(frame in any_frame()) {
        request_is_steady(frame.clone())?;
        answer_is_steady(frame)?;
    }

    #[test]
    fn frames_with_changed_bytes_never_panic(bytes in mutated()) {
        for frame in frames_of(&bytes) {
            request_is_steady(frame.clone())?;
            answer_is_steady(frame)?;
        }
    }

    #[test]
    fn preambles_of_any_bytes_never_panic(
        bytes in any::<[u8; 16]>(),
        more in any::<[u8; 32]>(),
        magic in any::<bool>(),
    ) {
        let mut client = bytes;
        let mut server = [0; 48];
        server[..16].copy_from_slice(&bytes);
        server[16..].copy_from_slice(&more);
        if magic {
            client[..4].copy_from_slice(&MAGIC);
            server[..4].copy_from_slice(&MAGIC);
        }
        if let Ok(preamble) = ClientPreamble::from_bytes(&client) {
            prop_assert_eq!(ClientPreamble::from_bytes(&preamble.to_bytes()), Ok(preamble));
        }
        if let Ok(preamble) = ServerPreamble::from_bytes(&server) {
            prop_assert_eq!(ServerPreamble::from_bytes(&preamble.to_bytes()), Ok(preamble));
        }
        prop_assert!(!magic || ServerPreamble::from_bytes(&server).is_ok());
    }

    #[test]
    fn receipts_survive_as_text(receipt in values::receipt()) {
        prop_assert_eq!(receipt.to_string().parse(), Ok(receipt));
    }

    #[test]
    fn text_that_is_a_receipt_is_its_text(text in prop_oneof![
        any::<String>(), "[A-Za-z0-9_-]{48}", "\\PC{48}",
    ]) {
        if let Ok(receipt) = text.parse::<Receipt>() {
            prop_assert_eq!(receipt.to_string(), text);
        }
    }

    #[test]
    fn text_that_is_an_address_is_read_as_printed(text in prop_oneof![
        any::<String>(),
        "(unix:|qd://|qds://)?[a-z@/:.\\[\\]]{0,12}(:[0-9+]{1,6})?",
    ]) {
        if let Ok(address) = text.parse::<Address>() {
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }
    }

    #[test]
    fn text_that_is_a_queue_name_keeps_the_rule(text in prop_oneof![
        any::<String>(), "[A-Za-z0-9._-]{0,130}",
    ]) {
        let rule = (1..=128).contains(&text.len())
            && !text.starts_with(['.', '-'])
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        prop_assert_eq!(QueueName::new(text).is_ok(), rule);
    }

    #[test]
    fn reader_never_panics(bytes in vec(any::<u8>(), 0..40)) {
        let mut input = Reader::new(Bytes::from(bytes));
        while let Ok(Some((_, mut value))) = input.field() {
            let _ = value.string("text");
            let _ = value.count("entries", 7);
            let _ = value.flag("flag");
        }
    }
}
