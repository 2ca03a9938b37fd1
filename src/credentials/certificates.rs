//! Certificate files, and Docker's `certs.d` layout of directories.

use crate::error::{Error, ErrorKind, Result};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fs::{self, File};
use std::io::{ErrorKind as IoErrorKind, Read};
use std::path::{Path, PathBuf};

/// The largest certificate or key file that is read, in bytes.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// The certificates of one registry.
#[derive(Default)]
pub(super) struct RegistryCertificates {
    /// Authorities to trust: PEM.
    pub(super) authorities: Vec<Vec<u8>>,
    /// The client's certificate and key: PEM, both in one.
    pub(super) identity: Option<Vec<u8>>,
}

/// Reads a registry's directory: `*.crt` are authorities, `NAME.cert` with `NAME.key` identify the client.
///
/// A directory that does not exist, or that this user may not read, has no certificates.
pub(super) fn read_directory(dir: &Path) -> Result<RegistryCertificates> {
    let mut certificates = RegistryCertificates::default();
    for path in files(dir)? {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => certificates.authorities.push(read_authorities(&path)?),
            Some("cert") if certificates.identity.is_none() => {
                certificates.identity = Some(read_identity(&path)?);
            }
            _ => {}
        }
    }
    Ok(certificates)
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    match entries {
        Ok(entries) => {
            let mut paths: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).collect();
            paths.sort();
            Ok(paths)
        }
        Err(error)
            if matches!(
                error.kind(),
                IoErrorKind::NotFound | IoErrorKind::NotADirectory | IoErrorKind::PermissionDenied
            ) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(invalid(dir, format!("cannot read the certificates: {error}"))),
    }
}

/// Reads a PEM file with at least one certificate.
pub(super) fn read_authorities(path: &Path) -> Result<Vec<u8>> {
    let pem = read_pem(path)?;
    check_ca_certificates(&pem).map_err(|why| invalid(path, why))?;
    Ok(pem)
}

/// Checks that `pem` contains at least one certificate and that all can be decoded.
fn check_ca_certificates(pem: &[u8]) -> Result<(), String> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(()),
        Ok(_) => Err("contains no certificate (-----BEGIN CERTIFICATE-----)".to_owned()),
        Err(error) => Err(format!("not valid PEM: {error}")),
    }
}

fn read_identity(path: &Path) -> Result<Vec<u8>> {
    let key = path.with_extension("key");
    if !key.exists() {
        return Err(invalid(
            path,
            format!("the client certificate has no key: {} does not exist", key.display()),
        ));
    }
    let mut identity = read_pem(path)?;
    identity.push(b'\n');
    identity.extend(read_pem(&key)?);
    Ok(identity)
}

fn read_pem(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_PEM_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|error| invalid(path, format!("cannot read the file: {error}")))?;
    if bytes.len() as u64 > MAX_PEM_BYTES {
        return Err(invalid(path, "too large for a certificate or key"));
    }
    if !bytes.windows(11).any(|window| window == b"-----BEGIN ") {
        return Err(invalid(path, "contains no PEM block (-----BEGIN ...)"));
    }
    Ok(bytes)
}

fn invalid(path: &Path, why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, path.display(), why)
}
