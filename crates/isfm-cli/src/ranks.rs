//! The processes that a launcher of MPI has started together to train one network.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
#[cfg(feature = "mpi")]
use std::sync::atomic::Ordering;
#[cfg(feature = "mpi")]
use std::time::Duration;

use anyhow::Result;
use candle_core::Device;
use isfm_train::{Alone, Collective, Error};

use crate::{Failures, Usage, end};

/// This process and the others of its kind.
pub struct Ranks {
    #[cfg(feature = "mpi")]
    world: Option<isfm_mpi::World>,
}

impl Ranks {
    /// Joins the others, if a launcher has started any.
    ///
    /// # Errors
    /// [`Usage`], if the launcher's MPI is another than the one this program was built with.
    pub fn join() -> Result<Self> {
        let launched = launched(|name| std::env::var(name).ok());
        #[cfg(feature = "mpi")]
        {
            let Some(count) = launched else { return Ok(Self { world: None }) };
            let world = isfm_mpi::World::join().map_err(Usage::of)?;
            if count > 1 && world.size() == 1 {
                let problem = anyhow::anyhow!(
                    "{count} processes were started together, but {} sees only this one: start them with the \
                     launcher of that MPI (with Slurm: srun --mpi=pmix, or pmi2)",
                    isfm_mpi::World::library()
                );
                return Err(Usage::of(problem));
            }
            Ok(Self { world: Some(world) })
        }
        #[cfg(not(feature = "mpi"))]
        {
            if let Some(count @ 2..) = launched {
                eprintln!(
                    "warning: {count} processes were started together, but this program was built without \
                     MPI (--features mpi): each trains by itself"
                );
            }
            Ok(Self {})
        }
    }

    /// The group of a trainer.
    pub fn collective(&self) -> Box<dyn Collective> {
        #[cfg(feature = "mpi")]
        if let Some(world) = &self.world {
            return Box::new(world.clone());
        }
        Box::new(Alone)
    }

    /// The group of a trainer on this device: between GPUs gradients go by NCCL, where it was built in.
    ///
    /// # Errors
    /// If NCCL cannot be begun.
    pub fn collective_on(&self, device: &Device) -> Result<Box<dyn Collective>> {
        #[cfg(feature = "nccl")]
        if let (Some(world), Device::Cuda(_)) = (&self.world, device)
            && world.size() > 1
        {
            return Ok(Box::new(isfm_train::Nccl::new(world.clone(), device)?));
        }
        _ = device;
        Ok(self.collective())
    }

    /// Ends this process if it was asked to `stop` and other ranks do not answer: one of them has died, which is
    /// why the launcher asks, and MPI would wait for it until the launcher kills. Ranks are given twice the
    /// longest time that they took so far, and five seconds.
    pub fn end_if_others_are_gone(&self, stop: &Arc<AtomicBool>) {
        #[cfg(feature = "mpi")]
        if let Some(world) = self.world.as_ref().filter(|world| world.size() > 1) {
            let (waits, stop) = (world.waits(), stop.clone());
            let watch = move || {
                while let Some(waits) = waits.upgrade() {
                    std::thread::sleep(Duration::from_millis(200));
                    let patience = 2 * waits.longest() + Duration::from_secs(5);
                    if stop.load(Ordering::Relaxed) && waits.current().is_some_and(|w| w > patience)
                    {
                        eprintln!("error: no answer from other ranks: ending without a checkpoint");
                        // That of SIGTERM, by which launchers ask.
                        isfm_files::exit(143);
                    }
                }
            };
            // Without such a thread the launcher kills.
            _ = std::thread::Builder::new().name("watch".into()).spawn(watch);
        }
        _ = stop;
    }

    /// Whether this is the one that speaks and writes.
    pub fn is_first(&self) -> bool {
        self.collective().rank() == 0
    }

    /// The value, if no rank has failed; alone, its own error.
    ///
    /// # Errors
    /// What the first of those that failed could not do.
    pub fn agree<T>(&self, mine: Result<T>) -> Result<T> {
        let mut group = self.collective();
        if group.size() == 1 {
            return mine;
        }
        let told = mine.as_ref().map(drop).map_err(|error| format!("{error:#}"));
        match isfm_train::gather(&mut group, told) {
            // Its own error, which rank 0 needs not be told where it is.
            Err(Error::OnRank { rank, .. }) if rank == group.rank() => mine,
            Err(error) => Err(Usage::of(error)),
            Ok(_) => mine,
        }
    }

    /// How the program ends: rank 0 tells for all, who have the same to tell. No rank goes before it has,
    /// since launchers end all others when one has failed.
    pub fn end(self, failed: Failures<String>) -> ExitCode {
        let mut group = self.collective();
        let code = match failed {
            Err(error) if group.rank() > 0 => {
                ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
            }
            failed => end(failed, ""),
        };
        _ = group.all_gather(&[]);
        code
    }
}

/// How many processes a launcher has started together, if one has started this process: Open MPI's, MPICH's
/// and its kin's, Slurm's.
fn launched(variable: impl Fn(&str) -> Option<String>) -> Option<usize> {
    let names = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];
    names.iter().find_map(|name| variable(name)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launchers_are_known_by_their_variables() {
        let of =
            |name: &str, value: &str| launched(|asked| (asked == name).then(|| value.to_owned()));
        assert_eq!(of("OMPI_COMM_WORLD_SIZE", "4"), Some(4));
        assert_eq!(of("PMI_SIZE", "2"), Some(2));
        assert_eq!(of("SLURM_STEP_NUM_TASKS", "16"), Some(16));
        // What a batch script of Slurm has, too.
        assert_eq!(of("SLURM_NTASKS", "16"), None);
        assert_eq!(of("PMI_SIZE", "many"), None);
    }
}
