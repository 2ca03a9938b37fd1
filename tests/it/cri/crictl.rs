//! A client over grpc-go that makes the calls of crictl and dials the socket in the same way.

use crate::support::cri::Cri;
use crate::support::crictl::Crictl;
use crate::support::fault::FaultServer;

fn row<'a>(table: &'a str, image: &str) -> Vec<&'a str> {
    let line = table.lines().find(|line| line.starts_with(image));
    line.unwrap_or_else(|| panic!("no {image} in\n{table}")).split_whitespace().collect()
}

/// `version`, `pull`, `images`, `inspecti`, `imagefsinfo` and `rmi` with every form of name. Without an explicit authority the client
/// sends the path of the socket, as every kubelet and crictl of v1alpha2 does.
#[tokio::test(flavor = "multi_thread")]
async fn image_commands_of_old_and_new_crictl() {
    let server = FaultServer::start().await;
    let image = server.add_image("team/app", "v1", &[b"a layer"]);
    server.add_image("team/app", "v2", &[b"a layer"]);
    let id = image.config.digest.hex();
    let cri = Cri::start();
    let plain = format!("{}/team/app", server.registry());
    for (api, authority) in [("v1", None), ("v1alpha2", None), ("v1", Some("localhost"))] {
        let crictl = Crictl::new(&cri, api, authority);
        assert!(crictl.succeed(&["version"]).contains(&format!("RuntimeApiVersion:  {api}\n")));
        for name in [
            format!("{plain}:v1"),
            format!("{plain}@{}", image.manifest),
            format!("docker:{plain}:v1"),
            format!("harbor:{plain}:v1"),
        ] {
            let said = crictl.succeed(&["pull", &name]);
            assert_eq!(said, format!("Image is up to date for sha256:{id}\n"), "{name}");
            assert_eq!(crictl.succeed(&["images", "-quiet", &name]), format!("sha256:{id}\n"), "{name}");
            let status = crictl.succeed(&["inspecti", &name]);
            assert!(status.contains(&id) && status.contains("imageSpec"), "{name}: {status}");
            crictl.succeed(&["rmi", &name]);
            assert_eq!(crictl.succeed(&["images", "-quiet"]), "", "{name}");
        }
        crictl.succeed(&["pull", &format!("{plain}:v1")]);
        let table = crictl.succeed(&["images"]);
        assert_eq!(row(&table, &plain)[..3], [&*plain, "v1", &id[..13]]);
        let table = crictl.succeed(&["images", "--digests"]);
        assert_eq!(row(&table, &plain)[..4], [&*plain, "v1", &image.manifest.hex()[..13], &id[..13]]);
        assert_eq!(crictl.succeed(&["images", "-quiet", "docker.io/library/none"]), "");
        // The id as crictl prints it, a shorter prefix, and the complete id.
        for id in [&id[..13], &id[..6], &id, &format!("sha256:{id}")] {
            assert!(crictl.succeed(&["inspecti", "-quiet", id]).contains(&format!("{plain}:v1")), "{id}");
        }
        let usage: serde_json::Value = serde_json::from_str(&crictl.succeed(&["imagefsinfo"])).unwrap();
        let usage = &usage["status"]["image_filesystems"][0];
        assert!(usage["used_bytes"]["value"].as_u64() > Some(0), "{usage}");
        crictl.succeed(&["pull", &format!("{plain}:v2")]);
        let deleted = crictl.succeed(&["rmi", &format!("{plain}:v2")]);
        assert_eq!(deleted, format!("Deleted: {plain}:v1\nDeleted: {plain}:v2\n"));
        assert_eq!(crictl.succeed(&["images", "-quiet"]), "");
        let gone = crictl.run(&["rmi", &id[..13]]);
        assert!(!gone.status.success() && gone.stderr.contains("no such image"), "{}", gone.stderr);
        let refused = crictl.run(&["pull", &format!("{plain}:none")]);
        assert!(refused.stderr.contains("code = NotFound"), "{}", refused.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn crictl_credentials_reach_the_registry() {
    let server = FaultServer::start().await;
    server.add_image("app", "v1", &[b"a layer"]);
    server.require_basic("ann", "secret");
    let (cri, name) = (Cri::start(), format!("{}/app:v1", server.registry()));
    let crictl = Crictl::new(&cri, "v1alpha2", None);
    let refused = crictl.run(&["pull", "--creds", "ann:wrong", &name]);
    assert!(refused.stderr.contains("code = Unauthenticated"), "{}", refused.stderr);
    crictl.succeed(&["pull", "--creds", "ann:secret", &name]);
    crictl.succeed(&["pull", "--auth", "YW5uOnNlY3JldA==", &name]);
}

/// After the first request a client refers to the authority by its index in the dynamic table (RFC 7541), for hundreds of sequential
/// and concurrent calls.
#[tokio::test(flavor = "multi_thread")]
async fn many_calls_on_one_connection_with_path_authority() {
    let server = FaultServer::start().await;
    server.add_image("app", "v1", &[b"a layer"]);
    let (cri, name) = (Cri::start(), format!("{}/app:v1", server.registry()));
    let path = cri.socket().display().to_string();
    for authority in [None, Some(path.replace('/', "%2F")), Some(format!("unix://{path}"))] {
        let crictl = Crictl::new(&cri, "v1alpha2", authority.as_deref());
        let commands =
            ["version", "many 300", &format!("pull {name}"), "images", "many 50", &format!("rmi {name}")];
        let said = crictl.session(&commands.map(str::to_owned));
        assert!(said.contains("600 answers\n") && said.ends_with(&format!("Deleted: {name}\n")), "{said}");
    }
}
