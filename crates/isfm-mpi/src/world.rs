use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use candle_core::Tensor;
use isfm_train::{Collective, Error, Result};
use mpi::Threading;
use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Root};

/// How many bytes are broadcast at once: MPI counts in `int`.
const PIECE: usize = 1 << 30;

/// All processes that `mpirun`, `srun` or the like started together: `MPI_COMM_WORLD`.
///
/// MPI is left when the last clone is dropped. Keep one where the program ends, in the thread that called
/// [`World::join`], which MPI wants to be the one. A rank that is dropped by a panic ends all others.
///
/// MPI's own way with errors stays as it is: a rank that cannot be reached ends all ranks, which the launcher
/// reports.
#[derive(Clone)]
pub struct World(Arc<Session>);

/// Between `MPI_Init` and `MPI_Finalize`.
struct Session {
    universe: Universe,
    waits: Arc<Waits>,
}

/// How long this rank has waited for others, for whoever must decide whether they will still answer: to MPI a
/// rank that is dead and one that computes look the same.
#[derive(Debug)]
pub struct Waits {
    began: Instant,
    /// Milliseconds from `began` to the exchange that is under way, and 1; 0 if none is.
    since: AtomicU64,
    /// Milliseconds that the longest exchange took.
    longest: AtomicU64,
}

impl Waits {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }

    /// For how long the exchange that is under way has been.
    pub fn current(&self) -> Option<Duration> {
        let since = self.since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_millis(self.now().saturating_sub(since)))
    }

    /// The longest one that came to its end.
    pub fn longest(&self) -> Duration {
        Duration::from_millis(self.longest.load(Ordering::Relaxed))
    }
}

/// An exchange that is under way, until it is dropped.
struct Wait<'a>(&'a Waits);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let took = self.0.current().unwrap_or_default().as_millis();
        self.0.longest.fetch_max(took as u64, Ordering::Relaxed);
        self.0.since.store(0, Ordering::Relaxed);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Leaving MPI in order would wait for the others, who wait for this one.
            self.universe.world().abort(101);
        }
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("rank", &self.rank()).field("size", &self.size()).finish()
    }
}

impl World {
    /// Starts MPI. A process that no launcher started is a world of its own.
    ///
    /// # Errors
    /// If MPI was started in this process before, or lets only one thread call it.
    pub fn join() -> Result<Self> {
        // A trainer computes, and calls MPI, on a thread of a pool.
        let started = mpi::initialize_with_threading(Threading::Serialized);
        let twice = || Error::Collective("MPI was started in this process before".into());
        let (universe, threading) = started.ok_or_else(twice)?;
        let (since, longest) = (AtomicU64::new(0), AtomicU64::new(0));
        let waits = Arc::new(Waits { began: Instant::now(), since, longest });
        let world = Self(Arc::new(Session { universe, waits }));
        if !matches!(threading, Threading::Serialized | Threading::Multiple) {
            let problem = format!("{} lets only one thread call it", Self::library());
            return Err(Error::Collective(problem));
        }
        Ok(world)
    }

    /// Which MPI it is, as its library calls itself.
    pub fn library() -> String {
        let name = mpi::environment::library_version().unwrap_or_default();
        name.split([',', '\n', '\0']).next().unwrap_or_default().trim().to_owned()
    }

    /// How long this rank waits for others, as long as any clone of this world is there.
    pub fn waits(&self) -> Weak<Waits> {
        Arc::downgrade(&self.0.waits)
    }

    fn wait(&self) -> Wait<'_> {
        let waits = &self.0.waits;
        waits.since.store(waits.now() + 1, Ordering::Relaxed);
        Wait(waits)
    }

    fn all(&self) -> SimpleCommunicator {
        self.0.universe.world()
    }
}

/// Counts as MPI has them, and where each begins.
fn places(lengths: &[usize]) -> Result<(Vec<i32>, Vec<i32>)> {
    let total: usize = lengths.iter().sum();
    if i32::try_from(total).is_err() {
        return Err(Error::Collective(format!("{total} values at once are more than MPI counts")));
    }
    // Each is at most the total.
    let counts: Vec<i32> = lengths.iter().map(|&length| length as i32).collect();
    let mut end = 0;
    let starts = counts.iter().map(|count| {
        let start = end;
        end += count;
        start
    });
    Ok((counts.clone(), starts.collect()))
}

impl Collective for World {
    fn rank(&self) -> usize {
        self.all().rank() as usize
    }

    fn size(&self) -> usize {
        self.all().size() as usize
    }

    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        let _wait = self.wait();
        let (all, mut length) = (self.all(), bytes.len() as u64);
        let first = all.process_at_rank(0);
        first.broadcast_into(&mut length);
        bytes.resize(length as usize, 0);
        bytes.chunks_mut(PIECE).for_each(|piece| first.broadcast_into(piece));
        Ok(())
    }

    fn all_gather(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let _wait = self.wait();
        let all = self.all();
        let mut lengths = vec![0u64; self.size()];
        all.all_gather_into(&(bytes.len() as u64), &mut lengths[..]);
        let lengths: Vec<usize> = lengths.into_iter().map(|length| length as usize).collect();
        if lengths.iter().all(|&length| length == 0) {
            // Open MPI takes no empty buffer.
            return Ok(vec![Vec::new(); lengths.len()]);
        }
        let (counts, starts) = places(&lengths)?;
        let mut received = vec![0u8; lengths.iter().sum()];
        all.all_gather_varcount_into(
            bytes,
            &mut PartitionMut::new(&mut received[..], counts, starts),
        );
        let mut rest = &received[..];
        let take = |length: usize| {
            let (these, after) = rest.split_at(length);
            rest = after;
            these.to_vec()
        };
        Ok(lengths.into_iter().map(take).collect())
    }

    /// Tensors on a GPU go by the host.
    fn all_to_all(&mut self, to_each: Vec<Tensor>, lengths: &[usize]) -> Result<Vec<Tensor>> {
        let device = to_each.first().map(|values| values.device().clone());
        let device = device.ok_or_else(|| Error::Collective("nothing to send".into()))?;
        let sent: Vec<usize> = to_each.iter().map(Tensor::elem_count).collect();
        let mut values = Vec::with_capacity(sent.iter().sum());
        for tensor in &to_each {
            values.extend(tensor.flatten_all()?.to_vec1::<f32>()?);
        }
        let (counts, starts) = places(&sent)?;
        let sent = Partition::new(&values[..], counts, starts);
        let (counts, starts) = places(lengths)?;
        let mut received = vec![0f32; lengths.iter().sum()];
        let _wait = self.wait();
        let into = &mut PartitionMut::new(&mut received[..], counts, starts);
        self.all().all_to_all_varcount_into(&sent, into);
        let received = Tensor::from_vec(received, lengths.iter().sum::<usize>(), &device)?;
        let mut start = 0;
        let take = |&length: &usize| {
            let these = received.narrow(0, start, length)?;
            start += length;
            Ok(these)
        };
        lengths.iter().map(take).collect()
    }

    fn abort(&mut self, problem: &str) {
        eprintln!("rank {}: {problem}; ending all ranks", self.rank());
        self.all().abort(1);
    }
}
