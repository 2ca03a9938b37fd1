//! Docker's config.json and containers' auth.json: messages about a bad one holds no secret.
#![no_main]

use libfuzzer_sys::fuzz_target;
use saver::credentials::docker_config::DockerConfig;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = DockerConfig::parse(bytes) {
        let _ = format!("{config:?}");
    }
});
