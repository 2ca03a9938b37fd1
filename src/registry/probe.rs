//! Detects whether a server speaks TLS, by sending a ClientHello.
//!
//! A TLS server answers with a handshake or alert record (RFC 8446, 5.1); a plain HTTP server answers with text or closes the
//! connection. No certificate is verified and no data is sent, so this decides only about the scheme.

use rustls::crypto::{CryptoProvider, GetRandomFailed, SecureRandom};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The protocol of a port, as far as a probe tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PortProtocol {
    /// TLS.
    Tls,
    /// Something else: for a registry, plain HTTP.
    PlainHttp,
    /// The connection was closed: probably plain HTTP, but not certain enough to remember.
    Closed,
}

/// Probes `host:port`.
///
/// # Errors
/// When connecting fails, or there is no answer within `timeout`.
pub(super) async fn probe(host: &str, port: u16, timeout: Duration) -> io::Result<PortProtocol> {
    let hello = client_hello(host)?;
    let exchange = async {
        let mut stream = TcpStream::connect((host, port)).await?;
        stream.write_all(&hello).await?;
        let mut first = [0];
        match stream.read(&mut first).await {
            Ok(0) => Ok(PortProtocol::Closed),
            Ok(_) => Ok(classify(first[0])),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(PortProtocol::Closed),
            Err(error) => Err(error),
        }
    };
    tokio::time::timeout(timeout, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// By the first byte of the answer: 21 is an alert record, 22 a handshake record.
fn classify(first: u8) -> PortProtocol {
    if matches!(first, 21 | 22) { PortProtocol::Tls } else { PortProtocol::PlainHttp }
}

/// Random bytes for a ClientHello that no key is derived from: they need not be secret. The TLS library's own generator takes
/// 30 ms to initialise, which a run over plain HTTP would not need otherwise.
#[derive(Debug)]
struct InsecureRandom;

impl SecureRandom for InsecureRandom {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        fastrand::fill(bytes);
        Ok(())
    }
}

/// A TLS 1.2 ClientHello: one of TLS 1.3 would need a key share. A TLS 1.3 server refuses it with an alert, which suffices.
fn client_hello(host: &str) -> io::Result<Vec<u8>> {
    let provider =
        CryptoProvider { secure_random: &InsecureRandom, ..rustls::crypto::aws_lc_rs::default_provider() };
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .map_err(io::Error::other)?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut hello = Vec::new();
    connection.write_tls(&mut hello)?;
    Ok(hello)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn answer(bytes: &'static [u8]) -> PortProtocol {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello = [0; 5];
            stream.read_exact(&mut hello).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            hello[0]
        });
        let speaks = probe("127.0.0.1", port, Duration::from_secs(20)).await.unwrap();
        assert_eq!(server.await.unwrap(), 22, "not a handshake record");
        speaks
    }

    #[tokio::test]
    async fn probe_distinguishes_tls_from_text() {
        assert_eq!(answer(b"\x16\x03\x03").await, PortProtocol::Tls);
        assert_eq!(answer(b"\x15\x03\x03").await, PortProtocol::Tls);
        assert_eq!(answer(b"HTTP/1.0 400 Bad Request\r\n").await, PortProtocol::PlainHttp);
        assert_eq!(answer(b"").await, PortProtocol::Closed);
    }

    #[tokio::test]
    async fn tls_1_3_server_speaks_tls() {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            assert!(acceptor.accept(stream).await.is_err(), "the server accepted TLS 1.2");
        });
        assert_eq!(probe("127.0.0.1", port, Duration::from_secs(20)).await.unwrap(), PortProtocol::Tls);
        server.await.unwrap();
    }

    #[tokio::test]
    async fn refused_connection_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let error = probe("127.0.0.1", port, Duration::from_secs(20)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
