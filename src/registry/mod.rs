//! The registry client (distribution-spec): a [`Session`] per registry to read from, which is a
//! [`Source`](crate::content::Source) of the engine, and a [`Pusher`] per registry to write to, which is a
//! [`Sink`](crate::content::Sink).
//!
//! A session has one connection pool, one token cache and one set of limits, which its clones share. Each call makes one
//! attempt; the kind of the error says whether another may succeed, and the engine decides about retries.
//!
//! # Structure
//! A [`Session`] tries its endpoints: mirrors in order, then the registry itself. An endpoint makes requests: it waits for a
//! permit and for the end of a Retry-After, adds the authorisation, follows redirects and turns error responses into
//! errors.
//!
//! # Invariants
//! - Credentials and tokens for one origin (scheme, host and port) are never sent to another.
//! - A response over HTTPS never leads to a request over plain HTTP. Without the user's permission only loopback registries
//!   are used over plain HTTP, and only after they have shown that they do not speak TLS.
//! - Certificates are verified unless the user named this registry as insecure.
//! - Every body that is kept in memory is bounded.

mod auth;
mod base_url;
mod blob;
mod certificate;
mod challenge;
mod circuit_breaker;
mod credential;
mod encoding;
mod endpoint;
mod error;
mod file;
mod limiter;
mod manifest;
mod message;
mod options;
mod probe;
mod proxy;
mod push;
mod range;
mod rate_limit;
mod redirect;
mod referrer_discovery;
mod referrers;
mod resolver;
mod retry_after;
mod session;
mod session_pool;
mod tags;
mod tls_error;
mod token;
mod transport;

pub use challenge::{BearerChallenge, Challenge};
pub use credential::{Anonymous, Credential, CredentialSource, Fixed, Secret};
pub use file::RemoteFile;
pub use options::SessionOptions;
pub use proxy::{NoProxy, ProxySettings, ProxyUrl};
pub use push::{Pusher, Upload};
pub use range::ContentRange;
pub use rate_limit::RateLimit;
pub use session::{Session, Statistics};
pub use session_pool::{Access, Sessions, SettingsSource};
