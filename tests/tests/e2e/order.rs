//! Order and fairness with many consumers at once, each a `qctl` of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::thread;

use qd_tests::wait::SOON;
use qd_tests::{Daemon, Done, Run, wait_until};

/// Runs the command again as long as no server answers it: while one is started again.
fn qctl_until_served(server: &str, line: &str) -> Done {
    wait_until(line, SOON, || Some(Run::qctl(server, line).run()).filter(|done| done.exit != 69))
}

/// What the consumers of an ordered queue have seen of its groups.
#[derive(Default)]
struct Groups {
    held: BTreeMap<String, u32>,
    done: BTreeMap<String, u32>,
    /// What is not as it must be.
    wrong: Vec<String>,
}

impl Groups {
    fn take(&mut self, group: &str, number: u32) {
        if let Some(other) = self.held.insert(group.to_owned(), number) {
            self.wrong.push(format!("{group} {number} came while {other} was held"));
        }
        let done = self.done.get(group).copied().unwrap_or(0);
        if number != done + 1 {
            self.wrong.push(format!("{group} {number} came behind {done}"));
        }
    }

    fn finish(&mut self, group: &str, number: u32) {
        self.held.remove(group);
        self.done.insert(group.to_owned(), number);
    }

    fn finished(&self) -> u32 {
        self.done.values().sum()
    }
}

#[test]
fn many_consumers_keep_the_order_within_every_group_over_kill_9() {
    const GROUPS: u32 = 6;
    const EACH: u32 = 20;
    let mut daemon = Daemon::new();
    daemon.qctl("create orders --ordered --visibility-timeout 1h").ok();
    for group in 1..=GROUPS {
        let numbers: Vec<String> = (1..=EACH).map(|number| number.to_string()).collect();
        let line = format!("send orders --lines --group g{group}");
        daemon.qctl(&line).stdin(numbers.join("\n")).ok();
    }

    let server = daemon.server();
    let groups = Mutex::new(Groups::default());
    let groups = || -> MutexGuard<'_, Groups> { groups.lock().unwrap() };
    // All groups are held side by side before any goes on.
    let parallel = AtomicBool::new(false);
    let consumer = || {
        loop {
            let received = wait_until("a message, or the end of all", SOON, || {
                if groups().finished() == GROUPS * EACH {
                    return Some(None);
                }
                let line = "receive orders --wait 200ms --columns receipt,group,body";
                let received = qctl_until_served(&server, line);
                (received.exit != 1).then_some(Some(received))
            });
            let Some(received) = received else {
                return;
            };
            assert_eq!(received.exit, 0, "{received:?}");
            let text = String::from_utf8(received.stdout).unwrap();
            let [receipt, group, body] =
                text.trim_end().split('\t').collect::<Vec<_>>().try_into().unwrap();
            let number = body.parse().unwrap();
            groups().take(group, number);
            wait_until("all groups are held at the same time", SOON, || {
                let all = parallel.load(Relaxed) || groups().held.len() as u32 == GROUPS;
                parallel.fetch_or(all, Relaxed);
                all.then_some(())
            });
            // Before the delete: as soon as that is done, the next one comes.
            groups().finish(group, number);
            let deleted = qctl_until_served(&server, &format!("delete orders {receipt}"));
            assert_eq!(deleted.exit, 0, "{group} {number}: {deleted:?}");
        }
    };
    thread::scope(|scope| {
        // More consumers than groups: some find nothing although there are messages.
        for _ in 0..GROUPS + 2 {
            scope.spawn(consumer);
        }
        for part in 1..=4 {
            wait_until("the consumers get on", SOON, || {
                (groups().finished() >= GROUPS * EACH * part / 5).then_some(())
            });
            daemon.kill();
            daemon.restart();
        }
    });
    let groups = groups();
    assert_eq!(groups.wrong, Vec::<String>::new());
    let done = groups.done.values().copied().collect::<Vec<_>>();
    assert_eq!(done, vec![EACH; GROUPS as usize]);
    let counters = daemon.qctl("info orders --columns ready,delayed,leased,deleted,received").ok();
    assert_eq!(counters, format!("0\t0\t0\t{0}\t{0}\n", GROUPS * EACH));
}

/// When a message was sent and delivered, by the clock of the daemon.
struct Delivery {
    sent: u64,
    delivered: u64,
    group: String,
}

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
const LEASE_MS: u64 = 60 * 60 * 1_000;

/// Milliseconds since midnight of `2026-01-31T12:00:00.000Z`.
fn time_of_day(text: &str) -> u64 {
    let number = |from: usize, to: usize| text[from..to].parse::<u64>().unwrap();
    ((number(11, 13) * 60 + number(14, 16)) * 60 + number(17, 19)) * 1_000 + number(20, 23)
}

/// From one time of a day to a later one, perhaps of the next day.
fn between(from: u64, to: u64) -> u64 {
    (to + DAY_MS - from) % DAY_MS
}

#[test]
fn backlog_of_one_tenant_does_not_keep_others_waiting() {
    const CONSUMERS: usize = 4;
    const BACKLOG: usize = 2_000;
    const OTHERS: usize = 5;
    let daemon = Daemon::new();
    daemon.qctl("create mail --visibility-timeout 1h").ok();
    let backlog = "newsletter\n".repeat(BACKLOG);
    daemon.qctl("send mail --lines --group big").stdin(backlog).ok();

    let server = daemon.server();
    let deliveries = Mutex::new(Vec::new());
    let all_sent = AtomicBool::new(false);
    let of = |deliveries: &[Delivery], group: &str| {
        deliveries.iter().filter(|delivery| delivery.group == group).count()
    };
    let consumer = || {
        while !all_sent.load(Relaxed) {
            let line = "receive mail --columns group,sent_at,lease_until";
            let text = Run::qctl(&server, line).ok();
            let [group, sent, lease] =
                text.trim_end().split('\t').collect::<Vec<_>>().try_into().unwrap();
            deliveries.lock().unwrap().push(Delivery {
                sent: time_of_day(sent),
                delivered: between(LEASE_MS, time_of_day(lease)),
                group: group.to_owned(),
            });
        }
    };
    thread::scope(|scope| {
        for _ in 0..CONSUMERS {
            scope.spawn(consumer);
        }
        for other in 0..OTHERS {
            // Longer names and shorter ones: before and behind the tenant with the backlog.
            let group = ["a", "b", "tenant", "big2", "c"][other];
            let before = of(&deliveries.lock().unwrap(), "big");
            wait_until("the backlog gets on", SOON, || {
                (of(&deliveries.lock().unwrap(), "big") >= before + 10).then_some(())
            });
            daemon.qctl(&format!("send mail invoice --group {group}")).ok();
            wait_until("the message of another tenant is delivered", SOON, || {
                (of(&deliveries.lock().unwrap(), group) == 1).then_some(())
            });
        }
        all_sent.store(true, Relaxed);
    });

    let deliveries = deliveries.into_inner().unwrap();
    let big = of(&deliveries, "big");
    assert_eq!(deliveries.len(), big + OTHERS);
    assert!(big < BACKLOG, "the backlog was there until the end");
    for other in deliveries.iter().filter(|delivery| delivery.group != "big") {
        let waited = between(other.sent, other.delivered);
        let meanwhile = deliveries
            .iter()
            .filter(|delivery| delivery.group == "big")
            .filter(|big| between(other.sent, big.delivered) <= waited)
            .count();
        println!("{}: {waited} ms, {meanwhile} of the backlog meanwhile", other.group);
        // One whose turn it was, and one for each consumer in the same milliseconds.
        assert!(meanwhile <= 1 + 2 * CONSUMERS, "{}: behind {meanwhile}", other.group);
    }
}
