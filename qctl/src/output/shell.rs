//! Assignments for `eval` in a POSIX shell.
//!
//! Always true here: every value is quoted, so that the shell takes each byte of it as it is. A shell
//! variable holds any bytes but NUL.

/// Adds the assignment of a field to its variable, on a line of its own.
pub fn put_assignment(out: &mut Vec<u8>, field: &str, value: &[u8]) {
    out.extend_from_slice(variable(field).as_bytes());
    out.extend_from_slice(b"='");
    for (at, part) in value.split(|byte| *byte == b'\'').enumerate() {
        if at > 0 {
            // The quote ends, a quote of its own, and it begins again.
            out.extend_from_slice(br"'\''");
        }
        out.extend_from_slice(part);
    }
    out.extend_from_slice(b"'\n");
}

/// The variable of a field.
fn variable(field: &str) -> String {
    // `QCTL_SERVER` says which server the next command takes.
    let field = if field == "server" { "address" } else { field };
    format!("QCTL_{}", field.to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(field: &str, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_assignment(&mut out, field, value);
        out
    }

    #[test]
    fn value_is_quoted_whatever_it_holds() {
        assert_eq!(assigned("id", b"7"), b"QCTL_ID='7'\n");
        assert_eq!(assigned("group", b""), b"QCTL_GROUP=''\n");
        assert_eq!(assigned("body", b"$(x) `y` \\ \n\xff"), b"QCTL_BODY='$(x) `y` \\ \n\xff'\n");
        assert_eq!(assigned("body", b"'it's'"), b"QCTL_BODY=''\\''it'\\''s'\\'''\n");
    }

    #[test]
    fn no_variable_steers_qctl_itself() {
        assert_eq!(assigned("server", b"x"), b"QCTL_ADDRESS='x'\n");
    }
}
