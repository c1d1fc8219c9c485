//! Holds `man/qctl.1` against the parser, in both directions.

use std::collections::BTreeSet;
use std::path::Path;

use clap::Command;

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../man/qctl.1");
    std::fs::read_to_string(&path).unwrap()
}

/// Verbs with their long flags as the parser has them; `""` holds those of all verbs.
fn parser_flags() -> BTreeSet<(String, String)> {
    let command = crate::args::command();
    let mut found = BTreeSet::new();
    for flag in command.get_arguments().filter(|flag| !flag.is_hide_set()) {
        if let Some(long) = flag.get_long() {
            found.insert((String::new(), long.to_owned()));
        }
    }
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        add_verb(verb, verb.get_name(), &mut found);
    }
    found
}

fn add_verb(verb: &Command, name: &str, found: &mut BTreeSet<(String, String)>) {
    let flags = verb.get_arguments().filter_map(|flag| flag.get_long());
    found.extend(flags.map(|long| (name.to_owned(), long.to_owned())));
    found.insert((name.to_owned(), String::new()));
    for action in verb.get_subcommands() {
        add_verb(action, &format!("{name} {}", action.get_name()), found);
    }
}

/// The same, as the page has them: `.Ss VERB` starts a verb, `.It Fl -long` describes a flag.
fn page_flags() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    let mut section = String::new();
    let mut verb = String::new();
    for line in page().lines() {
        if let Some(title) = line.strip_prefix(".Sh ") {
            section = title.to_owned();
            verb = String::new();
        } else if let Some(title) = line.strip_prefix(".Ss ") {
            verb = title.to_owned();
            if section == "VERBS" {
                found.insert((verb.clone(), String::new()));
            }
        } else if let Some(item) = line.strip_prefix(".It Fl ")
            && (section == "VERBS" || section == "OPTIONS")
        {
            let words = item.split_whitespace();
            let longs = words.filter_map(|word| word.strip_prefix('-'));
            found.extend(longs.map(|long| (verb.clone(), long.to_owned())));
        }
    }
    found
}

#[test]
fn page_and_parser_have_the_same_verbs_and_flags() {
    let built_in = |(_, long): &(String, String)| long != "help" && long != "version";
    let parser: BTreeSet<_> = parser_flags().into_iter().filter(built_in).collect();
    let page: BTreeSet<_> = page_flags().into_iter().filter(built_in).collect();
    // These do nothing themselves; their actions are verbs.
    let does_something = |(verb, _): &(String, String)| verb != "server" && verb != "context";
    let parser: BTreeSet<_> = parser.into_iter().filter(does_something).collect();
    let missing: Vec<_> = parser.difference(&page).collect();
    let unknown: Vec<_> = page.difference(&parser).collect();
    assert!(missing.is_empty(), "not in qctl(1): {missing:?}");
    assert!(unknown.is_empty(), "only in qctl(1): {unknown:?}");
}

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    std::fs::read_to_string(&path).unwrap()
}

#[test]
fn readme_has_every_verb() {
    let readme = readme();
    for (verb, _) in parser_flags() {
        let does_something = verb != "server" && verb != "context" && !verb.is_empty();
        let named = [format!("qctl {verb}"), format!("`{verb}`"), format!("`{verb} ")];
        let is_there = named.iter().any(|name| readme.contains(name.as_str()));
        assert!(is_there || !does_something, "{verb} is not in the README");
    }
}

#[test]
fn readme_has_no_flag_that_there_is_not() {
    let daemon = Path::new(env!("CARGO_MANIFEST_DIR")).join("../man/qd.8");
    let daemon = std::fs::read_to_string(daemon).unwrap();
    let mut known: BTreeSet<String> = parser_flags().into_iter().map(|(_, flag)| flag).collect();
    let items = daemon.lines().filter_map(|line| line.strip_prefix(".It Fl "));
    known.extend(items.flat_map(|item| {
        item.split_whitespace().filter_map(|word| word.strip_prefix('-')).map(str::to_owned)
    }));
    let readme = readme();
    // Those of cargo are its own.
    let lines = readme.lines().filter(|line| !line.contains("cargo "));
    let mut found = 0;
    for part in lines.flat_map(|line| line.split("--").skip(1)) {
        let end = part.find(|c: char| !c.is_ascii_lowercase() && c != '-').unwrap_or(part.len());
        let flag = part[..end].trim_end_matches('-');
        if flag.starts_with(|c: char| c.is_ascii_lowercase()) {
            assert!(known.contains(flag), "--{flag} of the README is no flag");
            found += 1;
        }
    }
    assert!(found > 50, "{found} flags were found");
}

#[test]
fn page_has_every_exit_status() {
    let page = page();
    for code in [0, 1, 2, 3, 65, 66, 69, 70, 73, 74, 75, 76, 77, 78, 124, 126, 127, 130, 141, 143] {
        let item = format!(".It {code}");
        assert!(page.lines().any(|line| line == item), "{item}");
    }
}

#[test]
fn page_says_that_a_message_not_deleted_comes_back() {
    let page = page();
    assert!(page.contains("comes back"));
    assert!(page.contains("counts as a delivery"));
}
