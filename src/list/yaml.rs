//! Lists written as YAML or JSON: saver's own sections, and the forms of other tools, told apart by their shape.

use super::plain::{self, Home};
use super::{MAX_PROBLEMS, Origin, Parsed, compose, hauler, image_syncer, sections, skopeo};
use crate::yaml::{self, Node};
use std::sync::Arc;

const FORMS: &str = "a list is a sequence of {registry, username, password, images: [...]}, or a file of docker compose, \
                     skopeo sync, hauler, image-syncer or kubeadm config images list -o json";

const ALONE: &str = "write it under images: of a section with its registry:, or in a plain list, one name a line, in a file \
                     that is not called .yaml, .yml or .json";

/// What a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Compose,
    Hauler,
    Kubeadm,
    Skopeo,
    ImageSyncer,
    /// Kubernetes objects: images are in it, but it is no list.
    Objects,
}

fn form(document: &Node) -> Option<Form> {
    let version = document.text_of("apiVersion").unwrap_or_default();
    let pairs = document.pairs();
    if document.get("services").is_some_and(Node::is_mapping) {
        Some(Form::Compose)
    } else if version.starts_with("content.hauler.cattle.io/") {
        Some(Form::Hauler)
    } else if version.starts_with("output.kubeadm.k8s.io/") {
        Some(Form::Kubeadm)
    } else if !version.is_empty() && document.get("kind").is_some() {
        Some(Form::Objects)
    } else if !pairs.is_empty() && pairs.iter().all(|(_, section)| skopeo::is_section(section)) {
        Some(Form::Skopeo)
    } else if !pairs.is_empty() && pairs.iter().all(|(key, value)| image_syncer::is_pair(&key.text, value)) {
        Some(Form::ImageSyncer)
    } else {
        None
    }
}

/// Reads a text of which every document is a list of another tool.
pub(super) fn parse_foreign(file: &Arc<str>, text: &str) -> Option<Parsed> {
    let read = yaml::read(text);
    let known = |document: &Arc<Node>| form(document).is_some_and(|form| form != Form::Objects);
    let all = read.broken.is_none() && !read.documents.is_empty() && read.documents.iter().all(known);
    all.then(|| documents(file, read))
}

/// Reads a list of any structured form.
pub(super) fn parse(file: &Arc<str>, text: &[u8]) -> Parsed {
    let Some(read) = std::str::from_utf8(text).ok().map(yaml::read) else {
        return sections::parse(file, text);
    };
    let sequence = match read.documents.first() {
        Some(first) => !first.is_mapping(),
        None => read.broken.is_none() || starts_with_dash(text),
    };
    if let Some(name) =
        read.documents.first().and_then(|list| list.items().iter().find(|item| item.text().is_some()))
    {
        let mut into = Into { parsed: Parsed::default(), file: file.clone() };
        into.problem(name.line, "a bare name stands where a section is expected", Some(ALONE));
        return into.parsed;
    }
    if sequence {
        return sections::parse(file, text);
    }
    documents(file, read)
}

fn documents(file: &Arc<str>, read: yaml::Documents) -> Parsed {
    let mut into = Into { parsed: Parsed::default(), file: file.clone() };
    for document in &read.documents {
        match form(document) {
            Some(Form::Compose) => compose::read(&mut into, document),
            Some(Form::Hauler) => hauler::read(&mut into, document),
            Some(Form::Kubeadm) => image_syncer::kubeadm(&mut into, document),
            Some(Form::Skopeo) => skopeo::read(&mut into, document),
            Some(Form::ImageSyncer) => image_syncer::read(&mut into, document),
            Some(Form::Objects) => into.problem(
                document.line,
                "these are Kubernetes objects, and not a list of images",
                Some("saver scan FILE finds the images in them and prints a list"),
            ),
            None if document.is_null() => {}
            None => into.problem(document.line, "this YAML is no list of images", Some(FORMS)),
        }
    }
    if let Some(broken) = read.broken {
        into.problem(broken.line, broken.message, Some(FORMS));
    }
    into.parsed
}

fn starts_with_dash(text: &[u8]) -> bool {
    super::significant(text).next().is_some_and(|line| line.starts_with(b"-"))
}

/// Where entries and remarks of one file go.
pub(super) struct Into {
    parsed: Parsed,
    file: Arc<str>,
}

impl Into {
    fn at(&self, line: u64) -> Origin {
        Origin { file: self.file.clone(), line, module: None }
    }

    pub(super) fn problem(
        &mut self,
        line: u64,
        message: impl std::convert::Into<String>,
        hint: Option<&str>,
    ) {
        let origin = self.at(line);
        if self.parsed.problems.len() < MAX_PROBLEMS {
            self.parsed.problem(origin, message, hint);
        } else if self.parsed.problems.len() == MAX_PROBLEMS {
            self.parsed.problem(origin, "too many entries are wrong: the rest is not told", None);
        }
    }

    pub(super) fn note(&mut self, line: u64, message: impl std::convert::Into<String>) {
        let origin = self.at(line);
        self.parsed.note(origin, message);
    }

    /// Takes one image's name, with the platform that the list asks for.
    pub(super) fn image(&mut self, line: u64, name: &str, platform: Option<&str>, home: Option<&Home>) {
        let name = name.trim();
        if name.is_empty() || name.starts_with('#') {
            return self.problem(line, "the image's name is empty", None);
        }
        if self.parsed.problems.len() > MAX_PROBLEMS {
            return;
        }
        let text = match platform {
            Some(platform) => format!("{name} platform={platform}"),
            None => name.to_owned(),
        };
        let origin = self.at(line);
        plain::line(&mut self.parsed, &text, origin, home);
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse as read;

    #[test]
    fn tells_the_forms_apart() {
        for (name, text, images, told) in [
            (
                "a.json",
                r#"{"kind":"Images","apiVersion":"output.kubeadm.k8s.io/v1alpha3","images":["a.io/b:1"]}"#,
                1,
                "",
            ),
            ("-", "apiVersion: apps/v1\nkind: Deployment\n", 0, "saver scan"),
            ("a.yaml", "registry: a.io\nimages: [b]\n", 0, "no list of images"),
            ("a.yaml", "a.io:\n  username: u\n  password: hush\n", 0, "no list of images"),
            ("a.yaml", "services:\n  a:\n    image: x:1\n---\nfoo: 1\n", 1, "a.yaml:5"),
            ("a.yaml", "services:\n  a:\n    image: x:1\n---\nfoo: [\n", 1, "a.yaml:5"),
            ("a.yaml", "foo: [\n", 0, "a.yaml:1"),
            (
                "a.yaml",
                "- hush\n- nginx\n",
                0,
                "a.yaml:1: a bare name stands where a section is expected (write it under images:",
            ),
            ("a.json", "[\"hush\",\n \"nginx\"]\n", 0, "a.json:1: a bare name"),
            ("a.yaml", "- registry: a.io\n  images: [b]\n- nginx\n", 0, "a.yaml:3: a bare name"),
            ("-", "services:\n  a:\n    image: x:1\n", 1, ""),
            ("-", "quay.io:\n  images:\n    a/b: ['1']\n", 1, ""),
            ("-", "{\"a.io/b:1\": \"c.io/d\"}\n", 1, ""),
            ("-", "a.io/b:1: c.io/d:1\n", 1, ""),
        ] {
            let parsed = read(name, text.as_bytes());
            assert_eq!(parsed.entries.len(), images, "{text}: {:?}", parsed.problems);
            assert_eq!(parsed.problems.len(), usize::from(!told.is_empty()), "{text}: {:?}", parsed.problems);
            assert!(
                parsed.problems.iter().all(|problem| problem.to_string().contains(told)),
                "{:?}",
                parsed.problems
            );
            assert!(!format!("{parsed:?}").contains("hush"));
        }
    }

    #[test]
    fn problems_are_bounded() {
        let text = format!(
            "services:\n{}",
            (0..5000).map(|i| format!("  a{i}: {{image: B}}\n")).collect::<String>()
        );
        assert_eq!(read("a.yaml", text.as_bytes()).problems.len(), super::MAX_PROBLEMS + 1);
    }
}
