//! Where the body of a response ends (RFC 9112, section 6.3), as a decoder that is fed by a buffer.

use bytes::{Buf, Bytes, BytesMut};

/// Longest line with the size of a chunk, extensions included.
const SIZE_LINE_BYTES_MAX: usize = 1024;
/// Most bytes of trailers, which are dropped.
const TRAILER_BYTES_MAX: usize = 16 * 1024;

/// Decodes one body. Begins in the state that the head of the response says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoder {
    /// So many bytes are left.
    Length(u64),
    /// Chunks with their sizes.
    Chunked(Chunk),
    /// All until the connection is closed.
    UntilClose,
    /// Nothing is left.
    Done,
}

/// What comes next in a chunked body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// The line with a size.
    Size,
    /// So many bytes of data.
    Data(u64),
    /// The line end after the data.
    DataEnd,
    /// Trailers; so many bytes of them were dropped.
    Trailers(usize),
}

/// The body is not what its head announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// A chunk's size or end is wrong.
    #[error("the instance sent a malformed chunk")]
    Chunk,
    /// The connection was closed before the end.
    #[error("the instance closed the connection in the middle of a response")]
    CutOff,
}

/// One step.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Some of the body; never empty.
    Data(Bytes),
    /// More must be received first.
    More,
    /// That was all.
    End,
}

impl Decoder {
    /// Takes what can be taken from the buffer.
    ///
    /// # Errors
    /// The chunks are malformed.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, BodyError> {
        loop {
            match self {
                Self::Done => return Ok(Decoded::End),
                _ if buffer.is_empty() => return Ok(Decoded::More),
                Self::UntilClose => return Ok(Decoded::Data(buffer.split().freeze())),
                Self::Length(left) => {
                    let data = take(buffer, left);
                    if *left == 0 {
                        *self = Self::Done;
                    }
                    return Ok(Decoded::Data(data));
                }
                Self::Chunked(Chunk::Data(left)) => {
                    let data = take(buffer, left);
                    if *left == 0 {
                        *self = Self::Chunked(Chunk::DataEnd);
                    }
                    return Ok(Decoded::Data(data));
                }
                Self::Chunked(chunk) => match chunk.between_data(buffer)? {
                    Some(next) => *self = next,
                    None => return Ok(Decoded::More),
                },
            }
        }
    }

    /// The connection was closed: was that the end of the body?
    ///
    /// # Errors
    /// It was not.
    pub fn closed(&mut self) -> Result<(), BodyError> {
        match self {
            Self::UntilClose | Self::Done => {
                *self = Self::Done;
                Ok(())
            }
            _ => Err(BodyError::CutOff),
        }
    }
}

impl Chunk {
    /// The state after this one, which is not `Data`; none if the buffer does not reach that far.
    fn between_data(&mut self, buffer: &mut BytesMut) -> Result<Option<Decoder>, BodyError> {
        let next = match self {
            Self::Size => match take_line(buffer, SIZE_LINE_BYTES_MAX)? {
                Some(line) => match parse_size(&line)? {
                    0 => Decoder::Chunked(Self::Trailers(0)),
                    size => Decoder::Chunked(Self::Data(size)),
                },
                None => return Ok(None),
            },
            Self::DataEnd => match buffer.get(..2) {
                Some(b"\r\n") => {
                    buffer.advance(2);
                    Decoder::Chunked(Self::Size)
                }
                Some(_) => return Err(BodyError::Chunk),
                None => return Ok(None),
            },
            Self::Trailers(dropped) => match take_line(buffer, TRAILER_BYTES_MAX - *dropped)? {
                Some(line) if line.is_empty() => Decoder::Done,
                Some(line) => Decoder::Chunked(Self::Trailers(*dropped + line.len())),
                None => return Ok(None),
            },
            Self::Data(_) => return Ok(None),
        };
        Ok(Some(next))
    }
}

fn take(buffer: &mut BytesMut, left: &mut u64) -> Bytes {
    let len = usize::try_from(*left).map_or(buffer.len(), |left| left.min(buffer.len()));
    *left -= len as u64;
    buffer.split_to(len).freeze()
}

/// The next line without its end, if it is there as a whole.
fn take_line(buffer: &mut BytesMut, bytes_max: usize) -> Result<Option<BytesMut>, BodyError> {
    let Some(end) = buffer.iter().take(bytes_max + 2).position(|&byte| byte == b'\n') else {
        return if buffer.len() >= bytes_max + 2 { Err(BodyError::Chunk) } else { Ok(None) };
    };
    let mut line = buffer.split_to(end + 1);
    if !line.ends_with(b"\r\n") {
        return Err(BodyError::Chunk);
    }
    line.truncate(end - 1);
    Ok(Some(line))
}

/// The size at the start of a line, before extensions. Only digits: a sign or a space means something else to somebody.
fn parse_size(line: &[u8]) -> Result<u64, BodyError> {
    let end = line.iter().position(|byte| matches!(byte, b';' | b' ' | b'\t')).unwrap_or(line.len());
    let digits = &line[..end];
    if digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(BodyError::Chunk);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| BodyError::Chunk)?;
    u64::from_str_radix(digits, 16).map_err(|_| BodyError::Chunk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `wire` in pieces of `piece` bytes; the body, and what is left in the buffer.
    fn decode(mut decoder: Decoder, wire: &[u8], piece: usize) -> Result<(Vec<u8>, Vec<u8>), BodyError> {
        let (mut body, mut buffer) = (Vec::new(), BytesMut::new());
        let mut pieces = wire.chunks(piece);
        loop {
            match decoder.decode(&mut buffer)? {
                Decoded::Data(data) => body.extend_from_slice(&data),
                Decoded::End => {
                    buffer.extend(pieces.flatten());
                    return Ok((body, buffer.to_vec()));
                }
                Decoded::More => match pieces.next() {
                    Some(piece) => buffer.extend_from_slice(piece),
                    None => {
                        decoder.closed()?;
                    }
                },
            }
        }
    }

    /// Where a body begins, what is sent, the body in it, and what follows it.
    type Case = (Decoder, &'static [u8], &'static [u8], &'static [u8]);

    #[test]
    fn a_body_ends_where_its_head_says() {
        let chunks = b"3;x=y\r\nabc\r\n00A\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\nrest";
        let cases: [Case; 4] = [
            (Decoder::Length(3), b"abcdef", b"abc", b"def"),
            (Decoder::UntilClose, b"abcdef", b"abcdef", b""),
            (Decoder::Done, b"abc", b"", b"abc"),
            (Decoder::Chunked(Chunk::Size), chunks, b"abc0123456789", b"rest"),
        ];
        for (decoder, wire, body, rest) in &cases {
            for piece in 1..=wire.len() {
                let decoded = decode(decoder.clone(), wire, piece);
                assert_eq!(decoded, Ok((body.to_vec(), rest.to_vec())), "{decoder:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn what_is_not_a_body_is_refused() {
        for wire in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\na\r\n",
            "0x1\r\na\r\n",
            "1\na\r\n",
            "1\r\nabc",
            "1\r\na\n\n",
            "1000000000000000\r\n",
            "0\r\na\nb\r\n\r\n",
        ] {
            let result = decode(Decoder::Chunked(Chunk::Size), wire.as_bytes(), wire.len());
            assert_eq!(result, Err(BodyError::Chunk), "{wire:?}");
        }
        for wire in ["", "5\r\nabc", "1\r\na\r\n", "0\r\n"] {
            let result = decode(Decoder::Chunked(Chunk::Size), wire.as_bytes(), 100);
            assert_eq!(result, Err(BodyError::CutOff), "{wire:?}");
        }
        assert_eq!(decode(Decoder::Length(9), b"abc", 3), Err(BodyError::CutOff));
        let long = [b"1;".as_slice(), &[b'a'; 5000]].concat();
        assert_eq!(decode(Decoder::Chunked(Chunk::Size), &long, 10), Err(BodyError::Chunk));
    }

    proptest! {
        #[test]
        fn chunks_come_out_as_they_went_in(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8),
            piece in 1..64usize,
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let decoded = decode(Decoder::Chunked(Chunk::Size), &wire, piece);
            prop_assert_eq!(decoded, Ok((chunks.concat(), Vec::new())));
        }

        #[test]
        fn no_input_makes_it_panic(wire in prop::collection::vec(any::<u8>(), 0..200), piece in 1..9usize) {
            let _ = decode(Decoder::Chunked(Chunk::Size), &wire, piece);
        }
    }
}
