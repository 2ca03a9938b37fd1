//! A token server as docker-registry's token authentication expects it: the registry answers 401
//! and names this server's realm, the client fetches a signed token here, the registry checks it.
//! (distribution's "Token Authentication Specification" and "Token Authentication Implementation".)

use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, KeyPair, SigningKey as _};
use serde_json::json;

use super::registry::TokenAuth;

const SERVICE: &str = "sample-registry";
const ISSUER: &str = "sample-issuer";

/// Who gets tokens, and for how long they are good.
pub(crate) struct TokenOptions {
    /// The one user and password; None gives everybody a token.
    pub(crate) user: Option<(&'static str, &'static str)>,
    /// Of a token. The registry itself is lenient by a minute.
    pub(crate) lifetime: Duration,
}

/// A running token server. Its thread lives as long as the test's process.
pub(crate) struct TokenServer {
    realm: String,
    certificates: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
}

impl TokenServer {
    /// Starts a server; the certificate that registries need is written to `dir`.
    pub(crate) fn start(dir: &Path, options: TokenOptions) -> Self {
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::default().self_signed(&key).expect("a certificate");
        let certificates = dir.join("token.crt");
        std::fs::write(&certificates, certificate.pem()).expect("a PEM file");

        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let realm = format!("http://{}/token", listener.local_addr().expect("bound"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let signer = Signer { key, certificate: BASE64_STANDARD.encode(certificate.der()) };
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // A client that goes away in mid-request is its own business.
                let _ = answer(stream, &signer, &options, &log);
            }
        });
        Self { realm, certificates, asked }
    }

    /// What a registry needs to trust this server.
    pub(crate) fn auth(&self) -> TokenAuth {
        TokenAuth {
            realm: self.realm.clone(),
            service: SERVICE.to_owned(),
            issuer: ISSUER.to_owned(),
            certificates: self.certificates.clone(),
        }
    }

    /// The query of every request so far, refused ones included.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("not poisoned").clone()
    }
}

struct Signer {
    key: KeyPair,
    certificate: String,
}

impl Signer {
    /// A JSON Web Token (RFC 7519) signed with ES256 (RFC 7518, 3.4).
    fn sign(&self, claims: &serde_json::Value) -> String {
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [self.certificate]});
        let part = |value: &serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self.key.sign(signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(fixed_size(&signature)))
    }
}

/// Turns an ECDSA signature of P-256 from DER (SEQUENCE of two INTEGERs) to r and s of 32 bytes
/// each, which is how a token has it.
fn fixed_size(der: &[u8]) -> [u8; 64] {
    let mut fixed = [0; 64];
    let mut rest = &der[2..];
    for half in fixed.chunks_exact_mut(32) {
        let (number, after) = rest[2..].split_at(usize::from(rest[1]));
        let number = &number[number.len().saturating_sub(32)..];
        half[32 - number.len()..].copy_from_slice(number);
        rest = after;
    }
    fixed
}

/// Answers one request and closes the connection.
fn answer(
    mut stream: TcpStream,
    signer: &Signer,
    options: &TokenOptions,
    asked: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let mut credentials = None;
    for line in lines {
        let line = line?;
        match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                credentials = Some(value.to_owned());
            }
            _ if line.is_empty() => break,
            _ => {}
        }
    }
    let target = request.split(' ').nth(1).unwrap_or_default();
    let url = url::Url::parse("http://token").and_then(|base| base.join(target));
    let Ok(url) = url else { return Ok(()) };
    asked.lock().expect("not poisoned").push(url.query().unwrap_or_default().to_owned());

    let wanted = options.user.map(|(user, password)| BASE64_STANDARD.encode(format!("{user}:{password}")));
    let (status, body) = match wanted {
        Some(wanted) if credentials != Some(format!("Basic {wanted}")) => {
            ("401 Unauthorized", json!({"details": "incorrect username or password"}))
        }
        _ => ("200 OK", token(signer, &url, options.lifetime)),
    };
    let body = body.to_string();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
}

/// A token for the scopes that were asked for; pulls and pushes are granted.
fn token(signer: &Signer, url: &url::Url, lifetime: Duration) -> serde_json::Value {
    let access: Vec<_> = url
        .query_pairs()
        .filter(|(name, _)| name == "scope")
        .flat_map(|(_, scopes)| scopes.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|scope| {
            let (kind, rest) = scope.split_once(':')?;
            let (name, asked) = rest.rsplit_once(':')?;
            let granted = |action: &&str| matches!(*action, "pull" | "push");
            let actions: Vec<&str> =
                if kind == "registry" { vec!["*"] } else { asked.split(',').filter(granted).collect() };
            Some(json!({"type": kind, "name": name, "actions": actions}))
        })
        .collect();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let claims = json!({
        "iss": ISSUER, "sub": "", "aud": SERVICE, "jti": "1",
        "iat": now, "nbf": now, "exp": now + lifetime.as_secs(), "access": access,
    });
    json!({"token": signer.sign(&claims), "expires_in": lifetime.as_secs()})
}
