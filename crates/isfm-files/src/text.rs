use std::fs::File;
use std::io::{self, Error, ErrorKind, Read};
use std::path::Path;

/// Configurations and run files are small; what is larger is another file, or has no end.
const MOST: u64 = 16 << 20;

/// Reads a text that people write: UTF-8 of at most 16 MiB. A byte-order mark, which some editors put
/// before it, is left out.
///
/// # Errors
/// The system's, and [`ErrorKind::InvalidData`] for other encodings and larger files.
pub fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST + 1).read_to_end(&mut bytes)?;
    let wrong = |what: &str| Error::new(ErrorKind::InvalidData, what);
    if bytes.len() as u64 > MOST {
        return Err(wrong("more than 16 MiB, so no text that a person wrote"));
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(wrong("text of 16-bit characters; save it as UTF-8"));
    }
    let text = String::from_utf8(bytes).map_err(|_| wrong("not UTF-8"))?;
    Ok(without_mark(&text).to_string())
}

/// A text without the byte-order mark that may stand before it.
pub fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}
