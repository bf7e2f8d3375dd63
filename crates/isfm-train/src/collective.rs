use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};

use candle_core::Tensor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// A group of processes that train one network together. Each has a rank, from 0; rank 0 alone writes
/// files.
///
/// Every method but `rank` and `size` is collective: all ranks call the same ones in the same order.
pub trait Collective: Send {
    /// This process's place, below [`Collective::size`].
    fn rank(&self) -> usize;

    /// The number of processes, 1 or more.
    fn size(&self) -> usize;

    /// Replaces `bytes` by those of rank 0.
    ///
    /// # Errors
    /// If another rank cannot be reached; so for every method.
    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<()>;

    /// What each rank gives, in the order of the ranks, on all of them.
    ///
    /// # Errors
    /// As [`Collective::broadcast`].
    fn all_gather(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// Sends `to_each[r]` to rank r, for all r, and gives what each rank sent here, in the order of the
    /// ranks: `lengths[r]` elements from rank r.
    ///
    /// # Shapes
    /// One dimension, F32, on one device, where the results are too.
    ///
    /// # Errors
    /// As [`Collective::broadcast`].
    fn all_to_all(&mut self, to_each: Vec<Tensor>, lengths: &[usize]) -> Result<Vec<Tensor>>;

    /// Ends the other ranks because of `problem`, which they cannot be told: this one failed in the middle
    /// of an exchange. Nothing is done unless an implementation does, for groups whose other ranks notice.
    fn abort(&mut self, problem: &str) {
        _ = problem;
    }

    /// The sum of `terms` values, element by element, on all ranks. It is the same to the last bit
    /// whatever the number of ranks, because the additions are those of one tree ([`fold`]).
    ///
    /// Each rank has the terms of [`share`]`(terms, rank, size)` and gives the sums of the [`nodes`] of that
    /// range. A rank adds up one part of the elements, which all others send it, and sends its sums to all,
    /// so that each sends and receives about twice the size of a part, whatever their number.
    ///
    /// # Shapes
    /// One dimension, the same length everywhere, F32.
    ///
    /// # Errors
    /// As [`Collective::broadcast`]; another number of parts than there are nodes.
    fn sum(&mut self, parts: Vec<Tensor>, terms: usize) -> Result<Tensor> {
        let (rank, size) = (self.rank(), self.size());
        let of_rank = |rank| nodes(0..terms, &share(terms, rank, size));
        let own = of_rank(rank);
        let first = parts.first().filter(|_| parts.len() == own.len()).ok_or_else(|| {
            Error::Collective(format!("{} parts of a sum, needs {}", parts.len(), own.len()))
        })?;
        if size == 1 {
            return Ok(first.clone());
        }
        let elements = |rank| share(first.elem_count(), rank, size);
        let cut = |r: usize| {
            let Range { start, end } = elements(r);
            let cut = |part: &Tensor| part.narrow(0, start, end - start);
            join(&parts.iter().map(cut).collect::<candle_core::Result<Vec<_>>>()?)
        };
        let to_each = (0..size).map(cut).collect::<Result<_>>()?;
        let width = elements(rank).len();
        let lengths: Vec<usize> = (0..size).map(|r| of_rank(r).len() * width).collect();
        let received = self.all_to_all(to_each, &lengths)?;

        let mut known = Vec::with_capacity(size);
        for (r, all) in received.iter().enumerate() {
            for (at, node) in of_rank(r).into_iter().enumerate() {
                known.push((node, all.narrow(0, at * width, width)?));
            }
        }
        let mut known = known.into_iter().peekable();
        let sum = fold(
            0..terms,
            &mut |node| Ok(known.next_if(|(known, _)| known == node).map(|(_, sum)| sum)),
            &|a: Tensor, b: Tensor| Ok((a + b)?),
        )?;
        let lengths: Vec<usize> = (0..size).map(|r| elements(r).len()).collect();
        join(&self.all_to_all(vec![sum.contiguous()?; size], &lengths)?)
    }
}

impl<C: Collective + ?Sized> Collective for Box<C> {
    fn rank(&self) -> usize {
        (**self).rank()
    }
    fn size(&self) -> usize {
        (**self).size()
    }
    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        (**self).broadcast(bytes)
    }
    fn all_gather(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        (**self).all_gather(bytes)
    }
    fn all_to_all(&mut self, to_each: Vec<Tensor>, lengths: &[usize]) -> Result<Vec<Tensor>> {
        (**self).all_to_all(to_each, lengths)
    }
    fn abort(&mut self, problem: &str) {
        (**self).abort(problem);
    }
}

/// Joins one-dimensional tensors.
fn join(parts: &[Tensor]) -> Result<Tensor> {
    match parts {
        [only] => Ok(only.contiguous()?),
        _ => Ok(Tensor::cat(parts, 0)?),
    }
}

/// Which of `count` things are those of a rank: they are dealt in order, as evenly as they go.
pub fn share(count: usize, rank: usize, size: usize) -> Range<usize> {
    rank * count / size..(rank + 1) * count / size
}

/// The two nodes below a node of the tree, which is named by the terms that it is the sum of: the first is
/// of as many as the largest power of two that leaves some for the other.
fn halves(node: &Range<usize>) -> [Range<usize>; 2] {
    let middle = node.start + node.len().next_power_of_two() / 2;
    [node.start..middle, middle..node.end]
}

/// The fewest nodes below (or at) `node` that are `range` together, in order. Of a rank's share it is a
/// single one where both the number of terms and of ranks are powers of two.
pub fn nodes(node: Range<usize>, range: &Range<usize>) -> Vec<Range<usize>> {
    if range.start <= node.start && node.end <= range.end {
        return vec![node];
    }
    if node.end <= range.start || range.end <= node.start {
        return Vec::new();
    }
    halves(&node).into_iter().flat_map(|half| nodes(half, range)).collect()
}

/// The sum of a node of the tree, the left half's before the right one's. `known` gives the sum of a node
/// that it has; each single term must be among them.
///
/// # Errors
/// Those of `known` and `add`; [`Error::Collective`] for a term that is not known.
pub fn fold<T>(
    node: Range<usize>,
    known: &mut impl FnMut(&Range<usize>) -> Result<Option<T>>,
    add: &impl Fn(T, T) -> Result<T>,
) -> Result<T> {
    if let Some(sum) = known(&node)? {
        return Ok(sum);
    }
    if node.len() < 2 {
        return Err(Error::Collective(format!("term {} of a sum is missing", node.start)));
    }
    let [left, right] = halves(&node);
    let left = fold(left, known, add)?;
    add(left, fold(right, known, add)?)
}

/// A single process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }
    fn size(&self) -> usize {
        1
    }
    fn broadcast(&mut self, _: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }
    fn all_gather(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![bytes.to_vec()])
    }
    fn all_to_all(&mut self, to_each: Vec<Tensor>, _: &[usize]) -> Result<Vec<Tensor>> {
        Ok(to_each)
    }
}

enum Message {
    Bytes(Vec<u8>),
    Values(Tensor),
}

/// A group of threads of one process, joined by channels: for tests, and for programs that train on several
/// devices by themselves.
pub struct InProcess {
    rank: usize,
    to: Vec<Sender<Message>>,
    from: Vec<Receiver<Message>>,
}

impl std::fmt::Debug for InProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InProcess")
            .field("rank", &self.rank)
            .field("size", &self.to.len())
            .finish_non_exhaustive()
    }
}

impl InProcess {
    /// A group of `size`, one for each thread, in the order of their ranks.
    pub fn group(size: usize) -> Vec<Self> {
        let empty = |rank| Self { rank, to: Vec::new(), from: Vec::new() };
        let mut group: Vec<Self> = (0..size).map(empty).collect();
        for sender in 0..size {
            for receiver in 0..size {
                // Each gets its ends in the order of the others' ranks.
                let (to, from) = channel();
                group[sender].to.push(to);
                group[receiver].from.push(from);
            }
        }
        group
    }

    fn send(&self, rank: usize, message: Message) -> Result<()> {
        self.to[rank].send(message).map_err(|_| gone(rank))
    }

    fn receive(&self, rank: usize) -> Result<Message> {
        self.from[rank].recv().map_err(|_| gone(rank))
    }

    fn bytes(&self, rank: usize) -> Result<Vec<u8>> {
        match self.receive(rank)? {
            Message::Bytes(bytes) => Ok(bytes),
            Message::Values(_) => Err(out_of_step()),
        }
    }
}

fn gone(rank: usize) -> Error {
    Error::Collective(format!("rank {rank} has ended"))
}

fn out_of_step() -> Error {
    Error::Collective("the ranks are not at the same place of the program".into())
}

impl Collective for InProcess {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.to.len()
    }

    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        if self.rank != 0 {
            *bytes = self.bytes(0)?;
            return Ok(());
        }
        (1..self.size()).try_for_each(|rank| self.send(rank, Message::Bytes(bytes.clone())))
    }

    fn all_gather(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let all = 0..self.size();
        all.clone().try_for_each(|rank| self.send(rank, Message::Bytes(bytes.to_vec())))?;
        all.map(|rank| self.bytes(rank)).collect()
    }

    fn all_to_all(&mut self, to_each: Vec<Tensor>, lengths: &[usize]) -> Result<Vec<Tensor>> {
        for (rank, values) in to_each.into_iter().enumerate() {
            self.send(rank, Message::Values(values))?;
        }
        let receive = |(rank, &length): (usize, &usize)| match self.receive(rank)? {
            Message::Values(values) if values.elem_count() == length => Ok(values),
            _ => Err(out_of_step()),
        };
        lengths.iter().enumerate().map(receive).collect()
    }
}

/// What each rank gives, on all of them. If one or more failed, all fail, and say the same: what the first
/// of them could not do. Before a [`Trainer`](crate::Trainer) is built programs tell each other so whether
/// they can begin.
///
/// # Errors
/// [`Error::OnRank`]; those of [`Collective::all_gather`].
pub fn gather<T: Serialize + DeserializeOwned>(
    group: &mut dyn Collective,
    mine: std::result::Result<T, String>,
) -> Result<Vec<T>> {
    values(exchange(group, &mine)?)
}

/// A rank's value, of whatever type the place of the program that it is at has, or its error.
type Given = std::result::Result<serde_json::Value, String>;

/// The values, or the first error.
fn values<T: DeserializeOwned>(all: Vec<Given>) -> Result<Vec<T>> {
    let value = |(rank, of): (usize, Given)| {
        let value = of.map_err(|problem| Error::OnRank { rank, problem })?;
        serde_json::from_value(value).map_err(|_| out_of_step())
    };
    all.into_iter().enumerate().map(value).collect()
}

/// What each rank gives, on all of them.
fn exchange<T: Serialize>(
    group: &mut dyn Collective,
    mine: &std::result::Result<T, String>,
) -> Result<Vec<Given>> {
    let mine = serde_json::to_vec(mine).map_err(|e| Error::Collective(e.to_string()))?;
    let all = group.all_gather(&mine)?.into_iter();
    all.map(|bytes| serde_json::from_slice(&bytes).map_err(|_| out_of_step())).collect()
}

/// The group of a [`Trainer`](crate::Trainer), and whether all of it knows how the run ends.
pub(crate) struct Group {
    inner: Box<dyn Collective>,
    /// An error that every rank has, or a group that cannot be told any more.
    told: bool,
}

impl Group {
    pub(crate) fn new(inner: Box<dyn Collective>) -> Self {
        Self { inner, told: false }
    }

    pub(crate) fn rank(&self) -> usize {
        self.inner.rank()
    }

    pub(crate) fn size(&self) -> usize {
        self.inner.size()
    }

    /// Whether this is the rank that writes files.
    pub(crate) fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// As the public [`gather`]; an error that all have, as a process alone has its own, stays what it is.
    pub(crate) fn gather<T: Serialize + DeserializeOwned>(
        &mut self,
        mine: Result<T>,
    ) -> Result<Vec<T>> {
        if self.size() == 1 {
            return Ok(vec![mine?]);
        }
        let (mine, error) = match mine {
            Ok(mine) => (Ok(mine), None),
            Err(error) => (Err(error.chain()), Some(error)),
        };
        let all = exchange(&mut self.inner, &mine).and_then(|all| {
            let same = |of: &Given| of.as_ref().err() == mine.as_ref().err();
            match error.filter(|_| all.iter().all(same)) {
                Some(error) => Err(error),
                None => values(all),
            }
        });
        self.told |= all.is_err();
        all
    }

    /// The value, if all ranks have theirs.
    pub(crate) fn agree<T>(&mut self, mine: Result<T>) -> Result<T> {
        let (value, told) = match mine {
            Ok(value) => (Some(value), Ok(())),
            Err(error) => (None, Err(error)),
        };
        self.gather(told)?;
        // Of an error there is none, which `gather` has returned.
        value.ok_or_else(out_of_step)
    }

    pub(crate) fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        let done = self.inner.broadcast(bytes);
        self.told |= done.is_err();
        done
    }

    /// As [`Collective::sum`]. Nobody can be told of an error in the middle of it.
    pub(crate) fn sum(&mut self, parts: Vec<Tensor>, terms: usize) -> Result<Tensor> {
        let sum = self.inner.sum(parts, terms);
        if let Err(problem) = &sum {
            self.told = true;
            self.inner.abort(&problem.chain());
        }
        sum
    }

    /// Marks an error that every rank has.
    pub(crate) fn common(&mut self, error: Error) -> Error {
        self.told = true;
        error
    }

    /// Before work whose errors all ranks shall have.
    pub(crate) fn begin(&mut self) {
        self.told = false;
    }

    /// Tells the others of an error that only this rank has: they find it instead of what this rank would
    /// have told next.
    pub(crate) fn fail(&mut self, error: Error) -> Error {
        if self.told || self.size() == 1 {
            return error;
        }
        match self.gather::<()>(Err(error)) {
            Err(error) => error,
            Ok(_) => out_of_step(),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Values whose sums depend on the order.
    fn term(term: usize, length: usize) -> Vec<f32> {
        let value = |at| ((term * 7919 + at * 104_729) % 1009) as f32 * 10f32.powi(term as i32 % 7);
        (0..length).map(|at| (value(at) - 300.) / 3.).collect()
    }

    fn add(a: Vec<f32>, b: Vec<f32>) -> Result<Vec<f32>> {
        Ok(a.iter().zip(&b).map(|(a, b)| a + b).collect())
    }

    fn part(node: Range<usize>, length: usize) -> Result<Vec<f32>> {
        let leaf = |n: &Range<usize>| Ok((n.len() == 1).then(|| term(n.start, length)));
        fold(node, &mut { leaf }, &add)
    }

    #[test]
    fn shares_and_nodes_make_up_the_whole() {
        for terms in 1..40 {
            for size in 1..=terms {
                let shares: Vec<_> = (0..size).map(|rank| share(terms, rank, size)).collect();
                assert!(shares.iter().all(|share| !share.is_empty()));
                assert!(shares.iter().flat_map(Clone::clone).eq(0..terms));
                for share in shares {
                    let nodes = nodes(0..terms, &share);
                    assert!(nodes.iter().flat_map(Clone::clone).eq(share.clone()));
                    if terms.is_power_of_two() && size.is_power_of_two() {
                        assert_eq!(nodes, [share]);
                    }
                }
            }
        }
    }

    #[test]
    fn the_tree_is_the_one_that_is_said() {
        let text = |node| {
            let leaf = |n: &Range<usize>| Ok((n.len() == 1).then(|| n.start.to_string()));
            fold(node, &mut { leaf }, &|a: String, b: String| Ok(format!("({a}+{b})"))).unwrap()
        };
        assert_eq!(text(0..1), "0");
        assert_eq!(text(0..3), "((0+1)+2)");
        assert_eq!(text(0..6), "(((0+1)+(2+3))+(4+5))");
        assert_eq!(text(0..8), "(((0+1)+(2+3))+((4+5)+(6+7)))");
    }

    /// On any number of ranks, also of fewer elements than ranks, and of terms that ranks have unevenly.
    #[test]
    fn sums_have_the_same_bits_on_any_number_of_ranks() {
        for (terms, length) in [(1, 5), (2, 9), (4, 1), (7, 3), (8, 64), (12, 31)] {
            let wanted = part(0..terms, length).unwrap();
            for size in 1..=terms.min(5) {
                let sums: Vec<Vec<f32>> = std::thread::scope(|scope| {
                    let work = |mut rank: InProcess| {
                        let own = nodes(0..terms, &share(terms, rank.rank(), size));
                        let tensor = |node| Ok(Tensor::new(part(node, length)?, &Device::Cpu)?);
                        let parts = own.into_iter().map(tensor).collect::<Result<_>>().unwrap();
                        rank.sum(parts, terms).unwrap().to_vec1::<f32>().unwrap()
                    };
                    let ranks = InProcess::group(size).into_iter();
                    let ranks: Vec<_> = ranks.map(|r| scope.spawn(move || work(r))).collect();
                    ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
                });
                for sum in sums {
                    let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&sum), bits(&wanted), "{terms} terms, {size} ranks");
                }
            }
        }
    }

    #[test]
    fn the_first_failure_is_everybodys() {
        let told: Vec<_> = std::thread::scope(|scope| {
            let work = |mut group: InProcess| {
                let rank = group.rank();
                let mine = if rank == 0 { Ok(rank) } else { Err(format!("no disk {rank}")) };
                gather(&mut group, mine).unwrap_err().to_string()
            };
            let ranks = InProcess::group(3).into_iter();
            let ranks: Vec<_> = ranks.map(|rank| scope.spawn(move || work(rank))).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        assert_eq!(told, ["rank 1: no disk 1"; 3]);
    }

    #[test]
    fn a_rank_that_ends_is_named() {
        let mut group = InProcess::group(2);
        drop(group.pop());
        let error = group[0].all_gather(&[1]).unwrap_err();
        assert!(error.to_string().contains("rank 1 has ended"), "{error}");
    }
}
