//! The tables of the page against the code.

use qd_protocol::attributes::{AttributeSpec, DeadLetter, SPECS, UNLIMITED, Unit, Value};
use qd_protocol::verbs::{list, peek, purge, receive, redrive, reject, stats, transact};
use qd_protocol::{
    Attributes, Class, ErrorCode, Request, Statistics, address, attributes, message, name, receipt,
};

use super::page;

/// The cells of the items `.It 1 Ta name Ta ...` of a section's list, the heading left out.
fn list_of(section: &str, nth: usize) -> Vec<Vec<String>> {
    let headings = [format!(".Sh {section}"), format!(".Ss {section}")];
    let lines = page();
    let section: Vec<&String> = lines
        .iter()
        .skip_while(|line| !headings.contains(line))
        .skip(1)
        .take_while(|line| !line.starts_with(".Sh ") && !line.starts_with(".Ss "))
        .collect();
    let list = section.split(|line| *line == ".El").nth(nth).expect("a list");
    list.iter()
        .filter_map(|line| line.strip_prefix(".It "))
        .filter(|line| !line.starts_with("Sy "))
        .map(|line| line.split(" Ta ").map(str::to_owned).collect())
        .collect()
}

fn table(section: &str) -> Vec<Vec<String>> {
    list_of(section, 0)
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

#[test]
fn table_of_verbs_is_that_of_the_code() {
    let verbs = Request::VERBS.iter().map(|&(name, opcode, changes)| {
        let name = name.to_ascii_lowercase();
        row([&opcode.to_string(), &name, if changes { "yes" } else { "no" }])
    });
    assert_eq!(table("VERBS"), verbs.collect::<Vec<_>>());
    for &(name, ..) in Request::VERBS {
        let heading = format!(".Ss {}", name.to_ascii_lowercase());
        assert!(page().contains(&heading), "{heading} is missing");
    }
}

#[test]
fn table_of_error_numbers_is_that_of_the_code() {
    let codes = ErrorCode::ALL.iter().map(|code| {
        let retryable = if code.retryable() { "yes" } else { "no" };
        row([&code.number().to_string(), code.name(), code.class().name(), retryable])
    });
    assert_eq!(table("ERROR NUMBERS"), codes.collect::<Vec<_>>());
    let texts = ErrorCode::ALL.iter().map(|code| row([code.name()]));
    assert_eq!(list_of("ERROR NUMBERS", 1), texts.collect::<Vec<_>>());
    // What the verbs and the text name exists.
    for line in page().iter().filter_map(|line| line.strip_prefix(".Er ")) {
        for name in line.split_whitespace().filter(|name| name.contains(char::is_alphanumeric)) {
            assert!(ErrorCode::ALL.iter().any(|code| code.name() == name), "{name}");
        }
    }
}

#[test]
fn table_of_classes_is_that_of_the_code() {
    use Class::{FixRequest, Gone, LimitReached, NotAllowed, TryAgain};
    let classes = [FixRequest, NotAllowed, LimitReached, TryAgain, Gone];
    let classes = classes.iter().map(|class| row([&(*class as u8).to_string(), class.name()]));
    assert_eq!(table("Classes"), classes.collect::<Vec<_>>());
}

/// A number as the page writes it.
fn number(value: u64) -> String {
    match value {
        UNLIMITED => "unlimited".to_owned(),
        _ if value >= 1 << 32 && value.is_power_of_two() => format!("2^{}", value.ilog2()),
        _ => value.to_string(),
    }
}

/// The default of an attribute as the page writes it.
fn default(value: &Value) -> String {
    match value {
        Value::Number(value) => number(*value),
        Value::DeadLetter(DeadLetter::Default) => "default".to_owned(),
        Value::DeadLetter(other) => format!("{other:?}"),
        Value::List(members) => {
            members.iter().map(|member| number(*member)).collect::<Vec<_>>().join(" ")
        }
    }
}

#[test]
fn table_of_attributes_is_that_of_the_code() {
    let attributes = Attributes::default().values().into_iter().map(|(spec, value)| {
        let AttributeSpec { tag, name, least, most, unlimited, unit } = *spec;
        let (unit, has_range) = match unit {
            Unit::Messages => ("messages", true),
            Unit::Bytes => ("bytes", true),
            Unit::Milliseconds => ("ms", true),
            Unit::Deliveries => ("deliveries", true),
            Unit::Overflow => ("choice", true),
            Unit::Flag => ("flag", true),
            Unit::DeadLetter => ("queue", false),
        };
        let shown = |bound: u64| if has_range { number(bound) } else { "-".to_owned() };
        let unlimited = if unlimited { "yes" } else { "no" };
        row([
            &tag.to_string(),
            name,
            unit,
            &shown(least),
            &shown(most),
            unlimited,
            &default(&value),
        ])
    });
    assert_eq!(table("ATTRIBUTES"), attributes.collect::<Vec<_>>());
    let texts = SPECS.iter().map(|spec| row([spec.name]));
    assert_eq!(list_of("ATTRIBUTES", 1), texts.collect::<Vec<_>>());
    for (number, name) in attributes::OVERFLOW_NAMES.iter().enumerate() {
        let choice = format!("{number}, {name}");
        assert!(page().iter().any(|line| line.contains(&choice)), "{choice} is not on the page");
    }
}

#[test]
fn table_of_statistics_is_that_of_the_code() {
    let expected = Statistics::SPECS.iter().map(|(tag, name)| row([&tag.to_string(), name]));
    let mut found = table("STATISTICS");
    for row in &mut found {
        assert_eq!(row.len(), 3, "{row:?}");
        row.truncate(2);
    }
    assert_eq!(found, expected.collect::<Vec<_>>());
}

#[test]
fn table_of_limits_is_that_of_the_code() {
    let limits: &[(&str, u64)] = &[
        ("frame", u64::from(qd_protocol::FRAME_BYTES_MAX)),
        ("message", qd_protocol::MESSAGE_BYTES_MAX),
        ("answer frame", u64::from(qd_protocol::ANSWER_FRAME_BYTES_MAX)),
        ("headers", qd_protocol::HEADERS_BYTES_MAX as u64),
        ("batch", u64::from(qd_protocol::BATCH_ENTRIES_MAX)),
        ("in flight", u64::from(qd_protocol::IN_FLIGHT_MAX)),
        ("queue name", name::NAME_CHARACTERS_MAX as u64),
        ("queues of a receive", receive::QUEUES_MAX as u64),
        ("wait", receive::WAIT_MS_MAX),
        ("visibility timeout", attributes::VISIBILITY_TIMEOUT_MS_MAX),
        ("delay", attributes::DELAY_MS_MAX),
        ("time to live", attributes::DELAY_MS_MAX),
        ("receive answer", receive::ANSWER_BYTES_MAX),
        ("list page", u64::from(list::PAGE_MAX)),
        ("pattern", list::PATTERN_BYTES_MAX as u64),
        ("patterns", stats::PATTERNS_MAX as u64),
        ("source name", attributes::SOURCE_NAME_CHARACTERS_MAX as u64),
        ("retry delays", attributes::LIST_MEMBERS_MAX as u64),
        ("reason", reject::REASON_BYTES_MAX as u64),
        ("redrive", u64::from(redrive::REDRIVE_MAX)),
        ("redrive headers", redrive::REDRIVE_HEADERS_MAX as u64),
        ("group", message::TEXT_BYTES_MAX as u64),
        ("dedup id", message::TEXT_BYTES_MAX as u64),
        ("dedup window", attributes::DEDUP_WINDOW_MS_MAX),
        ("peek headers", peek::PEEK_HEADERS_MAX as u64),
        ("purge headers", purge::PURGE_HEADERS_MAX as u64),
        ("purge age", attributes::DELAY_MS_MAX),
        ("transact parts", transact::PARTS_MAX as u64),
        ("receipt", receipt::RECEIPT_BYTES as u64),
        ("receipt as text", receipt::RECEIPT_CHARACTERS as u64),
        ("socket path", address::SOCKET_PATH_BYTES_MAX as u64),
    ];
    let expected = limits.iter().map(|(name, value)| row([name, &value.to_string()]));
    let mut found = table("LIMITS");
    for row in &mut found {
        assert_eq!(row.len(), 3, "{row:?}");
        row.truncate(2);
    }
    assert_eq!(found, expected.collect::<Vec<_>>());
}
