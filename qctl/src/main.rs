//! `qctl`: the command line of the qd message queue.
//!
//! One command, a script or a prompt, all with one parser ([`args`]); what a verb does stands in
//! one file of [`verbs`].

// These panic where nobody reads, and write what was said as it is: see `output`.
#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout))]

mod args;
mod bench;
mod complete;
mod config;
mod definitions;
mod demo;
mod descriptors;
mod document;
mod examples;
mod exit;
mod input;
mod output;
mod progress;
mod prompt;
mod rates;
mod script;
mod server;
mod session;
mod signals;
mod suggest;
mod time;
mod top;
mod units;
mod verbs;
mod words;
mod work;

#[cfg(test)]
mod manual;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::os::unix::ffi::OsStringExt;

use crate::args::{Cli, Format, Verb};
use crate::exit::{Exit, Failure};
use crate::script::Runner;

fn main() {
    let cli = match args::parse_from(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) if error.exit_code() == 0 => {
            let exit = output::put_help(&error).map_or_else(
                |failure| {
                    output::tell(&failure, false);
                    failure.exit()
                },
                |()| Exit::Done,
            );
            std::process::exit(i32::from(exit.code()));
        }
        Err(error) => {
            let words = std::env::args_os().skip(1).map(OsString::into_vec);
            let words: Vec<Vec<u8>> = words.collect();
            let failure = Failure::from(error);
            let format = args::format_asked(words.iter().cloned());
            output::tell(&failure, matches!(format, Some(Format::Json | Format::Jsonl)));
            let is_check = verbs::server::is_asked(&words);
            let exit = exit_of(&failure, is_check);
            if format == Some(Format::Shell) {
                output::tell_status(exit);
            }
            std::process::exit(i32::from(exit.code()));
        }
    };
    let is_check = matches!(&cli.verb, Some(Verb::Server(server)) if server.is_check());
    let mut format = cli.global.output;
    let exit = run(cli, &mut format).unwrap_or_else(|failure| {
        let json = matches!(format, Some(Format::Json | Format::Jsonl));
        output::tell(&failure, json);
        exit_of(&failure, is_check)
    });
    if format == Some(Format::Shell) {
        output::tell_status(exit);
    }
    // Not a return: a thread may still be waiting for input that never comes.
    std::process::exit(i32::from(exit.code()));
}

/// How a command that has failed ends; a check with the status and the line of its own.
fn exit_of(failure: &Failure, is_check: bool) -> Exit {
    if !is_check || failure.is_quiet() {
        return failure.exit();
    }
    let (line, exit) = verbs::server::unknown(failure);
    // Nobody may be there to read it.
    let _ = writeln!(std::io::stdout(), "{line}");
    exit
}

/// `format`: of the output, for what fails; that of a context once it is known.
fn run(mut cli: Cli, format: &mut Option<Format>) -> Result<Exit, Failure> {
    match cli.verb.take() {
        Some(verb) => run_verb(verb, cli, format),
        None => run_lines(cli),
    }
}

fn run_verb(verb: Verb, cli: Cli, format: &mut Option<Format>) -> Result<Exit, Failure> {
    if cli.file.is_some() || cli.interactive || cli.keep_going || cli.keep {
        let text = "-f, -i, --keep and --keep-going before a verb: they are for lines of commands";
        return Err(Failure::Usage(text.to_owned()));
    }
    let runner = Runner::new(cli.global.clone())?;
    let global = runner.flags(&verb, &cli.global).map_err(|(failure, _)| failure)?;
    *format = global.output;
    if let Some(timeout) = global.timeout {
        signals::end_after(timeout);
    }
    let result = runner.run_verb(verb, cli.global, global);
    runner.runtime.shutdown_background();
    result
}

fn run_lines(mut cli: Cli) -> Result<Exit, Failure> {
    if let Some(path) = cli.file.take() {
        return script::run(&cli, Some(&path));
    }
    if cli.interactive || std::io::stdin().is_terminal() {
        return prompt::run(cli.global, cli.keep);
    }
    if cli.keep {
        return Err(Failure::Usage("--keep is for the prompt".to_owned()));
    }
    script::run(&cli, None)
}
