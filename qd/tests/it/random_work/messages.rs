//! Random messages: few dedup ids, few or very many groups.

use proptest::collection::vec;
use proptest::prelude::*;
use qd::shard::command::NewMessage;
use qd_protocol::message::Properties;
use qd_protocol::verbs::SendEntry;

/// A message to be sent.
#[derive(Debug, Clone)]
pub struct Sketch {
    /// Bytes of the body, and what they are.
    size: usize,
    fill: u8,
    /// Whether it has the header of [`message`].
    header: bool,
    properties: Properties,
    unique: bool,
}

/// Shrink to those of a message that is like any other.
pub fn properties() -> BoxedStrategy<Properties> {
    let group = prop_oneof![3 => Just(""), 3 => Just("a"), 1 => Just("b"), 1 => Just("bb")];
    properties_with(group.prop_map(str::to_owned))
}

fn properties_with(group: impl Strategy<Value = String> + 'static) -> BoxedStrategy<Properties> {
    let priority = prop_oneof![10 => Just(0u8), 1 => Just(1), 1 => Just(9)];
    let dedup_id = proptest::option::weighted(0.15, prop_oneof![2 => Just("x"), 1 => Just("y")]);
    let special = (priority, group, dedup_id).prop_map(|(priority, group, dedup_id)| Properties {
        priority,
        group,
        dedup_id: dedup_id.map(str::to_owned),
    });
    prop_oneof![1 => Just(Properties::default()), 2 => special].boxed()
}

/// One message.
pub fn sketch(
    size: impl Strategy<Value = usize> + 'static,
    header: f64,
    properties: BoxedStrategy<Properties>,
) -> BoxedStrategy<Sketch> {
    (size, any::<u8>(), prop::bool::weighted(header), properties, prop::bool::weighted(0.3))
        .prop_map(|(size, fill, header, properties, unique)| Sketch {
            size,
            fill,
            header,
            unique: unique && properties.dedup_id.is_some(),
            properties,
        })
        .boxed()
}

/// The messages of a send.
pub fn sketches() -> BoxedStrategy<Vec<Sketch>> {
    let size = prop_oneof![
        8 => 0usize..200,
        2 => 1_000usize..6_000,
        1 => 60_000usize..140_000,
    ];
    let few = vec(sketch(size, 0.2, properties()), 1..8);
    let plain = Just(Properties::default()).boxed();
    let many = vec(sketch(0usize..300, 0.0, plain), 100..250);
    let groups = properties_with("[ab]{0,7}");
    let mixed = vec(sketch(0usize..100, 0.0, groups), 50..250);
    prop_oneof![12 => few, 1 => many, 1 => mixed].boxed()
}

impl Sketch {
    /// The message as the broker hands it on.
    pub fn message(&self) -> NewMessage {
        let Self { size, fill, header, properties, unique } = self;
        let mut entry = SendEntry::new(vec![*fill; *size]);
        entry.headers.0.extend(header.then(|| ("key".to_owned(), "value".to_owned())));
        entry.properties = properties.clone();
        entry.unique = *unique;
        stored(entry)
    }
}

/// A message as the broker hands it on.
pub fn message(body: Vec<u8>, headers: bool) -> NewMessage {
    let mut entry = SendEntry::new(body);
    entry.headers.0.extend(headers.then(|| ("key".to_owned(), "value".to_owned())));
    stored(entry)
}

/// A message as the broker hands it on.
pub fn stored(entry: SendEntry) -> NewMessage {
    NewMessage {
        crc: entry.body.crc,
        size: entry.size(),
        due: entry.due,
        ttl_ms: entry.ttl_ms,
        unique: entry.unique,
        fields: entry.stored_fields(),
        body: entry.body.bytes,
    }
}
