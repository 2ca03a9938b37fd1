//! Records of finished requests, in the formats of access logs.

use serde::Serialize;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

/// A finished request: its response was sent, or the client has gone.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AccessRecord {
    /// When the request was received.
    pub time: SystemTime,
    /// The client's address.
    pub client: SocketAddr,
    /// The authenticated user, if the server asks for credentials.
    pub user: Option<String>,
    /// The HTTP method.
    pub method: String,
    /// The path and query, as sent.
    pub target: String,
    /// The HTTP version, such as `HTTP/1.1`.
    pub protocol: String,
    /// The status of the response.
    pub status: u16,
    /// The bytes of the response body that were handed to the connection.
    pub bytes: u64,
    /// The time until the end of the response.
    pub duration: Duration,
    /// The `User-Agent` header.
    pub user_agent: Option<String>,
}

impl AccessRecord {
    /// The record as a line of the Common Log Format, without the line end.
    #[must_use]
    pub fn to_common(&self) -> String {
        let time = DateTime::from(self.time);
        format!(
            "{} - {} [{:02}/{}/{}:{:02}:{:02}:{:02} +0000] \"{} {} {}\" {} {}",
            self.client.ip(),
            self.user.as_deref().map_or_else(|| "-".to_owned(), escape),
            time.day,
            MONTHS[time.month - 1],
            time.year,
            time.hour,
            time.minute,
            time.second,
            escape(&self.method),
            escape(&self.target),
            self.protocol,
            self.status,
            self.bytes,
        )
    }

    /// The record as a JSON object in one line, without the line end.
    #[must_use]
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            time: String,
            client: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            user: Option<&'a str>,
            method: &'a str,
            target: &'a str,
            protocol: &'a str,
            status: u16,
            bytes: u64,
            duration_ms: f64,
            #[serde(skip_serializing_if = "Option::is_none")]
            user_agent: Option<&'a str>,
        }
        let line = Line {
            time: DateTime::from(self.time).to_string(),
            client: self.client.ip().to_string(),
            user: self.user.as_deref(),
            method: &self.method,
            target: &self.target,
            protocol: &self.protocol,
            status: self.status,
            bytes: self.bytes,
            duration_ms: self.duration.as_micros() as f64 / 1000.0,
            user_agent: self.user_agent.as_deref(),
        };
        let json = serde_json::to_string(&line).unwrap_or_default();
        // Escapes are valid inside JSON strings, which is the only place where these characters can be.
        json.chars().fold(String::with_capacity(json.len()), |mut text, c| {
            if c.is_ascii() && c != '\u{7f}' {
                text.push(c);
            } else {
                let mut units = [0; 2];
                text.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
            }
            text
        })
    }
}

/// Escapes what could end the field or the line, or control a terminal.
fn escape(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut escaped, byte| {
        match byte {
            b'"' | b'\\' => escaped.extend(['\\', char::from(byte)]),
            0x21..=0x7e => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("\\x{byte:02x}")),
        }
        escaped
    })
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A moment in UTC, to the millisecond.
pub(crate) struct DateTime {
    year: u64,
    month: usize,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    millisecond: u32,
}

impl From<SystemTime> for DateTime {
    fn from(time: SystemTime) -> Self {
        let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = since_epoch.as_secs();
        // Howard Hinnant's civil_from_days: years that start in March, in eras of 400 years.
        let days = seconds / 86_400 + 719_468;
        let era = days / 146_097;
        let day_of_era = days % 146_097;
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month: usize::try_from(month).unwrap_or(1),
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
            hour: seconds / 3600 % 24,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            millisecond: since_epoch.subsec_millis(),
        }
    }
}

impl fmt::Display for DateTime {
    /// RFC 3339.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day, hour, minute, second, millisecond } = self;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> AccessRecord {
        AccessRecord {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(951_782_400_123),
            client: "[2001:db8::1]:4711".parse().unwrap(),
            user: Some("ann \"x\"".into()),
            method: "GET".into(),
            target: "/v2/a\"b\\/é".into(),
            protocol: "HTTP/1.1".into(),
            status: 200,
            bytes: 17,
            duration: Duration::from_micros(1500),
            user_agent: Some("containerd/2.0\u{7f}\u{202e}".into()),
        }
    }

    #[test]
    fn common_log_format_is_escaped() {
        assert_eq!(
            record().to_common(),
            r#"2001:db8::1 - ann\x20\"x\" [29/Feb/2000:00:00:00 +0000] "GET /v2/a\"b\\/\xc3\xa9 HTTP/1.1" 200 17"#
        );
        let anonymous = AccessRecord { user: None, ..record() };
        assert!(anonymous.to_common().starts_with("2001:db8::1 - - ["));
    }

    #[test]
    fn json_line_keeps_every_value() {
        let text = record().to_json();
        assert!(text.is_ascii() && !text.contains(['\n', '\u{7f}']), "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["time"], "2000-02-29T00:00:00.123Z");
        assert_eq!((&line["target"], &line["duration_ms"]), (&record().target.into(), &1.5.into()));
        assert_eq!(line["user_agent"], record().user_agent.unwrap());
    }

    #[test]
    fn dates_are_those_of_httpdate() {
        for seconds in [0, 86_399, 86_400, 951_782_400, 1_709_164_800, 1_735_689_599, 4_102_444_800] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let date = DateTime::from(time);
            let text = httpdate::fmt_http_date(time);
            let expected = format!(
                "{:02} {} {:04} {:02}:{:02}:{:02}",
                date.day,
                MONTHS[date.month - 1],
                date.year,
                date.hour,
                date.minute,
                date.second
            );
            assert!(text.contains(&expected), "{text} {expected}");
        }
    }
}
