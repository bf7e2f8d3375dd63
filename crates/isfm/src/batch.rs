//! What several threads ask of a GPU at the same time, as one batch.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Joins equal requests of threads: while one batch runs, requests wait, and the thread that comes next runs
/// all those that are like the oldest of them. Nobody waits for a batch to fill.
///
/// The work must not wait for these threads: on a GPU it does not, on the CPU an operation of rayon's might
/// take up another request and so wait for itself.
#[derive(Debug)]
pub(crate) struct Batches<T, R> {
    queue: Mutex<Queue<T, R>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Queue<T, R> {
    /// By age.
    requests: Vec<Request<T, R>>,
    next_ticket: u64,
    running: bool,
}

#[derive(Debug)]
struct Request<T, R> {
    ticket: u64,
    item: T,
    state: State<R>,
}

#[derive(Debug, PartialEq)]
enum State<R> {
    Waiting,
    Running,
    Done(R),
}

impl<T, R> Default for Batches<T, R> {
    fn default() -> Self {
        let queue = Queue { requests: Vec::new(), next_ticket: 0, running: false };
        Self { queue: Mutex::new(queue), changed: Condvar::new() }
    }
}

impl<T: Clone, R> Batches<T, R> {
    /// What `work` gives for `item`. It is handed at most `most(item)` items that are `alike`, and gives one
    /// result for each, in their order.
    ///
    /// If `work` panics, its own thread does; the other threads of its batch try again.
    pub(crate) fn run(
        &self,
        item: T,
        most: impl Fn(&T) -> usize,
        alike: impl Fn(&T, &T) -> bool,
        work: impl Fn(&[T]) -> Vec<R>,
    ) -> R {
        let mut queue = self.queue();
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        queue.requests.push(Request { ticket, item, state: State::Waiting });
        loop {
            if let Some(result) = queue.take(ticket) {
                return result;
            }
            if queue.running {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let items = queue.start(&most, &alike);
            drop(queue);
            let batch = Batch { batches: self, leader: ticket, results: None };
            let results = work(&items);
            assert_eq!(results.len(), items.len(), "one result for each item");
            batch.end(results);
            queue = self.queue();
        }
    }
}

impl<T, R> Batches<T, R> {
    fn queue(&self) -> MutexGuard<'_, Queue<T, R>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone, R> Queue<T, R> {
    /// The result of a request, which is then gone.
    fn take(&mut self, ticket: u64) -> Option<R> {
        let own = self.requests.iter().position(|request| request.ticket == ticket)?;
        if !matches!(self.requests[own].state, State::Done(_)) {
            return None;
        }
        match self.requests.remove(own).state {
            State::Done(result) => Some(result),
            _ => None,
        }
    }

    /// The items of the next batch.
    fn start(&mut self, most: impl Fn(&T) -> usize, alike: impl Fn(&T, &T) -> bool) -> Vec<T> {
        self.running = true;
        let mut items: Vec<T> = Vec::new();
        for request in &mut self.requests {
            let fits = match items.first() {
                None => true,
                Some(first) => items.len() < most(first) && alike(first, &request.item),
            };
            if fits && matches!(request.state, State::Waiting) {
                request.state = State::Running;
                items.push(request.item.clone());
            }
        }
        items
    }
}

/// A batch that runs.
struct Batch<'a, T, R> {
    batches: &'a Batches<T, R>,
    leader: u64,
    results: Option<Vec<R>>,
}

impl<T, R> Batch<'_, T, R> {
    fn end(mut self, results: Vec<R>) {
        self.results = Some(results);
    }
}

impl<T, R> Drop for Batch<'_, T, R> {
    fn drop(&mut self) {
        let mut queue = self.batches.queue();
        queue.running = false;
        let running = queue.requests.iter_mut().filter(|r| matches!(r.state, State::Running));
        match self.results.take() {
            Some(results) => {
                for (request, result) in running.zip(results) {
                    request.state = State::Done(result);
                }
            }
            None => {
                running.for_each(|request| request.state = State::Waiting);
                queue.requests.retain(|request| request.ticket != self.leader);
            }
        }
        self.batches.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread::scope;

    use super::*;

    /// Starts a request that runs until `threads` more are waiting, and joins them.
    fn behind_a_first_one<R: Send>(
        batches: &Batches<u32, u32>,
        threads: usize,
        others: impl Fn(usize) -> R + Sync,
    ) -> Vec<R> {
        let started = Barrier::new(2);
        scope(|scope| {
            scope.spawn(|| {
                batches.run(
                    0,
                    |_| 1,
                    |_, _| false,
                    |items| {
                        started.wait();
                        while batches.queue().requests.len() <= threads {
                            std::thread::yield_now();
                        }
                        items.to_vec()
                    },
                )
            });
            started.wait();
            let others = &others;
            let threads: Vec<_> = (0..threads).map(|i| scope.spawn(move || others(i))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn those_that_wait_are_joined_if_they_are_alike_and_up_to_the_most() {
        let batches = Batches::default();
        let sizes = Mutex::new(Vec::new());
        let results = behind_a_first_one(&batches, 9, |i| {
            // Six even numbers and three odd ones.
            let item = if i < 6 { 2 * i as u32 } else { 2 * i as u32 + 1 };
            let result = batches.run(
                item,
                |_| 4,
                |a, b| a % 2 == b % 2,
                |items| {
                    assert!(items.iter().all(|item| item % 2 == items[0] % 2), "{items:?}");
                    sizes.lock().unwrap().push(items.len());
                    items.iter().map(|item| item + 100).collect()
                },
            );
            (item, result)
        });
        assert!(results.iter().all(|(item, result)| *result == item + 100), "{results:?}");
        let mut sizes = sizes.into_inner().unwrap();
        sizes.sort_unstable();
        assert_eq!(sizes, [2, 3, 4]);
        assert!(batches.queue().requests.is_empty());
    }

    #[test]
    fn a_panic_is_its_threads_own() {
        let batches = Batches::default();
        let runs = AtomicUsize::new(0);
        let results = behind_a_first_one(&batches, 5, |i| {
            catch_unwind(AssertUnwindSafe(|| {
                batches.run(
                    i as u32 + 1,
                    |_| 8,
                    |_, _| true,
                    |items| {
                        assert!(runs.fetch_add(1, Ordering::Relaxed) > 0, "the first batch fails");
                        items.to_vec()
                    },
                )
            }))
        });
        assert_eq!(results.iter().filter(|result| result.is_err()).count(), 1);
        for (i, result) in results.into_iter().enumerate() {
            assert!(result.is_err() || result.unwrap() == i as u32 + 1);
        }
        assert!(batches.queue().requests.is_empty());
        assert_eq!(batches.run(7, |_| 8, |_, _| true, <[u32]>::to_vec), 7);
    }
}
