//! Pagination: `n`, `last` and the Link header (OCI distribution-spec, "Listing Tags"; RFC 8288).

use super::error::ApiError;

/// The number of names in one response, whatever the request asks for: the response is built in memory.
pub(super) const MAX_PAGE: usize = 10_000;

/// The part of a list that a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    n: usize,
    last: Option<String>,
}

impl Page {
    /// Parses a query string.
    pub(super) fn parse(query: Option<&str>) -> Result<Self, ApiError> {
        let mut page = Self { n: MAX_PAGE, last: None };
        for (key, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*key {
                "n" if value.is_empty() => {}
                "n" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                    page.n = value.parse().unwrap_or(usize::MAX).min(MAX_PAGE);
                }
                "n" => return Err(ApiError::page_invalid(format!("n={value:?} is not a number"))),
                "last" if !value.is_empty() => page.last = Some(value.into_owned()),
                _ => {}
            }
        }
        Ok(page)
    }

    /// The requested part of `names`, which are sorted and unique, and the value of the Link header if more follow. `path` is the
    /// path of the list, `ns` the upstream registry that the request names.
    pub(super) fn cut<'a, T: AsRef<str>>(
        &self,
        names: &'a [T],
        path: &str,
        ns: Option<&str>,
    ) -> (&'a [T], Option<String>) {
        let start = match &self.last {
            Some(last) => names.partition_point(|name| name.as_ref() <= last.as_str()),
            None => 0,
        };
        let rest = &names[start..];
        let page = &rest[..rest.len().min(self.n)];
        // "When n is zero, the response MUST be an empty list without a Link."
        let link = match page.last() {
            Some(last) if page.len() < rest.len() => {
                let mut query = url::form_urlencoded::Serializer::new(String::new());
                query.append_pair("last", last.as_ref()).append_pair("n", &self.n.to_string());
                if let Some(ns) = ns {
                    query.append_pair("ns", ns);
                }
                let query = query.finish();
                Some(format!("<{path}?{query}>; rel=\"next\""))
            }
            _ => None,
        };
        (page, link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_the_list() {
        let names = ["a", "b", "c/d", "e"];
        let link = |query: &str| Some(format!("</v2/_catalog?{query}>; rel=\"next\""));
        let cases: [(Option<&str>, &[&str], Option<String>); 12] = [
            (None, &names, None),
            (Some(""), &names, None),
            (Some("n="), &names, None),
            (Some("n=4"), &names, None),
            (Some("n=99999999999999999999999999"), &names, None),
            (Some("n=3"), &names[..3], link("last=c%2Fd&n=3")),
            (Some("n=1&last=a"), &names[1..2], link("last=b&n=1")),
            (Some("last=c%2Fd&n=3"), &names[3..], None),
            (Some("last=bb"), &names[2..], None),
            (Some("last=e&n=1"), &[], None),
            (Some("last=zzz"), &[], None),
            (Some("n=0"), &[], None),
        ];
        for (query, expected, expected_link) in cases {
            let page = Page::parse(query).unwrap();
            assert_eq!(page.cut(&names, "/v2/_catalog", None), (expected, expected_link), "{query:?}");
        }
    }

    #[test]
    fn invalid_page_size_is_rejected() {
        for query in ["n=-1", "n=x", "n=1.5", "n=%00"] {
            assert_eq!(Page::parse(Some(query)).unwrap_err().code, "PAGINATION_NUMBER_INVALID", "{query}");
        }
    }

    #[test]
    fn page_size_is_bounded() {
        let names: Vec<String> = (0..MAX_PAGE + 1).map(|n| format!("{n:08}")).collect();
        let (page, link) = Page::parse(Some("n=1000000")).unwrap().cut(&names, "/x", Some("a.io:1"));
        assert_eq!(page.len(), MAX_PAGE);
        assert_eq!(link.as_deref(), Some("</x?last=00009999&n=10000&ns=a.io%3A1>; rel=\"next\""));
    }
}
