//! Where the programs under test are.
//!
//! They stand beside the test's own program, in the directory of its build. Cargo does not make
//! the programs of other packages for a test, so the first test that needs one runs `cargo build`
//! for the same directory and profile; where they are up to date that takes a moment.
//! `QD_TESTS_PROGRAMS` names a directory with other programs, for example installed ones.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The directory that holds `qd` and `qctl`.
///
/// # Panics
///
/// When they cannot be built.
pub fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| match std::env::var_os("QD_TESTS_PROGRAMS") {
        Some(directory) => PathBuf::from(directory),
        None => build(),
    })
}

/// The daemon.
pub fn qd() -> PathBuf {
    directory().join("qd")
}

/// The command line.
pub fn qctl() -> PathBuf {
    directory().join("qctl")
}

/// The top directory of the sources.
pub fn sources() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the package stands in the workspace's directory")
}

/// Copies a program, so that everybody may run the copy.
///
/// A process of its own writes it: as long as this one had it open for writing, programs that
/// other threads start would inherit that, and nobody could run it ("text file busy").
///
/// # Panics
///
/// When it cannot be copied.
pub fn install(program: &Path, copy: &Path) {
    let done = crate::Run::new("install").args(["-m", "755"]).arg(program).arg(copy).run();
    assert_eq!(done.exit, 0, "{done:?}");
}

fn build() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    // TARGET/PROFILE/deps/e2e-0123456789abcdef
    let profile = test.ancestors().nth(2).expect("the directory of the profile").to_owned();
    let target = profile.parent().expect("the target directory");
    let name = profile.file_name().and_then(|name| name.to_str()).expect("the profile's name");
    let name = if name == "debug" { "dev" } else { name };
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--workspace", "--bins", "--profile", name, "--target-dir"])
        .arg(target)
        .current_dir(sources())
        .status()
        .expect("cargo runs");
    assert!(status.success(), "cargo build of qd and qctl: {status}");
    profile
}
