//! Authorises requests to one endpoint.
//!
//! No request is spent on asking first: the first 401 has the challenge, and from then on tokens are requested before they are
//! needed. A token is for one repository; tasks that need it while it is being requested wait and share the failure.

use super::challenge::{BearerChallenge, Challenge};
use super::credential::{Credential, CredentialLookup, CredentialSource, refusal};
use super::token::{Token, TokenRequest, basic, bearer};
use super::transport::Transport;
use crate::error::{Error, Result};
use crate::oci::{Registry, Repository};
use crate::single_flight::SingleFlight;
use parking_lot::Mutex;
use reqwest::header::{HeaderMap, HeaderValue};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::OnceCell;
use url::Url;

/// The scope of listing the repositories of a registry.
const CATALOG_SCOPE: &str = "registry:catalog:*";

/// A repository, another one that a request reads as well, and whether it lists repositories instead.
type Access = (Repository, Option<Repository>, bool);

/// Authorises requests to one endpoint.
pub(super) struct Auth {
    /// The endpoint, as the key for credentials.
    host: Registry,
    credentials: Arc<dyn CredentialSource>,
    challenge: Mutex<Option<Challenge>>,
    logins: SingleFlight<Access, Credential>,
    token_requests: SingleFlight<Access, Result<ScopedToken>>,
    tokens: Mutex<HashMap<Access, TokenState>>,
    rights: Rights,
    tokens_requested: AtomicU64,
    /// Set once `/v2/` was asked for a challenge.
    probe: OnceCell<()>,
}

/// A token, and the scopes that were requested for it.
type ScopedToken = (Token, Vec<String>);

#[derive(Default)]
struct TokenState {
    token: Option<ScopedToken>,
    /// The scope that the registry asked for when it refused a token of the usual scope.
    scope: Option<String>,
}

/// An Authorization header, and what it was made from.
pub(super) struct Authorization {
    pub(super) value: HeaderValue,
    kind: AuthorizationKind,
}

enum AuthorizationKind {
    Token {
        secret: super::credential::Secret,
        /// Whether it was requested for this request, so that another one would be refused too.
        fresh: bool,
        scopes: Vec<String>,
    },
    Other,
}

impl Authorization {
    /// Whether it is a token from a token server, which may have expired.
    pub(super) fn is_token(&self) -> bool {
        matches!(self.kind, AuthorizationKind::Token { .. })
    }
}

/// The request that is to be authorised.
#[derive(Clone, Copy)]
pub(super) struct AuthContext<'a> {
    pub(super) transport: &'a Transport,
    pub(super) base: &'a Url,
    pub(super) subject: &'a str,
    pub(super) repository: &'a Repository,
    /// Another repository that the request reads as well.
    pub(super) beside: Option<&'a Repository>,
    /// Whether the request lists the repositories of the registry. `repository` then only selects credentials.
    pub(super) is_catalog: bool,
}

impl AuthContext<'_> {
    fn access(&self) -> Access {
        (self.repository.clone(), self.beside.cloned(), self.is_catalog)
    }
}

impl Auth {
    pub(super) fn new(host: Registry, credentials: Arc<dyn CredentialSource>, rights: Rights) -> Self {
        Self {
            host,
            credentials,
            challenge: Mutex::default(),
            logins: SingleFlight::remembering(),
            token_requests: SingleFlight::default(),
            tokens: Mutex::default(),
            rights,
            tokens_requested: AtomicU64::new(0),
            probe: OnceCell::new(),
        }
    }

    /// How many tokens were requested.
    pub(super) fn tokens_requested(&self) -> u64 {
        self.tokens_requested.load(Ordering::Relaxed)
    }

    /// The authorisation for a request; `None` until the endpoint has sent a challenge.
    ///
    /// # Errors
    /// When credentials can't be read, or the token server denies access or fails.
    pub(super) async fn authorization(&self, context: AuthContext<'_>) -> Result<Option<Authorization>> {
        let Some(challenge) = self.known_challenge() else { return Ok(None) };
        let credential = self.credential(context).await?;
        match (challenge, credential) {
            (Challenge::Basic, Credential::Basic { username, password }) => Ok(Some(Authorization {
                value: basic(&username, &password)?,
                kind: AuthorizationKind::Other,
            })),
            (Challenge::Basic, _) => Ok(None),
            (Challenge::Bearer(_), Credential::RegistryToken(token)) => {
                Ok(Some(Authorization { value: bearer(&token)?, kind: AuthorizationKind::Other }))
            }
            (Challenge::Bearer(challenge), credential) => {
                let kind = self.token(context, &challenge, &credential).await?;
                let value = match &kind {
                    AuthorizationKind::Token { secret, .. } => bearer(secret)?,
                    AuthorizationKind::Other => return Ok(None),
                };
                Ok(Some(Authorization { value, kind }))
            }
        }
    }

    /// Learns from a 401 (or a 400 to a token). Returns whether another attempt may succeed.
    ///
    /// # Errors
    /// As `authorization`.
    pub(super) async fn refused(
        &self,
        context: AuthContext<'_>,
        used: Option<&Authorization>,
        headers: &HeaderMap,
    ) -> Result<bool> {
        let challenge = self.learn(headers);
        match used.map(|used| &used.kind) {
            Some(AuthorizationKind::Token { secret, fresh, scopes }) => {
                let asked = match &challenge {
                    Some(Challenge::Bearer(challenge)) => {
                        challenge.scope.clone().filter(|scope| self.rights.cover(scope))
                    }
                    _ => None,
                };
                let had = |scope: &str| scopes.iter().any(|had| had == scope);
                if *fresh && asked.as_ref().is_none_or(|asked| asked.split(' ').all(had)) {
                    return Ok(false);
                }
                let mut tokens = self.tokens.lock();
                let state = tokens.entry(context.access()).or_default();
                // Only the refused token: another task may have got a new one meanwhile.
                if state.token.as_ref().is_some_and(|(token, _)| token.secret == *secret) {
                    *state = TokenState { token: None, scope: asked };
                }
                Ok(true)
            }
            Some(AuthorizationKind::Other) => Ok(false),
            None => match challenge {
                Some(Challenge::Bearer(_)) => Ok(true),
                Some(Challenge::Basic) => {
                    Ok(matches!(self.credential(context).await?, Credential::Basic { .. }))
                }
                None => Ok(false),
            },
        }
    }

    /// Adds to the error of a refused request which credentials were used.
    pub(super) fn explain(&self, error: Error, repository: &Repository) -> Error {
        match self.logins.get(&(repository.clone(), None, false)) {
            Some(credential) => {
                let lookup = CredentialLookup::new(&*self.credentials, &self.host, repository);
                refusal(&error, self.host.as_str(), &credential, &lookup)
            }
            None => error,
        }
    }

    /// Remembers the challenge in a response's headers.
    fn learn(&self, headers: &HeaderMap) -> Option<Challenge> {
        let challenge = Challenge::from_headers(headers);
        if let Some(challenge) = &challenge {
            *self.challenge.lock() = Some(challenge.clone());
        }
        challenge
    }

    /// Asks `/v2/` for a challenge, once: some registries answer anonymous requests with 404, 403 or 400 and ask for a login
    /// nowhere else. `probe` requests it and returns the headers of a 401. Returns whether another attempt may succeed.
    pub(super) async fn probe<F>(&self, context: AuthContext<'_>, probe: impl FnOnce() -> F) -> bool
    where
        F: Future<Output = Option<HeaderMap>>,
    {
        if self.known_challenge().is_some() {
            return false;
        }
        // A credential store that fails is no reason to fail a request that no one has refused for lack of a login.
        if !matches!(self.credential(context).await, Ok(credential) if credential != Credential::Anonymous) {
            return false;
        }
        let learn = async {
            if let Some(headers) = probe().await {
                self.learn(&headers);
            }
        };
        self.probe.get_or_init(|| learn).await;
        self.known_challenge().is_some()
    }

    fn known_challenge(&self) -> Option<Challenge> {
        self.challenge.lock().clone()
    }

    async fn credential(&self, context: AuthContext<'_>) -> Result<Credential> {
        let login = self.logins.join(context.access());
        login.try_run(self.credentials.credential(&self.host, context.repository)).await
    }

    async fn token(
        &self,
        context: AuthContext<'_>,
        challenge: &BearerChallenge,
        credential: &Credential,
    ) -> Result<AuthorizationKind> {
        let access = context.access();
        let mut fresh = false;
        let request = self.token_requests.join(access.clone());
        let run = async {
            if let Some(known) = self.known_token(&access) {
                return Ok(known);
            }
            fresh = true;
            let token = self.request_token(context, challenge, credential).await;
            self.tokens.lock().entry(access.clone()).or_default().token = token.as_ref().ok().cloned();
            token
        };
        let token = request.run(run).await;
        // Whoever waited shares the outcome; later callers look at the token again, which may be refused or expire.
        request.end();
        let (Token { secret, .. }, scopes) = token?;
        Ok(AuthorizationKind::Token { secret, fresh, scopes })
    }

    fn known_token(&self, access: &Access) -> Option<ScopedToken> {
        let tokens = self.tokens.lock();
        tokens.get(access)?.token.clone().filter(|(token, _)| !token.is_stale())
    }

    async fn request_token(
        &self,
        context: AuthContext<'_>,
        challenge: &BearerChallenge,
        credential: &Credential,
    ) -> Result<ScopedToken> {
        let asked = self.tokens.lock().get(&context.access()).and_then(|state| state.scope.clone());
        let own = if context.is_catalog {
            vec![CATALOG_SCOPE.to_owned()]
        } else {
            self.rights.scopes(context.repository, context.beside)
        };
        let scopes = scopes(own, asked.as_deref(), challenge.scope.as_deref());
        self.tokens_requested.fetch_add(1, Ordering::Relaxed);
        let request = TokenRequest {
            transport: context.transport,
            base: context.base,
            host: self.host.as_str(),
            subject: context.subject,
            challenge,
            scopes: &scopes,
            credential,
            lookup: CredentialLookup::new(&*self.credentials, &self.host, context.repository),
        };
        let token = request.send().await?;
        Ok((token, scopes))
    }
}

/// What is done at an endpoint, and so the access that tokens are requested for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rights {
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
}

impl Rights {
    /// The scopes of a request for `repository` that also reads `beside`.
    fn scopes(self, repository: &Repository, beside: Option<&Repository>) -> Vec<String> {
        let actions = if self == Self::Write { "pull,push" } else { "pull" };
        let mut scopes = vec![format!("repository:{repository}:{actions}")];
        scopes.extend(beside.map(|beside| format!("repository:{beside}:pull")));
        scopes
    }

    /// Whether a scope that a registry asks for is within these rights: saver requests no more.
    fn cover(self, scope: &str) -> bool {
        let done = |action: &str| action == "pull" || (self == Self::Write && action == "push");
        scope.split(' ').all(|one| {
            let actions = one.strip_prefix("repository:").and_then(|rest| rest.rsplit_once(':'));
            actions.is_some_and(|(_, actions)| actions.split(',').all(done))
        })
    }
}

/// The scopes to request: `own`, or those that the registry asked for; and the challenge's scopes that are not about
/// repositories (Amazon's public registry requires `aws`).
fn scopes(own: Vec<String>, asked: Option<&str>, challenged: Option<&str>) -> Vec<String> {
    let mut scopes = match asked {
        Some(scope) => scope.split(' ').map(str::to_owned).collect(),
        None => own,
    };
    let beside = challenged.unwrap_or_default().split(' ').filter(|scope| {
        !scope.is_empty() && !scope.starts_with("repository:") && !scope.starts_with("registry:")
    });
    for scope in beside.take(4) {
        if !scopes.iter().any(|known| known == scope) {
            scopes.push(scope.to_owned());
        }
    }
    scopes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_scope_is_pull_only() {
        let repository: Repository = "a/b".parse().unwrap();
        for (asked, challenged, expect) in [
            (None, None, "repository:a/b:pull"),
            (None, Some("repository:c:pull"), "repository:a/b:pull"),
            (None, Some("aws"), "repository:a/b:pull aws"),
            (None, Some("registry:catalog:*"), "repository:a/b:pull"),
            (Some("repository:x/a/b:pull"), Some("repository:x/a/b:pull"), "repository:x/a/b:pull"),
        ] {
            let own = Rights::Read.scopes(&repository, None);
            assert_eq!(scopes(own, asked, challenged).join(" "), expect);
        }
        assert!(Rights::Read.cover("repository:a:pull repository:b:pull"));
        assert!(!Rights::Read.cover("repository:a:pull,push"));
        assert!(!Rights::Read.cover("registry:catalog:*"));
    }

    #[test]
    fn write_scope_is_pull_and_push() {
        let (one, other) = ("a/b".parse().unwrap(), "c".parse().unwrap());
        let scopes = Rights::Write.scopes(&one, Some(&other));
        assert_eq!(scopes, ["repository:a/b:pull,push", "repository:c:pull"]);
        assert!(Rights::Write.cover("repository:a:push,pull repository:b:pull"));
        for beyond in
            ["repository:a:pull,push,delete", "repository:a:*", "registry:catalog:*", "repository:a"]
        {
            assert!(!Rights::Write.cover(beyond), "{beyond}");
        }
    }
}
