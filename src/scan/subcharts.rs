//! A careful reading of charts in charts: the values that each is used with, and what turns it off.

use super::Found;
use super::chart::Chart;
use super::merged_values::{Held, Setting};
use super::value_rules::{Images, Known, Own, Spot};
use crate::list::SourceLocation;
use crate::oci::Reference;
use crate::yaml::{self, YamlNode};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// The most values that one file may hold.
const MAX_VALUES: usize = 200_000;
/// The most values that are read of one chart with its subcharts; one that is used several times counts as often.
const MAX_ALL_VALUES: usize = 4_000_000;
/// How deep charts may hold charts.
const MAX_NESTING: usize = 6;
/// How often subcharts may be used in one chart: each use has values of its own.
const MAX_CHARTS: usize = 1000;
/// The most paths of one condition.
const MAX_PATHS: usize = 100;

/// Finds the images that the values of a chart and of its subcharts name. With `rendered`, what helm made with
/// them is known: images that are not among it are doubtful.
pub(super) fn scan(found: &mut Found, chart: &Chart, rendered: Option<&BTreeSet<Reference>>) -> Known {
    let images = Images { found, rendered, known: Known::default() };
    let mut reading = Reading { images, chart, charts: 0, values: 0, told: false };
    reading.chart("", None, None, 0);
    reading.images.known
}

struct Reading<'a> {
    images: Images<'a>,
    chart: &'a Chart,
    /// How many charts were read, and how many values.
    charts: usize,
    values: usize,
    /// Whether it was told that there are more.
    told: bool,
}

impl Reading<'_> {
    /// One file of the chart as YAML; its first document.
    fn document(&mut self, path: &str) -> Option<(Arc<YamlNode>, Arc<str>)> {
        let text = self.chart.text(path)?;
        let read = yaml::parse(&"".into(), text.trim_start_matches('\u{feff}'));
        let place = self.chart.place(path);
        if let Some(error) = read.error {
            self.images.found.unread(&place, error.line, format!("not valid YAML: {}", error.message));
        }
        let first = read.documents.into_iter().next()?;
        if first.size() > MAX_VALUES {
            self.images.found.unread(&place, 0, "more values are in it than are read");
            return None;
        }
        self.values = self.values.saturating_add(first.size());
        Some((first, place))
    }

    /// Whether no further subchart is read, which is told once: a few names at each depth come to very many charts.
    fn is_enough(&mut self) -> bool {
        let enough = self.charts >= MAX_CHARTS || self.values > MAX_ALL_VALUES;
        if enough && !self.told {
            self.told = true;
            self.images.found.unread(&self.chart.place(""), 0, "more subcharts than are read");
        }
        enough
    }

    fn chart(&mut self, dir: &str, over: Option<&Setting>, off: Option<&str>, depth: usize) {
        self.charts += 1;
        let origin = SourceLocation { file: self.chart.place(dir), line: 0, module: None };
        let mut values = Setting::map(origin, Vec::new());
        if let Some((node, place)) = self.document(&format!("{dir}values.yaml"))
            && node.is_mapping()
        {
            values = Setting::of(&node, &place);
        }
        if let Some(over) = over {
            values.lay_over(over);
        }
        let meta = self.document(&format!("{dir}Chart.yaml")).map(|(node, _)| node);
        let app_version = meta.as_ref().and_then(|meta| meta.text_of("appVersion")).map(str::to_owned);
        let registry = values.at("global.imageRegistry").and_then(|setting| match &setting.value {
            Held::Text(text) => Some(text.clone()).filter(|text| !text.is_empty()),
            _ => None,
        });
        let own = Own { dir: dir.to_owned(), registry, app_version, templates: self.templates(dir) };
        self.images.find(Spot { own: &own, path: "", off }, &values);
        if depth < MAX_NESTING {
            self.subcharts(&own, &values, meta.as_deref(), off, depth);
        }
    }

    /// All templates of one chart in one text, blanks and ways to the root made alike.
    fn templates(&self, dir: &str) -> String {
        let head = format!("{dir}templates/");
        let own = self.chart.files().filter(|(path, _)| path.starts_with(&head));
        let text: String = own.map(|(_, content)| String::from_utf8_lossy(content)).collect();
        text.split_whitespace().collect::<Vec<_>>().join(" ").replace("$.", ".")
    }

    fn subcharts(
        &mut self,
        own: &Own,
        values: &Setting,
        meta: Option<&YamlNode>,
        off: Option<&str>,
        depth: usize,
    ) {
        let head = format!("{}charts/", own.dir);
        let dirs = self.chart.subcharts(&own.dir);
        let old = self.document(&format!("{}requirements.yaml", own.dir)).map(|(node, _)| node);
        let listed = [meta, old.as_deref()].into_iter().flatten().filter_map(|node| node.get("dependencies"));
        let listed: Vec<&YamlNode> = listed.flat_map(|node| node.items()).map(|node| &**node).collect();
        let mut uses: HashMap<&str, Vec<&YamlNode>> = HashMap::new();
        for node in &listed {
            uses.entry(node.text_of("name").unwrap_or_default()).or_default().push(node);
        }
        for name in &dirs {
            let real = self.document(&format!("{head}{name}/Chart.yaml")).map(|(node, _)| node);
            let real = real.as_ref().and_then(|node| node.text_of("name")).unwrap_or(name).to_owned();
            let uses = match uses.get(real.as_str()) {
                Some(uses) => uses.iter().copied().map(Some).collect(),
                None => vec![None],
            };
            for node in uses {
                if self.is_enough() {
                    return;
                }
                let key = node.map_or_else(|| real.clone(), |node| key_of(node, &real));
                let condition = node.and_then(|node| condition_off(node, values));
                let mut over = values.get(&key).cloned();
                if let Some(global) = values.get("global") {
                    let map = |pairs| Setting::map(global.origin.clone(), pairs);
                    let all = map(vec![("global".to_owned(), global.clone())]);
                    over.get_or_insert_with(|| map(Vec::new())).lay_over(&all);
                }
                let off = off.map(str::to_owned).or(condition);
                self.chart(&format!("{head}{name}/"), over.as_ref(), off.as_deref(), depth + 1);
            }
        }
        for node in listed {
            let name = node.text_of("name").unwrap_or_default();
            if !dirs.contains(name) && !name.is_empty() && self.images.rendered.is_none() {
                self.lacking(own, node, name);
            }
        }
    }

    /// A subchart that the chart names and does not hold.
    fn lacking(&mut self, own: &Own, dependency: &YamlNode, name: &str) {
        let file = self.chart.place(&format!("{}Chart.yaml", own.dir));
        let place = dependency.text_of("repository").unwrap_or_default();
        let version = dependency.text_of("version").unwrap_or_default().replace('+', "_");
        let chart = place
            .strip_prefix("oci://")
            .map(|place| format!("{}/{name}:{version}", place.trim_end_matches('/')));
        match chart.filter(|chart| Reference::parse(chart).is_ok()) {
            Some(chart) => {
                let origin = SourceLocation { file, line: dependency.line, module: None };
                self.images.found.doubt(
                    &chart,
                    origin,
                    "a subchart that is not in charts/: its images are not known",
                );
            }
            None if place.starts_with("file://") => {}
            None => {
                let said =
                    format!("the subchart {name:?} is not in charts/: helm dependency build fetches it");
                self.images.found.note(&file, dependency.line, said);
            }
        }
    }
}

/// The key that a subchart's values stand under.
fn key_of(dependency: &YamlNode, name: &str) -> String {
    dependency.text_of("alias").unwrap_or(name).to_owned()
}

/// The condition that turns a subchart off, if one does: the first of its paths that is set decides.
fn condition_off(dependency: &YamlNode, values: &Setting) -> Option<String> {
    let conditions = dependency.text_of("condition")?;
    let set =
        conditions.split(',').take(MAX_PATHS).map(str::trim).find_map(|path| Some((path, values.at(path)?)));
    set.filter(|(_, value)| value.is_false()).map(|(path, _)| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::chart::{self, Render};
    use super::*;

    fn scanned(files: &[(&str, &str)], render: Option<&dyn Render>) -> (Vec<String>, Vec<String>) {
        let mut found = Found::default();
        chart::scan(&mut found, &Chart::of("c", files), render);
        let sure =
            found.entries.iter().map(|entry| format!("{} {}", entry.origin, entry.reference)).collect();
        let doubts = found
            .doubts
            .iter()
            .map(|doubt| format!("{} {}: {}", doubt.origin, doubt.text, doubt.why))
            .collect();
        (sure, doubts)
    }

    #[test]
    fn every_way_to_write_an_image() {
        for (values, sure, doubt) in [
            ("image: {repository: a.io/b, tag: 1.10}", "a.io/b:1.10", ""),
            ("image: {registry: a.io, repository: b/c, tag: \"2\", digest: \"\"}", "a.io/b/c:2", ""),
            (
                "image: {repository: a.io/b, tag: v1@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae}",
                "a.io/b:v1@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
                "",
            ),
            (
                "global: {imageRegistry: m.io}\nimage: {registry: a.io, repository: b/c, tag: 2}",
                "m.io/b/c:2",
                "",
            ),
            ("global: {imageRegistry: m.io}\nimage: {repository: b/c, tag: 2}", "m.io/b/c:2", ""),
            ("global: {imageRegistry: m.io}\nimage: {repository: a.io/b, tag: 2}", "a.io/b:2", ""),
            (
                "imageRepository: a.io/b\nimageTag: 2",
                "",
                "a.io/b:2: a repository and a tag that may belong together",
            ),
            ("image: a.io/b:1", "a.io/b:1", ""),
            ("image: a.io/b\nimageTag: 3", "a.io/b:3", ""),
            ("image: {name: a.io/b, tag: 3}", "a.io/b:3", ""),
            ("sidecars: [{image: {repository: a.io/b, tag: 1}}]", "a.io/b:1", ""),
            ("web: {repository: a.io/b, tag: 1}", "a.io/b:1", ""),
            (
                "image: {repository: a.io/b, tag: \"\"}",
                "",
                "a.io/b:7.0: no tag is written; the chart's appVersion may be meant",
            ),
            ("known: {repository: a.io/b, tag: ~}", "a.io/b:7.0", ""),
            ("x: {enabled: false, image: {repository: a.io/b, tag: 1}}", "", "a.io/b:1: x.enabled is false"),
            ("x: {enabled: false, deep: {image: a.io/b:1}}", "", "a.io/b:1: x.enabled is false"),
            ("image: a.io/b", "", "a.io/b: neither a tag nor a digest is written"),
            ("image: \"{{ .Values.x }}\"", "", "{{ .Values.x }}: a template that was not filled in"),
            ("other: a.io/b:1", "", "a.io/b:1: a value that looks like an image"),
            ("chart: {repository: https://a.io/charts, tag: 1}", "", ""),
            ("image: {repository: Bad, tag: 1}", "", "Bad:1: "),
            ("image: [", "", ""),
        ] {
            let files = [
                ("Chart.yaml", "name: c\nappVersion: \"7.0\"\n"),
                ("values.yaml", values),
                ("templates/x.yaml", "x: {{ .Values.known.tag  | default .Chart.AppVersion }}\n"),
            ];
            let (found, doubts) = scanned(&files, None);
            assert_eq!(found.len(), usize::from(!sure.is_empty()), "{values}: {found:?} {doubts:?}");
            assert!(found.iter().all(|found| found.ends_with(&format!(" {sure}"))), "{values}: {found:?}");
            assert_eq!(doubts.len(), usize::from(!doubt.is_empty()), "{values}: {doubts:?}");
            assert!(doubts.iter().all(|found| found.contains(doubt)), "{values}: {doubts:?}");
        }
    }

    #[test]
    fn subcharts_take_their_parent_s_values() {
        let files = [
            (
                "Chart.yaml",
                "name: c\ndependencies:\n- {name: db, alias: main, condition: main.enabled}\n- {name: db, alias: spare, condition: spare.enabled}\n- {name: gone, version: 1.0.0+b, repository: \"oci://a.io/charts\"}\n",
            ),
            (
                "values.yaml",
                "global: {imageRegistry: m.io}\nmain: {image: {tag: 2}}\nspare: {enabled: false}\n",
            ),
            ("charts/db/Chart.yaml", "name: db\n"),
            ("charts/db/values.yaml", "image:\n  registry: a.io\n  repository: b\n  tag: 1\n"),
            (
                "charts/db/templates/x.yaml",
                "image: {{ .Values.image.registry }}/{{ .Values.image.repository }}\n",
            ),
            ("charts/db/crds/x.yaml", "kind: CustomResourceDefinition\nimage: a.io/crd:1\n"),
            ("templates/y.yaml", "image: {{ .Values.unknown }}\n"),
        ];
        let (sure, doubts) = scanned(&files, None);
        assert_eq!(sure, ["c/charts/db/values.yaml:3 m.io/b:2"]);
        assert_eq!(
            doubts,
            [
                "c/charts/db/values.yaml:3 m.io/b:1: spare.enabled is false",
                "c/Chart.yaml:5 a.io/charts/gone:1.0.0_b: a subchart that is not in charts/: its images are not known",
                "c/charts/db/crds/x.yaml:2 a.io/crd:1: a default or an example in a CRD",
                "c/templates/y.yaml:1 {{ .Values.unknown }}: a template that was not filled in",
            ]
        );
    }

    #[test]
    fn subcharts_that_are_used_over_and_over_are_bounded() {
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
        let mut found = Found::default();
        scan(&mut found, &Chart::of("c", &files), None);
        let unread: Vec<String> = found.unread.iter().map(ToString::to_string).collect();
        assert_eq!(unread.len(), 1, "{unread:?}");
        assert!(unread[0].contains("more subcharts than are read"), "{unread:?}");
    }

    #[test]
    fn what_was_rendered_decides() {
        struct Printed;
        impl Render for Printed {
            fn render(&self, _: &Chart) -> Result<String, String> {
                Ok("---\n# Source: c/templates/x.yaml\nspec: {containers: [{image: a.io/used:1}]}\n".into())
            }
        }
        let files = [
            ("Chart.yaml", "name: c\n"),
            ("values.yaml", "a: {image: a.io/used:1}\nb: {image: a.io/other:1}\n"),
            ("templates/x.yaml", "image: a.io/literal:1\n"),
        ];
        let (sure, doubts) = scanned(&files, Some(&Printed));
        assert_eq!(sure, ["c/templates/x.yaml a.io/used:1", "c/values.yaml:1 a.io/used:1"]);
        assert_eq!(doubts, ["c/values.yaml:2 a.io/other:1: helm template does not use it with these values"]);
    }
}
