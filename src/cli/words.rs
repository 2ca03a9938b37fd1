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
}

/// Into a tree.
pub(super) const SAVING: Words = Words { done: "saved", act: "fetch", moved: "fetched" };
/// Out of a tree, into a layout or an archive.
pub(super) const EXPORTING: Words = Words { done: "exported", act: "export", moved: "copied" };
/// From a layout or an archive into a tree.
pub(super) const IMPORTING: Words = Words { done: "imported", act: "import", moved: "copied" };
/// Into a registry.
pub(super) const PUSHING: Words = Words { done: "pushed", act: "push", moved: "sent" };
/// From a registry into a registry.
pub(super) const COPYING: Words = Words { done: "copied", act: "copy", moved: "sent" };
