//! Hostile and broken clients: the service keeps running and uses little memory.

use crate::support::cri::Cri;
use crate::support::mount::{apart, mount_small};
use crate::support::program::{Home, Victim, run};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

fn memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[tokio::test]
async fn malformed_bytes_end_only_their_connection() {
    let cri = Cri::start();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let frame = |kind: u8, flags: u8, content: &[u8]| {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&preface[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0], &length[1..], &[kind, flags, 0, 0, 0, 1], content]
            .concat()
    };
    let garbage: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0xff; 100_000],
        [&preface[..], &[0xff; 100_000]].concat(),
        frame(1, 4, &[0x41, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff]),
        frame(1, 0xc, &[200, 1, 2]),
        frame(1, 0, &[0x82; 16_000]),
        frame(9, 4, b"a continuation of nothing"),
        [frame(1, 0, &[0x82]), (0..20_000).flat_map(|_| [0, 0, 1, 9, 0, 0, 0, 0, 1, 0x82]).collect()]
            .concat(),
    ];
    for bytes in &garbage {
        let mut stream = UnixStream::connect(cri.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        // The server may close the connection before everything was sent.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_eq!(cri.client().await.list("").await.unwrap(), []);
}

#[tokio::test]
async fn malformed_and_oversized_messages_are_rejected() {
    const CODES: [u32; 4] = [3, 8, 11, 13];
    let cri = Cri::start();
    let client = cri.client().await;
    let before = memory(cri.id());
    for message in [vec![0xff; 1000], vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], vec![0x0a; 6 << 20]] {
        let (code, text) = client.raw::<()>("ImageService/PullImage", message).await.unwrap_err();
        assert!(CODES.contains(&code), "{code} {text}");
    }
    let long = "a".repeat(1 << 20);
    assert_eq!(client.status(&long).await.unwrap_err().0, 3);
    assert_eq!(client.list("").await.unwrap(), []);
    assert!(memory(cri.id()) < before + (64 << 20));
}

#[tokio::test]
async fn excess_connections_wait() {
    let cri = Cri::with(Home::new(), &["--max-connections", "8"]);
    let idle: Vec<_> = (0..1000).map_while(|_| UnixStream::connect(cri.socket()).ok()).collect();
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", cri.id())).unwrap().count();
    assert!(descriptors < 40, "{descriptors}");
    assert!(memory(cri.id()) < 100 << 20);
    drop(idle);
    assert_eq!(cri.client().await.list("").await.unwrap(), []);
}

#[tokio::test]
async fn concurrent_calls_are_answered() {
    let cri = Cri::start();
    let client = cri.client().await;
    let calls = (0..500).map(|_| client.list(""));
    for response in futures::future::join_all(calls).await {
        assert_eq!(response.unwrap(), []);
    }
}

#[test]
fn socket_is_private_and_exclusive() {
    let cri = Cri::start();
    let mode = cri.socket().symlink_metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let listen = |address: &str| {
        let home = Home::new();
        run(&mut home.saver(["cri", "--dir", "tree", "--listen", address]))
    };
    let ran = listen(&cri.socket().display().to_string()).expect(3);
    assert!(ran.stderr.contains("another server is listening on this socket"), "{ran:?}");
    let ran = listen("unix:///no/such/directory/s").expect(2);
    assert!(ran.stderr.contains("the directory /no/such/directory does not exist"), "{ran:?}");
    let ran = listen("tcp://127.0.0.1:9").expect(2);
    assert!(ran.stderr.contains("unix:///run/saver.sock"), "{ran:?}");
    let file = cri.home.write("file", "mine");
    let ran = listen(&file.display().to_string()).expect(3);
    assert!(ran.stderr.contains("not a socket"), "{ran:?}");
    assert_eq!(std::fs::read(file).unwrap(), b"mine");
}

#[test]
fn unusable_directory_is_rejected_at_start() {
    let home = Home::new();
    home.write("letters/one.txt", "dear");
    let serve = |dir: &str| {
        let mut command = home.saver(["cri", "--dir", dir, "--listen"]);
        run(command.arg(format!("unix://{}", home.path("s").display())))
    };
    let ran = serve("letters").expect(2);
    assert!(ran.stderr.contains("not a directory of images") && ran.stderr.contains("one.txt"), "{ran:?}");
    let ran = serve("letters/one.txt").expect(3);
    assert!(ran.stderr.contains("one.txt"), "{ran:?}");
    let ran = serve("/proc/self/tree").expect(2);
    assert!(ran.stderr.contains("/proc/self/tree"), "{ran:?}");
    assert!(!home.path("s").exists() && !home.path("letters/.saver").exists());
}

#[test]
fn read_only_file_system_is_rejected_at_start() {
    apart(|| {
        let home = Home::new();
        let tree = home.path("tree");
        std::fs::create_dir(&tree).unwrap();
        if !mount_small(&tree, "size=1m,ro") {
            return;
        }
        let mut command = home.saver(["cri", "--dir", "tree", "--listen"]);
        let ran = run(command.arg(format!("unix://{}", home.path("s").display()))).expect(3);
        assert!(ran.stderr.contains("Read-only file system"), "{ran:?}");
    });
}

#[test]
fn one_of_several_servers_takes_a_stale_socket() {
    let home = Home::new();
    let socket = home.path("s");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let start = |number: usize| {
        let mut command = home.saver(["cri", "--dir", &format!("tree{number}"), "--listen"]);
        Victim::start(command.arg(format!("unix://{}", socket.display())))
    };
    let mut running: Vec<Victim> = (0..6).map(start).collect();
    let begin = Instant::now();
    while running.len() > 1 && begin.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(20));
        let (alive, ended): (Vec<_>, Vec<_>) =
            running.into_iter().map(|mut one| (one.is_running(), one)).partition(|(alive, _)| *alive);
        for (_, one) in ended {
            let ran = one.finish().expect(3);
            assert!(ran.stderr.contains("another server is listening on this socket"), "{ran:?}");
        }
        running = alive.into_iter().map(|(_, one)| one).collect();
    }
    assert_eq!(running.len(), 1);
    UnixStream::connect(&socket).unwrap();
}
