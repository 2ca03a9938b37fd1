//! The command line as it is written. Nothing here reads, checks or decides: that is done when a
//! command resolves its arguments.
//!
//! Rules that the layering of `config` rests on: every flag has a long name; no flag is `required`
//! in a way a default could not satisfy; flags that exclude each other are told apart when they are resolved.

// The comments of flags are help text first: `HOST[:PORT]` is no link.
#![allow(rustdoc::broken_intra_doc_links)]

use crate::transfer::{IndexMode, MissingPlatform};
use clap::builder::styling::{AnsiColor, Styles};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Examples:
  Save a list of images for two architectures:
    saver --list images.txt --dir ./registry --arch amd64,arm64
  See first what would be fetched and whether it fits:
    saver --list images.txt --dir ./registry --arch amd64 --dry-run
  Save some images by name, one of them from a registry without TLS:
    saver --dir ./registry --arch amd64 --plain-http reg.local nginx:1.27 reg.local/app:2
  Try again only what failed:
    saver --list images.txt --dir ./registry --arch amd64 --failed-list failed.txt
    saver --list failed.txt --dir ./registry --arch amd64
  Serve the result with the registry that everyone has:
    docker run -p 5000:5000 -v ./registry:/var/lib/registry registry:2

Every flag has an environment form (--failed-list is SAVER_FAILED_LIST; values of a flag that may be repeated are \
separated by blanks) and a form in the configuration file (failed-list: FILE). A flag wins over the environment, the \
environment over the file, the file over the default.

Exit codes: 0 all saved; 1 some images failed, the rest are saved; 2 the command line or the list is wrong, nothing was \
fetched; 3 the run could not go on (disk full, no permission, locked); 130 interrupted.";

/// Save container images from many registries into a directory that a registry can serve.
///
/// Without a command, saver saves: `saver save` is the same. What is saved is the file tree of the
/// distribution registry (registry:2), merged into what is already there. Run it again to bring the
/// tree up to date or to go on after an interruption: only what is missing is fetched.
#[derive(Debug, Parser)]
#[command(
    name = "saver",
    version,
    styles = STYLES,
    max_term_width = 120,
    after_long_help = EXAMPLES,
    after_help = "Use --help for examples, exit codes and the forms in the environment and the configuration file.",
    subcommand_negates_reqs = true,
    override_usage = "saver [save] --list FILE --dir DIR --arch ARCH [OPTIONS] [IMAGE]...\n       saver COMMAND [OPTIONS]",
    subcommand_help_heading = "Commands",
    subcommand_value_name = "COMMAND",
)]
pub struct Cli {
    /// What to do; saving, when nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The arguments of saving, for the form without a command.
    #[command(flatten)]
    pub save: SaveArgs,
    /// What all commands take.
    #[command(flatten)]
    pub global: GlobalArgs,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Save images into a directory (the same as no command)
    #[command(after_long_help = EXAMPLES, override_usage = "saver save --list FILE --dir DIR --arch ARCH [OPTIONS] [IMAGE]...")]
    Save(Box<SaveArgs>),
    /// List what a directory holds: repositories, tags, platforms and sizes
    ///
    /// A tag that is damaged is listed with what is wrong, and the exit code is 1.
    Ls(crate::cli::commands::ls::Args),
    /// Tell what an image is made of: manifest, platforms, layers, configuration
    ///
    /// At its registry or, with --dir, in a directory.
    Inspect(Box<crate::cli::commands::inspect::InspectArgs>),
    /// List the tags of a repository
    ///
    /// At its registry or, with --dir, in a directory.
    Tags(Box<crate::cli::commands::inspect::TagsArgs>),
    /// Print the digest that an image's name stands for
    ///
    /// At its registry or, with --dir, in a directory.
    Digest(Box<crate::cli::commands::inspect::DigestArgs>),
    /// Check a directory: structure, sizes, links, and that every tag has all it needs
    ///
    /// Tells the image, digest and path of each problem; the exit code is 1 if there is any. A tree that another
    /// tool wrote is verified too. A saver may be adding to it meanwhile. --repair mends links, removes tags that are not
    /// whole, and moves damaged content to DIR/.saver/damaged; the exit code is then 1 if a tag was lost.
    Verify(Box<crate::cli::commands::verify::Args>),
    /// Remove every image that is not in a list, then what nothing references any more
    ///
    /// Signatures and other referrers of an image that is kept stay with it. No saver may run meanwhile; one that starts is
    /// told to wait. A registry that serves the directory may go on, and needs a restart to forget what it has looked up.
    Prune(crate::cli::commands::prune::Args),
    /// Remove images by name, and what nothing else references
    ///
    /// name@digest removes that manifest and every tag of it.
    Rm(crate::cli::commands::rm::Args),
    /// Push what a directory holds, or some images of it, to a registry
    ///
    /// What the registry has is not sent again; what it has in another repository, it links. The tree may hold only some
    /// platforms of an image: those are pushed. A tag that may not be moved and names the same image already is no failure.
    #[command(override_usage = "saver push --dir DIR [OPTIONS] [IMAGE]... REGISTRY[/PREFIX]")]
    Push(Box<crate::cli::commands::push::Args>),
    /// Copy an image from one registry to another, all its platforms or some
    ///
    /// Bytes go through memory only. Within one registry they are linked, not sent.
    #[command(override_usage = "saver copy [OPTIONS] SRC DST")]
    Copy(Box<crate::cli::commands::copy::Args>),
    /// Export images to an archive or an OCI image layout
    ///
    /// For docker load, podman load, skopeo, umoci and ctr: from a directory that they were saved to or, with --from-registry, straight
    /// from their registries. Everything is verified, and the same images are the same bytes whenever they are exported.
    Export(Box<crate::cli::commands::export::Args>),
    /// Import the images of an archive or an OCI image layout into a directory
    ///
    /// Reads what docker save, podman save, skopeo, buildah, umoci, crane and saver export write, compressed with gzip or
    /// zstd or not. Everything is verified, and what is there already is not written again.
    Import(crate::cli::commands::import::Args),
    /// Serve a directory as a read-only registry
    ///
    /// Docker, containerd, podman, skopeo and helm can pull from it. It stops at Ctrl-C or SIGTERM, once the
    /// answers under way are done.
    Serve(crate::cli::commands::serve::Args),
    /// Find the images that a file or a directory names: Kubernetes objects, templates, Helm charts, lists
    ///
    /// Prints a list that --list reads, with the file and line of each image in a comment. What may be an image and
    /// may not be is commented out, with the reason. Charts are rendered with helm template where helm is
    /// installed; where it is not, their values and templates are read. The exit code is 1 if something could not be read.
    Scan(crate::cli::commands::scan::Args),
    /// Save the images of a build context into its registry directory
    ///
    /// Takes the images of PATH/manifests (imageList and imageListWithAuth.yaml, YAML, templates) and PATH/charts, as
    /// saver scan finds them, and saves them into PATH/registry as saver save does. Doubtful finds are told and not
    /// saved. Images of PATH/manifests/imageListIgnore are left out.
    BuildContext(Box<crate::cli::commands::build_context::Args>),
    /// Answer the Kubernetes image service (CRI) over a directory
    ///
    /// For crictl --image-endpoint and for kubelets, runtime.v1 and runtime.v1alpha2: pull, images, inspecti, rmi, imagefsinfo. Images are
    /// kept under their full names (docker.io/library/nginx). It stops at Ctrl-C or SIGTERM, once the calls under way are done.
    Cri(Box<crate::cli::commands::cri::Args>),
    /// Print the completion script of a shell
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Print the manual page of saver or of one command, in roff
    Man {
        /// The command
        #[arg(value_name = "COMMAND")]
        command: Option<String>,
    },
}

/// What all commands take.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "General")]
pub struct GlobalArgs {
    /// Read further settings from FILE (YAML; keys are the long flag names)
    ///
    /// When not given, $XDG_CONFIG_HOME/saver/config.yaml (else ~/.config/saver/config.yaml) is read if it is there.
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Print only failures
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Log what is done to stderr (-v debug, -vv trace)
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,
    /// The form of log lines
    #[arg(long, value_name = "FORMAT", default_value = "text", global = true)]
    pub log_format: LogFormat,
    /// When to use colours
    #[arg(long, value_name = "WHEN", default_value = "auto", global = true)]
    pub color: Color,
}

/// The arguments of saving.
#[derive(Clone, Debug, Args)]
pub struct SaveArgs {
    /// Images to save, beside those of the lists
    #[arg(value_name = "IMAGE", help_heading = "What to save")]
    pub images: Vec<String>,
    /// Save the images listed in FILE; - is stdin; may be repeated
    ///
    /// One image a line, `#` starts a comment, `platform=linux/arm64` after a name asks for other
    /// platforms than --arch. Or YAML: a sequence of {registry, username, password, images: [...]}. Files of docker
    /// compose, skopeo sync, hauler, image-syncer and kubeadm config images list are read too.
    #[arg(long, value_name = "FILE", action = ArgAction::Append, help_heading = "What to save")]
    pub list: Vec<PathBuf>,
    /// Maximum number of images that selections of tags in lists may select
    #[arg(long, value_name = "N", default_value_t = 500, help_heading = "What to save")]
    pub max_images: usize,

    /// The directory to save into
    #[arg(long, value_name = "DIR", help_heading = "Where it goes")]
    pub dir: Option<PathBuf>,
    /// What and how, whatever the images come from.
    #[command(flatten)]
    pub run: RunArgs,
}

/// The arguments of every command that saves, whatever its images come from.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Architectures to save: amd64, arm64, arm/v7, linux/arm64/v8, or all; may be repeated
    ///
    /// May be left out where every line of the lists has a platform= of its own.
    #[arg(long, visible_alias = "platform", value_name = "ARCH[,ARCH]", action = ArgAction::Append, help_heading = "What to save")]
    pub arch: Vec<String>,
    /// Operating system of architectures that are written without one
    #[arg(long, value_name = "OS", default_value = "linux", help_heading = "What to save")]
    pub os: String,
    /// What to do with an image that lacks a platform asked for
    #[arg(long, value_name = "ACTION", default_value = "fail", help_heading = "What to save")]
    pub missing_platform: MissingPlatformArg,
    /// Save attestations (unknown/unknown entries) with their images
    #[arg(long, help_heading = "What to save")]
    pub attestations: bool,
    /// Save foreign (non-distributable) layers too
    #[arg(long, help_heading = "What to save")]
    pub foreign_layers: bool,

    /// Names in the tree: strip, domain, or a template of {domain} {repository} {tag}
    ///
    /// strip leaves the registry's domain out (library/nginx); domain keeps it (docker.io/library/nginx); a template
    /// such as mirror/{repository} builds the name.
    #[arg(long, value_name = "NAMES", default_value = "strip", help_heading = "Where it goes")]
    pub names: String,
    /// What becomes of an index of which only some platforms are saved
    #[arg(long, value_name = "MODE", default_value = "keep", help_heading = "Where it goes")]
    pub index: IndexArg,
    /// When what is written is put on stable storage
    #[arg(long, value_name = "MODE", default_value = "batch", help_heading = "Where it goes")]
    pub durability: DurabilityArg,

    /// How to reach the registries, and as whom.
    #[command(flatten)]
    pub registry: RegistryArgs,

    /// The most blobs to fetch at once from each registry, 1 to 256; manifests beside them, up to three times as many
    #[arg(long, value_name = "N", default_value = "16", value_parser = jobs, help_heading = "The run")]
    pub jobs: u16,
    /// Stop at the first image that fails
    #[arg(long, help_heading = "The run")]
    pub fail_fast: bool,
    /// Say what would be fetched and whether it fits; save nothing
    #[arg(long, help_heading = "The run")]
    pub dry_run: bool,

    /// Write what became of each image to FILE, as JSON
    #[arg(long, value_name = "FILE", help_heading = "What it tells")]
    pub report: Option<PathBuf>,
    /// Write the images that failed to FILE, which is a list for --list
    #[arg(long, value_name = "FILE", help_heading = "What it tells")]
    pub failed_list: Option<PathBuf>,
    /// How progress is shown
    ///
    /// auto is bar on a terminal, else plain. Progress goes to stderr and the closing table to stdout; with
    /// json, stdout has one event a line and nothing else.
    #[arg(long, value_name = "MODE", default_value = "auto", help_heading = "What it tells")]
    pub progress: ProgressMode,
}

/// How to reach registries, and as whom.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Registries")]
pub struct RegistryArgs {
    /// User name for the one registry that is asked; needs --password-stdin
    ///
    /// For several registries use docker login, --authfile or, where lists are taken, a YAML list.
    #[arg(long, value_name = "NAME")]
    pub username: Option<String>,
    /// Read the password from stdin
    #[arg(long)]
    pub password_stdin: bool,
    /// Take credentials from FILE (Docker's config.json or containers' auth.json)
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// Reach HOST[:PORT] without TLS; may be repeated
    #[arg(long, value_name = "HOST", action = ArgAction::Append, value_delimiter = ',')]
    pub plain_http: Vec<String>,
    /// Do not check the certificate of HOST[:PORT]; may be repeated
    #[arg(long, value_name = "HOST", action = ArgAction::Append, value_delimiter = ',')]
    pub insecure_tls: Vec<String>,
    /// Trust the certificate authorities in FILE (PEM) too; may be repeated
    #[arg(long, value_name = "FILE", action = ArgAction::Append)]
    pub ca_file: Vec<PathBuf>,
    /// Take certificates from DIR, laid out as /etc/docker/certs.d; may be repeated
    #[arg(long, value_name = "DIR", action = ArgAction::Append)]
    pub cert_dir: Vec<PathBuf>,
    /// Try mirrors before HOST, in order; may be repeated
    #[arg(long, value_name = "HOST=URL[,URL]", action = ArgAction::Append)]
    pub mirror: Vec<String>,
    /// How often a request that failed is tried again without any progress in between
    #[arg(long, value_name = "N", default_value = "7", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub retries: u32,
}

/// The value of `--arch`, which may be repeated: as the comma list that says the same; none when it was not given.
pub(crate) fn arch(given: &[String]) -> Option<String> {
    (!given.is_empty()).then(|| given.join(","))
}

/// The value of `--jobs`.
pub(crate) fn jobs(text: &str) -> Result<u16, String> {
    let number = text.parse::<u16>().ok().filter(|number| (1..=256).contains(number));
    number.ok_or_else(|| "a number from 1 to 256 is needed".to_owned())
}

/// `--progress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// bar on a terminal, else plain
    Auto,
    /// Bars that move
    Bar,
    /// A line per image, and a sign of life now and then
    Plain,
    /// An event a line, on stdout
    Json,
    /// Nothing until the end
    None,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

/// `--color`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// `--index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IndexArg {
    /// Byte for byte as it is: its digest keeps resolving
    Keep,
    /// Written anew with only what was saved: a new digest
    Prune,
    /// Left out: the tag names the one platform's manifest
    Flatten,
}

impl From<IndexArg> for IndexMode {
    fn from(index: IndexArg) -> Self {
        match index {
            IndexArg::Keep => Self::Keep,
            IndexArg::Prune => Self::Prune,
            IndexArg::Flatten => Self::Flatten,
        }
    }
}

/// `--missing-platform`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MissingPlatformArg {
    /// The image fails
    Fail,
    /// What it has of them is saved, with a warning; an image that has none of them is skipped
    Skip,
}

impl From<MissingPlatformArg> for MissingPlatform {
    fn from(missing: MissingPlatformArg) -> Self {
        match missing {
            MissingPlatformArg::Fail => Self::Fail,
            MissingPlatformArg::Skip => Self::Skip,
        }
    }
}

/// `--durability`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DurabilityArg {
    /// A tag appears only once all under it is on stable storage; many images share one sync
    Batch,
    /// Leave it to the system: a power loss may cost what was saved last
    None,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn saving_needs_no_command() {
        let short = Cli::try_parse_from(["saver", "--dir", "d", "--arch", "amd64", "nginx", "ls"]).unwrap();
        assert!(short.command.is_none());
        assert_eq!(short.save.images, ["nginx", "ls"]);
        let long = Cli::try_parse_from(["saver", "save", "--dir", "d", "--arch", "amd64", "nginx"]).unwrap();
        let Some(Command::Save(save)) = long.command else { panic!("{long:?}") };
        assert_eq!(save.images, ["nginx"]);
    }

    #[test]
    fn every_flag_has_a_long_name_and_a_help() {
        let mut root = Cli::command();
        root.build();
        for command in std::iter::once(&root).chain(root.get_subcommands()) {
            for arg in command.get_arguments().filter(|arg| !arg.is_positional()) {
                assert!(arg.get_long().is_some(), "{} {}", command.get_name(), arg.get_id());
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
        }
    }
}
