//! The largest that may cross the wire does.

use qd_protocol::verbs::{Receive, Send, SendEntry};
use qd_protocol::{
    BATCH_ENTRIES_MAX, ErrorCode, FRAME_BYTES_MAX, HEADERS_BYTES_MAX, Headers, MESSAGE_BYTES_MAX,
    Receipt,
};
use qd_tests::Daemon;

use crate::wire::{create, queue, receive};

#[test]
fn largest_answer_comes_through() {
    let daemon = Daemon::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let received = runtime.block_on(async {
        let client = daemon.client().await;
        let mut large = create("large");
        large.attributes.max_message_size = Some(MESSAGE_BYTES_MAX);
        client.call(large).await.unwrap();
        // Numbers 2 and 3. A longer name would need a dead-letter queue of another name.
        for name in ["a", "b"] {
            client.call(create(&name.repeat(120))).await.unwrap();
        }
        let headers = Headers(vec![("k".to_owned(), String::new()); HEADERS_BYTES_MAX]);
        let body = vec![b'x'; MESSAGE_BYTES_MAX as usize - headers.size()];
        let entries = vec![SendEntry { headers, ..SendEntry::new(body) }];
        client.call(Send { queue: queue("large"), entries }).await.unwrap();
        // Each is refused with another name than its neighbours.
        let receipt = |at| Receipt { queue: 2 + u64::from(at % 2), lease: 1, id: 1, secret: 1 };
        let settle = (0..BATCH_ENTRIES_MAX).map(receipt).collect();
        client.call(Receive { settle, ..receive("large", 1) }).await.unwrap()
    });
    assert_eq!(received.settled.runs.len(), BATCH_ENTRIES_MAX as usize);
    for (at, status) in received.settled.entries().enumerate() {
        let refusal = status.unwrap_err();
        assert_eq!(refusal.code, ErrorCode::ReceiptOfOtherQueue);
        assert_eq!(refusal.queue.as_ref().unwrap(), &["a", "b"][at % 2].repeat(120));
    }
    let [message] = &received.messages[..] else { panic!("{} messages", received.messages.len()) };
    let headers = message.headers().unwrap();
    assert_eq!(message.body.bytes.len() + headers.size(), MESSAGE_BYTES_MAX as usize);
    let runs: usize = received
        .settled
        .runs
        .iter()
        .map(|(_, refusal)| 9 + 4 + 2 + refusal.as_ref().unwrap().text.len() + 5 + 120)
        .sum();
    let bytes = runs + message.fields.len() + message.body.bytes.len();
    assert!(bytes > FRAME_BYTES_MAX as usize, "{bytes}: the answer is not large");
}
