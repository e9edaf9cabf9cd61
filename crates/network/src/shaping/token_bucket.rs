//! The token bucket filter (`tbf`) as the kernel takes and shows it.
//!
//! Invariant: what is sent is, byte for byte, what `tc` sends for the same parameters, but for the rate table, which a
//! kernel that knows the link layer does not read.

use rtnetlink::packet_core::{DefaultNla, Nla, NlasIterator};
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

/// What the kernel calls this kind of qdisc.
pub(super) const KIND: &str = "tbf";
/// The handle 1:0 of the root qdisc.
pub(super) const HANDLE: TcHandle = TcHandle { major: 1, minor: 0 };

const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_BURST: u16 = 6;

/// Bytes of `struct tc_tbf_qopt`: two rate specifications, limit, buffer and mtu.
const PARAMETERS_BYTES: usize = 36;
const LINK_LAYER_ETHERNET: u8 = 1;
/// Exponent of the rate table's cell for packets of up to 2047 bytes. The kernel gives it back but does not use it.
const CELL_LOG: u8 = 3;
const CELL_ALIGN: i16 = -1;

/// Nanoseconds of one tick of the packet scheduler, in every kernel since 2.6.31.
const TICK_NS: u64 = 64;
/// One part in so many of a burst may be lost: the kernel keeps its time, in ticks.
const BURST_TOLERANCE: u32 = 100;

/// How long a packet may wait for its turn before later ones are dropped.
const LATENCY_MS: u64 = 50;
/// How much of the rate may pass at once. Timers are much finer than this.
const BURST_MS: u64 = 2;
/// Some full packets, at any rate: more would be felt as an excess at low rates, less would drop jumbo frames.
const BURST_BYTES_MIN: u64 = 16 * 1024;

/// A token bucket: so many bytes a second, some of them at once, the rest queued up to a limit.
#[derive(Debug, Clone, Copy)]
pub struct TokenBucket {
    rate_bytes_per_s: u32,
    limit_bytes: u32,
    burst_bytes: u32,
}

/// Two are the same when the kernel's rounding alone could tell them apart.
impl PartialEq for TokenBucket {
    fn eq(&self, other: &Self) -> bool {
        self.rate_bytes_per_s == other.rate_bytes_per_s
            && self.limit_bytes == other.limit_bytes
            && self.burst_bytes.abs_diff(other.burst_bytes) <= self.burst_bytes / BURST_TOLERANCE
    }
}

impl Eq for TokenBucket {}

impl TokenBucket {
    /// A bucket for a rate in bits per second, with the burst and the queue that fit it. Frames count with their
    /// Ethernet headers. Rates of more than 34 Gbit/s are that.
    #[must_use]
    pub fn for_rate(bits_per_s: u64) -> Self {
        let rate = (bits_per_s / 8).clamp(1, u64::from(u32::MAX));
        let burst = (rate * BURST_MS / 1000).max(BURST_BYTES_MIN);
        Self {
            rate_bytes_per_s: saturated(rate),
            limit_bytes: saturated(rate * LATENCY_MS / 1000 + burst),
            burst_bytes: saturated(burst),
        }
    }

    /// The rate in bits per second.
    #[must_use]
    pub fn bits_per_s(&self) -> u64 {
        u64::from(self.rate_bytes_per_s) * 8
    }

    /// Adds this bucket to a request for the root qdisc of a link.
    pub(super) fn write(&self, message: &mut TcMessage) {
        let options = [
            DefaultNla::new(TCA_TBF_PARMS, self.parameters()),
            DefaultNla::new(TCA_TBF_BURST, self.burst_bytes.to_ne_bytes().to_vec()),
        ];
        message.header.handle = HANDLE;
        message.header.parent = TcHandle::ROOT;
        message.attributes.push(TcAttribute::Kind(KIND.to_owned()));
        message.attributes.push(TcAttribute::Options(options.map(TcOption::Other).to_vec()));
    }

    /// The bucket that the kernel describes, if it describes one.
    pub(super) fn read(message: &TcMessage) -> Option<Self> {
        let options = message.attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Options(options) => options.first(),
            _ => None,
        })?;
        // The library hands over what it does not know as it came: the attribute with all that is inside.
        let TcOption::Other(options) = options else { return None };
        if options.kind() != TCA_OPTIONS {
            return None;
        }
        let mut bytes = vec![0; options.value_len()];
        options.emit_value(&mut bytes);
        let parameters = NlasIterator::new(&bytes[..]).flatten().find(|nla| nla.kind() == TCA_TBF_PARMS)?;
        Self::from_parameters(parameters.value())
    }

    /// `struct tc_tbf_qopt`.
    fn parameters(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(PARAMETERS_BYTES);
        // The rate: cell_log, linklayer, overhead, cell_align, mpu, rate.
        bytes.extend([CELL_LOG, LINK_LAYER_ETHERNET]);
        bytes.extend(0_u16.to_ne_bytes());
        bytes.extend(CELL_ALIGN.to_ne_bytes());
        bytes.extend(0_u16.to_ne_bytes());
        bytes.extend(self.rate_bytes_per_s.to_ne_bytes());
        // No second rate for peaks.
        bytes.extend([0; 12]);
        bytes.extend(self.limit_bytes.to_ne_bytes());
        bytes.extend(self.burst_ticks().to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes
    }

    fn from_parameters(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let (rate_bytes_per_s, limit_bytes, burst_ticks) = (number(8)?, number(24)?, number(28)?);
        let burst_bytes = u64::from(burst_ticks) * TICK_NS * u64::from(rate_bytes_per_s) / 1_000_000_000;
        Some(Self { rate_bytes_per_s, limit_bytes, burst_bytes: saturated(burst_bytes) })
    }

    /// How long a burst takes at the rate; as `tc` has it, rounded to whole microseconds first.
    fn burst_ticks(&self) -> u32 {
        let burst_us = u64::from(self.burst_bytes) * 1_000_000 / u64::from(self.rate_bytes_per_s);
        saturated(burst_us * 1000 / TICK_NS)
    }
}

fn saturated(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::Emitable;

    use super::*;

    /// What `tc qdisc replace dev v0 handle 1: root tbf rate 10mbit burst 16kb limit 79384` sends after the netlink
    /// header, without the rate table (iproute2 6.1; the link has index 3).
    #[rustfmt::skip]
    const SENT_BY_TC: [u8; 80] = [
        0x00, 0x00, 0x00, 0x00, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0xff, 0xff, 0xff, 0xff,
        0x00, 0x00, 0x00, 0x00, 0x08, 0x00, 0x01, 0x00, 0x74, 0x62, 0x66, 0x00, 0x34, 0x00, 0x02, 0x00,
        0x28, 0x00, 0x01, 0x00, 0x03, 0x01, 0x00, 0x00, 0xff, 0xff, 0x00, 0x00, 0xd0, 0x12, 0x13, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x18, 0x36, 0x01, 0x00,
        0xfc, 0x1f, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x08, 0x00, 0x06, 0x00, 0x00, 0x40, 0x00, 0x00,
    ];

    #[test]
    fn a_bucket_is_sent_as_tc_sends_it() {
        let mut message = TcMessage::with_index(3);
        let bucket = TokenBucket { rate_bytes_per_s: 1_250_000, limit_bytes: 79_384, burst_bytes: 16_384 };
        bucket.write(&mut message);
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        assert_eq!(bytes, SENT_BY_TC);
    }

    #[test]
    fn what_was_written_is_read_again() {
        for bits_per_s in [100_000, 1_000_000, 10_000_000, 1_000_000_000, 10_000_000_000, u64::MAX] {
            let bucket = TokenBucket::for_rate(bits_per_s);
            assert_eq!(TokenBucket::from_parameters(&bucket.parameters()), Some(bucket));
        }
        assert_eq!(TokenBucket::from_parameters(&[0; 31]), None);
    }

    #[test]
    fn a_burst_is_small_beside_a_second_and_no_smaller_than_a_few_packets() {
        for bits_per_s in [1_000_000, 100_000_000, 1_000_000_000, 10_000_000_000] {
            let bucket = TokenBucket::for_rate(bits_per_s);
            assert_eq!(bucket.bits_per_s(), bits_per_s);
            assert!(bucket.burst_bytes > 9_000, "{bucket:?}");
            assert!(u64::from(bucket.burst_bytes) * 8 * 6 < bits_per_s, "{bucket:?}");
        }
    }
}
