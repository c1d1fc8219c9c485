//! Which server: `--server` or the context's, else `QCTL_SERVER`, else the system's, else this user's own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use qd_protocol::Address;

use crate::args::Global;
use crate::exit::Failure;

/// The socket of the system's daemon.
const SYSTEM_SOCKET: &str = "/run/qd/qd.sock";

/// Where to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Tried in turn.
    pub addresses: Vec<Address>,
    /// Where a `qd` for this user may be started if nobody listens.
    pub start: Option<OwnServer>,
}

/// The directories of a user's own daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnServer {
    /// Its data, its socket and its log.
    pub data: PathBuf,
    /// Its socket.
    pub socket: PathBuf,
    /// Its log.
    pub log: PathBuf,
}

/// Decides by flags and environment.
pub fn target(global: &Global) -> Result<Target, Failure> {
    if !global.server.is_empty() {
        return Ok(Target { addresses: global.server.clone(), start: None });
    }
    let variable = std::env::var_os("QCTL_SERVER").filter(|value| !value.is_empty());
    if let Some(addresses) = variable.filter(|_| !global.default_server) {
        return Ok(Target { addresses: of_environment(&addresses)?, start: None });
    }
    let start = !global.no_autostart && !autostart_is_off(std::env::var_os("QCTL_NO_AUTOSTART"));
    default_target(Path::new(SYSTEM_SOCKET), state_directory, start)
}

/// The addresses of `QCTL_SERVER`, separated by commas.
fn of_environment(value: &OsStr) -> Result<Vec<Address>, Failure> {
    let value = value.to_string_lossy();
    let parse =
        |text: &str| text.parse().map_err(|error| Failure::Config(format!("QCTL_SERVER: {error}")));
    value.split(',').map(parse).collect()
}

/// Any value but the empty one and `0` turns it off.
fn autostart_is_off(value: Option<std::ffi::OsString>) -> bool {
    value.is_some_and(|value| !value.is_empty() && value != "0")
}

fn default_target(
    system: &Path,
    state: impl FnOnce() -> Result<PathBuf, Failure>,
    start: bool,
) -> Result<Target, Failure> {
    // Once the system's socket is there, its refusal is final: falling through to another
    // server would make queues vanish and appear with the state of a daemon.
    if system.symlink_metadata().is_ok() {
        return Ok(Target { addresses: vec![Address::Unix(system.to_owned())], start: None });
    }
    let data = state()?.join("qd");
    let socket = data.join("qd.sock");
    let address =
        Address::unix(socket.clone()).map_err(|error| Failure::Config(error.to_string()))?;
    let own = OwnServer { log: data.join("qd.log"), data, socket };
    Ok(Target { addresses: vec![address], start: start.then_some(own) })
}

/// `$XDG_STATE_HOME`, by default `~/.local/state`.
pub fn state_directory() -> Result<PathBuf, Failure> {
    let missing = || {
        Failure::Config(
            "neither XDG_STATE_HOME nor a home directory is known; name the server with --server"
                .to_owned(),
        )
    };
    let strategy = etcetera::base_strategy::Xdg::new().map_err(|_| missing())?;
    let state = strategy.state_dir().ok_or_else(missing)?;
    if state.is_absolute() { Ok(state) } else { Err(missing()) }
}

/// The daemon's program: beside our own, else in `PATH`.
pub fn qd_binary() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().ok();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beside = own.as_deref().and_then(Path::parent).map(Path::to_owned).into_iter();
    beside
        .chain(std::env::split_paths(&path))
        .map(|directory| directory.join("qd"))
        .find(|candidate| is_program(candidate))
        .ok_or_else(|| {
            Failure::NotStarted(
                "nobody listens, and no qd was found beside qctl or in PATH to be started"
                    .to_owned(),
            )
        })
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_socket_is_final_once_it_exists() {
        let directory = tempfile::tempdir().unwrap();
        let system = directory.path().join("qd.sock");
        let state = directory.path().join("state");
        let own = default_target(&system, || Ok(state.clone()), true).unwrap();
        assert_eq!(own.addresses, [Address::Unix(state.join("qd").join("qd.sock"))]);
        assert_eq!(own.start.unwrap().data, state.join("qd"));
        std::fs::write(&system, "").unwrap();
        let systems = default_target(&system, || Ok(state.clone()), true).unwrap();
        assert_eq!(systems.addresses, [Address::Unix(system)]);
        assert_eq!(systems.start, None);
    }

    #[test]
    fn path_over_the_limit_of_sockets_is_told() {
        let long = PathBuf::from(format!("/{}", "x".repeat(100)));
        let failure = default_target(Path::new("/nonexistent/s"), || Ok(long), true).unwrap_err();
        assert_eq!(failure.exit().code(), 78);
        assert!(failure.to_string().contains("107"), "{failure}");
    }

    #[test]
    fn explicit_address_never_starts_anything() {
        let global = Global { server: vec!["unix:/x".parse().unwrap()], ..Global::default() };
        assert_eq!(target(&global).unwrap().start, None);
    }

    #[test]
    fn address_of_the_environment_that_is_none_is_told_as_that() {
        let several = of_environment("unix:/a,localhost:7".as_ref()).unwrap();
        assert_eq!(several, ["unix:/a".parse().unwrap(), "localhost:7".parse().unwrap()]);
        let failure = of_environment("unix:/a,nonsense".as_ref()).unwrap_err();
        assert_eq!(failure.exit().code(), 78);
        assert!(failure.to_string().starts_with("QCTL_SERVER: \"nonsense\""), "{failure}");
    }

    #[test]
    fn autostart_is_turned_off_by_any_value_but_zero() {
        assert!(!autostart_is_off(None));
        assert!(!autostart_is_off(Some("".into())));
        assert!(!autostart_is_off(Some("0".into())));
        assert!(autostart_is_off(Some("1".into())));
    }
}
