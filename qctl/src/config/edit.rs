//! Changing the file: what is not changed stays as it is, comments too.
//!
//! Always true here: the file is either as it was or as it is to be, whenever the machine stops; it
//! is its owner's alone.

use std::fs::DirBuilder;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use clap::ValueEnum;
use toml_edit::{Array, DocumentMut, Item, RawString, Table, TableLike, value};

use super::{Config, Context, DEFAULT};
use crate::exit::Failure;
use crate::units::show_duration;

/// Adds a context, or gives one that exists these values.
pub fn add(config: &Config, name: &str, context: &Context) -> Result<(), Failure> {
    let mut document = document(config)?;
    let contexts = document.entry("contexts").or_insert_with(|| {
        let mut contexts = Table::new();
        // Its header would say nothing.
        contexts.set_implicit(true);
        Item::Table(contexts)
    });
    let contexts = table_of(contexts)?;
    if contexts.get(name).is_none() {
        let of_one_line = Item::Value(toml_edit::InlineTable::new().into());
        let is_inline = !contexts.is_empty() && contexts.iter().all(|(_, item)| item.is_value());
        contexts.insert(name, if is_inline { of_one_line } else { Item::Table(Table::new()) });
    }
    let table = table_of(contexts.get_mut(name).ok_or_else(unreadable)?)?;
    let server = match &context.server[..] {
        [one] => value(one.to_string()),
        several => value(several.iter().map(ToString::to_string).collect::<Array>()),
    };
    set(table, "server", Some(server));
    set(table, "timeout", context.timeout.map(|ms| value(show_duration(ms))));
    let output = context.output.and_then(|output| output.to_possible_value());
    set(table, "output", output.map(|output| value(output.get_name())));
    write(config, &document)
}

/// Makes a context the current one, or with [`DEFAULT`] none.
pub fn use_context(config: &Config, name: &str) -> Result<(), Failure> {
    let mut document = document(config)?;
    set(document.as_table_mut(), "current", Some(value(name)));
    write(config, &document)
}

/// Removes contexts; one of them may be the current one.
pub fn remove(config: &Config, names: &[String]) -> Result<(), Failure> {
    let mut document = document(config)?;
    if config.current.as_ref().is_some_and(|current| names.contains(current)) {
        // Not removed: what stands above it may be about the whole file.
        set(document.as_table_mut(), "current", Some(value(DEFAULT)));
    }
    for name in names {
        remove_one(&mut document, name)?;
    }
    write(config, &document)
}

fn remove_one(document: &mut DocumentMut, name: &str) -> Result<(), Failure> {
    let Some(contexts) = document.get_mut("contexts") else {
        return Ok(());
    };
    let contexts = table_of(contexts)?;
    let removed = contexts.remove(name);
    let Some(removed) = removed.as_ref().and_then(Item::as_table) else {
        return Ok(());
    };
    // A comment right above its header is about the context, and one with an empty line behind it
    // is not.
    let above = removed.decor().prefix().and_then(RawString::as_str).unwrap_or_default();
    let kept = above.rfind("\n\n").and_then(|end| above.get(..=end)).unwrap_or_default();
    if !kept.contains('#') {
        return Ok(());
    }
    let behind =
        |table: &Table| table.position().filter(|at| *at > removed.position().unwrap_or(0));
    let tables = contexts.iter_mut().filter_map(|(_, item)| item.as_table_mut());
    let next = tables.filter(|table| behind(table).is_some()).min_by_key(|table| behind(table));
    if let Some(next) = next {
        let prefix = next.decor().prefix().and_then(RawString::as_str).unwrap_or_default();
        let prefix = format!("{kept}{prefix}");
        next.decor_mut().set_prefix(prefix);
    } else {
        let trailing = document.trailing().as_str().unwrap_or_default();
        let trailing = format!("{kept}{trailing}");
        document.set_trailing(trailing);
    }
    Ok(())
}

fn document(config: &Config) -> Result<DocumentMut, Failure> {
    // It was read before, so that this cannot fail.
    config.text.parse().map_err(|_| unreadable())
}

fn unreadable() -> Failure {
    Failure::Internal("the configuration that was read cannot be changed".to_owned())
}

fn table_of(item: &mut Item) -> Result<&mut dyn TableLike, Failure> {
    item.as_table_like_mut().ok_or_else(unreadable)
}

/// Sets a key, or removes it; a comment behind its value stays.
fn set(table: &mut dyn TableLike, key: &str, new: Option<Item>) {
    let Some(mut new) = new else {
        table.remove(key);
        return;
    };
    let old = table.get(key).and_then(Item::as_value).map(|old| old.decor().clone());
    if let (Some(decor), Some(new)) = (old, new.as_value_mut()) {
        *new.decor_mut() = decor;
    }
    // In its place, so that what stands above it stays.
    match table.get_mut(key) {
        Some(item) => *item = new,
        None => _ = table.insert(key, new),
    }
}

fn write(config: &Config, document: &DocumentMut) -> Result<(), Failure> {
    // What a link leads to is changed, not the link.
    let path = config.path.canonicalize().unwrap_or_else(|_| config.path.clone());
    let text = document.to_string();
    replace(&path, text.as_bytes())
        .map_err(|error| Failure::Io(format!("cannot write {}: {error}", path.display())))
}

fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    // Made with mode 0600.
    let mut file = tempfile::Builder::new().prefix(".config.toml.").tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    use super::*;
    use crate::args::Format;

    fn context(server: &[&str]) -> Context {
        Context {
            server: server.iter().map(|text| text.parse().unwrap()).collect(),
            timeout: Some(30_000),
            output: None,
        }
    }

    /// The file behind a change of the one with `before`.
    fn changed(before: &str, change: impl FnOnce(&Config) -> Result<(), Failure>) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        fs::write(&path, before).unwrap();
        change(&Config::load_from(path.clone()).unwrap()).unwrap();
        let after = fs::read_to_string(&path).unwrap();
        // What was written can be read.
        Config::load_from(path).unwrap();
        after
    }

    #[test]
    fn first_context_makes_the_file_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path: PathBuf = directory.path().join("a/b/config.toml");
        let config = Config::load_from(path.clone()).unwrap();
        add(&config, "prod", &context(&["h:7", "h:8"])).unwrap();
        let text = "[contexts.prod]\nserver = [\"h:7\", \"h:8\"]\ntimeout = \"30s\"\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    const FILE: &str = "# All servers.\ncurrent = \"a\" # for now\n\n# The first.\n[contexts.a]\n\
                        server = \"h:1\" # in the cellar\noutput = \"json\"\n\n# The second.\n\
                        [contexts.b]\nserver = \"h:2\"\n";

    #[test]
    fn comments_survive() {
        let text = changed(FILE, |config| {
            let context = Context { output: Some(Format::Csv), ..context(&["h:9"]) };
            add(config, "a", &context)
        });
        let expected = FILE
            .replace("\"h:1\"", "\"h:9\"")
            .replace("output = \"json\"\n", "output = \"csv\"\ntimeout = \"30s\"\n");
        assert_eq!(text, expected);
        let text = changed(FILE, |config| use_context(config, "b"));
        assert_eq!(text, FILE.replace("current = \"a\"", "current = \"b\""));
        let text = changed(FILE, |config| remove(config, &["b".to_owned()]));
        assert_eq!(text, FILE.split("\n# The second").next().unwrap());
        let text = changed(FILE, |config| add(config, "c", &context(&["h:3"])));
        assert_eq!(text, format!("{FILE}\n[contexts.c]\nserver = \"h:3\"\ntimeout = \"30s\"\n"));
    }

    #[test]
    fn current_context_goes_with_its_context() {
        let text = changed(FILE, |config| remove(config, &["a".to_owned()]));
        let second = FILE.find("\n# The second").unwrap();
        let expected =
            format!("# All servers.\ncurrent = \"default\" # for now\n{}", &FILE[second..]);
        assert_eq!(text, expected);
        let before = "[contexts.a]\nserver = \"h:1\"\n";
        let text = changed(before, |config| use_context(config, "a"));
        assert_eq!(text, format!("current = \"a\"\n{before}"));
    }

    #[test]
    fn comment_above_a_context_goes_with_it_and_one_above_that_stays() {
        let before = "# All servers.\n\n# The first.\n[contexts.a]\nserver = \"h:1\"\n";
        let other = "# The second.\n[contexts.b]\nserver = \"h:2\"\n";
        let remove_a = |config: &Config| remove(config, &["a".to_owned()]);
        let text = changed(&format!("{before}\n{other}"), remove_a);
        assert_eq!(text, format!("# All servers.\n\n{other}"));
        assert_eq!(changed(before, remove_a), "# All servers.\n");
    }

    #[test]
    fn contexts_in_one_line_stay_so() {
        let before = "contexts = { a = { server = \"h:1\" } }\n";
        let text = changed(before, |config| add(config, "b", &context(&["h:2"])));
        let expected = "contexts = { a = { server = \"h:1\" } , b = { server = \"h:2\", timeout = \"30s\" } }\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn link_stays_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let (link, file) = (directory.path().join("config.toml"), directory.path().join("real"));
        fs::write(&file, FILE).unwrap();
        symlink(&file, &link).unwrap();
        use_context(&Config::load_from(link.clone()).unwrap(), "b").unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert!(fs::read_to_string(file).unwrap().contains("current = \"b\""));
    }
}
