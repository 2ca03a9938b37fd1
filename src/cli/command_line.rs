//! The command line: its commands, and what `--help` says of each.

use crate::cli::args::output::GlobalArgs;
use crate::cli::args::save::SaveArgs;
use crate::cli::commands::{
    build_context, bundle, bundle_inspect, bundle_verify, copy, cri, diff, digest, export, gc, have, import,
    inspect, load, ls, mirror_config, prune, push, report, resolve, rewrite, rm, scan, select, serve, tags,
    trust, unbundle, verify,
};
use clap::builder::styling::{AnsiColor, Styles};
use clap::{Parser, Subcommand};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Examples:
  Save a list of images for two architectures:
    saver --list images.txt --dir ./registry --arch amd64,arm64
  Show what would be downloaded, and whether it fits:
    saver --list images.txt --dir ./registry --arch amd64 --dry-run
  Save images by name, one of them from a registry without TLS:
    saver --dir ./registry --arch amd64 --plain-http reg.local nginx:1.27 reg.local/app:2
  Retry only the images that failed:
    saver --list images.txt --dir ./registry --arch amd64 --failed-list failed.txt
    saver --list failed.txt --dir ./registry --arch amd64
  Serve the result with the distribution registry:
    docker run -p 5000:5000 -v ./registry:/var/lib/registry registry:2

Every option can also be set by an environment variable (--failed-list is SAVER_FAILED_LIST; the values of a repeatable \
option are separated by blanks) and in the configuration file (failed-list: FILE). The command line overrides the \
environment, the environment overrides the file.

Exit codes: 0 all images saved; 1 some images failed, the others are saved; 2 wrong command line or list, nothing was \
downloaded; 3 the run could not continue (disk full, permission denied, directory locked, time limit); 130 interrupted.";

/// Mirror container images from many registries into a directory that a registry can serve
///
/// saver save is the default command. It writes the file tree of the distribution registry (registry:2) and merges images
/// into what the directory already holds. Run it again to update the directory or to resume after an interruption: only
/// missing content is downloaded.
#[derive(Debug, Parser)]
#[command(
    name = "saver",
    version,
    styles = STYLES,
    max_term_width = 120,
    after_long_help = EXAMPLES,
    after_help = "Use --help for examples, exit codes, environment variables and the configuration file.",
    subcommand_negates_reqs = true,
    override_usage = "saver [save] --list FILE --dir DIR --arch ARCH [OPTIONS] [IMAGE]...\n       saver COMMAND [OPTIONS]",
    subcommand_help_heading = "Commands",
    subcommand_value_name = "COMMAND",
)]
pub(crate) struct Cli {
    /// The command; none is `save`.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// The arguments of `save`, for the form without a command.
    #[command(flatten)]
    pub(crate) save: SaveArgs,
    /// The options of every command.
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Save images into a directory (the default command)
    #[command(after_long_help = EXAMPLES, override_usage = "saver save --list FILE --dir DIR --arch ARCH [OPTIONS] [IMAGE]...")]
    Save(Box<SaveArgs>),
    /// List the repositories, tags, platforms and sizes in a directory
    ///
    /// A damaged tag is listed with its problems, and the exit code is 1.
    Ls(ls::Args),
    /// Show the manifest, platforms, layers and configuration of an image
    ///
    /// Reads the image from its registry or, with --dir, from a directory.
    Inspect(Box<inspect::Args>),
    /// List the tags of a repository
    ///
    /// Reads the tags from the registry or, with --dir, from a directory.
    Tags(Box<tags::Args>),
    /// Show which tags rules select, and why not the others
    ///
    /// Prints the selected images as a list, with the other tags and the reasons in comments. A rule is a line of a list:
    /// 'quay.io/team/app:* tags=semver:^3 newest=2', or 'registry.example.com/charts/** since=2026-06-01' for the repositories of a registry.
    /// The exit code is 1 if a rule selects nothing.
    #[command(override_usage = "saver select [OPTIONS] RULE...")]
    Select(Box<select::Args>),
    /// Pin the images of lists in a lock file
    ///
    /// Resolves every name to its digest and writes a plain list of pinned names, with platforms, sizes, referrers and the rules that
    /// selected tags in comments. saver save --list FILE --locked saves exactly that. The same registry content gives the same file.
    #[command(override_usage = "saver resolve --list FILE --arch ARCH [OPTIONS] [IMAGE]...")]
    Resolve(Box<resolve::Args>),
    /// Print the digest that an image name resolves to
    ///
    /// Asks the registry or, with --dir, reads a directory.
    Digest(Box<digest::Args>),
    /// Check a directory for missing, damaged and incomplete content
    ///
    /// Checks structure, sizes, links, and that each tag is complete; prints the image, digest and path of each problem, and exits with 1 if
    /// there is any. Directories written by other tools can be checked too, and saver may be adding images meanwhile. --repair restores
    /// links, removes incomplete tags, and moves damaged content to DIR/.saver/damaged; the exit code is 1 if a tag was lost.
    /// With --list, the images and platforms of the lists that the directory lacks are problems, too; with --policy, images whose
    /// signatures in the directory do not satisfy the policy are, too. No registry is contacted.
    Verify(Box<verify::Args>),
    /// Gather the keys, certificates and trusted root of a signature policy, for a place without these files
    ///
    /// The policy that is written has the content of all files that its sigstoreSigned requirements name, in place of their paths. The
    /// containers tools read it too, unless it relies on the trusted root.
    #[command(override_usage = "saver trust export --policy FILE --output DIR [OPTIONS]")]
    Trust(trust::Args),
    /// Remove the images that no list names, then unreferenced content
    ///
    /// Signatures and other referrers of an image that is kept are kept with it. Other runs of saver on the directory wait until it
    /// is done. A registry that serves the directory may keep running, and has to be restarted to forget what it has cached.
    Prune(prune::Args),
    /// Remove images by name, then unreferenced content
    ///
    /// name@digest removes the manifest and every tag that resolves to it.
    Rm(rm::Args),
    /// Remove content that no image needs
    ///
    /// Removes what no tag and no image saved by digest needs, interrupted downloads, and what a repair moved to DIR/.saver/damaged.
    /// Fails while another saver is running. A registry that serves the directory may keep running, and has to be restarted to
    /// forget what it has cached; one that receives pushes must not.
    Gc(gc::Args),
    /// Compare two directories, reports, lock files or lists of images
    ///
    /// Prints the images that were added, removed and moved to another digest, and how much content a directory lacks. The exit code
    /// is 0 if there is no difference, 1 if there is one, and 2 for what is none of these.
    #[command(override_usage = "saver diff [OPTIONS] A B")]
    Diff(diff::Args),
    /// Push the images of a directory, or some of them, to a registry
    ///
    /// Content that the registry has is not uploaded again; content of its other repositories is mounted. Of an image that was saved for
    /// some platforms only, these are pushed. An immutable tag that already resolves to the image is not an error.
    #[command(override_usage = "saver push --dir DIR [OPTIONS] [IMAGE]... REGISTRY[/PREFIX]")]
    Push(Box<push::Args>),
    /// Copy an image from one registry to another
    ///
    /// Nothing is written to disk. Within one registry, blobs are mounted instead of uploaded.
    #[command(override_usage = "saver copy [OPTIONS] SOURCE DESTINATION")]
    Copy(Box<copy::Args>),
    /// Export images to an archive or an OCI image layout
    ///
    /// Writes what docker load, podman load, skopeo, umoci and ctr read: from a directory of saved images or, with --from-registry, from the
    /// registries. All content is verified, and the same images always produce the same bytes.
    Export(Box<export::Args>),
    /// Import an archive, an OCI image layout or a packed Helm chart into a directory
    ///
    /// Reads the archives of docker save, podman save, skopeo, buildah, umoci, crane and saver export, uncompressed or compressed with gzip
    /// or zstd. A chart (NAME-VERSION.tgz) becomes the OCI artifact that helm push makes of it, localhost/NAME:VERSION without --as. All
    /// content is verified, and content that the directory has is not written again.
    Import(import::Args),
    /// List the content of a directory, for a bundle that is made elsewhere
    ///
    /// Writes the digests of everything that the directory has, 32 bytes each, for saver bundle --since.
    Have(have::Args),
    /// Bundle what another directory lacks, in files for any medium
    ///
    /// Writes a directory with parts, which are tar files of less than --part-size, and bundle.json, which describes them. Content that
    /// --since has is left out. The same input always produces the same bytes. Where there is no saver, tar unpacks the parts into the
    /// directory of a registry.
    #[command(override_usage = "saver bundle --dir DIR --output NAME [OPTIONS] [IMAGE]...")]
    Bundle(Box<bundle::Args>),
    /// Write the parts of a bundle into a directory, and publish its images
    ///
    /// Parts may come in any order and in several runs; what the directory has is not written again. Each image is published once
    /// everything that the bundle needs is present. Otherwise nothing of the bundle is published, what was written is kept, and
    /// --missing writes what to ask the sender for.
    #[command(override_usage = "saver unbundle --dir DIR [OPTIONS] NAME...")]
    Unbundle(unbundle::Args),
    /// Show the images, content and parts of a bundle
    BundleInspect(bundle_inspect::Args),
    /// Check the parts of a bundle, without a directory
    ///
    /// Reads all parts and compares them with bundle.json, and their content with its digests. The exit code is 1 if anything is damaged
    /// or missing.
    BundleVerify(bundle_verify::Args),
    /// Serve a directory as a read-only registry
    ///
    /// Docker, containerd, podman, skopeo and helm can pull from it. Ctrl-C or SIGTERM stops it once the requests in progress are
    /// complete.
    Serve(serve::Args),
    /// Print the configuration with which nodes pull original image names from a mirror
    ///
    /// For the registries of the images in a directory, and a registry that serves it (saver serve, registry:2): prints the files, or
    /// writes them below the directory of --output. Where the client allows it, the original registry is never contacted.
    #[command(override_usage = "saver mirror-config CLIENT --endpoint URL --dir DIR [OPTIONS]")]
    MirrorConfig(mirror_config::Args),
    /// Print the names that images have at another registry, or manifests with these names
    ///
    /// For a registry that serves a directory, or that its images were pushed to. With a file, prints it with new names where an
    /// original name certainly is an image, and leaves everything else as it is, as a post-renderer of Helm does.
    #[command(override_usage = "saver rewrite --dir DIR [OPTIONS] REGISTRY[/PREFIX] [FILE]")]
    Rewrite(rewrite::Args),
    /// Write a page about a directory for the person who approves its transfer
    ///
    /// One HTML file that needs no server and requests nothing: what is in the directory, how its content is shared and, with --report,
    /// what the last run did. saver serve shows the same at /.
    #[command(override_usage = "saver report DIR --html --output FILE [--report REPORT.json]")]
    Report(report::Args),
    /// Load images of a directory into containerd
    ///
    /// Writes what the node lacks into its content store, through the socket of containerd, so that the node needs no registry.
    /// An interrupted load is resumed by the next one.
    #[command(override_usage = "saver load --dir DIR --containerd SOCKET [OPTIONS] [IMAGE]...")]
    Load(load::Args),
    /// Find the images that Kubernetes manifests, Helm charts, templates and lists name
    ///
    /// Prints a list for --list, with the file and line of each image in a comment. Doubtful finds are commented out, with the reason.
    /// Charts are rendered with helm template if helm is installed; otherwise their values and templates are read. The exit code
    /// is 1 if a file could not be read.
    Scan(scan::Args),
    /// Save the images of a build context into its registry directory
    ///
    /// Finds the images of PATH/manifests (imageList and imageListWithAuth.yaml, YAML, templates) and PATH/charts as saver scan does, and
    /// saves them into PATH/registry as saver save does. Doubtful finds are reported and not saved. Images that
    /// PATH/manifests/imageListIgnore names are skipped.
    BuildContext(Box<build_context::Args>),
    /// Serve the Kubernetes image service (CRI) from a directory
    ///
    /// For crictl --image-endpoint and for kubelets, runtime.v1 and runtime.v1alpha2: pull, images, inspecti, rmi, imagefsinfo. Images are
    /// stored under their full names (docker.io/library/nginx). Ctrl-C or SIGTERM stops it once the calls in progress are complete.
    Cri(Box<cri::Args>),
    /// Print a shell completion script
    Completions {
        /// Shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Print the manual page of saver or of a command, in roff
    Man {
        /// Command
        #[arg(value_name = "COMMAND")]
        command: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn save_is_the_default_command() {
        let short = Cli::try_parse_from(["saver", "--dir", "d", "--arch", "amd64", "nginx:1", "ls"]).unwrap();
        assert!(short.command.is_none());
        assert_eq!(short.save.images, ["nginx:1", "ls"]);
        let long = Cli::try_parse_from(["saver", "save", "--dir", "d", "--arch", "amd64", "nginx"]).unwrap();
        let Some(Command::Save(save)) = long.command else { panic!("{long:?}") };
        assert_eq!(save.images, ["nginx"]);
    }

    #[test]
    fn options_have_a_long_name_and_one_help_text() {
        let mut root = Cli::command();
        root.build();
        let mut texts = std::collections::BTreeMap::new();
        for command in std::iter::once(&root).chain(root.get_subcommands()) {
            for arg in command.get_arguments().filter(|arg| !arg.is_positional()) {
                let name = format!("{} {}", command.get_name(), arg.get_id());
                let long = arg.get_long().unwrap_or_else(|| panic!("{name}"));
                let help = arg.get_help().unwrap_or_else(|| panic!("{name}")).to_string();
                // An address in one command and a socket in another; an archive in one and a directory in another; a file
                // that is written, and one that is read; referrers that are transferred, and those that are shown;
                // the version of saver, and that of a chart.
                if matches!(
                    long,
                    "listen" | "max-connections" | "output" | "report" | "referrers" | "match" | "version"
                ) {
                    continue;
                }
                let first = texts.entry(long.to_owned()).or_insert_with(|| help.clone());
                assert_eq!(*first, help, "{name}");
            }
        }
    }
}
