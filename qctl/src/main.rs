//! `qctl`.
fn main() {}
