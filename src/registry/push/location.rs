//! Where an upload goes, and how far it is: the headers Location and Range of its answers.

use crate::registry::redirect;
use url::Url;

/// The address that `location` names, seen from `from`.
///
/// A registry behind a proxy that ends TLS often does not know of it, and names itself in plain HTTP: such an
/// address is taken as the one that it was asked at. Nothing else that is reached over HTTPS leads to plain HTTP.
///
/// # Errors
/// Why it may not be sent to, in words.
pub(in crate::registry) fn target(from: &Url, location: &str) -> Result<Url, String> {
    let mut said = from.join(location).map_err(|error| format!("no address: {error}"))?;
    let port = from.port();
    let itself =
        said.host() == from.host() && (matches!(said.port(), None | Some(443)) || said.port() == port);
    if from.scheme() == "https" && said.scheme() == "http" && itself {
        let moved = said.set_scheme("https").and_then(|()| said.set_port(port));
        moved.map_err(|()| "no address".to_owned())?;
    }
    redirect::target(from, said.as_str(), &[])
}

/// How many bytes the Range header of an upload's answer says are there; `None` where it can't be told.
///
/// `0-0` is what registries say of one byte, and also of none.
pub(in crate::registry) fn held(range: &str) -> Option<u64> {
    let range = range.trim();
    let (first, last) = range.strip_prefix("bytes=").unwrap_or(range).split_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if first != "0" || !digits(last) {
        return None;
    }
    let last: u64 = last.parse().ok()?;
    if last == 0 { None } else { last.checked_add(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_goes_only_where_it_may() {
        for (from, location, expect) in [
            (
                "https://r.io/v2/a/blobs/uploads/",
                "/v2/a/blobs/uploads/1?x=y",
                Ok("https://r.io/v2/a/blobs/uploads/1?x=y"),
            ),
            ("https://r.io/v2/a/blobs/uploads/", "https://up.io/1", Ok("https://up.io/1")),
            ("https://r.io:5000/v2/", "http://r.io/u/1", Ok("https://r.io:5000/u/1")),
            ("https://r.io:5000/v2/", "http://r.io:5000/u/1", Ok("https://r.io:5000/u/1")),
            ("https://r.io/v2/", "http://r.io/u/1", Ok("https://r.io/u/1")),
            ("http://r.lan:5000/v2/", "http://r.lan:5000/u/1", Ok("http://r.lan:5000/u/1")),
            ("http://127.0.0.1:5000/v2/", "http://127.0.0.1:5001/u", Ok("http://127.0.0.1:5001/u")),
            ("http://127.0.0.1:5000/v2/", "http://up.io/u/1", Err("plain HTTP")),
            ("https://r.io/v2/", "http://up.io/u/1", Err("plain HTTP")),
            ("https://r.io/v2/", "http://r.io:8080/u/1", Err("plain HTTP")),
            ("https://r.io/v2/", "https://127.0.0.1/u/1", Err("private")),
            ("https://r.io/v2/", "https://ann:pw@up.io/", Err("user")),
            ("https://r.io/v2/", "ftp://r.io/", Err("scheme")),
            ("https://r.io/v2/", "https://[bad", Err("no address")),
        ] {
            match (target(&Url::parse(from).unwrap(), location), expect) {
                (Ok(to), Ok(expect)) => assert_eq!(to.as_str(), expect),
                (Err(why), Err(part)) => assert!(why.contains(part), "{location}: {why}"),
                (result, _) => panic!("{location}: {result:?}"),
            }
        }
    }

    #[test]
    fn what_is_held_is_read_strictly() {
        for (range, expect) in [
            ("0-9", Some(10)),
            ("bytes=0-9", Some(10)),
            ("0-0", None),
            ("1-9", None),
            ("0-", None),
            ("0-+5", None),
            ("0-18446744073709551615", None),
            ("", None),
        ] {
            assert_eq!(held(range), expect, "{range}");
        }
    }
}
