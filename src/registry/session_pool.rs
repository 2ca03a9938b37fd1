//! The sessions of a run: one per registry, with its own settings.

use super::{Anonymous, CredentialSource, Pusher, Session, SessionOptions};
use crate::error::Result;
use crate::oci::Registry;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

/// Settings of individual registries.
pub trait SettingsSource: Send + Sync {
    /// The settings of `registry`; `None` for the defaults.
    ///
    /// # Errors
    /// `InvalidInput` for unusable settings.
    fn settings(&self, registry: &Registry) -> Result<Option<SessionOptions>>;
}

impl SettingsSource for BTreeMap<Registry, SessionOptions> {
    fn settings(&self, registry: &Registry) -> Result<Option<SessionOptions>> {
        Ok(self.get(registry).cloned())
    }
}

/// Settings and credentials for registries. The default: HTTPS, anonymously.
#[derive(Clone)]
pub struct Access {
    /// The settings of registries without settings of their own.
    pub session: SessionOptions,
    /// Settings of individual registries.
    pub settings: Arc<dyn SettingsSource>,
    /// The source of credentials.
    pub credentials: Arc<dyn CredentialSource>,
}

impl Default for Access {
    fn default() -> Self {
        let settings = Arc::new(BTreeMap::new());
        Self { session: SessionOptions::default(), settings, credentials: Arc::new(Anonymous) }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("session", &self.session).finish_non_exhaustive()
    }
}

/// How many sessions may have more API requests than blob requests in flight.
const MAX_WIDE_SESSIONS: usize = 4;

/// One session per registry, opened on first use.
#[derive(Debug)]
pub struct Sessions {
    access: Access,
    /// The maximum of concurrent blob requests per registry.
    connections: usize,
    open: Mutex<HashMap<Registry, Arc<Session>>>,
}

impl Sessions {
    /// Sessions with the settings of `access`, each with at most `connections` concurrent blob requests. The first few may have
    /// three times as many other requests, later ones as many as for blobs: each connection is an open file.
    #[must_use]
    pub fn new(access: Access, connections: usize) -> Self {
        Self { access, connections: connections.max(1), open: Mutex::default() }
    }

    /// The session with `registry`. Nothing is sent yet.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn with(&self, registry: &Registry) -> Result<Arc<Session>> {
        let mut open = self.open.lock();
        if let Some(session) = open.get(registry) {
            return Ok(session.clone());
        }
        let options = self.options(registry, open.len())?;
        let session = Session::new(registry.clone(), self.access.credentials.clone(), options)?;
        let session = Arc::new(session);
        open.insert(registry.clone(), session.clone());
        Ok(session)
    }

    /// A client for pushing to `registry`. Nothing is sent yet.
    ///
    /// # Errors
    /// As [`Pusher::new`].
    pub fn pusher(&self, registry: &Registry) -> Result<Pusher> {
        Pusher::new(registry, self.access.credentials.clone(), self.options(registry, 0)?)
    }

    /// The options for `registry`, when `others` sessions are open already.
    fn options(&self, registry: &Registry, others: usize) -> Result<SessionOptions> {
        let settings = self.access.settings.settings(registry)?;
        let options = settings.unwrap_or_else(|| self.access.session.clone());
        let times = if others < MAX_WIDE_SESSIONS { 3 } else { 1 };
        let max_requests = self.connections.saturating_mul(times);
        Ok(SessionOptions { max_connections: self.connections, max_requests, ..options })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_has_one_session() {
        let sessions = Sessions::new(Access::default(), 3);
        let (one, two): (Registry, Registry) = ("a.io".parse().unwrap(), "b.io".parse().unwrap());
        let first = sessions.with(&one).unwrap();
        assert!(Arc::ptr_eq(&first, &sessions.with(&one).unwrap()));
        assert!(!Arc::ptr_eq(&first, &sessions.with(&two).unwrap()));
    }

    #[test]
    fn only_the_first_few_registries_are_asked_more_than_blobs_are_fetched() {
        let sessions = Sessions::new(Access::default(), 5);
        let registry: Registry = "a.io".parse().unwrap();
        for (others, expect) in [(0, 15), (MAX_WIDE_SESSIONS - 1, 15), (MAX_WIDE_SESSIONS, 5), (99, 5)] {
            let options = sessions.options(&registry, others).unwrap();
            assert_eq!((options.max_connections, options.max_requests), (5, expect), "{others}");
        }
    }
}
