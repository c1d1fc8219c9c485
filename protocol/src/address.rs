//! Addresses of servers.

use std::path::PathBuf;

/// Longest path of a Unix socket in bytes, the final NUL excluded (`unix(7)`).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A Unix socket: `unix:/run/qd/qd.sock`.
    Unix(PathBuf),
    /// A TCP socket: `host:port`, `[::1]:7655`, `qd://host:port`.
    Tcp(String),
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address: {reason}")]
pub struct AddressError {
    /// The text.
    pub text: String,
    /// What is wrong.
    pub reason: String,
}

impl Address {
    /// A Unix socket at `path`, held to the kernel's limit.
    pub fn unix(path: impl Into<PathBuf>) -> Result<Self, AddressError> {
        let path = path.into();
        let length = path.as_os_str().len();
        let error = |reason: String| AddressError { text: path.display().to_string(), reason };
        if length == 0 {
            return Err(error("the path of the socket is missing".to_owned()));
        }
        if length > SOCKET_PATH_BYTES_MAX {
            return Err(error(format!(
                "a socket's path has at most {SOCKET_PATH_BYTES_MAX} bytes, this one has {length}"
            )));
        }
        Ok(Self::Unix(path))
    }
}

impl std::str::FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error =
            |reason: &str| AddressError { text: text.to_owned(), reason: reason.to_owned() };
        if let Some(path) = text.strip_prefix("unix:") {
            return Self::unix(path);
        }
        if text.starts_with("qds://") {
            return Err(error("TLS is not available in this version; use qd://"));
        }
        let tcp = text.strip_prefix("qd://").unwrap_or(text);
        let Some((host, port)) = tcp.rsplit_once(':') else {
            return Err(error("expected unix:/path, host:port or qd://host:port"));
        };
        if host.contains('@') {
            return Err(error("users are not available in this version"));
        }
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if host.is_empty() || (host.contains([':', '[', ']']) && !bracketed) {
            return Err(error("the host is missing (an IPv6 address stands in brackets)"));
        }
        if !port.bytes().all(|byte| byte.is_ascii_digit()) || port.parse::<u16>().is_err() {
            return Err(error("the port is not a number from 0 to 65535"));
        }
        Ok(Self::Tcp(tcp.to_owned()))
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            // A host of this name would be taken for the other kind of address.
            Self::Tcp(address) if address.starts_with("unix:") => write!(f, "qd://{address}"),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart() {
        assert_eq!("unix:/a".parse(), Ok(Address::Unix("/a".into())));
        assert_eq!("qd://[::1]:7".parse(), Ok(Address::Tcp("[::1]:7".to_owned())));
        assert_eq!("localhost:7".parse(), Ok(Address::Tcp("localhost:7".to_owned())));
        let long = format!("unix:/{}", "x".repeat(107));
        for bad in ["", "unix:", "host", ":7", "::1:7", "[::1:7", "h:99999", "h:+7", "u@h:7"] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
        for bad in ["qds://h:7", &long] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn host_of_the_name_unix_is_not_a_socket() {
        let address = Address::Tcp("unix:7".to_owned());
        assert_eq!("qd://unix:7".parse(), Ok(address.clone()));
        assert_eq!(address.to_string().parse(), Ok(address));
    }
}
