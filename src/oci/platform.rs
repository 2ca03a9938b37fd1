//! Platforms and how one is chosen from an index.
//!
//! Names and their normal forms follow OCI image-index.md ("platform") and Go's GOOS/GOARCH;
//! the variants taken as default (arm is v7, arm64 is v8, amd64 is v1) are containerd's.

use super::json::{StringList, or_default};
use crate::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::str::FromStr;

/// The platform that an image runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Platform {
    /// The operating system, a GOOS value.
    #[serde(default)]
    pub os: String,
    /// The CPU architecture, a GOARCH value.
    #[serde(default)]
    pub architecture: String,
    /// The architecture's variant, such as `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The version of the operating system, such as `10.0.20348.2227`; images for Windows have one.
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
}

/// The fields of a platform that distribution and containerd unmarshal, those that saver has no use for included.
#[derive(Default, Deserialize)]
#[serde(default)]
struct PlatformDocument {
    #[serde(deserialize_with = "or_default")]
    os: String,
    #[serde(deserialize_with = "or_default")]
    architecture: String,
    variant: Option<String>,
    #[serde(rename = "os.version")]
    os_version: Option<String>,
    #[serde(deserialize_with = "or_default", rename = "os.features")]
    _os_features: StringList,
    #[serde(deserialize_with = "or_default", rename = "features")]
    _features: StringList,
}

impl<'de> Deserialize<'de> for Platform {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let PlatformDocument { os, architecture, variant, os_version, .. } =
            PlatformDocument::deserialize(from)?;
        Ok(Self { os, architecture, variant, os_version })
    }
}

impl Platform {
    /// A platform of this system and architecture, without a variant.
    #[must_use]
    pub fn new(os: &str, architecture: &str) -> Self {
        Self { os: os.to_owned(), architecture: architecture.to_owned(), variant: None, os_version: None }
    }

    /// The platform of this machine, for Linux containers.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self::new("linux", architecture).normal()
    }

    /// Parses `ARCH`, `ARCH/VARIANT`, `OS/ARCH` or `OS/ARCH/VARIANT`; `OS(VERSION)/ARCH` also selects the version of
    /// the operating system, as containerd writes it. A missing OS is `default_os`.
    ///
    /// # Errors
    /// `InvalidInput` for anything else.
    pub fn parse(text: &str, default_os: &str) -> Result<Self> {
        let refuse = |why: String| {
            Error::new(ErrorKind::InvalidInput, format!("platform {text:?}"), why).with_hint(
                "write amd64, arm64, arm/v7, linux/arm64/v8, windows(10.0.20348)/amd64, a comma-separated list, or all",
            )
        };
        let lower = text.trim().to_ascii_lowercase();
        let (lower, os_version) = match lower.split_once('(') {
            None => (lower, None),
            Some((os, rest)) => match rest.split_once(")/") {
                Some((version, rest)) if !os.is_empty() && is_version(version) => {
                    (format!("{os}/{rest}"), Some(version.to_owned()))
                }
                _ => return Err(refuse("an OS version is written as in windows(10.0.20348)/amd64".into())),
            },
        };
        let parts: Vec<&str> = lower.split('/').collect();
        if parts.iter().any(|part| {
            part.is_empty() || !part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        }) {
            return Err(refuse("it has an empty part or an invalid character".into()));
        }
        let (os, architecture, variant) = match *parts.as_slice() {
            [architecture] => (default_os, architecture, None),
            [architecture, variant] if is_variant(variant) => (default_os, architecture, Some(variant)),
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => return Err(refuse("it has more than three parts".into())),
        };
        let mut platform = Self::new(os, architecture);
        platform.variant = variant.map(str::to_owned);
        platform.os_version = os_version;
        let platform = platform.normal();
        if ARCHITECTURES.contains(&platform.architecture.as_str()) {
            Ok(platform)
        } else {
            Err(refuse(format!("unknown architecture {:?}", platform.architecture)))
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

    /// Whether this names no platform: the placeholder `unknown/unknown` of attestations and artifacts, or a missing OS or
    /// architecture. What names no platform is not filtered by platform.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        let is_unknown = |part: &str| part.is_empty() || part == "unknown";
        is_unknown(&self.os) || is_unknown(&self.architecture)
    }

    /// The same platform without the version of its operating system.
    #[must_use]
    pub fn without_os_version(&self) -> Self {
        Self { os_version: None, ..self.clone() }
    }

    /// How well `offered` matches the requested platform `self`: `None` if it does not, else higher is better. A CPU also
    /// runs code for lower variants of its architecture.
    pub(super) fn fit(&self, offered: &Self) -> Option<u32> {
        let (asked, offered) = (self.normal(), offered.normal());
        if asked.os != offered.os || asked.architecture != offered.architecture {
            return None;
        }
        if let Some(version) = &asked.os_version {
            // 10.0.20348 matches 10.0.20348.2227: the last part is the update, which hosts do not insist on.
            let rest = offered.os_version.as_deref()?.strip_prefix(version.as_str())?;
            if !rest.is_empty() && !rest.starts_with('.') {
                return None;
            }
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

fn is_version(text: &str) -> bool {
    !text.is_empty()
        && text.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

/// The GOARCH values.
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
        match &self.os_version {
            Some(version) => write!(f, "{}({version})/{}", self.os, self.architecture)?,
            None => write!(f, "{}/{}", self.os, self.architecture)?,
        }
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// The requested platforms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlatformSet {
    /// Every platform.
    #[default]
    All,
    /// These platforms only.
    Only(Vec<Platform>),
}

impl PlatformSet {
    /// Parses a comma-separated list of platforms, or `all`; a missing OS is `default_os`.
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

    /// Whether an image for `platform` is among the requested ones; always true for a platform that is not named.
    #[must_use]
    pub fn accepts(&self, platform: &Platform) -> bool {
        match self {
            Self::All => true,
            Self::Only(asked) => {
                platform.is_unknown() || asked.iter().any(|asked| asked.fit(platform).is_some())
            }
        }
    }

    /// The position in `offered` of the one platform that a container runtime would run: the best match and, among equal
    /// ones, the first, as containerd and Docker do.
    #[must_use]
    pub fn runnable(&self, offered: &[Platform]) -> Option<usize> {
        let fit = |platform: &Platform| match self {
            Self::All => Some(0),
            Self::Only(asked) => asked.iter().filter_map(|asked| asked.fit(platform)).max(),
        };
        let fits = offered.iter().enumerate().filter_map(|(at, platform)| Some((at, fit(platform)?)));
        fits.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(at, _)| at)
    }
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
    use super::super::Descriptor;
    use super::*;
    use crate::oci::Digest;

    #[test]
    fn platform_of_this_machine_is_valid() {
        let platform = Platform::of_this_machine();
        assert_eq!(Platform::parse(&platform.to_string(), "linux").unwrap(), platform);
    }

    #[test]
    fn platform_text_parses_to_its_normal_form() {
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
            ("windows(10.0.20348)/amd64", "windows(10.0.20348)/amd64"),
            ("Windows(10.0.17763.1)/x86_64", "windows(10.0.17763.1)/amd64"),
            ("386", "linux/386"),
            ("linux/386", "linux/386"),
            ("AMD64", "linux/amd64"),
        ] {
            assert_eq!(Platform::parse(text, "linux").unwrap().to_string(), expect, "{text}");
        }
        for bad in [
            "",
            "amd65",
            "linux/",
            "a/b/c/d",
            "linux/amd64/v1/x",
            "amd 64",
            "windows()/amd64",
            "(1)/amd64",
            "windows(1/amd64",
            "windows(1a)/amd64",
        ] {
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
            let (os, version) = match parts[0].split_once('(') {
                Some((os, version)) => (os, Some(version.trim_end_matches(')').to_owned())),
                None => (parts[0], None),
            };
            let mut platform = Platform::new(os, parts[1]);
            platform.os_version = version;
            platform.variant = parts.get(2).map(|v| (*v).to_owned());
            entry.platform = Some(platform);
        }
        entry
    }

    #[test]
    fn platform_set_selects_the_closest_variant() {
        for (asked, offered, expect) in [
            ("amd64", "linux/amd64 linux/arm64 unknown/unknown", "linux/amd64 unknown/unknown"),
            ("arm64", "linux/amd64 linux/arm64/v8", "linux/arm64/v8"),
            ("arm64/v8", "linux/arm64", "linux/arm64"),
            ("arm/v7", "linux/arm/v5 linux/arm/v6 linux/arm/v7", "linux/arm/v7"),
            ("arm/v7", "linux/arm/v5 linux/arm/v6", "linux/arm/v6"),
            ("arm/v6", "linux/arm/v7 linux/arm/v6", "linux/arm/v6"),
            ("amd64", "linux/amd64 linux/amd64/v3", "linux/amd64"),
            ("amd64,arm64", "linux/arm64 linux/amd64 linux/386", "linux/arm64 linux/amd64"),
            ("all", "linux/arm64 unknown/unknown linux/amd64", "linux/arm64 unknown/unknown linux/amd64"),
            ("s390x", "linux/arm64 unknown/unknown plain", "unknown/unknown plain"),
            (
                "windows/amd64",
                "windows(10.0.1.5)/amd64 windows(10.0.2)/amd64",
                "windows(10.0.1.5)/amd64 windows(10.0.2)/amd64",
            ),
            (
                "windows(10.0.1)/amd64",
                "windows(10.0.1.5)/amd64 windows(10.0.2)/amd64",
                "windows(10.0.1.5)/amd64",
            ),
            (
                "windows(10.0.1)/amd64",
                "windows(10.0.17)/amd64 windows/amd64 windows(10.0.1)/amd64",
                "windows(10.0.1)/amd64",
            ),
            ("windows/amd64", "linux/amd64 windows/amd64", "windows/amd64"),
        ] {
            let entries: Vec<Descriptor> = offered.split(' ').map(entry).collect();
            let chosen = PlatformSet::parse(asked, "linux").unwrap().choose(&entries);
            let chosen: Vec<Digest> = chosen.iter().map(|entry| entry.digest).collect();
            let expect: Vec<Digest> =
                expect.split(' ').map(|platform| Digest::of(platform.as_bytes())).collect();
            assert_eq!(chosen, expect, "{asked} from {offered}");
        }
        let entries = [entry("linux/arm/v7"), entry("nested")];
        let chosen = PlatformSet::parse("arm/v6,s390x", "linux").unwrap().choose(&entries);
        assert_eq!(chosen.len(), 1);
    }
}
