//! Charts of Helm repositories in lists: `https://charts.example.com/stable/mysql version=^8`.

use super::SourceLocation;
use super::version_range::VersionRange;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Reference, Registry};
use std::fmt;
use url::Url;

/// Maximum length of a chart's name in bytes.
const MAX_NAME_BYTES: usize = 250;

/// A chart of a Helm repository: one version of it, or the newest of a range.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChartName {
    /// The directory of the repository's `index.yaml`; ends with a slash.
    pub repository: Url,
    /// The name in the index.
    pub name: String,
    /// A version, or a [`VersionRange`].
    pub version: String,
}

impl ChartName {
    /// The chart `name` of the repository at `url`.
    ///
    /// # Errors
    /// `InvalidInput` for a URL that is not that of a repository, an invalid name, or an invalid range of versions.
    pub fn new(url: &str, name: &str, version: &str) -> Result<Self> {
        let invalid = |subject: String, why: &str| Error::new(ErrorKind::InvalidInput, subject, why);
        // Text that is no URL is not quoted: it may contain a password.
        let parsed = Url::parse(url).map_err(|error| invalid("chart repository".into(), &error.to_string()));
        let mut repository = parsed?;
        let host = repository.host_str().unwrap_or_default().to_owned();
        let refuse = |why: &str| invalid(format!("chart repository at {host}"), why);
        if !matches!(repository.scheme(), "http" | "https") {
            return Err(refuse("the URL must start with https:// or http://"));
        }
        if !repository.username().is_empty() || repository.password().is_some() {
            return Err(refuse("credentials do not belong in a URL").with_hint("use docker login HOST"));
        }
        if repository.query().is_some() || repository.fragment().is_some() {
            return Err(refuse("the URL must have neither query nor fragment"));
        }
        let path = format!("{}/", repository.path().trim_end_matches('/'));
        repository.set_path(&path);
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let is_name = name.bytes().all(is_plain) && name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !is_name || name.len() > MAX_NAME_BYTES || name.contains("..") {
            let why = "expected letters, digits, dots, dashes and underscores";
            return Err(Error::new(ErrorKind::InvalidInput, format!("chart name {name:?}"), why));
        }
        let version = version.trim();
        if VersionRange::parse(version).is_none() {
            let subject = format!("chart version {version:?}");
            return Err(Error::new(
                ErrorKind::InvalidInput,
                subject,
                "neither a version nor a range of versions",
            )
            .with_hint("for example 1.2.3, ^1.2, or * for the newest release"));
        }
        Ok(Self { repository, name: name.to_owned(), version: version.to_owned() })
    }

    /// The chart whose repository and name are one URL.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn parse(url: &str, version: &str) -> Result<Self> {
        let (repository, name) = url.trim_end_matches('/').rsplit_once('/').unwrap_or_default();
        Self::new(repository, name, version)
    }

    /// The name of `version` of the chart, as if it were in a registry at the host of the repository. The path is lower case, and `_`
    /// takes the place of `+`, as in the tags that Helm pushes.
    ///
    /// # Errors
    /// `InvalidInput` if the path or version contains what a name cannot.
    pub fn reference(&self, version: &str) -> Result<Reference> {
        let path = format!("{}{}", self.repository.path(), self.name).to_ascii_lowercase();
        Ok(Reference {
            registry: self.registry()?,
            repository: path.trim_start_matches('/').parse()?,
            tag: Some(version.replace('+', "_").parse()?),
            digest: None,
        })
    }

    /// The host of the repository.
    ///
    /// # Errors
    /// `InvalidInput` if it cannot be that of a registry.
    pub fn registry(&self) -> Result<Registry> {
        let host = self.repository.host_str().unwrap_or_default();
        match self.repository.port() {
            Some(port) => format!("{host}:{port}").parse(),
            // A host without a dot is told apart from a repository by its port.
            None if !host.contains(['.', ':']) && host != "localhost" => {
                format!("{host}:{}", self.repository.port_or_known_default().unwrap_or(443)).parse()
            }
            None => host.parse(),
        }
    }
}

/// A line of a list.
impl fmt::Display for ChartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{} version={}", self.repository, self.name, self.version.replace(' ', ","))
    }
}

/// A chart of a list.
#[derive(Clone, Debug)]
pub struct ListedChart {
    /// The chart.
    pub chart: ChartName,
    /// Where it is listed.
    pub origin: SourceLocation,
}

/// Reads a line that names a chart; none if it does not. A URL alone may be an image that was pasted with its scheme.
pub(super) fn read_line(name: &str, options: &[&str]) -> Option<Result<ChartName>> {
    let is_url = ["https://", "http://"].iter().any(|scheme| name.starts_with(scheme));
    let version = options.iter().find_map(|option| option.strip_prefix("version=")).filter(|_| is_url)?;
    if let [_, _, ..] = options {
        let error = Error::new(ErrorKind::InvalidInput, "", "a chart has no option but version=");
        return Some(Err(error.with_hint("write a range without blanks: version=>=1.2,<2")));
    }
    Some(ChartName::parse(name, version))
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn charts_of_repositories_are_read() {
        let text = "https://charts.example.com/stable/mysql version=^8 # why\n\
                    nginx:1\n\
                    https://charts.example.com/stable/mysql version=^8\n\
                    http://localhost:8080/x version=>=1.2,<2||3\n";
        let list = parse("l", text.as_bytes());
        let seen: Vec<String> =
            list.charts.iter().map(|one| format!("{} {}", one.origin, one.chart)).collect();
        assert_eq!(
            seen,
            [
                "l:1 https://charts.example.com/stable/mysql version=^8",
                "l:4 http://localhost:8080/x version=>=1.2,<2||3",
            ]
        );
        assert!(list.problems.is_empty() && list.entries.len() == 1, "{list:?}");
        let yaml = parse("l.yaml", b"- https://charts.example.com/mysql version=1.2.3\n- nginx\n");
        assert_eq!((yaml.charts.len(), yaml.entries.len()), (1, 1), "{:?}", yaml.problems);
    }

    #[test]
    fn name_in_registry_follows_from_url() {
        for (url, version, expected) in [
            ("https://charts.example.com/stable/mysql", "8.0.1", "charts.example.com/stable/mysql:8.0.1"),
            ("https://example.com:8443/mysql", "1.0.0+b.1", "example.com:8443/mysql:1.0.0_b.1"),
            ("https://example.com/Charts/mysql/", "v1", "example.com/charts/mysql:v1"),
            ("https://museum/mysql", "1.0.0", "museum:443/mysql:1.0.0"),
        ] {
            let chart = ChartName::parse(url, version).unwrap();
            assert_eq!(chart.reference(version).unwrap().to_string(), expected, "{url}");
        }
    }

    #[test]
    fn invalid_charts_are_reported() {
        for (line, reason) in [
            ("https://a.io/x version=", "neither a version"),
            ("https://a.io/x version=latest", "neither a version"),
            ("https://a.io/x version=1 platform=amd64", "no option but version="),
            ("https://u:S3CRET@a.io/x version=1", "credentials do not belong"),
            ("https://a.io/c?token=1/x version=1", "neither query"),
            ("https://a.io/c/..%2fx version=1", "chart name"),
            ("https://a.io/.x version=1", "chart name"),
            ("https://a.io version=1", "chart repository"),
            ("https://a.io/x", "is a URL"),
            ("a.io/x version=1", "unknown option"),
        ] {
            let list = parse("l", line.as_bytes());
            assert_eq!(list.problems.len(), 1, "{line}");
            let text = format!("{:#}", list.problems[0]);
            assert!(text.contains(reason) && !text.contains("S3CRET"), "{line}: {text}");
        }
        let chart = ChartName::new("https://a.io/x%20y", "z", "1").unwrap();
        assert!(chart.reference("1").is_err());
    }
}
