//! The manual page of the daemon and its flags.

use std::collections::BTreeSet;
use std::fs;

use qd_tests::{Run, programs};

/// The long flags among the words of the lines, where they stand behind `before`.
fn flags<'a>(lines: impl Iterator<Item = &'a str>, before: &str) -> BTreeSet<&'a str> {
    lines.flat_map(str::split_whitespace).filter_map(|word| word.strip_prefix(before)).collect()
}

#[test]
fn manual_and_help_of_qd_have_the_same_flags() {
    let help = Run::new(programs::qd()).arg("--help").ok();
    let page = fs::read_to_string(programs::sources().join("man/qd.8")).unwrap();
    let helped = flags(help.lines().filter(|line| line.trim_start().starts_with('-')), "--");
    // In mdoc(7) a flag is the argument of Fl, its first dash excluded.
    let listed = flags(page.lines().filter(|line| line.starts_with(".It Fl")), "-");
    assert!(helped.len() >= 6, "{helped:?}");
    assert_eq!(listed, helped);
}

/// The commands of `qd`.
fn tools() -> Vec<String> {
    let help = Run::new(programs::qd()).arg("--help").ok();
    let commands = help.split_once("Commands:").unwrap().1;
    let commands = commands.lines().skip(1).take_while(|line| line.starts_with("  "));
    commands.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

#[test]
fn manual_and_help_of_the_tools_have_the_same_flags_and_arguments() {
    let page = fs::read_to_string(programs::sources().join("man/qd.8")).unwrap();
    let tools = tools();
    assert!(tools.contains(&"check".to_owned()), "{tools:?}");
    for tool in &tools {
        let help = Run::new(programs::qd()).args([tool, "--help"]).ok();
        let mut helped =
            flags(help.lines().filter(|line| line.trim_start().starts_with('-')), "--");
        helped.remove("help");
        let line = page.lines().find(|line| line.starts_with(&format!(".It Cm {tool}")));
        let line = line.unwrap_or_else(|| panic!("{tool} is not in the page"));
        assert_eq!(flags([line].into_iter(), "-"), helped, "{tool}");
        let synopsis = page.split_once(".Sh DESCRIPTION").unwrap().0;
        let synopsis = synopsis.split(&format!(".Cm {tool}\n")).nth(1).unwrap();
        let synopsis = synopsis.lines().take_while(|line| *line != ".Nm");
        assert_eq!(flags(synopsis, "-"), helped, "{tool}");
    }
}

#[test]
fn manual_of_qd_has_every_variable_of_the_help() {
    let help = Run::new(programs::qd()).arg("--help").ok();
    let page = fs::read_to_string(programs::sources().join("man/qd.8")).unwrap();
    let variables = |text: &str, before: &str| -> BTreeSet<String> {
        let found = text.split(before).skip(1).map(|rest| {
            rest.chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect::<String>()
        });
        found.filter(|name| name.starts_with("QD_")).collect()
    };
    let of_help = variables(&help, "[env: ");
    assert!(!of_help.is_empty(), "{help}");
    assert_eq!(variables(&page, ".It Ev "), of_help);
}
