use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};

/// Where a page says its encoding, in bytes. HTML: "prescan a byte stream to determine its encoding".
const PRESCAN_BYTES: usize = 1_024;

/// The text of a page: as its byte order mark says, or its server, or itself; or else as most pages are.
pub(super) fn decoded(bytes: &[u8], charset: Option<&str>) -> String {
    let marked = Encoding::for_bom(bytes).map(|(encoding, _)| encoding);
    let told = || charset.and_then(|label| Encoding::for_label(label.as_bytes()));
    let encoding = marked.or_else(told).or_else(|| says_itself(bytes)).unwrap_or_else(|| looks_like(bytes));
    encoding.decode(bytes).0.into_owned()
}

/// `<meta charset="…">`, `<meta http-equiv=… content="…; charset=…">` or `<?xml … encoding="…"?>`.
fn says_itself(bytes: &[u8]) -> Option<&'static Encoding> {
    let beginning = bytes.get(..PRESCAN_BYTES).unwrap_or(bytes).to_ascii_lowercase();
    let beginning = String::from_utf8_lossy(&beginning);
    let labels = ["charset", "encoding"].into_iter().flat_map(|name| beginning.split(name).skip(1));
    let encoding = labels.filter_map(label).find_map(|label| Encoding::for_label(label.as_bytes()))?;
    // HTML: who can write that in ASCII is not in UTF-16.
    Some(if encoding == UTF_16LE || encoding == UTF_16BE { UTF_8 } else { encoding })
}

/// The value after a name, if there is one.
fn label(after: &str) -> Option<&str> {
    let value = after.trim_start().strip_prefix('=')?.trim_start().trim_start_matches(['"', '\'']);
    value.split(['"', '\'', ';', '>', '?', ' ']).next().filter(|label| !label.is_empty())
}

fn looks_like(bytes: &[u8]) -> &'static Encoding {
    match std::str::from_utf8(bytes) {
        // The last character may have been cut.
        Err(error) if error.error_len().is_some() => WINDOWS_1252,
        _ => UTF_8,
    }
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn an_encoding_is_said_by_a_mark_the_server_or_the_page() {
        for (bytes, charset, expected) in [
            (&b"\xe4."[..], None, "ä."),
            ("ä".as_bytes(), None, "ä"),
            (b"a\xe2\x82", None, "a\u{FFFD}"),
            (b"\x82\xa0", Some("shift_jis"), "あ"),
            (b"\x82\xa0", Some("Shift-JIS "), "あ"),
            (b"\xef\xbb\xbf\xc3\xa4", Some("iso-8859-1"), "ä"),
            (b"\xff\xfea\0", Some("utf-8"), "a"),
            (b"\xe4.", Some("no such thing"), "ä."),
            (b"<meta charset=koi8-r>\xc1", None, "<meta charset=koi8-r>а"),
            (b"<META CHARSET = 'koi8-r' >\xc1", None, "<META CHARSET = 'koi8-r' >а"),
            (
                b"<meta content=\"text/html; charset=koi8-r\" http-equiv=content-type>\xc1",
                None,
                "<meta content=\"text/html; charset=koi8-r\" http-equiv=content-type>а",
            ),
            (b"<?xml encoding='koi8-r'?>\xc1", None, "<?xml encoding='koi8-r'?>а"),
            (b"<meta charset=utf-16>\xc3\xa4", None, "<meta charset=utf-16>ä"),
            (b"<meta charset=>\xe4.", None, "<meta charset=>ä."),
        ] {
            assert_eq!(decoded(bytes, charset), expected, "{bytes:?}");
        }
    }
}
