//! Rules of the architecture that a test can check: layering, who may print, size of files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const ARCHITECTURE: &str = include_str!("../../ARCHITECTURE.md");

/// The rows of the code map: each room and the rooms that it may import.
fn code_map() -> Vec<(&'static str, Vec<&'static str>)> {
    let map = ARCHITECTURE.split_once("## Code map").unwrap().1.split("\n## ").next().unwrap();
    let rows = map.lines().filter(|line| line.starts_with("| `"));
    let rows: Vec<_> = rows
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
            let quoted = |cell: &'static str| cell.split('`').skip(1).step_by(2);
            let room = quoted(cells[0]).next().unwrap();
            (room, cells.last().copied().map(quoted).unwrap().collect())
        })
        .collect();
    assert!(rows.len() > 20, "the code map was not found: {rows:?}");
    rows
}

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
fn rooms_import_only_what_the_code_map_allows() {
    let map = code_map();
    let mut wrong = Vec::new();
    for path in sources() {
        let room = room(&path);
        if room == "lib" || room == "main" {
            continue;
        }
        let Some((_, allowed)) = map.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("{}: the room {room} has no row in the code map", path.display()));
            continue;
        };
        for used in named(&fs::read_to_string(&path).unwrap()) {
            let is_room = map.iter().any(|(name, _)| *name == used);
            if is_room && used != room && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{} uses crate::{used}", path.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "imports that the code map of ARCHITECTURE.md does not allow:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn only_cli_prints_exits_and_reads_the_environment() {
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
            // Credential helpers are programs.
            if (room(&path).as_str(), *word) != ("credentials", "Command::new") {
                wrong.push(format!("{}: {word}", path.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "below the command line nothing prints, exits or reads the environment:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn rooms_have_no_catch_all_files() {
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
fn files_are_at_most_550_lines() {
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        // Code that a program writes is as long as its input makes it, and nobody edits it.
        if text.starts_with("// @generated") {
            continue;
        }
        let lines = text.lines().count();
        assert!(lines <= 550, "{} has {lines} lines: split it where responsibilities divide", path.display());
    }
}

/// Trees in other directories would not be read by the model of a registry.
#[test]
fn tests_make_temporary_directories_in_one_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    for entry in walkdir::WalkDir::new(root).into_iter().map(Result::unwrap) {
        let is_source = entry.path().extension().is_some_and(|extension| extension == "rs");
        if !is_source || entry.path().ends_with("support/scratch.rs") {
            continue;
        }
        let text = fs::read_to_string(entry.path()).unwrap();
        let own = concat!("tempfile::", "tempdir");
        assert!(!text.contains(own), "{}: use Scratch", entry.path().display());
    }
}

#[test]
fn imports_are_read_from_both_forms_of_use() {
    let text = "use crate::error::Result;\nuse crate::{oci::Digest, store};\n// crate::cli\n\
        use crate::{\n    transfer::{Engine, Image},\n    layout,\n    push::{\n        self,\n    },\n};\nfn list() {}\n";
    let named: Vec<String> = named(text).into_iter().collect();
    assert_eq!(named, ["error", "layout", "oci", "push", "store", "transfer"]);
}

/// Callers decide by an error's kind and detail. A message is for people: its wording may change at any time.
#[test]
fn no_decision_depends_on_message_text() {
    let texts = [".message()", ".to_string()", ".summary()", ".reason()", ".hint()", ".message"];
    let tests = [".contains(", ".starts_with(", ".ends_with(", ".find(", ".split_once(", ".matches("];
    let mut wrong = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        // A call that rustfmt has broken over several lines is one line here.
        let lines = code.lines().map(str::trim).filter(|line| !line.starts_with("//"));
        let code: String = lines.collect();
        for text in texts {
            for test in tests.iter().filter(|test| code.contains(&format!("{text}{test}"))) {
                wrong.push(format!("{}: {text}{test}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "use the error's kind and detail instead:\n{}", wrong.join("\n"));
}

/// A source file's module path below `src`.
fn module(path: &Path) -> Vec<String> {
    let below = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let parts = below.with_extension("");
    let parts = parts.iter().map(|part| part.to_str().unwrap().to_owned());
    parts.filter(|part| part != "mod").collect()
}

/// The paths that a source text names by `crate::`, `super::` or a child module, outside its tests and comments.
fn paths(text: &str) -> Vec<Vec<String>> {
    fn expand(prefix: &[String], tree: &str, paths: &mut Vec<Vec<String>>) {
        let (mut depth, mut from) = (0, 0);
        let mut parts = Vec::new();
        for (at, byte) in tree.bytes().enumerate() {
            match byte {
                b'{' => depth += 1,
                b'}' => depth -= 1,
                b',' if depth == 0 => {
                    parts.push(&tree[from..at]);
                    from = at + 1;
                }
                _ => {}
            }
        }
        parts.push(&tree[from..]);
        for part in parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty()) {
            let (path, group) =
                part.split_once('{').map_or((part, None), |(path, group)| (path, Some(group)));
            let path = path.split(" as ").next().unwrap();
            let names = path.split("::").map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
            let path: Vec<String> = prefix.iter().cloned().chain(names).collect();
            match group {
                Some(group) => expand(&path, group.trim_end().strip_suffix('}').unwrap(), paths),
                None => paths.push(path),
            }
        }
    }
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let mut paths = Vec::new();
    for (start, _) in code.match_indices("use ").filter(|(at, _)| !code[..*at].ends_with(is_name)) {
        let tree = code[start + 4..].split(';').next().unwrap();
        if !tree.contains(['(', '=', '"']) {
            expand(&[], tree, &mut paths);
        }
    }
    for root in ["crate::", "super::"] {
        let is_start = |(at, _): &(usize, &str)| !code[..*at].ends_with(|c| is_name(c) || c == ':');
        for (start, _) in code.match_indices(root).filter(is_start) {
            let path = code[start..].split(|c| !is_name(c) && c != ':').next().unwrap();
            paths.push(path.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect());
        }
    }
    paths
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// A module and its own submodules may use each other; any other files of a room may not, directly or through further files.
#[test]
fn files_of_a_room_have_no_import_cycles() {
    use std::collections::BTreeMap;
    let modules: BTreeMap<Vec<String>, PathBuf> =
        sources().into_iter().map(|path| (module(&path), path)).collect();
    let mut imports: BTreeMap<&[String], BTreeSet<&[String]>> = BTreeMap::new();
    for (module, path) in &modules {
        let found = imports.entry(module).or_default();
        for path in paths(&fs::read_to_string(path).unwrap()) {
            let above = path.iter().take_while(|name| *name == "super").count();
            let mut target = match path[0].as_str() {
                "crate" => path[1..].to_vec(),
                "super" if above <= module.len() => {
                    [&module[..module.len() - above], &path[above..]].concat()
                }
                _ => [&module[..], &path[..]].concat(),
            };
            while !target.is_empty() && !modules.contains_key(&target) {
                target.pop();
            }
            let Some((target, _)) = modules.get_key_value(&target) else { continue };
            let is_family = module.starts_with(target) || target.starts_with(module);
            if target[0] == module[0] && !is_family {
                found.insert(target);
            }
        }
    }
    let edges: usize = imports.values().map(BTreeSet::len).sum();
    assert!(edges > 100, "only {edges} imports were found");
    // Files that import nothing that is left cannot be part of a cycle.
    while let Some(done) = imports.iter().find(|(_, found)| found.is_empty()).map(|(module, _)| *module) {
        imports.remove(done);
        imports.values_mut().for_each(|found| {
            found.remove(done);
        });
    }
    let left = imports.iter().flat_map(|(module, found)| found.iter().map(move |target| (module, target)));
    let left: Vec<String> =
        left.map(|(module, target)| format!("{} imports {}", module.join("::"), target.join("::"))).collect();
    assert!(left.is_empty(), "these imports form cycles, or lead to one:\n{}", left.join("\n"));
}
