//! Values with units, as they are typed and as they are shown.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

const UNITS: [(&str, u64); 8] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("B", 1),
    ("", 1),
];

const BIT_UNITS: [(&str, u64); 3] = [("kbit", 1_000), ("mbit", 1_000_000), ("gbit", 1_000_000_000)];

/// Bytes from a text such as `256M`, `1GiB` or `268435456`. The units are powers of 1024.
pub(crate) fn memory_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(&text[digits.len()..]));
    let bytes = unit.and_then(|(_, bytes)| digits.parse::<u64>().ok()?.checked_mul(*bytes));
    bytes.ok_or_else(|| "write a whole number with a unit, such as 256M or 1G".to_owned())
}

/// Thousandths of a core from a text such as `0.5` or `2`.
pub(crate) fn cpu_millis(text: &str) -> Result<u32, String> {
    let wrong = || "write a number of cores, such as 0.5 or 2".to_owned();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || fraction.contains('+') {
        return Err(wrong());
    }
    let thousandths: u32 = format!("{fraction:0<3}").parse().map_err(|_| wrong())?;
    let whole: u32 = whole.parse().map_err(|_| wrong())?;
    whole.checked_mul(1000).and_then(|millis| millis.checked_add(thousandths)).ok_or_else(wrong)
}

/// A limit on traffic, as it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bandwidth {
    /// None for no limit.
    pub(crate) bits_per_s: Option<u64>,
}

/// A limit from a text such as `10mbit` or `none`. The units are powers of 1000.
pub(crate) fn bandwidth(text: &str) -> Result<Bandwidth, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(Bandwidth { bits_per_s: None });
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = BIT_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(&text[digits.len()..]));
    let bits = unit.and_then(|(_, bits)| digits.parse::<u64>().ok()?.checked_mul(*bits));
    let bandwidth = bits.filter(|bits| *bits > 0).map(|bits| Bandwidth { bits_per_s: Some(bits) });
    bandwidth.ok_or_else(|| "write a whole number with a unit, such as 500kbit or 10mbit, or none".to_owned())
}

/// A limit on what is written, as it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    /// None for no limit.
    pub(crate) bytes: Option<u64>,
}

/// A limit from a text such as `2G` or `none`.
pub(crate) fn disk(text: &str) -> Result<Disk, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(Disk { bytes: None });
    }
    memory_bytes(text).map(|bytes| Disk { bytes: Some(bytes) }).map_err(|error| format!("{error}, or none"))
}

/// A moment, as it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// So many seconds before now.
    Ago(i64),
    /// Then.
    At(OffsetDateTime),
}

const TIME_UNITS: [(&str, i64); 4] = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];

/// A moment from a text such as `10m` or `2026-01-02T03:04:05Z`.
pub(crate) fn moment(text: &str) -> Result<Moment, String> {
    if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(Moment::At(at));
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = TIME_UNITS.iter().find(|(name, _)| *name == &text[digits.len()..]);
    let seconds = unit.and_then(|(_, seconds)| i64::from(digits.parse::<u32>().ok()?).checked_mul(*seconds));
    let wrong = || {
        "write how long ago, such as 90s, 10m, 2h or 7d, or a time such as 2026-01-02T03:04:05Z".to_owned()
    };
    seconds.map(Moment::Ago).ok_or_else(wrong)
}

/// Name and value from `KEY=VALUE`.
pub(crate) fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

/// Bytes for people.
pub(crate) fn in_mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// Bits per second for people.
pub(crate) fn in_bits_per_s(bits: u64) -> String {
    let unit = BIT_UNITS.iter().rev().find(|(_, size)| bits.is_multiple_of(*size));
    unit.map_or_else(|| format!("{bits} bit/s"), |(name, size)| format!("{} {name}/s", bits / size))
}

/// Bytes in a second as bits for people, rounded down to three digits at most.
pub(crate) fn in_rough_bits_per_s(bytes: u64) -> String {
    let bits = bytes.saturating_mul(8);
    match BIT_UNITS.iter().rev().find(|(_, size)| bits >= *size) {
        Some((name, size)) if bits < 10 * size => {
            format!("{}.{} {name}/s", bits / size, bits % size * 10 / size)
        }
        Some((name, size)) => format!("{} {name}/s", bits / size),
        None => format!("{bits} bit/s"),
    }
}

/// Bytes in a second for people, rounded down.
pub(crate) fn in_rough_bytes_per_s(bytes: u64) -> String {
    match UNITS[..3].iter().rev().find(|(_, size)| bytes >= *size) {
        Some((name, size)) => format!("{} {name}/s", bytes / size),
        None => format!("{bytes} B/s"),
    }
}

/// Thousandths of a core for people.
pub(crate) fn in_cores(millis: u32) -> String {
    let cores = f64::from(millis) / 1000.0;
    format!("{cores} core{}", if millis == 1_000 { "" } else { "s" })
}

/// `1 instance`, `2 instances`.
pub(crate) fn count(number: i64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_so_long_ago() {
        assert_eq!(moment("10m"), Ok(Moment::Ago(600)));
        assert_eq!(moment("1970-01-01T00:00:00Z"), Ok(Moment::At(OffsetDateTime::UNIX_EPOCH)));
        for wrong in ["", "m", "10", "-5s", "5w", "yesterday"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn memory_is_given_with_or_without_a_unit() {
        assert_eq!(memory_bytes("256M"), Ok(256 << 20));
        assert_eq!(memory_bytes("1gib"), Ok(1 << 30));
        assert_eq!(memory_bytes("1"), Ok(1));
        for wrong in ["", "M", "-1M", "1.5G", "10X", "99999999999G"] {
            assert!(memory_bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn processor_time_is_given_in_cores() {
        assert_eq!(cpu_millis("0.5"), Ok(500));
        assert_eq!(cpu_millis("2"), Ok(2000));
        assert_eq!(cpu_millis("1.25"), Ok(1250));
        for wrong in ["", ".5", "-1", "0.0001", "0.+1", "two"] {
            assert!(cpu_millis(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bandwidth_is_given_in_bits_and_shown_so() {
        for (text, bits, shown) in [
            ("10mbit", 10_000_000, "10 mbit/s"),
            ("1Gbit", 1_000_000_000, "1 gbit/s"),
            ("1500kbit", 1_500_000, "1500 kbit/s"),
        ] {
            assert_eq!(bandwidth(text), Ok(Bandwidth { bits_per_s: Some(bits) }));
            assert_eq!(in_bits_per_s(bits), shown);
        }
        assert_eq!(disk("2G"), Ok(Disk { bytes: Some(2 << 30) }));
        assert_eq!(disk("none"), Ok(Disk { bytes: None }));
        assert!(disk("2 cups").is_err());
        assert_eq!(bandwidth("none"), Ok(Bandwidth { bits_per_s: None }));
        for wrong in ["", "mbit", "10", "10MB", "0mbit", "-1mbit", "1.5mbit", "99999999999gbit"] {
            assert!(bandwidth(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_measured_is_shown_roughly() {
        for (bytes, shown) in [
            (0, "0 bit/s"),
            (124, "992 bit/s"),
            (125, "1.0 kbit/s"),
            (156_250, "1.2 mbit/s"),
            (12_500_000, "100 mbit/s"),
        ] {
            assert_eq!(in_rough_bits_per_s(bytes), shown);
        }
        for (bytes, shown) in
            [(0, "0 B/s"), (2_047, "1 KiB/s"), (5 << 20, "5 MiB/s"), (3 << 40, "3072 GiB/s")]
        {
            assert_eq!(in_rough_bytes_per_s(bytes), shown);
        }
        assert_eq!([in_cores(0), in_cores(250), in_cores(1_000)], ["0 cores", "0.25 cores", "1 core"]);
    }

    #[test]
    fn a_variable_may_have_an_equals_sign_in_its_value() {
        assert_eq!(variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert!(variable("=x").is_err() && variable("A").is_err());
    }
}
