//! What may stand at the cursor, of the prompt or of a shell, by the grammar.
//!
//! Always true here: where it is not known what a value may be (a receipt, a body, a duration)
//! nothing is offered.

use clap::builder::{Str, StyledStr, ValueRange};
use clap::{Arg, ArgAction, Command};

use crate::config;
use crate::verbs;
use crate::words;

/// What else may stand at the cursor, which others know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// Nothing.
    None,
    /// Names of queues.
    Queues,
    /// Files.
    Files,
    /// Directories.
    Directories,
    /// Programs.
    Programs,
}

/// What stands at the cursor, and what may.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Words that may stand there, whatever stands there now.
    pub words: Vec<String>,
    /// What may besides.
    pub others: Others,
    /// Where the part to be completed starts.
    pub start: usize,
    /// That part.
    pub prefix: &'a str,
    root: &'a Command,
    verb: &'a Command,
}

impl<'a> Asked<'a> {
    /// At the end of `before`, typed at the prompt.
    pub fn at(root: &'a Command, before: &'a str) -> Self {
        Self::walked(root, before, false)
    }

    /// At the end of `before`, typed behind `qctl` in a shell.
    pub fn in_shell(root: &'a Command, before: &'a str) -> Self {
        Self::walked(root, before, true)
    }

    /// What a word that is offered means.
    pub fn about(&self, word: &str) -> Option<String> {
        let first_line = |text: &StyledStr| text.to_string().lines().next().map(str::to_owned);
        if let Some(long) = word.strip_prefix("--") {
            let mut flags = self.verb.get_arguments().chain(self.root.get_arguments());
            return first_line(flags.find(|flag| flag.get_long() == Some(long))?.get_help()?);
        }
        first_line(self.verb.find_subcommand(word)?.get_about()?)
    }

    fn walked(root: &'a Command, before: &'a str, in_shell: bool) -> Self {
        let start = before.rfind([' ', '\t']).map_or(0, |at| at + 1);
        let (earlier, prefix) = before.split_at(start);
        let (words, others) = (Vec::new(), Others::None);
        let nothing = Self { words, others, start, prefix, root, verb: root };
        // Inside a quote it is anybody's text.
        let Ok(earlier) = words::split(earlier.as_bytes()) else {
            return nothing;
        };
        let mut walk = Walk::new(root, in_shell);
        for word in &earlier {
            if !walk.take(&String::from_utf8_lossy(word)) {
                return nothing;
            }
        }
        walk.asked(Self { verb: walk.verb, ..nothing })
    }

    /// A value of this flag or argument, behind as many as are `taken`.
    fn value(self, arg: &Arg, taken: usize, verb: &str) -> Self {
        let listed = arg.get_value_delimiter().and_then(|comma| self.prefix.rfind(comma));
        let asked = self.behind(listed.map_or(0, |at| at + 1));
        let mut words: Vec<String> =
            arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        match arg.get_id().as_str() {
            "columns" => words = verbs::columns(verb),
            "context" => words.push(config::DEFAULT.to_owned()),
            "dead_letter" => words.push("none".to_owned()),
            _ => {}
        }
        let names = arg.get_value_names().unwrap_or_default();
        // Of a flag with several values each has its name.
        let name = names.get(taken).or(names.last());
        if name.is_some_and(|name| name == "CONTEXT") {
            words.extend(config::names());
        }
        let others = match name.map(Str::as_str) {
            Some("QUEUE" | "PATTERN") => Others::Queues,
            Some("DIR") => Others::Directories,
            // Of a command the first word, behind which there is anything.
            Some("COMMAND") if taken == 0 => Others::Programs,
            Some("FILE" | "COMMAND") => Others::Files,
            _ => Others::None,
        };
        Self { words, others, ..asked }
    }

    /// With the first bytes left as they are.
    fn behind(self, bytes: usize) -> Self {
        let prefix = self.prefix.get(bytes..).unwrap_or_default();
        Self { start: self.start + bytes, prefix, ..self }
    }
}

/// What the words so far say about the next one.
struct Walk<'c> {
    root: &'c Command,
    verb: &'c Command,
    /// The verb and its action: `server stop`.
    name: String,
    /// A flag whose values come next.
    flag: Option<&'c Arg>,
    /// Values that it has so far.
    values: usize,
    /// Arguments of the verb so far.
    arguments: usize,
    /// Behind `--` nothing is a flag.
    no_flags: bool,
    /// `help`: the next word is a verb.
    help: bool,
    /// Of the command line, which has flags that lines do not have.
    in_shell: bool,
}

impl<'c> Walk<'c> {
    fn new(root: &'c Command, in_shell: bool) -> Self {
        Self {
            root,
            verb: root,
            name: String::new(),
            flag: None,
            values: 0,
            arguments: 0,
            no_flags: false,
            help: false,
            in_shell,
        }
    }

    /// Takes a whole word; `false` when it is none of the grammar.
    fn take(&mut self, word: &str) -> bool {
        if let Some(flag) = self.flag.take()
            && is_value(flag, word)
        {
            self.values += 1;
            self.flag = Some(flag).filter(|flag| values(flag).max_values() > self.values);
            return true;
        }
        self.values = 0;
        if self.no_flags || !looks_like_flag(word) {
            return self.take_argument(word);
        }
        if word == "--" {
            self.no_flags = true;
        } else if let Some(long) = word.strip_prefix("--") {
            self.flag = self.find(|flag| flag.get_long() == Some(long));
        } else {
            self.take_letters(word);
        }
        true
    }

    fn take_argument(&mut self, word: &str) -> bool {
        if !self.verb.has_subcommands() {
            self.arguments += 1;
            return true;
        }
        if word == "help" {
            self.help = true;
            return true;
        }
        let Some(found) = self.verb.find_subcommand(word) else {
            return false;
        };
        self.verb = found;
        if !self.name.is_empty() {
            self.name.push(' ');
        }
        self.name.push_str(word);
        true
    }

    /// `-0n`: the last letter may be a flag with a value; `-n5` has it.
    fn take_letters(&mut self, word: &str) {
        let mut letters = word.chars().skip(1);
        while let Some(letter) = letters.next() {
            if let Some(flag) = self.find(|flag| flag.get_short() == Some(letter)) {
                self.flag = letters.next().is_none().then_some(flag);
                return;
            }
        }
    }

    /// A flag with values, of the verb or of all verbs.
    fn find(&self, is: impl Fn(&Arg) -> bool) -> Option<&'c Arg> {
        let (own, all) = (self.verb.get_arguments(), self.root.get_arguments());
        let mut flags = own.chain(all.filter(|flag| flag.is_global_set()));
        flags.find(|flag| is(flag) && flag.get_action().takes_values())
    }

    /// What may come next.
    fn asked(&self, asked: Asked<'c>) -> Asked<'c> {
        let verb = self.name.as_str();
        if let Some(flag) = self.flag
            && is_value(flag, asked.prefix)
        {
            return asked.value(flag, self.values, verb);
        }
        if !self.no_flags && asked.prefix.starts_with('-') {
            let Some((long, _)) = asked.prefix.split_once('=') else {
                return Asked { words: self.flags(), ..asked };
            };
            let flag = self.find(|flag| flag.get_long() == long.strip_prefix("--"));
            return match flag {
                Some(flag) => asked.behind(long.len() + 1).value(flag, 0, verb),
                None => asked,
            };
        }
        if self.help || self.verb.has_subcommands() {
            return Asked { words: self.verbs(), ..asked };
        }
        let mut arguments = self.verb.get_positionals();
        let next = arguments.nth(self.arguments).or_else(|| {
            let last = self.verb.get_positionals().last();
            last.filter(|last| matches!(last.get_action(), ArgAction::Append))
        });
        // What may only stand behind `--`.
        let next = next.filter(|argument| self.no_flags || !argument.is_last_set());
        match next {
            Some(argument) => {
                let before = self.verb.get_positionals().take_while(|other| *other != argument);
                asked.value(argument, self.arguments.saturating_sub(before.count()), verb)
            }
            None => asked,
        }
    }

    fn verbs(&self) -> Vec<String> {
        let verbs = self.verb.get_subcommands().filter(|verb| !verb.is_hide_set());
        let verbs = verbs.map(Command::get_name);
        let more: &[&str] = match (self.is_at_root(), self.in_shell) {
            (true, false) => &["help", "exit"],
            (true, true) => &["help"],
            (false, _) => &[],
        };
        verbs.chain(more.iter().copied()).map(str::to_owned).collect()
    }

    fn is_at_root(&self) -> bool {
        self.verb.get_name() == self.root.get_name()
    }

    fn flags(&self) -> Vec<String> {
        let (own, all) = (self.verb.get_arguments(), self.root.get_arguments());
        // Those of the root that are not for all verbs are for the command line.
        let all_of_own = self.in_shell || !self.is_at_root();
        let own = own.filter(|flag| all_of_own || flag.is_global_set());
        let all = all.filter(|flag| flag.is_global_set());
        let mut flags: Vec<String> = own
            .chain(all)
            .filter(|flag| !flag.is_hide_set())
            .filter_map(Arg::get_long)
            .chain(["help"])
            .map(|long| format!("--{long}"))
            .collect();
        flags.sort_unstable();
        flags.dedup();
        flags
    }
}

fn looks_like_flag(word: &str) -> bool {
    word.len() > 1 && word.starts_with('-')
}

/// How many values a flag takes.
fn values(flag: &Arg) -> ValueRange {
    flag.get_num_args().unwrap_or_default()
}

/// Whether a word behind a flag is a value of it, and not the next flag.
fn is_value(flag: &Arg, word: &str) -> bool {
    let range = values(flag);
    range.min_values() == range.max_values() || !looks_like_flag(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::command;

    /// Words offered, whether queues are, and the part that is completed.
    fn asked(line: &str) -> (Vec<String>, bool, String) {
        let command = command();
        let asked = Asked::at(&command, line);
        assert_eq!(asked.start + asked.prefix.len(), line.len(), "{line}");
        let prefix = asked.prefix.to_owned();
        (
            asked.words.into_iter().filter(|word| word.starts_with(&prefix)).collect(),
            asked.others == Others::Queues,
            prefix,
        )
    }

    fn is(line: &str, words: &[&str]) {
        let found = asked(line);
        assert_eq!(
            (found.0.iter().map(String::as_str).collect::<Vec<_>>(), found.1),
            (words.to_vec(), false),
            "{line}"
        );
    }

    #[test]
    fn verbs_and_their_actions_are_offered() {
        is("rec", &["receive"]);
        is("-o json rec", &["receive"]);
        is("help se", &["send", "server"]);
        is("ex", &["extend", "export", "exit"]);
        is("pe", &["peek"]);
        is("res", &["reschedule", "resume"]);
        is("server ", &["info", "check", "stop"]);
        is("context ", &["add", "list", "use", "show", "remove"]);
        is("bench mi", &["mixed"]);
        is("completions z", &["zsh"]);
        assert!(asked("").0.len() > 15);
    }

    #[test]
    fn queues_are_offered_where_a_queue_belongs_and_nowhere_else() {
        for (line, prefix) in [
            ("send jo", "jo"),
            ("receive a,b", "b"),
            ("drop a b", "b"),
            ("list j", "j"),
            ("redrive jobs.d", "jobs.d"),
            ("redrive jobs.dead --to ", ""),
            ("redrive jobs.dead --to=o", "o"),
            ("bench send --queue j", "j"),
            ("delete jobs R --and-send j", "j"),
            ("delete jobs R --and-send a x --and-send ", ""),
            ("create jobs --with ", ""),
            ("peek j", "j"),
            ("pause a j", "j"),
            ("stats a ", ""),
            ("export a ", ""),
            ("server check a --max-ready 5 ", ""),
            ("-o json info j", "j"),
            ("receive -n 5 j", "j"),
            ("receive -n5 j", "j"),
            ("receive --ack j", "j"),
            ("delete --id 1 -- j", "j"),
        ] {
            assert_eq!(asked(line), (Vec::new(), true, prefix.to_owned()), "{line}");
        }
        for line in [
            "send jobs ",
            "send jobs a ",
            "send 'jobs ",
            "delete jobs ",
            "delete jobs R ",
            "delete jobs --id ",
            "delete jobs --id 1 ",
            "info jobs ",
            "delete jobs R --and-send a ",
            "delete jobs R --and-send a x ",
            "peek jobs ",
            "peek jobs --id ",
            "send jobs x --group ",
            "nonsense ",
            "create jobs --retry-delay 1s,",
            "receive jobs --wait ",
            "receive jobs -n ",
            "ping ",
            "apply ",
            "apply -f ",
            "context add ",
        ] {
            is(line, &[]);
        }
    }

    #[test]
    fn values_that_are_known_are_offered() {
        is("create jobs --overflow ", &["reject", "drop-oldest"]);
        is("create jobs --overflow=d", &["drop-oldest"]);
        is("update jobs --dead-letter-expired ", &["true", "false"]);
        is("update jobs --ordered ", &["true", "false"]);
        is("peek jobs --state ", &["ready", "delayed", "leased"]);
        is("peek jobs --columns st", &["state"]);
        is("list -o ", &["table", "plain", "json", "jsonl", "csv", "shell"]);
        is("list --output j", &["json", "jsonl"]);
        is(
            "list --columns name,dead_letter_",
            &["dead_letter_expired", "dead_letter_overflow", "dead_letter_blocked"],
        );
        is("receive jobs --columns=id,bo", &["body"]);
        is("server stop --columns ", &["server", "stopped"]);
        is("context list --columns na", &["name"]);
        is("context use --columns ", &["context", "used"]);
        assert!(asked("list --context d").0.contains(&"default".to_owned()));
        assert_eq!(
            asked("update jobs --dead-letter "),
            (vec!["none".to_owned()], true, String::new())
        );
    }

    #[test]
    fn flags_of_the_verb_and_global_ones_are_offered() {
        is("send jobs --l", &["--length-prefixed", "--lines"]);
        is("send jobs --ou", &["--output"]);
        is("send jobs -- --l", &[]);
        is("create jobs --dead-letter-expired --or-", &["--or-update"]);
        is("reject jobs --rea", &["--reason"]);
        is("send --ack", &[]);
        is("--keep", &[]);
        assert!(asked("ping --").0.contains(&"--help".to_owned()));
    }

    #[test]
    fn files_directories_and_programs_are_left_to_the_shell() {
        let command = command();
        let others = |line: &str| Asked::in_shell(&command, line).others;
        assert_eq!(others("send jobs -f "), Others::Files);
        assert_eq!(others("send jobs --file=x"), Others::Files);
        assert_eq!(others("-f "), Others::Files);
        assert_eq!(others("apply --file "), Others::Files);
        assert_eq!(others("bench disk --dir x"), Others::Directories);
        assert_eq!(others("work a,"), Others::Queues);
        assert_eq!(others("work a "), Others::None);
        assert_eq!(others("work a -- "), Others::Programs);
        assert_eq!(others("work a -- sh "), Others::Files);
        assert_eq!(others("work a -- sh -c "), Others::Files);
        assert_eq!(others("send jobs "), Others::None);
    }

    #[test]
    fn shell_has_the_flags_of_the_command_line() {
        let command = command();
        let at = |line: &str| Asked::in_shell(&command, line).words;
        for flag in ["--file", "--interactive", "--server"] {
            assert!(at("-").contains(&flag.to_owned()), "{flag}");
        }
        assert!(!at("list -").contains(&"--interactive".to_owned()));
        assert!(at("").contains(&"help".to_owned()) && !at("").contains(&"exit".to_owned()));
        assert!(!at("").iter().any(|word| word.starts_with('_')));
    }

    #[test]
    fn verbs_and_flags_say_what_they_are() {
        let command = command();
        let about = |line: &str, word: &str| Asked::in_shell(&command, line).about(word);
        assert_eq!(about("", "list").as_deref(), Some("Show the queues"));
        assert_eq!(
            about("server ", "info").as_deref(),
            Some("Show the server's version, limits and totals")
        );
        assert_eq!(
            about("receive -", "--ack").as_deref(),
            Some("Delete each message once it is written to standard output")
        );
        assert_eq!(
            about("receive -", "--no-header").as_deref(),
            Some("No header above a table or CSV")
        );
        assert_eq!(about("receive ", "jobs"), None);
    }

    #[test]
    fn columns_of_every_verb_with_records_are_known() {
        let command = command();
        let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set());
        for verb in verbs.map(Command::get_name) {
            let none =
                ["server", "top", "context", "bench", "work", "demo", "completions", "export"]
                    .contains(&verb);
            assert_eq!(verbs::columns(verb).is_empty(), none, "{verb}");
        }
    }
}
