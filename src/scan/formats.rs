//! Files of other tools that name images in a way of their own. Each reader needs evidence that the file is the tool's.

use super::heuristics::{self, whole_name};
use super::{Discovery, DoubtReason, Variables};
use crate::list::{self, SourceLocation};
use crate::oci::Reference;
use crate::yaml::YamlNode;

/// Reads a document that belongs to a known tool. False if it does not.
pub(super) fn read(found: &mut Discovery, document: &YamlNode, variables: &Variables) -> bool {
    if let Some(list) = list::parse_document(document, variables) {
        built_services(found, document);
        found.add_foreign_list(list);
        return true;
    }
    if is_regsync(document) {
        regsync(found, document);
    } else if document.get("jobs").is_some_and(YamlNode::is_mapping) && document.get("on").is_some() {
        github_workflow(found, document);
    } else if is_gitlab_ci(document) {
        gitlab_ci(found, document);
    } else {
        return false;
    }
    true
}

fn origin(node: &YamlNode) -> SourceLocation {
    SourceLocation { file: node.file.clone(), line: node.line, module: None }
}

/// An image that the format defines as one, so that its tag defaults to `latest`.
fn image(found: &mut Discovery, node: Option<&YamlNode>) {
    let Some(node) = node else { return };
    let Some(text) = node.text().or_else(|| node.text_of("name")).or_else(|| node.text_of("image")) else {
        return;
    };
    let text = heuristics::bare(text);
    if heuristics::is_template(text) {
        return found.doubt(text, origin(node), DoubtReason::UnrenderedTemplate);
    }
    match Reference::parse(text) {
        Ok(reference) if !heuristics::is_no_name(text) => found.sure(reference, origin(node)),
        Ok(_) => {}
        Err(error) => {
            let detail = Some(error.message().to_owned());
            found.doubt_with(text, origin(node), DoubtReason::InvalidName, detail);
        }
    }
}

/// The images of services that compose builds: whether a registry has them too is unknown.
fn built_services(found: &mut Discovery, document: &YamlNode) {
    for (_, service) in document.get("services").map(YamlNode::pairs).unwrap_or_default() {
        if let Some(image) = service.get("image").filter(|_| service.get("build").is_some())
            && let Some(text) = image.text()
        {
            found.doubt(text, origin(image), DoubtReason::Built);
        }
    }
}

fn is_regsync(document: &YamlNode) -> bool {
    let items = document.get("sync").map(YamlNode::items).unwrap_or_default();
    !items.is_empty() && items.iter().all(|item| item.get("source").is_some() && item.get("type").is_some())
}

/// regsync (regclient.org): whole images, and repositories with a list of allowed tags, which are regular expressions.
fn regsync(found: &mut Discovery, document: &YamlNode) {
    for item in document.get("sync").map(YamlNode::items).unwrap_or_default() {
        let Some(source) = item.get("source") else { continue };
        if item.text_of("type") == Some("image") {
            image(found, Some(source));
            continue;
        }
        let name = source.text().unwrap_or_default();
        let allowed =
            item.get("tags").and_then(|tags| tags.get("allow")).map(YamlNode::items).unwrap_or_default();
        if allowed.is_empty() {
            found.doubt(name, origin(source), DoubtReason::TagPattern);
        }
        for tag in allowed {
            // A dot is a literal dot in a version, whatever a regular expression makes of it.
            let text = tag.text().unwrap_or_default().replace("\\.", ".");
            match whole_name(&format!("{name}:{text}")) {
                Some(reference) => found.sure(reference, origin(tag)),
                None => found.doubt(&format!("{name}:{text}"), origin(tag), DoubtReason::TagPattern),
            }
        }
    }
}

/// GitHub workflows: the containers of jobs, their services, and actions that are images.
fn github_workflow(found: &mut Discovery, document: &YamlNode) {
    for (_, job) in document.get("jobs").map(YamlNode::pairs).unwrap_or_default() {
        image(found, job.get("container"));
        for (_, service) in job.get("services").map(YamlNode::pairs).unwrap_or_default() {
            image(found, service.get("image"));
        }
        for step in job.get("steps").map(YamlNode::items).unwrap_or_default() {
            image(
                found,
                step.get("uses").filter(|uses| uses.text().is_some_and(|text| text.starts_with("docker://"))),
            );
        }
    }
}

/// GitLab's own file name, or its keywords around jobs with scripts.
fn is_gitlab_ci(document: &YamlNode) -> bool {
    let has_scripts = document.pairs().iter().any(|(_, job)| job.get("script").is_some());
    let is_named = document.file.ends_with(".gitlab-ci.yml") || document.file.ends_with(".gitlab-ci.yaml");
    has_scripts && (is_named || document.get("stages").is_some())
}

/// GitLab CI: `image` and `services` of the file, its defaults and its jobs.
fn gitlab_ci(found: &mut Discovery, document: &YamlNode) {
    let is_keyword = |key: &str| matches!(key, "variables" | "include" | "workflow" | "services" | "image");
    let jobs = document.pairs().iter().filter(|(key, _)| !is_keyword(&key.text)).map(|(_, job)| &**job);
    for scope in std::iter::once(document).chain(jobs) {
        image(found, scope.get("image"));
        for service in scope.get("services").map(YamlNode::items).unwrap_or_default() {
            image(found, Some(service));
        }
    }
}
