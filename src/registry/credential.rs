//! Credentials for registries and where they come from.

use crate::error::{Error, Result};
use crate::oci::{Registry, Repository};
use futures::future::BoxFuture;
use std::fmt;
use std::sync::Arc;

/// A password or token. `Debug` and `Display` redact it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps `secret`.
    pub fn new(secret: impl AsRef<str>) -> Self {
        Self(secret.as_ref().into())
    }

    /// The secret itself. Only for sending it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A credential for a registry or its token server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// No credential.
    Anonymous,
    /// A user and a password (RFC 7617).
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A refresh token that the token server exchanges for access tokens (Docker's identity token, OAuth 2).
    IdentityToken(Secret),
    /// A token that is sent to the registry as it is.
    RegistryToken(Secret),
}

/// Where a session finds credentials.
///
/// Called once per repository and session, after a registry or mirror has refused an anonymous request; `host` is the one
/// that the credential will be sent to.
pub trait CredentialSource: Send + Sync {
    /// The credential for `repository` at `host`; `Anonymous` where there is none.
    ///
    /// # Errors
    /// When a credential exists but can't be read: a helper that fails, an unreadable file.
    fn credential<'a>(
        &'a self,
        host: &'a Registry,
        repository: &'a Repository,
    ) -> BoxFuture<'a, Result<Credential>>;

    /// Why credentials that exist for `host` could not be read, if [`credential`](Self::credential) answered without
    /// them. Part of the message when the registry rejects the anonymous request.
    fn failure(&self, _host: &Registry, _repository: &Repository) -> Option<Error> {
        None
    }

    /// Where the credential for `host` comes from, for messages: a file's path, a flag. Never a secret.
    fn origin(&self, _host: &Registry, _repository: &Repository) -> Option<String> {
        None
    }
}

/// Where a credential came from, or why there is none.
#[derive(Debug, Default)]
pub(super) struct CredentialLookup {
    origin: Option<String>,
    failure: Option<Error>,
}

impl CredentialLookup {
    pub(super) fn new(source: &dyn CredentialSource, host: &Registry, repository: &Repository) -> Self {
        Self { origin: source.origin(host, repository), failure: source.failure(host, repository) }
    }
}

/// Explains the error of a registry or token server that denied access: a login is missing, or the credentials were not
/// accepted.
pub(super) fn refusal(error: &Error, host: &str, shown: &Credential, lookup: &CredentialLookup) -> Error {
    if let (Credential::Anonymous, Some(failure)) = (shown, &lookup.failure) {
        let what =
            format!("the registry requires a login, and the credentials could not be read ({failure})");
        let error = error.clone().context(what);
        return match failure.hint() {
            Some(hint) => error.with_hint(hint),
            None => error,
        };
    }
    let from = lookup.origin.as_deref().map(|origin| format!(" from {origin}")).unwrap_or_default();
    let (what, hint) = match shown {
        Credential::Anonymous => (
            "the registry requires a login, and no credentials were found".to_owned(),
            format!("check the name; if the repository is private: docker login {host}"),
        ),
        Credential::Basic { username, .. } => (
            format!("the registry refused the credentials{from} (user {username:?})"),
            format!("check the user, the password and their permissions: docker login {host}"),
        ),
        Credential::IdentityToken(_) | Credential::RegistryToken(_) => (
            format!("the registry refused the token{from}"),
            format!("it may have expired: docker login {host}"),
        ),
    };
    error.clone().context(what).with_hint(hint)
}

/// No credentials at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anonymous;

impl CredentialSource for Anonymous {
    fn credential<'a>(&'a self, _: &'a Registry, _: &'a Repository) -> BoxFuture<'a, Result<Credential>> {
        Box::pin(std::future::ready(Ok(Credential::Anonymous)))
    }
}

/// One credential for one host, or for every host.
#[derive(Clone, Debug)]
pub struct Fixed {
    host: Option<Registry>,
    credential: Credential,
}

impl Fixed {
    /// `credential` for every host. Use it only for sessions without mirrors.
    #[must_use]
    pub fn new(credential: Credential) -> Self {
        Self { host: None, credential }
    }

    /// `credential` for `host` only.
    #[must_use]
    pub fn only_for(host: Registry, credential: Credential) -> Self {
        Self { host: Some(host), credential }
    }
}

impl CredentialSource for Fixed {
    fn credential<'a>(&'a self, host: &'a Registry, _: &'a Repository) -> BoxFuture<'a, Result<Credential>> {
        let known = self.host.as_ref().is_none_or(|known| known == host);
        let credential = if known { self.credential.clone() } else { Credential::Anonymous };
        Box::pin(std::future::ready(Ok(credential)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_is_not_printed() {
        let credential = Credential::Basic { username: "ann".into(), password: Secret::new("hunter2") };
        let shown = format!("{credential:?} {}", Secret::new("hunter2"));
        assert!(shown.contains("ann") && !shown.contains("hunter2"), "{shown}");
    }
}
