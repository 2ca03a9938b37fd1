//! Reads the values of charts and their subcharts, and the templates that helm did not render.

use super::Chart;
use crate::list::SourceLocation;
use crate::scan::template::{self, TemplateContext};
use crate::scan::{Discovery, DoubtReason, MAX_FILE_BYTES, TextFormat, rules};
use crate::yaml::{self, YamlNode};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Maximum nesting depth of subcharts.
const MAX_NESTING: usize = 6;
/// Maximum number of values of one chart with its subcharts; a subchart counts each time it is used.
const MAX_VALUES: usize = 4_000_000;
/// Maximum number of subcharts; a subchart counts each time it is used.
const MAX_CHARTS: usize = 1000;

/// Reads the values, and without helm the templates, of a chart and its subcharts.
pub(super) struct ChartReading<'a> {
    /// What the values name.
    pub(super) values: Discovery,
    chart: &'a Chart,
    /// The templates that helm did not render; none if it rendered nothing.
    unrendered: Option<BTreeSet<String>>,
    /// How many charts and values were read.
    charts: usize,
    size: usize,
}

impl<'a> ChartReading<'a> {
    /// `unrendered` are the templates that helm did not render; none if it rendered nothing.
    pub(super) fn new(chart: &'a Chart, unrendered: Option<BTreeSet<String>>) -> Self {
        Self { values: Discovery::default(), chart, unrendered, charts: 0, size: 0 }
    }

    /// Reads the chart and its subcharts.
    pub(super) fn read(&mut self, found: &mut Discovery) {
        self.chart(found, "", None, true, 0);
    }

    fn chart(
        &mut self,
        found: &mut Discovery,
        dir: &str,
        over: Option<&Arc<YamlNode>>,
        is_enabled: bool,
        depth: usize,
    ) {
        self.charts += 1;
        let place = self.chart.place(&format!("{dir}values.yaml"));
        let text = self.chart.text(&format!("{dir}values.yaml")).unwrap_or_default();
        let parsed = yaml::parse(&place, text.trim_start_matches('\u{feff}'));
        if let Some(error) = parsed.error {
            found.unread(&place, error.line, format!("invalid YAML: {}", error.message));
        }
        let own = parsed.documents.into_iter().next().filter(|node| node.is_mapping());
        let mut values = own.unwrap_or_else(|| empty_mapping(&place));
        if let Some(over) = over {
            values = merged(&values, over);
        }
        for (name, content) in self.chart.values.iter().filter(|_| depth == 0) {
            let text = String::from_utf8_lossy(content);
            for document in yaml::parse(name, &text).documents.iter().filter(|node| node.is_mapping()) {
                values = merged(&values, document);
            }
        }
        self.size = self.size.saturating_add(values.size());
        let is_rendered = self.unrendered.is_some() || !is_enabled;
        let reason = if is_rendered { DoubtReason::NotRendered } else { DoubtReason::ChartValue };
        rules::scan_values(&mut self.values, &values, reason);
        let meta = self.chart.document(&format!("{dir}Chart.yaml"));
        if let Some(annotations) = meta.as_ref().and_then(|meta| meta.get("annotations")) {
            rules::scan_values(&mut self.values, annotations, reason);
        }
        if is_enabled {
            self.templates(found, dir, &values, meta.as_deref());
        }
        self.subcharts(found, dir, &values, is_enabled, depth);
    }

    /// Evaluates the templates that helm did not render.
    fn templates(
        &mut self,
        found: &mut Discovery,
        dir: &str,
        values: &Arc<YamlNode>,
        meta: Option<&YamlNode>,
    ) {
        let text = |key: &str| meta.and_then(|meta| meta.text_of(key)).unwrap_or_default().to_owned();
        let context = TemplateContext {
            values: values.clone(),
            name: text("name"),
            version: text("version"),
            app_version: text("appVersion"),
        };
        for (path, content) in &self.chart.files {
            let Some(below) = path.strip_prefix(dir) else { continue };
            if self.unrendered.as_ref().is_some_and(|skipped| !skipped.contains(path))
                || content.len() > MAX_FILE_BYTES
            {
                continue;
            }
            let name = path.rsplit('/').next().unwrap_or_default();
            let is_text = matches!(TextFormat::of_file(name), Some(TextFormat::Yaml | TextFormat::Template));
            if is_text && below.starts_with("crds/") {
                crate::scan::text(found, &self.chart.place(path), TextFormat::Yaml, content);
            } else if is_text && below.starts_with("templates/") {
                template::scan(found, &self.chart.place(path), &String::from_utf8_lossy(content), &context);
            }
        }
    }

    fn subcharts(
        &mut self,
        found: &mut Discovery,
        dir: &str,
        values: &Arc<YamlNode>,
        is_enabled: bool,
        depth: usize,
    ) {
        if depth >= MAX_NESTING {
            return;
        }
        let dependencies = self.chart.dependencies(dir);
        let present = self.chart.subcharts(dir);
        for (name, below) in &present {
            let uses: Vec<&Arc<YamlNode>> =
                dependencies.iter().filter(|node| node.text_of("name") == Some(name)).collect();
            let unlisted = uses.is_empty().then_some(None);
            for node in uses.into_iter().map(Some).chain(unlisted) {
                if self.charts >= MAX_CHARTS || self.size > MAX_VALUES {
                    if self.charts < usize::MAX {
                        found.unread(&self.chart.place(dir), 0, "too many subcharts");
                    }
                    // Reported once.
                    self.charts = usize::MAX;
                    return;
                }
                let key = node.and_then(|node| node.text_of("alias")).unwrap_or(name);
                let is_enabled = is_enabled && !node.is_some_and(|node| is_switched_off(node, values));
                let over = overrides(values, key);
                self.chart(found, below, Some(&over), is_enabled, depth + 1);
            }
        }
        for node in dependencies.iter().filter(|_| is_enabled) {
            let name = node.text_of("name").unwrap_or_default();
            if !present.iter().any(|(present, _)| present == name)
                && !name.is_empty()
                && !is_switched_off(node, values)
            {
                missing_subchart(found, node, name);
            }
        }
    }
}

fn empty_mapping(file: &Arc<str>) -> Arc<YamlNode> {
    yaml::parse(file, "{}").documents.swap_remove(0)
}

/// The values that a chart gives to the subchart with this key: its section, and the global values.
fn overrides(values: &YamlNode, key: &str) -> Arc<YamlNode> {
    let pair = |name: &str| values.pairs().iter().find(|(key, _)| key.text == name).cloned();
    let section = pair(key).map(|(_, section)| section).filter(|section| section.is_mapping());
    let section = section.unwrap_or_else(|| empty_mapping(&values.file));
    let globals = values.with_pairs(pair("global").into_iter().collect());
    merged(&section, &Arc::new(globals))
}

/// Values with others laid over them: mappings are merged, everything else is replaced.
fn merged(base: &Arc<YamlNode>, over: &Arc<YamlNode>) -> Arc<YamlNode> {
    if !base.is_mapping() || !over.is_mapping() {
        return over.clone();
    }
    let mut pairs = base.pairs().to_vec();
    let places: HashMap<String, usize> =
        pairs.iter().enumerate().map(|(place, (key, _))| (key.text.clone(), place)).collect();
    for (key, node) in over.pairs() {
        match places.get(&key.text) {
            Some(place) => pairs[*place].1 = merged(&pairs[*place].1, node),
            None => pairs.push((key.clone(), node.clone())),
        }
    }
    Arc::new(base.with_pairs(pairs))
}

/// Whether a condition disables a dependency: the first of its paths that is set decides.
fn is_switched_off(dependency: &YamlNode, values: &YamlNode) -> bool {
    let conditions = dependency.text_of("condition").unwrap_or_default();
    let at = |path: &str| path.trim().split('.').try_fold(values, |node, key| node.get(key));
    conditions.split(',').take(100).find_map(at).is_some_and(|value| value.text() == Some("false"))
}

fn missing_subchart(found: &mut Discovery, dependency: &YamlNode, name: &str) {
    let origin = SourceLocation { file: dependency.file.clone(), line: dependency.line, module: None };
    let version = dependency.text_of("version").unwrap_or_default().replace('+', "_");
    let repository = dependency.text_of("repository").unwrap_or_default();
    let text = match repository.strip_prefix("oci://") {
        Some(place) => format!("{}/{name}:{version}", place.trim_end_matches('/')),
        None => name.to_owned(),
    };
    found.doubt(&text, origin, DoubtReason::MissingSubchart);
}

#[cfg(test)]
mod tests {
    use super::super::render::to_json;
    use super::*;

    #[test]
    fn repeatedly_used_subcharts_are_bounded() {
        let aliases = |name: &str| -> String {
            let uses = (0..50).map(|number| format!("- {{name: {name}, alias: a{number}}}\n"));
            format!("name: x\ndependencies:\n{}", uses.collect::<String>())
        };
        let mut files = vec![("Chart.yaml".to_owned(), aliases("s0"))];
        let mut dir = String::new();
        for level in 0..MAX_NESTING {
            dir += &format!("charts/s{level}/");
            let meta = aliases(&format!("s{}", level + 1)).replace("name: x", &format!("name: s{level}"));
            files.push((format!("{dir}Chart.yaml"), meta));
        }
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (&**path, &**text)).collect();
        let mut found = Discovery::default();
        super::super::scan(&mut found, &Chart::of("c", &files), None);
        let unread: Vec<String> = found.unread.iter().map(ToString::to_string).collect();
        assert_eq!(unread.len(), 1, "{unread:?}");
        assert!(unread[0].contains("too many subcharts"), "{unread:?}");
    }

    #[test]
    fn values_are_merged_as_helm_does() {
        let read = |yaml: &str| yaml::parse(&"f".into(), yaml).documents.swap_remove(0);
        for (base, over, expected) in [
            ("{a: 1, b: 2}", "{b: 3, c: 4}", r#"{"a":"1","b":"3","c":"4"}"#),
            ("{a: {b: 1, c: [1, 2]}}", "{a: {c: [3], d: ~}}", r#"{"a":{"b":"1","c":["3"],"d":null}}"#),
            ("{a: {b: 1}}", "{a: 2}", r#"{"a":"2"}"#),
            ("{a: 2}", "{a: {b: 1}}", r#"{"a":{"b":"1"}}"#),
        ] {
            assert_eq!(to_json(&merged(&read(base), &read(over))).to_string(), expected, "{base} {over}");
        }
    }
}
