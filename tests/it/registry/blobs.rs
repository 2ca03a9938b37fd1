//! Blobs and ranges of them.

use super::*;
use crate::support::fault::Fault;
use saver::ErrorKind;

const LAYER: &[u8] = b"0123456789";

async fn serving() -> (FaultServer, Descriptor) {
    let server = FaultServer::start().await;
    let layer = server.add_blob("application/octet-stream", LAYER);
    (server, layer)
}

#[tokio::test]
async fn blob_is_read_whole_or_in_part() {
    let (server, layer) = serving().await;
    let session = anonymous(&server);
    for (from, to, range, expect) in [
        (0, None, None, LAYER),
        (4, None, Some("bytes=4-"), &LAYER[4..]),
        (2, Some(5), Some("bytes=2-4"), &LAYER[2..5]),
        (0, Some(3), Some("bytes=0-2"), &LAYER[..3]),
        (0, Some(10), None, LAYER),
        (7, Some(99), Some("bytes=7-"), &LAYER[7..]),
    ] {
        let (start, bytes) = fetch(&session, &layer, from, to).await.unwrap();
        assert_eq!((start, bytes.as_slice()), (from, expect));
        let seen = server.seen().pop().unwrap();
        assert_eq!(seen.header("range"), range);
        assert_eq!(seen.header("accept-encoding"), Some("identity"));
    }
    for (from, to) in [(10, None), (0, Some(0)), (5, Some(5))] {
        let (start, bytes) = fetch(&session, &layer, from, to).await.unwrap();
        assert_eq!((start, bytes.len()), (from, 0), "nothing is left to ask for");
    }
    assert_eq!(server.count("GET", "/blobs/"), 6);
}

#[tokio::test]
async fn server_without_ranges_sends_the_whole() {
    let (server, layer) = serving().await;
    server.on("GET", "/blobs/").answer(Fault::IgnoreRange);
    let (start, bytes) = fetch(&anonymous(&server), &layer, 4, None).await.unwrap();
    assert_eq!((start, bytes.as_slice()), (0, LAYER));
}

#[tokio::test]
async fn one_wrong_content_range_does_not_disable_ranges() {
    let (server, layer) = serving().await;
    server.on("GET", "/blobs/").times(1).answer(Fault::ContentRange("nonsense".into()));
    let session = anonymous(&server);
    assert_eq!(fetch(&session, &layer, 4, None).await.unwrap().0, 0);
    assert_eq!(fetch(&session, &layer, 4, None).await.unwrap().0, 4);
}

#[tokio::test]
async fn wrong_content_range_is_rejected() {
    for value in ["bytes 3-9/10", "bytes 4-8/10", "bytes 4-9", "nonsense", ""] {
        let (server, layer) = serving().await;
        let session = anonymous(&server);
        for _ in 0..3 {
            server.on("GET", "/blobs/").times(1).answer(Fault::ContentRange(value.into()));
            let (start, bytes) = fetch(&session, &layer, 4, None).await.unwrap();
            assert_eq!((start, bytes.as_slice()), (0, LAYER), "{value}");
        }
        let (start, _) = fetch(&session, &layer, 4, None).await.unwrap();
        assert_eq!(start, 0, "it is not asked for a range a fourth time");
        assert_eq!(server.count("GET", "/blobs/"), 7);
    }
}

#[tokio::test]
async fn range_of_a_blob_of_another_size_is_corrupt() {
    let (server, layer) = serving().await;
    server.on("GET", "/blobs/").answer(Fault::ContentRange("bytes 4-9/11".into()));
    let error = fetch(&anonymous(&server), &layer, 4, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[tokio::test]
async fn unsatisfiable_range_requests_the_whole() {
    let (server, layer) = serving().await;
    server.on("GET", "/blobs/").times(1).answer(Fault::status(416));
    let (start, bytes) = fetch(&anonymous(&server), &layer, 4, None).await.unwrap();
    assert_eq!((start, bytes.as_slice()), (0, LAYER));
    let (server, layer) = serving().await;
    let longer = Descriptor::new("", layer.digest, 20);
    let error = fetch(&anonymous(&server), &longer, 15, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("expected 20 bytes, got 10 bytes"), "{error}");
}

/// A content server that refuses Range, in whatever way, is asked for the whole.
#[tokio::test]
async fn refused_range_requests_the_whole() {
    for status in [400, 403, 404, 406, 501] {
        let (server, layer) = serving().await;
        let session = anonymous(&server);
        server.on("GET", "/blobs/").times(1).answer(Fault::status(status));
        let mut result = fetch(&session, &layer, 4, None).await;
        if status >= 500 {
            // The first server error may be transient.
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Unavailable, "{status}");
            server.on("GET", "/blobs/").times(1).answer(Fault::status(status));
            result = fetch(&session, &layer, 4, None).await;
        }
        let (start, bytes) = result.unwrap();
        assert_eq!((start, bytes.as_slice()), (0, LAYER), "{status}");
    }
}

#[tokio::test]
async fn storage_error_is_quoted_without_a_login_hint() {
    let (server, layer) = serving().await;
    let storage = FaultServer::start().await;
    let xml = "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>";
    let headers = vec![("Content-Type".into(), "application/xml".into())];
    storage.on("", "").answer(Fault::Status(403, headers, xml.into()));
    server.on("GET", "/blobs/").answer(Fault::Redirect(format!("{}/bucket/blob", storage.url())));
    let error = fetch(&anonymous(&server), &layer, 0, None).await.unwrap_err();
    assert_eq!((error.kind(), error.http_status()), (ErrorKind::Unauthorized, Some(403)));
    assert!(error.to_string().contains("AccessDenied: Request has expired"), "{error}");
    assert!(!error.hint().unwrap().contains("docker login"), "{:?}", error.hint());
}

#[tokio::test]
async fn wrong_declared_size_is_detected_before_the_body() {
    let (server, layer) = serving().await;
    for size in [9, 11] {
        let lie = Descriptor::new("", layer.digest, size);
        let error = fetch(&anonymous(&server), &lie, 0, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}

#[tokio::test]
async fn body_faults_end_the_stream_with_their_kind() {
    for (fault, kind, got) in [
        (Fault::Cut(6), ErrorKind::Unavailable, 6),
        (Fault::ChunkedEnd(6), ErrorKind::Unavailable, 6),
        (Fault::Stall(6), ErrorKind::Unavailable, 6),
        (Fault::Close, ErrorKind::Unavailable, 0),
        (Fault::Length(99), ErrorKind::Corrupt, 0),
        (Fault::Length(5), ErrorKind::Corrupt, 0),
        (Fault::web_page(), ErrorKind::Unsupported, 0),
        (Fault::status(404), ErrorKind::NotFound, 0),
        (Fault::status(502), ErrorKind::Unavailable, 0),
    ] {
        let (server, layer) = serving().await;
        let shown = format!("{fault:?}");
        server.on("GET", "/blobs/").answer(fault);
        let mut options = options();
        options.idle_timeout = Duration::from_millis(100);
        let session = session(server.registry(), options);
        let (bytes, error) = match session.blob(&repository(), &layer, 0, None).await {
            Ok(stream) => read(stream).await,
            Err(error) => (Vec::new(), Some(error)),
        };
        let error = error.unwrap_or_else(|| panic!("{shown}: no error"));
        assert_eq!(error.kind(), kind, "{shown}: {error}");
        assert_eq!(bytes, &LAYER[..got], "{shown}");
        assert!(error.subject().contains(&layer.digest.to_string()), "{error}");
    }
}

#[tokio::test]
async fn chunked_body_without_length_is_read() {
    let (server, layer) = serving().await;
    server.on("GET", "/blobs/").answer(Fault::Chunked);
    let (_, bytes) = fetch(&anonymous(&server), &layer, 0, None).await.unwrap();
    assert_eq!(bytes, LAYER);
}

#[tokio::test]
async fn excess_bytes_end_the_stream() {
    let (server, layer) = serving().await;
    let lie = Descriptor::new("", layer.digest, 5);
    server.on("GET", "/blobs/").answer(Fault::Chunked);
    let error = fetch(&anonymous(&server), &lie, 0, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[tokio::test]
async fn permit_is_held_until_the_stream_is_dropped() {
    let (server, layer) = serving().await;
    let mut options = options();
    options.max_connections = 1;
    let session = session(server.registry(), options);
    let repository = repository();
    let first = session.blob(&repository, &layer, 0, None).await.unwrap();
    let second = session.blob(&repository, &layer, 0, None);
    futures::pin_mut!(second);
    assert!(futures::poll!(&mut second).is_pending());
    tokio::task::yield_now().await;
    assert!(futures::poll!(&mut second).is_pending());
    assert_eq!(server.count("GET", "/blobs/"), 1);
    drop(first);
    second.await.unwrap();
}
