//! The headers Location and Range of upload responses: where an upload continues, and how much of it the registry has.

use crate::registry::redirect;
use crate::registry::transport::Peers;
use url::Url;

/// The URL that `location` names, resolved against `from`.
///
/// # Errors
/// Why nothing may be sent there.
pub(in crate::registry) fn target(from: &Url, location: &str, peers: &Peers) -> Result<Url, String> {
    redirect::target(from, location, &[], peers)
}

/// How many bytes of an upload the registry has, by the Range header of its response; `None` when it can't be told:
/// registries say `0-0` for one byte and for none.
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
    fn upload_location_is_followed_or_refused() {
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
            ("https://r.io/v2/", "https://[bad", Err("invalid URL")),
        ] {
            match (target(&Url::parse(from).unwrap(), location, &Peers::default()), expect) {
                (Ok(to), Ok(expect)) => assert_eq!(to.as_str(), expect),
                (Err(why), Err(part)) => assert!(why.contains(part), "{location}: {why}"),
                (result, _) => panic!("{location}: {result:?}"),
            }
        }
    }

    #[test]
    fn range_of_an_upload_is_read_strictly() {
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
