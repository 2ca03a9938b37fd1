//! The result of a run as Markdown, for the job summary of a CI system.

use super::failures::FailedImage;
use super::output::{clean, count, size, time};
use super::wording::Wording;
use crate::transfer::{Report, Status};
use std::time::Duration;

/// The maximum number of rows of each table: GitHub refuses summaries of more than 1 MiB.
const MAX_ROWS: usize = 200;

/// A summary of a run.
pub(crate) fn of_report(report: &Report, wording: Wording) -> String {
    let mut facts = vec![format!("{} {}", count(report.done(), "image"), wording.done)];
    for (status, word) in
        [(Status::Unchanged, "unchanged"), (Status::Skipped, "skipped"), (Status::Failed, "failed")]
    {
        let number = report.count(status);
        if number > 0 {
            facts.push(format!("{number} {word}"));
        }
    }
    facts.push(format!("{} {}", size(report.bytes_fetched), wording.moved));
    facts.push(time(Duration::from_secs_f64(report.seconds)));
    let mut text = format!("### saver {}\n\n{}\n", wording.verb_name, facts.join(", "));
    if let Some(ended) = &report.aborted {
        text.push_str(&format!("\n**The run ended early:** {}\n", escaped(&ended.message)));
    }
    let failed = FailedImage::of_report(report);
    let rows = failed.iter().map(|image| [image.reference.to_string(), image.reason()]);
    text.push_str(&table(["Failed", "Reason"], failed.len(), rows));
    let done: Vec<_> = report.images.iter().filter(|image| image.status.is_done()).collect();
    let rows = done.iter().map(|image| {
        let digest = image.digest.map_or_else(String::new, |digest| digest.to_string());
        [image.reference.to_string(), digest]
    });
    text.push_str(&table([&capitalized(wording.done), "Digest"], done.len(), rows));
    text.push('\n');
    text
}

/// A table of `length` rows; nothing if there are none.
fn table(heads: [&str; 2], length: usize, rows: impl Iterator<Item = [String; 2]>) -> String {
    if length == 0 {
        return String::new();
    }
    let mut text = format!("\n| {} | {} |\n|---|---|\n", heads[0], heads[1]);
    for [name, more] in rows.take(MAX_ROWS) {
        text.push_str(&format!("| {} | {} |\n", escaped(&name), escaped(&more)));
    }
    if length > MAX_ROWS {
        text.push_str(&format!("\nand {} more\n", length - MAX_ROWS));
    }
    text
}

/// Text from elsewhere that Markdown shows as it is.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in clean(text).chars() {
        if c.is_ascii_punctuation() && !matches!(c, '/' | ':' | '.' | ',' | '-' | '@') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + chars.as_str())
}

#[cfg(test)]
mod tests {
    use super::super::tables::tests::image;
    use super::super::wording::SAVING;
    use super::*;
    use crate::error::{Error, ErrorKind, ErrorReport};

    fn report() -> Report {
        let mut failed = image("quay.io/team/b:1", Status::Failed);
        let error = Error::new(ErrorKind::NotFound, &failed.reference, "no <img src=x> | such\ntag `x`");
        failed.error = Some(ErrorReport::from(&error));
        Report {
            schema: Report::SCHEMA,
            images: vec![image("quay.io/team/a:1", Status::Saved), failed],
            bytes_fetched: 1_230_000,
            bytes_reused: 0,
            seconds: 2.0,
            aborted: None,
        }
    }

    #[test]
    fn text_from_elsewhere_stays_in_its_cell() {
        let text = of_report(&report(), SAVING);
        assert!(
            text.starts_with("### saver save\n\n1 image saved, 1 failed, 1.23 MB downloaded, 2.0s\n"),
            "{text}"
        );
        let row = "| quay.io/team/b:1 | no \\<img src\\=x\\> \\| such tag \\`x\\` |\n";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("| Saved | Digest |\n|---|---|\n| quay.io/team/a:1 | "), "{text}");
    }

    #[test]
    fn long_tables_are_cut() {
        let mut report = report();
        report.images =
            (0..=MAX_ROWS).map(|number| image(&format!("a.io/b:{number}"), Status::Saved)).collect();
        let text = of_report(&report, SAVING);
        assert_eq!(text.matches("| a.io/b:").count(), MAX_ROWS);
        assert!(text.contains("\nand 1 more\n"), "{text}");
    }
}
