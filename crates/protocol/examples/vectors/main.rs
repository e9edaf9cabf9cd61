//! Writes the golden vectors and the fuzzer's corpus from `vectors/payloads.json`, after the protocol was changed on
//! purpose: `cargo run -p wisehosting-protocol --example vectors`. A test fails while they are out of date.

mod generator;
mod shapes;

use std::{error::Error, fs, path::Path};

use shapes::Shapes;

/// Given when the version has not been released yet, and so may still change.
const UNRELEASED: &str = "--unreleased";

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let payloads = fs::read_to_string(root.join(generator::PAYLOADS))?;
    let files = generator::files(&payloads)?;
    let shapes = Path::new(generator::SHAPES);
    if let Ok(before) = fs::read_to_string(root.join(shapes))
        && before != files[shapes]
        && serde_json::from_str::<Shapes>(&before)?.version == wisehosting_protocol::VERSION
        && !std::env::args().any(|argument| argument == UNRELEASED)
    {
        return Err(format!(
            "payloads have another shape: raise VERSION in src/lib.rs, or, if no release speaks it yet, add `-- {UNRELEASED}`"
        )
        .into());
    }
    // What no payload stands for any more goes away; what a fuzzer has found has a name of another form.
    for entry in fs::read_dir(root.join(generator::CORPUS))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == generator::CORPUS_EXTENSION) {
            fs::remove_file(path)?;
        }
    }
    for (path, text) in files {
        fs::write(root.join(&path), text)?;
    }
    Ok(())
}
