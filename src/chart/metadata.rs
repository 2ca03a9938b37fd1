//! The metadata of a chart: `Chart.yaml`, and the JSON form of it that Helm stores as the configuration of an artifact.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The fields of `Chart.yaml`, in the order in which Helm writes them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ChartMetadata {
    #[serde(skip_serializing_if = "is_empty")]
    pub(super) name: Option<String>,
    #[serde(skip_serializing_if = "is_empty")]
    pub(super) home: Option<String>,
    #[serde(skip_serializing_if = "is_empty_list")]
    pub(super) sources: Option<Vec<String>>,
    #[serde(skip_serializing_if = "is_empty")]
    pub(super) version: Option<String>,
    #[serde(skip_serializing_if = "is_empty")]
    pub(super) description: Option<String>,
    #[serde(skip_serializing_if = "is_empty_list")]
    keywords: Option<Vec<String>>,
    #[serde(skip_serializing_if = "is_empty_list")]
    pub(super) maintainers: Option<Vec<Maintainer>>,
    #[serde(skip_serializing_if = "is_empty")]
    icon: Option<String>,
    #[serde(skip_serializing_if = "is_empty")]
    api_version: Option<String>,
    #[serde(skip_serializing_if = "is_empty")]
    condition: Option<String>,
    #[serde(skip_serializing_if = "is_empty")]
    tags: Option<String>,
    #[serde(skip_serializing_if = "is_empty")]
    app_version: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    deprecated: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) annotations: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "is_empty")]
    kube_version: Option<String>,
    #[serde(skip_serializing_if = "is_empty_list")]
    dependencies: Option<Vec<Dependency>>,
    #[serde(rename = "type", skip_serializing_if = "is_empty")]
    kind: Option<String>,
}

/// Someone who maintains the chart.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Maintainer {
    #[serde(skip_serializing_if = "is_empty")]
    pub(super) name: Option<String>,
    #[serde(skip_serializing_if = "is_empty")]
    pub(super) email: Option<String>,
    #[serde(skip_serializing_if = "is_empty")]
    url: Option<String>,
}

/// A chart that this one depends on.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
struct Dependency {
    name: String,
    #[serde(skip_serializing_if = "is_empty")]
    version: Option<String>,
    repository: String,
    #[serde(skip_serializing_if = "is_empty")]
    condition: Option<String>,
    #[serde(skip_serializing_if = "is_empty_list")]
    tags: Option<Vec<String>>,
    #[serde(skip_serializing_if = "is_false")]
    enabled: Option<bool>,
    #[serde(rename = "import-values", skip_serializing_if = "is_empty_list")]
    import_values: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "is_empty")]
    alias: Option<String>,
}

#[allow(clippy::ref_option, reason = "serde passes references to fields")]
fn is_empty(text: &Option<String>) -> bool {
    text.as_ref().is_none_or(String::is_empty)
}

#[allow(clippy::ref_option, reason = "serde passes references to fields")]
fn is_empty_list<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_none_or(Vec::is_empty)
}

#[allow(clippy::ref_option, reason = "serde passes references to fields")]
fn is_false(value: &Option<bool>) -> bool {
    *value != Some(true)
}

impl ChartMetadata {
    /// Parses `Chart.yaml`.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        serde_saphyr::from_slice(text).map_err(|error| error.without_snippet().to_string())
    }

    /// The configuration, as Helm writes it: the encoder of Go escapes what is special in HTML.
    pub(super) fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        Ok(go_json(&serde_json::to_string(self)?).into_bytes())
    }

    /// The annotations of the manifest, as Helm writes them, without the time of the push: the same chart gives the same manifest.
    pub(super) fn manifest_annotations(&self) -> BTreeMap<String, String> {
        let mut annotations = BTreeMap::new();
        let authors: Vec<String> = self.maintainers.iter().flatten().map(Maintainer::to_text).collect();
        for (key, value) in [
            ("title", self.name.clone()),
            ("version", self.version.clone()),
            ("description", self.description.clone()),
            ("url", self.home.clone()),
            ("source", self.sources.as_ref().and_then(|sources| sources.first().cloned())),
            ("authors", Some(authors.join(", "))),
        ] {
            if let Some(value) = value.filter(|value| !value.trim().is_empty()) {
                annotations.insert(format!("org.opencontainers.image.{key}"), value);
            }
        }
        for (key, value) in self.annotations.iter().flatten() {
            let is_own = ["org.opencontainers.image.title", "org.opencontainers.image.version"];
            if !is_own.contains(&key.as_str()) {
                annotations.insert(key.clone(), value.clone());
            }
        }
        annotations
    }
}

impl Maintainer {
    fn to_text(&self) -> String {
        let name = self.name.as_deref().unwrap_or_default();
        match &self.email {
            Some(email) if !email.is_empty() => format!("{name} ({email})"),
            _ => name.to_owned(),
        }
    }
}

/// JSON with the escapes of Go's encoder, which only occur within strings.
pub(super) fn go_json(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_is_that_of_helm() {
        let text = "apiVersion: v2\nname: shop\nversion: 1.2.3\nappVersion: 1.10\nkubeVersion: '>=1.22 <2 & x'\n\
                    unknown: {a: 1}\ndeprecated: false\nkeywords: []\nicon: \"\"\n\
                    maintainers: [{name: Ann, email: ann@example.com}, {name: Bob}]\n\
                    dependencies: [{name: db, version: ^1, repository: '', tags: [x]}]\ntype: application\n";
        let metadata = ChartMetadata::parse(text.as_bytes()).unwrap();
        let json = String::from_utf8(metadata.to_json().unwrap()).unwrap();
        assert_eq!(
            json,
            r#"{"name":"shop","version":"1.2.3","maintainers":[{"name":"Ann","email":"ann@example.com"},{"name":"Bob"}],"apiVersion":"v2","appVersion":"1.10","kubeVersion":"\u003e=1.22 \u003c2 \u0026 x","dependencies":[{"name":"db","version":"^1","repository":"","tags":["x"]}],"type":"application"}"#
        );
        let authors = metadata.manifest_annotations().remove("org.opencontainers.image.authors");
        assert_eq!(authors.unwrap(), "Ann (ann@example.com), Bob");
    }
}
