//! Every example of the README is run, in a home of its own, from top to bottom.
//!
//! | block | what is done |
//! |---|---|
//! | `console` | its `$ ` lines are run by one shell on a terminal; the rest is what is shown |
//! | `console` that starts with `$ qctl` | its `qctl> ` lines are typed at the prompt |
//! | `sh NAME` | is written to the file `NAME`, which a later block runs |
//! | `ini NAME.service` | is checked, and its `ExecStart=` is started and stopped |
//!
//! In what is shown `…` stands for anything within a line, and alone on a line for any lines.
//! `cargo` is a stand-in here: it takes the two commands of the README and does nothing, since
//! these tests are part of one of them, and `target/release` holds the programs under test.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::symlink;

use qd_tests::pattern::{Kind, Piece, fit};
use qd_tests::readme::{Example, examples};
use qd_tests::terminal::{on_terminal, plain};
use qd_tests::wait::SOON;
use qd_tests::{Run, Sandbox, programs, wait_until};
use rustix::process::Signal;

const CARGO: &str = "#!/bin/sh
case \"$*\" in
    'build --release' | 'test --workspace') ;;
    *) echo \"cargo $*: not a command of the README\" >&2; exit 1 ;;
esac
";

fn readme() -> Vec<Example> {
    examples(&programs::sources().join("README.md"))
}

/// A command and what it shows.
#[derive(Debug)]
struct Step {
    command: String,
    shown: String,
}

/// The commands behind `prompt`, each with the lines up to the next one.
fn steps(text: &str, prompt: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix(prompt), steps.last_mut()) {
            (Some(command), _) => {
                steps.push(Step { command: command.to_owned(), shown: String::new() });
            }
            (None, Some(step)) => {
                step.shown.push_str(line);
                step.shown.push('\n');
            }
            (None, None) => panic!("a block starts with a command, not with {line:?}"),
        }
    }
    steps
}

/// `…` stands for what varies.
fn pieces(shown: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for line in shown.split_inclusive('\n') {
        if line.trim_end() == "…" {
            pieces.push(Piece::Place(Kind::Any, None));
            continue;
        }
        for (at, text) in line.split('…').enumerate() {
            if at > 0 {
                pieces.push(Piece::Place(Kind::Line, None));
            }
            pieces.push(Piece::Text(text.to_owned()));
        }
    }
    pieces
}

fn home() -> Sandbox {
    let sandbox = Sandbox::new();
    let release = sandbox.home().join("target/release");
    fs::create_dir_all(&release).unwrap();
    for program in ["qd", "qctl"] {
        symlink(programs::directory().join(program), release.join(program)).unwrap();
    }
    fs::create_dir(sandbox.home().join("bin")).unwrap();
    let cargo = sandbox.home().join("cargo");
    fs::write(&cargo, CARGO).unwrap();
    programs::install(&cargo, &sandbox.home().join("bin/cargo"));
    fs::remove_file(cargo).unwrap();
    // The README says ~/.local/state, so that is where it is here.
    let state = sandbox.home().join(".local/state");
    fs::create_dir_all(state.parent().unwrap()).unwrap();
    fs::create_dir(sandbox.data().parent().unwrap()).unwrap();
    symlink(sandbox.data().parent().unwrap(), state).unwrap();
    sandbox
}

fn run_on_terminal(sandbox: &Sandbox, command: &str, term: &str) -> Run {
    on_terminal(&format!("PATH=\"$HOME/bin:$PATH\"; {command}"), |program| sandbox.run(program))
        .env("TERM", term)
}

/// Runs the commands in one shell; what each shows must fit.
fn run_console(sandbox: &Sandbox, example: &Example) {
    // A demo prints commands with the same prompt; they belong to what it shows.
    let demo = example.text.lines().next().is_some_and(|line| line.ends_with("qctl demo"));
    let mut steps = steps(&example.text, "$ ");
    if demo {
        let shown =
            example.text.lines().skip(1).fold(String::new(), |shown, line| shown + line + "\n");
        steps.truncate(1);
        steps[0].shown = shown;
    }
    let mut script = String::new();
    for step in &steps {
        let _ = writeln!(script, "{}\nprintf '\\036%s\\036' $?", step.command);
    }
    fs::write(sandbox.home().join("block"), script).unwrap();
    let done = run_on_terminal(sandbox, ". ./block", "dumb").start().finish();
    let output = plain(&done.text());
    let mut parts = output.split('\u{1e}');
    for Step { command, shown } in &steps {
        let came = parts.next().unwrap_or_default();
        let status = parts.next().unwrap_or("no status");
        let came = came.trim_end_matches('\n');
        let fits = fit(&pieces(shown.trim_end_matches('\n')), came).is_some();
        let line = example.line;
        assert!(fits, "README.md:{line}: $ {command}\n-- shown\n{shown}-- came\n{came}\n");
        assert_eq!(status, "0", "README.md:{line}: $ {command}");
    }
}

/// Types the lines at the prompt; each must be answered with what is shown.
fn run_prompt(sandbox: &Sandbox, example: &Example) {
    let text = example.text.split_once('\n').unwrap().1;
    let mut prompt = run_on_terminal(sandbox, "exec qctl", "xterm").start();
    let mut place = prompt.wait_for(0, "qctl> ");
    for Step { command, shown } in steps(text, "qctl> ") {
        prompt.write(format!("{command}\r").as_bytes());
        for line in shown.lines() {
            place = prompt.wait_for(place, &format!("\n{line}"));
        }
        place = prompt.wait_for(place, "qctl> ");
    }
    prompt.write(b"\x04");
    let done = prompt.finish();
    assert_eq!(done.exit, 0, "{done:?}");
}

#[test]
fn every_example_of_the_readme_does_what_it_shows() {
    let sandbox = home();
    let examples = readme();
    assert!(examples.len() > 8, "the README has examples");
    for example in &examples {
        match (example.language.as_str(), &example.words[..]) {
            ("console", []) if example.text.starts_with("$ qctl\n") => {
                run_prompt(&sandbox, example);
            }
            ("console", []) => run_console(&sandbox, example),
            ("sh" | "toml", [name]) => {
                let uses = |other: &&Example| {
                    other.language == "console" && other.text.contains(name.as_str())
                };
                assert!(examples.iter().any(|other| uses(&other)), "{name} is never used");
                fs::write(sandbox.home().join(name), &example.text).unwrap();
            }
            ("ini", [name]) if name.ends_with(".service") => {}
            other => panic!("README.md:{}: no test for a block of {other:?}", example.line),
        }
    }
    assert!(sandbox.daemons().is_empty(), "the README leaves nothing running");
}

#[test]
fn unit_of_the_readme_starts_and_stops_the_daemon() {
    let sandbox = home();
    let examples = readme();
    let unit = examples.iter().find(|example| example.language == "ini").unwrap();
    let setting = |name: &str| {
        let line = unit.text.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.unwrap_or_else(|| panic!("the unit has no {name}")).to_owned()
    };
    let start = setting("ExecStart");
    let mut words = start.split_whitespace();
    assert_eq!(words.next(), Some("/usr/local/bin/qd"));
    // The default socket is the machine's own; everything else is as the unit says.
    let state = sandbox.home().join(setting("StateDirectory"));
    let socket = sandbox.home().join("s");
    let address = format!("unix:{}", socket.display());
    let daemon = sandbox
        .run(programs::qd())
        .args(words)
        .env("STATE_DIRECTORY", &state)
        .env("QD_LISTEN", &address)
        .start();
    wait_until("the unit's daemon is ready", SOON, || socket.exists().then_some(()));
    assert_eq!(sandbox.qctl(&format!("-s {address} ping")).ok(), "pong\n");
    assert!(state.join("state.redb").exists());
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.finish().exit, 0);
    let verify = "command -v systemd-analyze > /dev/null || exit 99; exec systemd-analyze verify --man=no \"$1\"";
    let file = sandbox.home().join(&unit.words[0]);
    let program = programs::qd().display().to_string();
    fs::write(&file, unit.text.replace("/usr/local/bin/qd", &program)).unwrap();
    let done = sandbox.run("sh").args(["-c", verify, "sh"]).arg(&file).run();
    if done.exit == 99 {
        println!("systemd-analyze is not here; the unit's syntax was not checked");
        return;
    }
    let about_it: Vec<_> =
        done.stderr.lines().filter(|line| line.contains(&unit.words[0])).collect();
    assert!(about_it.is_empty(), "{about_it:?}");
}

#[test]
fn test_command_of_the_readme_is_the_one_of_the_ci() {
    let ci = fs::read_to_string(programs::sources().join(".ci/run")).unwrap();
    let tests = readme().into_iter().find(|example| example.text.starts_with("$ cargo test"));
    let command = tests.unwrap().text.lines().next().unwrap().trim_start_matches("$ ").to_owned();
    assert!(ci.lines().any(|line| line.trim() == command), "{command:?} is not in .ci/run");
}

#[test]
fn exit_statuses_and_links_of_the_readme_exist() {
    let sources = programs::sources();
    let text = fs::read_to_string(sources.join("README.md")).unwrap();
    let manual = fs::read_to_string(sources.join("man/qctl.1")).unwrap();
    let statuses: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" |").next()?.parse::<u8>().ok())
        .collect();
    assert!(statuses.len() > 5, "{statuses:?}");
    for status in statuses {
        assert!(manual.contains(&format!(".It {status}")), "qctl(1) does not have {status}");
    }
    for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        let there = link.starts_with("https://") || sources.join(link).exists();
        assert!(there, "{link} is not there");
    }
}
