//! Saves images without an async runtime: `blocking DIR ARCH IMAGE...`.

// An example prints its result.
#![allow(clippy::print_stdout, clippy::print_stderr)]

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(dir), Some(arch)) = (arguments.next(), arguments.next()) else {
        return Err("usage: blocking DIR ARCH IMAGE...".into());
    };
    let report = saver::blocking::save_images(arguments, dir, &arch)?;
    for image in report.images {
        println!("{}: {:?} {:?}", image.reference, image.status, image.digest);
    }
    Ok(())
}
