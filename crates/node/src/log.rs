//! Logging: structured events to standard error or to the journal.

use crate::config::{ConfigError, LogConfig, LogFormat};
use std::io::{self, IsTerminal};
use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::filter_fn, layer::SubscriberExt, util::SubscriberInitExt,
};

/// Sends the process's log where the configuration says. Call once.
///
/// # Errors
/// `log.filter` is not a filter, or there is no journal for `log.format = "journald"`.
pub fn init(config: &LogConfig) -> Result<(), ConfigError> {
    let filter = EnvFilter::try_new(&config.filter).map_err(|error| {
        ConfigError::invalid(
            "log.filter",
            format!("{error}; write a level or target=level, such as \"info\""),
        )
    })?;
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match config.format {
        LogFormat::Text => {
            let colours = io::stderr().is_terminal();
            tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(colours).boxed()
        }
        LogFormat::Json => tracing_subscriber::fmt::layer().with_writer(io::stderr).json().boxed(),
        LogFormat::Journald => tracing_journald::layer()
            .map_err(|error| {
                ConfigError::invalid("log.format", format!("the journal is not there ({error})"))
            })?
            .boxed(),
    };
    // Filters of the subscriber, not of the layer: one of a layer drops an event whose thread was last asked, by a
    // library, whether something else would be logged.
    tracing_subscriber::registry()
        .with(layer)
        .with(filter)
        .with(filter_fn(shows_no_secret))
        .try_init()
        .map_err(|error| ConfigError::invalid("log", error.to_string()))
}

/// Libraries that print secrets at their most talkative: every answer of the kernel's WireGuard as it is, private key
/// included, and every request and message of a WebSocket, token included.
const INDISCREET: [&str; 2] = ["defguard_wireguard_rs", "tungstenite"];

/// Whatever the filter asks for.
fn shows_no_secret(event: &Metadata<'_>) -> bool {
    *event.level() < Level::TRACE || !INDISCREET.iter().any(|library| event.target().starts_with(library))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn a_library_that_prints_secrets_is_never_traced() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&written);
        let layer = tracing_subscriber::fmt::layer().with_writer(move || Sink(Arc::clone(&sink)));
        let subscriber = tracing_subscriber::registry()
            .with(layer)
            .with(EnvFilter::new("trace"))
            .with(filter_fn(shows_no_secret));
        tracing::subscriber::with_default(subscriber, || {
            tracing::trace!(target: "defguard_wireguard_rs::netlink", "a key");
            tracing::trace!(target: "tungstenite::handshake::client", "a token");
            tracing::debug!(target: "defguard_wireguard_rs::netlink", "a peer");
            tracing::trace!("a detail");
        });
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert!(text.contains("a peer") && text.contains("a detail"), "{text}");
        assert!(!text.contains("a key") && !text.contains("a token"), "{text}");
    }

    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
