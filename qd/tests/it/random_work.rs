//! Random commands that make sense often enough.

use proptest::collection::vec;
use proptest::prelude::*;
use qd::shard::command::{
    Action as SettleAction, ById, ByIdAction, Create, Drop, NewMessage, Purge, Receive, Redrive,
    Send, Settle, Transact, Update,
};
use qd::shard::{Command, Outcome};
use qd_protocol::attributes::DeadLetter;
use qd_protocol::verbs::{Due, IfExists, Until};
use qd_protocol::{AttributeChanges, QueueName, Receipt};

mod messages;

use messages::{Sketch, properties, sketch, sketches};
pub use messages::{message, stored};

/// One step of a random history.
#[derive(Debug, Clone)]
pub enum Action {
    /// A command, built when the receipts so far are known.
    Run(Intent, Numbered),
    /// State time passes.
    Pass(u64),
    /// Empty record.
    Tick,
    /// The store is closed and opened again.
    Reopen,
}

/// Whether the request is numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbered {
    /// No.
    No,
    /// Its number is new.
    New,
    /// It is the same request as this many numbered requests ago.
    Again(usize),
}

/// A command without what can only be known later.
#[derive(Debug, Clone)]
pub enum Intent {
    /// `create`, and which queue it is to be with.
    Create(u8, IfExists, Box<AttributeChanges>, Option<u8>),
    /// `drop`.
    Drop(u8, bool),
    /// `send`: the messages, and when they are visible and how long they live.
    Send(u8, Vec<Sketch>, Option<Due>, Option<u64>),
    /// `receive`: queues, most messages, bytes, timeout, delete, receipts to settle.
    Receive(Vec<u8>, u32, u64, Option<u64>, bool, Vec<Pick>),
    /// `delete`, `extend`, `release`.
    Settle(u8, SettleAction, Vec<Pick>),
    /// `discard`, `reschedule`.
    ById(u8, ByIdAction, Vec<u64>),
    /// `update`.
    Update(u8, Box<AttributeChanges>),
    /// `redrive`: queue, target, after and through and most messages, whether only those with the
    /// header of [`message`], and dry run.
    Redrive(u8, Option<u8>, (u64, u64, u32), bool, bool),
    /// `purge`: queue, least age, after and through, whether only those with the header of
    /// [`message`], and dry run.
    Purge(u8, Option<u64>, (u64, u64), bool, bool),
    /// `transact`: receipts to delete and messages to send, by queue.
    Transact(Vec<(u8, Vec<Pick>)>, Vec<(u8, Vec<Sketch>)>),
}

/// Which receipt to use.
#[derive(Debug, Clone, Copy)]
pub enum Pick {
    /// One that was given out, counted back from the newest.
    Recent(usize),
    /// One that never was.
    Forged(u64, u64, u64, u64),
}

/// Queues with a name.
pub const QUEUES: u8 = 6;

/// The name of queue `number`: the upper half are the default dead-letter queues of the lower.
pub fn queue_name(number: u8) -> QueueName {
    let suffix = if number < QUEUES / 2 { "" } else { ".dead" };
    QueueName::new(format!("q{}{suffix}", number % (QUEUES / 2))).unwrap()
}

fn queue() -> impl Strategy<Value = u8> {
    prop_oneof![12 => Just(0u8), 6 => Just(1), 1 => Just(2), 2 => Just(3), 1 => Just(4)]
}

/// Boxed, because strategies of all these parts take more than a test's stack.
fn attributes() -> BoxedStrategy<AttributeChanges> {
    (limits(), dead_letters(), order())
        .prop_map(|(limits, dead_letters, (ordered, dedup_window_ms, paused))| AttributeChanges {
            ordered,
            dedup_window_ms,
            paused,
            max_deliveries: dead_letters.max_deliveries,
            dead_letter: dead_letters.dead_letter,
            dead_letter_expired: dead_letters.dead_letter_expired,
            dead_letter_overflow: dead_letters.dead_letter_overflow,
            retry_delay_ms: dead_letters.retry_delay_ms,
            ..limits
        })
        .boxed()
}

fn limits() -> impl Strategy<Value = AttributeChanges> {
    (
        proptest::option::weighted(0.3, 1u64..30),
        proptest::option::weighted(0.3, 1u64..20_000),
        proptest::option::weighted(0.3, 0u64..6_000),
        proptest::option::weighted(0.5, 0u64..5_000),
        proptest::option::weighted(0.2, 1u64..20),
        proptest::option::weighted(0.1, 0u64..3_000),
        proptest::option::weighted(0.15, prop_oneof![2 => 1u64..9_000, 1 => Just(u64::MAX)]),
        proptest::option::weighted(0.3, 0u64..=1),
    )
        .prop_map(|(messages, bytes, size, timeout, in_flight, delay, retention, overflow)| {
            AttributeChanges {
                max_messages: messages,
                max_bytes: bytes,
                max_message_size: size,
                visibility_timeout_ms: timeout,
                max_in_flight: in_flight,
                delay_ms: delay,
                retention_ms: retention,
                overflow,
                ..AttributeChanges::default()
            }
        })
}

fn order() -> impl Strategy<Value = (Option<bool>, Option<u64>, Option<bool>)> {
    let window = prop_oneof![Just(0u64), Just(1_000), Just(10_000), Just(300_000)];
    (
        proptest::option::weighted(0.4, prop::bool::weighted(0.8)),
        proptest::option::weighted(0.3, window),
        proptest::option::weighted(0.15, prop::bool::weighted(0.3)),
    )
}

fn dead_letters() -> impl Strategy<Value = AttributeChanges> {
    let target = prop_oneof![
        2 => Just(DeadLetter::Default),
        1 => Just(DeadLetter::None),
        3 => (0..QUEUES).prop_map(|number| DeadLetter::Queue(queue_name(number))),
    ];
    (
        proptest::option::weighted(0.5, prop_oneof![6 => 1u64..4, 1 => Just(u64::MAX)]),
        proptest::option::weighted(0.3, target),
        proptest::option::weighted(0.2, any::<bool>()),
        proptest::option::weighted(0.2, any::<bool>()),
        proptest::option::weighted(0.3, vec(0u64..4_000, 1..4)),
    )
        .prop_map(|(deliveries, target, expired, overflow, delays)| AttributeChanges {
            max_deliveries: deliveries,
            dead_letter: target,
            dead_letter_expired: expired,
            dead_letter_overflow: overflow,
            retry_delay_ms: delays,
            ..AttributeChanges::default()
        })
}

fn if_exists() -> impl Strategy<Value = IfExists> {
    prop_oneof![Just(IfExists::Compare), Just(IfExists::Keep), Just(IfExists::Update)]
}

fn due() -> impl Strategy<Value = Due> {
    prop_oneof![
        3 => (0u64..4_000).prop_map(Due::After),
        1 => (900_000u64..1_100_000).prop_map(Due::At),
    ]
}

fn settle_action() -> impl Strategy<Value = SettleAction> {
    prop_oneof![
        4 => Just(SettleAction::Delete),
        1 => (0u64..4_000).prop_map(|ms| SettleAction::Extend(Until::By(ms))),
        1 => (0u64..4_000).prop_map(|ms| SettleAction::Extend(Until::To(ms))),
        2 => (any::<bool>(), proptest::option::of(due()))
            .prop_map(|(counted, due)| SettleAction::Release { counted, due }),
        2 => "[a-z]{0,3}".prop_map(|reason| SettleAction::Reject { reason }),
    ]
}

fn by_id_action() -> impl Strategy<Value = ByIdAction> {
    prop_oneof![Just(ByIdAction::Discard), due().prop_map(ByIdAction::Reschedule)]
}

fn pick() -> impl Strategy<Value = Pick> {
    prop_oneof![
        20 => (0usize..40).prop_map(Pick::Recent),
        1 => (0u64..4, 0u64..10, 0u64..50, any::<u64>())
            .prop_map(|(queue, lease, id, secret)| Pick::Forged(queue, lease, id, secret)),
    ]
}

fn intent() -> BoxedStrategy<Intent> {
    let receive = (
        prop_oneof![2 => queue().prop_map(|queue| vec![queue]), 1 => vec(queue(), 2)],
        prop_oneof![4 => 1u32..20, 1 => 1u32..400],
        prop_oneof![4 => Just(1u64 << 20), 1 => 1u64..2_000],
        proptest::option::weighted(0.3, 0u64..4_000),
        prop::bool::weighted(0.15),
        vec(pick(), 0..6),
    );
    prop_oneof![
        3 => (queue(), if_exists(), attributes(), proptest::option::weighted(0.1, queue()))
            .prop_map(|(queue, mode, attributes, with)| {
                Intent::Create(queue, mode, Box::new(attributes), with)
            }),
        1 => (queue(), any::<bool>()).prop_map(|(queue, only)| Intent::Drop(queue, only)),
        8 => (
            queue(),
            sketches(),
            proptest::option::weighted(0.2, due()),
            proptest::option::weighted(0.15, 1u64..9_000),
        )
            .prop_map(|(queue, sketches, due, ttl)| Intent::Send(queue, sketches, due, ttl)),
        8 => receive.prop_map(|(queues, max, bytes, timeout, delete, settle)| {
            Intent::Receive(queues, max, bytes, timeout, delete, settle)
        }),
        8 => (queue(), settle_action(), vec(pick(), 1..20))
            .prop_map(|(queue, action, picks)| Intent::Settle(queue, action, picks)),
        3 => (queue(), by_id_action(), vec(0u64..60, 1..6))
            .prop_map(|(queue, action, ids)| Intent::ById(queue, action, ids)),
        2 => (queue(), attributes())
            .prop_map(|(queue, attributes)| Intent::Update(queue, Box::new(attributes))),
        6 => redrive(),
        2 => purge(),
        3 => transact(),
    ]
    .boxed()
}

fn redrive() -> impl Strategy<Value = Intent> {
    let queue = prop_oneof![2 => queue(), 4 => 3u8..5];
    let to = proptest::option::weighted(0.4, self::queue());
    let after = prop_oneof![3 => Just(0u64), 1 => 0u64..20];
    let through = prop_oneof![3 => Just(0u64), 1 => 1u64..40];
    let max = prop_oneof![2 => Just(1_000u32), 1 => 1u32..5];
    (queue, to, (after, through, max), prop::bool::weighted(0.2), prop::bool::weighted(0.2))
        .prop_map(|(queue, to, range, filter, dry_run)| {
            Intent::Redrive(queue, to, range, filter, dry_run)
        })
}

fn purge() -> BoxedStrategy<Intent> {
    let age = prop_oneof![Just(0u64), 1u64..5_000, 60_000u64..70_000];
    let after = prop_oneof![3 => Just(0u64), 1 => 0u64..20];
    let through = prop_oneof![3 => Just(0u64), 1 => 1u64..40];
    let range = (after, through);
    let filter = prop::bool::weighted(0.3);
    (queue(), proptest::option::weighted(0.5, age), range, filter, prop::bool::weighted(0.2))
        .prop_map(|(queue, age, range, filter, dry_run)| {
            Intent::Purge(queue, age, range, filter, dry_run)
        })
        .boxed()
}

fn transact() -> BoxedStrategy<Intent> {
    let picks = vec(prop_oneof![12 => (0usize..4).prop_map(Pick::Recent), 1 => pick()], 0..3);
    (vec((queue(), picks), 0..3), parts())
        .prop_map(|(deletes, sends)| Intent::Transact(deletes, sends))
        .boxed()
}

/// What a step sends.
fn parts() -> BoxedStrategy<Vec<(u8, Vec<Sketch>)>> {
    let size = prop_oneof![8 => 0usize..200, 1 => 1_000usize..6_000];
    let queue = prop_oneof![8 => 0u8..2, 1 => queue()];
    vec((queue, vec(sketch(size, 0.2, properties()), 0..5)), 0..3).boxed()
}

/// Sends, takes what is there and deletes some of it, with what comes of that.
fn send_receive_transact() -> BoxedStrategy<Vec<Action>> {
    let receive = (0u8..2, 1u32..6, proptest::option::weighted(0.3, 0u64..4_000));
    let first = vec(sketch(0usize..200, 0.2, properties()), 1..4);
    (first, receive, vec((0usize..4).prop_map(Pick::Recent), 1..4), parts())
        .prop_map(|(first, (queue, max, timeout), picks, sends)| {
            let send = Intent::Send(queue, first, None, None);
            let receive = Intent::Receive(vec![queue], max, 1 << 20, timeout, false, Vec::new());
            let transact = Intent::Transact(vec![(queue, picks)], sends);
            [send, receive, transact].map(|intent| Action::Run(intent, Numbered::No)).into()
        })
        .boxed()
}

/// A random history.
pub fn actions(most: usize) -> impl Strategy<Value = Vec<Action>> {
    let numbered = prop_oneof![
        4 => Just(Numbered::No),
        4 => Just(Numbered::New),
        2 => (0usize..4).prop_map(Numbered::Again),
    ];
    let action = prop_oneof![
        20 => (intent(), numbered).prop_map(|(intent, numbered)| Action::Run(intent, numbered)),
        4 => (0u64..3_000).prop_map(Action::Pass),
        // Beyond the time after which a dead-letter queue is tried again, or just not.
        2 => (55_000u64..65_000).prop_map(Action::Pass),
        1 => (500_000u64..800_000).prop_map(Action::Pass),
        2 => Just(Action::Tick),
        1 => Just(Action::Reopen),
    ];
    let create = |queue| {
        attributes().prop_map(move |attributes| {
            let attributes = Box::new(attributes);
            let create = Intent::Create(queue, IfExists::Keep, attributes, None);
            Action::Run(create, Numbered::No)
        })
    };
    let some = prop_oneof![
        15 => action.prop_map(|action| vec![action]),
        1 => send_receive_transact(),
    ];
    (create(0), create(1), vec(some, 1..most)).prop_map(|(first, second, actions)| {
        [vec![first, second], actions.into_iter().flatten().collect()].concat()
    })
}

/// Takes up to 400 messages out of a queue.
pub fn drain(queue: u8) -> Action {
    let receive = Intent::Receive(vec![queue], 400, 1 << 20, None, true, Vec::new());
    Action::Run(receive, Numbered::No)
}

impl Intent {
    /// The command, with the receipts given out so far.
    pub fn command(&self, receipts: &[Receipt], secret: u64) -> Command {
        let pick = |pick: &Pick| match *pick {
            Pick::Recent(back) if !receipts.is_empty() => {
                receipts[receipts.len() - 1 - back % receipts.len()]
            }
            Pick::Recent(back) => Receipt { queue: 1, lease: 1, id: back as u64, secret: 0 },
            Pick::Forged(queue, lease, id, secret) => Receipt { queue, lease, id, secret },
        };
        match self {
            Self::Create(queue, if_exists, attributes, with) => Command::Create(Create {
                queue: queue_name(*queue),
                if_exists: *if_exists,
                attributes: (**attributes).clone(),
                with: with.map(queue_name),
            }),
            Self::Drop(queue, only_if_empty) => {
                Command::Drop(Drop { queue: queue_name(*queue), only_if_empty: *only_if_empty })
            }
            Self::Send(queue, sketches, due, ttl) => {
                let message =
                    |sketch: &Sketch| NewMessage { due: *due, ttl_ms: *ttl, ..sketch.message() };
                let messages = sketches.iter().map(message).collect();
                Command::Send(Send { queue: queue_name(*queue), messages })
            }
            Self::Receive(queues, max, bytes_max, timeout, delete, settle) => {
                Command::Receive(Receive {
                    queues: queues.iter().copied().map(queue_name).collect(),
                    max: *max,
                    bytes_max: *bytes_max,
                    visibility_timeout_ms: *timeout,
                    delete: *delete,
                    settle: settle.iter().map(pick).collect(),
                    secret,
                })
            }
            Self::Settle(queue, action, picks) => Command::Settle(Settle {
                queue: queue_name(*queue),
                action: action.clone(),
                receipts: picks.iter().map(pick).collect(),
                seed: secret,
            }),
            Self::ById(queue, action, ids) => {
                Command::ById(ById { queue: queue_name(*queue), action: *action, ids: ids.clone() })
            }
            Self::Update(queue, attributes) => Command::Update(Update {
                queue: queue_name(*queue),
                attributes: (**attributes).clone(),
            }),
            Self::Redrive(queue, to, range, filter, dry_run) => {
                Command::Redrive(redrive_command(*queue, *to, *range, *filter, *dry_run))
            }
            Self::Purge(queue, age, range, filter, dry_run) => {
                Command::Purge(purge_command(*queue, *age, *range, *filter, *dry_run))
            }
            Self::Transact(deletes, sends) => {
                let delete = |(queue, picks): &(u8, Vec<Pick>)| {
                    (queue_name(*queue), picks.iter().map(pick).collect())
                };
                let send = |(queue, sketches): &(u8, Vec<Sketch>)| Send {
                    queue: queue_name(*queue),
                    messages: sketches.iter().map(Sketch::message).collect(),
                };
                Command::Transact(Transact {
                    deletes: deletes.iter().map(delete).collect(),
                    sends: sends.iter().map(send).collect(),
                })
            }
        }
    }
}

/// The header of [`message`], if that is the filter.
fn headers(filter: bool) -> Vec<(String, String)> {
    filter.then(|| ("key".to_owned(), "value".to_owned())).into_iter().collect()
}

fn redrive_command(
    queue: u8,
    to: Option<u8>,
    (after, through, max): (u64, u64, u32),
    filter: bool,
    dry_run: bool,
) -> Redrive {
    let to = to.filter(|to| *to != queue).map(queue_name);
    Redrive { queue: queue_name(queue), to, after, through, max, headers: headers(filter), dry_run }
}

fn purge_command(
    queue: u8,
    older_than_ms: Option<u64>,
    (after, through): (u64, u64),
    filter: bool,
    dry_run: bool,
) -> Purge {
    let queue = queue_name(queue);
    Purge { queue, older_than_ms, headers: headers(filter), dry_run, after, through }
}

/// The receipts in an outcome.
pub fn receipts(outcome: &Outcome) -> Vec<Receipt> {
    match outcome {
        Outcome::Received(received) if !received.deleted => {
            received.messages.iter().map(|message| message.receipt).collect()
        }
        _ => Vec::new(),
    }
}
