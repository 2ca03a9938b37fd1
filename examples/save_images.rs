//! Saves the images named on the command line: `save_images DIR ARCH IMAGE...`.

// An example prints its result.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use saver::Status;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(dir), Some(arch)) = (arguments.next(), arguments.next()) else {
        return Err("usage: save_images DIR ARCH IMAGE...".into());
    };
    let report = saver::save_images(arguments, dir, &arch).await?;
    for image in &report.images {
        match &image.error {
            Some(error) => eprintln!("{}: {}", image.reference, error.message),
            None => println!("{}: {:?}", image.reference, image.status),
        }
    }
    println!(
        "{} saved, {} bytes in {:.1} s",
        report.count(Status::Saved),
        report.bytes_fetched,
        report.seconds
    );
    if report.is_success() { Ok(()) } else { Err("some images failed".into()) }
}
