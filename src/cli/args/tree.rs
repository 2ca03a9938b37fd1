//! The directory that a command works on, and the names of images in it.

use crate::error;
use crate::save::NameRule;
use clap::builder::{PathBufValueParser, TypedValueParser};
use std::path::{Path, PathBuf};

/// `--dir` for commands that need more than a directory.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Directory")]
pub(crate) struct DirArgs {
    /// Directory of the saved images
    #[arg(long, value_name = "DIR", value_parser = local_path())]
    pub(crate) dir: Option<PathBuf>,
}

impl DirArgs {
    /// The directory.
    ///
    /// # Errors
    /// `InvalidInput` when it is not given.
    pub(crate) fn path(&self) -> error::Result<&Path> {
        self.dir.as_deref().ok_or_else(missing_dir)
    }
}

/// `--dir` for commands that need nothing else, so that the directory may also be a plain argument.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Directory")]
pub(crate) struct DirectoryArgs {
    /// The same as --dir DIR
    #[arg(value_name = "DIR", value_parser = local_path(), conflicts_with = "dir")]
    pub(crate) directory: Option<PathBuf>,
    /// The directory, by option, environment or configuration.
    #[command(flatten)]
    pub(crate) option: DirArgs,
}

impl DirectoryArgs {
    /// The directory; the plain argument wins over a setting.
    ///
    /// # Errors
    /// `InvalidInput` when it is not given.
    pub(crate) fn path(&self) -> error::Result<&Path> {
        self.directory.as_deref().map_or_else(|| self.option.path(), Ok)
    }
}

/// How images are named in the directory.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Directory")]
pub(crate) struct NamesArgs {
    /// Repository names in the directory: strip, domain, or a template with {domain} {repository} {tag}
    ///
    /// strip removes the registry's domain (library/nginx), domain keeps it (docker.io/library/nginx), and a template such as
    /// mirror/{repository} builds the name. A directory keeps the value that it was first saved with [default: strip].
    #[arg(long, value_name = "NAMES")]
    pub(crate) names: Option<String>,
}

impl NamesArgs {
    /// The rule; `None` for the one that the directory was saved with.
    ///
    /// # Errors
    /// `InvalidInput` for a template without `{repository}`.
    pub(crate) fn rule(&self) -> error::Result<Option<NameRule>> {
        self.names.as_deref().map(str::parse).transpose()
    }
}

/// Whether images from another registry or repository may replace existing tags.
#[derive(clap::Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Directory")]
pub(crate) struct ReplaceArgs {
    /// Let a tag be replaced by an image from another registry or repository
    #[arg(long)]
    pub(crate) replace: bool,
}

fn missing_dir() -> error::Error {
    super::missing_option("--dir", "add --dir DIR, the directory of the saved images")
}

/// Parses the path of a local directory or file.
pub(crate) fn local_path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| refuse_url(&path).map(|()| path))
}

/// Refuses a URL, which as a path would name a directory such as `s3:`.
pub(crate) fn refuse_url(path: &Path) -> Result<(), String> {
    match path.to_str().and_then(scheme) {
        None => Ok(()),
        Some(scheme) if scheme.eq_ignore_ascii_case("file") => {
            Err("write the path without file://".to_owned())
        }
        Some(scheme) => {
            Err(format!("{scheme}:// is not supported; a path of the local file system is needed"))
        }
    }
}

/// The scheme of a URL.
fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once("://")?;
    let mut characters = scheme.chars();
    let starts_with_letter = characters.next()?.is_ascii_alphabetic();
    let is_scheme = characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    (starts_with_letter && is_scheme).then_some(scheme)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_urls_have_a_scheme() {
        for (text, expected) in [
            ("s3://bucket/x", Some("s3")),
            ("oci-archive://x", Some("oci-archive")),
            ("File:///x", Some("File")),
            ("./s3://x", None),
            ("/a/b", None),
            ("a:b", None),
            ("://x", None),
            ("a b://x", None),
        ] {
            assert_eq!(scheme(text), expected, "{text}");
        }
    }
}
