//! What a run is said to do with images.

/// The words of one command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words {
    /// What an image is that was not there before: `saved`.
    pub(crate) done: &'static str,
    /// What is done with it: `fetch`.
    pub(crate) act: &'static str,
    /// What its bytes are: `fetched`.
    pub(crate) moved: &'static str,
    /// What is promised when the run is asked to stop.
    pub(crate) stopping: &'static str,
    /// What is said of images that were not finished.
    pub(crate) left: &'static str,
    /// Whether the images become one archive: no bytes are counted for each.
    pub(crate) one: bool,
}

/// Into a tree.
pub(crate) const SAVING: Words = Words {
    done: "saved",
    act: "fetch",
    moved: "fetched",
    stopping: "what is complete stays, the next run goes on",
    left: "the same command goes on from here",
    one: false,
};
/// Out of a tree or from registries into a layout.
pub(crate) const EXPORTING: Words = Words { done: "exported", act: "export", moved: "copied", ..SAVING };
/// Out of a tree into an archive.
pub(crate) const ARCHIVING: Words =
    Words { stopping: "no archive is written", left: "no archive was written", one: true, ..EXPORTING };
/// From registries into an archive, by way of a tree that is kept until the archive is whole.
pub(crate) const FETCHING: Words = Words {
    stopping: "no archive is written; what is fetched stays, the next run goes on",
    left: "no archive was written; the same command goes on from here",
    ..ARCHIVING
};
/// From a tree to a stream.
pub(crate) const STREAMING: Words = Words {
    stopping: "what was written so far is no archive",
    left: "what was written so far is no archive",
    ..ARCHIVING
};
/// From registries to a stream, by way of a tree that goes.
pub(crate) const PASSING: Words = Words {
    stopping: "what was written so far is no archive, and what is fetched does not stay",
    left: "what was written so far is no archive, and the same command begins anew",
    ..ARCHIVING
};
/// From a layout or an archive into a tree.
pub(crate) const IMPORTING: Words = Words { done: "imported", act: "import", moved: "copied", ..SAVING };
/// Into a registry.
pub(crate) const PUSHING: Words = Words { done: "pushed", act: "push", moved: "sent", ..SAVING };
/// From a registry into a registry.
pub(crate) const COPYING: Words = Words { done: "copied", act: "copy", moved: "sent", ..SAVING };
