//! The house rules that a test can hold: arrows point down, files keep their size.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each room and the rooms it may use. A new arrow is a design change: ARCHITECTURE.md first.
const ARROWS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("oci", &["error"]),
    ("yaml", &[]),
    ("list", &["error", "oci", "yaml"]),
    ("scan", &["error", "oci", "yaml", "list"]),
    ("content", &["error", "oci"]),
    ("registry", &["error", "oci", "content"]),
    ("driver", &[]),
    ("store", &["error", "oci", "content", "driver"]),
    ("layout", &["error", "oci", "content", "driver"]),
    ("archive", &["error", "oci", "content"]),
    ("transfer", &["error", "oci", "content"]),
    ("save", &["error", "oci", "list", "content", "registry", "store", "transfer"]),
    ("copy", &["error", "oci", "content", "registry", "transfer", "save"]),
    ("export", &["error", "oci", "content", "registry", "store", "layout", "archive", "transfer", "save"]),
    ("import", &["error", "oci", "content", "store", "layout", "archive", "transfer", "save"]),
    ("verify", &["error", "oci", "list", "content", "store", "transfer", "save"]),
    ("prune", &["error", "oci", "list", "content", "store", "save"]),
    ("push", &["error", "oci", "list", "content", "registry", "store", "transfer", "save"]),
    ("ls", &["error", "oci", "store"]),
    ("inspect", &["error", "oci", "content", "ls"]),
    ("serve", &["error", "oci", "content", "store"]),
    ("cri", &["error", "oci", "content", "registry", "store", "save", "prune"]),
    (
        "cli",
        &[
            "error", "oci", "list", "content", "registry", "store", "transfer", "copy", "save", "verify",
            "prune", "ls", "push", "inspect", "serve", "scan", "cri", "export", "import",
        ],
    ),
];

fn sources() -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    found
}

/// The room a file belongs to: the first part of its path below `src`.
fn room(path: &Path) -> String {
    let below = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    below.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The rooms that a source text names by `crate::`.
fn named(text: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n");
    let mut rooms = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        match after.strip_prefix('{') {
            Some(group) => rooms.extend(members(group)),
            None => rooms.extend(first_name(after)),
        }
    }
    rooms
}

/// The first names of what a group lists, up to the brace that ends it.
fn members(group: &str) -> Vec<String> {
    let (mut depth, mut from, mut found) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '}' | ',' if depth == 0 => {
                found.extend(first_name(group[from..at].trim_start()));
                from = at + 1;
                if c == '}' {
                    break;
                }
            }
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    found
}

fn first_name(path: &str) -> Option<String> {
    let end = path.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(path.len());
    (end > 0).then(|| path[..end].to_owned())
}

#[test]
fn arrows_point_down() {
    let mut wrong = Vec::new();
    for path in sources() {
        let room = room(&path);
        if room == "lib" || room == "main" {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("{}: the room {room} has no row in ARROWS", path.display()));
            continue;
        };
        for used in named(&fs::read_to_string(&path).unwrap()) {
            let is_room = ARROWS.iter().any(|(name, _)| *name == used);
            if is_room && used != room && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{} uses crate::{used}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that do not point down:\n{}", wrong.join("\n"));
}

#[test]
fn only_the_command_line_speaks() {
    let spoken = [
        "println!",
        "print!(",
        "dbg!(",
        "process::exit",
        "env::var",
        "env::args",
        "env::temp_dir",
        "env::current_dir",
        "home_dir",
        "Command::new",
    ];
    let mut wrong = Vec::new();
    for path in sources() {
        if matches!(room(&path).as_str(), "cli" | "main") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for word in spoken.iter().filter(|word| {
            code.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(**word))
        }) {
            wrong.push(format!("{}: {word}", path.display()));
        }
    }
    assert!(
        wrong.is_empty(),
        "below the command line nothing prints, exits or reads the environment:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn rooms_have_no_junk_drawers() {
    for path in sources() {
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(
            !matches!(name, "util" | "utils" | "common" | "helpers" | "manager" | "misc"),
            "{}",
            path.display()
        );
    }
}

#[test]
fn files_keep_their_size() {
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        // Code that a program writes is as long as its input makes it, and nobody edits it.
        if text.starts_with("// @generated") {
            continue;
        }
        let lines = text.lines().count();
        assert!(lines <= 550, "{} has {lines} lines: it is asking to be two", path.display());
    }
}

#[test]
fn the_arrow_test_reads_both_forms_of_use() {
    let text = "use crate::error::Result;\nuse crate::{oci::Digest, store};\n// crate::cli\n\
        use crate::{\n    transfer::{Engine, Image},\n    layout,\n    push::{\n        self,\n    },\n};\nfn list() {}\n";
    let named: Vec<String> = named(text).into_iter().collect();
    assert_eq!(named, ["error", "layout", "oci", "push", "store", "transfer"]);
}
