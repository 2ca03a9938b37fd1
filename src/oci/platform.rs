//! Platforms and how one is chosen from an index.
//!
//! Names and their normal forms follow OCI image-index.md ("platform") and Go's GOOS/GOARCH;
//! the variants taken as default (arm is v7, arm64 is v8, amd64 is v1) are containerd's.

use super::descriptor::Descriptor;
use crate::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What a manifest runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Platform {
    /// The operating system, as GOOS has it.
    #[serde(default)]
    pub os: String,
    /// The processor architecture, as GOARCH has it.
    #[serde(default)]
    pub architecture: String,
    /// The architecture's variant, such as `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The operating system's version (Windows).
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
}

impl Platform {
    /// A platform of this system and architecture, without a variant.
    #[must_use]
    pub fn new(os: &str, architecture: &str) -> Self {
        Self { os: os.to_owned(), architecture: architecture.to_owned(), variant: None, os_version: None }
    }

    /// Parses `ARCH`, `ARCH/VARIANT`, `OS/ARCH` or `OS/ARCH/VARIANT`; a missing system is `default_os`.
    ///
    /// # Errors
    /// `InvalidInput` for anything else.
    pub fn parse(text: &str, default_os: &str) -> Result<Self> {
        let refuse = |why: String| {
            Error::new(ErrorKind::InvalidInput, format!("platform {text:?}"), why)
                .with_hint("write amd64, arm64, arm/v7, linux/arm64/v8, a comma list of these, or all")
        };
        let lower = text.trim().to_ascii_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        if parts.iter().any(|part| {
            part.is_empty() || !part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        }) {
            return Err(refuse("has an empty part or a character that no platform has".into()));
        }
        let (os, architecture, variant) = match *parts.as_slice() {
            [architecture] => (default_os, architecture, None),
            [architecture, variant] if is_variant(variant) => (default_os, architecture, Some(variant)),
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => return Err(refuse("has more than three parts".into())),
        };
        let mut platform = Self::new(os, architecture);
        platform.variant = variant.map(str::to_owned);
        let platform = platform.normal();
        if ARCHITECTURES.contains(&platform.architecture.as_str()) {
            Ok(platform)
        } else {
            Err(refuse(format!("the architecture {:?} is not known", platform.architecture)))
        }
    }

    /// The same platform with aliases resolved (x86_64 is amd64, aarch64 is arm64, armhf is arm/v7) and
    /// the default variant left out.
    #[must_use]
    pub fn normal(&self) -> Self {
        let (architecture, implied) = match self.architecture.to_ascii_lowercase().as_str() {
            "x86_64" | "x86-64" => ("amd64".to_owned(), None),
            "aarch64" => ("arm64".to_owned(), None),
            "armhf" => ("arm".to_owned(), Some("v7")),
            "armel" => ("arm".to_owned(), Some("v6")),
            "i386" | "i486" | "i586" | "i686" => ("386".to_owned(), None),
            other => (other.to_owned(), None),
        };
        let variant =
            self.variant.clone().filter(|variant| !variant.is_empty()).or(implied.map(str::to_owned));
        let variant =
            variant.map(|v| if v.starts_with(|c: char| c.is_ascii_digit()) { format!("v{v}") } else { v });
        let variant = variant.filter(|variant| default_variant(&architecture) != Some(variant.as_str()));
        let os = match self.os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        Self { os, architecture, variant, os_version: self.os_version.clone() }
    }

    /// Whether this is the placeholder that attestations carry.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" || self.architecture == "unknown"
    }

    /// How well `offered` serves someone who asked for `self`: `None` not at all, else higher is
    /// nearer. A processor also runs code for lower variants of its own architecture.
    fn fit(&self, offered: &Self) -> Option<u32> {
        let (asked, offered) = (self.normal(), offered.normal());
        if asked.os != offered.os || asked.architecture != offered.architecture {
            return None;
        }
        if asked.variant == offered.variant {
            return Some(u32::MAX);
        }
        let level = |platform: &Self| {
            let variant = platform.variant.as_deref().or(default_variant(&platform.architecture))?;
            variant.strip_prefix('v')?.parse::<u32>().ok()
        };
        let (asked, offered) = (level(&asked)?, level(&offered)?);
        (offered < asked).then_some(offered)
    }
}

/// The architectures that Go knows, which are those that images use.
const ARCHITECTURES: &[&str] = &[
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le",
    "riscv64", "s390x", "wasm",
];

fn is_variant(text: &str) -> bool {
    let digits = text.strip_prefix('v').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) && !ARCHITECTURES.contains(&text)
}

fn default_variant(architecture: &str) -> Option<&'static str> {
    match architecture {
        "amd64" => Some("v1"),
        "arm64" => Some("v8"),
        "arm" => Some("v7"),
        _ => None,
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// The platforms asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlatformSet {
    /// Every platform there is.
    #[default]
    All,
    /// These only.
    Only(Vec<Platform>),
}

impl PlatformSet {
    /// Parses a comma list of platforms, or `all`; a missing system is `default_os`.
    ///
    /// # Errors
    /// `InvalidInput` for an empty list or a bad platform.
    pub fn parse(text: &str, default_os: &str) -> Result<Self> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("all") {
            return Ok(Self::All);
        }
        let mut platforms = Vec::new();
        for part in text.split(',') {
            let platform = Platform::parse(part, default_os)?;
            if !platforms.contains(&platform) {
                platforms.push(platform);
            }
        }
        Ok(Self::Only(platforms))
    }

    /// The entries of an index that serve this set, in the index's order, and the platforms that nothing serves.
    ///
    /// Entries without a platform are nested indexes or artifacts: they are always kept. Where one asked
    /// platform is served by several variants, the nearest is taken. Attestations (unknown/unknown)
    /// are never chosen here.
    #[must_use]
    pub fn choose<'a>(&self, entries: &'a [Descriptor]) -> (Vec<&'a Descriptor>, Vec<Platform>) {
        let Self::Only(asked) = self else {
            let all = entries.iter().filter(|entry| !is_attestation(entry)).collect();
            return (all, Vec::new());
        };
        let mut keep = vec![false; entries.len()];
        let mut missing = Vec::new();
        for platform in asked {
            let fits: Vec<Option<u32>> =
                entries.iter().map(|entry| platform.fit(entry.platform.as_ref()?)).collect();
            match fits.iter().flatten().max() {
                Some(best) => {
                    fits.iter().zip(&mut keep).for_each(|(fit, keep)| *keep |= fit.as_ref() == Some(best))
                }
                None => missing.push(platform.clone()),
            }
        }
        let chosen = entries.iter().zip(keep).filter(|(entry, keep)| *keep || entry.platform.is_none());
        (chosen.map(|(entry, _)| entry).collect(), missing)
    }

    /// Whether an image of `platform` (from its configuration) is among those asked for.
    #[must_use]
    pub fn accepts(&self, platform: &Platform) -> bool {
        match self {
            Self::All => true,
            Self::Only(asked) => asked.iter().any(|asked| asked.fit(platform).is_some()),
        }
    }
}

fn is_attestation(entry: &Descriptor) -> bool {
    entry.platform.as_ref().is_some_and(Platform::is_unknown)
}

impl fmt::Display for PlatformSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Only(platforms) => {
                for (index, platform) in platforms.iter().enumerate() {
                    write!(f, "{}{platform}", if index == 0 { "" } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

impl FromStr for PlatformSet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text, "linux")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    #[test]
    fn parses_every_written_form() {
        for (text, expect) in [
            ("amd64", "linux/amd64"),
            ("x86_64", "linux/amd64"),
            ("arm64", "linux/arm64"),
            ("arm64/v8", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("arm/v7", "linux/arm"),
            ("arm/6", "linux/arm/v6"),
            ("armhf", "linux/arm"),
            ("windows/amd64", "windows/amd64"),
            ("386", "linux/386"),
            ("linux/386", "linux/386"),
            ("AMD64", "linux/amd64"),
        ] {
            assert_eq!(Platform::parse(text, "linux").unwrap().to_string(), expect, "{text}");
        }
        for bad in ["", "amd65", "linux/", "a/b/c/d", "linux/amd64/v1/x", "amd 64"] {
            assert!(Platform::parse(bad, "linux").is_err(), "{bad}");
        }
        assert_eq!(PlatformSet::parse("all", "linux").unwrap(), PlatformSet::All);
        assert_eq!(
            PlatformSet::parse("amd64,arm64/v8, amd64", "linux").unwrap().to_string(),
            "linux/amd64,linux/arm64"
        );
        assert!(PlatformSet::parse("amd64,,arm64", "linux").is_err());
    }

    fn entry(platform: &str) -> Descriptor {
        let mut entry = Descriptor::new("", Digest::of(platform.as_bytes()), 1);
        let parts: Vec<&str> = platform.split('/').collect();
        if parts.len() > 1 {
            let mut platform = Platform::new(parts[0], parts[1]);
            platform.variant = parts.get(2).map(|v| (*v).to_owned());
            entry.platform = Some(platform);
        }
        entry
    }

    #[test]
    fn chooses_the_nearest_variant() {
        for (asked, offered, expect) in [
            ("amd64", "linux/amd64 linux/arm64 unknown/unknown", "linux/amd64"),
            ("arm64", "linux/amd64 linux/arm64/v8", "linux/arm64/v8"),
            ("arm64/v8", "linux/arm64", "linux/arm64"),
            ("arm/v7", "linux/arm/v5 linux/arm/v6 linux/arm/v7", "linux/arm/v7"),
            ("arm/v7", "linux/arm/v5 linux/arm/v6", "linux/arm/v6"),
            ("arm/v6", "linux/arm/v7 linux/arm/v6", "linux/arm/v6"),
            ("amd64", "linux/amd64 linux/amd64/v3", "linux/amd64"),
            ("amd64,arm64", "linux/arm64 linux/amd64 linux/386", "linux/arm64 linux/amd64"),
            ("all", "linux/arm64 linux/amd64 unknown/unknown", "linux/arm64 linux/amd64"),
            ("windows/amd64", "linux/amd64 windows/amd64", "windows/amd64"),
        ] {
            let entries: Vec<Descriptor> = offered.split(' ').map(entry).collect();
            let (chosen, missing) = PlatformSet::parse(asked, "linux").unwrap().choose(&entries);
            let chosen: Vec<Digest> = chosen.iter().map(|entry| entry.digest).collect();
            let expect: Vec<Digest> =
                expect.split(' ').map(|platform| Digest::of(platform.as_bytes())).collect();
            assert_eq!(chosen, expect, "{asked} from {offered}");
            assert!(missing.is_empty());
        }
        let entries = [entry("linux/arm/v7"), entry("nested")];
        let (chosen, missing) = PlatformSet::parse("arm/v6,s390x", "linux").unwrap().choose(&entries);
        assert_eq!(chosen.len(), 1);
        assert_eq!(missing.len(), 2);
    }
}
