//! One bit of the log or of the state is another one: the daemon says so or nothing is different. No body
//! is altered, no message vanishes or comes back, and what is refused is refused again and left alone.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use qd::replicator::{Local, ReplicatorError};
use qd::shard::command::{Create, Send};
use qd::shard::{Command, Entry, Outcome};
use qd_protocol::AttributeChanges;
use qd_protocol::verbs::IfExists;
use qd_tests::Random;

use super::{Script, random_actions, seeds};
use crate::memory::Memory;
use crate::random_work::{Action, drain, message, queue_name, receipts};

/// Queues that the random work uses.
const QUEUES: u8 = 4;
/// Bits tried of one file of one run.
const BITS: usize = 400;

/// What a drain gives: queue and id, and the body.
type Messages = BTreeMap<(u8, u64), Bytes>;

/// A disk as it is when the process is killed: half of the records are in the state too.
pub fn killed(seed: u64) -> Memory {
    let actions = random_actions(seed, 60);
    let disk = Memory::default();
    let (mut local, mut script) = (disk.local(), Script::new());
    let replicate = |local: &mut Local, script: &mut Script, entries| {
        let applied = local.replicate(script.now_ms, entries, true).unwrap();
        script.known.extend(applied.outcomes.iter().flat_map(receipts));
    };
    for (index, action) in actions.iter().enumerate() {
        let entries = script.entries(index, action);
        replicate(&mut local, &mut script, entries);
        if index == actions.len() / 2 {
            for queue in 0..QUEUES {
                let bodies = [b"a body".to_vec(), Vec::new(), vec![7; 20_000], vec![9; 150_000]];
                let messages = bodies.map(|body| message(body, true)).into();
                let queue = queue_name(queue);
                let (if_exists, attributes) = (IfExists::Keep, AttributeChanges::default());
                let create = Create { queue: queue.clone(), if_exists, attributes, with: None };
                for command in [Command::Create(create), Command::Send(Send { queue, messages })] {
                    replicate(&mut local, &mut script, vec![Entry { origin: None, command }]);
                }
            }
            local.checkpoint().unwrap();
        }
    }
    disk.copy()
}

/// All that can be had from the queues now and in an hour.
fn messages(local: &mut Local) -> Result<Messages, ReplicatorError> {
    let mut script = Script::new();
    let mut found = Messages::new();
    for _ in 0..2 {
        for queue in 0..QUEUES {
            loop {
                let entries = script.entries(0, &drain(queue));
                let applied = local.replicate(script.now_ms, entries, true)?;
                let [Outcome::Received(received)] = &applied.outcomes[..] else { break };
                if received.messages.is_empty() {
                    break;
                }
                let pairs = received.messages.iter();
                found.extend(pairs.map(|got| ((queue, got.id), got.body.bytes.clone())));
            }
        }
        script.entries(0, &Action::Pass(100_000_000));
    }
    Ok(found)
}

/// What came of a flipped bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// Refused when it was opened.
    Refused,
    /// Told when it was met.
    Met,
    /// A panic.
    Panicked,
    /// Nothing is different.
    Nothing,
    /// Something is, and nobody was told.
    Unseen,
}

/// What a disk holds.
pub struct Reference {
    hash: u64,
    messages: Messages,
}

pub fn look(disk: &Memory) -> Result<Reference, ReplicatorError> {
    let mut local = disk.try_local()?;
    let hash = local.machine().row_hash()?;
    Ok(Reference { hash, messages: messages(&mut local)? })
}

/// What comes of a disk of which one bit was flipped.
pub fn seen(disk: &Memory, reference: &Reference) -> Seen {
    let mut opened = false;
    let looked = catch_unwind(AssertUnwindSafe(|| {
        drop(disk.copy().try_local()?);
        opened = true;
        look(&disk.copy())
    }));
    match looked {
        Err(_) => Seen::Panicked,
        Ok(Err(_)) if opened => Seen::Met,
        Ok(Err(_)) => Seen::Refused,
        Ok(Ok(found)) => {
            for (key, body) in &found.messages {
                let known = reference.messages.get(key);
                assert!(known.is_none_or(|known| known == body), "{key:?} is altered");
            }
            let same = found.hash == reference.hash && found.messages == reference.messages;
            if same { Seen::Nothing } else { Seen::Unseen }
        }
    }
}

#[test]
fn flipped_bit_of_the_state_is_told_or_makes_no_difference() {
    let mut counts = BTreeMap::new();
    for seed in seeds(12) {
        let disk = killed(seed);
        let reference = look(&disk.copy()).unwrap();
        assert!(reference.messages.len() > 4);
        let mut random = Random::new(seed);
        let bits = disk.used_bits();
        for _ in 0..BITS {
            let bit = bits[random.below(bits.len() as u64) as usize];
            let damaged = disk.copy();
            damaged.flip(None, bit);
            let seen = seen(&damaged, &reference);
            *counts.entry(seen).or_insert(0) += 1;
        }
    }
    println!("{counts:?}");
    assert!(!counts.contains_key(&Seen::Unseen), "{counts:?}");
    assert!(!counts.contains_key(&Seen::Panicked), "{counts:?}");
}
