//! Verifying trees: whole ones, damaged ones of every kind, and what the registry's own garbage collection says of them.

use super::support::handmade::{Tree, write};
use super::support::peers::registry::{Registry, RegistryOptions, collect_garbage};
use super::support::peers::{samples, succeed};
use super::support::registry_model::{RegistryModel, Version, assert_served};
use super::support::tree;
use crate::support::scratch::Scratch;
use saver::oci::{Descriptor, Digest};
use saver::store::Store;
use saver::verify::{NoteKind, ProblemKind, VerifyOptions, VerifyReport, verify};
use std::fs;
use std::path::Path;
use std::process::Command;

pub(super) fn look(dir: &Path, deep: bool) -> VerifyReport {
    let mut options = VerifyOptions::default();
    options.deep = deep;
    verify(&Store::open_read_only(dir).unwrap(), &options).unwrap()
}

pub(super) fn saver(arguments: &[&str], dir: &Path) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saver"));
    command.env_remove("SAVER_CONFIG").env("XDG_CONFIG_HOME", "/nonexistent");
    let output = command.arg(arguments[0]).arg("--dir").arg(dir).args(&arguments[1..]).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// `app:1` is an index of two platforms, `app:amd64` one of them; `other:1` shares a layer with both.
pub(super) struct Made {
    pub(super) tree: Tree,
    pub(super) amd64: Descriptor,
    pub(super) arm: Descriptor,
    pub(super) other: Descriptor,
    pub(super) shared: Digest,
    pub(super) arm_layer: Digest,
}

pub(super) fn made() -> Made {
    let tree = Tree::new();
    let amd64 = tree.image("app", "linux/amd64", &[b"shared", b"amd64 only"]);
    let arm = tree.image("app", "linux/arm/v7", &[b"shared", b"arm only"]);
    let index = tree.index("app", &[amd64.clone(), arm.clone()]).digest;
    tree.tag("app", "1", &index);
    tree.tag("app", "amd64", &amd64.digest);
    let other = tree.image("other", "linux/amd64", &[b"shared", b"other only"]);
    tree.tag("other", "1", &other.digest);
    let (shared, arm_layer) = (Digest::of(b"shared"), Digest::of(b"arm only"));
    Made { tree, amd64, arm, other, shared, arm_layer }
}

impl Made {
    fn root(&self) -> std::path::PathBuf {
        self.tree.dir().join("docker/registry/v2")
    }
}

/// A way to damage a tree, and what is said then.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) damage: fn(&Made),
    /// What a verification without `--deep` finds: kind and images of each problem, by path.
    pub(super) found: &'static [(ProblemKind, &'static [&'static str])],
    /// Whether it takes `--deep` to find it.
    pub(super) deep: bool,
    /// Whether the registry's garbage collection gets through: as it is, and with `-m`.
    pub(super) collects: (bool, bool),
}

const ARM: &[&str] = &["app:1"];
const APP: &[&str] = &["app:1", "app:amd64"];
const ALL: &[&str] = &["app:1", "app:amd64", "other:1"];
const NONE: &[&str] = &[];

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
    Case { name: "nothing", damage: |_| {}, found: &[], deep: false, collects: (true, true) },
    Case {
        name: "a layer is not there",
        damage: |made| fs::remove_file(made.tree.data(&made.arm_layer)).unwrap(),
        found: &[(ProblemKind::Missing, ARM)], deep: false, collects: (true, true),
    },
    Case {
        name: "a layer that all share is cut",
        damage: |made| write(&made.tree.data(&made.shared), b"shar"),
        found: &[(ProblemKind::Corrupt, ALL)], deep: false, collects: (true, true),
    },
    Case {
        name: "a layer is empty",
        damage: |made| write(&made.tree.data(&made.arm_layer), b""),
        found: &[(ProblemKind::Corrupt, ARM)], deep: false, collects: (true, true),
    },
    Case {
        name: "a layer has another byte",
        damage: |made| write(&made.tree.data(&made.arm_layer), b"arm onlY"),
        found: &[(ProblemKind::Corrupt, ARM)], deep: true, collects: (true, true),
    },
    Case {
        name: "a manifest has another byte",
        damage: |made| {
            let path = made.tree.data(&made.arm.digest);
            let text = fs::read_to_string(&path).unwrap();
            write(&path, text.replace("schemaVersion\":2", "schemaVersion\":3").as_bytes());
        },
        found: &[(ProblemKind::Corrupt, ARM)], deep: false, collects: (false, true),
    },
    Case {
        name: "a manifest is empty",
        damage: |made| write(&made.tree.data(&made.amd64.digest), b""),
        found: &[(ProblemKind::Corrupt, APP)], deep: false, collects: (false, false),
    },
    Case {
        name: "a manifest is not there",
        damage: |made| fs::remove_file(made.tree.data(&made.other.digest)).unwrap(),
        found: &[(ProblemKind::Missing, &["other:1"])], deep: false, collects: (true, true),
    },
    Case {
        name: "a layer's link is not there",
        damage: |made| fs::remove_file(made.tree.layer_link("app", &made.shared)).unwrap(),
        found: &[(ProblemKind::MissingLink, APP)], deep: false, collects: (true, true),
    },
    Case {
        name: "a layer's link is empty",
        damage: |made| write(&made.tree.layer_link("app", &made.arm_layer), b""),
        found: &[(ProblemKind::DamagedLink, ARM)], deep: false, collects: (true, true),
    },
    Case {
        name: "a layer's link names another",
        damage: |made| write(&made.tree.layer_link("app", &made.arm_layer), made.shared.to_string().as_bytes()),
        found: &[(ProblemKind::DamagedLink, ARM)], deep: false, collects: (true, true),
    },
    Case {
        name: "a link leads nowhere",
        damage: |made| {
            let gone = Digest::of(b"gone");
            write(&made.tree.layer_link("app", &gone), gone.to_string().as_bytes());
        },
        found: &[(ProblemKind::DanglingLink, NONE)], deep: false, collects: (true, true),
    },
    Case {
        name: "a revision's link is empty",
        damage: |made| write(&made.tree.revision_link("app", &made.arm.digest), b""),
        found: &[(ProblemKind::DamagedLink, ARM)], deep: false, collects: (false, false),
    },
    Case {
        name: "a revision's link ends with a newline",
        damage: |made| {
            let text = format!("{}\n", made.other.digest);
            write(&made.tree.revision_link("other", &made.other.digest), text.as_bytes());
        },
        found: &[(ProblemKind::DamagedLink, &["other:1"])], deep: false, collects: (false, false),
    },
    Case {
        name: "a revision's link leads nowhere",
        damage: |made| {
            let gone = Digest::of(b"gone");
            write(&made.tree.revision_link("other", &gone), gone.to_string().as_bytes());
        },
        found: &[(ProblemKind::Missing, &["other@sha256:283bb9deef02e6843abfb538efa1eca70801bd8a701c3f98191e123496339247"])],
        deep: false, collects: (true, true),
    },
    Case {
        name: "a revision's link leads to a layer",
        damage: |made| write(&made.tree.revision_link("other", &made.shared), made.shared.to_string().as_bytes()),
        found: &[(ProblemKind::Corrupt, &["other:1"])], deep: false, collects: (false, true),
    },
    Case {
        name: "a tag names what the repository does not serve",
        damage: |made| fs::remove_file(made.tree.revision_link("other", &made.other.digest)).unwrap(),
        found: &[(ProblemKind::MissingLink, &["other:1"])], deep: false, collects: (true, true),
    },
    Case {
        name: "an index has none of its manifests",
        damage: |made| {
            for child in [&made.amd64, &made.arm] {
                fs::remove_file(made.tree.revision_link("app", &child.digest)).unwrap();
            }
            fs::remove_dir_all(made.tree.repository("app").join("_manifests/tags/amd64")).unwrap();
        },
        found: &[(ProblemKind::EmptyIndex, ARM)], deep: false, collects: (true, true),
    },
    Case {
        name: "a tag's link is empty",
        damage: |made| write(&made.tree.tag_link("other", "1"), b""),
        found: &[(ProblemKind::DamagedLink, &["other:1"])], deep: false, collects: (true, false),
    },
    Case {
        name: "a file among the tags",
        damage: |made| write(&made.tree.repository("app").join("_manifests/tags/.tmp123"), b"x"),
        found: &[(ProblemKind::Foreign, NONE)], deep: false, collects: (true, false),
    },
    Case {
        name: "no directory of layers",
        damage: |made| fs::remove_dir_all(made.tree.repository("other").join("_layers")).unwrap(),
        found: &[
            (ProblemKind::NoLayers, NONE),
            (ProblemKind::MissingLink, &["other:1"]),
            (ProblemKind::MissingLink, &["other:1"]),
            (ProblemKind::MissingLink, &["other:1"]),
        ],
        deep: false, collects: (true, true),
    },
    Case {
        name: "no directory of tags",
        damage: |made| {
            fs::remove_dir_all(made.tree.repository("other").join("_manifests/tags")).unwrap();
        },
        found: &[(ProblemKind::NoTags, NONE)], deep: false, collects: (true, false),
    },
    Case {
        name: "a tag without its current link",
        damage: |made| {
            fs::create_dir_all(made.tree.repository("app").join("_manifests/tags/begun/index/sha256")).unwrap();
        },
        found: &[(ProblemKind::UnfinishedTag, NONE)], deep: false, collects: (true, true),
    },
    Case {
        name: "content under no digest",
        damage: |made| write(&made.root().join("blobs/sha256/aa/odd/data"), b"x"),
        found: &[(ProblemKind::Foreign, NONE)], deep: false, collects: (false, false),
    },
    Case {
        name: "a repository of an impossible name",
        damage: |made| fs::create_dir_all(made.tree.repository("Odd").join("_layers")).unwrap(),
        found: &[(ProblemKind::Foreign, NONE)], deep: false, collects: (false, false),
    },
    Case {
        name: "a symbolic link in a blob's place",
        damage: |made| {
            let data = made.tree.data(&made.arm_layer);
            let away = made.tree.dir().join("away");
            fs::rename(&data, &away).unwrap();
            std::os::unix::fs::symlink(&away, &data).unwrap();
        },
        found: &[(ProblemKind::Missing, ARM), (ProblemKind::Foreign, NONE)], deep: false, collects: (true, true),
    },
    Case {
        name: "names that harm nobody",
        damage: |made| {
            write(&made.tree.dir().join("README"), b"x");
            write(&made.root().join("_x/y"), b"x");
            write(&made.root().join("repositories/_x/y"), b"x");
            write(&made.root().join("blobs/sha256/aa/.part"), b"x");
            write(&made.tree.repository("app").join("_uploads/1/hashstates/sha256/0"), b"x");
            fs::create_dir_all(made.root().join("blobs/sha256/aa").join("a".repeat(64))).unwrap();
        },
        found: &[], deep: false, collects: (true, true),
    },
];

#[test]
fn every_kind_of_damage_is_reported() {
    for case in CASES {
        let made = made();
        made.tree.allow_damage(case.name);
        (case.damage)(&made);
        let before = look(made.tree.dir(), false);
        assert_eq!(before.is_clean(), case.deep || case.found.is_empty(), "{}: {before:#?}", case.name);
        let report = look(made.tree.dir(), true);
        let found: Vec<_> = report
            .problems
            .iter()
            .map(|problem| (problem.kind, problem.images.iter().map(String::as_str).collect::<Vec<_>>()))
            .collect();
        let expect: Vec<_> = case.found.iter().map(|(kind, images)| (*kind, images.to_vec())).collect();
        assert_eq!(found, expect, "{}: {report:#?}", case.name);
        for problem in report.problems.iter().filter(|problem| problem.kind != ProblemKind::Missing) {
            let gone = matches!(
                problem.kind,
                ProblemKind::MissingLink | ProblemKind::NoLayers | ProblemKind::NoTags
            );
            let there = made.tree.dir().join(&problem.path).symlink_metadata().is_ok();
            assert_eq!(there, !gone, "{}: {}", case.name, problem.path);
        }
        // A tag is broken exactly if some problem is its own.
        let mut suffer: Vec<_> = report.problems.iter().flat_map(|problem| problem.images.clone()).collect();
        suffer.retain(|image| !image.contains('@'));
        suffer.sort();
        suffer.dedup();
        assert_eq!(report.broken, suffer, "{}", case.name);
    }
}

/// The registry trips over nothing that verification lets pass.
#[test]
fn model_and_registry_agree_on_garbage_collection() {
    let mut wrong = Vec::new();
    for case in CASES {
        for (untagged, gets_through) in [(false, case.collects.0), (true, case.collects.1)] {
            let made = made();
            made.tree.allow_damage(case.name);
            (case.damage)(&made);
            let model = RegistryModel::new(made.tree.dir(), Version::V2).collect_garbage(untagged);
            let said = collect_garbage(made.tree.dir(), untagged);
            if model.is_ok() != said.status.success() {
                wrong.push(format!(
                    "{}, -m {untagged}: the model says {model:?}, the registry {}",
                    case.name, said.stderr
                ));
            }
            let clean = case.found.is_empty();
            if said.status.success() != gets_through || (clean && !gets_through) {
                wrong.push(format!(
                    "{}, -m {untagged}: {} {}",
                    case.name,
                    said.status,
                    said.stderr.lines().last().unwrap_or_default()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn sparse_index_is_complete() {
    let made = made();
    fs::remove_dir_all(made.tree.revision_link("app", &made.arm.digest).parent().unwrap()).unwrap();
    fs::remove_file(made.tree.data(&made.arm.digest)).unwrap();
    fs::remove_file(made.tree.data(&made.arm_layer)).unwrap();
    fs::remove_file(made.tree.layer_link("app", &made.arm_layer)).unwrap();
    let report = look(made.tree.dir(), true);
    assert!(report.is_clean() && report.notes.is_empty(), "{report:#?}");
}

#[test]
fn wrong_size_in_a_manifest_differs_from_a_truncated_blob() {
    let tree = Tree::new();
    let mut layer = tree.blob("app", "application/vnd.oci.image.layer.v1.tar", b"layer");
    layer.size = 6;
    let config = tree.blob("app", saver::oci::media_type::OCI_CONFIG, b"{}");
    let kind = saver::oci::media_type::OCI_MANIFEST;
    let document =
        serde_json::json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]});
    let manifest = tree.manifest("app", kind, &document);
    tree.tag("app", "1", &manifest.digest);
    let report = look(tree.dir(), false);
    let [problem] = report.problems.as_slice() else { panic!("{report:#?}") };
    assert_eq!((problem.kind, problem.digest), (ProblemKind::Size, Some(manifest.digest)));
    assert_eq!(report.broken, ["app:1"]);
}

#[test]
fn unreferenced_blob_is_a_note() {
    let made = made();
    made.tree.content(b"left over");
    let report = look(made.tree.dir(), true);
    assert!(report.is_clean());
    let [note] = report.notes.as_slice() else { panic!("{:?}", report.notes) };
    assert_eq!((note.kind, note.paths.len(), note.bytes), (NoteKind::Unreferenced, 1, Some(9)));
}

#[test]
fn sample_trees_are_clean() {
    let report = look(&samples(), true);
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!((report.tags, report.broken.len()), (15, 0));
}

/// What the registry itself writes, with everything that it leaves lying about, raises no false alarm.
#[test]
fn tree_written_by_a_registry_is_clean() {
    let dir = Scratch::new();
    let source = Registry::serve(&samples());
    let options = RegistryOptions { writable: true, ..RegistryOptions::default() };
    let registry = Registry::start(dir.path(), &options);
    for name in ["demo/app:1.0", "demo/tool:2.1", "demo/single:1.0", "artifacts/sbom:1.0"] {
        let from = format!("docker://{}/{name}", source.address);
        let to = format!("docker://{}/{name}", registry.address);
        succeed(
            "skopeo",
            ["copy", "-q", "--all", "--src-tls-verify=false", "--dest-tls-verify=false", &from, &to],
        );
    }
    // An upload that its client gave up.
    let address = format!("http://{}/v2/demo/app/blobs/uploads/", registry.address);
    succeed("curl", ["-q", "-sS", "-f", "-X", "POST", &address]);
    let report = look(dir.path(), true);
    assert!(report.is_clean() && report.notes.is_empty(), "{report:#?}");
    assert_eq!(report.tags, 4);
    assert_served(dir.path());
}

#[test]
fn verify_prints_text_and_json() {
    let made = made();
    let dir = made.tree.dir();
    let (code, out, _) = saver(&["verify", "--deep"], dir);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.starts_with("no problems: 3 tags, 10 blobs ("), "{out}");
    write(&made.tree.data(&made.arm_layer), b"arm onlY");
    let before = tree::files(dir);
    assert_eq!(saver(&["verify"], dir).0, Some(0));
    let (code, out, _) = saver(&["verify", "--deep"], dir);
    assert_eq!(code, Some(1));
    let hex = made.arm_layer.hex();
    let path = format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
    assert!(out.contains(&format!("corrupt: {path}\n  its bytes hash to ")), "{out}");
    assert!(out.contains(&format!("  digest sha256:{hex}\n  image  app:1\n")), "{out}");
    assert!(out.contains("1 problem, 1 broken tag: "), "{out}");
    let (code, out, _) = saver(&["verify", "--deep", "--json"], dir);
    assert_eq!(code, Some(1));
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["problems"][0]["kind"], "corrupt");
    assert_eq!(report["problems"][0]["images"], serde_json::json!(["app:1"]));
    assert_eq!(report["problems"][0]["path"], path.as_str());
    assert_eq!(report["broken"], serde_json::json!(["app:1"]));
    assert_eq!(tree::files(dir), before, "verifying writes nothing");
}

#[test]
fn directory_that_is_no_tree_is_rejected() {
    let (code, _, err) = saver(&["verify"], Path::new("/nonexistent/dir"));
    assert_eq!(code, Some(2), "{err}");
    let empty = Scratch::new();
    let keep = Scratch::new();
    fs::write(keep.path().join("keep.list"), "a:b\n").unwrap();
    let keep = keep.path().join("keep.list");
    for command in [
        &["verify"][..],
        &["verify", "--repair"],
        &["ls"],
        &["prune", "--keep", keep.to_str().unwrap()],
        &["rm", "a:b"],
        &["serve"],
    ] {
        let (code, _, err) = saver(command, empty.path());
        assert_eq!(code, Some(2), "{command:?}: {err}");
        assert!(err.contains("not a directory of images"), "{command:?}: {err}");
        assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0, "{command:?} created something");
    }
    // A tree behind a link is none: saying that all is well would be a lie.
    std::os::unix::fs::symlink(samples().join("docker"), empty.path().join("docker")).unwrap();
    let (code, out, _) = saver(&["verify"], empty.path());
    assert_eq!(code, Some(1));
    assert!(out.contains("foreign: docker\n"), "{out}");
}
