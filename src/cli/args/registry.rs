//! How registries are reached, and with which credentials.

// These comments are help texts first: `HOST[:PORT]` is no link.
#![allow(rustdoc::broken_intra_doc_links)]

use super::bytes::bytes;
use super::tree::local_path;
use clap::ArgAction;
use std::path::PathBuf;
use std::time::Duration;

/// How registries are reached, and with which credentials.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Registries")]
pub(crate) struct RegistryArgs {
    /// User name for the one registry that is used; needs --password-stdin
    ///
    /// For several registries use docker login, --authfile or, where lists are read, a YAML list.
    #[arg(long, value_name = "NAME")]
    pub(crate) username: Option<String>,
    /// Read the password from stdin
    #[arg(long)]
    pub(crate) password_stdin: bool,
    /// Read credentials from FILE (Docker's config.json or containers' auth.json)
    #[arg(long, value_name = "FILE")]
    pub(crate) authfile: Option<PathBuf>,
    /// Use HTTP instead of HTTPS for HOST[:PORT]; may be repeated
    #[arg(long, value_name = "HOST", action = ArgAction::Append, value_delimiter = ',')]
    pub(crate) plain_http: Vec<String>,
    /// Skip certificate verification for HOST[:PORT]; may be repeated
    #[arg(long, value_name = "HOST", action = ArgAction::Append, value_delimiter = ',')]
    pub(crate) insecure_tls: Vec<String>,
    /// Trust the certificate authorities in FILE (PEM) as well; may be repeated
    #[arg(long, value_name = "FILE", action = ArgAction::Append)]
    pub(crate) ca_file: Vec<PathBuf>,
    /// Read certificates from DIR, laid out like /etc/docker/certs.d; may be repeated
    #[arg(long, value_name = "DIR", action = ArgAction::Append, value_parser = local_path())]
    pub(crate) cert_dir: Vec<PathBuf>,
    /// Try mirrors before HOST, in order; may be repeated
    #[arg(long, value_name = "HOST=URL[,URL]", action = ArgAction::Append)]
    pub(crate) mirror: Vec<String>,
    /// Retries of a failed request; progress resets the count
    #[arg(long, value_name = "N", default_value = "7", value_parser = retries)]
    pub(crate) retries: u32,
    /// Time limit of the whole command: 90s, 15m, 2h [default: none]
    ///
    /// The command then stops as if it had been interrupted, with exit code 3.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Time limit for connecting to a registry: 10s, 1m
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = duration)]
    pub(crate) connect_timeout: Duration,
    /// Time without a byte after which a request is retried: 30s, 2m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) idle_timeout: Duration,
    /// Limit of the throughput in bytes per second, with K, M or G: 500K, 10M [default: none]
    ///
    /// All transfers of the command share it, downloads and uploads together.
    #[arg(long, value_name = "RATE", value_parser = bytes)]
    pub(crate) limit_rate: Option<u64>,
}

/// The longest time that is accepted: a year.
const MAX_SECONDS: f64 = 365.0 * 24.0 * 3600.0;

/// Parses `90`, `90s`, `1.5m`, `2h` or `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err("write a number of seconds, or a time such as 90s, 15m or 2h".to_owned()),
    };
    let seconds = number.parse::<f64>().map(|number| number * factor);
    match seconds {
        Ok(seconds) if seconds > 0.0 && seconds <= MAX_SECONDS => Ok(Duration::from_secs_f64(seconds)),
        Ok(_) => Err("a time above 0 and up to a year is needed".to_owned()),
        Err(_) => Err("write a number of seconds, or a time such as 90s, 15m or 2h".to_owned()),
    }
}

/// The value of `--retries`.
fn retries(text: &str) -> Result<u32, String> {
    let number = text.parse::<u32>().ok().filter(|number| *number <= 100);
    number.ok_or_else(|| "a number from 0 to 100 is needed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_number_and_a_unit() {
        for (text, expected) in [
            ("30", Some(30_000)),
            ("30s", Some(30_000)),
            ("1.5m", Some(90_000)),
            ("2h", Some(7_200_000)),
            ("250ms", Some(250)),
            ("0", None),
            ("-1s", None),
            ("s", None),
            ("1 day", None),
            ("1e9h", None),
            ("9999999h", None),
            ("", None),
        ] {
            let parsed = duration(text).ok();
            assert_eq!(parsed.map(|time| time.as_millis()), expected, "{text}");
        }
    }
}
