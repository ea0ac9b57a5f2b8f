//! A file in the envelope in which servers send each other media, neither of them ever whole in memory:
//! `multipart/mixed` with a part that says something of the file, and a part that is the file or says where it is. RFC
//! 2046, section 5.1.

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue};
use memchr::memmem::Finder;
use platform::{Arriving, SendError};

use super::AskError;

/// How much may be around the file, in bytes.
pub(super) const ENVELOPE_BYTES_MAX: usize = 64 * 1024;
/// RFC 2046: a boundary has "no more than 70 characters".
const BOUNDARY_BYTES_MAX: usize = 70;

/// What is sent before a file with these headers, and after it. The boundary is one that is in no file.
pub(super) fn envelope(boundary: &str, headers: &HeaderMap) -> (Bytes, Bytes) {
    let mut head =
        format!("--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\n").into_bytes();
    for (name, value) in headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    (head.into(), format!("\r\n--{boundary}--\r\n").into())
}

/// The boundary that a content type names; `None` if it is no `multipart/mixed` with one.
pub(super) fn boundary(content_type: &str) -> Option<&str> {
    let (essence, parameters) = content_type.split_once(';')?;
    let mut parameters = parameters.split(';').filter_map(|parameter| parameter.trim().split_once('='));
    let (_, boundary) = parameters.find(|(name, _)| name.eq_ignore_ascii_case("boundary"))?;
    let boundary = boundary.trim_matches('"');
    let is_good =
        essence.trim().eq_ignore_ascii_case("multipart/mixed") && (1..=BOUNDARY_BYTES_MAX).contains(&boundary.len());
    is_good.then_some(boundary)
}

/// The second part of what arrives: its headers, and its content as it arrives.
///
/// # Errors
/// The rest does not arrive, or is no such envelope.
pub(super) async fn second_part(body: Arriving, boundary: &str) -> Result<(HeaderMap, Arriving), AskError> {
    let mut reader = Reader {
        body,
        // A boundary at the very beginning has no line before it.
        buffer: BytesMut::from("\r\n"),
        delimiter: Finder::new(format!("\r\n--{boundary}").as_bytes()).into_owned(),
        envelope_bytes: 0,
    };
    for _ in 0..2 {
        reader.skip_to_delimiter().await?;
        if reader.line().await?.starts_with(b"--") {
            return Err(nonsense("an envelope without a file"));
        }
    }
    let headers = reader.headers().await?;
    Ok((headers, reader.content()))
}

fn nonsense(what: &str) -> AskError {
    AskError::Nonsense(what.to_owned())
}

/// Reads an envelope as it arrives.
struct Reader {
    body: Arriving,
    /// What has arrived and is not read yet.
    buffer: BytesMut,
    delimiter: Finder<'static>,
    /// How much was read that is not the file.
    envelope_bytes: usize,
}

impl Reader {
    /// Takes in more; false at the end.
    async fn more(&mut self) -> Result<bool, SendError> {
        match self.body.next().await.transpose()? {
            Some(piece) => {
                self.buffer.extend_from_slice(&piece);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Reads so far as `end` says, of what it says an end of.
    async fn read_to(&mut self, end: impl Fn(&Self) -> Option<usize>) -> Result<Bytes, AskError> {
        loop {
            let found = end(self);
            let seen = found.unwrap_or(self.buffer.len());
            if self.envelope_bytes.saturating_add(seen) > ENVELOPE_BYTES_MAX {
                return Err(nonsense("more envelope than file"));
            }
            if let Some(end) = found {
                self.envelope_bytes = self.envelope_bytes.saturating_add(end);
                return Ok(self.buffer.split_to(end).freeze());
            }
            if !self.more().await? {
                return Err(nonsense("an envelope that ends too soon"));
            }
        }
    }

    async fn skip_to_delimiter(&mut self) -> Result<(), AskError> {
        let length = self.delimiter.needle().len();
        self.read_to(|reader| Some(reader.delimiter.find(&reader.buffer)?.saturating_add(length))).await.map(drop)
    }

    /// The next line, without its end. Some write no carriage returns.
    async fn line(&mut self) -> Result<Bytes, AskError> {
        let line = self.read_to(|reader| Some(memchr::memchr(b'\n', &reader.buffer)?.saturating_add(1))).await?;
        let length = line.strip_suffix(b"\r\n").or(line.strip_suffix(b"\n")).map_or(line.len(), <[u8]>::len);
        Ok(line.slice(..length))
    }

    /// The headers of a part. What is none is passed over.
    async fn headers(&mut self) -> Result<HeaderMap, AskError> {
        let mut headers = HeaderMap::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(headers);
            }
            let Some(colon) = memchr::memchr(b':', &line) else { continue };
            let (name, value) = (line.slice(..colon), line.slice(colon.saturating_add(1)..));
            let header = (HeaderName::from_bytes(name.trim_ascii()), HeaderValue::from_bytes(value.trim_ascii()));
            if let (Ok(name), Ok(value)) = header {
                headers.insert(name, value);
            }
        }
    }

    /// What is left of a part.
    fn content(self) -> Arriving {
        Box::pin(stream::try_unfold(Some(self), |reader| async move {
            let Some(mut reader) = reader else { return Ok(None) };
            loop {
                if let Some(end) = reader.delimiter.find(&reader.buffer) {
                    let last = reader.buffer.split_to(end).freeze();
                    reader.read_on().await;
                    return Ok(Some((last, None)));
                }
                // What may be the beginning of the end is held back.
                let held_back = reader.delimiter.needle().len().saturating_sub(1);
                let certain = reader.buffer.len().saturating_sub(held_back);
                if certain > 0 {
                    return Ok(Some((reader.buffer.split_to(certain).freeze(), Some(reader))));
                }
                if !reader.more().await? {
                    return Err(SendError::Nonsense("a file that is cut off".to_owned()));
                }
            }
        }))
    }

    /// Takes in what comes after the file, so that the connection can be used again.
    async fn read_on(&mut self) {
        let mut left = ENVELOPE_BYTES_MAX;
        while let Some(Ok(piece)) = self.body.next().await {
            match left.checked_sub(piece.len()) {
                Some(less) => left = less,
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::{TryStreamExt, stream};
    use http::{HeaderMap, HeaderValue, header};
    use platform::SendError;

    use super::{AskError, ENVELOPE_BYTES_MAX, boundary, envelope, second_part};
    use crate::testing::block_on;

    /// What is read of an envelope that arrives in pieces of this size: the part's content type, and its content.
    fn read(bytes: &[u8], piece: usize) -> Result<(Option<String>, Vec<u8>), AskError> {
        let pieces: Vec<Result<Bytes, SendError>> =
            bytes.chunks(piece).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        block_on(async {
            let (headers, content) = second_part(Box::pin(stream::iter(pieces)), "b-1").await?;
            let content: Vec<Bytes> = content.try_collect().await?;
            let told = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap().to_owned());
            Ok((told, content.concat()))
        })
    }

    #[test]
    fn a_file_comes_out_as_it_went_in_however_it_arrives() {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("a/b"))]);
        let (head, tail) = envelope("b-1", &headers);
        let contents: [&[u8]; 5] = [b"", b"abc", b"\r\n--b-\r\n--b\r\n\r\n", &[0xFF; 300], b"\r\n"];
        for content in contents {
            let whole = [&head[..], content, &tail].concat();
            for piece in [1, 2, 3, 7, 64, 10_000] {
                assert_eq!(read(&whole, piece), Ok((Some("a/b".to_owned()), content.to_vec())), "{piece}");
            }
        }
    }

    #[test]
    fn envelopes_of_other_makes_are_read() {
        let expected = Ok((Some("a/b".to_owned()), b"abc".to_vec()));
        for whole in [
            // A line before the first boundary, and none at the end.
            "\r\n--b-1\r\nContent-Type: application/json\r\n\r\n{}\r\n--b-1\r\ncontent-type: a/b\r\n\r\nabc\r\n--b-1",
            "A preamble\r\n--b-1  \r\n\r\n{}\r\n--b-1\r\nX: y\r\nnonsense\r\nContent-Type:a/b\r\n\r\nabc\r\n--b-1--after",
            "--b-1\n\n{}\r\n--b-1\nContent-Type: a/b\n\nabc\r\n--b-1--\n",
        ] {
            for piece in [1, 5, 1_000] {
                assert_eq!(read(whole.as_bytes(), piece), expected, "{whole}");
            }
        }
    }

    #[test]
    fn what_is_no_envelope_is_refused() {
        let endless_head = format!("--b-1\r\n\r\n{{}}\r\n--b-1\r\nX: {}", "y".repeat(ENVELOPE_BYTES_MAX));
        let many_headers = format!("--b-1\r\n\r\n{{}}\r\n--b-1\r\n{}\r\nz", "X: yyyyyy\r\n".repeat(7_000));
        for whole in [
            "",
            "abc",
            "--b-1",
            "--b-1--\r\n",
            "--b-1\r\n\r\n{}\r\n--b-1--\r\n",
            "--b-1\r\n\r\n{}\r\n--b-1\r\n\r\nabc",
            "--b-1\r\n\r\n{}\r\n--b-1\r\n\r\nabc\r\n--b-",
            "--c\r\n\r\n{}\r\n--c\r\n\r\nabc\r\n--c--",
            &endless_head,
            &many_headers,
        ] {
            for piece in [3, 100_000] {
                assert!(matches!(read(whole.as_bytes(), piece), Err(AskError::Nonsense(_))), "{whole:.60}");
            }
        }
    }

    #[test]
    fn a_boundary_is_named_in_the_content_type() {
        for (content_type, expected) in [
            ("multipart/mixed; boundary=abc", Some("abc")),
            ("Multipart/Mixed;charset=x; Boundary=\"a=b c\"", Some("a=b c")),
            ("multipart/mixed", None),
            ("multipart/mixed; boundary=", None),
            ("multipart/form-data; boundary=abc", None),
            ("application/json", None),
        ] {
            assert_eq!(boundary(content_type), expected, "{content_type}");
        }
        assert_eq!(boundary(&format!("multipart/mixed; boundary={}", "x".repeat(71))), None);
    }
}
