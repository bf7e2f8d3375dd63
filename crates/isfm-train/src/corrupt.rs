use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Deserialize;

use crate::{Error, Result};

/// What becomes of pairs that cannot be trained on: files that cannot be read or decoded, values that are
/// not finite, two images of different sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Corrupt {
    /// All pairs are decoded before the run begins, and a single one ends it.
    Refuse,
    /// Each is named once and left out, and another pair of its folder, drawn anew, takes its place in
    /// the step. More than so many end the run; `None` is a tenth of the pairs, rounded up.
    ///
    /// Which pair that is follows from the step and the files alone, so a run that is stopped goes on as
    /// if it had not been. A file that is repaired is used from then on.
    Skip(Option<usize>),
}

impl Default for Corrupt {
    fn default() -> Self {
        Self::Skip(None)
    }
}

/// `refuse`, `skip` or `skip:N`.
impl FromStr for Corrupt {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match (text, text.strip_prefix("skip:").map(str::parse)) {
            ("refuse", _) => Ok(Self::Refuse),
            ("skip", _) => Ok(Self::Skip(None)),
            (_, Some(Ok(most))) => Ok(Self::Skip(Some(most))),
            _ => Err(format!("corrupt is {text:?}, needs refuse, skip, or skip:N with a number N")),
        }
    }
}

impl TryFrom<String> for Corrupt {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

/// A pair: the number of its folder, and its own in that.
pub(crate) type Place = (usize, usize);

/// The pairs that were left out.
pub(crate) struct LeftOut {
    most: usize,
    pairs: usize,
    /// In the order in which they were found.
    found: Mutex<Vec<(Place, String)>>,
}

impl Clone for LeftOut {
    fn clone(&self) -> Self {
        let Self { most, pairs, .. } = *self;
        Self { most, pairs, found: Mutex::new(self.found().clone()) }
    }
}

impl LeftOut {
    pub(crate) fn new(corrupt: Corrupt, pairs: usize) -> Self {
        let most = match corrupt {
            Corrupt::Refuse => 0,
            Corrupt::Skip(most) => most.unwrap_or(pairs.div_ceil(10)),
        };
        Self { most, pairs, found: Mutex::default() }
    }

    fn found(&self) -> MutexGuard<'_, Vec<(Place, String)>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a pair out.
    ///
    /// # Errors
    /// `problem` itself if it is none of the pair's; [`Error::Corrupt`] for one too many.
    pub(crate) fn add(&self, place: Place, problem: Error) -> Result<()> {
        if !is_of_a_pair(&problem) {
            return Err(problem);
        }
        self.extend([(place, problem.chain())])
    }

    /// # Errors
    /// [`Error::Corrupt`] for too many.
    pub(crate) fn extend(&self, problems: impl IntoIterator<Item = (Place, String)>) -> Result<()> {
        let mut found = self.found();
        for (place, problem) in problems {
            if !found.iter().any(|(known, _)| *known == place) {
                found.push((place, problem));
            }
        }
        if found.len() <= self.most { Ok(()) } else { Err(self.too_many(&found)) }
    }

    /// [`Error::Corrupt`], where no pair is left.
    pub(crate) fn all(&self) -> Error {
        self.too_many(&self.found())
    }

    fn too_many(&self, found: &[(Place, String)]) -> Error {
        let mut found = found.to_vec();
        found.sort();
        let problems = found.into_iter().map(|(_, problem)| problem).collect();
        Error::Corrupt { problems, pairs: self.pairs, most: self.most }
    }

    /// Leaves out what other ranks have found; whether it is too much is for all of them to say.
    pub(crate) fn hear(&self, problems: Vec<(Place, String)>) {
        _ = self.extend(problems);
    }

    /// What is wrong with each, but for the first so many.
    pub(crate) fn since(&self, first: usize) -> Vec<String> {
        self.found().iter().skip(first).map(|(_, problem)| problem.clone()).collect()
    }
}

/// Whether an error is a pair's own fault, not the machine's or the program's.
pub(crate) fn is_of_a_pair(problem: &Error) -> bool {
    match problem {
        Error::Image(problem) => matches!(**problem, isfm::Error::Read { .. }),
        Error::PairSize { .. } | Error::Pixels { .. } => true,
        _ => false,
    }
}

/// The first ten of some problems, a line each.
pub(crate) struct Listed<'a>(pub(crate) &'a [String]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 10;
        self.0.iter().take(SHOWN).try_for_each(|problem| write!(f, "\n  {problem}"))?;
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}
