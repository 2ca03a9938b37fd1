//! Command lines that clap accepts or rejects for the wrong reason: words that are no image, habits from other tools, and options in
//! front of a command.

use crate::cli::config::nearest;
use crate::error::{Error, ErrorKind};
use clap::error::{ContextKind, ContextValue, ErrorKind as ClapError};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use std::collections::BTreeSet;
use std::path::Path;

/// Names that other tools have for our commands, or for things that saver has no command for.
const SYNONYMS: &[(&str, &str)] = &[
    ("pull", "to download images: saver save --dir DIR --arch ARCH IMAGE..."),
    ("download", "to download images: saver save --dir DIR --arch ARCH IMAGE..."),
    ("sync", "to mirror a list of images: saver save --list FILE --dir DIR --arch ARCH"),
    ("mirror", "to mirror a list of images: saver save --list FILE --dir DIR --arch ARCH"),
    ("list", "to list a directory: saver ls DIR; to list the tags of a repository: saver tags REPOSITORY"),
    ("images", "to list a directory: saver ls DIR"),
    ("remove", "to remove images from a directory: saver rm --dir DIR IMAGE..."),
    ("delete", "to remove images from a directory: saver rm --dir DIR IMAGE..."),
    ("rmi", "to remove images from a directory: saver rm --dir DIR IMAGE..."),
    ("du", "to show the sizes in a directory: saver ls DIR"),
    ("login", "saver uses the credentials of docker login, or of --authfile FILE"),
    ("logout", "saver uses the credentials of docker login, or of --authfile FILE"),
    ("check", "to check a directory: saver verify DIR"),
    ("version", "to print the version: saver --version"),
];

/// Options that other tools have, and what to use instead. An option is known by its name without dashes.
const HABITS: &[(&str, &str)] = &[
    (
        "tls-verify",
        "use --insecure-tls HOST to skip certificate verification, or --plain-http HOST to use HTTP",
    ),
    (
        "src-tls-verify",
        "use --insecure-tls HOST to skip certificate verification, or --plain-http HOST to use HTTP",
    ),
    (
        "dest-tls-verify",
        "use --insecure-tls HOST to skip certificate verification, or --plain-http HOST to use HTTP",
    ),
    (
        "insecure",
        "use --insecure-tls HOST to skip certificate verification, or --plain-http HOST to use HTTP",
    ),
    ("insecure-policy", "without --policy, saver verifies no signatures: leave it out"),
    ("creds", "use --username NAME --password-stdin, docker login, or --authfile FILE"),
    ("src-creds", "use --username NAME --password-stdin, docker login, or --authfile FILE"),
    ("dest-creds", "use --username NAME --password-stdin, docker login, or --authfile FILE"),
    ("password", "use --password-stdin, so that the password is not in the list of processes"),
    ("debug", "use -v or -vv"),
    ("all", "use --arch all to select every platform"),
    ("format", "use --json for JSON"),
    ("output", "use --json for JSON"),
    ("o", "use --json for JSON"),
    ("j", "use --jobs N for concurrency, --json for JSON"),
    ("f", "use --list FILE to read a list"),
    ("file", "use --list FILE to read a list"),
    ("force", "leave it out: saver does not ask for confirmation"),
    ("y", "leave it out: saver does not ask for confirmation"),
    ("a", "use --arch all to select every platform"),
];

/// As `HABITS`, for one command: its name, the option without dashes, and what to use instead.
const COMMAND_HABITS: &[(&str, &str, &str)] = &[
    ("prune", "list", "use --keep FILE to name the list of the images to keep"),
    ("rewrite", "to", "name the registry as an argument: saver rewrite --dir DIR REGISTRY[/PREFIX] [FILE]"),
    ("serve", "port", "use --listen PORT, or --listen ADDRESS:PORT"),
    ("serve", "p", "use --listen PORT, or --listen ADDRESS:PORT"),
    ("serve", "addr", "use --listen ADDRESS:PORT"),
];

/// Endings of files that are lists rather than images.
const LIST_ENDINGS: &[&str] = &[".txt", ".list", ".lst", ".yaml", ".yml", ".json", ".csv"];

/// Architectures that people write after `--arch amd64` and a blank.
const ARCHITECTURES: &[&str] = &[
    "amd64", "arm64", "arm", "386", "ppc64le", "s390x", "riscv64", "loong64", "mips64le", "x86_64",
    "aarch64", "all",
];

/// Checks the first word, before its options are: those of a command that does not exist would be reported instead of it.
pub(crate) fn unknown_command(root: &Command, first: Option<&str>) -> Option<Error> {
    let word = first.filter(|word| is_bare(word) && !word.starts_with('-'))?;
    if root.find_subcommand(word).is_some() || word == "help" {
        return None;
    }
    Some(bare_word(root, word))
}

/// Checks the words that stand for images where no command is written.
pub(crate) fn not_an_image(root: &Command, words: &[String]) -> Option<Error> {
    let first = words.iter().find(|word| is_bare(word));
    first.map(|word| bare_word(root, word)).or_else(|| words.iter().find_map(|word| list_file(word)))
}

/// Whether a word has nothing that only an image's name has.
fn is_bare(word: &str) -> bool {
    !word.is_empty() && !word.contains(['/', ':', '@', '.'])
}

/// The error for a word that is neither a command nor clearly an image.
fn bare_word(root: &Command, word: &str) -> Error {
    let unknown = |hint: String| {
        Error::new(ErrorKind::InvalidInput, "", format!("unknown command '{word}'")).with_hint(hint)
    };
    if root.find_subcommand(word).is_some() {
        let error = Error::new(ErrorKind::InvalidInput, "", format!("the command '{word}' must come first"));
        return error
            .with_hint(format!("write saver {word} ...; to save the image of this name, saver save {word}"));
    }
    if let Some((_, hint)) = SYNONYMS.iter().find(|(name, _)| *name == word) {
        return unknown((*hint).to_owned());
    }
    if ARCHITECTURES.contains(&word) {
        let error = Error::new(ErrorKind::InvalidInput, "", format!("unexpected argument '{word}'"));
        return error.with_hint(format!("separate architectures with commas: --arch amd64,{word}"));
    }
    let commands: BTreeSet<String> =
        root.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    match nearest(word, &commands) {
        Some(near) => unknown(format!(
            "did you mean saver {near}? To save the image of this name, write saver save {word}"
        )),
        None => unknown(format!("to save the image of this name, write saver save {word}, or {word}:latest")),
    }
}

/// The error for a list that is named like an image.
pub(crate) fn list_file(word: &str) -> Option<Error> {
    let is_file_name = !word.contains([':', '@']) && LIST_ENDINGS.iter().any(|ending| word.ends_with(ending));
    let is_list =
        is_file_name && (!word.contains('/') || word.starts_with(['.', '/']) || Path::new(word).is_file());
    let error = || Error::new(ErrorKind::InvalidInput, word, "this is the name of a file, not of an image");
    is_list.then(|| error().with_hint(format!("write --list {word} to read a list of images")))
}

/// Options of saving in front of another command's name would have no effect.
pub(crate) fn misplaced_option(root: &Command, matches: &ArgMatches) -> Option<Error> {
    let command = matches.subcommand_name()?;
    let own = root.get_arguments().filter(|arg| !arg.is_global_set());
    let is_given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let arg = own.into_iter().find(|arg| is_given(arg.get_id().as_str()))?;
    let name = arg.get_long().map(|long| format!("--{long}"));
    let name = name.unwrap_or_else(|| arg.get_id().to_string());
    let why = format!("the option '{name}' must follow the command '{command}'");
    Some(Error::new(ErrorKind::InvalidInput, "", why).with_hint(format!("write saver {command} {name} ...")))
}

/// Whether a check without a repair gets its list from a setting, which is meant for other commands.
pub(crate) fn is_list_of_other_commands(matches: &ArgMatches) -> bool {
    matches.subcommand_matches("verify").is_some_and(|verify| {
        !verify.get_flag("repair") && verify.value_source("list") != Some(ValueSource::CommandLine)
    })
}

/// A rejection by clap in the form of every other error: what is wrong, and on a line of its own what to do.
pub(crate) fn rejected(error: &clap::Error, verb: Option<&str>) -> Error {
    let text = error.to_string();
    let mut paragraphs = text.split("\n\n");
    let first = paragraphs.next().unwrap_or_default();
    let (message, possible) = first.split_once("\n  [possible values: ").unwrap_or((first, ""));
    let message = message.strip_prefix("error: ").unwrap_or(message).trim_end_matches(" found");
    let message: Vec<&str> = message.split_whitespace().collect();
    let message = missing(error).unwrap_or_else(|| message.join(" "));
    let hint = habit(error, verb)
        .or_else(|| url_as_client(error))
        .or_else(|| suggestion(error))
        .or_else(|| possible.strip_suffix(']').map(|values| format!("possible values: {values}")))
        .unwrap_or_else(|| match verb {
            Some(verb) => format!("saver {verb} --help lists the options"),
            None => "saver --help lists the options".to_owned(),
        });
    Error::new(ErrorKind::InvalidInput, "", message).with_hint(hint)
}

/// What is missing, in the words of `args::missing_option`, or the command that does not exist.
fn missing(error: &clap::Error) -> Option<String> {
    match (error.kind(), error.get(ContextKind::InvalidArg), error.get(ContextKind::InvalidSubcommand)) {
        (ClapError::MissingRequiredArgument, Some(ContextValue::Strings(names)), _) => {
            let name = names.first()?;
            let name = name.split(' ').next().unwrap_or(name);
            Some(match name.strip_prefix('<').and_then(|name| name.split('>').next()) {
                Some(argument) => format!("missing required argument '{argument}'"),
                None => format!("missing required option '{name}'"),
            })
        }
        (_, _, Some(ContextValue::String(name))) => Some(format!("unknown command '{name}'")),
        _ => None,
    }
}

/// The hint for the URL of a mirror in the place of the client that `mirror-config` configures.
fn url_as_client(error: &clap::Error) -> Option<String> {
    match (error.get(ContextKind::InvalidArg), error.get(ContextKind::InvalidValue)) {
        (Some(ContextValue::String(argument)), Some(ContextValue::String(value)))
            if argument == "<CLIENT>" && value.contains("://") =>
        {
            Some(format!("saver mirror-config CLIENT --endpoint {value} --dir DIR; --help lists the clients"))
        }
        _ => None,
    }
}

/// What to use instead of an option that other tools have.
fn habit(error: &clap::Error, verb: Option<&str>) -> Option<String> {
    if error.kind() != ClapError::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else { return None };
    let name = argument.trim_start_matches('-').split('=').next().unwrap_or_default();
    let own = COMMAND_HABITS.iter().find(|(command, habit, _)| Some(*command) == verb && *habit == name);
    let own = own.map(|(_, _, hint)| *hint);
    let hint = own.or_else(|| HABITS.iter().find(|(habit, _)| *habit == name).map(|(_, hint)| *hint));
    hint.map(str::to_owned)
}

/// The argument or value that was likely meant.
fn suggestion(error: &clap::Error) -> Option<String> {
    for kind in [ContextKind::SuggestedArg, ContextKind::SuggestedValue, ContextKind::SuggestedSubcommand] {
        match error.get(kind) {
            Some(ContextValue::String(near)) => return Some(format!("did you mean '{near}'?")),
            Some(ContextValue::Strings(near)) => {
                return near.first().map(|near| format!("did you mean '{near}'?"));
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Command {
        Command::new("saver").subcommands([Command::new("save"), Command::new("ls"), Command::new("verify")])
    }

    #[test]
    fn bare_words_are_commands_or_errors() {
        for (word, hint) in [
            ("lss", "did you mean saver ls?"),
            ("list", "saver ls DIR"),
            ("login", "docker login"),
            ("arm64", "--arch amd64,arm64"),
            ("nginx", "saver save nginx"),
            ("ls", "write saver ls ..."),
        ] {
            let error = not_an_image(&root(), &["a.io/b:1".to_owned(), word.to_owned()]).unwrap();
            assert!(error.hint().unwrap().contains(hint), "{word}: {error} {:?}", error.hint());
        }
        for word in ["a/b", "nginx:1", "nginx@sha256:0", "a.io", ""] {
            assert!(not_an_image(&root(), &[word.to_owned()]).is_none(), "{word}");
        }
        for word in ["ls", "help", "-q", "a/b", "--list"] {
            assert!(unknown_command(&root(), Some(word)).is_none(), "{word}");
        }
    }

    #[test]
    fn names_of_lists_are_not_images() {
        for (word, is_list) in [
            ("images.txt", true),
            ("./lists/images", false),
            ("./images.list", true),
            ("/x/images.yaml", true),
            ("quay.io/a/b.txt", false),
            ("images.txt:latest", false),
            ("example.com", false),
        ] {
            assert_eq!(list_file(word).is_some(), is_list, "{word}");
        }
    }

    #[test]
    fn habits_get_a_hint() {
        for (argument, hint) in [
            ("--tls-verify=false", "--insecure-tls"),
            ("--creds=a:b", "--password-stdin"),
            ("--debug", "-v"),
            ("-o", "--json"),
            ("-j", "--jobs"),
            ("-f", "--list"),
            ("--frobnicate", "saver ls --help"),
        ] {
            let error = Command::new("ls").try_get_matches_from(["ls", argument]).unwrap_err();
            let error = rejected(&error, Some("ls"));
            assert!(error.hint().unwrap().contains(hint), "{argument}: {:?}", error.hint());
        }
        for (command, option, hint) in COMMAND_HABITS {
            let dashes = if option.len() == 1 { "-" } else { "--" };
            let arguments = ["saver".to_owned(), format!("{dashes}{option}")];
            let error = Command::new("saver").try_get_matches_from(arguments).unwrap_err();
            assert_eq!(rejected(&error, Some(*command)).hint(), Some(*hint), "{command} {option}");
            assert_ne!(rejected(&error, Some("ls")).hint(), Some(*hint), "{command} {option}");
        }
    }

    #[test]
    fn missing_arguments_are_named_as_in_other_commands() {
        use clap::Arg;
        let path = Command::new("scan").arg(Arg::new("path").value_name("PATH").required(true).num_args(1..));
        let arch = Command::new("scan").arg(Arg::new("arch").long("arch").value_name("A").required(true));
        for (command, expected) in
            [(path, "missing required argument 'PATH'"), (arch, "missing required option '--arch'")]
        {
            let error = command.try_get_matches_from(["scan"]).unwrap_err();
            assert_eq!(rejected(&error, Some("scan")).message(), expected);
        }
    }
}
