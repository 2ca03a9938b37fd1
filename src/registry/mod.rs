//! The registry client: one [`Session`] per registry, a [`Source`](crate::content::Source) of the engine; one [`Pusher`], a [`Sink`](crate::content::Sink), for
//! each that is written to.
//!
//! A session holds one connection pool, one token cache, one set of limits; its clones share them.
//! It makes one attempt per call and says by the error's kind whether another may help; the engine decides.
//!
//! # What goes where
//! [`Session`] tries its endpoints (mirrors in order, then the registry itself). An endpoint
//! makes requests: it waits at the gate a Retry-After closed, takes a permit, adds what
//! authorises it, follows redirects by rules of its own, and turns answers into errors.
//!
//! # Invariants
//! - What authorises a request to one host (scheme, name and port) is never sent to another.
//! - An answer over HTTPS never leads to a request over HTTP. Only a loopback registry is asked in
//!   plain HTTP unasked, and only after it has shown that it does not speak TLS.
//! - Certificates are verified unless the user named this very registry as insecure.
//! - Every body that is kept in memory has a bound.

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
mod limiter;
mod manifest;
mod options;
mod probe;
mod proxy;
mod push;
mod range;
mod redirect;
mod retry_after;
mod session;
mod session_pool;
mod tags;
mod tls_error;
mod token;
mod transport;

pub use challenge::{BearerChallenge, Challenge};
pub use credential::{Anonymous, Credential, CredentialSource, Fixed, Secret};
pub use options::SessionOptions;
pub use proxy::{NoProxy, ProxySettings, ProxyUrl};
pub use push::{Pusher, Upload};
pub use range::ContentRange;
pub use session::{Session, Statistics};
pub use session_pool::{Access, Sessions, SettingsSource};
