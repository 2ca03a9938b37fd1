//! What a registry's 401 asks for (RFC 9110 11.6.1; distribution's "Token Authentication Specification").

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// The longest WWW-Authenticate value that is read, in bytes.
const MAX_VALUE: usize = 8 << 10;

/// How a registry wants to be shown who is asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// A user and password with each request.
    Basic,
    /// A token, to be had elsewhere.
    Bearer(BearerChallenge),
}

/// Where and for what a token is to be had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BearerChallenge {
    /// The token server's address.
    pub realm: String,
    /// The name that the registry has there.
    pub service: Option<String>,
    /// What the refused request would have needed.
    pub scope: Option<String>,
}

impl Challenge {
    /// The best challenge in a response's headers: Bearer before Basic, as each gives less away.
    pub(super) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(WWW_AUTHENTICATE).iter();
        Self::best(values.filter_map(|value| value.to_str().ok()).flat_map(Self::parse))
    }

    /// The challenges in one header value that saver knows; none where it can't be read.
    #[must_use]
    pub fn parse(value: &str) -> Vec<Self> {
        if value.len() > MAX_VALUE {
            return Vec::new();
        }
        // What was read before a syntax error still counts.
        http_auth::parser::ChallengeParser::new(value)
            .map_while(Result::ok)
            .filter_map(|c| read(&c))
            .collect()
    }

    fn best(challenges: impl Iterator<Item = Self>) -> Option<Self> {
        challenges.reduce(|best, next| match (&best, &next) {
            (Self::Basic, Self::Bearer(_)) => next,
            _ => best,
        })
    }
}

fn read(challenge: &http_auth::ChallengeRef<'_>) -> Option<Challenge> {
    if challenge.scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !challenge.scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let param = |name: &str| {
        let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(found.1.to_unescaped()).filter(|value| !value.is_empty())
    };
    Some(Challenge::Bearer(BearerChallenge {
        realm: param("realm")?,
        service: param("service"),
        scope: param("scope"),
    }))
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
    fn reads_what_registries_send() {
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
            ("basic realm=\"a \\\"b\\\"\", charset=\"UTF-8\"", vec![Challenge::Basic]),
            (
                r#"Basic realm="x", Bearer realm="https://t""#,
                vec![Challenge::Basic, bearer("https://t", None, None)],
            ),
            (r#"Negotiate, Bearer realm="https://t", service="""#, vec![bearer("https://t", None, None)]),
            (r#"Bearer service="no realm""#, vec![]),
            ("Digest nonce=1", vec![]),
            ("", vec![]),
            ("Bearer realm=\"unclosed", vec![]),
            (r#"Basic realm="x", Bearer realm="unclosed"#, vec![Challenge::Basic]),
        ] {
            assert_eq!(Challenge::parse(value), expect, "{value}");
        }
    }

    #[test]
    fn prefers_bearer_over_all_headers() {
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, "Basic realm=x".parse().unwrap());
        headers.append(WWW_AUTHENTICATE, r#"Bearer realm="https://t""#.parse().unwrap());
        assert_eq!(Challenge::from_headers(&headers), Some(bearer("https://t", None, None)));
        assert_eq!(Challenge::parse(&format!("Bearer realm=\"{}\"", "a".repeat(9000))), vec![]);
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_a_registry_sends_panics(value in r#"(Bearer|Basic|x| |,|=|"|\\\\|realm|scope|\PC){0,40}"#) {
            for challenge in Challenge::parse(&value) {
                if let Challenge::Bearer(bearer) = challenge {
                    proptest::prop_assert!(!bearer.realm.is_empty());
                }
            }
        }
    }
}
