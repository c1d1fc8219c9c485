//! End-to-end tests of `qd` and `qctl`, through the real binaries; see `tests/`.
