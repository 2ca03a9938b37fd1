//! The sample images, served by saver's own registry within the test's process.

use saver::oci::Reference;
use saver::serve::http::{RegistryServer, ServeOptions};
use saver::store::Store;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::sync::oneshot;

/// A server over testdata/registry; ends when dropped.
pub(crate) struct Samples {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Samples {
    /// Serves the samples on a free loopback port.
    pub(crate) async fn serve() -> Self {
        let store = Store::open_read_only(&Self::dir()).unwrap();
        let server =
            RegistryServer::bind(store, ([127, 0, 0, 1], 0).into(), ServeOptions::default()).await.unwrap();
        let address = server.local_addr();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        Self { address, _stop: stop }
    }

    /// The tree that is served.
    pub(crate) fn dir() -> PathBuf {
        super::peers::samples()
    }

    /// The registry's name in references.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }
}

/// The references of testdata/imageList, at `host`.
pub(crate) fn listed(host: &str) -> Vec<Reference> {
    let text = include_str!("../../../testdata/imageList").replace("localhost:5000", host);
    let parsed = saver::list::parse("imageList", text.as_bytes());
    assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
    parsed.entries.into_iter().map(|entry| entry.reference).collect()
}
