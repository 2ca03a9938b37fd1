//! What is pushed to the scripted registry.

use super::wire::Reply;
use super::{Fault, Seen, State};
use bytes::Bytes;
use saver::oci::Digest;
use std::collections::HashMap;

/// Uploads that were begun and not finished, by their number.
#[derive(Default)]
pub(super) struct Uploads {
    open: HashMap<String, Vec<u8>>,
    begun: usize,
}

/// Takes what a request brings; the answer of a good registry. None for what is no push.
pub(super) fn answer(state: &mut State, seen: &Seen, fault: Option<&Fault>) -> Option<Reply> {
    if matches!(fault, Some(Fault::Status(..) | Fault::Redirect(_))) {
        return None;
    }
    let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
    let rest = path.strip_prefix("/v2/")?;
    if let (Some((repository, reference)), "PUT") = (rest.split_once("/manifests/"), seen.method.as_str()) {
        return Some(manifest(state, repository, reference, seen));
    }
    let (repository, number) = rest.split_once("/blobs/uploads/")?;
    let parameter = |name: &str| {
        url::form_urlencoded::parse(query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    };
    if seen.method == "POST" {
        let mounted = parameter("mount").and_then(|digest| digest.parse::<Digest>().ok());
        if parameter("from").is_some() && mounted.is_some_and(|digest| state.blobs.contains_key(&digest)) {
            return Some(Reply::json(201, String::new()));
        }
        state.uploads.begun += 1;
        let number = state.uploads.begun.to_string();
        state.uploads.open.insert(number.clone(), Vec::new());
        return Some(at(202, repository, &number, 0));
    }
    let Some(held) = state.uploads.open.get_mut(number) else { return Some(Reply::status(404)) };
    match seen.method.as_str() {
        "GET" => Some(at(204, repository, number, held.len())),
        "PATCH" => {
            let range = seen.header("content-range").and_then(|range| range.split_once('-'));
            if range.is_some_and(|(first, _)| first.parse() != Ok(held.len())) {
                return Some(Reply::status(416));
            }
            let kept = match fault {
                Some(Fault::Take(count)) => seen.content.len().min(*count),
                _ => seen.content.len(),
            };
            held.extend_from_slice(&seen.content[..kept]);
            let length = held.len();
            Some(at(202, repository, number, length))
        }
        "PUT" => {
            held.extend_from_slice(&seen.content);
            let content = Bytes::from(state.uploads.open.remove(number)?);
            if parameter("digest") != Some(Digest::of(&content).to_string()) {
                let body = r#"{"errors":[{"code":"DIGEST_INVALID","message":"not these bytes"}]}"#;
                return Some(Reply::json(400, body.into()));
            }
            state.blobs.insert(Digest::of(&content), content);
            Some(Reply::json(201, String::new()))
        }
        _ => None,
    }
}

fn at(status: u16, repository: &str, number: &str, held: usize) -> Reply {
    let mut reply = Reply::json(status, String::new());
    reply.set("Location", &format!("/v2/{repository}/blobs/uploads/{number}?state={held}"));
    reply.set("Range", &format!("0-{}", held.saturating_sub(1)));
    reply
}

fn manifest(state: &mut State, repository: &str, reference: &str, seen: &Seen) -> Reply {
    let media_type = seen.header("content-type").unwrap_or_default().to_owned();
    let digest = Digest::of(&seen.content);
    for name in [reference.to_owned(), digest.to_string()] {
        state.manifests.insert((repository.to_owned(), name), (media_type.clone(), seen.content.clone()));
    }
    let mut reply = Reply::json(201, String::new());
    reply.set("Docker-Content-Digest", &digest.to_string());
    reply
}
