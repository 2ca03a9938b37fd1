//! The words of a run: what it does with images.

/// The words of one command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wording {
    /// The result of a new image: `saved`.
    pub(crate) done: &'static str,
    /// What it does with an image: `download`.
    pub(crate) verb: &'static str,
    /// The command: `save`.
    pub(crate) verb_name: &'static str,
    /// What happens to bytes: `downloaded`.
    pub(crate) moved: &'static str,
    /// The consequence of stopping now.
    pub(crate) stopping: &'static str,
    /// What to do about images that were not finished.
    pub(crate) unfinished: &'static str,
    /// Whether the images become one archive, so that bytes are not counted for each.
    pub(crate) is_archive: bool,
}

/// From registries into a directory.
pub(crate) const SAVING: Wording = Wording {
    done: "saved",
    verb: "download",
    verb_name: "save",
    moved: "downloaded",
    stopping: "complete content is kept for the next run",
    unfinished: "run the same command again to resume",
    is_archive: false,
};
/// From a directory or from registries into a layout.
pub(crate) const EXPORTING: Wording =
    Wording { done: "exported", verb: "export", verb_name: "export", moved: "copied", ..SAVING };
/// From a directory into an archive.
pub(crate) const ARCHIVING: Wording = Wording {
    stopping: "no archive is written",
    unfinished: "no archive was written",
    is_archive: true,
    ..EXPORTING
};
/// From registries into an archive, through a directory that is kept until the archive is complete.
pub(crate) const FETCHING: Wording = Wording {
    stopping: "no archive is written; downloaded content is kept for the next run",
    unfinished: "no archive was written; run the same command again to resume",
    ..ARCHIVING
};
/// From a directory to a stream.
pub(crate) const STREAMING: Wording = Wording {
    stopping: "what was written so far is not a valid archive",
    unfinished: "what was written so far is not a valid archive",
    ..ARCHIVING
};
/// From registries to a stream, through a temporary directory.
pub(crate) const PASSING: Wording = Wording {
    stopping: "what was written so far is not a valid archive, and downloaded content is discarded",
    unfinished: "what was written so far is not a valid archive; run the command again from the start",
    ..ARCHIVING
};
/// From a layout or an archive into a directory.
pub(crate) const IMPORTING: Wording =
    Wording { done: "imported", verb: "import", verb_name: "import", moved: "copied", ..SAVING };
/// Into a registry.
pub(crate) const PUSHING: Wording =
    Wording { done: "pushed", verb: "push", verb_name: "push", moved: "uploaded", ..SAVING };
/// From a registry into a registry.
pub(crate) const COPYING: Wording =
    Wording { done: "copied", verb: "copy", verb_name: "copy", moved: "uploaded", ..SAVING };
