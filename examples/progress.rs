//! Prints progress from an observer, and cancels the run on Ctrl-C: `progress DIR LIST`.

// An example prints its result.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use saver::transfer::{Event, Observer};
use saver::{CancellationToken, ImageSaver, SaveOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Prints a line for each finished image, with the number of bytes that were downloaded so far.
#[derive(Default)]
struct Lines {
    bytes: AtomicU64,
}

impl Observer for Lines {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::BlobAdvanced { bytes, .. } => {
                self.bytes.fetch_add(*bytes, Ordering::Relaxed);
            }
            Event::ImageFinished { image } => {
                let bytes = self.bytes.load(Ordering::Relaxed);
                println!("{}: {:?} ({bytes} bytes so far)", image.reference, image.status);
            }
            _ => {}
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(dir), Some(file)) = (arguments.next(), arguments.next()) else {
        return Err("usage: progress DIR LIST".into());
    };
    let list = saver::list::parse(&file, &std::fs::read(&file)?);
    for problem in &list.problems {
        eprintln!("{problem:?}");
    }
    let cancel = CancellationToken::new();
    let options = SaveOptions::new(dir)
        .with_platforms("amd64")?
        .with_observer(Arc::new(Lines::default()))
        .with_cancel(cancel.clone());
    tokio::spawn(async move {
        // Without a signal handler there is nothing to wait for.
        if tokio::signal::ctrl_c().await.is_ok() {
            cancel.cancel();
        }
    });
    let report = ImageSaver::new(options)?.save(list.entries).await?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
