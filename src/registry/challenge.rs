//! What a registry's 401 asks for (RFC 9110 11.6.1; distribution's "Token Authentication Specification").
//!
//! Registries and the proxies in front of them write WWW-Authenticate carelessly: unquoted URLs and scopes, missing commas,
//! unclosed quotes, bytes that are no ASCII. The scheme and whatever parameters can be read are enough.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// The longest WWW-Authenticate value that is read, in bytes.
const MAX_VALUE: usize = 8 << 10;

/// How a registry wants requests to be authorised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// A user and password with each request.
    Basic,
    /// A token from a token server.
    Bearer(BearerChallenge),
}

/// Where to get a token, and for what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BearerChallenge {
    /// The token server's address.
    pub realm: String,
    /// The registry's name at the token server.
    pub service: Option<String>,
    /// The access that the refused request needs.
    pub scope: Option<String>,
}

impl Challenge {
    /// The best challenge in a response's headers: Bearer before Basic, because a token gives less away.
    pub(super) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(WWW_AUTHENTICATE).iter();
        Self::best(values.flat_map(|value| Self::parse(&String::from_utf8_lossy(value.as_bytes()))))
    }

    /// The Basic and Bearer challenges in one header value.
    #[must_use]
    pub fn parse(value: &str) -> Vec<Self> {
        if value.len() > MAX_VALUE {
            return Vec::new();
        }
        RawChallenge::parse_all(value).into_iter().filter_map(RawChallenge::known).collect()
    }

    fn best(challenges: impl Iterator<Item = Self>) -> Option<Self> {
        challenges.reduce(|best, next| match (&best, &next) {
            (Self::Basic, Self::Bearer(_)) => next,
            _ => best,
        })
    }
}

/// A challenge of any scheme.
struct RawChallenge<'a> {
    scheme: &'a str,
    parameters: Vec<Parameter<'a>>,
}

struct Parameter<'a> {
    name: &'a str,
    value: String,
    quoted: bool,
}

impl<'a> RawChallenge<'a> {
    fn parse_all(value: &'a str) -> Vec<Self> {
        let mut challenges: Vec<Self> = Vec::new();
        let mut rest = value;
        loop {
            let next = rest.trim_start_matches([' ', '\t', ',']);
            let separator = &rest[..rest.len() - next.len()];
            if next.is_empty() {
                return challenges;
            }
            let end = next.find([' ', '\t', ',', '=']).unwrap_or(next.len());
            let (word, after) = next.split_at(end);
            let value = after.trim_start_matches([' ', '\t']).strip_prefix('=');
            rest = match (value, challenges.last_mut()) {
                // A stray equals sign.
                (Some(value), _) if word.is_empty() => value,
                (Some(value), last) => {
                    let (parameter, rest) = Parameter::parse(word, value.trim_start_matches([' ', '\t']));
                    if let Some(last) = last {
                        last.parameters.push(parameter);
                    }
                    rest
                }
                (None, Some(last)) if !starts_challenge(word, separator, after) => {
                    // An unquoted scope has commas and spaces of its own: pull,push.
                    if let Some(parameter) = last.parameters.last_mut().filter(|parameter| !parameter.quoted)
                    {
                        parameter.value.push(if separator.contains(',') { ',' } else { ' ' });
                        parameter.value.push_str(word);
                    }
                    after
                }
                (None, _) => {
                    challenges.push(Self { scheme: word, parameters: Vec::new() });
                    after
                }
            };
        }
    }

    fn known(self) -> Option<Challenge> {
        if self.scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !self.scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let parameter = |name: &str| {
            let found = self.parameters.iter().find(|parameter| parameter.name.eq_ignore_ascii_case(name));
            found.map(|parameter| parameter.value.clone()).filter(|value| !value.is_empty())
        };
        Some(Challenge::Bearer(BearerChallenge {
            realm: parameter("realm")?,
            service: parameter("service"),
            scope: parameter("scope"),
        }))
    }
}

/// Whether `word`, which follows `separator` and is followed by `after`, is the scheme of a further challenge.
fn starts_challenge(word: &str, separator: &str, after: &str) -> bool {
    const SCHEMES: [&str; 5] = ["basic", "bearer", "digest", "negotiate", "ntlm"];
    if SCHEMES.iter().any(|scheme| word.eq_ignore_ascii_case(scheme)) {
        return true;
    }
    // `, Scheme name=value`
    let parameter = after.trim_start_matches([' ', '\t']);
    let name = parameter.split('=').next().filter(|name| name.len() < parameter.len());
    separator.contains(',')
        && parameter.len() < after.len()
        && name.is_some_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphabetic()))
}

impl<'a> Parameter<'a> {
    /// Reads the value at the start of `text`; returns what follows it.
    fn parse(name: &'a str, text: &'a str) -> (Self, &'a str) {
        let Some(quote) = text.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
            let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
            let (value, rest) = text.split_at(end);
            return (Self { name, value: value.to_owned(), quoted: false }, rest);
        };
        let mut value = String::new();
        let mut characters = text.char_indices().skip(1);
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
                _ if character == quote => {
                    return (Self { name, value, quoted: true }, &text[at + 1..]);
                }
                _ => value.push(character),
            }
        }
        // An unclosed quote: the value is all that is left.
        (Self { name, value, quoted: true }, "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer(BearerChallenge {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        })
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        for (value, expect) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/nginx:pull""#,
                vec![bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    Some("repository:library/nginx:pull"),
                )],
            ),
            (r#"BEARER Realm="https://a/b?c=d,e""#, vec![bearer("https://a/b?c=d,e", None, None)]),
            (r#"Basic realm="x""#, vec![Challenge::Basic]),
            ("Basic", vec![Challenge::Basic]),
            ("basic realm=\"a \\\"b\\\"\", charset=\"UTF-8\"", vec![Challenge::Basic]),
            (
                r#"Basic realm="x", Bearer realm="https://t""#,
                vec![Challenge::Basic, bearer("https://t", None, None)],
            ),
            (r#"Negotiate, Bearer realm="https://t", service="""#, vec![bearer("https://t", None, None)]),
            (r#"Custom a=b, Other c="d", Bearer realm="https://t""#, vec![bearer("https://t", None, None)]),
            (r#"Bearer service="no realm""#, vec![]),
            ("Digest nonce=1", vec![]),
            ("", vec![]),
            (" , =,=", vec![]),
            // Careless ones.
            ("Basic realm=Registry Realm", vec![Challenge::Basic]),
            ("Basic realm=Nexus (team), x", vec![Challenge::Basic]),
            ("Basic realm=\"R\u{e9}gistre\"", vec![Challenge::Basic]),
            ("Basic realm=\"unclosed", vec![Challenge::Basic]),
            ("Bearer realm=\"https://t/unclosed", vec![bearer("https://t/unclosed", None, None)]),
            (
                "Bearer realm=https://t/token?a=b,service=s,scope=repository:a/b:pull,push",
                vec![bearer("https://t/token?a=b", Some("s"), Some("repository:a/b:pull,push"))],
            ),
            (
                "Bearer realm=https://t scope=repository:a:pull repository:b:pull, Basic realm=x",
                vec![
                    bearer("https://t", None, Some("repository:a:pull repository:b:pull")),
                    Challenge::Basic,
                ],
            ),
            (
                r#"Bearer realm="https://t" service="s" scope="c";trailing junk"#,
                vec![bearer("https://t", Some("s"), Some("c"))],
            ),
            (r#"Bearer realm = "https://t" , service = "s""#, vec![bearer("https://t", Some("s"), None)]),
            ("Bearer realm='https://t',service='s'", vec![bearer("https://t", Some("s"), None)]),
        ] {
            assert_eq!(Challenge::parse(value), expect, "{value}");
        }
    }

    #[test]
    fn bearer_is_preferred_over_all_headers() {
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, "Basic realm=x".parse().unwrap());
        headers.append(WWW_AUTHENTICATE, r#"Bearer realm="https://t""#.parse().unwrap());
        assert_eq!(Challenge::from_headers(&headers), Some(bearer("https://t", None, None)));
        assert_eq!(Challenge::parse(&format!("Bearer realm=\"{}\"", "a".repeat(9000))), vec![]);
    }

    #[test]
    fn header_that_is_not_ascii_keeps_its_scheme() {
        let mut headers = HeaderMap::new();
        let value = reqwest::header::HeaderValue::from_bytes(b"Basic realm=\"R\xe9gistre\"").unwrap();
        headers.append(WWW_AUTHENTICATE, value);
        assert_eq!(Challenge::from_headers(&headers), Some(Challenge::Basic));
    }

    proptest::proptest! {
        #[test]
        fn no_header_value_panics(value in r#"(Bearer|Basic|x| |,|=|"|'|\\\\|realm|scope|\PC){0,40}"#) {
            for challenge in Challenge::parse(&value) {
                if let Challenge::Bearer(bearer) = challenge {
                    proptest::prop_assert!(!bearer.realm.is_empty());
                }
            }
        }
    }
}
