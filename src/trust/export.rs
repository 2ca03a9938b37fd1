//! Gathers what a policy names, for a place without these files.

use super::policy::Policy;
use super::{PolicyOptions, TrustRoot, base64, invalid, read_file};
use crate::error::Result;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The fields that name a file, and those that hold its content instead.
const FILES: [(&str, &str); 5] = [
    ("keyPath", "keyData"),
    ("rekorPublicKeyPath", "rekorPublicKeyData"),
    ("caPath", "caData"),
    ("caRootsPath", "caRootsData"),
    ("caIntermediatesPath", "caIntermediatesData"),
];
const FILE_LISTS: [(&str, &str); 2] =
    [("keyPaths", "keyDatas"), ("rekorPublicKeyPaths", "rekorPublicKeyDatas")];

/// The policy `path` with the content of the files that its `sigstoreSigned` requirements name, in place of their paths. What
/// saver cannot check (`signedBy`) is left as it is.
///
/// # Errors
/// As [`Policy::read`]; `InvalidInput` if a file cannot be read.
pub fn embed_files(path: impl AsRef<Path>, trusted_root: Option<&TrustRoot>) -> Result<String> {
    let path = path.as_ref();
    let options = PolicyOptions { trusted_root: trusted_root.cloned(), ..PolicyOptions::default() };
    Policy::read(path, &options)?;
    let mut policy: Value = serde_json::from_slice(&read_file(path)?)
        .map_err(|error| invalid(path.display(), format!("invalid signature policy: {error}")))?;
    embed(&mut policy)?;
    Ok(format!("{policy:#}\n"))
}

/// Embeds the files of all requirements below `value`.
fn embed(value: &mut Value) -> Result<()> {
    match value {
        Value::Array(items) => items.iter_mut().try_for_each(embed),
        Value::Object(fields) if fields.get("type").is_some_and(|kind| kind == "sigstoreSigned") => {
            embed_fields(fields)?;
            for nested in ["fulcio", "pki"] {
                if let Some(fields) = fields.get_mut(nested).and_then(Value::as_object_mut) {
                    embed_fields(fields)?;
                }
            }
            Ok(())
        }
        Value::Object(fields) => fields.values_mut().try_for_each(embed),
        _ => Ok(()),
    }
}

fn embed_fields(fields: &mut Map<String, Value>) -> Result<()> {
    let read = |path: &Value| -> Result<String> {
        let path = path.as_str().map(PathBuf::from).unwrap_or_default();
        Ok(base64(&read_file(&path)?))
    };
    for (path, data) in FILES {
        if let Some(file) = fields.remove(path) {
            fields.insert(data.to_owned(), json!(read(&file)?));
        }
    }
    for (paths, datas) in FILE_LISTS {
        if let Some(files) = fields.remove(paths) {
            let contents: Vec<String> =
                files.as_array().into_iter().flatten().map(read).collect::<Result<_>>()?;
            fields.insert(datas.to_owned(), json!(contents));
        }
    }
    Ok(())
}
