//! What went wrong in a run or a plan, as it is told at the end: every image by name, every reason and every
//! hint once.

use super::output::{Paint, clean, count};
use super::words::Words;
use crate::copy::{Failure, ImageReport, Plan, Report, Status};
use crate::error::ErrorKind;

/// Whether an image was not saved only because the run ended: by whatever ended it, or by the disk, which is told
/// of the run, once.
pub(super) fn is_given_up(failure: Option<&Failure>) -> bool {
    failure.is_some_and(|failure| matches!(failure.kind, ErrorKind::Cancelled | ErrorKind::Storage))
}

/// How many images were not saved only because the run ended.
pub(super) fn given_up(report: &Report) -> usize {
    report.images.iter().filter(|image| is_given_up(image.error.as_ref())).count()
}

/// A failure's message without the image's name before it.
pub(super) fn reason<'a>(reference: &str, failure: Option<&'a Failure>) -> &'a str {
    let message = failure.map_or("it was not saved", |failure| failure.message.as_str());
    message.strip_prefix(reference).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(message)
}

/// Each failure with its reason and what to try, then what else is worth knowing.
pub(super) fn of_report(report: &Report, quiet: bool, paint: Paint) -> String {
    let rows = report.images.iter();
    let failed = rows.clone().filter(|image| image.status == Status::Failed && !is_told_last(image, report));
    let failures = failed.map(|image| (image.reference.to_string(), image.error.as_ref()));
    let mut text = failure_lines(failures, paint);
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
fn is_told_last(image: &ImageReport, report: &Report) -> bool {
    let prefix = format!("{}: ", image.reference);
    is_given_up(image.error.as_ref())
        || report.aborted.as_ref().is_some_and(|ended| ended.message.starts_with(&prefix))
}

/// What ended the run, and how much is left to do.
pub(super) fn last_words(report: &Report, words: Words, paint: Paint) -> String {
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

/// The failures and warnings of a dry run.
pub(super) fn of_plan(plan: &Plan, quiet: bool, paint: Paint) -> String {
    let failed = plan.images.iter().filter(|image| image.status == Status::Failed);
    let failed = failed.map(|image| (image.reference.to_string(), image.error.as_ref()));
    let mut text = failure_lines(failed, paint);
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

/// Images that failed for one reason stand together, and reasons with one hint.
fn failure_lines<'a>(failed: impl Iterator<Item = (String, Option<&'a Failure>)>, paint: Paint) -> String {
    let failed = failed.map(|(reference, failure)| {
        let why = reason(&reference, failure).to_owned();
        (failure.and_then(|failure| failure.hint.as_deref()), (why, reference))
    });
    let mut text = String::new();
    for (hint, failed) in grouped(failed) {
        for (why, references) in grouped(failed) {
            for reference in references {
                text.push_str(&format!("{} {}\n", paint.red("failed:"), clean(&reference)));
            }
            text.push_str(&format!("  {}\n", clean(&why)));
        }
        if let Some(hint) = hint {
            text.push_str(&format!("  hint: {}\n", clean(hint)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::summary;
    use super::super::summary::tests::image;
    use super::*;

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
        let message = format!("{}: {message}", row.reference);
        row.error = Some(Failure { kind, message, hint: hint.map(str::to_owned), io_kind: None });
        row
    }

    #[test]
    fn every_image_is_named_and_every_reason_and_hint_told_once() {
        let (denied, login) = (ErrorKind::Unauthorized, Some("docker login a.io"));
        let mut moved = image("nginx", Status::Saved);
        moved.warnings.push("the tag moved \x1b[31m".to_owned());
        let report = report(vec![
            failed("a.io/b:1", denied, "access denied \u{202e}", login),
            failed("b.io/b:1", ErrorKind::NotFound, "not there", None),
            failed("a.io/c:1", denied, "status 403", login),
            failed("a.io/d:1", denied, "access denied \u{202e}", login),
            moved,
        ]);
        let failures = "failed: a.io/b:1\nfailed: a.io/d:1\n  access denied \\u{202e}\nfailed: a.io/c:1\n  status 403\n  \
             hint: docker login a.io\nfailed: b.io/b:1\n  not there\n";
        assert_eq!(of_report(&report, true, Paint(false)), failures);
        let warning = "warning: docker.io/library/nginx:latest: the tag moved \\u{1b}[31m\n";
        assert_eq!(of_report(&report, false, Paint(false)), format!("{failures}{warning}"));
        assert_eq!(last_words(&report, super::super::words::SAVING, Paint(false)), "");
    }

    #[test]
    fn what_ended_the_run_is_told_once_and_last() {
        let ended =
            |kind, message: &str| Some(Failure { kind, message: message.into(), hint: None, io_kind: None });
        let given_up = || failed("a.io/z:1", ErrorKind::Cancelled, "the run ended before", None);
        for (cause, aborted, last, left) in [
            (
                failed("a.io/b:1", ErrorKind::NotFound, "not there", None),
                ended(ErrorKind::NotFound, "a.io/b:1: stopped at the first failure: not there"),
                "error: a.io/b:1: stopped at the first failure: not there\n",
                2,
            ),
            (
                failed("a.io/b:1", ErrorKind::Storage, "d: disk full", None),
                ended(ErrorKind::Storage, "d: disk full"),
                "error: the run could not go on: d: disk full\n",
                3,
            ),
            (image("nginx", Status::Saved), ended(ErrorKind::Cancelled, "interrupted"), "", 2),
        ] {
            let mut report = report(vec![given_up(), cause, given_up()]);
            report.aborted = aborted;
            assert_eq!(of_report(&report, false, Paint(false)), "");
            let told = format!("{last}not finished: {left} images; the same command goes on from here\n");
            assert_eq!(last_words(&report, super::super::words::SAVING, Paint(false)), told);
            let table = summary::of_report(&report, super::super::words::SAVING);
            assert!(table.contains(&format!("not finished     {left}\n")), "{table}");
        }
    }
}
