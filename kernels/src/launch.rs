//! Plans: buffers, and launches of kernels with their arguments, in order.

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
    /// The name of an operation's kernel for this type.
    pub(crate) fn kernel(self, operation: &str) -> String {
        let suffix = match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        };
        format!("{operation}_{suffix}")
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

/// A contiguous buffer that a plan asks for; only plans make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Need {
    /// The type of its elements.
    pub element: Element,
    /// How many elements it has.
    pub len: usize,
}

/// A C struct of 32-bit numbers that a kernel takes by value.
macro_rules! sizes {
    ($(#[$doc:meta])* $name:ident { $($field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        #[repr(C)]
        pub struct $name {
            $(pub(crate) $field: u32,)*
        }

        impl $name {
            /// Its numbers, in the order in which they lie in memory.
            pub fn words(&self) -> [u32; size_of::<$name>() / 4] {
                [$(self.$field),*]
            }
        }
    };
}

sizes! {
    /// The sizes of a selective scan as its kernels take them, by value; `scan.cuh` says what each
    /// is.
    ScanSizes {
        batch, length, rows, cols, width, groups, channels, states, rank, chunk, chunks,
        group, launch_groups, turns, turn, all_turns, flags, run, blocks, unused,
    }
}

sizes! {
    /// The sizes of a dense convolution as its kernels take them, by value.
    ConvSizes { height, width, inputs, outputs, k, pixels, from_map, silu, }
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
    /// The null pointer: an optional buffer that is not there.
    Null,
    /// An unsigned integer of 32 bits.
    U32(u32),
    /// A 32-bit float.
    F32(f32),
    /// The sizes of a scan, by value.
    Scan(ScanSizes),
    /// The sizes of a convolution, by value.
    Conv(ConvSizes),
}

/// A kernel to launch, on a grid and blocks of one dimension, without dynamic shared memory.
/// Only plans make one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Launch {
    /// The source with the kernel.
    pub module: Module,
    /// The kernel's name.
    pub kernel: String,
    /// The number of blocks; never 0.
    pub grid: u32,
    /// The number of threads in a block.
    pub block: u32,
    /// The arguments, in the order of the kernel's parameters.
    pub args: Vec<Arg>,
}

/// How an operation is done: its buffers, and the launches that fill the outputs, in order on one
/// stream. Inputs are only read. Every element of an output is written; outputs and scratch need
/// not be set before. An operation on nothing has no launches.
///
/// Launching a kernel with wrong sizes would write outside its buffers. So only the functions of
/// this crate, which check sizes, make a plan, and nothing alters one:
///
/// ```compile_fail,E0451
/// use isfm_kernels::Plan;
/// let plan = Plan { inputs: vec![], outputs: vec![], scratch: vec![], launches: vec![] };
/// ```
///
/// ```compile_fail,E0616
/// let mut plan = isfm_kernels::pointwise::silu(isfm_kernels::Type::F32, 1000).unwrap();
/// plan.launches[0].grid = 1 << 20;
/// ```
#[derive(Clone, Debug)]
pub struct Plan {
    inputs: Vec<Need>,
    outputs: Vec<Need>,
    scratch: Vec<Need>,
    launches: Vec<Launch>,
}

/// A size beyond what the kernels take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The name of the operation.
    pub op: &'static str,
    /// Which size it is.
    pub what: &'static str,
    /// The size given.
    pub got: usize,
    /// The largest size possible.
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

/// Blocks of an element-wise kernel: enough to fill any GPU several times, few enough that a thread
/// has several elements of a large map and can load one while it works on another.
const MOST_BLOCKS: usize = 1 << 13;

/// The product of `factors`, as operation `op` names and the kernels count it, or the limit. A
/// factor of 0 makes it 0, but the product of the other factors must still be within the limit, so
/// that the product of any of them can be counted.
pub(crate) fn count(op: &'static str, what: &'static str, factors: &[usize]) -> Result<u32, Limit> {
    let product = factors.iter().fold(1usize, |n, &f| n.saturating_mul(f.max(1)));
    at_most(op, what, product, MOST)?;
    Ok(if factors.contains(&0) { 0 } else { product as u32 })
}

/// The limit where `got` is above `most`.
pub(crate) fn at_most(
    op: &'static str,
    what: &'static str,
    got: usize,
    most: usize,
) -> Result<(), Limit> {
    if got > most { Err(Limit { op, what, got, most }) } else { Ok(()) }
}

impl Plan {
    read! {
        /// What the caller gives.
        inputs: &[Need] = as_slice,
        /// What the caller gets.
        outputs: &[Need] = as_slice,
        /// What the kernels need meanwhile and is free again afterwards.
        scratch: &[Need] = as_slice,
        /// The kernels that run, in order.
        launches: &[Launch] = as_slice,
    }

    pub(crate) fn new() -> Self {
        Self { inputs: vec![], outputs: vec![], scratch: vec![], launches: vec![] }
    }

    pub(crate) fn input(&mut self, element: impl Into<Element>, len: usize) -> Arg {
        self.inputs.push(Need { element: element.into(), len });
        Arg::Input(self.inputs.len() - 1, 0)
    }

    pub(crate) fn output(&mut self, element: impl Into<Element>, len: usize) -> Arg {
        self.outputs.push(Need { element: element.into(), len });
        Arg::Output(self.outputs.len() - 1, 0)
    }

    pub(crate) fn temporary(&mut self, element: impl Into<Element>, len: usize) -> Arg {
        self.scratch.push(Need { element: element.into(), len });
        Arg::Scratch(self.scratch.len() - 1, 0)
    }

    /// Launches an element-wise kernel over `n` elements.
    pub(crate) fn each(&mut self, module: Module, kernel: String, n: u32, args: &[&[Arg]]) {
        let blocks = n.div_ceil(THREADS).min(MOST_BLOCKS as u32);
        self.blocks(module, kernel, [blocks, THREADS], args);
    }

    /// Launches a kernel on a grid of blocks; the arguments are one after another.
    pub(crate) fn blocks(
        &mut self,
        module: Module,
        kernel: String,
        [grid, block]: [u32; 2],
        args: &[&[Arg]],
    ) {
        if grid > 0 {
            self.launches.push(Launch { module, kernel, grid, block, args: args.concat() });
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
