//! Examples, which stand first in the help of every verb.

/// Verbs with their commands, and what these are for.
const EXAMPLES: &[(&str, &[(&str, &str)])] = &[
    (
        "create",
        &[
            ("qctl create jobs", ""),
            ("qctl create jobs --visibility-timeout 5m --max-deliveries 5", "work that takes long"),
            (
                "qctl create news --max-messages 1000 --overflow drop-oldest --retention 1d",
                "only what is new",
            ),
            ("qctl create orders --ordered --if-not-exists", "in order, group by group"),
        ],
    ),
    (
        "send",
        &[
            ("qctl send jobs 'resize cat.jpg'", ""),
            ("qctl send jobs --lines < tasks.txt", "a message a line"),
            ("qctl send jobs -f photo.jpg -H type=image/jpeg", "a file, with a header"),
            ("qctl send jobs 'wake up' --at 2030-01-01T08:00:00Z", "for later"),
            ("qctl send jobs 'charge 17' --dedup-id charge-17", "not twice"),
        ],
    ),
    (
        "receive",
        &[
            ("qctl receive jobs --ack", "print one message, then delete it"),
            (
                "qctl receive jobs --wait 30s",
                "its receipt and body; it comes back unless it is deleted",
            ),
            ("qctl receive jobs --follow --ack -o jsonl", "all that come, as JSON"),
            (
                "qctl receive jobs --drain --ack -0 | xargs -0 -n 1 echo",
                "all that are there, any bytes",
            ),
        ],
    ),
    (
        "delete",
        &[
            ("qctl delete jobs \"$receipt\"", "the work is done"),
            (
                "qctl delete jobs \"$receipt\" --and-send done 'cat.jpg'",
                "and send its result, or do neither",
            ),
            ("qctl delete jobs --id 17 18", "what nobody holds"),
        ],
    ),
    ("extend", &[("qctl extend jobs \"$receipt\" --to 5m", "five more minutes from now")]),
    (
        "release",
        &[
            ("qctl release jobs \"$receipt\"", "to be tried again later"),
            ("qctl release jobs \"$receipt\" --no-count", "at once, as if it had not been tried"),
        ],
    ),
    (
        "reject",
        &[("qctl reject jobs \"$receipt\" --reason 'no such customer'", "it can never work")],
    ),
    (
        "reschedule",
        &[
            ("qctl reschedule jobs --id 17 --delay 1h", ""),
            ("qctl reschedule jobs --id 17 --delay 0", "now"),
        ],
    ),
    (
        "redrive",
        &[
            ("qctl redrive jobs.dead", "back to where they came from"),
            ("qctl redrive jobs.dead --max 10 --rate 1/s", "ten of them, slowly"),
            ("qctl redrive jobs.dead --to other --dry-run", "how many would go there"),
        ],
    ),
    (
        "peek",
        &[
            ("qctl peek jobs", "the first ten, without taking them"),
            ("qctl peek jobs --state leased -o jsonl", "what is being worked on"),
            ("qctl peek jobs --id 17 --body", "one message's bytes"),
        ],
    ),
    (
        "purge",
        &[
            ("qctl purge jobs --older-than 30d --dry-run", "how many would go"),
            ("qctl purge jobs --yes", "all of them"),
        ],
    ),
    ("pause", &[("qctl pause jobs mail", "deliver nothing until they are resumed")]),
    ("resume", &[("qctl resume jobs mail", "")]),
    (
        "update",
        &[
            ("qctl update jobs --visibility-timeout 10m", ""),
            ("qctl update jobs --max-messages unlimited --dead-letter none", ""),
        ],
    ),
    (
        "drop",
        &[
            ("qctl drop jobs", "asks first when it holds messages"),
            ("qctl drop jobs jobs.dead --if-exists --yes", "in a script"),
        ],
    ),
    (
        "list",
        &[
            ("qctl list", ""),
            ("qctl list 'mail.*' --columns name,ready,oldest_age_s", ""),
            ("qctl list -o jsonl", "everything about them"),
        ],
    ),
    (
        "info",
        &[("qctl info jobs", ""), ("qctl info jobs --columns ready", "one number for a script")],
    ),
    (
        "stats",
        &[("qctl stats", ""), ("qctl stats 'mail.*' --watch 1s", "with rates, again and again")],
    ),
    (
        "export",
        &[
            ("qctl export > queues.toml", ""),
            (
                "qctl -s ONE:7655 export | qctl -s OTHER:7655 apply -f -",
                "the same queues on another server",
            ),
        ],
    ),
    (
        "apply",
        &[
            ("qctl apply -f queues.toml --dry-run", "what would change"),
            ("qctl apply -f queues.toml", ""),
            ("qctl apply -f queues.toml --prune --check", "status 1 when anything differs"),
        ],
    ),
    ("top", &[("qctl top", "")]),
    ("ping", &[("qctl ping", ""), ("qctl ping -n 100 --interval 10ms", "how fast it answers")]),
    ("server", &[("qctl server info", ""), ("qctl server stop", "")]),
    ("server info", &[("qctl server info", ""), ("qctl server info --columns version", "")]),
    (
        "server check",
        &[
            ("qctl server check --max-age 5m,1h --max-ready 10000 --max-dead 0", "warn from 5m on"),
            ("qctl server check jobs 'mail.*' --max-response 1s --timeout 5s", ""),
        ],
    ),
    ("server stop", &[("qctl server stop", "")]),
    (
        "work",
        &[
            ("qctl work jobs -- ./job", "the body is on its standard input"),
            ("qctl work urgent,jobs -P 8 --kill-after 5m -- ./job", "eight at a time"),
            ("qctl work jobs --batch 1000 --exit-when-empty -- xargs -0 ./insert", "from cron"),
        ],
    ),
    (
        "bench",
        &[
            ("qctl bench send --connections 16 --batch 100", ""),
            ("qctl bench mixed --rate 1000/s --duration 1m", "latency at a rate"),
        ],
    ),
    (
        "context",
        &[
            ("qctl context add prod -s 10.0.0.1:7655,10.0.0.2:7655 --timeout 30s", ""),
            ("qctl context use prod", "from now on"),
            ("qctl list --context prod", "once"),
        ],
    ),
    ("context add", &[("qctl context add prod -s 10.0.0.1:7655 --timeout 30s", "")]),
    ("context list", &[("qctl context list", "")]),
    (
        "context use",
        &[("qctl context use prod", ""), ("qctl context use default", "the default server again")],
    ),
    ("context show", &[("qctl context show", "the one that commands use")]),
    ("context remove", &[("qctl context remove prod", "")]),
    ("demo", &[("qctl demo", "")]),
    ("completions", &[("eval \"$(qctl completions bash)\"", "in ~/.bashrc")]),
];

/// The examples of a verb, or of an action of one, for its help.
pub fn of(verb: &str) -> Option<String> {
    let (_, examples) = EXAMPLES.iter().find(|(name, _)| *name == verb)?;
    let lines = examples.iter().map(|(command, what)| {
        if what.is_empty() { format!("  {command}") } else { format!("  {command}  # {what}") }
    });
    Some(format!("Examples:\n{}", lines.collect::<Vec<_>>().join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{command, parse_words};
    use crate::words;

    #[test]
    fn every_verb_has_examples_and_they_stand_first() {
        let mut names = Vec::new();
        let command = command();
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            names.push(verb.get_name().to_owned());
            let actions = verb.get_subcommands();
            names
                .extend(actions.map(|action| format!("{} {}", verb.get_name(), action.get_name())));
        }
        for name in &names {
            let examples = of(name).unwrap_or_else(|| panic!("{name} has no examples"));
            for line in [format!("help {name}"), format!("{name} --help")] {
                let words = words::split(line.as_bytes()).unwrap();
                let help = parse_words(words).unwrap_err().to_string();
                assert!(help.starts_with(&examples), "{line}:\n{help}");
            }
            let words = words::split(format!("{name} -h").as_bytes()).unwrap();
            assert!(
                !parse_words(words).unwrap_err().to_string().contains("Examples:"),
                "{name} -h"
            );
        }
        for (verb, _) in EXAMPLES {
            assert!(names.iter().any(|name| name == verb), "there is no {verb}");
        }
    }

    #[test]
    fn examples_are_commands() {
        for (verb, examples) in EXAMPLES {
            for (example, _) in *examples {
                let commands = example.trim_start_matches("eval \"$(").trim_end_matches(")\"");
                let mut of_verb = 0;
                for command in commands.split(" | ") {
                    let command =
                        command.split([' ']).take_while(|word| *word != "<" && *word != ">");
                    let command = command.collect::<Vec<_>>().join(" ");
                    let Some(line) = command.strip_prefix("qctl ") else {
                        continue;
                    };
                    let words = words::split(line.as_bytes()).unwrap();
                    parse_words(words).unwrap_or_else(|error| panic!("{example}: {error}"));
                    of_verb += usize::from(format!(" {line} ").contains(&format!(" {verb} ")));
                }
                assert!(of_verb > 0 || *verb == "context", "{example} is none of {verb}");
                assert!(example.len() <= 100, "{example}");
            }
        }
    }
}
