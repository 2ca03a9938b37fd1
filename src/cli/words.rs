//! What a run is said to do with images.

/// The words of one command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words {
    /// What an image is that was not there before: `saved`.
    pub(super) done: &'static str,
    /// What is done with it: `fetch`.
    pub(super) act: &'static str,
    /// What its bytes are: `fetched`.
    pub(super) moved: &'static str,
    /// What is promised when the run is asked to stop.
    pub(super) stopping: &'static str,
    /// What is said of images that were not finished.
    pub(super) left: &'static str,
    /// Whether the images become one archive: no bytes are counted for each.
    pub(super) one: bool,
}

/// Into a tree.
pub(super) const SAVING: Words = Words {
    done: "saved",
    act: "fetch",
    moved: "fetched",
    stopping: "what is complete stays, the next run goes on",
    left: "the same command goes on from here",
    one: false,
};
/// Out of a tree or from registries into a layout.
pub(super) const EXPORTING: Words = Words { done: "exported", act: "export", moved: "copied", ..SAVING };
/// Out of a tree into an archive.
pub(super) const ARCHIVING: Words =
    Words { stopping: "no archive is written", left: "no archive was written", one: true, ..EXPORTING };
/// From registries into an archive, by way of a tree that is kept until the archive is whole.
pub(super) const FETCHING: Words = Words {
    stopping: "no archive is written; what is fetched stays, the next run goes on",
    left: "no archive was written; the same command goes on from here",
    ..ARCHIVING
};
/// From a tree to a stream.
pub(super) const STREAMING: Words = Words {
    stopping: "what was written so far is no archive",
    left: "what was written so far is no archive",
    ..ARCHIVING
};
/// From registries to a stream, by way of a tree that goes.
pub(super) const PASSING: Words = Words {
    stopping: "what was written so far is no archive, and what is fetched does not stay",
    left: "what was written so far is no archive, and the same command begins anew",
    ..ARCHIVING
};
/// From a layout or an archive into a tree.
pub(super) const IMPORTING: Words = Words { done: "imported", act: "import", moved: "copied", ..SAVING };
/// Into a registry.
pub(super) const PUSHING: Words = Words { done: "pushed", act: "push", moved: "sent", ..SAVING };
/// From a registry into a registry.
pub(super) const COPYING: Words = Words { done: "copied", act: "copy", moved: "sent", ..SAVING };
