//! Every verb has every form of output, with the same fields in each.

use qd_tests::{Daemon, Run, cases};
use serde_json::Value;

/// A verb on the queue `$q`, and what comes before it. Each is run once a form, on a queue of its own.
const VERBS: &[(&str, &str)] = &[
    ("", "create $q"),
    ("qctl create $q", "update $q --delay 1s"),
    ("qctl create $q", "send $q body"),
    ("qctl create $q; qctl send $q body -H k=v", "receive $q"),
    ("qctl create $q; qctl send $q body -H k=v", "receive $q --ack"),
    ("qctl create $q; qctl send $q body", "peek $q --id 1"),
    ("qctl create $q; qctl send $q body; R=$(qctl receive $q --columns receipt)", "delete $q $R"),
    ("qctl create $q; qctl send $q body", "delete $q --id 1"),
    (
        "qctl create $q; qctl send $q body; R=$(qctl receive $q --columns receipt)",
        "delete $q $R --and-send $q other",
    ),
    (
        "qctl create $q; qctl send $q body; R=$(qctl receive $q --columns receipt)",
        "extend $q $R --to 5m",
    ),
    ("qctl create $q; qctl send $q body; R=$(qctl receive $q --columns receipt)", "release $q $R"),
    (
        "qctl create $q; qctl send $q body; R=$(qctl receive $q --columns receipt)",
        "reject $q $R --reason why",
    ),
    ("qctl create $q; qctl send $q body", "reschedule $q --id 1 --delay 1h"),
    ("qctl create $q", "redrive $q"),
    ("qctl create $q", "purge $q --yes"),
    ("qctl create $q", "pause $q"),
    ("qctl create $q; qctl pause $q", "resume $q"),
    ("qctl create $q", "info $q"),
    ("qctl create $q", "stats $q"),
    ("qctl create $q", "drop $q"),
    ("", "ping"),
];

/// Those that may have several records, and so no form for a shell.
const LISTS: &[(&str, &str)] = &[
    ("qctl create $q", "list $q"),
    ("qctl create $q", "stats $q*"),
    ("qctl create $q", "send $q a b"),
    ("qctl create $q; qctl send $q a b > ids", "receive $q -n 2"),
    ("qctl create $q; qctl send $q a b > ids", "peek $q"),
];

struct Forms {
    daemon: Daemon,
    queues: u32,
}

impl Forms {
    /// The output of a verb in a form, with more flags.
    fn run(&mut self, (before, verb): (&str, &str), flags: &str) -> String {
        self.queues += 1;
        let script =
            format!("q=q{}; {{ :; {before}\n}} > before; qctl {verb} {flags}", self.queues);
        let run: Run = cases::shell(&self.daemon.server(), self.daemon.directory());
        let done = run.args(["-c", &script]).run();
        assert_eq!(done.exit, 0, "{script}: {done:?}");
        done.text()
    }

    /// The names of the fields in JSON.
    fn fields(&mut self, verb: (&str, &str)) -> Vec<String> {
        let text = self.run(verb, "-o jsonl");
        let first = text.lines().next().unwrap_or_else(|| panic!("{verb:?}: nothing in JSON"));
        let object: Value = serde_json::from_str(first).unwrap_or_else(|e| panic!("{e}: {first}"));
        // Not those of the parsed object: it has its own order.
        let mut fields: Vec<String> = object.as_object().unwrap().keys().cloned().collect();
        fields.sort_by_key(|name| first.find(&format!("\"{name}\":")));
        fields
    }
}

fn forms() -> Forms {
    Forms { daemon: Daemon::new(), queues: 0 }
}

fn json_has_objects_and_csv_the_same_fields(forms: &mut Forms, verb: (&str, &str), many: bool) {
    let fields = forms.fields(verb);
    let document: Value = serde_json::from_str(&forms.run(verb, "-o json")).unwrap();
    let first = if document.is_array() { &document[0] } else { &document };
    assert!(first[&fields[0]] != Value::Null, "{verb:?}: {document}");
    assert!(!many || document.is_array(), "{verb:?}: {document}");
    let csv = forms.run(verb, "-o csv");
    let header: Vec<&str> = csv.lines().next().unwrap().split(',').collect();
    for field in &fields {
        // What is written is all that a receive that deletes has a column for.
        let short = verb.1.contains("--ack") && header == ["body"];
        assert!(short || header.contains(&field.as_str()), "{verb:?}: {field} is not in {csv}");
    }
    let bare = forms.run(verb, "-o csv --no-header");
    assert_eq!(bare.lines().count() + 1, csv.lines().count(), "{verb:?}: {csv}{bare}");
}

fn columns_are_kept_in_every_form(forms: &mut Forms, verb: (&str, &str)) {
    let fields = forms.fields(verb);
    let (first, last) = (&fields[0], &fields[fields.len() - 1]);
    let columns = format!("--columns {last},{first}");
    let object = forms.run(verb, &format!("-o jsonl {columns}"));
    let object: Value = serde_json::from_str(object.lines().next().unwrap()).unwrap();
    assert_eq!(object.as_object().unwrap().len(), if first == last { 1 } else { 2 }, "{object}");
    let csv = forms.run(verb, &format!("-o csv {columns}"));
    assert_eq!(csv.lines().next(), Some(format!("{last},{first}").as_str()), "{verb:?}");
    let plain = forms.run(verb, &format!("-o plain {columns}"));
    assert_eq!(plain.lines().next().unwrap().split('\t').count(), 2, "{verb:?}: {plain}");
    let table = forms.run(verb, &format!("-o table {columns}"));
    let header: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(header, [last.to_uppercase(), first.to_uppercase()], "{verb:?}: {table}");
    let bare = forms.run(verb, &format!("-o table --no-header {columns}"));
    assert_eq!(bare.lines().count() + 1, table.lines().count(), "{verb:?}: {table}{bare}");
}

#[test]
fn every_verb_has_every_form() {
    let mut forms = forms();
    for &verb in VERBS {
        json_has_objects_and_csv_the_same_fields(&mut forms, verb, false);
        columns_are_kept_in_every_form(&mut forms, verb);
        let fields = forms.fields(verb);
        let shell = forms.run(verb, "-o shell");
        for field in &fields {
            let variable = match field.as_str() {
                "server" => "\nQCTL_ADDRESS='".to_owned(),
                field => format!("\nQCTL_{}='", field.to_uppercase()),
            };
            assert!(format!("\n{shell}").contains(&variable), "{verb:?}: {field} in {shell}");
        }
        // Whatever a person sees, it is no JSON and ends with its line.
        let table = forms.run(verb, "-o table");
        assert!(table.ends_with('\n') && !table.starts_with('{'), "{verb:?}: {table}");
    }
}

#[test]
fn every_list_has_every_form_but_that_of_a_shell() {
    let mut forms = forms();
    for &verb in LISTS {
        json_has_objects_and_csv_the_same_fields(&mut forms, verb, true);
        columns_are_kept_in_every_form(&mut forms, verb);
    }
}

#[test]
fn every_verb_that_has_records_is_tried_here() {
    let tried: Vec<&str> =
        VERBS.iter().chain(LISTS).filter_map(|(_, verb)| verb.split_whitespace().next()).collect();
    let help = Run::new(qd_tests::programs::qctl()).arg("help").ok();
    let verbs = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let verbs = verbs.take_while(|line| !line.is_empty());
    let verbs: Vec<&str> = verbs.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(verbs.len() > 15, "{help}");
    // These run others, print what is no record, or have the forms in cases of their own.
    let of_their_own = ["apply", "context", "export", "server", "top"];
    let without = [&of_their_own[..], &["work", "bench", "demo", "completions", "help"]].concat();
    let missing: Vec<_> =
        verbs.iter().filter(|verb| !tried.contains(verb) && !without.contains(verb)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
