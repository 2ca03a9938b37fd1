//! New names for images that were moved to another registry: what each image of a tree is called there, and manifests with these
//! names in the place of the original ones.

mod text;

pub use text::{KeptImage, KeptReason, RewrittenText, rewrite_text};

use crate::error::{ErrorKind, Result};
use crate::oci::Reference;
use crate::push::Destination;
use crate::save::NameRule;
use crate::store::Store;
use std::collections::BTreeMap;

/// Where images are, and where they are moved to.
#[derive(Clone)]
#[non_exhaustive]
pub struct RewriteOptions {
    /// The directory.
    pub store: Store,
    /// How images are named in it.
    pub names: NameRule,
    /// The registry that serves the directory, and the prefix of repository names there.
    pub destination: Destination,
}

impl RewriteOptions {
    /// Options for the images of `store`, by the names that it was saved with.
    ///
    /// # Errors
    /// `Storage` if the rule of the names cannot be read.
    pub fn new(store: Store, destination: Destination) -> Result<Self> {
        let names = NameRule::of(&store, None)?;
        Ok(Self { store, names, destination })
    }

    /// Finds images in the directory by this rule.
    #[must_use]
    pub fn with_names(self, names: NameRule) -> Self {
        Self { names, ..self }
    }

    /// The new name of an image; `None` if it is not in the tree.
    ///
    /// # Errors
    /// `InvalidInput` if the new name is too long; `Storage` if the tree cannot be read.
    pub fn rename(&self, original: &Reference) -> Result<Option<Reference>> {
        let place = match self.names.find(&self.store, original) {
            Ok(place) => place,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(Reference {
            registry: self.destination.registry.clone(),
            repository: self.destination.repository(&place.repository)?,
            tag: place.tag,
            digest: original.digest,
        }))
    }
}

/// An image and its new name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// The original name.
    pub from: Reference,
    /// The name at the destination.
    pub to: Reference,
}

/// The `images` of a kustomization (kustomize, "images") that gives the images their new names. kustomize compares names as they
/// are written, so names of Docker Hub are listed in every short form.
#[must_use]
pub fn kustomize_images(renames: &[Rename]) -> String {
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for Rename { from, to } in renames {
        let new_name = format!("{}/{}", to.registry, to.repository);
        for name in written_forms(from) {
            names.insert(name, new_name.clone());
        }
    }
    let mut text = String::from("images:\n");
    for (name, new_name) in names {
        let name = yaml_string(name);
        text.push_str(&format!("  - name: {name}\n    newName: {new_name}\n"));
    }
    text
}

/// The name as a string of YAML: quoted if it would be read as a number, a date, a boolean or null.
fn yaml_string(name: String) -> String {
    const WORDS: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let is_string = name.contains('/')
        || (name.starts_with(|first: char| first.is_ascii_lowercase()) && !WORDS.contains(&&*name));
    if is_string { name } else { format!("\"{name}\"") }
}

/// The forms in which people write a name without its tag.
fn written_forms(reference: &Reference) -> Vec<String> {
    let Reference { registry, repository, .. } = reference;
    let mut forms = vec![format!("{registry}/{repository}")];
    if registry.is_docker_hub() {
        forms.push(repository.to_string());
        if let Some(name) = repository.official_name() {
            forms.push(format!("{registry}/{name}"));
            forms.push(name.to_string());
        }
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kustomize_names_are_strings_in_yaml() {
        for (name, written) in [
            ("nginx", "nginx"),
            ("123", "\"123\""),
            ("1e3", "\"1e3\""),
            ("0x1f", "\"0x1f\""),
            ("2026-01-01", "\"2026-01-01\""),
            ("null", "\"null\""),
            ("on", "\"on\""),
            ("library/on", "library/on"),
        ] {
            let from: Reference = name.parse().unwrap();
            let text = kustomize_images(&[Rename { to: from.clone(), from }]);
            assert!(text.contains(&format!("  - name: {written}\n    newName: ")), "{text}");
        }
    }

    #[test]
    fn kustomize_lists_each_written_form_once() {
        let rename = |from: &str, to: &str| Rename { from: from.parse().unwrap(), to: to.parse().unwrap() };
        let renames = [
            rename("nginx:1.27", "mirror.lan/library/nginx:1.27"),
            rename("nginx:1.28", "mirror.lan/library/nginx:1.28"),
            rename("grafana/loki:3", "mirror.lan/grafana/loki:3"),
            rename("quay.io/a/b:v1", "mirror.lan/a/b:v1"),
        ];
        let text = kustomize_images(&renames);
        let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("  - name: ")).collect();
        assert_eq!(
            names,
            [
                "docker.io/grafana/loki",
                "docker.io/library/nginx",
                "docker.io/nginx",
                "grafana/loki",
                "library/nginx",
                "nginx",
                "quay.io/a/b"
            ]
        );
        assert!(text.contains("  - name: nginx\n    newName: mirror.lan/library/nginx\n"), "{text}");
    }
}
