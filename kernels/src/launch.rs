//! What a launcher needs to know: buffers, and kernels with their arguments, one after another.

use crate::Module;

/// The element type of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// 16-bit float with f32's range.
    Bf16,
}

impl Type {
    /// How kernels' names end.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

/// What a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// Floats.
    Float(Type),
    /// Unsigned integers of 32 bits.
    U32,
}

impl Element {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Self::Float(Type::F16 | Type::Bf16) => 2,
            Self::Float(Type::F32) | Self::U32 => 4,
        }
    }
}

impl From<Type> for Element {
    fn from(t: Type) -> Self {
        Self::Float(t)
    }
}

/// A contiguous buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Its elements' type.
    pub element: Element,
    /// How many they are.
    pub len: usize,
}

/// The sizes of a selective scan as its kernels take them; `scan.cuh` says what each is.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
#[allow(missing_docs)]
pub struct ScanSizes {
    pub batch: u32,
    pub length: u32,
    pub rows: u32,
    pub cols: u32,
    pub width: u32,
    pub groups: u32,
    pub channels: u32,
    pub states: u32,
    pub rank: u32,
    pub chunk: u32,
    pub chunks: u32,
    pub group: u32,
    pub launch_groups: u32,
    pub turns: u32,
    pub turn: u32,
    pub all_turns: u32,
    pub flags: u32,
    pub run: u32,
    pub blocks: u32,
    pub unused: u32,
}

/// The sizes of a dense convolution as its kernels take them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct ConvSizes {
    pub height: u32,
    pub width: u32,
    pub inputs: u32,
    pub outputs: u32,
    pub k: u32,
    pub pixels: u32,
}

/// An argument of a kernel. Buffers are by number and first element.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// A place in an input.
    Input(usize, usize),
    /// A place in an output.
    Output(usize, usize),
    /// A place in a scratch buffer.
    Scratch(usize, usize),
    /// No buffer.
    Null,
    /// A number.
    U32(u32),
    /// A number.
    F32(f32),
    /// By value.
    Scan(ScanSizes),
    /// By value.
    Conv(ConvSizes),
}

/// A kernel to launch, on a grid and blocks of one dimension, without dynamic shared memory.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The source it is in.
    pub module: Module,
    /// Its name.
    pub kernel: String,
    /// Blocks; never 0.
    pub grid: u32,
    /// Threads in a block.
    pub block: u32,
    /// In the order of its parameters.
    pub args: Vec<Arg>,
}

/// How an operation is done: its buffers, and the launches that fill the outputs, in order on one
/// stream. Inputs are only read. Every element of an output is written; outputs and scratch need
/// not be set before. An operation on nothing has no launches.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// What the caller gives.
    pub inputs: Vec<Need>,
    /// What the caller gets.
    pub outputs: Vec<Need>,
    /// What is free again afterwards.
    pub scratch: Vec<Need>,
    /// What runs.
    pub launches: Vec<Launch>,
}

/// A size beyond what the kernels take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The operation.
    pub op: &'static str,
    /// Which size.
    pub what: &'static str,
    /// The size given.
    pub got: usize,
    /// The largest that is right.
    pub most: usize,
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { op, what, got, most } = self;
        write!(f, "{op} on CUDA: {what} is {got}, at most {most} is possible")
    }
}

impl std::error::Error for Limit {}

/// Kernels count elements and blocks in 32 bits, and add a grid's size to them.
pub(crate) const MOST: usize = i32::MAX as usize;

/// Threads in a block of an element-wise kernel (`ISFM_THREADS`).
const THREADS: u32 = 256;

/// Blocks of an element-wise kernel: enough to fill any GPU, few enough that a thread's share of a
/// large map pays for its start.
const MOST_BLOCKS: usize = 1 << 16;

/// The product of `factors` as the kernels count, or the limit.
pub(crate) fn count(op: &'static str, what: &'static str, factors: &[usize]) -> Result<u32, Limit> {
    let product = if factors.contains(&0) {
        0
    } else {
        factors.iter().fold(1usize, |n, &f| n.saturating_mul(f))
    };
    match u32::try_from(product) {
        Ok(n) if product <= MOST => Ok(n),
        _ => Err(Limit { op, what, got: product, most: MOST }),
    }
}

impl Plan {
    pub(crate) fn input(&mut self, element: impl Into<Element>, len: usize) -> Arg {
        self.inputs.push(Need { element: element.into(), len });
        Arg::Input(self.inputs.len() - 1, 0)
    }

    pub(crate) fn output(&mut self, element: impl Into<Element>, len: usize) -> Arg {
        self.outputs.push(Need { element: element.into(), len });
        Arg::Output(self.outputs.len() - 1, 0)
    }

    pub(crate) fn scratch(&mut self, element: impl Into<Element>, len: usize) -> Arg {
        self.scratch.push(Need { element: element.into(), len });
        Arg::Scratch(self.scratch.len() - 1, 0)
    }

    /// Launches an element-wise kernel over `n` elements.
    pub(crate) fn each(&mut self, module: Module, name: &str, t: Type, n: u32, args: Vec<Arg>) {
        self.each_named(module, format!("{name}_{}", t.suffix()), n, args);
    }

    pub(crate) fn each_named(&mut self, module: Module, kernel: String, n: u32, args: Vec<Arg>) {
        let blocks = n.div_ceil(THREADS).min(MOST_BLOCKS as u32);
        self.blocks(module, kernel, blocks, THREADS, args);
    }

    /// Launches a kernel on `grid` blocks.
    pub(crate) fn blocks(
        &mut self,
        module: Module,
        kernel: String,
        grid: u32,
        block: u32,
        args: Vec<Arg>,
    ) {
        if grid > 0 {
            self.launches.push(Launch { module, kernel, grid, block, args });
        }
    }
}

impl Arg {
    /// The place `elements` further on.
    pub(crate) fn at(self, elements: usize) -> Self {
        match self {
            Self::Input(i, n) => Self::Input(i, n + elements),
            Self::Output(i, n) => Self::Output(i, n + elements),
            Self::Scratch(i, n) => Self::Scratch(i, n + elements),
            other => other,
        }
    }
}

/// Rows of each part, and parts, that sums over `rows` rows of `columns` values are cut into: a
/// function of the sizes alone, so that results are the same on every GPU.
pub(crate) fn parts(rows: u32, columns: u32) -> (u32, u32) {
    const THREADS_WANTED: u32 = 1 << 16;
    let wanted = (THREADS_WANTED / columns.max(1)).clamp(1, 1024);
    let each = rows.div_ceil(wanted).max(16);
    (each, rows.div_ceil(each).max(1))
}
