//! Alignments as files.

use std::io::{Read, Write};
use std::path::Path;

use serde::Deserialize;

use crate::{Alignment, Confidence, Error, Homography, Model, Result, Sizes};

/// What is larger is no alignment.
const MOST: u64 = 1 << 20;

/// What may stand beside the matrix. Keys of others are not looked at.
#[derive(Deserialize)]
struct Beside {
    visible: Option<(usize, usize)>,
    infrared: Option<(usize, usize)>,
    model: Option<Model>,
    confidence: Option<Confidence>,
}

impl Alignment {
    /// From the text of a JSON file: an object of `matrix`, nine numbers row by row that take an infrared pixel to its
    /// visible one, and where they are known `visible` and `infrared` (width and height), `model` and
    /// `confidence`; or the nine numbers alone.
    ///
    /// # Errors
    /// [`Error::Json`] if it is neither, and [`Error::Matrix`].
    pub fn from_json(text: &str) -> Result<Self> {
        let refuse = |got: String| Error::Json { got };
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|error| refuse(format!("no JSON ({error})")))?;
        let numbers = value.get("matrix").unwrap_or(&value).as_array();
        let numbers = numbers.ok_or_else(|| refuse("JSON without nine numbers".to_owned()))?;
        let all = numbers.len();
        let numbers: Vec<f64> = numbers.iter().filter_map(serde_json::Value::as_f64).collect();
        let count = numbers.len();
        let nine = <[f64; 9]>::try_from(numbers).ok().filter(|_| all == 9);
        let homography = Homography::new(nine.ok_or_else(|| refuse(format!("{count} numbers")))?)?;
        if !value.is_object() {
            return Ok(homography.into());
        }
        let Beside { visible, infrared, model, confidence } =
            serde_json::from_value(value).map_err(|error| refuse(error.to_string()))?;
        let fits = |(w, h): (usize, usize)| {
            let most = crate::Image::<u8>::MOST;
            (1..=most).contains(&w) && (1..=most).contains(&h)
        };
        let sizes = visible.zip(infrared).map(|(visible, infrared)| Sizes { visible, infrared });
        if let Some(sizes) = sizes
            && !(fits(sizes.visible) && fits(sizes.infrared))
        {
            let (v, i) = (sizes.visible, sizes.infrared);
            return Err(refuse(format!("sizes of {}x{} and {}x{}", v.0, v.1, i.0, i.1)));
        }
        if let Some(c) = confidence
            && (c.corner_error.is_nan() || c.corner_error < 0.)
        {
            return Err(refuse(format!("a corner error of {}", c.corner_error)));
        }
        Ok(Self { homography, sizes, model, confidence })
    }

    /// The JSON text that [`from_json`](Self::from_json) reads, the numbers to the last bit.
    pub fn to_json(&self) -> String {
        let numbers: Vec<String> = self.homography.matrix().map(number).into();
        let rows: Vec<String> = numbers.chunks(3).map(|row| row.join(", ")).collect();
        let mut out = format!("{{\n  \"matrix\": [\n    {}\n  ]", rows.join(",\n    "));
        if let Some(Sizes { visible, infrared }) = self.sizes {
            for (name, (w, h)) in [("visible", visible), ("infrared", infrared)] {
                out += &format!(",\n  \"{name}\": [{w}, {h}]");
            }
        }
        if let Some(model) = self.model {
            out += &format!(",\n  \"model\": \"{model}\"");
        }
        if let Some(c) = self.confidence {
            out += &format!(
                ",\n  \"confidence\": {{\"corner_error\": {}",
                number(c.corner_error.min(f64::MAX))
            );
            if let Some(significance) = c.significance {
                out += &format!(", \"significance\": {}", number(significance));
            }
            out += &format!(", \"samples\": {}}}", c.samples);
        }
        out + "\n}\n"
    }

    /// Reads a file of [`from_json`](Self::from_json)'s text.
    ///
    /// # Errors
    /// [`Error::Read`] if it cannot be read, and those of [`from_json`](Self::from_json) as [`Error::In`] the file.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = || {
            let mut bytes = Vec::new();
            std::fs::File::open(path)?.take(MOST + 1).read_to_end(&mut bytes)?;
            let wrong = |what| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
            if bytes.len() as u64 > MOST {
                return Err(wrong("more than 1 MiB, so no alignment"));
            }
            String::from_utf8(bytes).map_err(|_| wrong("not UTF-8"))
        };
        let text = text().map_err(|source| Error::Read { path: path.to_path_buf(), source })?;
        Self::from_json(&text)
            .map_err(|source| Error::In { path: path.to_path_buf(), source: Box::new(source) })
    }

    /// Writes the file that [`read`](Self::read) reads, beside its place first and renamed into it, so that it is
    /// whole or not there.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let write = || {
            let folder = path.parent().filter(|f| !f.as_os_str().is_empty());
            let mut aside = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
            aside.write_all(self.to_json().as_bytes())?;
            aside.as_file().sync_all()?;
            aside.persist(path).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(|source| Error::Write { path: path.to_path_buf(), source })
    }
}

/// As JSON reads it back to the bit.
fn number(value: f64) -> String {
    serde_json::Number::from_f64(value).map_or_else(|| "0".to_owned(), |n| n.to_string())
}
