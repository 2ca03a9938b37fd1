//! What authorises requests to one endpoint.
//!
//! There is no ping: the first 401 teaches how the endpoint wants to be asked, and from then on a
//! token is had before it is needed. A token is for one repository; whoever needs one while it
//! is being fetched waits for that fetch, and shares its failure.

use super::challenge::{BearerChallenge, Challenge};
use super::credential::{Credential, CredentialSource, Lookup, refusal};
use super::token::{Token, TokenRequest, basic, bearer};
use super::transport::Transport;
use crate::error::{Error, Result};
use crate::oci::{Registry, Repository};
use reqwest::header::{HeaderMap, HeaderValue};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;
use url::Url;

/// A repository, and another that a request reads beside it.
type About = (Repository, Option<Repository>);

/// Authorises requests to one endpoint.
pub(super) struct Auth {
    /// The endpoint, as credentials are looked up by it.
    host: Registry,
    credentials: Arc<dyn CredentialSource>,
    challenge: Mutex<Option<Challenge>>,
    repositories: Mutex<HashMap<About, Arc<Access>>>,
    rights: Rights,
    tokens_requested: AtomicU64,
    /// Set once `/v2/` was asked for a challenge.
    probe: OnceCell<()>,
}

/// What is known for one repository.
#[derive(Default)]
struct Access {
    credential: OnceCell<Credential>,
    token: tokio::sync::Mutex<Slot>,
    /// How many fetches of a token have ended.
    fetches: AtomicU64,
}

#[derive(Default)]
struct Slot {
    token: Option<Token>,
    /// What the registry said the repository's token must be good for, where a token of the usual scope was refused.
    scope: Option<String>,
    failure: Option<Error>,
}

/// An Authorization header, and how it was come by.
pub(super) struct Authorization {
    pub(super) value: HeaderValue,
    kind: Shown,
}

enum Shown {
    Token {
        secret: super::credential::Secret,
        /// Whether it was fetched for this very request, so that another like it would be refused too.
        fresh: bool,
        scopes: Vec<String>,
    },
    Other,
}

impl Authorization {
    /// Whether it is a token that was fetched, and so may have expired.
    pub(super) fn is_token(&self) -> bool {
        matches!(self.kind, Shown::Token { .. })
    }
}

/// What a request for a repository is about: what messages name, and where its registry is.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) transport: &'a Transport,
    pub(super) base: &'a Url,
    pub(super) subject: &'a str,
    pub(super) repository: &'a Repository,
    /// Another repository that the request reads beside its own.
    pub(super) beside: Option<&'a Repository>,
}

impl Auth {
    pub(super) fn new(host: Registry, credentials: Arc<dyn CredentialSource>, rights: Rights) -> Self {
        Self {
            host,
            credentials,
            challenge: Mutex::default(),
            repositories: Mutex::default(),
            rights,
            tokens_requested: AtomicU64::new(0),
            probe: OnceCell::new(),
        }
    }

    /// How many tokens were requested.
    pub(super) fn tokens_requested(&self) -> u64 {
        self.tokens_requested.load(Ordering::Relaxed)
    }

    /// What to show the endpoint, as far as it has told what it wants.
    ///
    /// # Errors
    /// When there are credentials that can't be had, or the token server refuses or is down.
    pub(super) async fn authorization(&self, context: Context<'_>) -> Result<Option<Authorization>> {
        let Some(challenge) = self.known_challenge() else { return Ok(None) };
        let access = self.access(context.repository, context.beside);
        let credential = self.credential(&access, context).await?;
        match (challenge, credential) {
            (Challenge::Basic, Credential::Basic { username, password }) => {
                Ok(Some(Authorization { value: basic(username, password)?, kind: Shown::Other }))
            }
            (Challenge::Basic, _) => Ok(None),
            (Challenge::Bearer(_), Credential::RegistryToken(token)) => {
                Ok(Some(Authorization { value: bearer(token)?, kind: Shown::Other }))
            }
            (Challenge::Bearer(challenge), credential) => {
                let kind = self.token(&access, context, &challenge, credential).await?;
                let value = match &kind {
                    Shown::Token { secret, .. } => bearer(secret)?,
                    Shown::Other => return Ok(None),
                };
                Ok(Some(Authorization { value, kind }))
            }
        }
    }

    /// The endpoint answered 401 (or 400 to a token): learns from it. Whether another try can go better.
    ///
    /// # Errors
    /// As `authorization`.
    pub(super) async fn refused(
        &self,
        context: Context<'_>,
        used: Option<&Authorization>,
        headers: &HeaderMap,
    ) -> Result<bool> {
        let challenge = self.learn(headers);
        let access = self.access(context.repository, context.beside);
        match used.map(|used| &used.kind) {
            Some(Shown::Token { secret, fresh, scopes }) => {
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
                let mut slot = access.token.lock().await;
                // Only the token that was refused: another task may have had a new one meanwhile.
                if slot.token.as_ref().is_some_and(|token| token.secret == *secret) {
                    slot.token = None;
                    slot.scope = asked;
                }
                Ok(true)
            }
            Some(Shown::Other) => Ok(false),
            None => match challenge {
                Some(Challenge::Bearer(_)) => Ok(true),
                Some(Challenge::Basic) => {
                    Ok(matches!(self.credential(&access, context).await?, Credential::Basic { .. }))
                }
                None => Ok(false),
            },
        }
    }

    /// Adds to the error of a refused request which credentials were used.
    pub(super) fn explain(&self, error: Error, repository: &Repository) -> Error {
        let access = self.access(repository, None);
        match access.credential.get() {
            Some(credential) => {
                let lookup = Lookup::new(&*self.credentials, &self.host, repository);
                refusal(&error, self.host.as_str(), credential, &lookup)
            }
            None => error,
        }
    }

    /// Remembers the challenge in a response's headers.
    fn learn(&self, headers: &HeaderMap) -> Option<Challenge> {
        let challenge = Challenge::from_headers(headers);
        if let Some(challenge) = &challenge {
            *self.challenge.lock().unwrap_or_else(PoisonError::into_inner) = Some(challenge.clone());
        }
        challenge
    }

    /// Asks `/v2/` for a challenge, once: some registries answer anonymous requests with 404, 403 or 400 and ask for a login
    /// nowhere else. `probe` requests it and returns the headers of a 401. Returns whether another attempt may succeed.
    pub(super) async fn probe<F>(&self, context: Context<'_>, probe: impl FnOnce() -> F) -> bool
    where
        F: Future<Output = Option<HeaderMap>>,
    {
        if self.known_challenge().is_some() {
            return false;
        }
        let access = self.access(context.repository, context.beside);
        // A credential store that fails is no reason to fail a request that no one has refused for lack of a login.
        if !matches!(self.credential(&access, context).await, Ok(credential) if *credential != Credential::Anonymous)
        {
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
        self.challenge.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn access(&self, repository: &Repository, beside: Option<&Repository>) -> Arc<Access> {
        let mut repositories = self.repositories.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(repositories.entry((repository.clone(), beside.cloned())).or_default())
    }

    async fn credential<'a>(&self, access: &'a Access, context: Context<'_>) -> Result<&'a Credential> {
        access
            .credential
            .get_or_try_init(|| self.credentials.credential(&self.host, context.repository))
            .await
    }

    async fn token(
        &self,
        access: &Access,
        context: Context<'_>,
        challenge: &BearerChallenge,
        credential: &Credential,
    ) -> Result<Shown> {
        let before = access.fetches.load(Ordering::Acquire);
        let mut slot = access.token.lock().await;
        let own = self.rights.scopes(context.repository, context.beside);
        let scopes = scopes(own, slot.scope.as_deref(), challenge.scope.as_deref());
        if let Some(token) = slot.token.as_ref().filter(|token| !token.is_stale()) {
            return Ok(Shown::Token { secret: token.secret.clone(), fresh: false, scopes });
        }
        if let Some(failure) = &slot.failure
            && access.fetches.load(Ordering::Acquire) != before
        {
            // It failed while this task waited for it: asking again at once would not help.
            return Err(failure.clone());
        }
        self.tokens_requested.fetch_add(1, Ordering::Relaxed);
        let request = TokenRequest {
            transport: context.transport,
            base: context.base,
            host: self.host.as_str(),
            subject: context.subject,
            challenge,
            scopes: &scopes,
            credential,
            lookup: Lookup::new(&*self.credentials, &self.host, context.repository),
        };
        let result = request.send().await;
        slot.token = result.as_ref().ok().cloned();
        slot.failure = result.as_ref().err().cloned();
        access.fetches.fetch_add(1, Ordering::Release);
        Ok(Shown::Token { secret: result?.secret, fresh: true, scopes })
    }
}

/// What is done at an endpoint, and so what its tokens are to be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rights {
    /// Nothing but reading.
    Read,
    /// Reading and writing.
    Write,
}

impl Rights {
    /// The scopes of a request about `repository`, and of reading another one `beside` it.
    fn scopes(self, repository: &Repository, beside: Option<&Repository>) -> Vec<String> {
        let actions = if self == Self::Write { "pull,push" } else { "pull" };
        let mut scopes = vec![format!("repository:{repository}:{actions}")];
        scopes.extend(beside.map(|beside| format!("repository:{beside}:pull")));
        scopes
    }

    /// Whether a scope that a registry asks for is for what is done there: saver asks for no more.
    fn cover(self, scope: &str) -> bool {
        let done = |action: &str| action == "pull" || (self == Self::Write && action == "push");
        scope.split(' ').all(|one| {
            let actions = one.strip_prefix("repository:").and_then(|rest| rest.rsplit_once(':'));
            actions.is_some_and(|(_, actions)| actions.split(',').all(done))
        })
    }
}

/// What a token is to be good for: its `own` purpose, or what the registry asked for itself;
/// and whatever the registry wants named beside repositories (Amazon's public one wants `aws`).
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
    fn asks_to_read_and_nothing_else() {
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
    fn asks_to_write_where_it_writes() {
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
