//! The grammar: one parser for a command line, a line of a script and a line at the prompt.
//!
//! The flags of a verb are declared once, beside the verb, in [`crate::verbs`].

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use qd_protocol::Address;

use crate::examples;
use crate::units;
use crate::verbs;

/// The command line of the qd message queue.
///
/// Without a verb: a prompt on a terminal, else the lines of standard input as a script.
#[derive(Debug, Clone, Parser)]
#[command(name = "qctl", version, infer_subcommands = false)]
#[command(after_help = "qctl(1) has the output, the exit statuses and examples of every verb.")]
pub struct Cli {
    /// Run the lines of FILE as commands, up to the first that fails
    #[arg(short = 'f', long, value_name = "FILE", conflicts_with = "interactive")]
    pub file: Option<PathBuf>,
    /// Go on with a script behind a command that fails
    #[arg(long)]
    pub keep_going: bool,
    /// Read commands at a prompt, also when standard input is no terminal
    #[arg(short, long)]
    pub interactive: bool,
    /// Leave the leases taken at the prompt when it ends
    #[arg(long, conflicts_with = "file")]
    pub keep: bool,
    /// What holds for every verb; behind the others, which its heading is not for.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// Flags that every verb takes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Servers to try in turn.
    #[arg(
        help = "Servers to try in turn: unix:/path, host:port or qd://host:port \
                [default: QCTL_SERVER, else the system's or your own]",
        short,
        long,
        global = true,
        value_name = "ADDR",
        value_delimiter = ','
    )]
    pub server: Vec<Address>,
    /// A context, by its name.
    #[arg(
        help = "A context, by its name [default: QCTL_CONTEXT, else the current one]",
        long,
        global = true,
        value_name = "CONTEXT"
    )]
    pub context: Option<String>,
    /// The context that has given what no flag has.
    #[arg(skip)]
    pub of_context: Option<String>,
    /// The server is the default one, whatever `QCTL_SERVER` says.
    #[arg(skip)]
    pub default_server: bool,
    /// Form of the output [default: table on a terminal, else plain]
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,
    /// Which columns, in which order
    #[arg(long, global = true, value_name = "NAME", value_delimiter = ',', require_equals = false)]
    pub columns: Vec<String>,
    /// No header above a table or CSV
    #[arg(long, global = true)]
    pub no_header: bool,
    /// Give up after this time, with status 124
    #[arg(long, global = true, value_name = "D", value_parser = units::duration_ms)]
    pub timeout: Option<u64>,
    /// Never start a qd for this user
    #[arg(long, global = true)]
    pub no_autostart: bool,
    /// Write bodies as they are, also to a terminal
    #[arg(long, global = true, overrides_with = "no_raw")]
    pub raw: bool,
    /// Escape control characters in bodies, also into a pipe
    #[arg(long, global = true, overrides_with = "raw")]
    pub no_raw: bool,
}

impl Global {
    /// Whether the output is to be JSON, where it does not depend on a terminal.
    pub fn is_json(&self) -> bool {
        matches!(self.output, Some(Format::Json | Format::Jsonl))
    }

    /// These flags, and where they say nothing those of `outer`: a line of a script under the
    /// command line that runs the script.
    #[must_use]
    pub fn under(self, outer: &Self) -> Self {
        let raw_given = self.raw || self.no_raw;
        // A context that a line names goes before a server that it does not.
        let server =
            if self.context.is_some() { self.server } else { or_else(self.server, &outer.server) };
        Self {
            server,
            context: self.context.or_else(|| outer.context.clone()),
            of_context: None,
            default_server: false,
            output: self.output.or(outer.output),
            columns: or_else(self.columns, &outer.columns),
            no_header: self.no_header || outer.no_header,
            timeout: self.timeout.or(outer.timeout),
            no_autostart: self.no_autostart || outer.no_autostart,
            raw: if raw_given { self.raw } else { outer.raw },
            no_raw: if raw_given { self.no_raw } else { outer.no_raw },
        }
    }
}

/// Whether words that the parser does not take ask for JSON.
pub fn asks_for_json(words: impl IntoIterator<Item = Vec<u8>>) -> bool {
    matches!(format_asked(words), Some(Format::Json | Format::Jsonl))
}

/// The form of output that words ask for which the parser does not take.
pub fn format_asked(words: impl IntoIterator<Item = Vec<u8>>) -> Option<Format> {
    let mut words = words.into_iter().take_while(|word| word != b"--");
    let mut format = None;
    while let Some(word) = words.next() {
        format = match word.as_slice() {
            b"-o" | b"--output" => words.next(),
            word => word
                .strip_prefix(b"--output=")
                .or_else(|| word.strip_prefix(b"-o").filter(|_| !word.starts_with(b"--")))
                .map(|value| value.strip_prefix(b"=").unwrap_or(value).to_vec()),
        }
        .or(format);
    }
    Format::from_str(std::str::from_utf8(&format?).ok()?, false).ok()
}

fn or_else<T: Clone>(inner: Vec<T>, outer: &[T]) -> Vec<T> {
    if inner.is_empty() { outer.to_vec() } else { inner }
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns for people
    Table,
    /// One record a line, columns separated by tabs
    Plain,
    /// One JSON document
    Json,
    /// One JSON object a line
    Jsonl,
    /// Values separated by commas, with a header
    Csv,
    /// Assignments of variables, for eval in sh; one record only
    Shell,
}

impl Format {
    /// As the flag has it.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// What to do. The help of a verb is the text of its struct: one here would replace it, the long
/// one too.
#[derive(Debug, Clone, Subcommand)]
pub enum Verb {
    Create(verbs::create::Create),
    Send(verbs::send::Send),
    Receive(verbs::receive::Receive),
    Delete(verbs::delete::Delete),
    Extend(verbs::extend::Extend),
    Release(verbs::release::Release),
    Reject(verbs::reject::Reject),
    Reschedule(verbs::reschedule::Reschedule),
    Redrive(verbs::redrive::Redrive),
    Peek(verbs::peek::Peek),
    Purge(verbs::purge::Purge),
    Pause(verbs::pause::Pause),
    Resume(verbs::pause::Resume),
    Update(verbs::update::Update),
    Drop(verbs::drop::Drop),
    List(verbs::list::List),
    Info(verbs::info::Info),
    Stats(verbs::stats::Stats),
    Export(verbs::export::Export),
    Apply(verbs::apply::Apply),
    Top(crate::top::Top),
    Ping(verbs::ping::Ping),
    Server(verbs::server::Server),
    Work(crate::work::Work),
    Bench(crate::bench::Bench),
    Context(verbs::context::ContextVerb),
    Demo(crate::demo::Demo),
    Completions(verbs::completions::Completions),
    #[command(name = "__complete", hide = true)]
    Complete(verbs::complete::Complete),
}

/// The grammar as clap's own structure.
pub fn command() -> clap::Command {
    Cli::command().mut_args(negative_is_a_value).mut_subcommands(|verb| {
        let name = verb.get_name().to_owned();
        with_examples(verb, &name).mut_args(negative_is_a_value).mut_subcommands(|action| {
            let name = format!("{name} {}", action.get_name());
            with_examples(action, &name).mut_args(negative_is_a_value)
        })
    })
}

/// The examples come first in the long help; the short one is short.
fn with_examples(verb: clap::Command, name: &str) -> clap::Command {
    match examples::of(name) {
        Some(examples) => verb.before_long_help(examples),
        None => verb,
    }
}

/// `-1` and `-1s` for a number are told to be out of its range rather than to be no flag.
fn negative_is_a_value(arg: clap::Arg) -> clap::Arg {
    let numbers = ["N", "N/s", "D", "SIZE", "ID"];
    let is_number = arg
        .get_value_names()
        .unwrap_or_default()
        .iter()
        .any(|name| numbers.contains(&name.as_str()));
    match arg.get_num_args() {
        _ if !is_number => arg,
        // Any text, so that the next flag would be one too.
        _ if arg.get_id() == "dedup_id" => arg.allow_negative_numbers(true),
        // Behind several values the next flag must stay one.
        Some(_) => arg.allow_negative_numbers(true),
        None => arg.allow_hyphen_values(true),
    }
}

/// Reads a command line.
pub fn parse_from(words: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(words)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// Reads the words of a line, the program's name excluded.
pub fn parse_words(words: Vec<Vec<u8>>) -> Result<Cli, clap::Error> {
    use std::os::unix::ffi::OsStringExt;
    let words = words.into_iter().map(OsString::from_vec);
    parse_from(std::iter::once(OsString::from("qctl")).chain(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        parse_words(crate::words::split(line.as_bytes()).unwrap())
    }

    #[test]
    fn grammar_is_consistent() {
        command().debug_assert();
    }

    const GOOD: &[&str] = &[
        "create jobs --max-messages 10 --max-bytes 1GiB --max-message-size 64KiB --visibility-timeout 5m --if-not-exists",
        "create jobs --max-messages unlimited --or-update",
        "send jobs hello world",
        "send jobs -",
        "send jobs -5",
        "send jobs -f a -f b -H k=v --header k2=v2",
        "send jobs --lines",
        "send jobs --null -f x",
        "send jobs --length-prefixed -f x",
        "receive a --drain --ack --length-prefixed",
        "receive a --follow --dir bodies -o jsonl",
        "receive a,b -n 5 --wait 30s --visibility-timeout 0 --ack --body -0",
        "receive a --delete-on-receive",
        "receive a --follow --ack",
        "receive a --drain -o jsonl",
        "delete jobs -",
        "delete jobs --id 1 2 3",
        "create jobs --max-in-flight 10 --delay 5m",
        "update jobs --max-in-flight unlimited --delay 0",
        "create jobs --retention 14d --overflow drop-oldest",
        "update jobs --retention forever --overflow reject",
        "send jobs hello --ttl 5m",
        "send jobs hello --delay 1h",
        "send jobs hello --at 2030-01-31T12:00:00+01:00",
        "extend jobs R --by 5m",
        "extend jobs - --to 0",
        "release jobs R S --delay 30s --no-count",
        "create jobs --max-deliveries 5 --dead-letter other --retry-delay 1s,5s,1m",
        "create jobs --dead-letter-expired --dead-letter-overflow --retry-delay 0",
        "update jobs --max-deliveries unlimited --dead-letter none",
        "update jobs --dead-letter-expired false --dead-letter-overflow true",
        "update --dead-letter-expired=false jobs",
        "reject jobs R S --reason 'no such customer'",
        "reject jobs - --reason ''",
        "redrive jobs.dead",
        "redrive jobs.dead --to other --max 10 --rate 100/s -H k=v --header k2=v2 --dry-run",
        "reschedule jobs --id 1 2 --delay 0",
        "reschedule jobs --id 1 --id 2 --at 2030-01-31T12:00:00Z",
        "create jobs --ordered --dedup-window 14d --with other",
        "create jobs --ordered false --dedup-window 0",
        "update jobs --ordered=false --dedup-window 5m",
        "send jobs x --priority 255 --group g --dedup-id d --unique",
        "send jobs x --priority 0 --group '' --atomic",
        "send jobs x --group -5 --dedup-id -5",
        "send jobs --jsonl --atomic -f a --priority 7",
        "delete jobs R S --and-send done x",
        "delete jobs R --and-send done - --and-send other --x -s unix:/a",
        "peek jobs",
        "peek jobs -n 5 --state delayed --after 0 --header k=v -H k2=v2",
        "peek jobs --id 5 --body -0",
        "purge jobs --yes",
        "purge jobs --older-than 14d --header k=v -H k2=v2 --dry-run",
        "pause jobs other",
        "resume jobs",
        "stats",
        "stats jobs 'a*' -o jsonl",
        "top",
        "top --interval 500ms --timeout 5s",
        "stats --watch 5s",
        "stats jobs --watch 100ms --count 2 --columns name,in_rate",
        "work jobs -- true",
        "work a,b -P 8 --batch 100 --kill-after 5m --max-messages 3 --exit-when-empty -- sh -c 'exit 3' -s x",
        "work jobs -o json --timeout 5m -- ./run --help -P",
        "bench send --groups 10",
        "-i --keep",
        "drop a b --if-exists --if-empty --yes",
        "export",
        "export jobs 'a*' --all -o json",
        "apply -f definitions.toml --prune --yes",
        "apply -f - --dry-run",
        "apply --check --file definitions.json --prune",
        "list 'j*' --columns name,ready --no-header",
        "info jobs -o json",
        "ping --timeout 5s -s unix:/a,localhost:7",
        "server stop",
        "server info -o json",
        "server check",
        "server check jobs 'a*' --max-age 5m,1h --max-ready 10000 --max-dead 0,10 --max-response 1s",
        "server check --max-delayed 1 --max-leased 1 --max-blocked 1 --max-bytes 1MiB,1GiB",
        "ping -n 10 --interval 0",
        "ping --count 3 --interval 500ms",
        "context add prod -s unix:/a,h:7 --timeout 30s -o json --or-update",
        "context list --columns name",
        "context use prod",
        "context show",
        "context show prod -o json",
        "context remove prod test",
        "list --context prod",
        "bench send --connections 4 --batch 100 --rate 1000/s --duration 5s",
        "completions bash",
        "demo",
        "-i",
        "-f script --keep-going",
    ];

    #[test]
    fn every_verb_of_the_contract_parses() {
        for line in GOOD {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn help_of_a_verb_is_its_long_text_and_lists_have_the_short_one() {
        let help = |line: &str| parse(line).unwrap_err().to_string();
        for line in ["help receive", "receive --help"] {
            assert!(help(line).contains("COMES BACK"), "{}", help(line));
        }
        for line in ["receive -h", "help"] {
            assert!(help(line).contains("Take messages out of queues"), "{}", help(line));
            assert!(!help(line).contains("COMES BACK"), "{}", help(line));
        }
        for verb in command().get_subcommands() {
            let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
            let short = !about.is_empty() && !about.ends_with('.') && !about.contains('\n');
            assert!(short, "{}: {about}", verb.get_name());
        }
    }

    #[test]
    fn help_of_update_has_no_defaults() {
        let help = parse("help update").unwrap_err().to_string();
        assert!(
            !help.contains("default:") || help.find("default:") > help.find("Global"),
            "{help}"
        );
        assert!(parse("help create").unwrap_err().to_string().contains("[default: 16]"));
    }

    const NONSENSE: &[&str] = &[
        "sned jobs x",
        "send",
        "send a/b x",
        "receive a --ack --delete-on-receive",
        "receive a --drain --follow",
        "receive a -n 0",
        "receive a --wait 5",
        "create jobs --if-not-exists --or-update",
        "create jobs --max-message-size 1.5MiB",
        "list -o xml",
        "send jobs --lines --null",
        "send jobs -H novalue",
        "send jobs -H =v",
        "ping --server nonsense",
        "delete jobs",
        "delete jobs R --id 1",
        "delete jobs --id",
        "delete jobs --id -1",
        "delete jobs --id x",
        "extend jobs R",
        "extend jobs --by 5m",
        "extend jobs R --by 5m --to 5m",
        "extend jobs R --by 366d",
        "extend jobs R --by -5m",
        "release jobs",
        "release jobs R --delay 36501d",
        "reschedule jobs --delay 5m",
        "reschedule jobs --id 1",
        "reschedule jobs --id 1 --delay 5m --at 2030-01-31T12:00:00Z",
        "send jobs x --delay 5m --at 2030-01-31T12:00:00Z",
        "send jobs x --delay 99999999999999d",
        "send jobs x --ttl 0",
        "send jobs x --ttl 36501d",
        "send jobs x --ttl forever",
        "create jobs --retention never",
        "create jobs --retention 36501d",
        "create jobs --overflow drop-newest",
        "create jobs --overflow 1",
        "create jobs --max-deliveries many",
        "create jobs --max-deliveries -1",
        "create jobs --dead-letter a/b",
        "create jobs --dead-letter",
        "create jobs --dead-letter-expired yes",
        "create --dead-letter-expired jobs",
        "create jobs --retry-delay",
        "create jobs --retry-delay 1s,,5s",
        "create jobs --retry-delay 5",
        "reject jobs R",
        "reject jobs --reason x",
        "redrive",
        "redrive jobs.dead --max 0",
        "redrive jobs.dead --rate 0/s",
        "redrive jobs.dead --rate 5",
        "create jobs --dead-letter None",
        "delete jobs --id 0",
        "redrive jobs.dead --rate 5/m",
        "redrive jobs.dead -H novalue",
        "redrive jobs.dead --to a/b",
        "send jobs x --priority 256",
        "send jobs x --priority -1",
        "send jobs x --priority high",
        "send jobs x --dedup-id ''",
        "send jobs x --dedup-id --unique",
        "send jobs x --group",
        "send jobs --jsonl --lines",
        "send jobs --jsonl --null",
        "send jobs --length-prefixed --jsonl",
        "receive jobs -0 --length-prefixed",
        "receive jobs --dir",
        "create jobs --ordered yes",
        "create --ordered jobs",
        "create jobs --dedup-window forever",
        "create jobs --with a/b",
        "create jobs --paused",
        "update jobs --with other",
        "delete jobs --and-send done x",
        "delete jobs R --and-send done",
        "delete jobs --id 1 --and-send done x",
        "peek",
        "peek jobs -n 0",
        "peek jobs --state blocked",
        "peek jobs --state ready --state leased",
        "peek jobs --id 0",
        "peek jobs --after -1",
        "purge",
        "purge jobs other",
        "purge jobs --older-than 5",
        "purge jobs --older-than 36501d",
        "pause",
        "resume",
        "top jobs",
        "top --interval 99ms",
        "stats --watch 99ms",
        "stats --watch 5",
        "stats --count 2",
        "stats --watch 1s --count 0",
        "server",
        "server check --max-age 5",
        "server check --max-ready 5,1",
        "server check --max-bytes -1",
        "ping -n 0",
        "ping --interval 5",
        "context",
        "context add",
        "context add prod h:7",
        "context use",
        "context remove",
        "apply",
        "apply file",
        "apply -f a -f b",
        "apply -f a --dry-run --check",
        "apply -f a --yes",
        "send jobs x --at tomorrow",
        "send jobs x --at 2030-01-31",
        "send jobs x --at 2030-01-31T12:00:00+01",
        "send jobs x --at 2030-01-31T12:00:00",
    ];

    #[test]
    fn nonsense_is_a_usage_error() {
        for line in NONSENSE {
            match parse(line) {
                Ok(_) => panic!("{line} was taken"),
                Err(error) => assert_eq!(error.exit_code(), 2, "{line}"),
            }
        }
    }

    #[test]
    fn json_is_found_in_words_that_do_not_parse() {
        let asks = |line: &str| asks_for_json(crate::words::split(line.as_bytes()).unwrap());
        for line in [
            "nonsense -o json",
            "-ojsonl nonsense",
            "send -o=json",
            "--output json send",
            "send --output=jsonl",
            "-o plain send -o json",
        ] {
            assert!(asks(line), "{line}");
        }
        for line in ["send", "send -o", "send -o xml", "send q -- -o json", "-o json send -o plain"]
        {
            assert!(!asks(line), "{line}");
        }
    }

    #[test]
    fn error_of_the_parser_is_one_line_and_hints() {
        let failure = crate::exit::Failure::from(parse("send -o json").unwrap_err());
        let text = "the following required arguments were not provided: <QUEUE>";
        assert_eq!(failure.to_string(), text);
        let hints = failure.hints().unwrap();
        assert!(hints.starts_with("Usage: qctl send "), "{hints}");
        assert!(!hints.contains("\n\n"), "{hints}");
    }

    #[test]
    fn negative_number_is_out_of_its_range() {
        for line in [
            "create jobs --max-deliveries -1",
            "create jobs --max-bytes -1KiB",
            "create jobs --retry-delay -1s",
            "create jobs --retry-delay 1s,-1s",
            "redrive jobs.dead --max -1",
            "redrive jobs.dead --rate -1/s",
            "receive jobs -n -1",
            "receive jobs --wait -1s --ack",
            "delete jobs --id -1",
            "reschedule jobs --id 1 -1 --delay 0",
            "bench send --connections -1",
            "list --timeout -1s",
        ] {
            let failure = crate::exit::Failure::from(parse(line).unwrap_err()).to_string();
            assert!(failure.starts_with("invalid value '-1"), "{line}: {failure}");
            assert!(failure.contains("': expected a"), "{line}: {failure}");
        }
        assert!(parse("delete jobs --id 1 2 --timeout 5s -o json").is_ok());
    }

    #[test]
    fn mistyped_verb_gets_a_suggestion() {
        let error = parse("recieve jobs").unwrap_err().to_string();
        assert!(error.contains("receive"), "{error}");
    }

    #[test]
    fn flags_of_a_line_go_before_those_of_the_script() {
        let outer = parse("--raw -o json --timeout 5s").unwrap().global;
        let inner = parse("list --no-raw -o plain").unwrap().global.under(&outer);
        assert_eq!(inner.output, Some(Format::Plain));
        assert!(inner.no_raw && !inner.raw);
        assert_eq!(inner.timeout, Some(5_000));
        let inner = parse("list").unwrap().global.under(&outer);
        assert!(inner.raw);
        let outer = parse("-s h:1 --context a").unwrap().global;
        let under = |line: &str| {
            let global = parse(line).unwrap().global.under(&outer);
            (global.server.len(), global.context)
        };
        assert_eq!(under("list"), (1, Some("a".to_owned())));
        assert_eq!(under("list --context b"), (0, Some("b".to_owned())));
        assert_eq!(under("list --context b -s h:1"), (1, Some("b".to_owned())));
    }
}
