//! `-o shell` in the shells that people have.

use qd_tests::{Daemon, Done, Run, cases};

const SHELLS: [&str; 3] = ["dash", "bash", "zsh"];

/// Every byte that a variable can hold, what a shell might take for something else, and newlines at
/// the end.
fn awkward_body() -> Vec<u8> {
    let mut body: Vec<u8> = (1..=255).collect();
    body.extend_from_slice("''\"$(x)`y`\\\\ é 漢 ~ * ! #\r\n'\n\n".as_bytes());
    body
}

/// Runs a script in a shell; nothing where the shell is not installed.
fn run(shell: &str, locale: &str, daemon: &Daemon, script: &str) -> Option<Done> {
    let known = Run::new("sh").args(["-c", &format!("command -v {shell}")]).run();
    if known.exit != 0 {
        println!("{shell} is not here; nothing was tried in it");
        return None;
    }
    let run = Run::new(shell)
        .env("PATH", cases::path_with_programs())
        .env("QCTL_SERVER", daemon.server())
        .env("LC_ALL", locale);
    Some(run.arg("-c").arg(script).run())
}

#[test]
fn variables_hold_every_byte_of_a_body_in_every_shell() {
    let daemon = Daemon::new();
    daemon.qctl("create jobs").ok();
    let body = awkward_body();
    for shell in SHELLS {
        for locale in ["C", "C.UTF-8"] {
            daemon.qctl("send jobs").stdin(body.clone()).ok();
            let script = "eval \"$(qctl receive jobs -o shell)\" && printf %s \"$QCTL_BODY\" && \
                          qctl delete jobs \"$QCTL_RECEIPT\"";
            let Some(done) = run(shell, locale, &daemon, script) else { continue };
            assert_eq!(done.exit, 0, "{shell}: {done:?}");
            assert!(done.stdout == body, "{shell} {locale}: {done:?}");
            assert_eq!(done.stderr, "", "{shell} {locale}");
        }
    }
    let left = daemon.qctl("info jobs --columns sent,deleted,ready,leased").ok();
    let counts: Vec<u64> = left.split_whitespace().map(|count| count.parse().unwrap()).collect();
    assert_eq!((counts[1] + counts[2], counts[3]), (counts[0], 0), "{left}");
}

#[test]
fn worker_in_any_shell_ends_when_nothing_is_left() {
    let daemon = Daemon::new();
    daemon.qctl("create jobs").ok();
    for shell in SHELLS {
        Run::qctl(&daemon.server(), "send jobs --null").stdin(&b"one\0two words\n\0it's"[..]).ok();
        let script = "while eval \"$(qctl receive jobs -o shell)\"; do printf '<%s>' \"$QCTL_BODY\"; \
                      qctl delete jobs \"$QCTL_RECEIPT\"; done";
        let Some(done) = run(shell, "C.UTF-8", &daemon, script) else {
            daemon.qctl("purge jobs --yes").ok();
            continue;
        };
        assert_eq!((done.text().as_str(), done.stderr.as_str()), ("<one><two words\n><it's>", ""));
    }
}

#[test]
fn failure_ends_a_shell_that_is_to_end_with_one() {
    let daemon = Daemon::new();
    for shell in SHELLS {
        let script = "set -e; eval \"$(qctl receive missing -o shell)\"; echo went on";
        let Some(done) = run(shell, "C", &daemon, script) else { continue };
        assert_eq!((done.exit, done.text().as_str()), (66, ""), "{shell}: {done:?}");
    }
}
