//! `qctl receive --dir`: each body in a file of its own.
//!
//! Always true here: a file has its name only once all of it is on disk, and never takes the name of
//! another one. Of a batch all files get their names or, where one cannot be written, none does.

use std::fs::{File, Permissions};
use std::io::{Error, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use qd_protocol::QueueName;
use tempfile::{Builder, NamedTempFile};

use crate::exit::Failure;

/// Digits of an id in a file's name, so that names have the order of ids: enough for 300 years of a
/// million messages a second.
const ID_DIGITS: usize = 16;

/// Names tried for one message.
const NAMES_MAX: u32 = 10_000;
/// What users may do with a file, less their umask.
const MODE: u32 = 0o666;

/// The directory.
#[derive(Debug)]
pub struct Files {
    path: PathBuf,
    directory: File,
}

impl Files {
    /// For files in `path`, which must be there.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        if path.as_os_str().as_bytes().contains(&b'\n') {
            let text = "--dir: the name holds a newline, which would part it into two lines";
            return Err(Failure::Usage(text.to_owned()));
        }
        let failed = |error| cannot_write(path, &error);
        let directory = File::open(path).map_err(failed)?;
        if !directory.metadata().map_err(failed)?.is_dir() {
            return Err(failed(Error::from(ErrorKind::NotADirectory)));
        }
        Ok(Self { path: path.to_owned(), directory })
    }

    /// Writes bodies, and gives the paths of their files, in the same order.
    pub fn store(&self, bodies: &[(&QueueName, u64, &[u8])]) -> Result<Vec<PathBuf>, Failure> {
        let failed = |error: Error| cannot_write(&self.path, &error);
        let mut files = Vec::with_capacity(bodies.len());
        for (_, _, body) in bodies {
            files.push(self.write(body).map_err(failed)?);
        }
        // Behind all writes, so that one commit of the file system's journal is for many of them.
        files.iter().try_for_each(|file| file.as_file().sync_data()).map_err(failed)?;
        let mut paths = Vec::with_capacity(files.len());
        for ((queue, id, _), file) in bodies.iter().zip(files) {
            paths.push(self.name(file, &format!("{queue}-{id:0ID_DIGITS$}")).map_err(failed)?);
        }
        if !paths.is_empty() {
            self.directory.sync_all().map_err(failed)?;
        }
        Ok(paths)
    }

    /// A file without a name that `*` matches. It vanishes unless it gets one.
    fn write(&self, body: &[u8]) -> Result<NamedTempFile, Error> {
        let mode = Permissions::from_mode(MODE);
        let mut file = Builder::new().prefix(".qctl-").permissions(mode).tempfile_in(&self.path)?;
        file.as_file_mut().write_all(body)?;
        Ok(file)
    }

    /// Gives a file its name, or where that is taken the first of `NAME.2`, `NAME.3` and so on that
    /// is not.
    fn name(&self, mut file: NamedTempFile, name: &str) -> Result<PathBuf, Error> {
        for number in 1..=NAMES_MAX {
            let name = if number == 1 { name.to_owned() } else { format!("{name}.{number}") };
            let path = self.path.join(name);
            match file.persist_noclobber(&path) {
                Ok(_) => return Ok(path),
                Err(error) if error.error.kind() == ErrorKind::AlreadyExists => file = error.file,
                Err(error) => return Err(error.error),
            }
        }
        Err(Error::new(ErrorKind::AlreadyExists, format!("{name} and its further names are taken")))
    }
}

fn cannot_write(path: &Path, error: &Error) -> Failure {
    Failure::Io(format!("cannot write to the directory {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(files: &Files, bodies: &[(u64, &[u8])]) -> Vec<String> {
        let queue = QueueName::new("jobs").unwrap();
        let bodies: Vec<_> = bodies.iter().map(|(id, body)| (&queue, *id, *body)).collect();
        let paths = files.store(&bodies).unwrap();
        let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        paths.iter().map(name).collect()
    }

    #[test]
    fn names_have_the_order_of_ids_and_are_never_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::open(directory.path()).unwrap();
        let names = stored(&files, &[(9, b"a\0\n"), (10, b"")]);
        assert_eq!(names, ["jobs-0000000000000009", "jobs-0000000000000010"]);
        assert_eq!(
            stored(&files, &[(9, b"b"), (9, b"c")]),
            ["jobs-0000000000000009.2", "jobs-0000000000000009.3"]
        );
        let read = |name: &str| std::fs::read(directory.path().join(name)).unwrap();
        assert_eq!(read(&names[0]), b"a\0\n");
        assert_eq!(read("jobs-0000000000000009.3"), b"c");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 4, "no other file");
    }

    #[test]
    fn directory_that_is_none_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        for path in [directory.path().join("missing"), file] {
            let failure = Files::open(&path).unwrap_err();
            assert_eq!(failure.exit().code(), 74);
            assert!(failure.to_string().contains(path.to_str().unwrap()), "{failure}");
        }
        assert_eq!(Files::open(Path::new("a\nb")).unwrap_err().exit().code(), 2);
    }
}
