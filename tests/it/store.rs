//! The store: what registries read of it, what a second run changes, what it does with damage and planted links.

use super::support::images::{Image, assortment, deliver, deliver_all, noise};
use super::support::peers::registry::{Registry, garbage_collect};
use super::support::tree;
use crate::support::scratch::Scratch;
use proptest::prelude::*;
use saver::ErrorKind;
use saver::content::memory::Memory;
use saver::driver::MemoryDriver;
use saver::store::{Durability, Store, StoreOptions};
use std::collections::BTreeMap;
use std::io::BufRead;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::Arc;

const ANY: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";

fn open(dir: &Path) -> Store {
    Store::open(dir, StoreOptions::default()).unwrap()
}

/// Delivers all of `images`; every one must be published.
async fn fill(store: &Store, images: &[Image]) -> u64 {
    let (outcomes, written) = deliver_all(store, images).await;
    for outcome in outcomes {
        outcome.unwrap();
    }
    written
}

/// The whole tree, which must be true.
fn checked(dir: &Path) -> saver::content::memory::Contents {
    let (contents, problems) = tree::read(&tree::files(dir));
    assert!(problems.is_empty(), "{problems:#?}");
    contents
}

/// The status and body of a GET.
async fn get(address: &str, path: &str) -> (u16, Vec<u8>) {
    let client = reqwest::Client::new();
    let request = client.get(format!("http://{address}/v2/{path}")).header("Accept", ANY);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.bytes().await.unwrap().to_vec())
}

/// Asserts that a registry serves every part of `image` in every place.
async fn assert_served(address: &str, image: &Image) {
    for place in &image.places {
        let repository = &place.repository;
        if let Some(tag) = &place.tag {
            let root = &image.manifests.last().unwrap().bytes;
            let (status, body) = get(address, &format!("{repository}/manifests/{tag}")).await;
            assert_eq!((status, body.as_slice()), (200, &root[..]), "{place}");
            let (_, tags) = get(address, &format!("{repository}/tags/list")).await;
            let tags: serde_json::Value = serde_json::from_slice(&tags).unwrap();
            assert!(tags["tags"].as_array().unwrap().iter().any(|name| name == tag.as_str()), "{tags}");
        }
        for manifest in &image.manifests {
            let (status, body) = get(address, &format!("{repository}/manifests/{}", manifest.digest)).await;
            assert_eq!((status, body.as_slice()), (200, &manifest.bytes[..]), "{place}");
        }
        for blob in &image.blobs {
            let digest = saver::oci::Digest::of(blob);
            let (status, body) = get(address, &format!("{repository}/blobs/{digest}")).await;
            assert_eq!((status, body.as_slice()), (200, &blob[..]), "{place}: {digest}");
        }
    }
}

/// An index of two children of which only the first was asked for.
fn sparse() -> Image {
    let children = ["amd64", "arm64"]
        .map(|name| Image::single(&format!("sparse {name}"), &[noise(&format!("sparse {name}"), 500)], &[]));
    let mut image = Image::index(&children, &["sparse:1.0"]);
    image.manifests.remove(1);
    image.blobs.retain(|blob| !children[1].blobs.contains(blob));
    image
}

#[tokio::test]
async fn registry_serves_every_saved_image() {
    let dir = Scratch::new();
    let mut images = assortment();
    images.push(sparse());
    fill(&open(dir.path()), &images).await;
    let registry = Registry::serve(dir.path());
    for image in &images {
        assert_served(&registry.address, image).await;
    }
    let (_, catalog) = get(&registry.address, "_catalog").await;
    let catalog: serde_json::Value = serde_json::from_slice(&catalog).unwrap();
    let expect = ["app", "deep/er/pinned", "library/app", "sparse", "tool"];
    assert_eq!(catalog["repositories"], serde_json::json!(expect));
    let names: Vec<String> =
        open(dir.path()).repositories().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(names, expect);
}

#[tokio::test]
async fn garbage_collection_keeps_every_saved_image() {
    let dir = Scratch::new();
    let mut images = assortment();
    images.push(sparse());
    fill(&open(dir.path()), &images).await;
    let before = tree::files(dir.path());
    garbage_collect(dir.path(), false);
    assert_eq!(tree::files(dir.path()), before);
}

#[tokio::test]
async fn registry_serves_a_growing_tree_without_errors() {
    let dir = Scratch::new();
    let base = noise("base", 2000);
    let image = |number: usize| {
        let own = noise(&format!("own {number}"), 300);
        let name = format!("image {number}");
        Image::single(&name, &[base.clone(), own], &[&format!("grow/{}:{number}", number % 5)])
    };
    let images: Vec<Image> = (0..16).map(image).collect();
    let store = open(dir.path());
    deliver(&store, &images[0]).await.unwrap();
    let registry = Registry::serve(dir.path());
    let mut writing = std::pin::pin!(async {
        for image in &images {
            deliver(&store, image).await.unwrap();
        }
    });
    let mut seen = 0;
    for number in (0..images.len()).cycle() {
        let ended = futures::poll!(&mut writing).is_ready();
        let place = &images[number].places[0];
        let tag = place.tag.as_ref().unwrap();
        let (status, _) = get(&registry.address, &format!("{}/manifests/{tag}", place.repository)).await;
        match status {
            200 => {
                assert_served(&registry.address, &images[number]).await;
                seen += 1;
            }
            404 => assert!(!ended, "{place} is not there"),
            other => panic!("{place}: status {other}"),
        }
        if ended {
            break;
        }
    }
    assert!(seen > 0);
}

#[tokio::test]
async fn unchanged_images_write_nothing() {
    let dir = Scratch::new();
    fill(&open(dir.path()), &assortment()).await;
    let marks = || -> BTreeMap<_, _> {
        let entries = walkdir::WalkDir::new(dir.path()).into_iter().map(Result::unwrap);
        entries
            .map(|entry| {
                let found = entry.metadata().unwrap();
                let times = (found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec());
                (entry.into_path(), (found.ino(), found.mode(), found.len(), times))
            })
            .collect()
    };
    let before = marks();
    let store = open(dir.path());
    let lock = store.lock_shared(std::time::Duration::ZERO).unwrap();
    let with_lock = marks();
    assert_eq!(fill(&store, &assortment()).await, 0);
    drop((lock, store));
    let changed: Vec<_> =
        marks().into_iter().filter(|(path, mark)| with_lock.get(path) != Some(mark)).collect();
    assert!(changed.is_empty(), "{changed:#?}");
    // All that a first lock adds is the lock.
    assert_eq!(with_lock.len(), before.len() + 1);
    let store = open(dir.path());
    drop(store.lock_shared(std::time::Duration::ZERO).unwrap());
    assert_eq!(marks(), with_lock);
}

#[tokio::test]
async fn damaged_files_are_replaced_by_the_next_save() {
    let dir = Scratch::new();
    let images = assortment();
    fill(&open(dir.path()), &images).await;
    let whole = tree::files(&dir.path().join("docker"));
    for (path, content) in &whole {
        let mut damages = vec![Vec::new(), content[..content.len() / 2].to_vec()];
        if path.ends_with("/link") {
            damages.push([content.as_slice(), b"\n"].concat());
            damages.push(content.iter().map(|byte| byte ^ 1).collect());
        }
        for damage in damages.iter().filter(|damage| *damage != content) {
            std::fs::write(dir.path().join("docker").join(path), damage).unwrap();
            fill(&open(dir.path()), &images).await;
            assert_eq!(tree::files(&dir.path().join("docker")), whole, "{path} damaged to {damage:?}");
        }
        std::fs::remove_file(dir.path().join("docker").join(path)).unwrap();
        fill(&open(dir.path()), &images).await;
        assert_eq!(tree::files(&dir.path().join("docker")), whole, "{path} removed");
    }
}

#[tokio::test]
async fn damaged_links_are_not_followed() {
    let dir = Scratch::new();
    dir.allow_damage("all links end with a newline");
    let image = &assortment()[1];
    let store = open(dir.path());
    deliver(&store, image).await.unwrap();
    let (repository, tag) = (&image.places[0].repository, image.places[0].tag.as_ref().unwrap());
    assert_eq!(store.read_tag(repository, tag).unwrap(), Some(image.root()));
    assert_eq!(store.tags(repository).unwrap(), std::slice::from_ref(tag));
    for (path, content) in tree::files(dir.path()).iter().filter(|(path, _)| path.ends_with("/link")) {
        std::fs::write(dir.path().join(path), [content.as_slice(), b"\n"].concat()).unwrap();
    }
    assert_eq!(store.read_tag(repository, tag).unwrap(), None);
    assert!(!store.has_revision(repository, &image.root()).unwrap());
    assert!(!store.has_named(repository, tag, &image.root()).unwrap());
    assert!(!store.has_layer(repository, &saver::oci::Digest::of(&image.blobs[0])).unwrap());
}

#[tokio::test]
async fn planted_directory_symlinks_are_not_followed() {
    let images = assortment();
    let outer = Scratch::new();
    let elsewhere = outer.path().join("elsewhere");
    let whole = outer.path().join("whole");
    fill(&open(&whole), &images).await;
    let hex = images[1].root().hex();
    for planted in [
        "docker",
        "docker/registry/v2",
        "docker/registry/v2/blobs",
        "docker/registry/v2/blobs/sha256",
        &format!("docker/registry/v2/blobs/sha256/{}", &hex[..2]),
        &format!("docker/registry/v2/blobs/sha256/{}/{hex}", &hex[..2]),
        "docker/registry/v2/repositories/tool",
        "docker/registry/v2/repositories/tool/_layers",
        "docker/registry/v2/repositories/tool/_manifests/tags/latest",
        ".saver",
        ".saver/partial",
        ".saver/stage",
    ] {
        let dir = outer.path().join("planted");
        std::fs::create_dir_all(dir.join(planted).parent().unwrap()).unwrap();
        // What it leads to is a real tree's part, which must neither be served nor changed.
        std::fs::create_dir_all(&elsewhere).unwrap();
        if whole.join(planted).is_dir() {
            std::fs::remove_dir(&elsewhere).unwrap();
            std::fs::rename(whole.join(planted), &elsewhere).unwrap();
        }
        symlink(&elsewhere, dir.join(planted)).unwrap();
        let before = tree::files(&elsewhere);
        let store = open(&dir);
        let tool = &images[1].places[0];
        assert_eq!(store.read_tag(&tool.repository, tool.tag.as_ref().unwrap()).unwrap(), None, "{planted}");
        assert!(store.tags(&tool.repository).unwrap().is_empty(), "{planted}");
        assert_eq!(store.read_content(&images[1].root(), 1 << 20).unwrap(), None, "{planted}");
        let (outcomes, _) = deliver_all(&store, &images).await;
        let error =
            outcomes.into_iter().find_map(Result::err).unwrap_or_else(|| panic!("{planted} followed"));
        assert_eq!(error.kind(), ErrorKind::Storage, "{planted}: {error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("symbolic link")), "{planted}: {error:?}");
        drop(store);
        assert_eq!(tree::files(&elsewhere), before, "{planted}");
        std::fs::remove_dir_all(&dir).unwrap();
        if whole.join(planted).exists() || before.is_empty() {
            std::fs::remove_dir_all(&elsewhere).unwrap();
        } else {
            std::fs::rename(&elsewhere, whole.join(planted)).unwrap();
        }
    }
}

#[tokio::test]
async fn planted_file_symlinks_are_replaced() {
    let dir = Scratch::new();
    let images = assortment();
    fill(&open(dir.path()), &images).await;
    let docker = dir.path().join("docker");
    let whole = tree::files(&docker);
    let secret = tempfile::NamedTempFile::new().unwrap();
    for (path, content) in &whole {
        // What it leads to is even right: it could be another file a moment later.
        std::fs::write(secret.path(), content).unwrap();
        std::fs::remove_file(docker.join(path)).unwrap();
        symlink(secret.path(), docker.join(path)).unwrap();
        fill(&open(dir.path()), &images).await;
        assert!(docker.join(path).symlink_metadata().unwrap().is_file(), "{path}");
        assert_eq!(std::fs::read(secret.path()).unwrap(), *content, "{path}");
    }
    assert_eq!(tree::files(&docker), whole);
    // Nothing is added to a file that a link leads to.
    let sources = dir.path().join(".saver/sources/0.jsonl");
    std::fs::rename(&sources, secret.path()).unwrap();
    symlink(secret.path(), &sources).unwrap();
    let before = std::fs::read(secret.path()).unwrap();
    fill(&open(dir.path()), &images).await;
    assert_eq!(std::fs::read(secret.path()).unwrap(), before);
    assert!(dir.path().join(".saver/sources/1.jsonl").exists());
}

#[tokio::test]
async fn root_directory_may_be_a_symlink() {
    let outer = Scratch::new();
    std::fs::create_dir(outer.path().join("real")).unwrap();
    symlink("real", outer.path().join("dir")).unwrap();
    fill(&open(&outer.path().join("dir")), &assortment()).await;
    assert!(!checked(&outer.path().join("real")).tags.is_empty());
}

/// Two stores on one directory share nothing but the file system, as two processes do.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_stores_share_a_directory() {
    let dir = Scratch::new();
    let layers: Vec<_> = (0..6).map(|number| noise(&format!("layer {number}"), 5000)).collect();
    let image = |number: usize| {
        let own = [layers[number % 6].clone(), layers[(number + 1) % 6].clone()];
        Image::single(&format!("{number}"), &own, &[&format!("shared:{number}"), &format!("own/{number}:1")])
    };
    let images: Arc<Vec<Image>> = Arc::new((0..12).map(image).collect());
    let savers: Vec<_> = (0..3)
        .map(|number| {
            let (dir, images) = (dir.path().to_owned(), images.clone());
            tokio::spawn(async move {
                let mut images = images.to_vec();
                images.rotate_left(number * 4);
                fill(&open(&dir), &images).await
            })
        })
        .collect();
    let mut written = 0;
    for saver in savers {
        written += saver.await.unwrap();
    }
    let memory = Memory::new();
    for image in images.iter() {
        written -= deliver(&memory, image).await.unwrap();
    }
    assert_eq!(checked(dir.path()), memory.contents());
    assert_eq!(written, 0, "a blob was written more than once");
    let is_left_over = |path: &String| path.starts_with(".saver/") && !path.starts_with(".saver/sources/");
    let left: Vec<_> = tree::files(dir.path()).into_keys().filter(is_left_over).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn stage_areas_of_dead_processes_are_removed() {
    let dir = Scratch::new();
    let dead = dir.path().join(".saver/stage/1-0-dead");
    std::fs::create_dir_all(&dead).unwrap();
    std::fs::write(dead.join("7"), "left").unwrap();
    let alive = dir.path().join(".saver/stage/2-0-alive");
    std::fs::create_dir_all(&alive).unwrap();
    std::fs::write(alive.join("7"), "wanted").unwrap();
    let held = std::fs::File::open(&alive).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { fill(&open(dir.path()), &assortment()).await });
    assert!(!dead.exists());
    assert_eq!(std::fs::read(alive.join("7")).unwrap(), b"wanted");
}

#[test]
fn lock_error_names_the_holder_until_it_dies() {
    let dir = Scratch::new();
    let store = open(dir.path());
    drop(store.lock_shared(std::time::Duration::ZERO).unwrap());
    // Another process, which says that it has the lock by printing a line, and then waits to be killed.
    let mut other = std::process::Command::new("flock")
        .args(["--no-fork", dir.path().join(".saver/lock").to_str().unwrap(), "cat", "/proc/self/comm", "-"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(other.stdout.take().unwrap()).read_line(&mut line).unwrap();
    for error in [
        store.lock_shared(std::time::Duration::ZERO).unwrap_err(),
        store.lock_exclusive("prune", std::time::Duration::ZERO).unwrap_err(),
    ] {
        let holder = format!("cat (process {})", other.id());
        assert!(error.message().contains(&holder), "{error}");
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert!(error.hint().is_some());
    }
    let waiting = std::thread::spawn({
        let store = store.clone();
        move || drop(store.lock_exclusive("prune", std::time::Duration::from_secs(60)).unwrap())
    });
    other.kill().unwrap();
    other.wait().unwrap();
    waiting.join().unwrap();
    drop(store.lock_shared(std::time::Duration::ZERO).unwrap());
}

#[derive(Clone, Debug)]
struct Step {
    image: usize,
    repository: usize,
    tag: Option<usize>,
    together: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0usize..6, 0usize..3, proptest::option::of(0usize..2), any::<bool>());
    let step = step.prop_map(|(image, repository, tag, together)| Step { image, repository, tag, together });
    proptest::collection::vec(step, 1..12)
}

/// Six images over four layers: alone, and in indexes of each other.
fn pool() -> Vec<Image> {
    let layer = |number: usize| noise(&format!("pool {number}"), 50 + number);
    let singles: Vec<Image> = (0..4)
        .map(|number| Image::single(&number.to_string(), &[layer(number), layer((number + 1) % 4)], &[]))
        .collect();
    let inner = Image::index(&singles[..2], &[]);
    let outer = Image::index(&[inner.clone(), singles[2].clone()], &[]);
    singles.into_iter().chain([inner, outer]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is published, one after the other or at the same time, the tree holds what the model holds.
    #[test]
    fn random_publications_match_the_memory_model(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let driver = MemoryDriver::new();
        let mut options = StoreOptions::default();
        options.durability = Durability::None;
        let store = Store::with_driver(Arc::new(driver.clone()), options);
        let memory = Memory::new();
        let pool = pool();
        let images: Vec<Image> = steps.iter().map(|step| {
            let repository = ["a", "b/c", "a/d"][step.repository];
            let tag = step.tag.map(|tag| format!(":{tag}")).unwrap_or_default();
            let mut image = pool[step.image].clone();
            image.places = vec![super::support::images::place(&format!("{repository}{tag}"))];
            image
        }).collect();
        runtime.block_on(async {
            let mut at = 0;
            while at < images.len() {
                // Neighbours that want to go together do, unless they disagree on a tag.
                let mut end = at + 1;
                while end < images.len() && steps[end].together
                    && images[at..end].iter().all(|image| image.places != images[end].places)
                {
                    end += 1;
                }
                fill(&store, &images[at..end]).await;
                for image in &images[at..end] {
                    deliver(&memory, image).await.unwrap();
                }
                at = end;
            }
        });
        drop(store);
        let (contents, problems) = tree::read(&driver.files());
        prop_assert!(problems.is_empty(), "{:#?}", problems);
        prop_assert_eq!(contents, memory.contents());
    }
}
