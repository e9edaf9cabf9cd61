//! Any bytes from the network: `cargo +nightly fuzz run decoder` in `crates/protocol`.

#![no_main]

#[path = "../decoder.rs"]
mod decoder;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        decoder::survives(text);
    }
});
