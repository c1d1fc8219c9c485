//! Counters of very many queues.

use qd_protocol::verbs::Stats;
use qd_tests::Daemon;

use crate::wire::{create, send};

#[tokio::test]
async fn counters_of_ten_thousand_queues_come_in_one_request() {
    let daemon = Daemon::new();
    let client = daemon.client().await;
    let mut pending = Vec::new();
    for number in 0..10_000 {
        pending.push(client.start(create(&format!("queue.{number:05}"))).await.unwrap());
        if pending.len() == 500 {
            for pending in pending.drain(..) {
                assert!(pending.await.unwrap().created);
            }
        }
    }
    client.call(send("queue.09999", &[b"a", b"b"])).await.unwrap();
    let counted = client.call(Stats::default()).await.unwrap();
    assert_eq!(counted.queues.len(), 10_000);
    assert!(counted.queues.is_sorted_by_key(|(name, _)| name));
    let (last, statistics) = counted.queues.last().unwrap();
    assert_eq!((last.as_str(), statistics.ready), ("queue.09999", 2));
    let run = daemon.qctl("stats --columns name,sent").ok();
    let lines: Vec<&str> = run.lines().collect();
    assert_eq!((lines.len(), lines[9_999]), (10_000, "queue.09999\t2"));
}
