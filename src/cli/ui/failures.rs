//! The failures and warnings of a run or a dry run, as they are printed at its end: what has the same cause is printed once.

use super::output::{Label, Paint, clean, count};
use super::wording::Wording;
use crate::error::{Detail, ErrorKind, ErrorReport};
use crate::oci::{Reference, Repository, Tag};
use crate::transfer::{ImagePlan, ImageReport, Plan, Report, Status};

/// An image that failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FailedImage<'a> {
    /// Its row, counted from 0, which is that of its list entry too.
    pub(crate) row: usize,
    /// The image as requested.
    pub(crate) reference: &'a Reference,
    /// Its name at the destination.
    pub(crate) repository: &'a Repository,
    pub(crate) tag: Option<&'a Tag>,
    /// Why it failed.
    pub(crate) error: Option<&'a ErrorReport>,
}

impl<'a> FailedImage<'a> {
    /// The failed images of a run, in the order of its rows.
    pub(crate) fn of_report(report: &'a Report) -> Vec<Self> {
        let failed = |(row, image): (usize, &'a ImageReport)| Self {
            row,
            reference: &image.reference,
            repository: &image.repository,
            tag: image.tag.as_ref(),
            error: image.error.as_ref(),
        };
        let rows = report.images.iter().enumerate();
        rows.filter(|(_, image)| image.status == Status::Failed).map(failed).collect()
    }

    /// The failed images of a dry run, in the order of its rows.
    pub(crate) fn of_plan(plan: &'a Plan) -> Vec<Self> {
        let failed = |(row, image): (usize, &'a ImagePlan)| Self {
            row,
            reference: &image.reference,
            repository: &image.repository,
            tag: image.tag.as_ref(),
            error: image.error.as_ref(),
        };
        let rows = plan.images.iter().enumerate();
        rows.filter(|(_, image)| image.status == Status::Failed).map(failed).collect()
    }

    /// Why it failed, without the image's name.
    pub(crate) fn reason(&self) -> String {
        let Some(error) = self.error else { return "not finished".to_owned() };
        if error.subject.is_empty() || error.subject == self.reference.to_string() {
            error.reason().to_owned()
        } else {
            error.message.clone()
        }
    }
}

/// Whether an image is unfinished only because the run ended: it was cancelled, or the disk failed, which is printed once for the run.
pub(crate) fn is_unfinished(failure: Option<&ErrorReport>) -> bool {
    failure.is_some_and(|failure| matches!(failure.kind, ErrorKind::Cancelled | ErrorKind::Storage))
}

/// How many images are unfinished only because the run ended.
pub(crate) fn unfinished(report: &Report) -> usize {
    report.images.iter().filter(|image| is_unfinished(image.error.as_ref())).count()
}

/// The failures and warnings of a run.
pub(crate) fn of_report(report: &Report, is_quiet: bool, paint: Paint) -> String {
    let mut failed = FailedImage::of_report(report);
    failed.retain(|image| !is_in_conclusion(image, report));
    let mut text = failure_text(&failed, paint);
    if is_quiet {
        return text;
    }
    let mut warnings = Groups::default();
    for image in &report.images {
        if let Some(error) = image.error.as_ref().filter(|_| image.status == Status::Skipped) {
            warnings.add(Cause::of(error), &image.reference);
        }
        for message in &image.warnings {
            warnings.add(Cause::of_text(message), &image.reference);
        }
    }
    text.push_str(&warnings.text(Label::Warning, paint));
    text
}

/// Whether `conclusion` covers this image: it is unfinished, or its failure ended the run.
fn is_in_conclusion(image: &FailedImage<'_>, report: &Report) -> bool {
    let ended_run = |ended: &ErrorReport| ended.subject == image.reference.to_string();
    is_unfinished(image.error) || report.aborted.as_ref().is_some_and(ended_run)
}

/// What ended the run, and how many images are unfinished.
pub(crate) fn conclusion(report: &Report, wording: Wording, paint: Paint) -> String {
    let mut text = String::new();
    if let Some(ended) = report.aborted.as_ref().filter(|ended| ended.kind != ErrorKind::Cancelled) {
        let mut message = match ended.kind {
            ErrorKind::Storage => format!("the run cannot continue: {}", clean(&ended.message)),
            _ => clean(&ended.message).into_owned(),
        };
        if let Some(hint) = &ended.hint {
            message.push_str(&format!("\n  hint: {}", clean(hint)));
        }
        text.push_str(&paint.message(Label::Error, &message));
    }
    let unfinished = unfinished(report);
    if unfinished > 0 {
        let message = format!("{}; {}", count(unfinished, "image"), wording.unfinished);
        text.push_str(&paint.message(Label::Unfinished, &message));
    }
    text
}

/// The failures and warnings of a dry run, and how many images it did not get to.
pub(crate) fn of_plan(plan: &Plan, is_quiet: bool, paint: Paint) -> String {
    let failed = FailedImage::of_plan(plan);
    let (unfinished, failed): (Vec<_>, Vec<_>) =
        failed.into_iter().partition(|image| is_unfinished(image.error));
    let mut text = failure_text(&failed, paint);
    if !unfinished.is_empty() {
        text.push_str(&paint.message(Label::Unfinished, &count(unfinished.len(), "image")));
    }
    if !is_quiet {
        let mut warnings = Groups::default();
        for image in &plan.images {
            for message in &image.warnings {
                warnings.add(Cause::of_text(message), &image.reference);
            }
        }
        text.push_str(&warnings.text(Label::Warning, paint));
    }
    text
}

fn failure_text(failed: &[FailedImage<'_>], paint: Paint) -> String {
    let mut groups = Groups::default();
    for image in failed {
        groups.add(image.error.map_or_else(|| Cause::of_text("not finished"), Cause::of), image.reference);
    }
    groups.text(Label::Failed, paint)
}

/// What images have to have in common to be printed under one reason.
#[derive(Debug, PartialEq)]
struct Cause {
    kind: Option<ErrorKind>,
    summary: String,
    detail: Option<Detail>,
    hint: Option<String>,
}

impl Cause {
    fn of(error: &ErrorReport) -> Self {
        let detail = error.detail.clone().map(without_path);
        // Without facts, the whole reason is what two failures have to share.
        let summary = if detail.is_some() { error.summary.clone() } else { error.reason().to_owned() };
        Self { kind: Some(error.kind), summary, detail, hint: error.hint.clone() }
    }

    fn of_text(text: &str) -> Self {
        Self { kind: None, summary: text.to_owned(), detail: None, hint: None }
    }

    fn text(&self) -> String {
        let detail = self.detail.as_ref().map(ToString::to_string).unwrap_or_default();
        match (self.summary.is_empty(), detail.is_empty()) {
            (false, false) => format!("{}: {detail}", self.summary),
            (true, false) => detail,
            (_, true) => self.summary.clone(),
        }
    }
}

/// The detail with a URL's origin instead of a manifest's URL, which says no more than the image's name.
fn without_path(mut detail: Detail) -> Detail {
    if let Detail::Http { url, .. } = &mut detail
        && let Ok(parsed) = url::Url::parse(url)
        && parsed.path().contains("/manifests/")
    {
        *url = parsed.origin().ascii_serialization();
    }
    detail
}

/// Images by cause, in the order in which the causes first occurred.
#[derive(Default)]
struct Groups<'a>(Vec<(Cause, Vec<&'a Reference>)>);

impl<'a> Groups<'a> {
    fn add(&mut self, cause: Cause, reference: &'a Reference) {
        match self.0.iter_mut().find(|(known, _)| *known == cause) {
            Some((_, references)) => references.push(reference),
            None => self.0.push((cause, vec![reference])),
        }
    }

    /// A cause of one image is a line; one of several images is a line with their names below it.
    fn text(&self, label: Label, paint: Paint) -> String {
        let mut text = String::new();
        for (cause, references) in &self.0 {
            let reason = cause.text();
            let mut message = String::new();
            if let [reference] = references.as_slice() {
                let name = reference.to_string();
                let name = if reason.contains(&name) { String::new() } else { format!("{}: ", clean(&name)) };
                message.push_str(&format!("{name}{}\n", clean(&reason)));
            } else {
                let images = count(references.len(), "image");
                message.push_str(&format!("{images}: {}\n", clean(&reason)));
                for reference in references {
                    message.push_str(&format!("  {}\n", clean(&reference.to_string())));
                }
            }
            if let Some(hint) = &cause.hint {
                message.push_str(&format!("  hint: {}\n", clean(hint)));
            }
            text.push_str(&paint.message(label, &message));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::tables::{self, tests::image};
    use super::super::wording::SAVING;
    use super::*;
    use crate::error::{Error, Phase, RegistryError};

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
    fn failures_with_one_cause_are_grouped() {
        let denied = ErrorKind::Unauthorized;
        let login = Some("docker login a.io");
        let mut moved = image("nginx", Status::Saved);
        moved.warnings.push("the tag moved \x1b[31m".to_owned());
        let report = report(vec![
            failed("a.io/b:1", denied, "access denied \u{202e}", login),
            failed("b.io/b:1", ErrorKind::NotFound, "no such tag", None),
            failed("a.io/d:1", denied, "access denied \u{202e}", login),
            failed("a.io/e:1", ErrorKind::NotFound, "access denied \u{202e}", login),
            moved,
        ]);
        let failures = "failed: 2 images: access denied \\u{202e}\n  a.io/b:1\n  a.io/d:1\n  hint: docker login a.io\n\
                        failed: b.io/b:1: no such tag\n\
                        failed: a.io/e:1: access denied \\u{202e}\n  hint: docker login a.io\n";
        assert_eq!(of_report(&report, true, Paint::Plain), failures);
        let warning = "warning: docker.io/library/nginx:latest: the tag moved \\u{1b}[31m\n";
        assert_eq!(of_report(&report, false, Paint::Plain), format!("{failures}{warning}"));
        assert_eq!(conclusion(&report, SAVING, Paint::Plain), "");
    }

    fn response(url: String, status: u16) -> Detail {
        let errors = vec![RegistryError { code: "NAME_UNKNOWN".into(), message: "unknown".into() }];
        Detail::Http { url, phase: Phase::Headers, status: Some(status), errors, web_page: false }
    }

    #[test]
    fn responses_are_compared_without_the_manifest_path() {
        let row = |number: usize| {
            let mut row = image(&format!("r.io/team/s{number}:1"), Status::Failed);
            let status = if number == 3 { 500 } else { 404 };
            let url = format!("https://r.io/v2/team/s{number}/manifests/1");
            let error = Error::new(ErrorKind::NotFound, &row.reference, "the repository does not exist")
                .with_detail(response(url, status))
                .with_hint("check the name");
            row.error = Some(ErrorReport::from(&error));
            row
        };
        let text = of_report(&report((0..4).map(row).collect()), false, Paint::Plain);
        assert_eq!(
            text,
            "failed: 3 images: the repository does not exist: https://r.io returned 404 Not Found: NAME_UNKNOWN: unknown\n  \
             r.io/team/s0:1\n  r.io/team/s1:1\n  r.io/team/s2:1\n  hint: check the name\n\
             failed: r.io/team/s3:1: the repository does not exist: https://r.io returned 500 Internal Server Error: \
             NAME_UNKNOWN: unknown\n  hint: check the name\n"
        );
    }

    #[test]
    fn cause_of_the_end_is_printed_once_and_last() {
        let ended =
            |kind, subject: &str, message: &str| Some(ErrorReport::from(&Error::new(kind, subject, message)));
        let unfinished = || failed("a.io/z:1", ErrorKind::Cancelled, "the run ended before", None);
        for (cause, aborted, last, number) in [
            (
                failed("a.io/b:1", ErrorKind::NotFound, "no such tag", None),
                ended(ErrorKind::NotFound, "a.io/b:1", "stopped at the first failure: no such tag"),
                "error: a.io/b:1: stopped at the first failure: no such tag\n",
                2,
            ),
            (
                failed("a.io/b:1", ErrorKind::Storage, "d: disk full", None),
                ended(ErrorKind::Storage, "d", "disk full"),
                "error: the run cannot continue: d: disk full\n",
                3,
            ),
            (image("nginx", Status::Saved), ended(ErrorKind::Cancelled, "", "interrupted"), "", 2),
        ] {
            let mut report = report(vec![unfinished(), cause, unfinished()]);
            report.aborted = aborted;
            assert_eq!(of_report(&report, false, Paint::Plain), "");
            let expected =
                format!("{last}not finished: {number} images; run the same command again to resume\n");
            assert_eq!(conclusion(&report, SAVING, Paint::Plain), expected);
            let table = tables::of_report(&report, SAVING);
            assert!(table.contains(&format!("not finished     {number}\n")), "{table}");
        }
    }
}
