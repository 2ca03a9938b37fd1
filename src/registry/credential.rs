//! What a registry is shown to let us in, and where that comes from.

use crate::error::{Error, Result};
use crate::oci::{Registry, Repository};
use futures::future::BoxFuture;
use std::fmt;
use std::sync::Arc;

/// A password or token. Neither `Debug` nor `Display` shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Keeps `secret` out of sight.
    pub fn new(secret: impl AsRef<str>) -> Self {
        Self(secret.as_ref().into())
    }

    /// The secret itself, to be sent and for nothing else.
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

/// What a registry, or its token server, is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// Nothing.
    Anonymous,
    /// A user and a password (RFC 7617).
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A refresh token that the token server changes for access tokens (Docker's identity token, OAuth 2).
    IdentityToken(Secret),
    /// A token to be shown to the registry as it is.
    RegistryToken(Secret),
}

/// Where a session finds credentials.
///
/// Asked once per repository and session, when a registry (or mirror: `host` names the one that
/// will see the answer) has refused an anonymous request.
pub trait CredentialSource: Send + Sync {
    /// What to show `host` to read `repository`; `Anonymous` where nothing is known.
    ///
    /// # Errors
    /// When a credential is there but can't be had: a helper that fails, a file that is not readable.
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

    /// Where the credential that was given for `host` came from, for messages: a file's path, a flag. Never a secret.
    fn origin(&self, _host: &Registry, _repository: &Repository) -> Option<String> {
        None
    }
}

/// What messages say of a lookup of credentials.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    origin: Option<String>,
    failure: Option<Error>,
}

impl Lookup {
    pub(super) fn new(source: &dyn CredentialSource, host: &Registry, repository: &Repository) -> Self {
        Self { origin: source.origin(host, repository), failure: source.failure(host, repository) }
    }
}

/// The error of a registry or token server that refused, told as what it is: a login that is missing,
/// or credentials that are not accepted.
pub(super) fn refusal(error: &Error, host: &str, shown: &Credential, lookup: &Lookup) -> Error {
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
            "the registry asks for a login, and none was found".to_owned(),
            format!("check the name; if it is private: docker login {host}"),
        ),
        Credential::Basic { username, .. } => (
            format!("the registry refused the credentials{from} (user {username:?})"),
            format!("check the user, the password and what they may read: docker login {host}"),
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

/// One credential for one host; others get nothing.
#[derive(Clone, Debug)]
pub struct Fixed {
    host: Option<Registry>,
    credential: Credential,
}

impl Fixed {
    /// `credential` for every host that asks: for sessions without mirrors.
    #[must_use]
    pub fn new(credential: Credential) -> Self {
        Self { host: None, credential }
    }

    /// `credential` for `host` alone.
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
    fn secrets_are_not_printed() {
        let credential = Credential::Basic { username: "ann".into(), password: Secret::new("hunter2") };
        let shown = format!("{credential:?} {}", Secret::new("hunter2"));
        assert!(shown.contains("ann") && !shown.contains("hunter2"), "{shown}");
    }
}
