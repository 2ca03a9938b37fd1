//! Other people's clients: grpc's own library, as crictl of then and now asks; and HTTP/2 by hand.

use crate::support::cri::{Client, Cri};
use crate::support::fault::FaultServer;
use std::path::Path;
use std::process::Command;

/// Debian's, which has grpc; what else is called python3 may not have it.
const PYTHON: &str = "/usr/bin/python3";

fn crictl(cri: &Cri, package: &str, authority: &str, image: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/cri/crictl.py");
    let mut command = Command::new(PYTHON);
    command.arg("-B").arg(script).arg(cri.socket()).args([package, authority, image]);
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{package} {authority}:\n{out}{err}");
    out.into_owned()
}

/// The calls of `crictl version`, `pull`, `images`, `images --digests IMAGE`, `inspecti`, `imagefsinfo` and `rmi`, one after the other, by grpc's
/// C library; for the old package as old clients send them, with the socket's path as the authority.
#[tokio::test(flavor = "multi_thread")]
async fn crictl_s_calls_by_grpc_s_own_library() {
    let server = FaultServer::start().await;
    let image = server.add_image("team/app", "v1", &[b"a layer"]);
    let cri = Cri::start();
    let name = format!("{}/team/app:v1", server.registry());
    let path = cri.socket().display().to_string();
    for (package, authority) in [
        ("runtime.v1", "localhost"),
        ("runtime.v1alpha2", "localhost"),
        ("runtime.v1alpha2", &path),
        ("runtime.v1alpha2", &path.replace('/', "%2F")),
        ("runtime.v1", &format!("unix://{path}")),
    ] {
        let said = crictl(&cri, package, authority, &name);
        assert!(said.contains(&image.config.digest.to_string()), "{said}");
        let version = package.trim_start_matches("runtime.");
        assert!(said.contains(&format!("RuntimeApiVersion {version}\n")), "{said}");
    }
}

/// What hyper-h2 sends, header by header, over one connection: the authority goes into the table and is then named by its place there.
#[test]
fn an_authority_that_is_a_path_many_times_over() {
    let cri = Cri::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/cri/authority.py");
    let output = Command::new(PYTHON).arg("-B").arg(script).arg(cri.socket()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    assert_eq!(out.trim(), "60 answers");
}

#[tokio::test]
async fn both_packages_are_answered_and_what_is_not_there_is_unimplemented() {
    const UNIMPLEMENTED: u32 = 12;
    let cri = Cri::start();
    let client = Client::connect(&cri.socket(), "runtime.v1alpha2").await;
    assert_eq!(client.list("").await.unwrap(), []);
    assert_eq!(client.of("runtime.v1").list("").await.unwrap(), []);
    let ask =
        async |package, method: &str| client.of(package).raw::<()>(method, Vec::new()).await.unwrap_err().0;
    for (package, method) in [
        ("runtime.v1", "RuntimeService/Status"),
        ("runtime.v1alpha2", "RuntimeService/ListContainers"),
        ("runtime.v1", "ImageService/None"),
        ("runtime.v2", "ImageService/ListImages"),
        ("grpc.health.v1", "Health/Check"),
    ] {
        assert_eq!(ask(package, method).await, UNIMPLEMENTED, "{package} {method}");
    }
}
