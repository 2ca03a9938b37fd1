//! Hostile and broken clients: time, memory and connections are bounded, and no file outside of the tree is served.

use super::super::support::handmade::{Tree, write};
use super::super::support::serving::{Serving, read_reply};
use super::World;
use saver::oci::Digest;
use saver::serve::http::ServeOptions;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::symlink;
use std::time::Duration;

/// Sends raw bytes and reads until the connection ends.
fn send(serving: &Serving, bytes: &[u8]) -> Vec<u8> {
    let mut stream = serving.connect();
    // The server may respond and close before it has read all.
    let _ = stream.write_all(bytes);
    let mut response = Vec::new();
    match stream.read_to_end(&mut response) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
    response
}

fn status(response: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(response.split(|byte| *byte == b'\r').next()?).ok()?;
    line.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()
}

#[test]
fn no_path_leaves_the_tree() {
    let world = World::new();
    write(&world.tree.dir().join("secret"), b"SECRET");
    write(&world.tree.dir().join("docker/registry/v2/repositories/team/secret"), b"SECRET");
    for path in [
        "/v2/../../secret",
        "/v2/../../../secret/manifests/latest",
        "/v2/%2e%2e/%2e%2e/secret/manifests/latest",
        "/v2/%252e%252e/secret/manifests/latest",
        "/v2/..%2f..%2fsecret/manifests/latest",
        "/v2/..%5c..%5csecret/manifests/latest",
        "/v2/..\\..\\secret/manifests/latest",
        "/v2/team%2fapp/manifests/latest",
        "/v2/team/app%00/manifests/latest",
        "/v2/team//app/manifests/latest",
        "/v2//team/app/manifests/latest",
        "/v2/team/app/manifests/..",
        "/v2/team/app/manifests/..%2f..%2f..%2fsecret",
        "/v2/team/app/manifests/%2e%2e",
        "/v2/team/app/blobs/sha256:../../../../../secret",
        "/v2/team/app/blobs/../../../../../../secret",
        "/v2/team/app/_manifests/tags/latest/current/link",
        "/v2/team/app/_layers/manifests/latest",
        "/docker/registry/v2/repositories/team/secret",
        "/secret",
        "//secret",
    ] {
        let reply = world.serving.get(path);
        assert!(matches!(reply.status, 400 | 404), "{path}: {}", reply.status);
        assert!(!String::from_utf8_lossy(&reply.body).contains("SECRET"), "{path}");
    }
    // Control characters, and absolute URLs of other hosts.
    for line in [
        &b"GET /v2/\0 HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"GET /v2/team/app/manifests/a\x01b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET http://elsewhere/secret HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET secret HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        let response = send(&world.serving, line);
        assert!(
            matches!(status(&response), None | Some(400 | 404)),
            "{:?}",
            String::from_utf8_lossy(&response)
        );
    }
}

#[test]
fn symbolic_link_in_tree_is_not_followed() {
    let world = World::new();
    let outside = Tree::new();
    let secret = b"SECRET".as_slice();
    write(&outside.dir().join("data"), secret);
    let digest = Digest::of(secret);
    // The links are valid, but the content is a symbolic link to a file outside.
    let blob = world.tree.blob("team/app", "x", secret);
    assert_eq!(blob.digest, digest);
    std::fs::remove_file(world.tree.data(&digest)).unwrap();
    symlink(outside.dir().join("data"), world.tree.data(&digest)).unwrap();
    let reply = world.serving.get(&format!("/v2/team/app/blobs/{digest}"));
    assert!(matches!(reply.status, 404 | 500), "{}", reply.status);
    assert!(!String::from_utf8_lossy(&reply.body).contains("SECRET"));
}

#[test]
fn request_heads_are_bounded() {
    let world = World::new();
    let huge = format!("GET /v2/ HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(200_000));
    assert_eq!(status(&send(&world.serving, huge.as_bytes())), Some(431));
    let many = format!("GET /v2/ HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(500));
    assert_eq!(status(&send(&world.serving, many.as_bytes())), Some(431));
    let long = format!("GET /v2/{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "a/".repeat(5_000));
    assert_eq!(status(&send(&world.serving, long.as_bytes())), Some(400));
    assert_eq!(world.serving.get("/v2/").status, 200);
}

#[test]
fn incomplete_request_times_out() {
    let tree = Tree::new();
    let mut options = ServeOptions::default();
    options.header_timeout = Duration::from_millis(100);
    options.idle_timeout = Duration::from_millis(200);
    let serving = Serving::with(tree.dir(), options);
    // Nothing; half a head; a request on a kept connection, and nothing after it.
    for (sent, expected) in [
        ("", None),
        ("GET /v2/ HTTP/1.1\r\nHost:", None),
        ("GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n", Some(200)),
    ] {
        let response = send(&serving, sent.as_bytes());
        assert!(status(&response) == expected || status(&response) == Some(408), "{sent:?}: {response:?}");
    }
}

#[test]
fn client_that_reads_nothing_times_out() {
    let tree = Tree::new();
    // More than the socket buffers hold.
    let blob = tree.blob("app", "x", &vec![7; 32 << 20]);
    let mut options = ServeOptions::default();
    options.max_connections = 1;
    options.idle_timeout = Duration::from_millis(200);
    let serving = Serving::with(tree.dir(), options);
    let mut stuck = serving.connect();
    let request = format!("GET /v2/app/blobs/{} HTTP/1.1\r\nHost: x\r\n\r\n", blob.digest);
    stuck.write_all(request.as_bytes()).unwrap();
    // It has the only connection slot, so this request is answered after its timeout.
    assert_eq!(serving.get("/v2/").status, 200);
    let mut got = Vec::new();
    let _ = stuck.read_to_end(&mut got);
    assert!(got.len() < 32 << 20, "{}", got.len());
}

#[test]
fn connections_are_bounded() {
    let tree = Tree::new();
    let mut options = ServeOptions::default();
    options.max_connections = 2;
    let serving = Serving::with(tree.dir(), options);
    let mut held: Vec<_> = (0..2).map(|_| serving.connect()).collect();
    for stream in &mut held {
        stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
    }
    // The third request waits for a free slot.
    let mut third = serving.connect();
    third.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    third.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let waited = third.read(&mut [0; 1]).unwrap_err();
    assert!(matches!(waited.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{waited}");
    third.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    held.pop();
    assert_eq!(read_reply(&mut third).status, 200);
}

#[test]
fn hundreds_of_connections_are_answered() {
    let world = World::new();
    let mut streams: Vec<_> = (0..400).map(|_| world.serving.connect()).collect();
    let path = format!("/v2/team/app/blobs/{}", world.layer);
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    for stream in &mut streams {
        stream.write_all(request.as_bytes()).unwrap();
    }
    for stream in &mut streams {
        assert_eq!(read_reply(stream).body, super::LAYER);
    }
}

#[test]
fn unread_request_body_is_harmless() {
    let world = World::new();
    let head = "PUT /v2/team/app/manifests/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n";
    let mut stream = world.serving.connect();
    stream.write_all(head.as_bytes()).unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 405");
    assert_eq!(world.serving.get("/v2/").status, 200);
}

#[test]
fn shutdown_drains_responses() {
    let tree = Tree::new();
    let content = vec![7; 16 << 20];
    let blob = tree.blob("app", "x", &content);
    let mut serving = Serving::start(tree.dir());
    let mut stream = serving.connect();
    // This connection is idle between two requests.
    let mut idle = serving.connect();
    idle.write_all(b"HEAD /nothing HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        idle.read_exact(&mut byte).unwrap();
        response.push(byte[0]);
    }
    let request = format!("GET /v2/app/blobs/{} HTTP/1.1\r\nHost: x\r\n\r\n", blob.digest);
    stream.write_all(request.as_bytes()).unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    serving.stop();
    // The idle connection is closed, so shutdown has begun.
    assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(&content[..1 << 20]) && rest.len() > content.len());
    serving.end();
    assert!(std::net::TcpStream::connect(serving.address).is_err());
}
