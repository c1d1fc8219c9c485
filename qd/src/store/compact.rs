//! Making the state file as small as it can be.
//!
//! Always true here: redb moves pages to the front of the file in transactions of its own, each of which is
//! durable before what it freed is used again or cut off. So the process may end at any moment; the next
//! open then walks through the file once to find the free pages.

use std::path::Path;

use redb::{Builder, DatabaseError, StorageBackend};

use super::{Result, checked, file, name};

/// Moves pages of the file until it does not get shorter. Nobody else may have it open.
pub fn compact_file(path: &Path, cache_bytes: usize) -> Result<()> {
    compact_checked(file(path)?, &name(path), cache_bytes)
}

/// The same over any storage, for fault tests.
pub fn compact_backend(backend: impl StorageBackend, cache_bytes: usize) -> Result<()> {
    compact_checked(backend, "state", cache_bytes)
}

fn compact_checked(backend: impl StorageBackend, name: &str, cache_bytes: usize) -> Result<()> {
    let file = checked(backend, name)?;
    let mut db = Builder::new().set_cache_size(cache_bytes).create_with_backend(file)?;
    while db.compact()? {}
    db.close().map_err(|error: DatabaseError| error.into())
}
