//! What can happen to a layer that comes in parts, over several connections at once.

use super::*;
use crate::support::fault::Fault;
use crate::support::proxy::{Conduct, Proxy};
use crate::support::relay::Relay;
use std::process::{Command, Stdio};

const SIZE: usize = 1 << 20;

/// A registry behind connections that are slow one by one, so that more of them bring more.
struct Slow {
    scene: Scene,
    proxy: Proxy,
    image: Image,
}

impl Slow {
    async fn start() -> Self {
        let mut scene = Scene::start().await;
        scene.save.transfer.ranges.min_size = 64 << 10;
        scene.save.transfer.ranges.min_time = Duration::from_millis(50);
        scene.save.transfer.ranges.interval = Duration::from_millis(20);
        let slow = Conduct { rate: Some(1_000_000), ..Conduct::good() };
        let proxy = Proxy::start(scene.server.address(), 1, move |_, _| slow.clone()).await;
        let (image, _) = scene.sized("app", SIZE);
        Self { scene, proxy, image }
    }

    fn layer(&self) -> String {
        of(&self.image.layers[0])
    }

    /// What was asked for of the layer.
    fn ranges(&self) -> Vec<String> {
        self.scene.ranges(&self.image.layers[0])
    }

    async fn saves(&self) -> Report {
        self.scene.saves_at(&self.proxy.registry(), "app").await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_layer_uses_several_connections() {
    let slow = Slow::start().await;
    let report = slow.saves().await;
    let asked = slow.ranges();
    assert!(asked.len() >= 4 && asked[0].is_empty() && asked[1..].iter().all(|range| !range.is_empty()));
    assert!(slow.proxy.connections() >= 4);
    let vain = report.bytes_fetched - SIZE as u64;
    assert!(vain < SIZE as u64 / 2, "{vain} bytes came in vain: {asked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_range_is_requested_again() {
    let slow = Slow::start().await;
    slow.scene.server.on("GET", &slow.layer()).skip(1).times(3).answer(Fault::Cut(30_000));
    let report = slow.saves().await;
    assert!(slow.ranges().len() >= 5, "{:?}", slow.ranges());
    assert_eq!(report.images[0].attempts, 1, "one stream went on all the time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_ranges_fail_no_image() {
    for fault in [Fault::retry_after(429, "0"), Fault::status(503), Fault::status(416), Fault::Close] {
        let slow = Slow::start().await;
        slow.scene.server.on("GET", &slow.layer()).skip(1).times(3).answer(fault);
        slow.saves().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_without_ranges_sends_the_layer_once() {
    let slow = Slow::start().await;
    slow.scene.server.on("GET", &slow.layer()).answer(Fault::IgnoreRange);
    let report = slow.saves().await;
    assert!(report.bytes_fetched < SIZE as u64 * 5 / 4, "{}", report.bytes_fetched);
    assert!(slow.ranges().len() <= 5, "{:?}", slow.ranges());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_range_costs_one_more_download() {
    let slow = Slow::start().await;
    slow.scene.server.on("GET", &slow.layer()).skip(2).times(1).answer(Fault::Flip(100));
    slow.saves().await;
    let asked = slow.ranges();
    assert_eq!(asked.iter().filter(|range| range.is_empty()).count(), 2, "{asked:?}");
    assert_eq!(asked.last().unwrap(), "", "{asked:?}");
}

/// The process itself is killed: the file has to tell which parts came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_run_is_resumed_in_mid_ranges() {
    let scene = Scene::start().await;
    let size = 48 << 20;
    let (image, _) = scene.sized("app", size);
    let relay = Relay::start(&scene.server.address().to_string());
    relay.limit(20_000_000);
    let reference = format!("{}/team/app:v1", relay.address);
    let mut command = Command::new(env!("CARGO_BIN_EXE_saver"));
    command.args(["--arch", "amd64", "--progress", "none", "--dir"]).arg(scene.dir.path()).arg(&reference);
    command.env_clear().env("HOME", scene.dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    until("more than half of it", || relay.passed() > 28 << 20).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let asked = scene.ranges(&image.layers[0]);
    assert!(asked.len() >= 3, "it did not come in parts: {asked:?}");
    assert_tree(scene.dir.path());
    relay.limit(0);
    let report = scene.saves("app").await;
    assert!(report.bytes_fetched < size as u64 - (12 << 20), "{} came again", report.bytes_fetched);
    let again = &scene.ranges(&image.layers[0])[asked.len()..];
    assert!(again.iter().all(|range| !range.is_empty()), "{again:?}");
}
