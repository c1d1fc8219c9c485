//! Steps: deletions and sends together, or nothing; and what goes with making queues for them.

use qd::shard::command::{Create, Send, Transact};
use qd::shard::{Command, NewMessage, Outcome};
use qd_protocol::message::Properties;
use qd_protocol::verbs::{IfExists, SendEntry};
use qd_protocol::{AttributeChanges, ErrorCode, Receipt, Refusal};

use crate::machine::{Run, ids, name, plain, stored, with_dedup};

type Ids = Vec<(i64, Option<ErrorCode>)>;

fn step(deletes: &[(&str, &[Receipt])], sends: &[(&str, Vec<NewMessage>)]) -> Command {
    let delete = |(queue, receipts): &(&str, &[Receipt])| (name(queue), receipts.to_vec());
    let send = |(queue, messages): &(&str, Vec<NewMessage>)| Send {
        queue: name(queue),
        messages: messages.clone(),
    };
    let deletes = deletes.iter().map(delete).collect();
    Command::Transact(Transact { deletes, sends: sends.iter().map(send).collect() })
}

fn done(run: &mut Run, command: Command) -> Vec<Ids> {
    match run.run(command) {
        Outcome::Transacted(sent) => sent.iter().map(|sent| ids(&sent.runs)).collect(),
        other => panic!("{other:?}"),
    }
}

/// The refusal of a step, which must change nothing.
fn refused(run: &mut Run, command: Command) -> Refusal {
    run.tick(0);
    let queues = ["a", "b", "c"].map(|queue| run.machine.describe(&name(queue), 0).unwrap().ok());
    let before = run.machine.row_hash().unwrap();
    let outcome = run.run(command);
    let Outcome::Refused(refusal) = outcome else { panic!("{outcome:?}") };
    assert_eq!(run.machine.row_hash().unwrap(), before);
    let after = ["a", "b", "c"].map(|queue| run.machine.describe(&name(queue), 0).unwrap().ok());
    assert_eq!(queues, after);
    assert!(refusal.text.ends_with("; nothing was done"), "{}", refusal.text);
    refusal
}

fn with_size(max_messages: u64) -> AttributeChanges {
    AttributeChanges { max_messages: Some(max_messages), ..AttributeChanges::default() }
}

fn taken(number: i64) -> (i64, Option<ErrorCode>) {
    (number, None)
}

#[test]
fn step_deletes_and_sends_or_does_neither() {
    let mut run = Run::new();
    run.create("a", AttributeChanges::default());
    run.create("b", with_size(3));
    run.create("c", AttributeChanges { max_message_size: Some(4), ..Default::default() });
    run.send("a", vec![plain("1"), plain("2"), plain("3")]);
    let receipts = run.receipts("a", 3);
    let two = || ("b", vec![plain("x"), plain("y")]);
    let sent = done(&mut run, step(&[("a", &receipts[..2])], &[two(), ("c", vec![plain("four")])]));
    assert_eq!(sent, [vec![taken(1), taken(2)], vec![taken(1)]]);
    let statistics = run.statistics("a");
    assert_eq!((statistics.leased, statistics.deleted), (1, 2));

    let refusal = refused(&mut run, step(&[("a", &receipts[2..])], &[two()]));
    assert_eq!((refusal.code, refusal.queue.as_deref()), (ErrorCode::QueueFull, Some("b")));
    let text = "message 2 for queue \"b\": queue \"b\" is full: 3 of 3 messages (max-messages)";
    assert!(refusal.text.starts_with(text), "{}", refusal.text);
    assert!(refusal.limit.is_some());

    let refusal = refused(&mut run, step(&[("a", &receipts[1..])], &[two()]));
    assert_eq!(refusal.code, ErrorCode::ReceiptExpired);
    assert!(refusal.text.starts_with("receipt 1 of queue \"a\": "), "{}", refusal.text);

    let both = [("c", vec![plain("a"), plain("large")]), two()];
    let refusal = refused(&mut run, step(&[("a", &receipts[2..])], &both));
    assert_eq!(refusal.code, ErrorCode::MessageTooLarge);
    assert!(refusal.text.starts_with("message 2 for queue \"c\": "), "{}", refusal.text);

    for missing in [step(&[("d", &[])], &[two()]), step(&[("a", &receipts[..1])], &[("d", vec![])])]
    {
        assert_eq!(refused(&mut run, missing).code, ErrorCode::NoSuchQueue);
    }
    done(&mut run, step(&[("a", &receipts[2..])], &[]));
    assert_eq!(run.statistics("a").deleted, 3);
    run.replay();
}

#[test]
fn receipt_must_hold_its_message_and_come_once() {
    let mut run = Run::new();
    run.create("a", AttributeChanges::default());
    run.create("b", AttributeChanges::default());
    run.create("c", AttributeChanges::default());
    run.send("a", vec![plain("1"), plain("2")]);
    let receipts = run.receipts("a", 2);
    let x = || ("b", vec![plain("x")]);
    let twice = [receipts[0], receipts[1], receipts[0]];
    let refusal = refused(&mut run, step(&[("a", &twice)], &[x()]));
    assert_eq!(refusal.code, ErrorCode::ReceiptExpired);
    assert!(refusal.text.starts_with("receipt 3 of queue \"a\": "), "{}", refusal.text);
    let parts = step(&[("a", &receipts), ("a", &receipts[1..])], &[x()]);
    assert_eq!(refused(&mut run, parts).code, ErrorCode::ReceiptExpired);
    let forged = Receipt { secret: 9, ..receipts[0] };
    let refusal = refused(&mut run, step(&[("a", &[forged])], &[x()]));
    assert_eq!(refusal.code, ErrorCode::ReceiptInvalid);
    let never = Receipt { lease: 9, ..receipts[0] };
    assert_eq!(refused(&mut run, step(&[("a", &[never])], &[x()])).code, ErrorCode::ReceiptInvalid);
    let refusal = refused(&mut run, step(&[("b", &receipts)], &[x()]));
    assert_eq!(refusal.code, ErrorCode::ReceiptOfOtherQueue);
    // The lease is over, whether that is settled yet or not.
    run.now_ms += 5_000;
    let Outcome::Refused(refusal) = run.run(step(&[("a", &receipts)], &[x()])) else { panic!() };
    assert_eq!(refusal.code, ErrorCode::ReceiptExpired);
    assert_eq!(run.statistics("b").ready, 0);
    run.replay();
}

#[test]
fn what_a_step_deletes_makes_room_for_what_it_sends_to_the_same_queue() {
    let mut run = Run::new();
    let attributes =
        AttributeChanges { max_messages: Some(3), max_bytes: Some(6), ..Default::default() };
    run.create("a", attributes);
    run.send("a", vec![plain("11"), plain("22"), plain("33")]);
    let receipts = run.receipts("a", 2);
    let two = vec![plain("44"), plain("55")];
    let sent = done(&mut run, step(&[("a", &receipts)], &[("a", two)]));
    assert_eq!(sent, [[taken(4), taken(5)]]);
    let receipts = run.receipts("a", 1);
    let large = refused(&mut run, step(&[("a", &receipts)], &[("a", vec![plain("666")])]));
    assert_eq!(large.code, ErrorCode::QueueFull);
    assert!(large.text.contains("4 of 6 bytes (max-bytes)"), "{}", large.text);
    // Also where an update has left the queue over its limit.
    run.update("a", with_size(2));
    let more = refused(&mut run, step(&[("a", &receipts)], &[("a", vec![plain("6")])]));
    assert_eq!(more.code, ErrorCode::QueueFull);
    let receipts = [receipts, run.receipts("a", 1)].concat();
    done(&mut run, step(&[("a", &receipts)], &[("a", vec![plain("6")])]));
    assert_eq!(run.statistics("a").ready, 2);
    run.replay();
}

#[test]
fn queue_that_drops_its_oldest_message_makes_room_for_all_of_a_step() {
    let mut run = Run::new();
    run.create("a", AttributeChanges::default());
    run.create("b", AttributeChanges { overflow: Some(1), ..with_size(3) });
    run.send("a", vec![plain("1"), plain("2")]);
    let receipts = run.receipts("a", 2);
    run.send("b", vec![plain("1"), plain("2"), plain("3")]);
    run.receive("b", 1);
    let two = || ("b", vec![plain("x"), plain("y")]);
    let sent = done(&mut run, step(&[("a", &receipts[..1])], &[two()]));
    assert_eq!(sent, [[taken(4), taken(5)]]);
    assert_eq!((run.statistics("b").dropped, run.statistics("b").ready), (2, 2));
    // Three do not fit beside the leased one, whatever is dropped: nothing is sent nor dropped.
    let three = ("b", vec![plain("x"), plain("y"), plain("z")]);
    let Outcome::Refused(refusal) = run.run(step(&[("a", &receipts[1..])], &[three])) else {
        panic!()
    };
    assert_eq!(refusal.code, ErrorCode::QueueFull);
    assert!(refusal.text.starts_with("message 1 for queue \"b\": "), "{}", refusal.text);
    assert_eq!((run.statistics("a").leased, run.statistics("b").leased), (1, 1));
    // What could never fit need not be tried again, and drops nothing either.
    let four = ("b", vec![plain("x"); 4]);
    let Outcome::Refused(refusal) = run.run(step(&[], &[four])) else { panic!() };
    assert_eq!((refusal.code, refusal.retryable), (ErrorCode::StepTooLarge, false));
    assert_eq!(run.statistics("b").dropped, 2);
    run.replay();
}

#[test]
fn duplicates_are_known_among_the_messages_of_a_step_and_need_no_room() {
    let mut run = Run::new();
    run.create("a", with_size(2));
    run.send("a", vec![with_dedup("x", true)]);
    let receipts = run.receipts("a", 1);
    // The one that is deleted is live no more: its unique follower is taken, and the one behind that
    // is a duplicate.
    let messages =
        || vec![with_dedup("x", true), with_dedup("x", true), with_dedup("x", false), plain("p")];
    let sent = done(&mut run, step(&[("a", &receipts)], &[("a", messages())]));
    assert_eq!(sent, [[taken(2), taken(-2), taken(-2), taken(3)]]);
    // The queue is full, and all but the last are duplicates.
    let refusal = refused(&mut run, step(&[], &[("a", messages())]));
    assert!(refusal.text.starts_with("message 4 for queue \"a\": "), "{}", refusal.text);
    let sent = done(&mut run, step(&[], &[("a", messages()[..3].to_vec())]));
    assert_eq!(sent, [[taken(-2); 3]]);
    let statistics = run.statistics("a");
    assert_eq!((statistics.duplicates, statistics.sent, statistics.ready), (5, 3, 2));
    // Without a window a message is a duplicate only by being unique.
    let no_window = AttributeChanges { dedup_window_ms: Some(0), ..with_size(10) };
    run.update("a", no_window);
    let messages = vec![with_dedup("y", false), with_dedup("y", false), with_dedup("y", true)];
    assert_eq!(done(&mut run, step(&[], &[("a", messages)])), [[taken(4), taken(5), taken(-4)]]);
    run.replay();
}

#[test]
fn message_with_a_priority_is_refused_by_an_ordered_queue() {
    let mut run = Run::new();
    let ordered = AttributeChanges { ordered: Some(true), ..AttributeChanges::default() };
    run.create("a", ordered.clone());
    let properties = Properties { priority: 1, ..Properties::default() };
    let urgent = || stored(SendEntry { properties: properties.clone(), ..SendEntry::new("x") });
    let sent = run.send("a", vec![plain("x"), urgent(), plain("y")]);
    assert_eq!(sent, [taken(1), (0, Some(ErrorCode::PriorityOnOrdered)), taken(2)]);
    let refusal = refused(&mut run, step(&[], &[("a", vec![plain("x"), urgent()])]));
    assert_eq!(refusal.code, ErrorCode::PriorityOnOrdered);
    assert!(refusal.text.starts_with("message 2 for queue \"a\": "), "{}", refusal.text);
}

#[test]
fn order_changes_only_while_the_queue_is_empty_and_excludes_dropping() {
    let mut run = Run::new();
    let ordered = |ordered| AttributeChanges { ordered: Some(ordered), ..Default::default() };
    let code = |outcome| match outcome {
        Outcome::Refused(refusal) => refusal.code,
        other => panic!("{other:?}"),
    };
    run.create("a", AttributeChanges::default());
    assert_eq!(run.update("a", ordered(true)), Outcome::Updated(true));
    run.send("a", vec![plain("x")]);
    assert_eq!(run.update("a", ordered(true)), Outcome::Updated(false));
    assert_eq!(code(run.update("a", ordered(false))), ErrorCode::QueueNotEmpty);
    let dropping = AttributeChanges { overflow: Some(1), ..Default::default() };
    assert_eq!(code(run.update("a", dropping.clone())), ErrorCode::AttributesConflict);
    let attributes = AttributeChanges { ordered: Some(true), ..dropping };
    let create = Create { queue: name("b"), if_exists: IfExists::Compare, attributes, with: None };
    assert_eq!(code(run.run(Command::Create(create))), ErrorCode::AttributesConflict);
    run.discard("a", 1);
    assert_eq!(run.update("a", ordered(false)), Outcome::Updated(true));
}

#[test]
fn queue_is_made_beside_another_that_must_be_there() {
    let mut run = Run::new();
    let with = |queue: &str, with: &str| {
        let attributes = AttributeChanges::default();
        let if_exists = IfExists::Compare;
        let with = Some(name(with));
        Command::Create(Create { queue: name(queue), if_exists, attributes, with })
    };
    let Outcome::Refused(refusal) = run.run(with("a", "b")) else { panic!() };
    assert_eq!((refusal.code, refusal.queue.as_deref()), (ErrorCode::NoSuchQueue, Some("b")));
    run.create("b", AttributeChanges::default());
    assert_eq!(run.run(with("a", "b")), Outcome::Created(true));
    assert_eq!(run.run(with("a", "b")), Outcome::Created(false));
    assert!(matches!(run.run(with("a", "c")), Outcome::Refused(_)));
}

#[test]
fn paused_queue_has_nothing_ready_for_those_who_wait() {
    let mut run = Run::new();
    run.create("a", AttributeChanges::default());
    run.send("a", vec![plain("x")]);
    let pause = |paused| AttributeChanges { paused: Some(paused), ..Default::default() };
    run.update("a", pause(true));
    assert_eq!(run.machine.ready(&name("a")).0, 0);
    assert_eq!(run.statistics("a").ready, 1);
    run.update("a", pause(false));
    assert_eq!(run.machine.ready(&name("a")).0, 1);
}
