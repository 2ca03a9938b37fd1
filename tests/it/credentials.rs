//! Credential files, helpers and proxy variables, as the command uses them.

use super::support::fault::FaultServer;
use super::support::program::{Home, Ran, run};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// `ann:hunter2` in base64.
const AUTH: &str = "YW5uOmh1bnRlcjI=";

async fn private_registry() -> FaultServer {
    let server = public_registry().await;
    server.require_basic("ann", "hunter2");
    server
}

async fn public_registry() -> FaultServer {
    let server = FaultServer::start().await;
    server.add_image("team/app", "v1", &[b"layer"]);
    server
}

/// Installs the helper `docker-credential-test` in the home directory.
fn install_helper(home: &Home, script: &str) {
    let path = home.write("docker-credential-test", &format!("#!/bin/sh\n{script}\n"));
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Saves the image with this `config.json` and these variables.
async fn save(home: &Home, server: &FaultServer, config: &str, variables: &[(&str, &str)]) -> Ran {
    home.write(".docker/config.json", config);
    let image = format!("{}/team/app:v1", server.registry());
    let mut command = home.saving(Path::new("tree"), "all", &[image]);
    command.env("PATH", home.path("").into_os_string()).envs(variables.iter().copied());
    tokio::task::spawn_blocking(move || run(&mut command)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_of_other_registries_do_not_matter() {
    for other in [
        r#""other.io":{"auth":"!!!"}"#,
        r#""other.io":{"auth":"bm8tY29sb24="}"#,
        r#""other.io":"text""#,
        r#""other.io":null"#,
        r#""other.io":{"auth":"dTpw","identitytoken":null}"#,
    ] {
        let (home, server) = (Home::new(), private_registry().await);
        let registry = server.registry();
        let config = format!(
            r#"{{"auths":{{{other},"{registry}":{{"auth":"{AUTH}"}}}},"credsStore":null,"credHelpers":null}}"#
        );
        let ran = save(&home, &server, &config, &[]).await.expect(0);
        assert!(!ran.stderr.contains("other.io"), "{other}: {}", ran.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn null_in_the_configuration_means_absent() {
    for config in [r#"{"auths":null,"credsStore":""}"#, r#"{"auths":{},"credHelpers":null}"#, "null"] {
        let (home, server) = (Home::new(), public_registry().await);
        save(&home, &server, config, &[]).await.expect(0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejection_names_the_helper_that_failed_but_not_its_secret() {
    for (script, reason) in [
        ("echo 'the vault is sealed' >&2; exit 1", "exit status: 1: the vault is sealed"),
        (r#"echo '{"Username":"ann","Secret":"hunter2"}'; exit 1"#, "docker-credential-test: exit status: 1"),
    ] {
        let (home, server) = (Home::new(), private_registry().await);
        install_helper(&home, script);
        let ran = save(&home, &server, r#"{"credsStore":"test"}"#, &[]).await.expect(1);
        let text = format!("{}{}", ran.stdout, ran.stderr);
        assert!(
            text.contains("the registry requires a login, and the credentials could not be read"),
            "{text}"
        );
        assert!(text.contains(reason) && text.contains("continuing without them"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helper_that_fails_does_not_stop_public_images() {
    let (home, server) = (Home::new(), public_registry().await);
    install_helper(&home, "exit 1");
    save(&home, &server, r#"{"credsStore":"test"}"#, &[]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusable_proxy_variable_is_an_error_without_a_connection() {
    for value in [
        r#""http://ann:hunter2@127.0.0.1:1""#,
        "ftp://ann:hunter2@127.0.0.1:1",
        r"http://DOM\ann:hunter2@127.0.0.1:1",
        "http//127.0.0.1:1",
        "http://ann:p#hunter2@127.0.0.1:1",
    ] {
        let (home, server) = (Home::new(), public_registry().await);
        let ran = save(&home, &server, "{}", &[("HTTP_PROXY", value)]).await.expect(2);
        assert!(ran.stderr.contains("HTTP_PROXY: not a usable proxy URL"), "{value}: {}", ran.stderr);
        assert!(!ran.stderr.contains("hunter2"), "{value}: {}", ran.stderr);
        assert!(server.seen().is_empty(), "{value}: the registry was contacted");
    }
}
