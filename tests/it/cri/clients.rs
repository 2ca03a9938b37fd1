//! Independent clients: gRPC's C library, and HTTP/2 frames by hyper-h2.

use crate::support::cri::{Client, Cri};
use crate::support::fault::FaultServer;
use std::path::Path;
use std::process::Command;

/// Debian's Python, which has the grpc package.
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

/// The calls of `crictl version`, `pull`, `images`, `images --digests IMAGE`, `inspecti`, `imagefsinfo` and `rmi`. For v1alpha2 the
/// authority is the path of the socket, as old clients send it.
#[tokio::test(flavor = "multi_thread")]
async fn grpc_c_library_makes_the_calls_of_crictl() {
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

/// hyper-h2 adds the authority to the dynamic table and then refers to it by index.
#[test]
fn path_as_authority_is_accepted_repeatedly() {
    let cri = Cri::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/cri/authority.py");
    let output = Command::new(PYTHON).arg("-B").arg(script).arg(cri.socket()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    assert_eq!(out.trim(), "60 answers");
}

#[tokio::test]
async fn unknown_methods_are_unimplemented_with_a_message() {
    const UNIMPLEMENTED: u32 = 12;
    let cri = Cri::start();
    let client = Client::connect(&cri.socket(), "runtime.v1alpha2").await;
    assert_eq!(client.list("").await.unwrap(), []);
    assert_eq!(client.of("runtime.v1").list("").await.unwrap(), []);
    for (package, method, words) in [
        ("runtime.v1", "RuntimeService/Status", "runtime endpoint"),
        ("runtime.v1alpha2", "RuntimeService/ListContainers", "runtime endpoint"),
        ("runtime.v1", "ImageService/None", "PullImage"),
        ("runtime.v2", "ImageService/ListImages", "runtime.v1alpha2"),
        ("grpc.health.v1", "Health/Check", "PullImage"),
    ] {
        let (code, message) = client.of(package).raw::<()>(method, Vec::new()).await.unwrap_err();
        assert_eq!(code, UNIMPLEMENTED, "{package} {method}");
        let named = format!("{package}.{method}: not implemented: ");
        assert!(message.starts_with(&named) && message.contains(words), "{message}");
    }
}
