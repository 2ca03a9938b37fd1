//! What is printed when a run has ended.

use super::output::{self, Paint, clean, count, size, table, time};
use crate::copy::{Failure, ImagePlan, Plan, Report, Status};
use crate::error::ErrorKind;
use std::time::Duration;

const STATUSES: [(Status, &str); 4] = [
    (Status::Saved, "saved"),
    (Status::Unchanged, "unchanged"),
    (Status::Skipped, "skipped"),
    (Status::Failed, "failed"),
];

/// The closing table of a run.
pub(super) fn of_report(report: &Report) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let left = report.images.iter().filter(|image| is_given_up(image.error.as_ref())).count();
    for (status, word) in STATUSES {
        let given_up = if status == Status::Failed { left } else { 0 };
        let number = report.count(status).saturating_sub(given_up);
        if number > 0 || matches!(status, Status::Saved | Status::Unchanged | Status::Failed) {
            rows.push(vec![word.into(), number.to_string()]);
        }
    }
    if left > 0 {
        rows.push(vec!["given up".into(), left.to_string()]);
    }
    rows.push(vec!["fetched".into(), size(report.bytes_fetched)]);
    rows.push(vec!["shared".into(), size(report.bytes_reused)]);
    rows.push(vec!["time".into(), time(Duration::try_from_secs_f64(report.seconds).unwrap_or_default())]);
    if report.bytes_fetched > 0 && report.seconds > 0.0 {
        let rate = (report.bytes_fetched as f64 / report.seconds) as u64;
        rows.push(vec!["rate".into(), format!("{}/s", size(rate))]);
    }
    table(&["images", &report.images.len().to_string()], &[false, true], &rows)
}

/// Whether an image was not saved only because the run ended: by whatever ended it, or by the disk, which is told of the run, once.
pub(super) fn is_given_up(failure: Option<&Failure>) -> bool {
    failure.is_some_and(|failure| matches!(failure.kind, ErrorKind::Cancelled | ErrorKind::Storage))
}

/// Each failure with its reason and what to try, then what else is worth knowing.
pub(super) fn troubles(report: &Report, quiet: bool, paint: Paint) -> String {
    let rows = report.images.iter();
    let failed = rows.clone().filter(|image| image.status == Status::Failed);
    let (given_up, failed): (Vec<_>, Vec<_>) = failed.partition(|image| is_given_up(image.error.as_ref()));
    let failed = failed.into_iter();
    let failures = failed.map(|image| (image.reference.to_string(), image.error.as_ref()));
    let mut text = failure_lines(failures, paint);
    if !given_up.is_empty() {
        let told = count(given_up.len(), "image");
        text.push_str(&format!("{} {told}: the run ended before\n", paint.yellow("not saved:")));
    }
    if !quiet {
        let skipped = rows.clone().filter(|image| image.status == Status::Skipped);
        let why = skipped.filter_map(|image| Some((&image.reference, &image.error.as_ref()?.message)));
        let told = rows.flat_map(|image| image.warnings.iter().map(move |text| (&image.reference, text)));
        for (reference, message) in why.chain(told) {
            text.push_str(&warning_line(&reference.to_string(), message, paint));
        }
    }
    if let Some(aborted) = &report.aborted {
        text.push_str(&format!(
            "{} {}\n",
            paint.red("error: the run could not go on:"),
            clean(&aborted.message)
        ));
        if let Some(hint) = &aborted.hint {
            text.push_str(&format!("  hint: {}\n", clean(hint)));
        }
    }
    text
}

fn warning_line(reference: &str, message: &str, paint: Paint) -> String {
    let place = if message.contains(reference) { String::new() } else { format!("{}: ", clean(reference)) };
    format!("{} {place}{}\n", paint.yellow("warning:"), clean(message))
}

fn failure_lines<'a>(failed: impl Iterator<Item = (String, Option<&'a Failure>)>, paint: Paint) -> String {
    let mut text = String::new();
    for (reference, failure) in failed {
        let (message, hint) = match failure {
            Some(failure) => (failure.message.as_str(), failure.hint.as_deref()),
            None => ("it was not saved", None),
        };
        let message = message.strip_prefix(&format!("{reference}: ")).unwrap_or(message);
        text.push_str(&format!("{} {}\n  {}\n", paint.red("failed:"), clean(&reference), clean(message)));
        if let Some(hint) = hint {
            text.push_str(&format!("  hint: {}\n", clean(hint)));
        }
    }
    text
}

/// What a dry run says of each image and of all.
pub(super) fn of_plan(plan: &Plan, free: Option<u64>) -> String {
    let row = |image: &ImagePlan| {
        let what = match image.status {
            Status::Saved | Status::WouldSave => "fetch",
            Status::Unchanged => "unchanged",
            Status::Skipped => "skip",
            Status::Failed => "fail",
        };
        vec![
            clean(&image.reference.to_string()).into_owned(),
            what.into(),
            clean(&image.platforms.join(",")).into_owned(),
            size(image.fetch_bytes),
            size(image.reuse_bytes),
        ]
    };
    let mut rows: Vec<Vec<String>> = plan.images.iter().map(row).collect();
    rows.push(vec![
        count(plan.images.len(), "image"),
        String::new(),
        String::new(),
        size(plan.fetch_bytes),
        size(plan.reuse_bytes),
    ]);
    let heads = ["image", "would", "platforms", "to fetch", "there or shared"];
    let mut text = table(&heads, &[false, false, false, true, true], &rows);
    if let Some(free) = free {
        text.push_str(&format!("free space: {}\n", output::size(free)));
    }
    text
}

/// The failures and warnings of a dry run.
pub(super) fn plan_troubles(plan: &Plan, quiet: bool, paint: Paint) -> String {
    let failed = plan.images.iter().filter(|image| image.status == Status::Failed);
    let mut text =
        failure_lines(failed.map(|image| (image.reference.to_string(), image.error.as_ref())), paint);
    for image in plan.images.iter().filter(|_| !quiet) {
        for message in &image.warnings {
            text.push_str(&warning_line(&image.reference.to_string(), message, paint));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::ImageReport;
    use crate::oci::Reference;

    fn image(name: &str, status: Status, message: Option<&str>) -> ImageReport {
        let reference = Reference::parse(name).unwrap();
        let error = message.map(|message| Failure {
            kind: ErrorKind::Unauthorized,
            message: message.to_owned(),
            hint: Some("docker login a.io".into()),
        });
        ImageReport {
            repository: reference.repository.clone(),
            tag: reference.tag.clone(),
            reference,
            status,
            digest: None,
            source_digest: None,
            replaced: None,
            platforms: Vec::new(),
            bytes_fetched: 0,
            bytes_reused: 0,
            attempts: 1,
            seconds: 1.0,
            error,
            warnings: vec!["the tag moved \x1b[31m".to_owned()],
        }
    }

    #[test]
    fn the_table_and_the_failures_read_well() {
        let report = Report {
            schema: Report::SCHEMA,
            images: vec![
                image("nginx", Status::Saved, None),
                image("a.io/b:1", Status::Failed, Some("a.io/b:1: access denied \u{202e}")),
            ],
            bytes_fetched: 12_000_000,
            bytes_reused: 0,
            seconds: 4.0,
            aborted: None,
        };
        assert_eq!(
            of_report(&report),
            "images             2\nsaved              1\nunchanged          0\nfailed             1\n\
             fetched      12.0 MB\nshared           0 B\ntime            4.0s\nrate       3.00 MB/s\n"
        );
        assert_eq!(
            troubles(&report, false, Paint(false)),
            "failed: a.io/b:1\n  access denied \\u{202e}\n  hint: docker login a.io\n\
             warning: docker.io/library/nginx:latest: the tag moved \\u{1b}[31m\n\
             warning: a.io/b:1: the tag moved \\u{1b}[31m\n"
        );
        assert!(!troubles(&report, true, Paint(false)).contains("warning"));

        let mut ended = report.clone();
        ended.images[1].error.as_mut().unwrap().kind = ErrorKind::Cancelled;
        assert!(of_report(&ended).contains("given up           1\n"), "{}", of_report(&ended));
        assert!(
            troubles(&ended, true, Paint(false)).starts_with("not saved: 1 image: the run ended before\n")
        );
    }
}
