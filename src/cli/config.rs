//! Settings from the environment and from the configuration file.
//!
//! Both become defaults of the command's own options, so that the command line overrides the environment, and the environment the
//! file, for every option of every command without naming any.

use crate::error::{Error, ErrorKind, Result};
use crate::yaml::{self, YamlNode};
use clap::error::ErrorKind as ClapError;
use clap::{Arg, ArgAction, Command};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The environment of the process, read once at its start.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

impl Environment {
    /// The environment of this process. Variables that are not UTF-8 are ignored.
    #[must_use]
    pub fn of_process() -> Self {
        let text = |text: OsString| text.into_string().ok();
        let mut variables: BTreeMap<String, String> =
            std::env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect();
        if let Some(home) = std::env::home_dir().map(PathBuf::into_os_string).and_then(text) {
            variables.entry("HOME".to_owned()).or_insert(home);
        }
        Self { variables }
    }

    /// An environment of these variables.
    #[must_use]
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        let variables = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { variables }
    }

    /// The value of a variable that is set and not empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The user's home directory.
    #[must_use]
    pub fn home(&self) -> Option<PathBuf> {
        self.get("HOME").map(PathBuf::from)
    }
}

/// The environment variable of the option `--long`.
fn variable(long: &str) -> String {
    format!("SAVER_{}", long.to_ascii_uppercase().replace('-', "_"))
}

/// Warnings about variables that look like settings and are not, probably because they are misspelt.
pub(super) fn unknown(command: &Command, environment: &Environment) -> Vec<String> {
    let known: BTreeSet<String> = longs(command).iter().map(|long| variable(long)).collect();
    let set = environment.variables.keys().filter(|name| name.starts_with("SAVER_"));
    let warning = |name: &String| match nearest(name, &known) {
        Some(near) => format!("{name} is not a setting of saver; did you mean {near}?"),
        None => format!("{name} is not a setting of saver"),
    };
    set.filter(|name| !known.contains(*name)).map(warning).collect()
}

/// The configuration file: `--config`, else SAVER_CONFIG, else the user's own if it exists.
fn location(argv: &[OsString], environment: &Environment) -> Option<PathBuf> {
    let words = argv.iter().skip(1).take_while(|word| *word != "--").map(|word| word.to_string_lossy());
    let mut words = words.peekable();
    while let Some(word) = words.next() {
        if word == "--config" {
            return words.next().map(|path| PathBuf::from(path.as_ref()));
        }
        if let Some(path) = word.strip_prefix("--config=") {
            return Some(path.into());
        }
    }
    if let Some(path) = environment.get("SAVER_CONFIG") {
        return Some(path.into());
    }
    let base = match environment.get("XDG_CONFIG_HOME") {
        Some(base) => PathBuf::from(base),
        None => environment.home()?.join(".config"),
    };
    Some(base.join("saver/config.yaml")).filter(|path| path.exists())
}

/// Makes the settings of the environment and the configuration file the defaults of `command`.
///
/// # Errors
/// `InvalidInput` naming the variable, or the file, line and key, and what is wrong with it.
pub fn layer(command: Command, argv: &[OsString], environment: &Environment) -> Result<Command> {
    let mut settings = Vec::new();
    if let Some(path) = location(argv, environment) {
        let text = std::fs::read(&path).map_err(|cause| {
            Error::new(
                ErrorKind::InvalidInput,
                path.display(),
                format!("cannot read the configuration: {cause}"),
            )
        })?;
        settings = read(&path, &text, &command)?;
    }
    let options: BTreeSet<String> = longs(&command);
    for long in options.iter().filter(|long| *long != "config") {
        let name = variable(long);
        if let Some(value) = environment.get(&name) {
            settings.retain(|setting| &setting.long != long);
            settings.push(Setting {
                long: long.clone(),
                value: Value::Environment(value.to_owned()),
                from: name,
            });
        }
    }
    settings.iter().try_for_each(|setting| try_out(&command, setting))?;
    Ok(settings.iter().fold(command, apply))
}

/// A setting and where it was found.
struct Setting {
    long: String,
    value: Value,
    /// The variable, or file:line and the key, with which errors begin.
    from: String,
}

/// A setting's value as written.
#[derive(Debug)]
enum Value {
    Environment(String),
    Null,
    One(String),
    Many(Vec<String>),
    /// `HOST: URL` pairs, each as `HOST=URL`.
    Pairs(Vec<String>),
}

/// The long names of all options of all commands.
fn longs(command: &Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(Arg::get_long).map(str::to_owned);
    own.chain(command.get_subcommands().flat_map(longs)).collect()
}

fn refuse(from: &str, why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, from, why)
}

/// Checks that at least one of the commands with the option accepts the setting. Options of one name may differ between commands
/// (`listen` is an address or a socket); a setting applies to the commands that accept it.
fn try_out(command: &Command, setting: &Setting) -> Result<()> {
    let mut outcomes = Vec::new();
    try_each(command, setting, &mut outcomes);
    if outcomes.iter().any(Result::is_ok) {
        return Ok(());
    }
    outcomes.into_iter().collect()
}

fn try_each(command: &Command, setting: &Setting, outcomes: &mut Vec<Result<()>>) {
    if let Some(arg) = option(command, &setting.long) {
        outcomes.push(accepted(command, arg, setting).map(drop));
    }
    command.get_subcommands().for_each(|sub| try_each(sub, setting, outcomes));
}

/// The values of the setting in the form of the command's option.
fn accepted(command: &Command, arg: &Arg, setting: &Setting) -> Result<Vec<String>> {
    let values = values(arg, setting)?;
    check(command, &setting.long, &values, arg.get_action(), &setting.from)?;
    Ok(values)
}

/// Options that change what these commands do, and are therefore taken from the command line only: whether a directory is read
/// instead of the registry, and which of the saved platforms are sent.
const NO_SETTINGS: [(&str, &[&str]); 5] = [
    ("inspect", &["dir", "arch"]),
    ("tags", &["dir"]),
    ("digest", &["dir", "arch"]),
    ("push", &["arch"]),
    ("copy", &["arch"]),
];

/// Makes the setting the default wherever the command or one of its subcommands has the option and accepts it.
fn apply(mut command: Command, setting: &Setting) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for name in names {
        command = command.mut_subcommand(name, |sub| apply(sub, setting));
    }
    let is_excluded = NO_SETTINGS
        .iter()
        .any(|(name, options)| *name == command.get_name() && options.contains(&setting.long.as_str()));
    let found = option(&command, &setting.long).filter(|_| !is_excluded);
    let found = found.map(|arg| (arg.get_id().to_string(), accepted(&command, arg, setting)));
    match found {
        Some((id, Ok(values))) => command.mut_arg(id, |arg| arg.required(false).default_values(values)),
        _ => command,
    }
}

fn option<'a>(command: &'a Command, long: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| arg.get_long() == Some(long))
}

/// The values in the form of the option.
fn values(arg: &Arg, setting: &Setting) -> Result<Vec<String>> {
    let repeatable = matches!(arg.get_action(), ArgAction::Append);
    let wrong = |why: &str| Err(refuse(&setting.from, why));
    match (&setting.value, arg.get_action()) {
        (Value::Null, _) => wrong("a value is missing"),
        (Value::Environment(text) | Value::One(text), ArgAction::SetTrue | ArgAction::SetFalse) => {
            match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Ok(vec!["true".into()]),
                "false" | "no" | "off" | "0" => Ok(vec!["false".into()]),
                _ => wrong(&format!("invalid value {text:?}: true or false is needed")),
            }
        }
        (Value::Environment(text), _) if repeatable => {
            Ok(text.split_whitespace().map(str::to_owned).collect())
        }
        (Value::Environment(text) | Value::One(text), _) => Ok(vec![text.clone()]),
        (Value::Many(values) | Value::Pairs(values), _) if repeatable => Ok(values.clone()),
        (Value::Many(_), _) => wrong("one value is needed, not a sequence"),
        (Value::Pairs(_), _) => wrong("one value is needed, not a mapping"),
    }
}

/// Lets the command parse the values, so that an error can name their origin.
fn check(command: &Command, long: &str, values: &[String], action: &ArgAction, from: &str) -> Result<()> {
    if matches!(action, ArgAction::SetTrue | ArgAction::SetFalse) {
        return Ok(());
    }
    if matches!(action, ArgAction::Count) {
        let [value] = values else { return Err(refuse(from, "one number is needed")) };
        let count = value.parse::<u8>().map(|_| ());
        return count.map_err(|_| refuse(from, format!("invalid value {value:?}: a small number is needed")));
    }
    for value in values {
        let words = [command.get_name().to_owned(), format!("--{long}={value}")];
        let Err(error) = command.clone().try_get_matches_from(words) else { continue };
        if matches!(error.kind(), ClapError::InvalidValue | ClapError::ValueValidation) {
            let text = error.to_string();
            let lines = text.lines().take_while(|line| !line.starts_with("For more information"));
            let lines: Vec<&str> = lines.map(str::trim).filter(|line| !line.is_empty()).collect();
            let message = lines.join(" ");
            return Err(refuse(from, message.strip_prefix("error: ").unwrap_or(&message)));
        }
    }
    Ok(())
}

/// Parses the configuration file.
fn read(path: &Path, text: &[u8], command: &Command) -> Result<Vec<Setting>> {
    const SHAPE: &str = "the configuration is a YAML mapping of long option names to values";
    let file: Arc<str> = path.display().to_string().into();
    let refuse_at = |line: u64, why: String| refuse(&format!("{file}:{line}"), why).with_hint(SHAPE);
    let Ok(text) = std::str::from_utf8(text) else { return Err(refuse(&file, "the file is not UTF-8 text")) };
    let parsed = yaml::parse(&file, text.trim_start_matches('\u{feff}'));
    if let Some(error) = parsed.error {
        return Err(refuse_at(error.line, format!("invalid YAML: {}", error.message)));
    }
    let mut documents = parsed.documents.iter().filter(|document| !document.is_null());
    let Some(document) = documents.next() else { return Ok(Vec::new()) };
    if let Some(second) = documents.next() {
        return Err(refuse_at(second.line, "the file has more than one YAML document".to_owned()));
    }
    if !document.is_mapping() {
        return Err(refuse_at(document.line, "not a mapping".to_owned()));
    }
    if let Some(key) = document.duplicate_key() {
        return Err(refuse_at(key.line, format!("the key {:?} is written twice", key.text)));
    }
    let known = longs(command);
    let mut settings = Vec::new();
    for (key, node) in document.pairs() {
        let from = format!("{file}:{}: {}", key.line, key.text);
        let long = key.text.clone();
        if ["config", "help", "version"].contains(&long.as_str()) {
            return Err(refuse(&from, "this cannot be set in the configuration"));
        }
        if !known.contains(&long) {
            let error = refuse(&from, "unknown option");
            return Err(match nearest(&long, &known) {
                Some(near) => error.with_hint(format!("did you mean {near}?")),
                None => error.with_hint("the keys are the long option names of saver --help, without dashes"),
            });
        }
        let value = value_of(node).map_err(|why| refuse(&from, why))?;
        settings.push(Setting { long, value, from });
    }
    Ok(settings)
}

/// The value of a setting: a text, a sequence of texts, or a mapping to either.
fn value_of(node: &YamlNode) -> Result<Value, String> {
    let texts = |node: &YamlNode| -> Option<Vec<String>> {
        node.items().iter().map(|item| item.text().map(str::to_owned)).collect()
    };
    if node.is_null() {
        return Ok(Value::Null);
    }
    if let Some(text) = node.text() {
        return Ok(Value::One(text.to_owned()));
    }
    if !node.is_mapping() {
        return texts(node)
            .map(Value::Many)
            .ok_or_else(|| "the sequence has an item that is not text".to_owned());
    }
    let pair = |key: &str, node: &YamlNode| {
        let value = node
            .text()
            .map(str::to_owned)
            .or_else(|| texts(node).filter(|texts| !texts.is_empty()).map(|texts| texts.join(",")));
        value
            .map(|value| format!("{key}={value}"))
            .ok_or_else(|| format!("{key:?} needs a value or a sequence"))
    };
    let pairs: Result<Vec<String>, String> =
        node.pairs().iter().map(|(key, node)| pair(&key.text, node)).collect();
    pairs.map(Value::Pairs)
}

/// The known name that `name` probably stands for.
pub(super) fn nearest<'a>(name: &str, known: &'a BTreeSet<String>) -> Option<&'a str> {
    let plain = |name: &str| name.to_ascii_lowercase().replace(['_', '-'], "");
    let (distance, best) =
        known.iter().map(|long| (distance(&plain(name), &plain(long)), long.as_str())).min()?;
    (distance <= 1 + name.len() / 5).then_some(best)
}

/// The Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::command_line::{Cli, Command as Verb};
    use clap::{CommandFactory, FromArgMatches};

    fn parse(argv: &[&str], variables: &[(&str, &str)], file: &str) -> Result<Cli> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.yaml");
        std::fs::write(&path, file).unwrap();
        let mut all = vec![("SAVER_CONFIG", path.to_str().unwrap())];
        all.extend(variables);
        let argv: Vec<OsString> =
            std::iter::once("saver").chain(argv.iter().copied()).map(OsString::from).collect();
        let command = layer(Cli::command(), &argv, &Environment::of(&all))?;
        let matches = command.try_get_matches_from(argv).unwrap();
        Ok(Cli::from_arg_matches(&matches).unwrap())
    }

    #[test]
    fn command_line_overrides_environment_and_file() {
        let file = "jobs: 3\nretries: 5\nindex: prune\n";
        let variables = [("SAVER_JOBS", "4"), ("SAVER_RETRIES", "6")];
        for verb in [&[][..], &["save"]] {
            let argv: Vec<&str> = verb.iter().copied().chain(["--jobs", "9"]).collect();
            let cli = parse(&argv, &variables, file).unwrap();
            let save = match cli.command {
                Some(Verb::Save(save)) => *save,
                _ => cli.save,
            };
            assert_eq!((save.run.fetch.transfer.jobs.jobs, save.run.fetch.registry.retries), (9, 6));
            assert_eq!(save.run.fetch.index.index, crate::cli::args::platforms::IndexArg::Prune);
            assert_eq!(save.run.fetch.platforms.os, "linux");
        }
    }

    #[test]
    fn every_shape_of_value_is_accepted() {
        let file = "list: [a.txt, b c.txt]\narch: [amd64, arm64]\ndry-run: yes\nverbose: 2\nquiet: false\n\
                    mirror:\n  docker.io: [https://a, https://b]\n  quay.io: https://c\nplain-http: a:1\n";
        let cli =
            parse(&["save"], &[("SAVER_INSECURE_TLS", "x:1 y"), ("SAVER_FAIL_FAST", "1")], file).unwrap();
        assert_eq!(cli.global.verbose, 2);
        assert!(!cli.global.quiet);
        let Some(Verb::Save(save)) = cli.command else { panic!() };
        assert_eq!(save.lists.list, [PathBuf::from("a.txt"), PathBuf::from("b c.txt")]);
        assert_eq!(save.run.fetch.platforms.arch, ["amd64", "arm64"]);
        assert!(save.dry_run.dry_run && save.run.fetch.transfer.fail_fast);
        assert_eq!(save.run.fetch.registry.mirror, ["docker.io=https://a,https://b", "quay.io=https://c"]);
        assert_eq!(save.run.fetch.registry.plain_http, ["a:1"]);
        assert_eq!(save.run.fetch.registry.insecure_tls, ["x:1", "y"]);
        let cli = parse(&["save", "--list", "c", "-v"], &[], file).unwrap();
        assert_eq!(cli.global.verbose, 1);
        let Some(Verb::Save(save)) = cli.command else { panic!() };
        assert_eq!(save.lists.list, [PathBuf::from("c")]);
    }

    #[test]
    fn setting_applies_to_commands_that_accept_it() {
        let file = "listen: unix:///run/s\ndir: d\n";
        let Some(Verb::Cri(cri)) = parse(&["cri"], &[], file).unwrap().command else { panic!() };
        assert_eq!(cri.listen, "unix:///run/s");
        let Some(Verb::Serve(serve)) = parse(&["serve"], &[], file).unwrap().command else { panic!() };
        assert_eq!(serve.listen.to_string(), "127.0.0.1:5000");
    }

    #[test]
    fn errors_name_file_line_and_hint() {
        for (file, variable, message) in [
            ("job: 3\n", None, "c.yaml:1: job: unknown option"),
            ("\nfailed_list: x\n", None, "c.yaml:2: failed_list: unknown option"),
            ("listen: 0.0.0.0:x\n", None, "c.yaml:1: listen: invalid value '0.0.0.0:x'"),
            ("jobs: many\n", None, "c.yaml:1: jobs: invalid value 'many'"),
            ("jobs: [1, 2]\n", None, "c.yaml:1: jobs: one value is needed, not a sequence"),
            ("jobs: {a: 1}\n", None, "c.yaml:1: jobs: one value is needed, not a mapping"),
            ("jobs:\n", None, "c.yaml:1: jobs: a value is missing"),
            ("dry-run: perhaps\n", None, "c.yaml:1: dry-run: invalid value \"perhaps\""),
            ("index: keeep\n", None, "c.yaml:1: index: invalid value 'keeep'"),
            ("config: other.yaml\n", None, "c.yaml:1: config: this cannot be set"),
            ("- jobs\n", None, "c.yaml:1: "),
            ("jobs: 1\njobs: 2\n", None, "c.yaml:2"),
            ("", Some(("SAVER_JOBS", "0")), "SAVER_JOBS: invalid value '0'"),
            ("", Some(("SAVER_DRY_RUN", "x")), "SAVER_DRY_RUN: invalid value \"x\""),
        ] {
            let error = parse(&[], variable.as_slice(), file).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(message), "{file}: {error}");
        }
        let error = parse(&[], &[], "failed_list: x\n").unwrap_err();
        assert_eq!(error.hint(), Some("did you mean failed-list?"));
        assert!(parse(&["--config=/no/such"], &[], "").unwrap_err().to_string().contains("/no/such"));
    }

    #[test]
    fn user_file_is_read_if_it_exists() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        let argv = [OsString::from("saver")];
        let environment = Environment::of(&[("HOME", home)]);
        assert_eq!(location(&argv, &environment), None);
        let path = dir.path().join(".config/saver/config.yaml");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "").unwrap();
        assert_eq!(location(&argv, &environment), Some(path));
    }
}
