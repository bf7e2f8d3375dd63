//! A stream of video and an alignment: read or an error, and frames of the size that the header says.
#![no_main]

use std::io::Cursor;
use std::path::Path;

use isfm::{Alignment, Sizes};
use isfm_cli::live::source::Source;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(alignment) =
        std::str::from_utf8(bytes).map_err(drop).and_then(|t| Alignment::from_json(t).map_err(drop))
    {
        // A point of the infrared frame, or one at infinity.
        _ = alignment.homography().apply([0., 0.]);
        assert!(Alignment::from_json(&alignment.to_json()).is_ok());
        if let Ok(small) = alignment.for_sizes(Sizes { visible: (8, 6), infrared: (5, 4) }) {
            _ = small.common(Default::default());
        }
    }
    let stream = Box::new(Cursor::new(bytes.to_vec()));
    let Ok(mut source) = Source::from_reader(Path::new("fuzz"), stream, None, None) else { return };
    let mut frame = Vec::new();
    while let Ok(true) = source.next(&mut frame) {
        assert_eq!(frame.len(), source.bytes());
        assert!(source.layout().bytes() <= frame.len());
    }
});
