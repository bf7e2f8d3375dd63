//! Texts as editors save them.

use isfm_files::read_text;
use isfm_testing::refused;

#[test]
fn a_mark_is_left_out_and_other_encodings_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text");
    let read = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        read_text(&path)
    };
    assert_eq!(read(b"\xef\xbb\xbf{}").unwrap(), "{}");
    assert_eq!(read("ä\u{feff}".as_bytes()).unwrap(), "ä\u{feff}");
    assert_eq!(read(b"").unwrap(), "");
    refused(read(b"\xff\xfe{\0}\0"), &["16-bit", "UTF-8"]);
    refused(read(b"\xfe\xff\0{\0}"), &["16-bit", "UTF-8"]);
    refused(read(b"\xe4"), &["not UTF-8"]);
    refused(read(&vec![b' '; (16 << 20) + 1]), &["16 MiB"]);
}
