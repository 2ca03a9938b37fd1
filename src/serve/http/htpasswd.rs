//! Users and bcrypt password hashes in Apache's htpasswd format.

use crate::error::{Error, ErrorKind, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fmt;
use std::path::Path;

/// The size limit of a file of users, in bytes.
const MAX_FILE_SIZE: u64 = 4 << 20;
/// The highest cost that is accepted: one verification takes about ten seconds.
const MAX_COST: u32 = 17;

/// Users that may read, with their bcrypt hashes.
pub struct Htpasswd {
    hashes: HashMap<String, String>,
    /// A hash that no password matches, for unknown users: answering them faster would reveal which users exist.
    no_user: String,
    /// A salted SHA-256 of each user's last verified password. A node sends the password with every request, and bcrypt is slow
    /// by design.
    verified: Mutex<HashMap<String, [u8; 32]>>,
    salt: [u8; 32],
}

impl Htpasswd {
    /// Reads a file of `user:hash` lines; empty lines and those that start with `#` are ignored.
    ///
    /// # Errors
    /// `InvalidInput` if the file cannot be read, has no user, or has a hash that is not bcrypt.
    pub fn from_file(path: &Path) -> Result<Self> {
        let invalid = |why: String| Error::new(ErrorKind::InvalidInput, path.display(), why);
        let size = path.metadata().map_err(|error| invalid(format!("cannot read the file: {error}")))?.len();
        if size > MAX_FILE_SIZE {
            return Err(invalid(format!(
                "the file has {size} bytes, more than the maximum of {MAX_FILE_SIZE}"
            )));
        }
        let text = std::fs::read_to_string(path)
            .map_err(|error| invalid(format!("cannot read the file: {error}")))?;
        Self::parse(&text).map_err(|error| {
            invalid(error.message().to_owned()).with_hint("create entries with htpasswd -nB USER")
        })
    }

    /// Parses the content of a file.
    ///
    /// # Errors
    /// `InvalidInput` as for [`Htpasswd::from_file`].
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |why: String| Error::new(ErrorKind::InvalidInput, "htpasswd", why);
        let mut hashes = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            let number = index + 1;
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (user, hash) = line
                .split_once(':')
                .filter(|(user, _)| !user.is_empty())
                .ok_or_else(|| invalid(format!("line {number} is not user:hash")))?;
            let parts: bcrypt::HashParts = hash
                .parse()
                .map_err(|_| invalid(format!("line {number}: the hash of user {user:?} is not bcrypt")))?;
            if parts.get_cost() > MAX_COST {
                let cost = parts.get_cost();
                return Err(invalid(format!("line {number}: bcrypt cost {cost} is higher than {MAX_COST}")));
            }
            if hashes.insert(user.to_owned(), hash.to_owned()).is_some() {
                return Err(invalid(format!("line {number}: user {user:?} appears twice")));
            }
        }
        let Some(some) = hashes.values().next() else {
            return Err(invalid("the file contains no user".to_owned()));
        };
        // Another last character of the digest: the same cost, and no known password.
        let mut no_user = some.clone();
        let last = if no_user.pop() == Some('.') { 'O' } else { '.' };
        no_user.push(last);
        let mut salt = [0; 32];
        rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| Error::storage("getrandom", "read random bytes", error.into()))?;
        Ok(Self { hashes, no_user, verified: Mutex::default(), salt })
    }

    /// The user whose valid credentials an `Authorization` header has. Takes as long as bcrypt does, unless the same credentials
    /// were verified before.
    pub(super) fn authenticate(&self, header: &str) -> Option<String> {
        let (user, password) = credentials(header)?;
        let digest = self.digest(&password);
        if self.verified.lock().get(&user) == Some(&digest) {
            return Some(user);
        }
        let hash = self.hashes.get(&user);
        let matches = bcrypt::verify(&password, hash.unwrap_or(&self.no_user)).unwrap_or(false);
        if !matches || hash.is_none() {
            return None;
        }
        self.verified.lock().insert(user.clone(), digest);
        Some(user)
    }

    /// The user, if these credentials were verified before.
    pub(super) fn recall(&self, header: &str) -> Option<String> {
        let (user, password) = credentials(header)?;
        let verified = self.verified.lock();
        (verified.get(&user) == Some(&self.digest(&password))).then_some(user)
    }

    fn digest(&self, password: &[u8]) -> [u8; 32] {
        Sha256::new().chain_update(self.salt).chain_update(password).finalize().into()
    }
}

/// The user and password of a header of the Basic scheme (RFC 7617).
fn credentials(header: &str) -> Option<(String, Vec<u8>)> {
    let (scheme, encoded) = header.split_once(' ')?;
    let decoded = STANDARD.decode(encoded.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let user = String::from_utf8(decoded[..colon].to_vec()).ok()?;
    Some((user, decoded[colon + 1..].to_vec()))
}

impl fmt::Debug for Htpasswd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Htpasswd").field("users", &self.hashes.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(user: &str, password: &str) -> String {
        format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
    }

    #[test]
    fn credentials_are_verified() {
        let hash = bcrypt::hash("secret", 4).unwrap();
        let users = Htpasswd::parse(&format!("# users\n\nann:{hash}\n")).unwrap();
        for _ in 0..2 {
            assert_eq!(users.authenticate(&basic("ann", "secret")).as_deref(), Some("ann"));
            assert_eq!(users.recall(&basic("ann", "secret")).as_deref(), Some("ann"));
        }
        assert_eq!(
            users.authenticate(&basic("ann", "secret").replace("Basic", "basic")).as_deref(),
            Some("ann")
        );
        for bad in [
            basic("ann", "wrong"),
            basic("ann", ""),
            basic("bob", "secret"),
            basic("", "secret"),
            "Bearer x".into(),
            "Basic ???".into(),
            "Basic".into(),
            String::new(),
        ] {
            assert_eq!(users.authenticate(&bad), None, "{bad}");
            assert_eq!(users.recall(&bad), None, "{bad}");
        }
        assert!(!format!("{users:?}").contains("$2"));
    }

    #[test]
    fn unusable_files_are_rejected() {
        let hash = bcrypt::hash("x", 4).unwrap();
        for (text, words) in [
            (String::new(), "no user"),
            ("# only a comment\n".into(), "no user"),
            ("ann".into(), "line 1 is not user:hash"),
            (format!(":{hash}"), "line 1 is not user:hash"),
            ("ann:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=".into(), "not bcrypt"),
            ("\nann:$apr1$x$y".into(), "line 2"),
            (format!("ann:{hash}\nann:{hash}"), "appears twice"),
            (format!("ann:{}", hash.replace("$04$", "$31$")), "cost 31"),
        ] {
            let error = Htpasswd::parse(&text).unwrap_err();
            assert!(error.message().contains(words), "{error}");
        }
    }
}
