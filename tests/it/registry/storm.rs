//! The client and the engine together: requests that fail by chance, in every way, and all images saved.

use super::*;
use crate::support::fault::{Fault, TokenAuth};
use crate::support::scratch::Scratch;
use saver::{ImageSaver, SaveImage, SaveOptions};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_in_three_fails_and_every_image_is_saved() {
    let server = FaultServer::start().await;
    let mut images = Vec::new();
    for number in 0..40_u32 {
        let name = format!("team/app{number}");
        let own = vec![u8::try_from(number).unwrap(); 3000];
        server.add_image(&name, "v1", &[b"a layer that all share", &own]);
        let reference = format!("{}/{name}:v1", server.registry());
        images.push(SaveImage::from(reference.parse::<saver::oci::Reference>().unwrap()));
    }
    server.require_tokens(TokenAuth { uses: Some(3), ..TokenAuth::default() });
    let faults = [
        Fault::Close,
        Fault::status(500),
        Fault::status(503),
        Fault::retry_after(429, "0"),
        Fault::Cut(11),
        Fault::ChunkedEnd(11),
        Fault::IgnoreRange,
    ];
    // One in three altogether: each rule sees what the ones before let pass.
    for (seed, fault) in (0..).zip(faults) {
        server.on("", "").one_in(18, seed).answer(fault);
    }
    let dir = Scratch::new();
    let mut save = SaveOptions::new(dir.path());
    save.transfer.referrers.kinds = saver::transfer::ReferrerKinds::None;
    save.transfer.platforms = "amd64".parse().unwrap();
    // Enough tries that chance alone never spends them all.
    (save.transfer.retry.retries, save.transfer.retry.corruptions) = (60, 60);
    save.transfer.retry.first_delay = Duration::from_millis(1);
    save.transfer.retry.max_delay = Duration::from_millis(10);
    let report = ImageSaver::new(save).unwrap().save(images).await.unwrap();
    let errors: Vec<String> = report
        .images
        .iter()
        .filter_map(|image| image.error.as_ref().map(|error| format!("{error:?}")))
        .collect();
    assert!(report.is_success(), "{errors:#?}");
}
