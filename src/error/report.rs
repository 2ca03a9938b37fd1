//! An error as data: what reports, events and other programs read.

use super::{Detail, Error, ErrorKind, Side};
use serde::{Deserialize, Serialize};

/// An [`Error`] in the form that reports and events carry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ErrorReport {
    /// The category.
    pub kind: ErrorKind,
    /// The whole text: subject, message, attempts and earlier causes.
    pub message: String,
    /// What it concerns: a reference, digest, path or address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// The message without the facts of `detail`; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub summary: String,
    /// What to try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Which end of the transfer failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<Side>,
    /// The facts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Detail>,
    /// How many times the request was made; 1 when it was not repeated.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub attempts: u32,
    /// Failures that came before this one, such as each mirror that was tried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<ErrorReport>,
}

fn one() -> u32 {
    1
}

fn is_one(attempts: &u32) -> bool {
    *attempts == 1
}

impl ErrorReport {
    /// The whole text without the subject.
    #[must_use]
    pub fn reason(&self) -> &str {
        let rest = self.message.strip_prefix(&self.subject).and_then(|rest| rest.strip_prefix(": "));
        rest.unwrap_or(&self.message)
    }

    /// What the operating system reported, where a file operation failed.
    #[must_use]
    pub fn io_kind(&self) -> Option<std::io::ErrorKind> {
        self.detail.as_ref().and_then(Detail::io_kind)
    }
}

impl From<&Error> for ErrorReport {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            message: error.to_string(),
            subject: error.subject().to_owned(),
            summary: error.summary().to_owned(),
            hint: error.hint().map(str::to_owned),
            side: error.side(),
            detail: error.detail().cloned(),
            attempts: error.attempts(),
            causes: error.causes().iter().map(Self::from).collect(),
        }
    }
}

impl From<&ErrorReport> for Error {
    fn from(report: &ErrorReport) -> Self {
        let mut error =
            Self::new(report.kind, &report.subject, &report.summary).with_attempts(report.attempts);
        if let Some(detail) = &report.detail {
            error = error.with_detail(detail.clone());
        }
        if let Some(hint) = &report.hint {
            error = error.with_hint(hint);
        }
        if let Some(side) = report.side {
            error = error.on(side);
        }
        report.causes.iter().fold(error, |error, cause| error.with_cause(cause.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Phase, RegistryError};
    use super::*;
    use std::io;

    #[test]
    fn report_round_trips_through_json() {
        let http = Detail::Http {
            url: "https://r.io/v2/a/manifests/1".to_owned(),
            phase: Phase::Headers,
            status: Some(404),
            errors: vec![RegistryError { code: "MANIFEST_UNKNOWN".into(), message: "unknown".into() }],
            web_page: false,
        };
        let mirror = Error::new(ErrorKind::ConnectionRefused, "mirror m.io", "connection refused");
        let not_found = Error::new(ErrorKind::NotFound, "r.io/a:1", "the repository a has no tag 1")
            .with_detail(http)
            .with_hint("check the tag")
            .with_attempts(2)
            .with_cause(mirror);
        let full = Error::storage("/data/x", "write", io::ErrorKind::StorageFull.into());
        for error in [not_found, full, Error::new(ErrorKind::Cancelled, "", "interrupted")] {
            let report = ErrorReport::from(&error);
            let text = serde_json::to_string(&report).unwrap();
            let read: ErrorReport = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
            assert_eq!(Error::from(&read).to_string(), error.to_string());
            assert_eq!(Error::from(&report).io_kind(), error.io_kind());
        }
    }

    #[test]
    fn reason_is_the_message_without_the_subject() {
        let report = ErrorReport::from(&Error::new(ErrorKind::NotFound, "a:1", "no such tag"));
        assert_eq!((report.message.as_str(), report.reason()), ("a:1: no such tag", "no such tag"));
        let report = ErrorReport::from(&Error::new(ErrorKind::Cancelled, "", "interrupted"));
        assert_eq!(report.reason(), "interrupted");
    }
}
