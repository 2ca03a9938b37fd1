//! The sessions of a run: one per registry, each with its own settings.

use super::{Anonymous, CredentialSource, Pusher, Session, SessionOptions};
use crate::error::Result;
use crate::oci::Registry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Registries' own settings, where they have some.
pub trait SettingsSource: Send + Sync {
    /// How `registry` is reached; none when it is reached like any other.
    ///
    /// # Errors
    /// `InvalidInput` for settings that can't be used.
    fn settings(&self, registry: &Registry) -> Result<Option<SessionOptions>>;
}

impl SettingsSource for BTreeMap<Registry, SessionOptions> {
    fn settings(&self, registry: &Registry) -> Result<Option<SessionOptions>> {
        Ok(self.get(registry).cloned())
    }
}

/// How registries are reached, and as whom. The default: any registry over HTTPS, as nobody.
#[derive(Clone)]
pub struct Access {
    /// How registries are reached that have no settings of their own.
    pub session: SessionOptions,
    /// Registries' own settings.
    pub own: Arc<dyn SettingsSource>,
    /// Where credentials come from.
    pub credentials: Arc<dyn CredentialSource>,
}

impl Default for Access {
    fn default() -> Self {
        let own = Arc::new(BTreeMap::new());
        Self { session: SessionOptions::default(), own, credentials: Arc::new(Anonymous) }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("session", &self.session).finish_non_exhaustive()
    }
}

/// How many sessions may have more requests than blobs in flight.
const WIDE: usize = 4;

/// One session per registry, opened when it is first asked for. Sessions share nothing but the settings.
#[derive(Debug)]
pub struct Sessions {
    access: Access,
    /// The most requests for blobs in flight at once to one registry.
    connections: usize,
    open: Mutex<HashMap<Registry, Arc<Session>>>,
}

impl Sessions {
    /// Sessions that are reached by `access`, each with at most `connections` requests for blobs in flight. The first few may have three
    /// times as many other requests, those after them no more than for blobs: each connection is an open file.
    #[must_use]
    pub fn new(access: Access, connections: usize) -> Self {
        Self { access, connections: connections.max(1), open: Mutex::default() }
    }

    /// The session with `registry`. Nothing is sent yet.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn with(&self, registry: &Registry) -> Result<Arc<Session>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = open.get(registry) {
            return Ok(session.clone());
        }
        let options = self.options(registry, open.len())?;
        let session = Session::new(registry.clone(), self.access.credentials.clone(), options)?;
        let session = Arc::new(session);
        open.insert(registry.clone(), session.clone());
        Ok(session)
    }

    /// The registry to write to, in a session of its own. Nothing is sent yet.
    ///
    /// # Errors
    /// As [`Pusher::new`].
    pub fn pusher(&self, registry: &Registry) -> Result<Pusher> {
        Pusher::new(registry, self.access.credentials.clone(), self.options(registry, 0)?)
    }

    /// The options for `registry`, with which `others` are open already.
    fn options(&self, registry: &Registry, others: usize) -> Result<SessionOptions> {
        let own = self.access.own.settings(registry)?;
        let options = own.unwrap_or_else(|| self.access.session.clone());
        let times = if others < WIDE { 3 } else { 1 };
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
        for (others, expect) in [(0, 15), (WIDE - 1, 15), (WIDE, 5), (99, 5)] {
            let options = sessions.options(&registry, others).unwrap();
            assert_eq!((options.max_connections, options.max_requests), (5, expect), "{others}");
        }
    }
}
