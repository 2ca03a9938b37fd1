//! How a command reaches registries, and as whom: its flags, resolved.

use crate::cli::args::RegistryArgs;
use crate::cli::config::Environment;
use crate::cli::registries;
use crate::cli::ui::output;
use crate::cli::ui::terminal::Screen;
use crate::credentials::Credentials;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Registry;
use crate::registry::{Access, Credential, CredentialSource, Secret};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Read;
use std::sync::Arc;

/// The longest password that is read from stdin, in bytes.
const MAX_PASSWORD_BYTES: u64 = 64 << 10;

/// Resolves the flags for a command that speaks with `registries`, and warns of those that speak of none of them.
///
/// # Errors
/// `InvalidInput` naming the flag or file and what is wrong with it.
pub(super) fn resolve(
    args: &RegistryArgs,
    environment: &Environment,
    registries: &BTreeSet<Registry>,
    screen: &Screen,
    quiet: bool,
) -> Result<Access> {
    let settings = registries::resolve(args, environment)?;
    if !quiet {
        for unused in registries::unused(&settings, registries) {
            screen.line(&format!("{} {}", screen.paint().yellow("warning:"), output::clean(&unused)));
        }
    }
    for registry in registries {
        settings.session_options(registry)?;
    }
    let credentials = credentials(args, environment, registries)?;
    Ok(Access { own: Arc::new(settings), credentials, ..Access::default() })
}

/// Where credentials come from: `--username` first, then the files. A list's own go before both.
fn credentials(
    args: &RegistryArgs,
    environment: &Environment,
    registries: &BTreeSet<Registry>,
) -> Result<Arc<dyn CredentialSource>> {
    let credentials = match &args.authfile {
        Some(path) => Credentials::from_file(path)?,
        None => Credentials::docker_default(|name| environment.get(name).map(OsString::from))?,
    };
    let wrong = |why: &str| Error::new(ErrorKind::InvalidInput, "--username and --password-stdin", why);
    match (&args.username, args.password_stdin) {
        (None, false) => return Ok(Arc::new(credentials)),
        (Some(_), true) => {}
        _ => return Err(wrong("are needed together: the password is read from stdin")),
    }
    let mut names = registries.iter();
    let (Some(registry), None) = (names.next(), names.next()) else {
        let names: Vec<&str> = registries.iter().map(Registry::as_str).collect();
        let why = match names.as_slice() {
            [] => "they are for a registry, and none is asked".to_owned(),
            names => {
                format!("they are for one registry, and this is about {}: {}", names.len(), names.join(", "))
            }
        };
        let hint = "use docker login, --authfile or, where lists are taken, a YAML list with credentials";
        return Err(wrong(&why).with_hint(hint));
    };
    let username = args.username.clone().unwrap_or_default();
    let credential = Credential::Basic { username, password: password()? };
    Ok(Arc::new(credentials.with_credential(registry.clone(), credential)))
}

fn password() -> Result<Secret> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(MAX_PASSWORD_BYTES).read_to_string(&mut text);
    let refuse = |why: String| Error::new(ErrorKind::InvalidInput, "--password-stdin", why);
    read.map_err(|cause| refuse(format!("cannot read the password: {cause}")))?;
    let password = text.trim_end_matches(['\n', '\r']);
    if password.is_empty() {
        return Err(refuse("the password is empty".into()));
    }
    Ok(Secret::new(password))
}
