//! The one place where an error becomes text.

use super::{Detail, Error, RegistryError};
use std::fmt;

/// The text of an error without its subject: what the caller says of it, then what the detail says.
pub(super) fn message(summary: &str, detail: Option<&Detail>) -> String {
    let detail = detail.map(Detail::to_string).unwrap_or_default();
    match (summary.is_empty(), detail.is_empty()) {
        (_, true) => summary.to_owned(),
        (true, false) => detail,
        (false, false) => format!("{summary}: {detail}"),
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { url, status, errors, web_page, .. } => match status {
                Some(status) => http(f, url, *status, errors, *web_page),
                None if *web_page => write!(f, "{url} returned a web page instead of a registry's response"),
                // Without a response there is nothing to quote: the summary names the failure.
                None => Ok(()),
            },
            Self::Mismatch { expected, actual } => write!(f, "expected {expected}, got {actual}"),
            Self::Platform { wanted, available } => platform(f, wanted, available),
            Self::SourceConflict { place, recorded, .. } => {
                write!(f, "{place} in the directory comes from {recorded}")
            }
            Self::Signatures { digest, rejected } if rejected.is_empty() => {
                write!(f, "{digest} has no signature")
            }
            Self::Signatures { digest, rejected } => {
                write!(f, "no signature of {digest} is accepted: {}", rejected.join("; "))
            }
            Self::Io { operation, reason, .. } => write!(f, "cannot {operation}: {reason}"),
        }
    }
}

fn http(
    f: &mut fmt::Formatter<'_>,
    url: &str,
    status: u16,
    errors: &[RegistryError],
    web_page: bool,
) -> fmt::Result {
    write!(f, "{url} returned {status}")?;
    if let Some(reason) =
        reqwest::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason())
    {
        write!(f, " {reason}")?;
    }
    if web_page {
        return f.write_str(" with a web page instead of a registry's response");
    }
    for (index, error) in errors.iter().enumerate() {
        // One for each missing manifest, for example, with the same text.
        if errors[..index].iter().any(|before| before.to_string() == error.to_string()) {
            continue;
        }
        let separator = if index == 0 { ":" } else { ";" };
        write!(f, "{separator} {error}")?;
    }
    Ok(())
}

fn platform(f: &mut fmt::Formatter<'_>, wanted: &[String], available: &[String]) -> fmt::Result {
    let available = if available.is_empty() { "none".to_owned() } else { available.join(", ") };
    write!(f, "no manifest for {} (available: {available})", wanted.join(", "))
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code.is_empty(), self.message.is_empty()) {
            (false, false) => write!(f, "{}: {}", self.code, self.message),
            (_, true) => f.write_str(&self.code),
            (true, false) => f.write_str(&self.message),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.subject().is_empty() {
            write!(f, "{}: ", self.subject())?;
        }
        f.write_str(self.message())?;
        if self.attempts() > 1 {
            write!(f, " (after {} attempts)", self.attempts())?;
        }
        for cause in self.causes() {
            write!(f, "; before that, {cause}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ErrorKind, Phase};
    use super::*;

    fn http(status: Option<u16>, errors: &[(&str, &str)], web_page: bool) -> Detail {
        let error = |(code, message): &(&str, &str)| RegistryError {
            code: (*code).to_owned(),
            message: (*message).to_owned(),
        };
        Detail::Http {
            url: "https://r.io/v2/a/manifests/1".to_owned(),
            phase: Phase::Headers,
            status,
            errors: errors.iter().map(error).collect(),
            web_page,
        }
    }

    #[test]
    fn each_detail_has_one_text() {
        let strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        for (detail, expect) in [
            (http(Some(404), &[], false), "https://r.io/v2/a/manifests/1 returned 404 Not Found"),
            (
                http(Some(403), &[("DENIED", "quota exceeded"), ("", "b"), ("C", "")], false),
                "https://r.io/v2/a/manifests/1 returned 403 Forbidden: DENIED: quota exceeded; b; C",
            ),
            (
                http(Some(400), &[("B", "x"), ("B", "y"), ("B", "x")], false),
                "https://r.io/v2/a/manifests/1 returned 400 Bad Request: B: x; B: y",
            ),
            (http(Some(599), &[], false), "https://r.io/v2/a/manifests/1 returned 599"),
            (
                http(Some(200), &[], true),
                "https://r.io/v2/a/manifests/1 returned 200 OK with a web page instead of a registry's response",
            ),
            (http(None, &[], false), ""),
            (Detail::Mismatch { expected: "a".into(), actual: "b".into() }, "expected a, got b"),
            (
                Detail::Platform {
                    wanted: strings(&["linux/s390x"]),
                    available: strings(&["linux/amd64", "linux/arm64"]),
                },
                "no manifest for linux/s390x (available: linux/amd64, linux/arm64)",
            ),
            (
                Detail::Platform { wanted: strings(&["linux/arm", "linux/386"]), available: Vec::new() },
                "no manifest for linux/arm, linux/386 (available: none)",
            ),
        ] {
            assert_eq!(detail.to_string(), expect);
        }
    }

    #[test]
    fn message_joins_summary_and_detail() {
        let error = Error::new(ErrorKind::NotFound, "r.io/a:1", "the repository a has no tag 1");
        assert_eq!(error.to_string(), "r.io/a:1: the repository a has no tag 1");
        let error = error.with_detail(http(Some(404), &[("MANIFEST_UNKNOWN", "")], false));
        let text = "the repository a has no tag 1: https://r.io/v2/a/manifests/1 returned 404 Not Found: MANIFEST_UNKNOWN";
        assert_eq!(error.message(), text);
        let mirror = Error::new(ErrorKind::Unavailable, "mirror m.io", "connection refused");
        let error = error.with_attempts(3).with_cause(mirror);
        assert_eq!(
            error.to_string(),
            format!("r.io/a:1: {text} (after 3 attempts); before that, mirror m.io: connection refused")
        );
    }
}
