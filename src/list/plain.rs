//! The plain format: one reference a line.

use super::chart;
use super::selection::TagSelection;
use super::{
    ImageList, ListCredential, ListEntry, ListedChart, MAX_LINE_BYTES, MAX_PROBLEMS, RepositoryPattern,
    SelectedRepository, SourceLocation, is_registry_domain, platforms,
};
use crate::oci::reference::without_credentials;
use crate::oci::{PlatformSet, Reference, Registry};
use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

/// A message and its hint.
pub(super) type Problem = (String, Option<String>);

/// Reads all lines. An invalid line is reported, and reading continues with the next one.
pub(super) fn parse(file: &Arc<str>, text: &[u8]) -> ImageList {
    let mut parsed = ImageList::default();
    let mut module: Option<Arc<str>> = None;
    for (number, bytes) in (1..).zip(text.split(|b| *b == b'\n')) {
        let origin = SourceLocation { file: file.clone(), line: number, module: module.clone() };
        if parsed.problems.len() >= MAX_PROBLEMS {
            parsed.problem(origin, "too many invalid entries: the rest was not read", None);
            break;
        }
        if bytes.len() > MAX_LINE_BYTES {
            parsed.problem(origin, format!("the line is longer than {MAX_LINE_BYTES} bytes"), None);
            continue;
        }
        let Ok(text) = std::str::from_utf8(bytes) else {
            parsed.problem(origin, "the line is not UTF-8 text", None);
            continue;
        };
        if is_log_line(text) {
            parsed.note(origin, "skipped a log line of kubeadm");
            continue;
        }
        if let Some(name) = heading(text) {
            module = Some(name.into());
            continue;
        }
        parse_line(&mut parsed, text, origin, None);
    }
    parsed
}

/// The name in a `##+name` heading.
fn heading(text: &str) -> Option<&str> {
    let name = text.trim().strip_prefix("##+")?.trim();
    (!name.is_empty()).then_some(name)
}

/// A line of klog, which `kubeadm config images list` writes to stderr: `I0102 15:04:05.000000 ...`.
fn is_log_line(text: &str) -> bool {
    let mut words = text.split(' ');
    let head = words.next().unwrap_or_default().as_bytes();
    let time = words.next().unwrap_or_default().as_bytes();
    head.len() == 5
        && b"IWEF".contains(&head[0])
        && head[1..].iter().all(u8::is_ascii_digit)
        && time.len() > 8
        && (time[2], time[5], time[8]) == (b':', b':', b'.')
}

/// The registry of names that have none, and the credentials for it.
pub(super) struct RegistryScope {
    pub(super) registry: Registry,
    pub(super) credential: Option<Arc<ListCredential>>,
}

/// Reads one line: a reference with options, a comment, both or neither.
pub(super) fn parse_line(
    parsed: &mut ImageList,
    text: &str,
    origin: SourceLocation,
    scope: Option<&RegistryScope>,
) {
    let words: Vec<&str> = text.split_whitespace().take_while(|word| !word.starts_with('#')).collect();
    let Some((name, options)) = words.split_first() else { return };
    match chart::read_line(name, options) {
        Some(Ok(chart)) => return parsed.charts.push(ListedChart { chart, origin }),
        Some(Err(error)) => return parsed.problem(origin, error.to_string(), error.hint()),
        None => {}
    }
    let shown: Vec<Cow<'_, str>> = words.iter().map(|word| without_credentials(word)).collect();
    if let Some((message, hint)) = not_a_reference(&shown) {
        return parsed.problem(origin, message, Some(&hint));
    }
    let (name, wildcard) = split_wildcard(name);
    let (name, repositories) = match split_repositories(name, scope) {
        Ok((name, repositories)) => (name, repositories),
        Err((message, hint)) => return parsed.problem(origin, message, hint.as_deref()),
    };
    let name = name.as_ref();
    let wildcard = wildcard.or(repositories.is_some().then_some("*"));
    let reference = match Reference::parse_in(name, scope.map(|scope| &scope.registry)) {
        Ok(reference) => reference,
        Err(error) => return parsed.problem(origin, error.to_string(), error.hint()),
    };
    let LineOptions { platforms, selection } = match line_options(options, wildcard) {
        Ok(options) => options,
        Err((message, hint)) => return parsed.problem(origin, message, hint.as_deref()),
    };
    let credential =
        scope.filter(|scope| scope.registry == reference.registry).and_then(|scope| scope.credential.clone());
    match selection {
        Some(_) if reference.digest.is_some() || Reference::has_written_tag(name) => {
            let message = format!("{name:?} has a tag, and the line selects tags");
            parsed.problem(origin, message, Some("write the repository without a tag, or with :*"));
        }
        Some(selection) => {
            parsed.selections.push(SelectedRepository {
                reference,
                repositories,
                selection,
                platforms,
                origin,
                credential,
            });
        }
        None => {
            parsed.entries.push(ListEntry { platforms, credential, ..ListEntry::new(reference, origin) });
        }
    }
}

/// Recognises text that is commonly pasted into lists by mistake, to give a better reason than an invalid character.
fn not_a_reference(words: &[Cow<'_, str>]) -> Option<(String, Cow<'static, str>)> {
    let (message, hint) = match decorated(words) {
        Some((message, hint)) => (message, hint.into()),
        None => not_a_name(words).map(|(message, hint)| (message, hint.into()))?,
    };
    Some((message, hint))
}

/// A name in the syntax of another format: after a dash, in quotes, before a comma.
fn decorated(words: &[Cow<'_, str>]) -> Option<(String, String)> {
    let first = words.first()?;
    let bullet = matches!(first.as_ref(), "-" | "*");
    let word = if bullet { words.get(1)? } else { first };
    let bare = word.trim_end_matches(',').trim_matches(['"', '\'', '`']);
    let message = if bullet {
        format!("{first:?} precedes the image name")
    } else if word.starts_with(['"', '\'', '`']) {
        "the image name is in quotes".to_owned()
    } else if word.ends_with(',') {
        "a comma follows the image name".to_owned()
    } else {
        return None;
    };
    // Only a valid name is quoted: other text may be a password.
    let name = (words.len() <= 1 + usize::from(bullet) && Reference::parse(bare).is_ok()).then_some(bare);
    let hint = name.map_or_else(
        || "write only the image name, one a line".to_owned(),
        |name| format!("write {name} alone"),
    );
    Some((message, hint))
}

/// Words that do not start with a name at all.
fn not_a_name(words: &[Cow<'_, str>]) -> Option<(String, &'static str)> {
    let name = &words[0];
    if words.iter().any(|word| ["{{", "}}", "${", "$("].iter().any(|mark| word.contains(mark)))
        || name.starts_with('$')
    {
        return Some((
            format!("{:?} is an unrendered template", words.join(" ")),
            "render it first, for example with helm template",
        ));
    }
    if name.contains("://") && (name.starts_with("http:") || name.starts_with("https:")) {
        return Some((
            format!("{name:?} is a URL"),
            "write the image name without http:// or https://, or add version=VERSION for a chart of a Helm repository",
        ));
    }
    if name.ends_with(':') && words.len() > 1 {
        // The other words may be a password.
        return Some((
            format!("a line that starts with {name:?} looks like YAML"),
            "write only the image name",
        ));
    }
    if name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Some((
            format!("{name:?} is a bare digest or image ID"),
            "write NAME@sha256:...; a digest alone does not locate an image",
        ));
    }
    if ["docker-archive:", "oci-archive:", "docker-daemon:", "containers-storage:", "oci:", "dir:"]
        .iter()
        .any(|transport| name.starts_with(transport) && !name.starts_with("oci://") && name.contains('/'))
    {
        return Some((format!("{name:?} is not in a registry"), "a list can name only images in registries"));
    }
    None
}

/// Splits off a tag that selects: one with wildcards (`NAME:*`, `NAME:1.*`), or that of repositories (`REGISTRY/team/*:1.0`).
fn split_wildcard(name: &str) -> (&str, Option<&str>) {
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[start..].split_once(':') {
        Some((last, tag)) if name.contains(['*', '?']) && !tag.contains('@') => {
            (&name[..start + last.len()], Some(tag))
        }
        _ => (name, None),
    }
}

/// Splits off a path with wildcards, which stands for repositories: `REGISTRY/team/**`. The name that is left has the registry.
fn split_repositories<'a>(
    name: &'a str,
    scope: Option<&RegistryScope>,
) -> Result<(Cow<'a, str>, Option<RepositoryPattern>), Problem> {
    if !name.contains(['*', '?']) {
        return Ok((name.into(), None));
    }
    let name = ["docker://", "oci://"].iter().find_map(|scheme| name.strip_prefix(scheme)).unwrap_or(name);
    let (first, rest) = name.split_once('/').unwrap_or(("", name));
    let (registry, path) = match scope {
        _ if is_registry_domain(first) => (first, rest),
        Some(scope) => (scope.registry.as_str(), name),
        None => ("docker.io", name),
    };
    if registry.parse::<Registry>().is_ok_and(|registry| registry.is_docker_hub()) {
        let message = format!("{name:?} selects repositories, and docker.io does not list its repositories");
        return Err((message, Some("name the repositories".into())));
    }
    let pattern = RepositoryPattern::glob(path).map_err(|why| (format!("invalid {name:?}: {why}"), None))?;
    let scope = RepositoryPattern::scope(path);
    Ok((format!("{registry}/{scope}").into(), Some(pattern)))
}

/// The options of a line.
#[derive(Default)]
struct LineOptions {
    platforms: Option<PlatformSet>,
    selection: Option<TagSelection>,
}

/// The `key=value` words after a reference.
fn line_options(words: &[&str], wildcard: Option<&str>) -> Result<LineOptions, Problem> {
    let mut options = LineOptions { selection: wildcard.map(TagSelection::glob), ..LineOptions::default() };
    let mut seen = HashSet::new();
    for word in words {
        let Some((key, value)) = word.split_once('=') else {
            return Err((
                format!("unexpected {:?} after the reference", without_credentials(word)),
                Some("write one reference a line; comments start with #".into()),
            ));
        };
        if !matches!(key, "except" | "tags") && !seen.insert(key) {
            return Err((
                format!("{key}= is written twice"),
                (key == "platform").then(|| "write it once, with commas between the platforms".into()),
            ));
        }
        let selection = || TagSelection::glob("*");
        let invalid = |why: String| (format!("invalid {key}={value}: {why}"), None);
        match key {
            "platform" => {
                let platforms = platforms(value);
                options.platforms =
                    Some(platforms.map_err(|error| (error.to_string(), error.hint().map(str::to_owned)))?);
            }
            "tags" => options.selection.get_or_insert_with(selection).add_pattern(value).map_err(invalid)?,
            "since" => options.selection.get_or_insert_with(selection).set_since(value).map_err(invalid)?,
            "except" => {
                options.selection.get_or_insert_with(selection).add_exception(value).map_err(invalid)?
            }
            "newest" => options.selection.get_or_insert_with(selection).set_newest(value).map_err(invalid)?,
            _ => {
                return Err((
                    format!("unknown option {:?}", without_credentials(key)),
                    Some("the options are platform=, tags=, newest=, since= and except=".into()),
                ));
            }
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::super::parse as read;
    use super::*;

    #[test]
    fn all_forms_of_a_line_are_read() {
        let text = "\u{feff}# comment\r\n\
                    \r\n\
                    nginx:1.27\r\n  redis:7 \t\r\n\
                    ##+ storage\r\n\
                    ghcr.io/o/t:2 platform=linux/arm64,arm/v6  # why # twice\r\n\
                    ## not a heading\n\
                    docker://quay.io/a/b platform=all\n\
                    nginx:1.27#x\n\
                    quay.io/last/line:1";
        let parsed = read("l", text.as_bytes());
        let seen: Vec<String> = parsed
            .entries
            .iter()
            .map(|e| {
                let platforms = e.platforms.as_ref().map(ToString::to_string).unwrap_or_default();
                format!(
                    "{} {} [{platforms}] {}",
                    e.origin,
                    e.reference,
                    e.origin.module.as_deref().unwrap_or("")
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                "l:3 docker.io/library/nginx:1.27 [] ",
                "l:4 docker.io/library/redis:7 [] ",
                "l:6 ghcr.io/o/t:2 [linux/arm64,linux/arm/v6] storage",
                "l:8 quay.io/a/b:latest [all] storage",
                "l:10 quay.io/last/line:1 [] storage",
            ]
        );
        // A # inside a word belongs to the word, and no tag can contain one.
        assert_eq!(parsed.problems.len(), 1);
        assert!(parsed.problems[0].to_string().starts_with("l:9: "), "{}", parsed.problems[0]);
    }

    #[test]
    fn repositories_with_selections_are_read() {
        for (line, expected) in [
            ("quay.io/a/b:*", "quay.io/a/b tags=all"),
            ("quay.io/a/b:* tags=semver:^3.1 newest=2", "quay.io/a/b tags=semver:^3.1 newest=2"),
            (
                "quay.io/a/b newest=3/minor except=re:.*-rc.* except=*-x",
                "quay.io/a/b tags=all except=re:.*-rc.* except=*-x newest=3/minor",
            ),
            ("localhost:5000/b:1.*", "localhost:5000/b tags=1.*"),
            ("quay.io/a/b:1.* tags=semver:<1.5", "quay.io/a/b tags=1.* tags=semver:<1.5"),
            ("quay.io/charts/**", "quay.io/charts/** tags=all"),
            ("quay.io/charts/**:1.0", "quay.io/charts/** tags=1.0"),
            ("quay.io/a/*:v1* since=2026-06-01", "quay.io/a/* tags=v1* since=2026-06-01"),
            ("nginx tags=re:\\d+", "docker.io/library/nginx tags=re:\\d+"),
        ] {
            let list = read("l", line.as_bytes());
            assert!(list.problems.is_empty() && list.entries.is_empty(), "{line}: {list:?}");
            let selected = &list.selections[0];
            assert_eq!(format!("{} {}", selected.name(), selected.selection), expected, "{line}");
        }
    }

    #[test]
    fn invalid_lines_are_reported_with_the_reason() {
        for (text, reason) in [
            ("{{ .Values.image }}:1", "template"),
            ("nginx:${TAG}", "template"),
            ("$REGISTRY/app:1.0", "template"),
            ("https://a.io/b", "is a URL"),
            ("image: nginx", "looks like YAML"),
            ("\"nginx:1\"", "is in quotes (write nginx:1 alone"),
            ("'a.io/b'", "is in quotes (write a.io/b alone"),
            ("\"nginx:1\",", "is in quotes (write nginx:1 alone"),
            ("\"nginx:1", "is in quotes (write nginx:1 alone"),
            ("`nginx`", "is in quotes (write nginx alone"),
            ("nginx:1,", "a comma follows the image name (write nginx:1 alone"),
            ("nginx:1, redis:2", "a comma follows the image name (write only the image name, one"),
            ("- nginx:1", "\"-\" precedes the image name (write nginx:1 alone"),
            ("- \"nginx:1\"", "\"-\" precedes the image name (write nginx:1 alone"),
            ("* nginx", "\"*\" precedes the image name (write nginx alone"),
            ("- image: nginx", "\"-\" precedes the image name (write only the image name, one"),
            ("-", "starts or ends with a separator"),
            ("2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae", "bare digest"),
            ("docker-archive:/tmp/image.tar", "not in a registry"),
            ("nginx redis", "after the reference"),
            ("nginx platfrom=amd64", "option \"platfrom\""),
            ("nginx platform=", "platform"),
            ("nginx platform=amd64 platform=arm64", "twice"),
            ("nginx:1 tags=all", "has a tag, and the line selects tags"),
            ("nginx since=today", "invalid since=today: expected a date"),
            ("library/*:1", "docker.io does not list its repositories"),
            ("nginx tags=re:(", "invalid tags=re:("),
            ("nginx newest=0", "invalid newest=0: expected N"),
            ("nginx newest=1 newest=2", "newest= is written twice"),
            ("quay.io/A*/b:1 newest=0", "invalid newest=0"),
            ("Nginx", "lower case"),
            ("nginx:", "tag is empty"),
        ] {
            let parsed = read("l", format!("redis\n{text}\n").as_bytes());
            assert_eq!(parsed.entries.len(), 1, "{text}");
            assert_eq!(parsed.problems.len(), 1, "{text}");
            let text = format!("{:#}", parsed.problems[0]);
            assert!(text.starts_with("l:2: ") && text.contains(reason), "{text}: {text}");
        }
    }

    #[test]
    fn possible_passwords_are_not_quoted() {
        for text in [
            "registry.example.com: {username: u, password: S3CRET}",
            "password: S3CRET",
            "nginx\n- password: S3CRET",
            "nginx\n\"S3CRET//\"",
            "nginx\n\"u:S3CRET@a.io/b\"",
            "https://u:S3CRET@a.io/b",
            "u:S3CRET@a.io/b:1",
        ] {
            let parsed = read("l", text.as_bytes());
            assert_eq!(parsed.problems.len(), 1, "{text}");
            let text = format!("{:#}", parsed.problems[0]);
            assert!(!text.contains("S3CRET"), "{text}");
        }
        let error = "https://u:S3CRET@a.io:1".parse::<crate::oci::Registry>().unwrap_err();
        assert!(!error.to_string().contains("S3CRET"), "{error}");
    }

    #[test]
    fn duplicates_are_found_by_normal_form_and_platform() {
        let text =
            "nginx\ndocker.io/library/nginx:latest\nnginx platform=arm64\nnginx platform=linux/arm64/v8\n";
        let parsed = read("l", text.as_bytes());
        assert_eq!(parsed.entries.len(), 2);
        let duplicates: Vec<String> = parsed.duplicates.iter().map(ToString::to_string).collect();
        assert_eq!(
            duplicates,
            [
                "l:2: docker.io/library/nginx:latest is already listed at l:1",
                "l:4: docker.io/library/nginx:latest is already listed at l:3"
            ]
        );
    }

    #[test]
    fn lines_and_problems_are_bounded() {
        let long = "a".repeat(MAX_LINE_BYTES + 1);
        let parsed = read("l", format!("{long}\nnginx\n").as_bytes());
        assert!(parsed.problems[0].to_string().contains("longer than"));
        assert_eq!(parsed.entries.len(), 1);
        let parsed = read("l", b"nginx\n\xc3\x28\n\0\n");
        assert!(parsed.problems[0].to_string().contains("not UTF-8"));
        assert_eq!(parsed.problems.len(), 2);
        let parsed = read("l", "A\n".repeat(5 * MAX_PROBLEMS).as_bytes());
        assert_eq!(parsed.problems.len(), MAX_PROBLEMS + 1);
    }

    #[test]
    fn sample_lists_are_read() {
        for (name, text, count, duplicates) in [
            ("kubeadm", include_str!("../../testdata/lists/kubeadm.list"), 7, 0),
            ("cilium", include_str!("../../testdata/lists/cilium.list"), 10, 0),
            ("rook", include_str!("../../testdata/lists/rook.list"), 9, 0),
            ("kubesphere", include_str!("../../testdata/lists/kubesphere.list"), 21, 1),
            ("windows", include_str!("../../testdata/lists/windows.list"), 4, 0),
        ] {
            let parsed = read(name, text.as_bytes());
            assert!(parsed.problems.is_empty(), "{name}: {:?}", parsed.problems);
            assert_eq!((parsed.entries.len(), parsed.duplicates.len()), (count, duplicates), "{name}");
        }
        let bad = include_str!("../../testdata/lists/bad.list");
        let parsed = read("bad", bad.as_bytes());
        assert_eq!(parsed.entries.len(), 1);
        assert_eq!(parsed.problems.len(), bad.lines().count() - 2, "{:#?}", parsed.problems);
    }
}
