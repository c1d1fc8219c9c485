//! Headers on the command line: `KEY=VALUE`, of a message or to be compared with.

use qd_protocol::{HEADERS_BYTES_MAX, Headers};

use crate::exit::Failure;

/// Refuses more headers than a request can compare.
pub fn check_headers_asked(headers: &[(String, String)], most: usize) -> Result<(), Failure> {
    if headers.len() > most {
        return Err(Failure::Usage(format!("at most {most} headers can be asked for")));
    }
    if Headers(headers.to_vec()).size() > HEADERS_BYTES_MAX {
        let text = format!("headers have at most {HEADERS_BYTES_MAX} bytes in all");
        return Err(Failure::Usage(text));
    }
    Ok(())
}

/// Reads a header: `KEY=VALUE`.
pub fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        None => Err("expected KEY=VALUE".to_owned()),
        Some(("", _)) => Err("the key is empty".to_owned()),
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_keep_everything_behind_the_first_equals_sign() {
        assert_eq!(parse_header("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(parse_header("a="), Ok(("a".to_owned(), String::new())));
        assert!(parse_header("=b").is_err());
        assert!(parse_header("ab").is_err());
    }

    #[test]
    fn headers_asked_for_are_held_to_their_limits() {
        let headers = |count: usize| vec![("k".to_owned(), "v".to_owned()); count];
        assert!(check_headers_asked(&headers(16), 16).is_ok());
        assert_eq!(check_headers_asked(&headers(17), 16).unwrap_err().exit().code(), 2);
        let large = [("k".to_owned(), "v".repeat(HEADERS_BYTES_MAX))];
        assert_eq!(check_headers_asked(&large, 16).unwrap_err().exit().code(), 2);
    }
}
