//! The JSON of messages, queues and errors, held against the schemas in `qctl/schemas`.

use qd_tests::schema::Schema;
use qd_tests::{Daemon, Run, programs};
use serde_json::{Value, json};

fn schema(name: &str) -> Schema {
    Schema::read(&programs::sources().join("qctl/schemas").join(name))
}

/// The objects that a command prints; those of an array one by one.
fn objects(text: &str) -> Vec<Value> {
    let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let values = values.map(|value| value.unwrap_or_else(|error| panic!("{error}: {text}")));
    let parts = |value| if let Value::Array(members) = value { members } else { vec![value] };
    values.flat_map(parts).collect()
}

/// Holds all objects in `text` against the schema; there is at least one.
fn hold(schema: &mut Schema, text: &str) {
    let objects = objects(text);
    assert!(!objects.is_empty(), "nothing was printed");
    for object in objects {
        let errors = schema.errors(&object);
        assert!(errors.is_empty(), "{errors:#?} in {object}");
    }
}

#[test]
fn messages_are_as_their_schema_says() {
    let daemon = Daemon::new();
    let mut schema = schema("message.json");
    let run = |line: &str| daemon.qctl(line).ok();
    run("create jobs --max-deliveries 1 --retry-delay 0");
    run("create blocked --dead-letter missing");
    run("send jobs text -H k=v -H k=w -H l=x --group g --priority 9 --dedup-id d");
    Run::qctl(&daemon.server(), "send jobs").stdin(&b"\xff\0"[..]).ok();
    run("send jobs later --delay 1h");
    run("send blocked x");
    hold(&mut schema, &run("peek jobs -o json"));
    hold(&mut schema, &run("receive jobs -n 2 -o jsonl --visibility-timeout 1h"));
    hold(&mut schema, &run("peek jobs -o jsonl"));
    let receipt = run("receive blocked --columns receipt");
    run(&format!("reject blocked {receipt} --reason why"));
    hold(&mut schema, &run("peek blocked -o json"));
    run("send jobs again");
    let receipt = run("receive jobs --columns receipt");
    run(&format!("release jobs {receipt}"));
    hold(&mut schema, &run("receive jobs.dead -o json"));
    run("send jobs once");
    hold(&mut schema, &run("receive jobs --delete-on-receive -o json"));
    for name in ["files", "f\u{e9}les"] {
        std::fs::create_dir(daemon.directory().join(name)).unwrap();
    }
    std::fs::create_dir(daemon.directory().join(not_utf8())).unwrap();
    for directory in ["files".into(), not_utf8()] {
        run("send jobs stored");
        let line = "receive jobs -o json --dir";
        let receive = daemon.qctl(line).arg(directory).current_dir(daemon.directory());
        hold(&mut schema, &receive.ok());
    }
    hold(&mut schema, &daemon.qctl("peek jobs -o json --columns queue,id,body,headers,sent_at,attempt,state,visible_at,lease_until,priority,group,dedup_id,dead_letter").ok());
    assert_eq!(schema.unmet(), Vec::<String>::new(), "fields that no message had");
}

fn not_utf8() -> std::ffi::OsString {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(b"\xff".to_vec())
}

#[test]
fn queues_are_as_their_schema_says() {
    let daemon = Daemon::new();
    let mut schema = schema("queue.json");
    daemon.qctl("create plain").ok();
    daemon.qctl("create limited --max-messages 1 --max-bytes 1KiB --max-in-flight 1 --retention 1h --max-deliveries unlimited --dead-letter none --overflow drop-oldest").ok();
    daemon.qctl("create ordered --ordered --dead-letter plain --dead-letter-expired --retry-delay 1s,2s --dedup-window 0").ok();
    daemon.qctl("send plain x").ok();
    hold(&mut schema, &daemon.qctl("list -o json").ok());
    hold(&mut schema, &daemon.qctl("list -o jsonl").ok());
    hold(&mut schema, &daemon.qctl("info limited -o json").ok());
    assert_eq!(schema.unmet(), Vec::<String>::new(), "fields that no queue had");
}

#[test]
fn errors_are_as_their_schema_says() {
    let daemon = Daemon::new();
    let mut schema = schema("error.json");
    daemon.qctl("create full --max-messages 1").ok();
    daemon.qctl("create empty").ok();
    daemon.qctl("send full x").ok();
    let mut classes = std::collections::BTreeSet::new();
    for (line, exit) in [
        ("send full y", 75),
        ("send missing x", 66),
        ("nonsense", 2),
        ("send full x --at tomorrow", 2),
        ("delete full nonsense", 65),
        ("create full --ordered", 73),
        ("delete full --id 99", 1),
        ("receive full --dir /nonexistent", 74),
        ("ping --server unix:/nonexistent/s", 69),
        ("receive empty --wait 1m --timeout 1ms", 124),
    ] {
        for form in ["-o json", "-o jsonl"] {
            let done = daemon.qctl(&format!("{line} {form}")).run();
            assert_eq!(done.exit, exit, "{line}: {done:?}");
            let last = done.stderr.lines().last().unwrap_or_else(|| panic!("{line}: {done:?}"));
            hold(&mut schema, last);
            classes.extend(objects(last)[0]["class"].as_str().map(str::to_owned));
        }
    }
    assert!(classes.len() >= 4, "{classes:?}");
    assert_eq!(schema.unmet(), Vec::<String>::new(), "fields that no error had");
}

#[test]
fn value_that_does_not_fit_is_told_with_its_place() {
    let mut schema = Schema::new(json!({
        "type": "object",
        "required": ["id", "at"],
        "oneOf": [{ "required": ["body"] }, { "required": ["file"] }],
        "properties": {
            "id": { "$ref": "#/$defs/id" },
            "at": { "type": ["string", "null"], "format": "date-time" },
            "size": { "type": "integer", "minimum": 1, "maximum": 9 },
            "kind": { "enum": ["a", "b"] },
            "list": { "type": "array", "items": { "type": "string" }, "minItems": 1 },
            "body": { "type": "string", "maxLength": 3 },
            "file": { "type": "string" },
            "map": { "type": "object", "additionalProperties": { "anyOf": [{ "type": "string" }] } }
        },
        "$defs": { "id": { "type": "string", "pattern": "^[0-9]+$" } }
    }));
    let good = json!({
        "id": "17", "at": "2026-01-31T12:00:00.000Z", "size": 9, "kind": "b", "list": ["x"],
        "body": "abc", "map": { "any": "x" }
    });
    assert_eq!(schema.errors(&good), Vec::<String>::new());
    assert_eq!(schema.unmet(), [".file"]);
    for (field, value, told) in [
        ("id", json!("x"), ".id: not digits alone: \"x\""),
        ("id", json!(17), ".id: not of the type: 17"),
        ("at", json!("today"), ".at: no time: \"today\""),
        ("size", json!(0), ".size: too small: 0"),
        ("size", json!(10), ".size: too large: 10"),
        ("size", json!(1.5), ".size: not of the type: 1.5"),
        ("kind", json!("c"), ".kind: none of the values: \"c\""),
        ("list", json!([]), ".list: minItems: []"),
        ("list", json!([1]), ".list[]: not of the type: 1"),
        ("body", json!("abcd"), ".body: maxLength: \"abcd\""),
        ("map", json!({ "k": 1 }), ".map.k: none of anyOf: 1"),
        ("other", json!(1), ".other: the schema does not describe it"),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        assert_eq!(schema.errors(&bad), [told]);
    }
    let mut both = good.clone();
    both["file"] = json!("x");
    assert!(schema.errors(&both)[0].starts_with(".: not exactly one of oneOf"));
    let mut none = good;
    none.as_object_mut().unwrap().remove("at");
    assert_eq!(schema.errors(&none), [".: there is no at"]);
}
