//! What went wrong in a run or a plan, as it is told at the end: a line for every image, and once what several share.

use crate::cli::ui::failed_list::Failed;
use crate::cli::ui::output::{Paint, clean, count};
use crate::cli::ui::wording::Words;
use crate::error::{Detail, ErrorKind, ErrorReport};
use crate::oci::Reference;
use crate::transfer::{Plan, Report, Status};
use std::borrow::Cow;
use std::collections::HashMap;

/// Whether an image was not saved only because the run ended: by whatever ended it, or by the disk, which is told
/// of the run, once.
pub(crate) fn is_given_up(failure: Option<&ErrorReport>) -> bool {
    failure.is_some_and(|failure| matches!(failure.kind, ErrorKind::Cancelled | ErrorKind::Storage))
}

/// How many images were not saved only because the run ended.
pub(crate) fn given_up(report: &Report) -> usize {
    report.images.iter().filter(|image| is_given_up(image.error.as_ref())).count()
}

/// A failure's message without the image's name before it.
pub(crate) fn reason<'a>(reference: &Reference, failure: Option<&'a ErrorReport>) -> &'a str {
    let message = failure.map_or("it was not saved", |failure| failure.message.as_str());
    message.strip_prefix(&reference.to_string()).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(message)
}

/// Each failure with its reason and what to try, then what else is worth knowing.
pub(crate) fn of_report(report: &Report, quiet: bool, paint: Paint) -> String {
    let rows = report.images.iter();
    let mut failed = Failed::of_report(report);
    failed.retain(|image| !is_told_last(image, report));
    let mut text = failure_lines(&failed, paint);
    if !quiet {
        let skipped = rows.clone().filter(|image| image.status == Status::Skipped);
        let why = skipped.filter_map(|image| Some((&image.reference, &image.error.as_ref()?.message)));
        let told = rows.flat_map(|image| image.warnings.iter().map(move |text| (&image.reference, text)));
        for (reference, message) in why.chain(told) {
            text.push_str(&warning_line(&reference.to_string(), message, paint));
        }
    }
    text
}

/// Whether `last_words` speaks of this image: it was given up, or its failure is what ended the run.
fn is_told_last(image: &Failed<'_>, report: &Report) -> bool {
    is_given_up(image.error)
        || report.aborted.as_ref().is_some_and(|ended| ended.subject == image.reference.to_string())
}

/// What ended the run, and how much is left to do.
pub(crate) fn last_words(report: &Report, words: Words, paint: Paint) -> String {
    let mut text = String::new();
    if let Some(ended) = report.aborted.as_ref().filter(|ended| ended.kind != ErrorKind::Cancelled) {
        let word = match ended.kind {
            ErrorKind::Storage => "error: the run could not go on:",
            _ => "error:",
        };
        text.push_str(&format!("{} {}\n", paint.red(word), clean(&ended.message)));
        if let Some(hint) = &ended.hint {
            text.push_str(&format!("  hint: {}\n", clean(hint)));
        }
    }
    let left = given_up(report);
    if left > 0 {
        let word = paint.yellow("not finished:");
        text.push_str(&format!("{word} {}; {}\n", count(left, "image"), words.left));
    }
    text
}

/// The failures and warnings of a dry run, and how many images it did not come to.
pub(crate) fn of_plan(plan: &Plan, quiet: bool, paint: Paint) -> String {
    let (left, failed): (Vec<_>, Vec<_>) =
        Failed::of_plan(plan).into_iter().partition(|image| is_given_up(image.error));
    let mut text = failure_lines(&failed, paint);
    if !left.is_empty() {
        text.push_str(&format!("{} {}\n", paint.yellow("not finished:"), count(left.len(), "image")));
    }
    for image in plan.images.iter().filter(|_| !quiet) {
        for message in &image.warnings {
            text.push_str(&warning_line(&image.reference.to_string(), message, paint));
        }
    }
    text
}

fn warning_line(reference: &str, message: &str, paint: Paint) -> String {
    let place = if message.contains(reference) { String::new() } else { format!("{}: ", clean(reference)) };
    format!("{} {place}{}\n", paint.yellow("warning:"), clean(message))
}

/// What has one key together, in the order in which the keys were first met.
fn grouped<K: PartialEq, V>(pairs: impl IntoIterator<Item = (K, V)>) -> Vec<(K, Vec<V>)> {
    let mut groups: Vec<(K, Vec<V>)> = Vec::new();
    for (key, value) in pairs {
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, values)) => values.push(value),
            None => groups.push((key, vec![value])),
        }
    }
    groups
}

/// A reason that several images share and that is longer than this is told once, below them.
const LONG_REASON: usize = 60;

/// A reason in two parts: what is said of the image alone, and what is the same for others too.
type Told<'a> = (Cow<'a, str>, Option<Cow<'a, str>>);

/// The reason of one failure, split into what concerns the image alone and what other images may share. The URL of a
/// manifest says little more than the image's name, so only its origin is kept, beside the registry's response.
pub(crate) fn told(failure: &ErrorReport) -> Told<'_> {
    let Some(response) = manifest_response(failure) else { return (failure.reason().into(), None) };
    match failure.summary.as_str() {
        "" => (response.into(), None),
        summary => (summary.into(), Some(response.into())),
    }
}

/// The response to a request for a manifest, with the URL's origin in place of the URL.
fn manifest_response(failure: &ErrorReport) -> Option<String> {
    let mut detail = failure.detail.clone()?;
    let Detail::Http { url, status: Some(_), .. } = &mut detail else { return None };
    let parsed = url::Url::parse(url).ok().filter(|parsed| parsed.path().contains("/manifests/"))?;
    *url = parsed.origin().ascii_serialization();
    Some(detail.to_string())
}

/// A line for each image. What several share of their reasons, and a hint, is told once below them.
fn failure_lines(failed: &[Failed<'_>], paint: Paint) -> String {
    let reasons: Vec<&str> = failed.iter().map(|image| reason(image.reference, image.error)).collect();
    let mut times: HashMap<&str, usize> = HashMap::new();
    for why in &reasons {
        *times.entry(why).or_default() += 1;
    }
    let rows = failed.iter().zip(reasons).map(|(image, why)| {
        let told = image.error.map_or((why.into(), None), told);
        let (what, shared) = match told {
            (what, None) if times.get(why) > Some(&1) && what.chars().count() > LONG_REASON => (
                image.error.map_or("failed", |error| error.kind.as_str()).replace('-', " ").into(),
                Some(what),
            ),
            told => told,
        };
        let line =
            format!("{} {}: {}\n", paint.red("failed:"), clean(&image.reference.to_string()), clean(&what));
        (image.error.and_then(|error| error.hint.as_deref()), (shared, line))
    });
    let mut text = String::new();
    for (hint, rows) in grouped(rows) {
        for (shared, lines) in grouped(rows) {
            text.extend(lines);
            if let Some(shared) = shared {
                text.push_str(&format!("  {}\n", clean(&shared)));
            }
        }
        if let Some(hint) = hint {
            text.push_str(&format!("  hint: {}\n", clean(hint)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ui::tables;
    use crate::cli::ui::tables::tests::image;
    use crate::error::{Error, Phase, RegistryError};
    use crate::transfer::ImageReport;

    fn report(images: Vec<ImageReport>) -> Report {
        Report {
            schema: Report::SCHEMA,
            images,
            bytes_fetched: 0,
            bytes_reused: 0,
            seconds: 4.0,
            aborted: None,
        }
    }

    fn failed(name: &str, kind: ErrorKind, message: &str, hint: Option<&str>) -> ImageReport {
        let mut row = image(name, Status::Failed);
        let error = Error::new(kind, &row.reference, message);
        let error = hint.map_or(error.clone(), |hint| error.with_hint(hint));
        row.error = Some(ErrorReport::from(&error));
        row
    }

    #[test]
    fn every_image_has_a_line_and_what_is_shared_is_told_once() {
        let (denied, login) = (ErrorKind::Unauthorized, Some("docker login a.io"));
        let mut moved = image("nginx", Status::Saved);
        moved.warnings.push("the tag moved \x1b[31m".to_owned());
        let long = "the connection to a.io failed: Connection refused (os error 111), 8 times in a row";
        let report = report(vec![
            failed("a.io/b:1", denied, "access denied \u{202e}", login),
            failed("b.io/b:1", ErrorKind::NotFound, "not there", None),
            failed("a.io/c:1", denied, "status 403", login),
            failed("a.io/l:1", ErrorKind::RateLimited, long, None),
            failed("a.io/d:1", denied, "access denied \u{202e}", login),
            failed("a.io/l:2", ErrorKind::RateLimited, long, None),
            moved,
        ]);
        let failures = format!(
            "failed: a.io/b:1: access denied \\u{{202e}}\nfailed: a.io/c:1: status 403\n\
             failed: a.io/d:1: access denied \\u{{202e}}\n  hint: docker login a.io\n\
             failed: b.io/b:1: not there\n\
             failed: a.io/l:1: rate limited\nfailed: a.io/l:2: rate limited\n  {long}\n"
        );
        assert_eq!(of_report(&report, true, Paint(false)), failures);
        let warning = "warning: docker.io/library/nginx:latest: the tag moved \\u{1b}[31m\n";
        assert_eq!(of_report(&report, false, Paint(false)), format!("{failures}{warning}"));
        assert_eq!(last_words(&report, crate::cli::ui::wording::SAVING, Paint(false)), "");
    }

    fn response(url: &str, status: u16, code: &str, message: &str) -> Detail {
        Detail::Http {
            url: url.to_owned(),
            phase: Phase::Headers,
            status: Some(status),
            errors: vec![RegistryError { code: code.to_owned(), message: message.to_owned() }],
            web_page: false,
        }
    }

    #[test]
    fn shared_response_is_printed_once() {
        let row = |number: usize| {
            let mut row = image(&format!("r.io/team/s{number}:1"), Status::Failed);
            let url = format!("https://r.io/v2/team/s{number}/manifests/1");
            let error = Error::new(ErrorKind::NotFound, &row.reference, "the repository does not exist")
                .with_detail(response(&url, 404, "NAME_UNKNOWN", "unknown"))
                .with_hint("check the name");
            row.error = Some(ErrorReport::from(&error));
            row
        };
        let text = of_report(&report((0..50).map(row).collect()), false, Paint(false));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 52, "{text}");
        for (number, line) in lines.iter().take(50).enumerate() {
            assert_eq!(*line, format!("failed: r.io/team/s{number}:1: the repository does not exist"));
        }
        let shared =
            ["  https://r.io returned 404 Not Found: NAME_UNKNOWN: unknown", "  hint: check the name"];
        assert_eq!(lines[50..], shared);
    }

    #[test]
    fn only_manifest_urls_are_shortened() {
        let blob = "https://r.io/v2/a/b/blobs/sha256:00 returned 500 Internal Server Error: x: y";
        for (summary, url, status, what, shared) in [
            ("", "https://r.io/v2/a/manifests/1", 403, "https://r.io returned 403 Forbidden: x: y", None),
            (
                "the repository has no tag 1",
                "http://r.io:5000/v2/a/b/manifests/1",
                404,
                "the repository has no tag 1",
                Some("http://r.io:5000 returned 404 Not Found: x: y"),
            ),
            ("", "https://r.io/v2/a/b/blobs/sha256:00", 500, blob, None),
        ] {
            let error = Error::new(ErrorKind::NotFound, "r.io/a/b:1", summary);
            let failure = ErrorReport::from(&error.with_detail(response(url, status, "x", "y")));
            let (told, rest) = told(&failure);
            assert_eq!((told.as_ref(), rest.as_deref()), (what, shared), "{url}");
        }
    }

    #[test]
    fn what_ended_the_run_is_told_once_and_last() {
        let ended =
            |kind, subject: &str, message: &str| Some(ErrorReport::from(&Error::new(kind, subject, message)));
        let given_up = || failed("a.io/z:1", ErrorKind::Cancelled, "the run ended before", None);
        for (cause, aborted, last, left) in [
            (
                failed("a.io/b:1", ErrorKind::NotFound, "not there", None),
                ended(ErrorKind::NotFound, "a.io/b:1", "stopped at the first failure: not there"),
                "error: a.io/b:1: stopped at the first failure: not there\n",
                2,
            ),
            (
                failed("a.io/b:1", ErrorKind::Storage, "d: disk full", None),
                ended(ErrorKind::Storage, "d", "disk full"),
                "error: the run could not go on: d: disk full\n",
                3,
            ),
            (image("nginx", Status::Saved), ended(ErrorKind::Cancelled, "", "interrupted"), "", 2),
        ] {
            let mut report = report(vec![given_up(), cause, given_up()]);
            report.aborted = aborted;
            assert_eq!(of_report(&report, false, Paint(false)), "");
            let told = format!("{last}not finished: {left} images; the same command goes on from here\n");
            assert_eq!(last_words(&report, crate::cli::ui::wording::SAVING, Paint(false)), told);
            let table = tables::of_report(&report, crate::cli::ui::wording::SAVING);
            assert!(table.contains(&format!("not finished     {left}\n")), "{table}");
        }
    }
}
