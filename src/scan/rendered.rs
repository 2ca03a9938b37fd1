//! What `helm template` printed: documents, each with the file that it was made of.

use super::chart::Chart;
use super::{Found, Kind, heuristics};
use crate::oci::Reference;
use crate::yaml;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// The most names of subcharts that are followed.
const MAX_NAMES: usize = 1000;

/// Finds the images of the documents; all names in them are returned.
pub(super) fn scan(found: &mut Found, chart: &Chart, text: &str) -> BTreeSet<Reference> {
    let before = (found.entries.len(), found.doubts.len());
    let names = names(chart);
    let mut source: Arc<str> = chart.name().into();
    let mut part = String::new();
    let mut flush = |source: &Arc<str>, part: &mut String| {
        super::text(found, source, Kind::Yaml, part.as_bytes());
        part.clear();
    };
    for line in text.split_inclusive('\n') {
        if line.trim_end() == "---" {
            flush(&source, &mut part);
        } else if let Some(path) = line.strip_prefix("# Source: ") {
            // The first name is the chart's own.
            let below = path.trim().split_once('/').map_or(path.trim(), |(_, below)| below);
            source = chart.place(&real(&names, below));
        }
        part.push_str(line);
    }
    flush(&source, &mut part);
    // The lines are those of the output, which nobody sees.
    found.entries.iter_mut().skip(before.0).for_each(|entry| entry.origin.line = 0);
    found.doubts.iter_mut().skip(before.1).for_each(|doubt| doubt.origin.line = 0);
    let sure = found.entries.iter().skip(before.0).map(|entry| entry.reference.clone());
    // Whole names in arguments and variables too: what the values call an image, and the output has, is one.
    let doubts = found.doubts.iter().skip(before.1).filter(|doubt| heuristics::is_explicit(&doubt.text));
    sure.chain(doubts.filter_map(|doubt| doubt.reference.clone())).collect()
}

/// The directories of subcharts by those that helm tells: it names each by its alias, or by its name.
fn names(chart: &Chart) -> HashMap<String, String> {
    let mut names = HashMap::new();
    // One directory may have many names: what is in it is read once.
    let mut read: HashMap<String, Arc<Meta>> = HashMap::new();
    let mut meta = |dir: &str| match read.get(dir) {
        Some(known) => known.clone(),
        None => read.entry(dir.to_owned()).or_insert(Arc::new(Meta::read(chart, dir))).clone(),
    };
    let mut open = vec![(String::new(), String::new())];
    while let Some((told, dir)) = open.pop() {
        let parent = meta(&dir);
        for below in chart.subcharts(&dir) {
            let real = format!("{dir}charts/{below}/");
            let name = meta(&real).name.clone().unwrap_or(below);
            for name in parent.aliases.get(&name).into_iter().flatten().chain([&name]) {
                let told = format!("{told}charts/{name}/");
                if names.len() >= MAX_NAMES {
                    return names;
                }
                if !names.contains_key(&told) {
                    names.insert(told.clone(), real.clone());
                    open.push((told, real.clone()));
                }
            }
        }
    }
    names
}

/// What a chart says of itself and of its subcharts.
struct Meta {
    name: Option<String>,
    /// The other names of subcharts, by the names that they have of their own.
    aliases: HashMap<String, BTreeSet<String>>,
}

impl Meta {
    fn read(chart: &Chart, dir: &str) -> Self {
        let files = ["Chart.yaml", "requirements.yaml"].map(|file| chart.text(&format!("{dir}{file}")));
        let read =
            files.iter().flatten().map(|text| yaml::parse(&"".into(), text.trim_start_matches('\u{feff}')));
        let read: Vec<_> = read.filter_map(|read| read.documents.into_iter().next()).collect();
        let mut aliases: HashMap<String, BTreeSet<String>> = HashMap::new();
        for listed in read.iter().filter_map(|meta| meta.get("dependencies")).flat_map(|list| list.items()) {
            if let (Some(name), Some(alias)) = (listed.text_of("name"), listed.text_of("alias")) {
                aliases.entry(name.to_owned()).or_default().insert(alias.to_owned());
            }
        }
        let name = read.first().and_then(|meta| meta.text_of("name")).map(str::to_owned);
        Self { name, aliases }
    }
}

/// The path of the file that helm means.
fn real(names: &HashMap<String, String>, told: &str) -> String {
    let end = ["/templates/", "/crds/"].iter().filter_map(|part| told.find(part)).min();
    let dir = end.map(|end| &told[..=end]).and_then(|dir| Some((dir, names.get(dir)?)));
    dir.map_or_else(|| told.to_owned(), |(dir, real)| format!("{real}{}", &told[dir.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helm_s_paths_lead_to_files() {
        let chart = Chart::of(
            "c",
            &[
                (
                    "Chart.yaml",
                    "name: c\ndependencies: [{name: db, alias: main}, {name: db, alias: spare}]\n",
                ),
                ("charts/db-dir/Chart.yaml", "name: db\ndependencies: [{name: log, alias: l}]\n"),
                ("charts/db-dir/charts/log/Chart.yaml", "name: log\n"),
            ],
        );
        let names = names(&chart);
        for (told, expected) in [
            ("templates/x.yaml", "templates/x.yaml"),
            ("charts/main/templates/x.yaml", "charts/db-dir/templates/x.yaml"),
            ("charts/spare/charts/l/templates/a/x.yaml", "charts/db-dir/charts/log/templates/a/x.yaml"),
            ("charts/db/crds/x.yaml", "charts/db-dir/crds/x.yaml"),
            ("charts/other/templates/x.yaml", "charts/other/templates/x.yaml"),
            ("", ""),
        ] {
            assert_eq!(real(&names, told), expected);
        }
    }

    #[test]
    fn a_chart_of_many_names_is_read_once() {
        let aliases: String =
            (0..MAX_NAMES / 2).map(|at| format!("- {{name: db, alias: a{at}}}\n")).collect();
        let long = format!("name: x\nnotes:\n{}", "- a line\n".repeat(500));
        let mut files = vec![
            ("Chart.yaml".to_owned(), format!("name: c\ndependencies:\n{aliases}")),
            ("charts/db/Chart.yaml".to_owned(), "name: db\n".to_owned()),
        ];
        files.extend((0..100).map(|at| (format!("charts/db/charts/s{at}/Chart.yaml"), long.clone())));
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (&**path, &**text)).collect();
        let start = std::time::Instant::now();
        assert_eq!(names(&Chart::of("c", &files)).len(), MAX_NAMES);
        assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", start.elapsed());
    }
}
