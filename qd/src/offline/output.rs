//! Standard output: written whole, or the tool fails.

use std::io::{self, BufWriter, StdoutLock, Write};

/// Bytes that are gathered.
const BUFFER_BYTES: usize = 64 << 10;

/// Standard output, to be flushed at the end.
pub(super) fn output() -> BufWriter<StdoutLock<'static>> {
    BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock())
}

/// Ends the output: what cannot be written is an error, not lost.
pub(super) fn finish(mut out: BufWriter<StdoutLock<'static>>) -> io::Result<()> {
    out.flush()
}
