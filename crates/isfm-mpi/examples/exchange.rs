//! How long ranks take to add up gradients: what a step takes besides computing.
//!
//! ```text
//! cargo build --release -p isfm-mpi --features mpi --example exchange
//! mpirun -n 8 target/release/examples/exchange
//! ```
//!
//! The medians of 15 sums of so many numbers, without micro-batches to add up on each rank, and of as many
//! small messages, which a step has one of.

use std::time::Instant;

use candle_core::{Device, Tensor};
use isfm_mpi::World;
use isfm_train::{Collective, Result};

/// Parameters: nearly none, and those of the presets `small`, `base` and `paper`.
const NUMBERS: [usize; 4] = [64, 132_825, 1_203_629, 9_147_905];

fn main() -> Result<()> {
    // As the program `isfm` does.
    isfm::keep_freed_memory();
    let mut world = World::join()?;
    let (rank, size) = (world.rank(), world.size());
    if rank == 0 {
        println!("{size} ranks, {}", World::library());
    }
    let mut median = |what: &str, work: &mut dyn FnMut(&mut World) -> Result<()>| -> Result<()> {
        let mut times = Vec::new();
        for _ in 0..15 {
            // All begin together.
            world.all_gather(&[])?;
            let start = Instant::now();
            work(&mut world)?;
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        if rank == 0 {
            println!("{what:>28}: {:9.3} ms", 1e3 * times[times.len() / 2]);
        }
        Ok(())
    };
    median("a message of 200 bytes", &mut |world| world.all_gather(&[0; 200]).map(drop))?;
    for count in NUMBERS {
        let own = Tensor::full(1f32, count, &Device::Cpu)?;
        median(&format!("{count} numbers"), &mut |world| {
            world.sum(vec![own.clone()], size).map(drop)
        })?;
    }
    Ok(())
}
