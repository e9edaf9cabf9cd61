//! What one TCP connection carries.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use wisehosting_network::NetworkNamespace;

/// Sends to `address` in `to` for a while; answers the bits per second that were read there, after `settle` and during `measure`.
///
/// # Errors
/// There is no connection, or it breaks.
pub fn transfer(
    from: &NetworkNamespace,
    to: &NetworkNamespace,
    address: &str,
    settle: Duration,
    measure: Duration,
) -> anyhow::Result<f64> {
    let listener = to.run(|| TcpListener::bind(address))??;
    let mut sending = from.run(|| TcpStream::connect(address))??;
    let (mut receiving, _) = listener.accept()?;
    let sender = thread::spawn(move || while sending.write_all(&[0; 1 << 16]).is_ok() {});

    let mut buffer = vec![0; 1 << 20];
    let settled = Instant::now() + settle;
    while Instant::now() < settled {
        let _ = receiving.read(&mut buffer)?;
    }
    let (begin, mut bytes) = (Instant::now(), 0);
    while begin.elapsed() < measure {
        bytes += receiving.read(&mut buffer)?;
    }
    let seconds = begin.elapsed().as_secs_f64();

    receiving.shutdown(Shutdown::Both)?;
    drop(receiving);
    // It ends when what it sends is refused.
    let _ = sender.join();
    Ok(bytes as f64 * 8.0 / seconds)
}
