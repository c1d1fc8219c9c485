//! Holding the state file against its check sums, those of its blocks and redb's own, without changing
//! it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use redb::Builder;

use super::overlay::Overlay;
use super::{Result, StoreError, checked, from_io, name};

/// Reads every page of the state file. Returns what is wrong with the file, one line each; what is read of
/// it is added to `read`.
///
/// # Errors
///
/// The disk failed, or the file is none of this format.
pub fn check_file(path: &Path, cache_bytes: usize, read: &Arc<AtomicU64>) -> Result<Vec<String>> {
    match check(path, cache_bytes, read) {
        Ok(faults) => Ok(faults),
        Err(error) if error.is_damage() => Ok(vec![error.to_string()]),
        Err(error) => Err(error),
    }
}

fn check(path: &Path, cache_bytes: usize, read: &Arc<AtomicU64>) -> Result<Vec<String>> {
    let open = |integrity: bool| {
        let file = Overlay::open(path, Arc::clone(read)).map_err(from_io)?;
        let mut builder = Builder::new();
        builder.set_cache_size(cache_bytes).set_check_integrity_on_open(integrity);
        Ok::<_, StoreError>(builder.create_with_backend(checked(file, &name(path))?)?)
    };
    // Nothing of it is trusted before all check sums are right.
    drop(open(true)?);
    // As a start opens it: what it would take for free is held against what is in use.
    let is_clean = open(false)?.check_integrity()?;
    let fault = "what the file says of its free pages is not true: new data could overwrite old";
    Ok(if is_clean { Vec::new() } else { vec![fault.to_owned()] })
}
