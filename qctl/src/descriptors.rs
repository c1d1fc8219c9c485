//! Standard descriptors that are closed.
//!
//! The runtime opens `/dev/null`, for reading and writing, in the place of each that is closed when
//! the program starts. A shell's `</dev/null` is opened for reading, its `>/dev/null` and that of
//! systemd for writing. Some programs hand down one that is opened for both (`subprocess.DEVNULL` of
//! Python, a container without standard input), and nothing tells it from a closed one: it counts as
//! one where something would be lost, and nowhere else.

use std::io::Error;
use std::os::fd::AsFd;

use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat, makedev};
use rustix::io::Errno;

/// `/dev/null` in the kernel's list of devices.
const NULL: (u32, u32) = (1, 3);

/// What a read from, or a write to, a closed descriptor fails with; nothing for one that is open.
pub fn refuse_closed(descriptor: impl AsFd) -> Result<(), Error> {
    let is_null = fstat(&descriptor).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == makedev(NULL.0, NULL.1)
    });
    let both = fcntl_getfl(&descriptor).is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::RDWR);
    if is_null && both { Err(Errno::BADF.into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn null_that_is_opened_for_one_thing_is_open() {
        let null = |read, write| OpenOptions::new().read(read).write(write).open("/dev/null");
        assert!(refuse_closed(null(true, false).unwrap()).is_ok());
        assert!(refuse_closed(null(false, true).unwrap()).is_ok());
        let error = refuse_closed(null(true, true).unwrap()).unwrap_err();
        assert!(error.to_string().starts_with("Bad file descriptor"), "{error}");
        let zero = OpenOptions::new().read(true).write(true).open("/dev/zero").unwrap();
        assert!(refuse_closed(zero).is_ok());
    }
}
