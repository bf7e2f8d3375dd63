use std::collections::HashMap;

use candle_core::Tensor;
use candle_core::shape::Dim;

use crate::axis::Border;
use crate::data_format::DataFormat;
use crate::transform1d::{dwt, idwt};
use crate::transform2d::{dwt2, idwt2};
use crate::wavelet::Wavelet;
use crate::{Error, Result};

/// What is transformed: one dimension, or rows and columns.
#[derive(Clone, Copy, Debug)]
enum Over {
    Line { dim: usize },
    Plane { format: DataFormat },
}

/// A wavelet packet: a signal or map taken apart by [`dwt`] or [`dwt2`] along any tree, not only on
/// the approximation's side.
///
/// A node is named by its path from the root `""` in PyWavelets' letters: in one dimension `a`
/// (approximation) and `d` (detail), in two `a`, `h`, `v` and `d` (LL, LH, HL, HH). The tree starts
/// as its root alone; [`split`](Self::split) takes a leaf apart, [`merge`](Self::merge) puts it
/// together again, [`reconstruct`](Self::reconstruct) all of them. Everything is differentiable.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use isfm_dwt::{Border, Wavelet, WaveletPacket};
///
/// let x = Tensor::arange(0f32, 16., &Device::Cpu)?;
/// let mut packet = WaveletPacket::new(&x, &Wavelet::named("db2")?, Border::Periodization, 0)?;
/// packet.split_to(2)?;
/// let paths: Vec<_> = packet.leaves().map(|(path, _)| path).collect();
/// assert_eq!(paths, ["aa", "ad", "da", "dd"]);
/// let high = packet.get("dd").expect("a leaf").zeros_like()?;
/// packet.set("dd", high)?;
/// assert_eq!(packet.reconstruct()?.dims(), [16]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct WaveletPacket {
    wavelet: Wavelet,
    border: Border,
    over: Over,
    /// In the order of a walk through the tree.
    leaves: Vec<(String, Tensor)>,
    /// The shapes of the nodes that were split: a reconstruction may be one sample longer.
    shapes: HashMap<String, Vec<usize>>,
}

impl WaveletPacket {
    /// The tree of a signal along the dimension `dim`; so far its root.
    ///
    /// # Errors
    /// If `x` has no such dimension.
    pub fn new(x: &Tensor, wavelet: &Wavelet, border: Border, dim: impl Dim) -> Result<Self> {
        let dim = dim.to_index(x.shape(), "wavelet packet")?;
        Ok(Self::over(x, wavelet, border, Over::Line { dim }))
    }

    /// The tree of maps; so far its root.
    ///
    /// # Errors
    /// Unless `x` has four dimensions.
    pub fn new2(x: &Tensor, wavelet: &Wavelet, border: Border, format: DataFormat) -> Result<Self> {
        x.dims4()?;
        Ok(Self::over(x, wavelet, border, Over::Plane { format }))
    }

    fn over(x: &Tensor, wavelet: &Wavelet, border: Border, over: Over) -> Self {
        let leaves = vec![(String::new(), x.clone())];
        Self { wavelet: wavelet.clone(), border, over, leaves, shapes: HashMap::new() }
    }

    /// The children's letters, in order.
    fn letters(&self) -> &'static [char] {
        match self.over {
            Over::Line { .. } => &['a', 'd'],
            Over::Plane { .. } => &['a', 'h', 'v', 'd'],
        }
    }

    /// The leaves and their paths, in the order of a walk through the tree (PyWavelets' `natural`).
    pub fn leaves(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.leaves.iter().map(|(path, data)| (path.as_str(), data))
    }

    /// A leaf's coefficients; `None` if there is no such leaf.
    pub fn get(&self, path: &str) -> Option<&Tensor> {
        self.leaves().find(|(p, _)| *p == path).map(|(_, x)| x)
    }

    fn leaf(&self, path: &str) -> Result<usize> {
        let problem = "is no leaf of the tree";
        let at = self.leaves.iter().position(|(p, _)| p == path);
        at.ok_or_else(|| Error::Node { path: path.to_string(), problem })
    }

    /// Replaces a leaf's coefficients.
    ///
    /// # Errors
    /// [`Error::Node`] if there is no such leaf, [`Error::Shape`] if it has another shape.
    pub fn set(&mut self, path: &str, data: Tensor) -> Result<()> {
        let at = self.leaf(path)?;
        let old = &mut self.leaves[at].1;
        if data.dims() != old.dims() {
            let needed = format!("{:?}", old.dims());
            return Err(Error::shape("wavelet packet", "a node", &data, needed));
        }
        *old = data;
        Ok(())
    }

    /// Takes a leaf apart: its children become leaves in its place.
    ///
    /// # Errors
    /// [`Error::Node`] if there is no such leaf; otherwise as [`dwt`] or [`dwt2`].
    pub fn split(&mut self, path: &str) -> Result<()> {
        let at = self.leaf(path)?;
        let data = &self.leaves[at].1;
        let parts = match self.over {
            Over::Line { dim } => {
                let (approx, detail) = dwt(data, &self.wavelet, self.border, dim)?;
                vec![approx, detail]
            }
            Over::Plane { format } => {
                let bands = dwt2(data, &self.wavelet, self.border, format)?;
                vec![bands.approx.clone(), bands.lh()?, bands.hl()?, bands.hh()?]
            }
        };
        self.shapes.insert(path.to_string(), data.dims().to_vec());
        let children = self.letters().iter().zip(parts).map(|(c, x)| (format!("{path}{c}"), x));
        let children: Vec<_> = children.collect();
        self.leaves.splice(at..=at, children);
        Ok(())
    }

    /// Takes apart every leaf above `level`, so that all leaves are at least that deep.
    ///
    /// # Errors
    /// As [`Self::split`].
    pub fn split_to(&mut self, level: usize) -> Result<()> {
        // A path is plain ASCII, so its length is the depth.
        while let Some((path, _)) = self.leaves.iter().find(|(path, _)| path.len() < level) {
            let path = path.clone();
            self.split(&path)?;
        }
        Ok(())
    }

    /// Puts a node together: its children, which must be leaves, are replaced by what they
    /// reconstruct.
    ///
    /// # Errors
    /// [`Error::Node`] unless all children are leaves; otherwise as [`idwt`] or [`idwt2`].
    pub fn merge(&mut self, path: &str) -> Result<()> {
        let names: Vec<_> = self.letters().iter().map(|c| format!("{path}{c}")).collect();
        let first = self.leaf(&names[0])?;
        let children = first..first + names.len();
        let leaves = self.leaves.get(children.clone()).unwrap_or_default();
        if !leaves.iter().map(|(p, _)| p).eq(&names) {
            let problem = "has children that are no leaves";
            return Err(Error::Node { path: path.to_string(), problem });
        }
        let parts: Vec<_> = leaves.iter().map(|(_, x)| x).collect();
        let mut data = match self.over {
            Over::Line { dim } => idwt(parts[0], parts[1], &self.wavelet, self.border, dim)?,
            Over::Plane { format } => {
                let details = Tensor::cat(&parts[1..], format.channel_dim())?;
                idwt2(parts[0], &details, &self.wavelet, self.border, format)?
            }
        };
        let shape = self.shapes.remove(path).unwrap_or_else(|| data.dims().to_vec());
        for (dim, &n) in shape.iter().enumerate() {
            data = data.narrow(dim, 0, n.min(data.dim(dim)?))?;
        }
        self.leaves.splice(children, [(path.to_string(), data)]);
        Ok(())
    }

    /// The signal or map that the leaves add up to; the tree stays as it is.
    ///
    /// # Errors
    /// As [`Self::merge`].
    pub fn reconstruct(&self) -> Result<Tensor> {
        let mut tree = self.clone();
        // The deepest leaves are siblings.
        while let Some(deepest) = tree.leaves.iter().map(|(p, _)| p.len()).max().filter(|&d| d > 0)
        {
            let parents: Vec<_> = tree
                .leaves
                .iter()
                .filter(|(path, _)| path.len() == deepest && path.ends_with('a'))
                .map(|(path, _)| path[..deepest - 1].to_string())
                .collect();
            for parent in parents {
                tree.merge(&parent)?;
            }
        }
        Ok(tree.leaves.swap_remove(0).1)
    }

    /// The paths of a full one-dimensional tree's leaves at `level` from the lowest frequencies to
    /// the highest (PyWavelets' `freq` order).
    ///
    /// A detail's spectrum is mirrored by the decimation, so the order below it is reversed: the
    /// paths are a Gray code.
    ///
    /// ```
    /// use isfm_dwt::WaveletPacket;
    /// assert_eq!(WaveletPacket::frequency_order(2), ["aa", "ad", "dd", "da"]);
    /// ```
    ///
    /// There are 2^`level` paths, which for a `level` far above 20 do not fit into memory.
    pub fn frequency_order(level: usize) -> Vec<String> {
        let mut order = vec![String::new()];
        for _ in 0..level {
            let low = order.iter().map(|path| format!("a{path}"));
            let high = order.iter().rev().map(|path| format!("d{path}"));
            order = low.chain(high).collect();
        }
        order
    }

    /// The paths of a full two-dimensional tree's leaves at `level`: rows from the lowest vertical
    /// frequencies to the highest, in each from the lowest horizontal ones to the highest
    /// (PyWavelets' `freq` order).
    ///
    /// ```
    /// use isfm_dwt::WaveletPacket;
    /// assert_eq!(WaveletPacket::frequency_order2(1), [["a", "v"], ["h", "d"]]);
    /// ```
    pub fn frequency_order2(level: usize) -> Vec<Vec<String>> {
        let order = Self::frequency_order(level);
        let cell = |row: &str, column: &str| -> String {
            let letter = |(vertical, horizontal)| match (vertical, horizontal) {
                ('a', 'a') => 'a',
                ('d', 'a') => 'h',
                ('a', _) => 'v',
                _ => 'd',
            };
            row.chars().zip(column.chars()).map(letter).collect()
        };
        order.iter().map(|row| order.iter().map(|column| cell(row, column)).collect()).collect()
    }
}
