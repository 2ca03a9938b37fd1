//! What can happen to a layer on its way.

use super::*;
use crate::support::fault::{Fault, TokenAuth};
use crate::support::proxy::{Conduct, Proxy};
use saver::oci::Digest;
use std::process::{Command, Stdio};

/// All bytes that saving this image takes over the network.
fn whole(image: &Image, manifest: u64) -> u64 {
    manifest + image.config.size + image.layers.iter().map(|layer| layer.size).sum::<u64>()
}

fn manifest_size(scene: &Scene, image: &Image) -> u64 {
    let store = Store::open_read_only(scene.dir.path()).unwrap();
    store.read_content(&image.manifest, 4 << 20).unwrap().unwrap().len() as u64
}

#[tokio::test]
async fn dropped_layer_download_resumes() {
    let scene = Scene::start().await;
    let (image, layer) = scene.sized("app", 2 << 20);
    let at = layer.len() / 100 * 87;
    scene.server.on("GET", &of(&image.layers[0])).times(1).answer(Fault::Cut(at));
    let report = scene.saves("app").await;
    assert_eq!(scene.ranges(&image.layers[0]), [String::new(), format!("bytes={at}-")]);
    assert_eq!(report.bytes_fetched, whole(&image, manifest_size(&scene, &image)), "no byte came twice");
    assert_eq!(report.images[0].attempts, 2);
}

#[tokio::test]
async fn repeated_drops_cost_no_byte_twice() {
    let scene = Scene::start().await;
    let (image, _) = scene.sized("app", LARGE);
    scene.server.on("GET", &of(&image.layers[0])).times(5).answer(Fault::Cut(50_001));
    let report = scene.saves("app").await;
    let asked = scene.ranges(&image.layers[0]);
    assert_eq!(asked.last().unwrap(), "bytes=250005-", "{asked:?}");
    assert_eq!(report.bytes_fetched, whole(&image, manifest_size(&scene, &image)));
}

/// The process itself is killed, so that nothing it could still do is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_run_is_resumed_in_mid_layer() {
    let scene = Scene::start().await;
    let (image, _) = scene.sized("app", LARGE);
    let at = 123_456;
    scene.server.on("GET", &of(&image.layers[0])).times(1).answer(Fault::Stall(at));
    let reference = format!("{}/team/app:v1", scene.server.registry());
    let mut command = Command::new(env!("CARGO_BIN_EXE_saver"));
    command.args(["--arch", "amd64", "--progress", "none", "--dir"]).arg(scene.dir.path()).arg(reference);
    command.env_clear().env("HOME", scene.dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    until("the layer's first part", || scene.partial_files().iter().any(|file| file.1 == at as u64)).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!is_tagged(scene.dir.path(), "team/app", "v1"));
    assert_tree(scene.dir.path());
    let report = scene.saves("app").await;
    assert_eq!(scene.ranges(&image.layers[0]), [String::new(), format!("bytes={at}-")]);
    assert!(report.bytes_fetched < whole(&image, 4096) - at as u64, "{}", report.bytes_fetched);
}

/// What lies half done may be from a crash that lost its middle.
#[tokio::test]
async fn damaged_partial_file_is_not_trusted() {
    let scene = Scene::start().await;
    let (image, _) = scene.sized("app", LARGE);
    scene.server.on("GET", &of(&image.layers[0])).answer(Fault::Cut(10_000));
    scene.fails("app", ErrorKind::Unavailable, "").await;
    let [(name, length)] = &scene.partial_files()[..] else { panic!("{:?}", scene.partial_files()) };
    let partial = walkdir::WalkDir::new(scene.dir.path().join(".saver/partial"));
    let file =
        partial.into_iter().map(Result::unwrap).find(|file| file.file_name() == name.as_str()).unwrap();
    std::fs::write(file.path(), vec![0; usize::try_from(*length).unwrap()]).unwrap();
    scene.then_completes("app").await;
}

#[tokio::test]
async fn ignored_range_restarts_the_layer() {
    let scene = Scene::start().await;
    let (image, layer) = scene.sized("app", LARGE);
    scene.server.on("GET", &of(&image.layers[0])).times(1).answer(Fault::Cut(100_000));
    scene.server.on("GET", &of(&image.layers[0])).answer(Fault::IgnoreRange);
    let report = scene.saves("app").await;
    assert!(report.bytes_fetched >= 100_000 + layer.len() as u64);
}

/// Every copy is damaged, each at another place: no download of the whole is ever right.
#[tokio::test]
async fn damaged_layer_is_repaired_by_chunk() {
    const MIB: usize = 1 << 20;
    for ranges in [true, false] {
        let mut scene = Scene::start().await;
        scene.save.transfer.ranges.min_size = u64::MAX;
        let (image, layer) = scene.sized("app", 4 * MIB + 5);
        let path = of(&image.layers[0]);
        for flip in [100, MIB + 7, 10, 4 * MIB + 1] {
            scene.server.on("GET", &path).times(1).answer(Fault::Flip(flip));
            if !ranges {
                break;
            }
        }
        if !ranges {
            scene.server.on("GET", &path).answer(Fault::IgnoreRange);
        }
        let report = scene.saves("app").await;
        let asked = scene.ranges(&image.layers[0]);
        if ranges {
            // The third copy is of the two chunks that differ, and its first is damaged again; the fourth is of that one.
            assert_eq!(asked[2..4], ["bytes=0-2097151", "bytes=0-1048575"], "{asked:?}");
            assert!(report.bytes_fetched < (2 * layer.len() + 5 * MIB) as u64, "{}", report.bytes_fetched);
        } else {
            assert_eq!(asked, ["", ""]);
        }
        let warnings = report.images[0].warnings.join(" ");
        assert!(warnings.contains("arrived damaged"), "{warnings}");
    }
}

#[tokio::test]
async fn layer_that_is_wrong_every_time_fails() {
    let scene = Scene::start().await;
    let (image, _) = scene.sized("app", LARGE);
    scene.server.on("GET", &of(&image.layers[0])).answer(Fault::Flip(5));
    scene.fails("app", ErrorKind::Corrupt, "does not match its digest").await;
    assert_eq!(scene.ranges(&image.layers[0]), ["", "", ""]);
    assert!(scene.partial_files().is_empty(), "{:?}", scene.partial_files());
    scene.then_completes("app").await;
}

#[tokio::test]
async fn wrong_content_range_is_refused() {
    for wrong in
        ["bytes 99999-307199/307200", "bytes 100001-307199/307200", "bytes 0-5/307200", "octets 1-2/3"]
    {
        let scene = Scene::start().await;
        let (image, _) = scene.sized("app", LARGE);
        scene.server.on("GET", &of(&image.layers[0])).times(1).answer(Fault::Cut(100_000));
        scene.server.on("GET", &of(&image.layers[0])).times(1).answer(Fault::ContentRange(wrong.into()));
        scene.saves("app").await;
    }
}

#[tokio::test]
async fn silent_connection_is_abandoned_and_resumed() {
    let mut scene = Scene::start().await;
    scene.save.access.session.idle_timeout = Duration::from_millis(200);
    let (image, _) = scene.sized("app", LARGE);
    scene.server.on("GET", &of(&image.layers[0])).times(1).answer(Fault::Stall(100_000));
    scene.server.on("HEAD", "").times(1).answer(Fault::Silence);
    let report = scene.saves("app").await;
    assert_eq!(scene.ranges(&image.layers[0]), ["", "bytes=100000-"]);
    assert_eq!(report.bytes_fetched, whole(&image, manifest_size(&scene, &image)));
}

#[tokio::test]
async fn silent_server_is_named() {
    let mut scene = Scene::start().await;
    scene.save.access.session.idle_timeout = Duration::from_millis(100);
    scene.save.transfer.retry.retries = 2;
    let (image, _) = scene.sized("app", LARGE);
    scene.server.on("GET", &of(&image.layers[0])).answer(Fault::Stall(100_000));
    scene.fails("app", ErrorKind::Unavailable, "sent no data before the timeout (after 3 attempts)").await;
    scene.then_completes("app").await;
}

#[tokio::test]
async fn silent_registry_fails_its_images_together() {
    let mut scene = Scene::start().await;
    scene.save.access.session.idle_timeout = Duration::from_millis(300);
    scene.save.transfer.retry.retries = 2;
    let names: Vec<String> = (0..40).map(|number| format!("app{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in &names {
        scene.image(name, &[name.as_bytes()]);
    }
    scene.server.on("", "").answer(Fault::Silence);
    let registry = scene.server.registry();
    let report = scene.run_at(&registry, &names).await;
    for image in &report.images {
        assert_eq!(image.status, Status::Failed);
        assert!(
            image
                .error
                .as_ref()
                .unwrap()
                .message
                .contains("sent no data before the timeout (after 3 attempts)")
        );
    }
    let asked = scene.server.count("", "");
    assert!(asked <= 40, "each of 40 images asked for itself: {asked} requests");
    scene.server.behave();
    let report = scene.run_at(&registry, &names).await;
    assert!(report.images.iter().all(|image| image.status == Status::Saved));
}

#[tokio::test]
async fn slow_connection_is_replaced() {
    let mut scene = Scene::start().await;
    let (image, _) = scene.sized("app", LARGE);
    // A twentieth of what is asked for; enough for heads and manifests all the same.
    let slow = Conduct { rate: Some(50_000), ..Conduct::good() };
    let proxy =
        Proxy::start(
            scene.server.address(),
            1,
            move |number, _| {
                if number < 4 { slow.clone() } else { Conduct::good() }
            },
        );
    let proxy = proxy.await;
    scene.save.transfer.retry.slow_bytes = 200_000;
    scene.save.transfer.retry.slow_window = Duration::from_millis(200);
    scene.save.transfer.retry.retries = 60;
    let report = scene.saves_at(&proxy.registry(), "app").await;
    let asked = scene.ranges(&image.layers[0]);
    assert!(asked.len() > 1 && asked.last().unwrap().starts_with("bytes="), "{asked:?}");
    assert!(report.bytes_fetched < 2 * LARGE as u64);
}

#[tokio::test]
async fn missing_layer_is_requested_once() {
    for length in [1000, LARGE] {
        let scene = Scene::start().await;
        let (image, _) = scene.sized("app", length);
        scene.server.on("GET", &of(&image.layers[0])).answer(Fault::status(404));
        let failure = scene.fails("app", ErrorKind::NotFound, &image.layers[0].digest.to_string()).await;
        assert!(failure.message.contains("404"), "{failure:?}");
        assert_eq!(scene.ranges(&image.layers[0]).len(), 1, "no retry");
        scene.then_completes("app").await;
    }
}

#[tokio::test]
async fn rate_limit_is_waited_out() {
    let scene = Scene::start().await;
    let (image, _) = scene.sized("app", LARGE);
    scene.server.on("GET", &of(&image.layers[0])).times(1).answer(Fault::Cut(100_000));
    scene.server.on("GET", &of(&image.layers[0])).times(1).answer(Fault::retry_after(429, "1"));
    let report = scene.saves("app").await;
    assert!(report.seconds >= 1.0, "{}", report.seconds);
    assert_eq!(report.bytes_fetched, whole(&image, manifest_size(&scene, &image)));
}

#[tokio::test]
async fn excessive_retry_after_fails_the_image() {
    let scene = Scene::start().await;
    let (image, _) = scene.sized("app", LARGE);
    scene.server.on("GET", &of(&image.layers[0])).times(1).answer(Fault::retry_after(429, "86400"));
    let report = scene.run_at(&scene.server.registry(), &["app"]).await;
    let failure = report.images[0].error.as_ref().unwrap();
    assert_eq!(failure.kind, ErrorKind::RateLimited, "{failure:?}");
    assert!(failure.hint.as_ref().unwrap().contains("--mirror"), "{failure:?}");
    scene.then_completes("app").await;
}

#[tokio::test]
async fn token_expired_between_ranges_is_renewed() {
    // Amazon's public registry answers 400 where others say 401.
    for expired_status in [None, Some(400)] {
        let scene = Scene::start().await;
        let (image, _) = scene.sized("app", LARGE);
        scene.server.require_tokens(TokenAuth { uses: Some(1), expired_status, ..TokenAuth::default() });
        scene.server.on("GET", &of(&image.layers[0])).times(3).answer(Fault::Cut(60_000));
        let report = scene.saves("app").await;
        assert_eq!(scene.ranges(&image.layers[0]).last().unwrap(), "bytes=180000-");
        assert_eq!(report.bytes_fetched, whole(&image, manifest_size(&scene, &image)));
        assert!(scene.server.count("", "/token") >= 4);
    }
}

#[tokio::test]
async fn expiring_tokens_fail_no_image() {
    for expired_status in [None, Some(400)] {
        let scene = Scene::start().await;
        scene.server.require_tokens(TokenAuth { uses: Some(3), expired_status, ..TokenAuth::default() });
        let names: Vec<String> = (0..20).map(|number| format!("app{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for name in &names {
            scene.image(name, &[name.as_bytes(), &noise(name, 2000)]);
        }
        let report = scene.run_at(&scene.server.registry(), &names).await;
        assert!(report.is_success(), "{:?}", report.images.iter().find_map(|image| image.error.as_ref()));
    }
}

#[tokio::test]
async fn wrong_content_length_is_detected() {
    for length in [LARGE - 1, LARGE + 1, 5, usize::MAX >> 1] {
        let scene = Scene::start().await;
        let (image, _) = scene.sized("app", LARGE);
        scene.server.on("GET", &of(&image.layers[0])).answer(Fault::Length(length as u64));
        scene.fails("app", ErrorKind::Corrupt, "bytes").await;
        scene.then_completes("app").await;
    }
}

#[tokio::test]
async fn wrong_declared_size_is_corrupt() {
    for actual in [1000, LARGE] {
        for declared in [actual as u64 - 1, actual as u64 + 1, 0] {
            let scene = Scene::start().await;
            let (image, _) = scene.sized("whole", actual);
            let mut lie = image.layers[0].clone();
            lie.size = declared;
            document(&scene, "app", &serde_json::json!([lie]), &image.config);
            scene.fails("app", ErrorKind::Corrupt, "").await;
            // The same bytes under an honest manifest are as welcome as ever.
            scene.saves("whole").await;
            scene.fails("app", ErrorKind::Corrupt, "").await;
        }
    }
}

/// The image `team/NAME:v1` with these layers, as a manifest may say it.
fn document(scene: &Scene, name: &str, layers: &serde_json::Value, config: &Descriptor) -> Digest {
    let media_type = saver::oci::media_type::OCI_MANIFEST;
    let document =
        serde_json::json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers});
    let bytes = serde_json::to_vec(&document).unwrap();
    scene.server.add_manifest(&format!("team/{name}"), Some("v1"), media_type, bytes)
}

#[tokio::test]
async fn petabyte_layer_fails_only_its_image() {
    // What no disk has room for, and what no content has.
    for (size, kind, words) in [
        (1_u64 << 44, ErrorKind::Corrupt, "differs from its descriptor"),
        (1 << 50, ErrorKind::Unsupported, "the most that is accepted"),
        (u64::MAX, ErrorKind::Unsupported, "the most that is accepted"),
    ] {
        let scene = Scene::start().await;
        let (image, _) = scene.sized("whole", LARGE);
        let mut lie = image.layers[0].clone();
        lie.size = size;
        document(&scene, "app", &serde_json::json!([lie]), &image.config);
        scene.fails("app", kind, words).await;
        let blocks = walkdir::WalkDir::new(scene.dir.path()).into_iter().map(Result::unwrap);
        let used: u64 =
            blocks.map(|file| std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap()) * 512).sum();
        assert!(used < 1 << 20, "{used} bytes of disk");
    }
}

#[tokio::test]
async fn layers_that_do_not_fit_together_do_not_end_the_run() {
    let scene = Scene::start().await;
    let (image, _) = scene.sized("whole", LARGE);
    let free = ImageSaver::new(scene.save.clone()).unwrap().store().free_space().unwrap().unwrap().bytes;
    let lies: Vec<Descriptor> =
        (0..8_u8).map(|number| Descriptor::new("application/x", Digest::of(&[number]), free / 3)).collect();
    document(&scene, "app", &serde_json::to_value(&lies).unwrap(), &image.config);
    scene.fails("app", ErrorKind::NotFound, "").await;
    assert!(scene.partial_files().iter().all(|file| file.1 == 0), "{:?}", scene.partial_files());
}

#[tokio::test]
async fn chunked_layer_without_length_is_saved() {
    for length in [1000, LARGE] {
        let scene = Scene::start().await;
        let (image, _) = scene.sized("app", length);
        scene.server.on("GET", &of(&image.layers[0])).answer(Fault::Chunked);
        scene.saves("app").await;
    }
}

#[tokio::test]
async fn chunked_layer_that_ends_early_fails() {
    let scene = Scene::start().await;
    let (image, _) = scene.sized("app", LARGE);
    scene.server.on("GET", &of(&image.layers[0])).times(2).answer(Fault::ChunkedEnd(100_000));
    let report = scene.saves("app").await;
    assert_eq!(scene.ranges(&image.layers[0]).last().unwrap(), "bytes=200000-");
    assert_eq!(report.bytes_fetched, whole(&image, manifest_size(&scene, &image)));
}

#[tokio::test]
async fn layer_with_a_content_encoding_is_saved_if_it_can_be() {
    for encoding in ["gzip", "x-gzip", "aws-chunked", "br", "UTF-8"] {
        let scene = Scene::start().await;
        let (image, _) = scene.sized("app", LARGE);
        scene.server.on("GET", &of(&image.layers[0])).answer(Fault::header("Content-Encoding", encoding));
        scene.saves("app").await;
    }
    // Really compressed, in a way that saver does not undo.
    let scene = Scene::start().await;
    let (image, _) = scene.sized("app", LARGE);
    let headers = vec![("Content-Encoding".to_owned(), "br".to_owned())];
    scene.server.on("GET", &of(&image.layers[0])).answer(Fault::Status(200, headers, "compressed".into()));
    let failure = scene.fails("app", ErrorKind::Unsupported, "br").await;
    assert!(failure.hint.as_ref().unwrap().contains("proxy"), "{failure:?}");
    scene.then_completes("app").await;
}

#[tokio::test]
async fn wrong_bytes_are_downloaded_again() {
    for length in [1000, LARGE] {
        let scene = Scene::start().await;
        let (image, _) = scene.sized("app", length);
        scene.server.on("GET", &of(&image.layers[0])).times(1).answer(Fault::Flip(777));
        scene.server.on("GET", &of(&image.config)).times(1).answer(Fault::Flip(7));
        scene.saves("app").await;
        assert_eq!(scene.ranges(&image.layers[0]), ["", ""], "all of it, and once");
    }
}

#[tokio::test]
async fn persistent_wrong_bytes_are_never_published() {
    for length in [1000, LARGE] {
        let scene = Scene::start().await;
        let (image, _) = scene.sized("app", length);
        scene.server.on("GET", &of(&image.layers[0])).answer(Fault::Flip(777));
        scene.fails("app", ErrorKind::Corrupt, "does not match its digest").await;
        assert_eq!(scene.ranges(&image.layers[0]).len(), 3, "two further tries");
        assert!(scene.partial_files().iter().all(|file| file.1 == 0), "{:?}", scene.partial_files());
        scene.then_completes("app").await;
    }
}

#[tokio::test]
async fn shared_layer_is_fetched_from_the_other_image() {
    let scene = Scene::start().await;
    let layer = noise("shared", LARGE);
    let image = scene.image("one", &[&layer]);
    scene.image("two", &[&layer, b"its own"]);
    scene.server.on("GET", &format!("/v2/team/one{}", of(&image.layers[0]))).answer(Fault::status(403));
    let report = scene.run_at(&scene.server.registry(), &["one", "two"]).await;
    assert_eq!(report.images[1].status, Status::Saved, "{:?}", report.images[1].error);
    scene.then_completes("one").await;
}
