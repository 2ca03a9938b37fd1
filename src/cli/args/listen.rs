//! The addresses that servers listen on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Parses `ADDRESS:PORT`, `:PORT` (every address), `localhost:PORT` or `PORT` (loopback).
pub(crate) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("localhost", text));
    let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let why = if is_number {
        "the port must be at most 65535"
    } else {
        "write ADDRESS:PORT, :PORT for every address, or PORT for loopback"
    };
    let port = port.parse::<u16>().map_err(|_| why.to_owned())?;
    let ip = match host {
        "" | "*" => Ipv4Addr::UNSPECIFIED,
        "localhost" => Ipv4Addr::LOCALHOST,
        _ => {
            return Err(format!(
                "'{host}' is not an IP address (write 127.0.0.1, 0.0.0.0, [::1] or localhost)"
            ));
        }
    };
    Ok(SocketAddr::new(IpAddr::V4(ip), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_are_accepted() {
        for (text, expected) in [
            ("127.0.0.1:5000", Some("127.0.0.1:5000")),
            ("[::1]:5000", Some("[::1]:5000")),
            (":5000", Some("0.0.0.0:5000")),
            ("*:5000", Some("0.0.0.0:5000")),
            ("localhost:5000", Some("127.0.0.1:5000")),
            ("5000", Some("127.0.0.1:5000")),
            ("0", Some("127.0.0.1:0")),
            ("70000", None),
            ("example.org:5000", None),
            ("127.0.0.1", None),
            ("::1", None),
            ("", None),
            (":", None),
            ("a:b", None),
        ] {
            let parsed = socket_address(text).ok().map(|address| address.to_string());
            assert_eq!(parsed.as_deref(), expected, "{text}");
        }
    }
}
