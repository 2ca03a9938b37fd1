//! A careful reading of a chart's values: what the charts themselves say the images are.

use super::chart::Chart;
use super::object::joined;
use super::setting::{Held, Setting};
use super::{Found, looks};
use crate::list::Origin;
use crate::oci::Reference;
use crate::yaml::{self, Node};
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

/// The values that are images: templates that only put them together need not be told.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The directory of the (sub)chart, and the path of the value.
    paths: BTreeSet<(String, String)>,
}

impl Known {
    /// Whether all values that a template part names are known.
    pub(super) fn covers(&self, file: &str, template: &str) -> bool {
        let dir = file.rfind("templates/").map_or("", |at| &file[..at]);
        let mut any = false;
        for after in template.split(".Values.").skip(1) {
            let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')));
            let path = after[..end.unwrap_or(after.len())].trim_end_matches('.');
            let mut above = path;
            let known = path.starts_with("global")
                || loop {
                    if self.paths.contains(&(dir.to_owned(), above.to_owned())) {
                        break true;
                    }
                    match above.rsplit_once('.') {
                        Some((parent, _)) => above = parent,
                        None => break false,
                    }
                };
            if !known {
                return false;
            }
            any |= !path.starts_with("global");
        }
        any
    }
}

/// Finds the images that the values of a chart and of its subcharts name. With `rendered`, what helm made with
/// them is known: images that are not among it are doubtful.
pub(super) fn scan(found: &mut Found, chart: &Chart, rendered: Option<&BTreeSet<Reference>>) -> Known {
    let mut reading =
        Reading { found, chart, rendered, known: Known::default(), charts: 0, values: 0, told: false };
    reading.chart("", None, None, 0);
    reading.known
}

struct Reading<'a> {
    found: &'a mut Found,
    chart: &'a Chart,
    rendered: Option<&'a BTreeSet<Reference>>,
    known: Known,
    /// How many charts were read, and how many values.
    charts: usize,
    values: usize,
    /// Whether it was told that there are more.
    told: bool,
}

/// The chart whose values are read.
struct Own {
    /// Its directory, with a `/` at the end unless it is the root.
    dir: String,
    registry: Option<String>,
    app_version: Option<String>,
    templates: String,
}

/// Where a value stands.
#[derive(Clone, Copy)]
struct Spot<'a> {
    own: &'a Own,
    /// Its keys from the root on, with dots between.
    path: &'a str,
    /// The setting that turns off what it belongs to.
    off: Option<&'a str>,
}

impl Reading<'_> {
    /// One file of the chart as YAML; its first document.
    fn document(&mut self, path: &str) -> Option<(Arc<Node>, Arc<str>)> {
        let text = self.chart.text(path)?;
        let read = yaml::read(text.trim_start_matches('\u{feff}'));
        let place = self.chart.place(path);
        if let Some(broken) = read.broken {
            self.found.unread(&place, broken.line, format!("not valid YAML: {}", broken.message));
        }
        let first = read.documents.into_iter().next()?;
        if first.size() > MAX_VALUES {
            self.found.unread(&place, 0, "more values are in it than are read");
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
            self.found.unread(&self.chart.place(""), 0, "more subcharts than are read");
        }
        enough
    }

    fn chart(&mut self, dir: &str, over: Option<&Setting>, off: Option<&str>, depth: usize) {
        self.charts += 1;
        let origin = Origin { file: self.chart.place(dir), line: 0, module: None };
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
        self.find(Spot { own: &own, path: "", off }, &values);
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
        meta: Option<&Node>,
        off: Option<&str>,
        depth: usize,
    ) {
        let head = format!("{}charts/", own.dir);
        let dirs = self.chart.subcharts(&own.dir);
        let old = self.document(&format!("{}requirements.yaml", own.dir)).map(|(node, _)| node);
        let listed = [meta, old.as_deref()].into_iter().flatten().filter_map(|node| node.get("dependencies"));
        let listed: Vec<&Node> = listed.flat_map(|node| node.items()).map(|node| &**node).collect();
        let mut uses: HashMap<&str, Vec<&Node>> = HashMap::new();
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
            if !dirs.contains(name) && !name.is_empty() && self.rendered.is_none() {
                self.lacking(own, node, name);
            }
        }
    }

    /// A subchart that the chart names and does not hold.
    fn lacking(&mut self, own: &Own, dependency: &Node, name: &str) {
        let file = self.chart.place(&format!("{}Chart.yaml", own.dir));
        let place = dependency.text_of("repository").unwrap_or_default();
        let version = dependency.text_of("version").unwrap_or_default().replace('+', "_");
        let chart = place
            .strip_prefix("oci://")
            .map(|place| format!("{}/{name}:{version}", place.trim_end_matches('/')));
        match chart.filter(|chart| Reference::parse(chart).is_ok()) {
            Some(chart) => {
                let origin = Origin { file, line: dependency.line, module: None };
                self.found.doubt(
                    &chart,
                    origin,
                    "a subchart that is not in charts/: its images are not known",
                );
            }
            None if place.starts_with("file://") => {}
            None => {
                let said =
                    format!("the subchart {name:?} is not in charts/: helm dependency build fetches it");
                self.found.note(&file, dependency.line, said);
            }
        }
    }

    /// Looks for images in a value.
    fn find(&mut self, spot: Spot<'_>, setting: &Setting) {
        let path = spot.path;
        match &setting.value {
            Held::Map(pairs) => {
                let switch = setting.get("enabled").filter(|enabled| enabled.is_false());
                let switched = switch.map(|_| format!("{path}.enabled").trim_start_matches('.').to_owned());
                let spot = Spot { off: spot.off.or(switched.as_deref()), ..spot };
                if !path.is_empty() && self.parts(spot, setting) {
                    return;
                }
                for (key, child) in pairs {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    let below = Spot { path: &path, ..spot };
                    match &child.value {
                        Held::Text(text) if looks::is_image_key(key) => {
                            self.name(below, key, text.trim(), child, setting);
                        }
                        Held::Text(text) if looks::tag_key(key).is_some() => {
                            let tag = looks::tag_key(key).and_then(|key| setting.text(&key));
                            if let Some(image) = looks::of_two(text.trim(), tag) {
                                self.maybe(&image, child.origin.clone(), looks::OF_TWO);
                            }
                        }
                        _ => self.find(below, child),
                    }
                }
            }
            Held::List(items) => items.iter().for_each(|item| self.find(spot, item)),
            Held::Text(text) => {
                if let Some(image) = looks::image(text) {
                    self.found.doubt(image, setting.origin.clone(), "a value that looks like an image");
                }
            }
            Held::Null => {}
        }
    }

    /// `{registry, repository, tag, digest}`.
    fn parts(&mut self, spot: Spot<'_>, setting: &Setting) -> bool {
        let Spot { own, path, off } = spot;
        let key = path.rsplit('.').next().unwrap_or(path);
        let has = |key: &str| setting.get(key).is_some();
        let image_key = looks::is_image_key(key);
        let name = setting
            .text("repository")
            .filter(|_| image_key || has("tag") || has("digest") || has("registry"));
        let name = name.or_else(|| {
            ["name", "image"].iter().find_map(|key| setting.text(key)).filter(|_| image_key && has("tag"))
        });
        let Some(name) = name.filter(|name| !name.contains("://")) else { return false };
        // The chart's own registry takes the place of another, and is not put before a name that has one.
        let global = own.registry.as_deref().filter(|_| has("registry") || !looks::has_domain(name));
        let registry = global.or(setting.text("registry"));
        let origin = setting.get("repository").map_or(&setting.origin, |setting| &setting.origin).clone();
        self.known.paths.insert((own.dir.clone(), path.to_owned()));
        let (tag, digest) = (setting.text("tag"), setting.text("digest").or(setting.text("sha")));
        if tag.is_some() || digest.is_some() || looks::is_explicit(name) {
            self.complete(&joined(registry, name, tag, digest), origin, off);
            return true;
        }
        let bare = joined(registry, name, None, None);
        match &own.app_version {
            Some(version) => {
                let image = joined(registry, name, Some(version), None);
                if own.defaults_to_app_version(path) {
                    self.complete(&image, origin, off);
                } else {
                    self.maybe(&image, origin, "no tag is written; the chart's appVersion may be meant");
                }
            }
            None => self.maybe(&bare, origin, "neither a tag nor a digest is written"),
        }
        true
    }

    /// A text under an image's key.
    fn name(&mut self, spot: Spot<'_>, key: &str, text: &str, setting: &Setting, siblings: &Setting) {
        if text.is_empty() || text.contains("://") && !text.starts_with("oci://") {
            return;
        }
        self.known.paths.insert((spot.own.dir.clone(), spot.path.to_owned()));
        let origin = setting.origin.clone();
        if looks::is_template(text) {
            return self.maybe(text, origin, "a template that was not filled in");
        }
        let tag_key = format!("{key}Tag");
        let tag = siblings.text(&tag_key).or(siblings.text("tag")).filter(|tag| !looks::is_template(tag));
        if looks::is_explicit(text) || tag.is_some() {
            self.complete(&joined(None, text, tag, None), origin, spot.off);
        } else if Reference::parse(text).is_ok() {
            self.maybe(text, origin, "neither a tag nor a digest is written");
        }
    }

    fn complete(&mut self, image: &str, origin: Origin, off: Option<&str>) {
        let reference = match Reference::parse(image) {
            Ok(reference) => reference,
            Err(error) => return self.found.doubt(image, origin, error.message()),
        };
        match (self.rendered, off) {
            (Some(rendered), _) if rendered.contains(&reference) => self.found.sure(reference, origin),
            (Some(_), _) => {
                self.found.doubt(image, origin, "helm template does not use it with these values")
            }
            (None, Some(off)) => self.found.doubt(image, origin, format!("{off} is false")),
            (None, None) => self.found.sure(reference, origin),
        }
    }

    fn maybe(&mut self, image: &str, origin: Origin, why: &str) {
        let rendered = self.rendered.zip(Reference::parse(image).ok());
        // Whatever tag helm gave it: that one is known.
        let is_known = |(rendered, image): (&BTreeSet<Reference>, Reference)| {
            let first = Reference { tag: None, digest: None, ..image };
            let next = rendered.range(&first..).next();
            next.is_some_and(|next| {
                (&next.registry, &next.repository) == (&first.registry, &first.repository)
            })
        };
        if !rendered.is_some_and(is_known) {
            self.found.doubt(image, origin, why);
        }
    }
}

impl Own {
    /// Whether the templates say that the chart's appVersion is the tag where none is given.
    fn defaults_to_app_version(&self, path: &str) -> bool {
        let forms = [
            format!(".Values.{path}.tag | default .Chart.AppVersion"),
            format!("default .Chart.AppVersion .Values.{path}.tag"),
        ];
        forms.iter().any(|form| self.templates.contains(form.as_str()))
    }
}

/// The key that a subchart's values stand under.
fn key_of(dependency: &Node, name: &str) -> String {
    dependency.text_of("alias").unwrap_or(name).to_owned()
}

/// The condition that turns a subchart off, if one does: the first of its paths that is set decides.
fn condition_off(dependency: &Node, values: &Setting) -> Option<String> {
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
