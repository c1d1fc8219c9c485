//! One bit of the state is another one, while nobody uses it or behind the back of whoever does: the
//! daemon names the damaged block or nothing is different. No body is altered, no message vanishes or comes
//! back.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use qd::replicator::{Local, ReplicatorError};
use qd::shard::command::{Create, Send};
use qd::shard::{Command, Entry, Outcome};
use qd_protocol::AttributeChanges;
use qd_protocol::verbs::IfExists;
use qd_tests::Random;

use super::calls::CACHE_BYTES_FEW;
use super::{Script, random_actions, seeds};
use crate::memory::Memory;
use crate::random_work::{Action, drain, message, queue_name, receipts};

/// Queues that the random work uses.
const QUEUES: u8 = 4;
/// Bits tried of one run, each in both ways.
const BITS: usize = 300;

/// What a drain gives: queue and id, and the body.
type Messages = BTreeMap<(u8, u64), Bytes>;

/// A disk as it is when the process is killed: half of the records are in the state too.
pub fn killed(seed: u64) -> Memory {
    let actions = random_actions(seed, 60);
    let disk = Memory::default();
    // Then nearly every look at a row is a read of the disk.
    disk.set_cache(CACHE_BYTES_FEW);
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

/// All answers of a state, and the rows that are left behind them.
#[derive(Debug, PartialEq, Eq)]
pub struct Answers {
    messages: Messages,
    hash: u64,
}

pub fn answers(local: &mut Local) -> Result<Answers, ReplicatorError> {
    Ok(Answers { messages: messages(local)?, hash: local.machine().row_hash()? })
}

/// When the bit is flipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    AtRest,
    InUse,
}

/// What came of a flipped bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// Refused when it was opened.
    Refused,
    /// Told when it was met.
    Met,
    /// Nothing is different.
    Nothing,
}

/// What comes of a disk of which one bit is flipped, or what is wrong with that.
pub fn seen(disk: &Memory, bit: usize, when: When, right: &Answers) -> Result<Seen, String> {
    let disk = disk.copy();
    let mut seen = Seen::Refused;
    let looked = catch_unwind(AssertUnwindSafe(|| {
        if when == When::AtRest {
            disk.flip(None, bit);
        }
        let mut local = disk.try_local()?;
        seen = Seen::Met;
        if when == When::InUse {
            disk.flip(None, bit);
        }
        answers(&mut local)
    }));
    match looked {
        Err(_) => Err("a panic".to_owned()),
        Ok(Ok(found)) if found == *right => Ok(Seen::Nothing),
        Ok(Ok(_)) => Err("something is different and nobody is told".to_owned()),
        Ok(Err(error)) => {
            let text = error.to_string();
            let names = "the state is damaged: state: the block at offset ";
            let says_what_to_do = text.contains("Restore the data directory");
            if text.starts_with(names) && says_what_to_do { Ok(seen) } else { Err(text) }
        }
    }
}

#[test]
fn flipped_bit_of_the_state_is_told_or_makes_no_difference() {
    let mut counts = BTreeMap::new();
    for seed in seeds(12) {
        let disk = killed(seed);
        let right = answers(&mut disk.copy().local()).unwrap();
        assert!(right.messages.len() > 4);
        let mut random = Random::new(seed);
        let bits = disk.used_bits();
        for _ in 0..BITS {
            let bit = bits[random.below(bits.len() as u64) as usize];
            for when in [When::AtRest, When::InUse] {
                match seen(&disk, bit, when, &right) {
                    Ok(seen) => *counts.entry((when, seen)).or_insert(0) += 1,
                    Err(what) => panic!("seed {seed}, bit {bit} flipped {when:?}: {what}"),
                }
            }
        }
    }
    println!("{counts:?}");
    for told in [(When::AtRest, Seen::Refused), (When::InUse, Seen::Met)] {
        assert!(counts.contains_key(&told), "{counts:?}");
    }
}

/// The head is there in four copies: damage to one of them, wherever, is no damage to the state.
#[test]
fn flipped_bit_of_the_head_makes_no_difference() {
    let disk = killed(1);
    let right = answers(&mut disk.copy().local()).unwrap();
    for bit in (0..4 * 4096 * 8).step_by(4 * 4096 * 8 / 199) {
        assert_eq!(seen(&disk, bit, When::AtRest, &right), Ok(Seen::Nothing), "bit {bit}");
    }
    for bit in (0..4).flat_map(|block| block * 4096 * 8..block * 4096 * 8 + 128).step_by(7) {
        assert_eq!(seen(&disk, bit, When::AtRest, &right), Ok(Seen::Nothing), "bit {bit}");
    }
}
