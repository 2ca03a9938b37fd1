//! Many images and faults by chance. `SAVER_TEST_STORM` multiplies the work: 1 is what continuous integration has time for.

use super::*;
use crate::support::fault::{Fault, TokenAuth};
use crate::support::proxy::{Conduct, Proxy, Where};
use crate::support::tree;

/// How much more than in continuous integration is wanted.
fn scale() -> usize {
    std::env::var("SAVER_TEST_STORM").map_or(1, |value| value.parse().unwrap())
}

/// `count` images of a shared layer and layers of their own: `lengths` bytes each.
fn fleet(scene: &Scene, count: usize, lengths: &[usize]) -> Vec<String> {
    let shared = noise("shared", 40_000);
    let names: Vec<String> = (0..count).map(|number| format!("app{number}")).collect();
    for name in &names {
        let own: Vec<Bytes> =
            lengths.iter().map(|length| noise(&format!("{name} {length}"), *length)).collect();
        let mut layers: Vec<&[u8]> = vec![&shared];
        layers.extend(own.iter().map(|layer| &layer[..]));
        scene.image(name, &layers);
    }
    names
}

fn failures(report: &Report) -> Vec<String> {
    report.images.iter().filter_map(|image| Some(format!("{:?}", image.error.as_ref()?))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_images_survive_failing_requests() {
    let mut scene = Scene::start().await;
    let names = fleet(&scene, 200 * scale(), &[3000]);
    let (large, _) = scene.sized("large", 5 * LARGE);
    scene.server.require_tokens(TokenAuth {
        uses: Some(20),
        expired_status: Some(400),
        ..TokenAuth::default()
    });
    let faults = [
        Fault::Close,
        Fault::status(500),
        Fault::status(502),
        Fault::status(503),
        Fault::retry_after(429, "0"),
        Fault::Cut(700),
        Fault::ChunkedEnd(11),
        Fault::IgnoreRange,
        Fault::Stall(20),
        Fault::Delay(Duration::from_millis(5)),
    ];
    // One in three altogether: each rule sees what the ones before let pass.
    for (seed, fault) in (0..).zip(faults) {
        scene.server.on("", "").one_in(28, seed).answer(fault);
    }
    // A token has no digest: a wrong one is refused, and that is the end of it.
    scene.server.on("", "/v2/").one_in(20, 99).answer(Fault::Flip(100));
    // Behind a network that cuts, stalls and dawdles too.
    let proxy = Proxy::start(scene.server.address(), 7, |_, random| match random.u32(0..10) {
        0 => Conduct::cut_after(random.u64(0..200_000)),
        1 => Conduct::stall_after(random.u64(0..200_000)),
        2 => Conduct { delay: Duration::from_millis(10), ..Conduct::good() },
        _ => Conduct::good(),
    })
    .await;
    scene.save.access.session.plain_http = true;
    scene.save.access.session.idle_timeout = Duration::from_millis(300);
    // Enough tries that chance alone never spends them all.
    scene.save.transfer.retry.retries = 100;
    scene.save.transfer.retry.corruptions = 100;
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.push("large");
    let report = scene.run_at(&proxy.registry(), &names).await;
    assert!(report.is_success(), "{:#?}", failures(&report));
    let contents = tree::read(&tree::files(scene.dir.path()));
    assert!(contents.1.is_empty(), "{:#?}", contents.1);
    assert!(contents.0.blobs.contains_key(&large.layers[0].digest));
    let retried = report.images.iter().filter(|image| image.attempts > 1).count();
    assert!(retried > names.len() / 3, "only {retried} were tried again: this was no storm");
}

/// Saves a fleet of which bytes are changed on the way, again and again.
async fn flipped(place: Where, one_in: u64, rounds: usize, all_saved: bool) {
    let mut changed = 0;
    for round in 0..rounds {
        let mut scene = Scene::start().await;
        let names = fleet(&scene, 40, &[5000, LARGE]);
        let conduct = Conduct { flip: Some((one_in, place)), ..Conduct::good() };
        let proxy = Proxy::start(scene.server.address(), round as u64, move |_, _| conduct.clone()).await;
        scene.save.access.session.plain_http = true;
        scene.save.access.session.idle_timeout = Duration::from_millis(500);
        scene.save.transfer.retry.corruptions = 50;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        // Looks at every byte of the tree.
        let report = scene.run_at(&proxy.registry(), &names).await;
        assert!(!all_saved || report.is_success(), "{:#?}", failures(&report));
        let problems = tree::read(&tree::files(scene.dir.path())).1;
        assert!(problems.is_empty(), "{problems:#?}");
        changed += proxy.flipped();
        // Over a sound network what lacks is had.
        proxy.behave();
        let report = scene.run_at(&scene.server.registry(), &names).await;
        assert!(report.is_success(), "{:#?}", failures(&report));
    }
    assert!(changed > 5 * rounds as u64, "only {changed} bytes were changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bytes_are_never_published() {
    flipped(Where::Bodies, 1_000_000, scale(), true).await;
}

/// Heads too, and far more often: what a flipped head makes of an image is left open, but not what is in the tree.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flips_in_headers_and_bodies_publish_no_wrong_byte() {
    flipped(Where::Anywhere, 100_000, scale(), false).await;
}
