//! Attributes of nftables messages: numbers are big-endian, names end in a zero byte, lists are nested.

use rtnetlink::packet_core::{DefaultNla, Emitable};

/// Marks an attribute whose value is attributes.
const NESTED: u16 = 0x8000;

pub(super) fn bytes(kind: u16, value: &[u8]) -> DefaultNla {
    DefaultNla::new(kind, value.to_vec())
}

pub(super) fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

pub(super) fn name(kind: u16, value: &str) -> DefaultNla {
    DefaultNla::new(kind, [value.as_bytes(), &[0]].concat())
}

pub(super) fn nested(kind: u16, inside: &[DefaultNla]) -> DefaultNla {
    DefaultNla::new(kind | NESTED, emitted(inside))
}

/// Attributes one after the other.
pub(super) fn emitted(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut buffer = vec![0; attributes.buffer_len()];
    attributes.emit(&mut buffer);
    buffer
}

/// The attributes in `buffer`: kind and value. What is cut off is left out.
pub(super) fn parse(buffer: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = buffer;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & !NESTED;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of this kind.
pub(super) fn find(buffer: &[u8], wanted: u16) -> Option<&[u8]> {
    parse(buffer).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again() {
        let sent = emitted(&[nested(1, &[name(2, "wh0"), number(3, 7)]), bytes(4, &[1, 2, 3])]);
        assert_eq!(sent.len() % 4, 0);
        let inside = find(&sent, 1).unwrap();
        assert_eq!(find(inside, 2), Some(&b"wh0\0"[..]));
        assert_eq!(find(inside, 3), Some(&[0, 0, 0, 7][..]));
        assert_eq!(find(&sent, 4), Some(&[1, 2, 3][..]));
        assert_eq!(find(&sent, 5), None);
        assert_eq!(parse(&sent[..6]).count(), 0, "what is cut off is no attribute");
        assert_eq!(parse(&[0; 8]).count(), 0);
    }
}
