//! Which of a file's tensors are the ones that are looked for.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use super::listing::{Dictionary, Place};
use super::{PREFIXES, bare_name};

/// How many parts of a name are tried as a prefix.
const MAX_PARTS: usize = 8;

/// The tensors that were chosen, and the names of those beside them.
#[derive(Default)]
pub(super) struct Choice<'d> {
    pub(super) tensors: BTreeMap<String, &'d Result<Place, String>>,
    pub(super) others: Vec<String>,
}

impl<'d> Choice<'d> {
    /// Where the tensors lie, whatever they are called.
    fn places(&self) -> Vec<&'d Result<Place, String>> {
        let mut places: Vec<_> = self.tensors.values().copied().collect();
        places.sort_unstable();
        places
    }
}

/// A dictionary and the prefix of the names in it.
struct Candidate<'d> {
    dictionary: &'d Dictionary,
    prefix: &'d str,
    /// How many of its names are wanted, and how much the words above them speak for it.
    score: (usize, i32),
}

impl<'d> Candidate<'d> {
    fn choice(&self, wanted: &dyn Fn(&str) -> bool) -> Result<Choice<'d>, String> {
        let mut choice = Choice::default();
        for (name, place) in &self.dictionary.tensors {
            let Some(name) = bare_name(name).strip_prefix(self.prefix) else { continue };
            let Some(name) = fitting(name, wanted) else {
                choice.others.push(name.to_string());
                continue;
            };
            if choice.tensors.insert(name.to_string(), place).is_some() {
                return Err(format!("two tensors are {name}"));
            }
        }
        Ok(choice)
    }

    fn label(&self) -> String {
        let path = self.dictionary.path.join(" > ");
        let prefix = self.prefix;
        match (path.is_empty(), prefix.is_empty()) {
            (true, true) => "the outermost names".to_string(),
            (false, true) => format!("`{path}`"),
            (true, false) => format!("`{prefix}`"),
            (false, false) => format!("`{path} > {prefix}`"),
        }
    }
}

/// Chooses the dictionary, and the prefix of its names, with the most tensors whose names are wanted.
/// Of equal ones, a moving average comes before the weights that it follows and both before an
/// optimiser's state, then the shorter prefix; others must hold the same tensors.
pub(super) fn choose<'d>(
    dictionaries: &'d [Dictionary],
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Choice<'d>, String> {
    let mut candidates = Vec::new();
    for dictionary in dictionaries {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for name in dictionary.tensors.keys() {
            let name = bare_name(name);
            let cuts = name.match_indices('.').map(|(at, _)| at + 1).take(MAX_PARTS);
            for cut in std::iter::once(0).chain(cuts) {
                if fitting(&name[cut..], wanted).is_some() {
                    *counts.entry(&name[..cut]).or_default() += 1;
                }
            }
        }
        candidates.extend(counts.into_iter().map(|(prefix, count)| {
            let words = dictionary.path.iter().map(String::as_str).chain([prefix]);
            Candidate { dictionary, prefix, score: (count, words.map(rank).sum()) }
        }));
    }
    let best = candidates.iter().map(|candidate| candidate.score).max();
    candidates.retain(|candidate| Some(candidate.score) == best);
    candidates.sort_by_key(|candidate| candidate.prefix.len());
    let Some(first) = candidates.first() else {
        // Nothing is wanted; what there is in place of it shall be told.
        let most = dictionaries.iter().max_by_key(|dictionary| dictionary.tensors.len());
        let others = most.map_or(vec![], |most| most.tensors.keys().cloned().collect());
        return Ok(Choice { others, ..Choice::default() });
    };
    let choice = first.choice(wanted)?;
    let places = choice.places();
    for rival in &candidates[1..] {
        if rival.choice(wanted)?.places() != places {
            return Err(format!(
                "the tensors are in it more than once, under {} and under {}; save one of them alone",
                first.label(),
                rival.label()
            ));
        }
    }
    Ok(choice)
}

/// How much a prefix or key speaks for the weights under it.
fn rank(words: &str) -> i32 {
    let words = words.to_ascii_lowercase();
    let words = words.split(|c: char| !c.is_ascii_alphanumeric());
    let rank = words.map(|word| match word {
        "ema" | "average" | "averaged" | "avg" | "swa" => 1,
        "optimizer" | "optimiser" | "optim" | "adam" | "exp" | "grad" | "grads" => -100,
        _ => 0,
    });
    rank.sum()
}

/// The name as it is wanted: as it is, or without what PyTorch's wrappers put into the middle of it.
fn fitting<'n>(name: &'n str, wanted: &dyn Fn(&str) -> bool) -> Option<Cow<'n, str>> {
    if wanted(name) {
        return Some(Cow::Borrowed(name));
    }
    let wrapper = |part: &&str| PREFIXES.iter().any(|p| p.strip_suffix('.') == Some(part));
    if !name.split('.').any(|part| wrapper(&part)) {
        return None;
    }
    let bare: Vec<&str> = name.split('.').filter(|part| !wrapper(part)).collect();
    let bare = bare.join(".");
    wanted(&bare).then_some(Cow::Owned(bare))
}
