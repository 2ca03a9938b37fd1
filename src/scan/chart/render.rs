//! Rendering charts with helm, also those that helm refuses as they are.

use super::{Chart, is_in};
use crate::scan::archive::{ChartFiles, MAX_CHART_BYTES};
use crate::scan::{Discovery, rules};
use crate::yaml::{self, LineMap, YamlNode, YamlValue};
use std::collections::BTreeSet;
use std::sync::Arc;

/// How often a chart is rendered without the templates that fail.
const MAX_ATTEMPTS: usize = 5;

/// Renders charts as `helm template` does.
pub trait ChartRenderer {
    /// Renders a chart to a stream of YAML documents, each after a `# Source: PATH` comment.
    ///
    /// # Errors
    /// Why the chart cannot be rendered.
    fn render(&self, input: &RenderInput<'_>) -> Result<String, RenderFailure>;
}

/// What to render.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RenderInput<'a> {
    /// The name of the chart for messages: where it was found.
    pub name: &'a str,
    files: &'a ChartFiles,
    values: &'a [(Arc<str>, Arc<[u8]>)],
    /// API versions that the cluster has in addition to the default ones.
    pub api_versions: &'a [String],
}

impl RenderInput<'_> {
    /// The files of the chart: relative paths of plain names with `/` between them, and their contents.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(path, content)| (path.as_str(), &**content))
    }

    /// Values files that apply in addition to the chart's own, in order.
    pub fn values(&self) -> impl Iterator<Item = &[u8]> {
        self.values.iter().map(|(_, content)| &**content)
    }
}

/// Why a chart was not rendered.
#[derive(Clone, Debug)]
pub struct RenderFailure {
    /// The reason.
    pub message: String,
    /// Whether a limit was exceeded, so that another attempt is not worthwhile.
    pub is_limit: bool,
}
/// A rendered chart.
pub(super) struct RenderedChart {
    pub(super) texts: Vec<String>,
    /// The templates that failed.
    pub(super) skipped: BTreeSet<String>,
}

/// Renders a chart. Where it fails, required values are left out, and then the templates that fail.
pub(super) fn render(
    found: &mut Discovery,
    chart: &Chart,
    renderer: &dyn ChartRenderer,
) -> Option<RenderedChart> {
    let mut files = chart.files.clone();
    remove_missing_dependencies(chart, &mut files);
    let attempt = |files: &ChartFiles, api_versions: &[String]| {
        let input = RenderInput { name: &chart.name, files, values: &chart.values, api_versions };
        match renderer.render(&input) {
            Ok(text) if text.len() > MAX_CHART_BYTES => {
                Err(RenderFailure { message: "the output is too large".to_owned(), is_limit: true })
            }
            result => result,
        }
    };
    let mut skipped = BTreeSet::new();
    let mut result = attempt(&files, &[]);
    let first_failure = result.as_ref().err().map(|failure| failure.message.clone());
    for number in 0..MAX_ATTEMPTS {
        let Err(failure) = &result else { break };
        if failure.is_limit {
            break;
        }
        if number == 0 {
            make_lenient(&mut files);
        } else {
            let Some(path) = failing_template(&files, &failure.message) else { break };
            files.remove(&path);
            skipped.insert(path);
        }
        result = attempt(&files, &[]);
    }
    let why = first_failure.unwrap_or_default();
    match result {
        Ok(text) => {
            let mut texts = vec![text];
            // What the chart adds on clusters with more APIs is a part of it.
            let api_versions = api_versions(&files);
            if !api_versions.is_empty() {
                texts.extend(attempt(&files, &api_versions).ok());
            }
            if !why.is_empty() {
                let message =
                    format!("helm template failed ({why}): rendered without checks and required values");
                found.note(&chart.name, 0, message);
            }
            Some(RenderedChart { texts, skipped })
        }
        Err(_) => {
            let message = format!("helm template failed ({why}): evaluated the templates as far as possible");
            found.note(&chart.name, 0, message);
            None
        }
    }
}

/// Removes declared dependencies that are not in `charts/`, without which helm renders nothing.
fn remove_missing_dependencies(chart: &Chart, files: &mut ChartFiles) {
    let metas: Vec<String> = files
        .keys()
        .filter(|path| {
            ["Chart.yaml", "requirements.yaml"].contains(&path.rsplit('/').next().unwrap_or_default())
        })
        .filter(|path| !is_in(path, "templates"))
        .cloned()
        .collect();
    for path in metas {
        let dir =
            path.strip_suffix("Chart.yaml").or(path.strip_suffix("requirements.yaml")).unwrap_or_default();
        let present: BTreeSet<String> = chart.subcharts(dir).into_iter().map(|(name, _)| name).collect();
        let is_missing =
            |node: &Arc<YamlNode>| !node.text_of("name").is_some_and(|name| present.contains(name));
        if let Some(meta) = chart.document(&path)
            && meta.get("dependencies").is_some_and(|list| list.items().iter().any(is_missing))
        {
            let mut json = to_json(&meta);
            let kept = meta.get("dependencies").map(YamlNode::items).unwrap_or_default();
            let kept: Vec<serde_json::Value> =
                kept.iter().filter(|node| !is_missing(node)).map(|node| to_json(node)).collect();
            json["dependencies"] = kept.into();
            files.insert(path, json.to_string().into_bytes().into());
        }
    }
}

/// A YAML value as JSON, which is YAML too. Numbers become texts, as the metadata of a chart has no numbers.
pub(super) fn to_json(node: &YamlNode) -> serde_json::Value {
    match &node.value {
        YamlValue::Scalar(scalar) => match (node.text(), scalar.plain) {
            (None, _) => serde_json::Value::Null,
            (Some("true"), true) => true.into(),
            (Some("false"), true) => false.into(),
            (Some(text), _) => text.into(),
        },
        YamlValue::Sequence(items) => items.iter().map(|item| to_json(item)).collect(),
        YamlValue::Mapping(pairs) => {
            pairs.iter().map(|(key, value)| (key.text.clone(), to_json(value))).collect()
        }
    }
}

/// Makes a chart render without the values that it requires: `required` becomes `default`, `fail` prints nothing, and neither the
/// version of the cluster nor the schema of the values is checked.
fn make_lenient(files: &mut ChartFiles) {
    files.retain(|path, _| !path.ends_with("values.schema.json"));
    for (path, content) in files.iter_mut() {
        let text = String::from_utf8_lossy(content);
        let new = if path.ends_with("Chart.yaml") && !is_in(path, "templates") {
            text.lines()
                .filter(|line| !line.starts_with("kubeVersion:"))
                .map(|line| format!("{line}\n"))
                .collect()
        } else if is_in(path, "templates") && text.contains("{{") {
            let mut parts = text.split("{{");
            let mut new = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                let (action, rest) =
                    part.split_once("}}").map_or((part, None), |(action, rest)| (action, Some(rest)));
                let words = action.split_inclusive(|c: char| !c.is_ascii_alphanumeric()).map(|word| {
                    let bare = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
                    match bare {
                        "required" => word.replacen("required", "default", 1),
                        "fail" => word.replacen("fail", "trunc 0", 1),
                        _ => word.to_owned(),
                    }
                });
                new.push_str("{{");
                new.extend(words);
                if let Some(rest) = rest {
                    new.push_str("}}");
                    new.push_str(rest);
                }
            }
            new
        } else {
            continue;
        };
        let is_json = path.ends_with("Chart.yaml") && text.starts_with('{');
        *content = if is_json { without_kube_version(&text).into() } else { new.into_bytes().into() };
    }
}

fn without_kube_version(text: &str) -> Vec<u8> {
    let Ok(mut json) = serde_json::from_str::<serde_json::Value>(text) else {
        return text.as_bytes().to_vec();
    };
    if let Some(json) = json.as_object_mut() {
        json.remove("kubeVersion");
    }
    json.to_string().into_bytes()
}

/// The template that an error of helm is about. Helpers stay: other templates need them.
fn failing_template(files: &ChartFiles, error: &str) -> Option<String> {
    let is_named = |path: &&String| {
        let is_helper = path.rsplit('/').next().is_some_and(|name| name.starts_with('_'));
        is_in(path, "templates") && !is_helper && error.contains(&format!("/{path}"))
    };
    files.keys().filter(is_named).max_by_key(|path| path.len()).cloned()
}

/// The API versions that the templates ask for.
fn api_versions(files: &ChartFiles) -> Vec<String> {
    let mut versions = BTreeSet::new();
    for (_, content) in files.iter().filter(|(path, _)| is_in(path, "templates")) {
        let text = String::from_utf8_lossy(content);
        for part in text.split("APIVersions.Has").skip(1) {
            let version = part.trim_start().strip_prefix('"').and_then(|part| part.split('"').next());
            let is_plain = |version: &&str| {
                version.len() < 200
                    && version.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"./-".contains(&byte))
            };
            versions
                .extend(version.filter(is_plain).map(str::to_owned).filter(|version| !version.is_empty()));
        }
    }
    versions.into_iter().take(100).collect()
}

/// Finds the images of rendered documents. Their lines are those of the output, which nobody sees.
pub(super) fn scan_rendered(found: &mut Discovery, chart: &Chart, text: &str) {
    let mut source: Arc<str> = chart.name.clone();
    let mut part = String::new();
    let mut flush = |source: &Arc<str>, part: &mut String| {
        let parsed = yaml::parse_at(source, part, LineMap::Fixed(0));
        rules::scan(found, &parsed.documents);
        if let Some(error) = parsed.error {
            found.note(source, 0, format!("helm template printed invalid YAML ({})", error.message));
        }
        part.clear();
    };
    for line in text.split_inclusive('\n') {
        if line.trim_end() == "---" {
            flush(&source, &mut part);
        } else if let Some(path) = line.strip_prefix("# Source: ") {
            // The first name is that of the chart.
            let below = path.trim().split_once('/').map_or(path.trim(), |(_, below)| below);
            source = chart.place(below);
        }
        part.push_str(line);
    }
    flush(&source, &mut part);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lenient_charts_render_without_required_values() {
        let mut files = Chart::of(
            "c",
            &[
                ("Chart.yaml", "name: c\nkubeVersion: \">=1.99\"\n"),
                ("values.schema.json", "{}"),
                ("templates/x.yaml", "required: {{ required \"a\" .Values.b }}{{ fail (printf \"x\") }}{{ .Values.c | fail }}\n"),
            ],
        )
        .files;
        make_lenient(&mut files);
        let text = |path: &str| String::from_utf8_lossy(&files[path]).into_owned();
        assert_eq!(text("Chart.yaml"), "name: c\n");
        assert_eq!(
            text("templates/x.yaml"),
            "required: {{ default \"a\" .Values.b }}{{ trunc 0 (printf \"x\") }}{{ .Values.c | trunc 0 }}\n"
        );
        assert!(!files.contains_key("values.schema.json"));
    }
}
