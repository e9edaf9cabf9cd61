//! Writes the golden vectors and the fuzzer's corpus from `vectors/payloads.json`, after the protocol was changed on
//! purpose: `cargo run -p wisehosting-protocol --example vectors`. A test fails while they are out of date.

mod generator;

use std::{error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // What no payload stands for any more goes away; what a fuzzer has found has a name of another form.
    for entry in fs::read_dir(root.join(generator::CORPUS))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == generator::CORPUS_EXTENSION) {
            fs::remove_file(path)?;
        }
    }
    let payloads = fs::read_to_string(root.join(generator::PAYLOADS))?;
    for (path, text) in generator::files(&payloads)? {
        fs::write(root.join(&path), text)?;
    }
    Ok(())
}
