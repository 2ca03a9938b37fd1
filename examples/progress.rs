//! Follows a run with an observer, and stops it on Ctrl-C: `progress DIR LIST`.

// An example speaks to whoever runs it.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use saver::transfer::{Event, Observer};
use saver::{ImageSaver, SaveImage, SaveOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Prints a line for each finished image, with the bytes that have come so far.
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
    let mut options = SaveOptions::new(dir);
    options.copy.platforms = "amd64".parse()?;
    options.observer = Arc::new(Lines::default());
    let images = list.entries.into_iter().map(SaveImage::from).collect();
    let stop = async {
        // Without a signal handler there is nothing to wait for.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    };
    let report = ImageSaver::new(options)?.save_until(images, stop).await?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
