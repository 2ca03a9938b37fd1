//! `saver copy`: from one registry into another.

use crate::cli::args::GlobalArgs;
use crate::cli::commands::push::SendArgs;
use crate::cli::commands::save::{ended, screen};
use crate::cli::config::Environment;
use crate::cli::registry_args;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output_files::Files;
use crate::cli::ui::run::Showing;
use crate::cli::ui::terminal::Screen;
use crate::cli::ui::wording::COPYING;
use crate::copy::{self, CopyOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Reference;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The arguments of copying.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The image to copy, and its name at the registry that it goes to; without a tag, it keeps its own
    #[arg(value_name = "SRC DST", num_args = 0..)]
    pub names: Vec<String>,
    /// What is sent, and how.
    #[command(flatten)]
    pub sending: SendArgs,
}

/// Copies, and says how that ended.
pub(crate) async fn run(args: &Args, global: &GlobalArgs, environment: &Environment) -> Exit {
    let screen = screen(global, environment);
    ended(copied(args, global, environment, &screen).await)
}

async fn copied(
    args: &Args,
    global: &GlobalArgs,
    environment: &Environment,
    screen: &Arc<Screen>,
) -> Result<Exit> {
    let [from, to] = args.names.as_slice() else {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "",
            "two names are needed: from where, and to where",
        )
        .with_hint("for example saver copy nginx:1.27 registry.example:5000/mirror/nginx"));
    };
    let (from, to) = (Reference::parse(from)?, destination(to, &Reference::parse(from)?)?);
    let sending = &args.sending;
    let mut options = CopyOptions::default();
    sending.apply(&mut options.transfer)?;
    let registries = BTreeSet::from([from.registry.clone(), to.registry.clone()]);
    options.access =
        registry_args::resolve(&sending.registry, environment, &registries, screen, global.quiet)?;
    let files = Files::prepare(None, sending.report.as_deref(), None)?;
    let showing = Showing::start(COPYING, sending.progress, files, global, screen)?;
    options.observer = showing.observer();
    options.cancel = showing.cancel();
    if sending.dry_run {
        let plan = copy::plan(from, to, options).await?;
        return showing.planned(&plan, None, None);
    }
    let report = copy::copy(from, to, options).await?;
    showing.finished(&report, None)
}

/// Where the image goes: what `text` names, with the source's tag where it names none.
fn destination(text: &str, from: &Reference) -> Result<Reference> {
    let mut to = Reference::parse(text)?;
    if to.digest.is_some() {
        let why = "a digest can't be chosen: it is the copy's own";
        return Err(Error::new(ErrorKind::InvalidInput, text, why).with_hint("name a tag, or none"));
    }
    let host = text.split(':').next().unwrap_or(text);
    if !text.contains('/') && (host.contains('.') || host == "localhost" || text.contains("]:")) {
        let why = "this is a registry, and a repository in it is needed";
        let hint = format!("write {text}/{}", from.repository);
        return Err(Error::new(ErrorKind::InvalidInput, text, why).with_hint(hint));
    }
    if !Reference::has_written_tag(text) {
        to.tag = from.tag.clone();
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_its_tag_unless_it_is_given_another() {
        let digest = crate::oci::Digest::of(b"x");
        for (from, to, expect) in [
            ("nginx:1", "r.io:5000/a", Some("r.io:5000/a:1")),
            ("nginx:1", "r.io:5000/a:2", Some("r.io:5000/a:2")),
            ("nginx", "r.io/a", Some("r.io/a:latest")),
            (&format!("nginx@{digest}"), "r.io/a", Some("r.io/a")),
            (&format!("nginx@{digest}"), "r.io/a:2", Some("r.io/a:2")),
            ("nginx", &format!("r.io/a@{digest}"), None),
            ("nginx", "127.0.0.1:5000", None),
            ("nginx", "r.io", None),
            ("nginx", "localhost:5000", None),
            ("nginx", "mine:5", Some("docker.io/library/mine:5")),
        ] {
            let to = destination(to, &Reference::parse(from).unwrap()).ok();
            assert_eq!(to.map(|to| to.to_string()).as_deref(), expect, "{from}");
        }
    }
}
