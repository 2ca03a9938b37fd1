//! Where a redirect may lead.
//!
//! A registry hands out redirects to content servers, and a hostile one could hand out any: to this
//! machine's own services, to a plain HTTP copy of the address, to another host that should see our
//! credentials. The last is prevented where requests are made: each gets only what its own host may see.

use reqwest::Response;
use reqwest::header::LOCATION;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use url::{Host, Url};

/// The most redirects that are followed for one request.
pub(super) const MAX_REDIRECTS: usize = 5;

/// Where an answer to a request to `from` leads, if it is a redirect.
///
/// # Errors
/// Why it may not be followed, in words.
pub(super) fn next(response: &Response, from: &Url, seen: &[Url]) -> Option<Result<Url, String>> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| "a redirect to nowhere".to_owned());
    Some(location.and_then(|location| target(from, location, seen)))
}

/// The address that `location` names, seen from `from`, if it may be followed.
///
/// # Errors
/// Why it may not, in words.
pub(super) fn target(from: &Url, location: &str, seen: &[Url]) -> Result<Url, String> {
    if seen.len() > MAX_REDIRECTS {
        return Err(format!("more than {MAX_REDIRECTS} redirects"));
    }
    let mut to = from.join(location).map_err(|error| format!("a redirect to no address: {error}"))?;
    to.set_fragment(None);
    if !matches!(to.scheme(), "http" | "https") {
        return Err(format!("a redirect to the scheme {:?}", to.scheme()));
    }
    if from.scheme() == "https" && to.scheme() == "http" {
        return Err(format!("a redirect from HTTPS to plain HTTP at {}", to.host_str().unwrap_or_default()));
    }
    if to.scheme() == "http" && is_loopback(from) && !is_loopback(&to) {
        // Plain HTTP was allowed for this machine's sake, where nobody listens in.
        let host = to.host_str().unwrap_or_default();
        return Err(format!("a redirect from this machine to plain HTTP at {host}"));
    }
    if !to.username().is_empty() || to.password().is_some() {
        return Err("a redirect with a user in the address".into());
    }
    check_reach(from, &to).map_err(|why| format!("a redirect {why}"))?;
    if seen.contains(&to) {
        return Err("redirects that run in a circle".into());
    }
    Ok(to)
}

/// Refuses a private address named by a public host: the way into networks that the other side can't reach itself.
///
/// # Errors
/// Why it is refused, in words that go on "a redirect ..." or "a token server ...".
pub(super) fn check_reach(from: &Url, to: &Url) -> Result<(), String> {
    if is_private(to) && !is_private(from) && from.host() != to.host() {
        return Err(format!(
            "to the private address {} from the public host {}",
            to.host_str().unwrap_or_default(),
            from.host_str().unwrap_or_default()
        ));
    }
    Ok(())
}

/// Whether two addresses are of one origin: scheme, host and port.
pub(super) fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host() == other.host()
        && one.port_or_known_default() == other.port_or_known_default()
}

/// Whether the host is this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(_)) => is_private(url),
        None => false,
    }
}

/// Whether the host is this machine by name, or an address literal that no public network routes.
pub(super) fn is_private(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost")
        }
        Some(Host::Ipv4(address)) => is_private_v4(address),
        Some(Host::Ipv6(address)) => is_private_v6(address),
        None => true,
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_broadcast()
        || a == 0
        // Shared address space (RFC 6598).
        || (a == 100 && (64..128).contains(&b))
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    if let IpAddr::V4(mapped) = address.to_canonical() {
        return is_private_v4(mapped);
    }
    let head = address.segments()[0];
    address.is_loopback() || address.is_unspecified() || head & 0xfe00 == 0xfc00 || head & 0xffc0 == 0xfe80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn follows_only_where_it_may() {
        for (from, location, expect) in [
            ("https://r.io/v2/a", "https://cdn.io/x?sig=1#f", Ok("https://cdn.io/x?sig=1")),
            ("https://r.io/v2/a", "/other", Ok("https://r.io/other")),
            ("https://r.io/v2/a", "//cdn.io/x", Ok("https://cdn.io/x")),
            ("http://r.io/v2/a", "https://cdn.io/x", Ok("https://cdn.io/x")),
            ("http://127.0.0.1:5000/a", "http://127.0.0.1:6000/b", Ok("http://127.0.0.1:6000/b")),
            ("http://127.0.0.1:5000/a", "http://localhost:6000/b", Ok("http://localhost:6000/b")),
            ("http://127.0.0.1:5000/a", "https://cdn.io/b", Ok("https://cdn.io/b")),
            ("http://127.0.0.1:5000/a", "http://cdn.io/b", Err("plain HTTP at cdn.io")),
            ("http://localhost:5000/a", "http://10.0.0.2/b", Err("plain HTTP at 10.0.0.2")),
            ("http://10.0.0.1/a", "http://10.0.0.2/b", Ok("http://10.0.0.2/b")),
            ("https://r.io/v2/a", "http://r.io/v2/b", Err("plain HTTP")),
            ("https://r.io/v2/a", "https://127.0.0.1/", Err("private")),
            ("https://r.io/v2/a", "https://2130706433/", Err("private")),
            ("https://r.io/v2/a", "https://0x7f.1/", Err("private")),
            ("https://r.io/v2/a", "https://localhost./", Err("private")),
            ("https://r.io/v2/a", "https://169.254.169.254/latest", Err("private")),
            ("https://r.io/v2/a", "https://[::1]/", Err("private")),
            ("https://r.io/v2/a", "https://[::ffff:10.0.0.1]/", Err("private")),
            ("https://r.io/v2/a", "https://[fd00::1]/", Err("private")),
            ("https://r.io/v2/a", "https://100.64.0.1/", Err("private")),
            ("https://r.io/v2/a", "file:///etc/passwd", Err("scheme")),
            ("https://r.io/v2/a", "https://ann:pw@cdn.io/", Err("user")),
            ("https://r.io/v2/a", "https://[bad", Err("no address")),
            ("https://r.io/v2/a", "https://r.io/v2/a", Err("circle")),
        ] {
            let start = url(from);
            let result = target(&start, location, std::slice::from_ref(&start));
            match (result, expect) {
                (Ok(to), Ok(expect)) => assert_eq!(to.as_str(), expect),
                (Err(why), Err(part)) => assert!(why.contains(part), "{location}: {why}"),
                (result, _) => panic!("{location}: {result:?}"),
            }
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        for (one, other, same) in [
            ("https://r.io/a", "https://r.io:443/b", true),
            ("https://r.io/a", "http://r.io/b", false),
            ("https://r.io/a", "https://r.io:444/b", false),
            ("https://r.io/a", "https://s.io/b", false),
        ] {
            assert_eq!(same_origin(&url(one), &url(other)), same, "{one} {other}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_location_leads_down_or_inside(
            location in r"(https?:|)(//|/|)([0-9a-fx.:\[\]@%]{0,20}|localhost|127\.1|cdn\.io)(:[0-9]{1,5})?/\PC{0,8}",
        ) {
            let start = url("https://r.io/v2/a");
            if let Ok(to) = target(&start, &location, std::slice::from_ref(&start)) {
                proptest::prop_assert_eq!(to.scheme(), "https");
                proptest::prop_assert!(!is_private(&to), "{}", to);
            }
        }
    }
}
