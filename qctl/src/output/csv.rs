//! Values separated by commas: RFC 4180, with the newline of Unix.

/// A line of cells, those in quotes that need it.
pub fn line(cells: impl Iterator<Item = impl AsRef<[u8]>>) -> Vec<u8> {
    let mut line = Vec::new();
    for (at, cell) in cells.enumerate() {
        if at > 0 {
            line.push(b',');
        }
        put_cell(&mut line, cell.as_ref());
    }
    line.push(b'\n');
    line
}

fn put_cell(line: &mut Vec<u8>, cell: &[u8]) {
    let special = |byte: &u8| matches!(byte, b'"' | b',' | b'\n' | b'\r');
    if !cell.iter().any(special) {
        line.extend_from_slice(cell);
        return;
    }
    line.push(b'"');
    for &byte in cell {
        if byte == b'"' {
            line.push(b'"');
        }
        line.push(byte);
    }
    line.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_that_hold_what_parts_them_are_in_quotes() {
        let cells = ["a", "", "b,c", "d\ne", "f\"g", " h "];
        assert_eq!(line(cells.iter()), b"a,,\"b,c\",\"d\ne\",\"f\"\"g\", h \n");
        assert_eq!(line([[0xff, b','].as_slice()].iter()), b"\"\xff,\"\n");
    }
}
