//! Peeking: what is where, page by page, and nothing changes.

use qd::shard::command::{Action, Receive};
use qd::shard::{Command, NewMessage};
use qd_protocol::verbs::peek::State;
use qd_protocol::verbs::{Due, Peek, Peeked};
use qd_protocol::{AttributeChanges, ErrorCode, Headers, Refusal};

use crate::machine::{Run, START_MS, name, plain, with_header};

fn peek(max: u32) -> Peek {
    let headers = Headers::default();
    Peek { queue: name("jobs"), max, after: 0, state: None, id: None, headers }
}

fn try_peek(run: &Run, peek: &Peek) -> Result<Peeked, Refusal> {
    let before = run.machine.row_hash().unwrap();
    let peeked = run.machine.peek(peek).unwrap();
    assert_eq!(run.machine.row_hash().unwrap(), before);
    peeked
}

/// Ids of all pages, and how many there were.
fn pages(run: &Run, mut peek: Peek) -> (Vec<u64>, usize) {
    let (mut ids, mut pages) = (Vec::new(), 0);
    loop {
        let peeked = try_peek(run, &peek).unwrap();
        pages += 1;
        assert!(peeked.last > peek.after || !peeked.more);
        ids.extend(peeked.messages.iter().map(|message| message.id));
        if !peeked.more {
            return (ids, pages);
        }
        peek.after = peeked.last;
    }
}

/// Messages in all places: 1 leased, 2 blocked, 3 returned, 4 leased for the second time, 5 delayed,
/// 6 and 7 untouched.
fn one_of_each() -> Run {
    let mut run = Run::new();
    let missing = qd_protocol::attributes::DeadLetter::Queue(name("missing"));
    run.create("jobs", AttributeChanges { dead_letter: Some(missing), ..Default::default() });
    run.send("jobs", (1..=4).map(|id| plain(&id.to_string())).collect());
    let receipts = run.receipts("jobs", 4);
    run.settle("jobs", Action::Reject { reason: String::new() }, vec![receipts[1]]);
    let release = Action::Release { counted: true, due: Some(Due::After(0)) };
    run.settle("jobs", release.clone(), vec![receipts[3]]);
    run.now_ms += 100;
    run.receive("jobs", 1);
    run.settle("jobs", release, vec![receipts[2]]);
    let delayed = NewMessage { due: Some(Due::After(5_000)), ..plain("5") };
    run.send("jobs", vec![delayed, plain("6"), with_header("7", "kind", "x")]);
    run
}

#[test]
fn peek_tells_where_each_message_is_and_since_and_until_when() {
    let run = one_of_each();
    let peeked = try_peek(&run, &peek(100)).unwrap();
    assert_eq!((peeked.more, peeked.last), (false, 7));
    let found: Vec<_> = peeked
        .messages
        .iter()
        .map(|message| {
            assert_eq!(message.body.bytes, message.id.to_string());
            (message.id, message.state, message.attempts, message.sent_at_ms, message.until_ms)
        })
        .collect();
    let later = START_MS + 100;
    let expected = [
        (1, State::Leased, 1, START_MS, START_MS + 5_000),
        (2, State::Blocked, 1, START_MS, START_MS + 60_000),
        (3, State::Ready, 1, START_MS, 0),
        (4, State::Leased, 2, START_MS, later + 5_000),
        (5, State::Delayed, 0, later, later + 5_000),
        (6, State::Ready, 0, later, 0),
        (7, State::Ready, 0, later, 0),
    ];
    assert_eq!(found, expected);
    assert_eq!(peeked.messages[6].headers().unwrap().0.len(), 1);
}

#[test]
fn filters_must_all_hold() {
    let run = one_of_each();
    let state = |state| Peek { state: Some(state), ..peek(100) };
    assert_eq!(pages(&run, state(State::Ready)).0, [3, 6, 7]);
    assert_eq!(pages(&run, state(State::Leased)).0, [1, 4]);
    assert_eq!(pages(&run, state(State::Delayed)).0, [2, 5]);
    assert_eq!(pages(&run, state(State::Blocked)).0, [2]);
    assert_eq!(pages(&run, Peek { after: 2, ..state(State::Delayed) }).0, [5]);
    let headers = Headers(vec![("kind".to_owned(), "x".to_owned())]);
    assert_eq!(pages(&run, Peek { headers: headers.clone(), ..peek(100) }).0, [7]);
    let leased = Peek { headers: headers.clone(), ..state(State::Leased) };
    assert_eq!(pages(&run, leased).0, [0u64; 0]);
    for (asked, found) in [
        (Peek { id: Some(7), ..peek(1) }, vec![7]),
        (Peek { id: Some(7), headers: headers.clone(), ..peek(1) }, vec![7]),
        (Peek { id: Some(6), headers, ..peek(1) }, vec![]),
        (Peek { id: Some(6), after: 6, ..peek(1) }, vec![]),
        (Peek { id: Some(6), ..state(State::Leased) }, vec![]),
        (Peek { id: Some(4), ..state(State::Leased) }, vec![4]),
    ] {
        assert_eq!(pages(&run, asked).0, found);
    }
}

#[test]
fn pages_follow_one_another_and_the_last_one_says_so() {
    let run = one_of_each();
    for max in 1..=8 {
        let (ids, count) = pages(&run, peek(max));
        assert_eq!(ids, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(count, 7usize.div_ceil(max as usize));
        let delayed = Peek { state: Some(State::Delayed), ..peek(max) };
        assert_eq!(pages(&run, delayed).0, [2, 5]);
    }
    let (ids, _) = pages(&run, Peek { after: 7, ..peek(10) });
    assert_eq!(ids, [0u64; 0]);
}

#[test]
fn message_or_queue_that_is_not_there_is_refused() {
    let mut run = one_of_each();
    run.discard("jobs", 6);
    for id in [0, 6, 8, u64::MAX] {
        let refusal = try_peek(&run, &Peek { id: Some(id), ..peek(1) }).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::NoSuchMessage);
    }
    assert_eq!(pages(&run, peek(10)).0, [1, 2, 3, 4, 5, 7]);
    assert_eq!(pages(&run, Peek { after: u64::MAX, ..peek(10) }).0, [0u64; 0]);
    let other = Peek { queue: name("other"), ..peek(1) };
    assert_eq!(try_peek(&run, &other).unwrap_err().code, ErrorCode::NoSuchQueue);
}

#[test]
fn page_looks_at_a_bounded_number_of_messages_and_delayed_ones_are_found_at_any_depth() {
    let mut run = Run::new();
    run.create("jobs", AttributeChanges::default());
    let delayed = |at: u64| NewMessage { due: Some(Due::After(at)), ..plain("d") };
    run.send("jobs", vec![plain("x"); 3_000]);
    run.send("jobs", vec![delayed(9), delayed(5)]);
    run.send("jobs", vec![plain("x"); 1_000]);
    let leased = Peek { state: Some(State::Leased), ..peek(10) };
    let page = try_peek(&run, &leased).unwrap();
    assert_eq!((page.more, page.last, page.messages.len()), (true, 500, 0));
    assert_eq!(pages(&run, leased), (vec![], 9));
    let delayed = Peek { state: Some(State::Delayed), ..peek(10) };
    assert_eq!(pages(&run, delayed), (vec![3_001, 3_002], 1));
    // Deleted ones take no time once their chunks are gone.
    let receive = Receive {
        queues: vec![name("jobs")],
        max: 3_500,
        bytes_max: 1 << 30,
        visibility_timeout_ms: None,
        delete: true,
        settle: Vec::new(),
        secret: 0,
    };
    run.run(Command::Receive(receive));
    assert_eq!(pages(&run, peek(2)).0.len(), 502);
    assert_eq!(try_peek(&run, &peek(2)).unwrap().last, 3_002);
}

#[test]
fn page_ends_at_its_bytes_and_a_first_message_of_any_size_fits() {
    let mut run = Run::new();
    let large =
        AttributeChanges { max_message_size: Some(16 << 20), ..AttributeChanges::default() };
    run.create("jobs", large);
    for size in [3 << 20, 1 << 10, 1 << 19, 1 << 19, 1 << 20] {
        run.send("jobs", vec![plain(&"x".repeat(size))]);
    }
    let page = |after| {
        let peeked = try_peek(&run, &Peek { after, ..peek(10) }).unwrap();
        let ids: Vec<u64> = peeked.messages.iter().map(|message| message.id).collect();
        (ids, peeked.last, peeked.more)
    };
    assert_eq!(page(0), (vec![1], 1, true));
    assert_eq!(page(1), (vec![2, 3], 3, true));
    assert_eq!(page(3), (vec![4], 4, true));
    assert_eq!(page(4), (vec![5], 5, false));
}
