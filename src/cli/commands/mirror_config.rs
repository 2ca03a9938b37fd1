//! `saver mirror-config`: the configuration of nodes that pull from a directory.

use crate::cli::args::missing_option;
use crate::cli::args::tree::{DirArgs, NamesArgs, local_path};
use crate::cli::context::Context;
use crate::cli::tree;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output;
use crate::error::{Error, ErrorKind, Result};
use crate::mirror_config::{
    ConfigFile, GENERATED, MAX_CA_BYTES, MirrorClient, MirrorConfig, MirrorOptions, mirror_config, registries,
};
use crate::oci::Registry;
use crate::save::NameRule;
use clap::{ArgAction, ValueEnum};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The arguments of `mirror-config`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Client to configure
    #[arg(value_name = "CLIENT")]
    pub(crate) client: ClientArg,
    /// URL of the registry that serves the directory; its path is a prefix of all repository names
    #[arg(long, value_name = "URL", help_heading = "Mirror")]
    pub(crate) endpoint: Option<String>,
    /// Certificate authority of the endpoint (PEM)
    #[arg(long, value_name = "FILE", help_heading = "Mirror")]
    pub(crate) ca: Option<PathBuf>,
    /// Registry to redirect; may be repeated [default: those of the images in the directory]
    #[arg(long, value_name = "HOST", action = ArgAction::Append, help_heading = "Mirror")]
    pub(crate) registry: Vec<String>,
    /// Redirect all other registries too (containerd, k3s, rke2, talos)
    ///
    /// In a directory saved with --names domain, this needs saver serve, which evaluates the ?ns=HOST of containerd.
    #[arg(long, help_heading = "Mirror")]
    pub(crate) all_registries: bool,
    /// Directory to write the files to [default: print them]
    #[arg(short, long, value_name = "PATH", value_parser = local_path(), help_heading = "Output")]
    pub(crate) output: Option<PathBuf>,
    /// Where the images are.
    #[command(flatten)]
    pub(crate) dir: DirArgs,
    /// Names.
    #[command(flatten)]
    pub(crate) names: NamesArgs,
}

/// The client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClientArg {
    /// containerd, as Kubernetes, nerdctl and ctr use it
    Containerd,
    /// k3s
    K3s,
    /// RKE2
    Rke2,
    /// CRI-O
    Crio,
    /// Podman, Buildah and Skopeo
    Podman,
    /// Docker (docker.io only)
    Docker,
    /// Talos
    Talos,
    /// OpenShift
    #[value(name = "openshift")]
    OpenShift,
}

impl From<ClientArg> for MirrorClient {
    fn from(client: ClientArg) -> Self {
        match client {
            ClientArg::Containerd => Self::Containerd,
            ClientArg::K3s => Self::K3s,
            ClientArg::Rke2 => Self::Rke2,
            ClientArg::Crio => Self::CriO,
            ClientArg::Podman => Self::Podman,
            ClientArg::Docker => Self::Docker,
            ClientArg::Talos => Self::Talos,
            ClientArg::OpenShift => Self::OpenShift,
        }
    }
}

/// Prints or writes the files.
///
/// # Errors
/// `InvalidInput` naming what is wrong on the command line; `Unsupported` for what the client cannot do; `Storage`.
pub(crate) fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    let endpoint = args.endpoint.as_deref().ok_or_else(|| {
        missing_option("--endpoint", "add --endpoint URL, the registry that serves the directory")
    })?;
    let store = tree::open(args.dir.path()?)?;
    let names = NameRule::of(&store, args.names.rule()?.as_ref())?;
    let registries = if args.registry.is_empty() {
        registries(&store, &names)?
    } else {
        args.registry.iter().map(|host| host.parse()).collect::<Result<Vec<Registry>>>()?
    };
    let mut options = MirrorOptions::new(endpoint.parse()?, registries)
        .with_names(names)
        .with_all_registries(args.all_registries);
    if let Some(path) = &args.ca {
        options = options.with_ca(read_ca(path)?);
    }
    let config = mirror_config(args.client.into(), &options)?;
    let exit = match &args.output {
        None => output::stdout(printed(&config).as_bytes()),
        Some(directory) => {
            check_replaceable(directory, &config)?;
            let mut written = String::new();
            for file in &config.files {
                written.push_str(&format!("{}\n", write(directory, file)?.display()));
            }
            output::stdout(written.as_bytes())
        }
    };
    for note in &config.notes {
        context.note(note);
    }
    Ok(exit)
}

fn read_ca(path: &Path) -> Result<String> {
    let refuse = |why: String| Error::new(ErrorKind::InvalidInput, path.display(), why);
    let mut text = String::new();
    let file = fs::File::open(path);
    let read = file.and_then(|file| file.take(MAX_CA_BYTES + 1).read_to_string(&mut text));
    read.map_err(|cause| refuse(format!("cannot read the certificates: {cause}")))?;
    if text.len() as u64 > MAX_CA_BYTES {
        return Err(refuse(format!("the file is larger than {MAX_CA_BYTES} bytes")));
    }
    Ok(text)
}

/// All files, each below its path on the node.
fn printed(config: &MirrorConfig) -> String {
    let heading = |file: &ConfigFile| match file.directory {
        "" => format!("# {}", file.path),
        directory => format!("# {directory}/{}", file.path),
    };
    let files: Vec<String> =
        config.files.iter().map(|file| format!("{}\n{}", heading(file), file.content)).collect();
    files.join("\n")
}

/// Checks that no file of others would be overwritten, before anything is written.
fn check_replaceable(directory: &Path, config: &MirrorConfig) -> Result<()> {
    for file in &config.files {
        let path = directory.join(&file.path);
        let present = match fs::read(&path) {
            Ok(present) => present,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::storage(path.display(), "read the file", error)),
        };
        let is_own = present.starts_with(GENERATED.as_bytes()) || present == file.content.as_bytes();
        if !is_own {
            let why = "the file exists and was not written by saver mirror-config";
            return Err(Error::new(ErrorKind::InvalidInput, path.display(), why).with_hint(
                "leave out --output to print the configuration, and merge it; or move the file away",
            ));
        }
    }
    Ok(())
}

/// Writes a file and the directories above it; its path.
fn write(directory: &Path, file: &ConfigFile) -> Result<PathBuf> {
    let path = directory.join(&file.path);
    let parent = path.parent().unwrap_or(directory);
    fs::create_dir_all(parent)
        .map_err(|error| Error::storage(parent.display(), "create the directory", error))?;
    fs::write(&path, &file.content)
        .map_err(|error| Error::storage(path.display(), "write the file", error))?;
    Ok(path)
}
