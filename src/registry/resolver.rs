//! Resolves host names with the system's resolver and keeps its error codes.
//!
//! The standard library keeps only the text of the codes, which does not tell a host that does not exist from a DNS server
//! that does not answer.

use dns_lookup::{AddrInfoHints, LookupError, LookupErrorKind, SockType, getaddrinfo};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::net::SocketAddr;

/// The system's resolver (`getaddrinfo`).
#[derive(Debug)]
pub(super) struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::task::spawn_blocking(move || addresses(name.as_str())).await??;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

fn addresses(host: &str) -> Result<Vec<SocketAddr>, LookupError> {
    let hints = AddrInfoHints { socktype: SockType::Stream.into(), ..AddrInfoHints::default() };
    let found = getaddrinfo(Some(host), None, Some(hints))?;
    // Entries of other address families are errors.
    Ok(found.flatten().map(|entry| entry.sockaddr).collect())
}

/// Whether the host does not exist, or has no address.
pub(super) fn is_unknown_host(error: &LookupError) -> bool {
    matches!(error.kind(), LookupErrorKind::NoName | LookupErrorKind::NoData)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_of_a_name_or_number_is_found() {
        assert!(addresses("localhost").unwrap().iter().all(|address| address.ip().is_loopback()));
        assert_eq!(addresses("192.0.2.7").unwrap(), ["192.0.2.7:0".parse().unwrap()]);
    }

    #[test]
    fn only_missing_names_are_unknown_hosts() {
        for (code, expect) in [
            (libc::EAI_NONAME, true),
            (libc::EAI_NODATA, true),
            (libc::EAI_AGAIN, false),
            (libc::EAI_FAIL, false),
            (libc::EAI_SYSTEM, false),
        ] {
            assert_eq!(is_unknown_host(&LookupError::new(code)), expect, "{code}");
        }
    }
}
