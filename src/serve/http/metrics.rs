//! Counters of requests, in the Prometheus text format.

use super::access_log::AccessRecord;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// The upper bounds of the duration histogram, in milliseconds.
const BUCKETS: [u64; 8] = [1, 5, 25, 100, 500, 2_500, 10_000, 60_000];
/// The methods that are counted by name. Clients choose the method, so others are counted together.
const METHODS: [&str; 2] = ["GET", "HEAD"];

/// The content type of the text format.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Counts finished requests.
#[derive(Default)]
pub(super) struct Metrics(Mutex<Counters>);

#[derive(Default)]
struct Counters {
    /// Requests by method and status.
    requests: BTreeMap<(&'static str, u16), u64>,
    bytes: u64,
    /// Requests by the first bucket that they fit; the last has no bound.
    durations: [u64; BUCKETS.len() + 1],
    total_duration: Duration,
}

impl Metrics {
    pub(super) fn record(&self, record: &AccessRecord) {
        let method = METHODS.into_iter().find(|method| *method == record.method).unwrap_or("other");
        let millis = record.duration.as_millis();
        let bucket = BUCKETS.iter().position(|bound| millis <= u128::from(*bound)).unwrap_or(BUCKETS.len());
        let mut counters = self.0.lock();
        *counters.requests.entry((method, record.status)).or_default() += 1;
        counters.bytes += record.bytes;
        counters.durations[bucket] += 1;
        counters.total_duration += record.duration;
    }

    /// All counters as text.
    pub(super) fn render(&self) -> String {
        let counters = self.0.lock();
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, samples: String| {
            // Writing to a string does not fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}");
        };
        let version = env!("CARGO_PKG_VERSION");
        family(
            "saver_build_info",
            "gauge",
            "The version of saver.",
            format!("saver_build_info{{version=\"{version}\"}} 1\n"),
        );
        let requests = counters.requests.iter().map(|((method, status), count)| {
            format!("saver_http_requests_total{{method=\"{method}\",status=\"{status}\"}} {count}\n")
        });
        family("saver_http_requests_total", "counter", "Finished requests.", requests.collect());
        family(
            "saver_http_response_bytes_total",
            "counter",
            "Bytes of response bodies.",
            format!("saver_http_response_bytes_total {}\n", counters.bytes),
        );
        let mut cumulative = 0;
        let mut histogram = String::new();
        for (bucket, count) in counters.durations.iter().enumerate() {
            cumulative += count;
            let bound = BUCKETS.get(bucket).map(|millis| (*millis as f64 / 1000.0).to_string());
            let bound = bound.unwrap_or_else(|| "+Inf".to_owned());
            let _ = writeln!(
                histogram,
                "saver_http_request_duration_seconds_bucket{{le=\"{bound}\"}} {cumulative}"
            );
        }
        let sum = counters.total_duration.as_secs_f64();
        let _ = writeln!(histogram, "saver_http_request_duration_seconds_sum {sum}");
        let _ = writeln!(histogram, "saver_http_request_duration_seconds_count {cumulative}");
        family(
            "saver_http_request_duration_seconds",
            "histogram",
            "Time from a request to the end of its response.",
            histogram,
        );
        text
    }
}
