//! Resolves the options of registries: how each is reached, and with which credentials.

use crate::cli::args::registry::RegistryArgs;
use crate::cli::args::send::SendArgs;
use crate::cli::config::Environment;
use crate::cli::context::Context;
use crate::cli::registries;
use crate::credentials::Credentials;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Registry;
use crate::registry::{
    Access, Credential, CredentialSource, RateLimit, Secret, SessionOptions, SettingsSource,
};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

/// The longest password that is read from stdin, in bytes.
const MAX_PASSWORD_BYTES: u64 = 64 << 10;

/// Resolves the options for a command that uses `registries`, and warns of options for registries that are not among them.
///
/// # Errors
/// `InvalidInput` naming the option or file and what is wrong with it.
pub(super) fn resolve(
    args: &RegistryArgs,
    context: &Context<'_>,
    registries: &BTreeSet<Registry>,
) -> Result<Access> {
    let settings = registries::resolve(args, context.environment)?;
    for unused in registries::unused(&settings, registries) {
        context.warn(&unused);
    }
    for registry in registries {
        settings.session_options(registry)?;
    }
    let credentials = credentials(args, context.environment, registries)?;
    let rate = args.limit_rate.map(|rate| Arc::new(RateLimit::new(rate)));
    let limited = Limited { settings, connect: args.connect_timeout, idle: args.idle_timeout, rate };
    Ok(Access { settings: Arc::new(limited), credentials, ..Access::default() })
}

/// Resolves the options for a command that uploads to and reads from `registries`.
///
/// # Errors
/// As [`resolve`].
pub(super) fn resolve_for_upload(
    args: &SendArgs,
    context: &Context<'_>,
    registries: &BTreeSet<Registry>,
) -> Result<Access> {
    let access = resolve(&args.registry, context, registries)?;
    let settings = ChunkedUploads { settings: access.settings, chunk_size: args.upload_chunk_size };
    Ok(Access { settings: Arc::new(settings), ..access })
}

/// Settings of registries with the chunk size of the command line.
struct ChunkedUploads {
    settings: Arc<dyn SettingsSource>,
    chunk_size: Option<u64>,
}

impl SettingsSource for ChunkedUploads {
    fn settings(&self, registry: &Registry) -> Result<Option<SessionOptions>> {
        let mut options = self.settings.settings(registry)?.unwrap_or_default();
        options.upload_chunk_size = self.chunk_size;
        Ok(Some(options))
    }
}

/// Settings of registries with the limits of the command line.
struct Limited<S> {
    settings: S,
    connect: Duration,
    idle: Duration,
    rate: Option<Arc<RateLimit>>,
}

impl<S: SettingsSource> SettingsSource for Limited<S> {
    fn settings(&self, registry: &Registry) -> Result<Option<SessionOptions>> {
        let mut options = self.settings.settings(registry)?.unwrap_or_default();
        options.connect_timeout = self.connect;
        options.idle_timeout = self.idle;
        options.rate_limit.clone_from(&self.rate);
        Ok(Some(options))
    }
}

/// The sources of credentials: `--username` first, then the files. Credentials of a list take precedence over both.
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
        _ => return Err(wrong("each needs the other; the password is read from stdin")),
    }
    let mut names = registries.iter();
    let (Some(registry), None) = (names.next(), names.next()) else {
        let names: Vec<&str> = registries.iter().map(Registry::as_str).collect();
        let why = match names.as_slice() {
            [] => "no registry is used".to_owned(),
            names => {
                format!("one login cannot serve {} registries: {}", names.len(), names.join(", "))
            }
        };
        let hint = "use docker login, --authfile or, where lists are read, a YAML list with credentials";
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
