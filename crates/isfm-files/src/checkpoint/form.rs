//! What a file is, by its first bytes.

/// How many bytes decide.
pub(super) const HEAD: usize = 512;

/// The forms that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Safetensors,
    /// `torch.save`'s zip files.
    Zip,
    /// What `torch.save` wrote before PyTorch 1.6: pickles, then the numbers.
    Pickles,
}

/// Beginnings of files that people take for weights.
const OTHERS: &[(&[u8], &str)] = &[
    (b"version https://", "a Git LFS pointer, not the file it stands for; run `git lfs pull`"),
    (b"\x89PNG", PICTURE),
    (b"\xff\xd8\xff", PICTURE),
    (b"GIF8", PICTURE),
    (b"BM", PICTURE),
    (b"II*\0", PICTURE),
    (b"MM\0*", PICTURE),
    (b"P5", PICTURE),
    (b"P6", PICTURE),
    (b"RIFF", "a RIFF file (WebP, WAV, AVI), no weights"),
    (b"%PDF", "a PDF, no weights"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (b"\xfd7zXZ", "compressed by xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it first"),
    (b"BZh", "compressed by bzip2; unpack it first"),
    (b"7z\xbc\xaf", "a 7-Zip archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"GGUF", "a GGUF file (llama.cpp), which is not read; needs safetensors or torch.save's"),
    (b"\x89HDF", "an HDF5 file (Keras), which is not read; needs safetensors or torch.save's"),
    (b"\x93NUMPY", "a NumPy array, which is not read; needs safetensors or torch.save's"),
    (b"\x08", "perhaps an ONNX file, which is not read; needs safetensors or torch.save's"),
    (b"\x7fELF", "a program, no weights"),
    (b"\xff\xfe", "text of 16-bit characters, no weights"),
    (b"\xfe\xff", "text of 16-bit characters, no weights"),
];
const PICTURE: &str = "a picture, not a safetensors file nor one of torch.save's";

/// What a file's first bytes say it is, or what is wrong with it.
pub(super) fn form(head: &[u8]) -> Result<Form, &'static str> {
    // First, because a file begins with the length of its header, which can look like the others.
    if head.get(8) == Some(&b'{') && head[4..8] == [0; 4] {
        return Ok(Form::Safetensors);
    }
    if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        return Ok(Form::Zip);
    }
    if head.starts_with(b"\x80") {
        return Ok(Form::Pickles);
    }
    if head.is_empty() {
        return Err("empty: not a safetensors file, nor one of torch.save's");
    }
    if let Some((_, what)) = OTHERS.iter().find(|(start, _)| head.starts_with(start)) {
        return Err(what);
    }
    if head.get(257..262) == Some(b"ustar") {
        return Err(
            "a tar archive, as PyTorch before 0.1.10 wrote; save it again with a newer one",
        );
    }
    if head.iter().all(|&byte| byte == 0) {
        return Err("nothing but zeros, as a download leaves that did not finish");
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    Err(match text.first() {
        Some(b'<') => "a web page or XML, not a safetensors file nor one of torch.save's",
        Some(b'{' | b'[') => "JSON text, perhaps a configuration, no weights",
        _ => "not a safetensors file, nor one of torch.save's, or truncated",
    })
}
