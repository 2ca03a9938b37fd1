//! The result of a run as metrics for the textfile collector of Prometheus' node exporter.

use super::wording::Wording;
use crate::transfer::{Report, Status};
use std::time::{SystemTime, UNIX_EPOCH};

/// The metrics of a run that ended at `now`, in the text format of Prometheus (version 0.0.4). Names and units follow its
/// conventions; there is no label with text from elsewhere.
pub(crate) fn of_report(report: &Report, wording: Wording, now: SystemTime) -> String {
    let verb = wording.verb_name;
    let unfinished = super::failures::unfinished(report);
    let results = [
        (wording.done, report.done()),
        ("unchanged", report.count(Status::Unchanged)),
        ("skipped", report.count(Status::Skipped)),
        ("failed", report.count(Status::Failed) - unfinished.min(report.count(Status::Failed))),
        ("unfinished", unfinished),
    ];
    let mut text = String::new();
    let mut metric = |name: &str, help: &str, samples: &[(String, f64)]| {
        text.push_str(&format!("# HELP saver_{name} {help}\n# TYPE saver_{name} gauge\n"));
        for (labels, value) in samples {
            text.push_str(&format!("saver_{name}{{verb=\"{verb}\"{labels}}} {value}\n"));
        }
    };
    let one = |value: f64| [(String::new(), value)];
    let images: Vec<(String, f64)> =
        results.map(|(result, count)| (format!(",result=\"{result}\""), count as f64)).into();
    metric("images", "Images of the last run, by result.", &images);
    metric("transferred_bytes", "Bytes transferred by the last run.", &one(report.bytes_fetched as f64));
    metric(
        "reused_bytes",
        "Bytes that the last run did not have to transfer.",
        &one(report.bytes_reused as f64),
    );
    metric("duration_seconds", "Duration of the last run.", &one(report.seconds));
    let success = u8::from(report.is_success());
    metric("success", "Whether every image of the last run succeeded.", &one(f64::from(success)));
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    metric("last_run_timestamp_seconds", "When the last run ended.", &one(seconds as f64));
    text
}

#[cfg(test)]
mod tests {
    use super::super::tables::tests::image;
    use super::super::wording::SAVING;
    use super::*;
    use std::time::Duration;

    #[test]
    fn metrics_have_every_result() {
        let report = Report {
            schema: Report::SCHEMA,
            images: vec![
                image("a", Status::Saved),
                image("b", Status::Failed),
                image("c", Status::Unchanged),
            ],
            bytes_fetched: 5_000_000_000,
            bytes_reused: 7,
            seconds: 1.5,
            aborted: None,
        };
        let text = of_report(&report, SAVING, UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "saver_images{verb=\"save\",result=\"saved\"} 1",
                "saver_images{verb=\"save\",result=\"unchanged\"} 1",
                "saver_images{verb=\"save\",result=\"skipped\"} 0",
                "saver_images{verb=\"save\",result=\"failed\"} 1",
                "saver_images{verb=\"save\",result=\"unfinished\"} 0",
                "saver_transferred_bytes{verb=\"save\"} 5000000000",
                "saver_reused_bytes{verb=\"save\"} 7",
                "saver_duration_seconds{verb=\"save\"} 1.5",
                "saver_success{verb=\"save\"} 0",
                "saver_last_run_timestamp_seconds{verb=\"save\"} 1800000000",
            ]
        );
        assert_eq!(text.matches("# TYPE ").count(), 6);
    }
}
