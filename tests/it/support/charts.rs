//! A classic Helm repository on a scripted server.

use super::fault::{Fault, FaultServer};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use saver::oci::Digest;

/// The repository, below `/v2/charts/`: the path for which the server can ask for a password.
pub(crate) struct ChartRepository {
    pub(crate) server: FaultServer,
    entries: String,
}

impl ChartRepository {
    pub(crate) async fn start() -> Self {
        Self { server: FaultServer::start().await, entries: String::new() }
    }

    /// The URL of the repository, by the address of the server.
    pub(crate) fn url(&self) -> String {
        format!("{}/v2/charts", self.server.url())
    }

    /// Serves `content` below the repository.
    pub(crate) fn serve(&self, path: &str, content: impl Into<Bytes>) {
        self.server.on("GET", &format!("/v2/charts/{path}")).answer(Fault::Body(content.into()));
    }

    /// Adds an entry to the index, which [`publish`](Self::publish) serves.
    pub(crate) fn list(&mut self, name: &str, version: &str, url: &str, digest: &str) {
        self.entries.push_str(&format!(
            "  {name}:\n  - {{name: {name}, version: {version}, urls: [\"{url}\"], digest: \"{digest}\"}}\n"
        ));
    }

    /// Adds a chart, and serves its archive.
    pub(crate) fn add(&mut self, name: &str, version: &str) -> Bytes {
        let archive = chart(name, version);
        let file = format!("{name}-{version}.tgz");
        self.serve(&file, archive.clone());
        self.list(name, version, &file, &hex(&archive));
        archive
    }

    /// Serves the index.
    pub(crate) fn publish(&self) {
        self.serve("index.yaml", format!("apiVersion: v1\nentries:\n{}", self.entries));
    }
}

/// A packed chart.
pub(crate) fn chart(name: &str, version: &str) -> Bytes {
    packed(&[
        (&format!("{name}/Chart.yaml"), format!("apiVersion: v2\nname: {name}\nversion: {version}\n").as_bytes()),
        (
            &format!("{name}/templates/pod.yaml"),
            b"apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: x, image: \"quay.io/team/app:1\"}]}\n",
        ),
    ])
}

/// A .tgz of files.
pub(crate) fn packed(files: &[(&str, &[u8])]) -> Bytes {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap().into()
}

/// A digest as indexes have it.
pub(crate) fn hex(content: &[u8]) -> String {
    Digest::of(content).to_string().trim_start_matches("sha256:").to_owned()
}
