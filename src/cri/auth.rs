//! Converts the `AuthConfig` of a pull to a credential.

use super::proto::AuthConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Registry;
use crate::registry::{Credential, Secret};
use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The credential for `registry`; `None` if there is none, or if it is for another server.
///
/// # Errors
/// `InvalidInput` for an `auth` field that cannot be decoded. The message does not contain its value.
pub(super) fn credential(auth: Option<&AuthConfig>, registry: &Registry) -> Result<Option<Credential>> {
    let Some(auth) = auth else { return Ok(None) };
    if !auth.server_address.is_empty() && server(&auth.server_address).as_ref() != Some(registry) {
        return Ok(None);
    }
    let basic = |user: &str, password: &str| Credential::Basic {
        username: user.to_owned(),
        password: Secret::new(password),
    };
    Ok(if !auth.username.is_empty() {
        Some(basic(&auth.username, &auth.password))
    } else if !auth.identity_token.is_empty() {
        Some(Credential::IdentityToken(Secret::new(&auth.identity_token)))
    } else if !auth.registry_token.is_empty() {
        Some(Credential::RegistryToken(Secret::new(&auth.registry_token)))
    } else if !auth.auth.is_empty() {
        let invalid = || Error::new(ErrorKind::InvalidInput, "auth", "not user:password in base64");
        let text = BASE64.decode(auth.auth.trim()).map_err(|_| invalid())?;
        let text = String::from_utf8(text).map_err(|_| invalid())?;
        // Docker for Windows appends a NUL.
        let (user, password) = text.trim_end_matches('\0').split_once(':').ok_or_else(invalid)?;
        Some(basic(user, password))
    } else {
        None
    })
}

/// The registry of a server address, which is a host or a URL such as `https://index.docker.io/v1/`.
fn server(address: &str) -> Option<Registry> {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split('/').next()?;
    let registry: Registry = host.parse().ok()?;
    let default = if address.starts_with("http://") { ":80" } else { ":443" };
    match registry.as_str().strip_suffix(default) {
        Some(bare) if address.contains("://") => bare.parse().ok(),
        _ => Some(registry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(auth: &AuthConfig, registry: &str) -> Option<Credential> {
        credential(Some(auth), &registry.parse().unwrap()).unwrap()
    }

    #[test]
    fn every_credential_form_is_read() {
        let ann = Some(Credential::Basic { username: "ann".into(), password: Secret::new("s:x") });
        let plain = AuthConfig { username: "ann".into(), password: "s:x".into(), ..Default::default() };
        assert_eq!(of(&plain, "a.io"), ann);
        for encoded in ["YW5uOnM6eA==", "YW5uOnM6eA", "YW5uOnM6eAA="] {
            assert_eq!(
                of(&AuthConfig { auth: encoded.into(), ..Default::default() }, "a.io"),
                ann,
                "{encoded}"
            );
        }
        let token = AuthConfig { identity_token: "t".into(), ..Default::default() };
        assert_eq!(of(&token, "a.io"), Some(Credential::IdentityToken(Secret::new("t"))));
        let token = AuthConfig { registry_token: "t".into(), ..Default::default() };
        assert_eq!(of(&token, "a.io"), Some(Credential::RegistryToken(Secret::new("t"))));
        assert_eq!(of(&AuthConfig::default(), "a.io"), None);
        let secret = AuthConfig { auth: "c2VjcmV0".into(), ..Default::default() };
        let error = credential(Some(&secret), &"a.io".parse().unwrap()).unwrap_err();
        assert!(!error.to_string().contains("secret") && !error.to_string().contains("c2Vj"), "{error}");
    }

    #[test]
    fn credential_of_other_server_is_ignored() {
        for (address, registry, shown) in [
            ("a.io", "a.io", true),
            ("https://a.io", "a.io", true),
            ("https://a.io:443/v2/", "a.io", true),
            ("http://a.io:80", "a.io", true),
            ("a.io:5000", "a.io:5000", true),
            ("https://index.docker.io/v1/", "docker.io", true),
            ("a.io", "a.io:5000", false),
            ("b.io", "a.io", false),
            ("https://a.io.evil", "a.io", false),
            ("a b", "a.io", false),
        ] {
            let auth = AuthConfig {
                username: "u".into(),
                password: "p".into(),
                server_address: address.into(),
                ..Default::default()
            };
            assert_eq!(of(&auth, registry).is_some(), shown, "{address} for {registry}");
        }
    }
}
