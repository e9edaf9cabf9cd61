//! The protocol as its two sides see it.

mod connection;
#[path = "../../fuzz/decoder.rs"]
mod decoder;
mod document;
#[path = "../../examples/vectors/generator.rs"]
mod generator;
mod independent;
mod properties;
mod session;
#[path = "../../examples/vectors/shapes.rs"]
mod shapes;
mod vectors;
