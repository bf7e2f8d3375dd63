//! Memory for feature maps: large pages, and buffers that are used again.

use std::any::Any;
use std::cell::{Cell, RefCell};

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Result, Tensor, WithDType};

use crate::simd::Real;

/// `n` zeros, for a result that a kernel is about to fill; see [`with_capacity`].
pub fn zeros<E: WithDType>(n: usize) -> Vec<E> {
    // Large zeroed memory comes untouched from the system: asking for large pages is not too late.
    let zeros = vec![E::zero(); n];
    ask_for_large_pages(zeros.as_ptr(), n);
    zeros
}

/// An empty vector with room for `n` elements.
///
/// A feature map of a megapixel is some tens of megabytes, and the allocator gives memory of that
/// size back to the system as soon as it is dropped. On Linux the next map's first touch of every
/// 4 KiB page is then a fault; this function asks for pages of 2 MiB, which cause 512 times fewer.
pub fn with_capacity<E>(n: usize) -> Vec<E> {
    let empty = Vec::with_capacity(n);
    ask_for_large_pages(empty.as_ptr(), n);
    empty
}

/// `n` elements of unspecified value, for a result of which a kernel writes every element: a buffer
/// of that length that was given to [`recycle`] on this thread, otherwise zeros.
pub fn scratch<E: WithDType>(n: usize) -> Vec<E> {
    reused(n).unwrap_or_else(|| zeros(n))
}

/// An empty vector with room for `n` elements: a buffer of that length that was given to
/// [`recycle`] on this thread, otherwise new memory.
pub(crate) fn with_room<E: WithDType>(n: usize) -> Vec<E> {
    reused(n).map_or_else(
        || with_capacity(n),
        |mut buffer: Vec<E>| {
            buffer.clear();
            buffer
        },
    )
}

fn reused<E: WithDType>(n: usize) -> Option<Vec<E>> {
    IDLE.with_borrow_mut(|idle| {
        let elements = |b: &Buffer| b.elements.downcast_ref::<Vec<E>>().map(Vec::len);
        let at = idle.buffers.iter().position(|b| elements(b) == Some(n))?;
        let buffer = idle.buffers.swap_remove(at);
        idle.bytes -= buffer.bytes;
        buffer.elements.downcast::<Vec<E>>().ok().map(|elements| *elements)
    })
}

/// The elements of a CPU tensor: moved out of its storage if it is all of a contiguous one and has
/// no graph, else copied. No other tensor may share the storage, a graph's inputs included: it
/// would be left without elements.
///
/// # Errors
/// If the elements are not of type `E`.
pub fn into_elements<E: Real>(map: Tensor) -> Result<Vec<E>> {
    struct Take<E>(Cell<Vec<E>>);
    impl<E: Real> InplaceOp1 for Take<E> {
        fn name(&self) -> &'static str {
            "into_elements"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> Result<()> {
            let taken = std::mem::replace(storage, E::to_cpu_storage_owned(Vec::new()));
            self.0.set(E::cpu_storage_data(taken)?);
            Ok(())
        }
    }
    let (whole, n) =
        (map.layout().contiguous_offsets() == Some((0, map.elem_count())), map.elem_count());
    if !whole || map.dtype() != E::DTYPE || map.track_op() {
        return map.flatten_all()?.to_vec1();
    }
    let take = Take(Cell::default());
    map.inplace_op1(&take)?;
    let mut elements = take.0.into_inner();
    elements.truncate(n);
    Ok(elements)
}

/// Keeps the memory of a map for the next one of its size, where this thread is inside
/// [`recycling`]; drops it otherwise. No other tensor may share it. What was made of the map is
/// `result`: if a gradient may be asked of that, its graph holds the map.
pub fn recycle(map: Tensor, result: &Tensor) {
    let room = IDLE.with_borrow(|idle| (idle.depth > 0).then_some(usize::MAX));
    retire(map, result, room);
}

/// [`recycle`] where this thread is inside [`Workspace::run`] and there is room; drops the map
/// otherwise, since memory that waits for another map of its size may be more than a single pass has
/// at its peak.
pub fn keep(map: Tensor, result: &Tensor) {
    retire(map, result, IDLE.with_borrow(|idle| idle.room));
}

/// Puts `next`, which was made of `map`, in its place, and [`keep`]s the memory of what was there if
/// it is `owned`: a loop over layers owns what it made, not what it began with.
pub fn replace(map: &mut Tensor, next: Tensor, owned: bool) {
    let last = std::mem::replace(map, next);
    if owned {
        keep(last, map);
    }
}

/// [`keep`] of a buffer.
pub fn keep_buffer<E: WithDType>(buffer: Vec<E>) {
    if let Some(room) = IDLE.with_borrow(|idle| idle.room) {
        retire_buffer(buffer, room);
    }
}

fn retire(map: Tensor, result: &Tensor, room: Option<usize>) {
    fn elements<E: Real>(map: Tensor, room: usize) {
        if let Ok(buffer) = into_elements::<E>(map) {
            retire_buffer(buffer, room);
        }
    }
    let held = map.track_op() || result.track_op();
    if let Some(room) = room.filter(|_| map.device().is_cpu() && !held) {
        with_float!(map.dtype(), E => elements::<E>(map, room), else ());
    }
}

fn retire_buffer<E: WithDType>(buffer: Vec<E>, room: usize) {
    IDLE.with_borrow_mut(|idle| {
        let bytes = size_of_val(&buffer[..]);
        if idle.bytes + bytes <= room {
            idle.bytes += bytes;
            idle.buffers.push(Buffer { elements: Box::new(buffer), bytes, fresh: true });
        }
    });
}

/// Runs `f`, during which this thread keeps the buffers given to [`recycle`]; afterwards they are
/// dropped. Layers of a network ask for the same few sizes again and again, and memory fresh from
/// the system has to be cleared first.
pub fn recycling<T>(f: impl FnOnce() -> T) -> T {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            IDLE.with_borrow_mut(|idle| {
                idle.depth -= 1;
                if idle.depth == 0 {
                    *idle = Idle::default();
                }
            });
        }
    }
    IDLE.with_borrow_mut(|idle| idle.depth += 1);
    let _leave = Leave;
    f()
}

/// Memory that feature maps and planes leave behind, for the next call that needs the same sizes.
#[derive(Debug, Default)]
pub struct Workspace {
    buffers: Vec<Buffer>,
}

impl Workspace {
    /// Runs `f`, during which this thread keeps what is given to [`recycle`] and, in at most `room`
    /// bytes, to [`keep`], beginning with what the run before left. What this run has no use for is
    /// dropped, and what is more than `room` bytes.
    pub fn run<T>(&mut self, room: usize, f: impl FnOnce() -> T) -> T {
        struct Leave<'a>(&'a mut Workspace, Idle);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                let outer = std::mem::take(&mut self.1);
                let inner = IDLE.with_borrow_mut(|idle| std::mem::replace(idle, outer));
                self.0.buffers = inner.buffers;
                self.0.buffers.retain_mut(|buffer| std::mem::take(&mut buffer.fresh));
                self.0.shrink(inner.room.unwrap_or(0));
            }
        }
        self.shrink(room);
        let buffers = std::mem::take(&mut self.buffers);
        let bytes = buffers.iter().map(|buffer| buffer.bytes).sum();
        let idle = Idle { depth: 1, room: Some(room), bytes, buffers };
        let outer = IDLE.with_borrow_mut(|here| std::mem::replace(here, idle));
        let _leave = Leave(self, outer);
        f()
    }

    fn shrink(&mut self, room: usize) {
        let mut bytes = 0;
        self.buffers.retain(|buffer| {
            let fits = bytes + buffer.bytes <= room;
            bytes += if fits { buffer.bytes } else { 0 };
            fits
        });
    }
}

#[derive(Debug)]
struct Buffer {
    /// A vector of floats.
    elements: Box<dyn Any + Send>,
    bytes: usize,
    /// Whether it was given in this run.
    fresh: bool,
}

#[derive(Default)]
struct Idle {
    /// How many calls of [`recycling`] and [`Workspace::run`] this thread is inside.
    depth: usize,
    /// Inside [`Workspace::run`], the most bytes that are kept.
    room: Option<usize>,
    bytes: usize,
    buffers: Vec<Buffer>,
}

thread_local! {
    static IDLE: RefCell<Idle> = RefCell::default();
}

/// Tells the allocator to keep the memory that this process frees, for its next allocations.
///
/// A feature map is some tens of megabytes. By default the allocator gives so much back to the
/// system at once, and the system clears it before it hands it out again: about a third of the time
/// of a training step. For programs to call when they start, before other threads run; a library
/// should leave its user's allocator alone. The process keeps as much memory as it needed at its
/// peak. Works with glibc on Linux; with other allocators it does nothing.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the calls only set two parameters of the allocator. Where they are refused, nothing
    // changes.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
    }
}

/// Tells the driver to keep the memory that this process frees on a GPU, for its next allocations.
///
/// By default the driver returns all of it each time the host waits for a result, and maps it
/// again, page by page, for the next image or training step. For programs to call when they start;
/// the process keeps as much of the GPU's memory as it needed at its peak. Does nothing for other
/// devices, nor without the feature `cuda`.
///
/// # Errors
/// If the driver reports an error.
pub fn keep_freed_device_memory(device: &Device) -> Result<()> {
    #[cfg(feature = "cuda")]
    crate::cuda::keep_freed_memory(device)?;
    let _ = device;
    Ok(())
}

/// Memory smaller than this is not worth a system call.
#[cfg(target_os = "linux")]
const LARGE: usize = 4 << 20;

#[cfg(target_os = "linux")]
fn ask_for_large_pages<E>(start: *const E, n: usize) {
    let bytes = n * size_of::<E>();
    if bytes < LARGE {
        return;
    }
    const PAGE: usize = 4096;
    let (first, end) = (start.addr().next_multiple_of(PAGE), (start.addr() + bytes) / PAGE * PAGE);
    // SAFETY: the pages lie within one allocation, and the advice changes nothing in them. That it
    // may be refused (an old kernel, large pages switched off) only costs time.
    unsafe { libc::madvise(first as *mut _, end - first, libc::MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn ask_for_large_pages<E>(_: *const E, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(workspace: &Workspace) -> Vec<usize> {
        let address = |b: &Buffer| b.elements.downcast_ref::<Vec<f32>>().unwrap().as_ptr() as usize;
        workspace.buffers.iter().map(address).collect()
    }

    #[test]
    fn a_workspace_keeps_what_the_last_run_used() {
        let mut workspace = Workspace::default();
        let run = |workspace: &mut Workspace, room, sizes: &[usize]| {
            workspace.run(room, || {
                let buffers: Vec<Vec<f32>> = sizes.iter().map(|&n| scratch(n)).collect();
                buffers.into_iter().for_each(keep_buffer);
            });
            addresses(workspace)
        };
        let first = run(&mut workspace, 4000, &[100, 200]);
        assert_eq!(first.len(), 2);
        assert_eq!(run(&mut workspace, 4000, &[100, 200]), first);
        assert_eq!(run(&mut workspace, 4000, &[200]), first[1..]);
        assert_eq!(run(&mut workspace, 799, &[200]), [0usize; 0]);
        assert_eq!(run(&mut workspace, 1000, &[150, 150, 50]).len(), 2);
        // Nothing is kept where nothing is run.
        keep_buffer(vec![1f32]);
        assert!(IDLE.with_borrow(|idle| idle.buffers.is_empty()));
    }

    #[test]
    fn a_workspace_outlives_passes_and_panics() {
        let mut workspace = Workspace::default();
        let map = || Tensor::from_vec(scratch::<f32>(64), 64, &Device::Cpu).unwrap();
        let pass = || recycling(|| recycle(map(), &map()));
        pass();
        workspace.run(4096, || {
            pass();
            keep(map(), &map());
        });
        let kept = addresses(&workspace);
        assert_eq!(kept.len(), 1);
        let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            workspace.run(4096, || {
                let taken = scratch::<f32>(64);
                assert_eq!(taken.as_ptr() as usize, kept[0]);
                panic!("as a kernel might");
            })
        }));
        assert!(panics.is_err() && workspace.buffers.is_empty());
        assert_eq!(IDLE.with_borrow(|idle| idle.depth), 0);
    }

    /// A map of a graph is not taken from it.
    #[test]
    fn tracked_maps_are_left() {
        let mut workspace = Workspace::default();
        let x = candle_core::Var::new(&[1f32, 2.], &Device::Cpu).unwrap();
        let y = (x.as_tensor() * 2.).unwrap();
        workspace.run(4096, || keep(y.clone(), &y));
        assert!(workspace.buffers.is_empty());
        assert_eq!(y.to_vec1::<f32>().unwrap(), [2., 4.]);
    }
}
