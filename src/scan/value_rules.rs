//! The values of a chart that are images, as far as the chart itself says so.

use super::merged_values::{Held, Setting};
use super::yaml_rules::joined;
use super::{Found, heuristics};
use crate::list::SourceLocation;
use crate::oci::Reference;
use std::collections::BTreeSet;

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

/// Finds the images among values.
pub(super) struct Images<'a> {
    pub(super) found: &'a mut Found,
    /// What helm made with the values, if it did: images that are not among it are doubtful.
    pub(super) rendered: Option<&'a BTreeSet<Reference>>,
    pub(super) known: Known,
}

/// The chart whose values are read.
pub(super) struct Own {
    /// Its directory, with a `/` at the end unless it is the root.
    pub(super) dir: String,
    pub(super) registry: Option<String>,
    pub(super) app_version: Option<String>,
    pub(super) templates: String,
}

/// Where a value stands.
#[derive(Clone, Copy)]
pub(super) struct Spot<'a> {
    pub(super) own: &'a Own,
    /// Its keys from the root on, with dots between.
    pub(super) path: &'a str,
    /// The setting that turns off what it belongs to.
    pub(super) off: Option<&'a str>,
}

impl Images<'_> {
    /// Looks for images in a value.
    pub(super) fn find(&mut self, spot: Spot<'_>, setting: &Setting) {
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
                        Held::Text(text) if heuristics::is_image_key(key) => {
                            self.name(below, key, text.trim(), child, setting);
                        }
                        Held::Text(text) if heuristics::tag_key(key).is_some() => {
                            let tag = heuristics::tag_key(key).and_then(|key| setting.text(&key));
                            if let Some(image) = heuristics::of_two(text.trim(), tag) {
                                self.maybe(&image, child.origin.clone(), heuristics::OF_TWO);
                            }
                        }
                        _ => self.find(below, child),
                    }
                }
            }
            Held::List(items) => items.iter().for_each(|item| self.find(spot, item)),
            Held::Text(text) => {
                if let Some(image) = heuristics::image(text) {
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
        let image_key = heuristics::is_image_key(key);
        let name = setting
            .text("repository")
            .filter(|_| image_key || has("tag") || has("digest") || has("registry"));
        let name = name.or_else(|| {
            ["name", "image"].iter().find_map(|key| setting.text(key)).filter(|_| image_key && has("tag"))
        });
        let Some(name) = name.filter(|name| !name.contains("://")) else { return false };
        // The chart's own registry takes the place of another, and is not put before a name that has one.
        let global = own.registry.as_deref().filter(|_| has("registry") || !heuristics::has_domain(name));
        let registry = global.or(setting.text("registry"));
        let origin = setting.get("repository").map_or(&setting.origin, |setting| &setting.origin).clone();
        self.known.paths.insert((own.dir.clone(), path.to_owned()));
        let (tag, digest) = (setting.text("tag"), setting.text("digest").or(setting.text("sha")));
        if tag.is_some() || digest.is_some() || heuristics::is_explicit(name) {
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
        if heuristics::is_template(text) {
            return self.maybe(text, origin, "a template that was not filled in");
        }
        let tag_key = format!("{key}Tag");
        let tag =
            siblings.text(&tag_key).or(siblings.text("tag")).filter(|tag| !heuristics::is_template(tag));
        if heuristics::is_explicit(text) || tag.is_some() {
            self.complete(&joined(None, text, tag, None), origin, spot.off);
        } else if Reference::parse(text).is_ok() {
            self.maybe(text, origin, "neither a tag nor a digest is written");
        }
    }

    fn complete(&mut self, image: &str, origin: SourceLocation, off: Option<&str>) {
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

    fn maybe(&mut self, image: &str, origin: SourceLocation, why: &str) {
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
