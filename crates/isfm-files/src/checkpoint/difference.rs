//! What is missing, unexpected and of another shape.

use std::collections::BTreeMap;
use std::fmt;

use super::Tensors;

/// How a set of tensors differs from the one that is needed. Its text names at most 12 tensors of
/// each kind, one kind a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Names that are needed and not there.
    pub missing: Vec<String>,
    /// Names that are there and not needed.
    pub unexpected: Vec<String>,
    /// Tensors of another shape than needed.
    pub misshapen: Vec<Misshapen>,
}

/// A tensor of another shape than needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misshapen {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub got: Vec<usize>,
    /// The shape that would be right.
    pub needed: Vec<usize>,
}

impl Difference {
    /// Holds `tensors` against the names and shapes that are needed.
    pub fn between(tensors: &Tensors, needed: &BTreeMap<String, Vec<usize>>) -> Self {
        let misshapen = tensors.iter().filter_map(|(name, tensor)| {
            let (got, needed) = (tensor.dims().to_vec(), needed.get(name)?.clone());
            (got != needed).then(|| Misshapen { name: name.clone(), got, needed })
        });
        Self {
            missing: needed.keys().filter(|n| !tensors.contains_key(*n)).cloned().collect(),
            unexpected: tensors.keys().filter(|n| !needed.contains_key(*n)).cloned().collect(),
            misshapen: misshapen.collect(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 12;
        let misshapen = |m: &Misshapen| format!("{} is {:?}, needs {:?}", m.name, m.got, m.needed);
        let mut separator = "";
        for (what, names) in [
            ("missing", &self.missing),
            ("unexpected", &self.unexpected),
            ("mis-shaped", &self.misshapen.iter().map(misshapen).collect()),
        ] {
            if names.is_empty() {
                continue;
            }
            let shown = names[..names.len().min(SHOWN)].join(", ");
            write!(f, "{separator}{} {what}: {shown}", names.len())?;
            if names.len() > SHOWN {
                write!(f, " and {} more", names.len() - SHOWN)?;
            }
            separator = "\n  ";
        }
        Ok(())
    }
}
