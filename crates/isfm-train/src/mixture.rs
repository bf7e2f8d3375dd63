use crate::checkpoint::Fnv;
use crate::{Error, PairFolder, Result, Validation};

/// What a run is trained on: one folder of pairs, or several with shares.
///
/// An epoch is as many samples as there are pairs to train on in all folders together. Of a single
/// folder each pair gives one, in random order. Of several each sample chooses its folder with the
/// probability of its share and then one of its pairs, all with the same probability; a pair may
/// come twice in an epoch or not at all.
#[derive(Debug)]
pub struct DataSet {
    folders: Vec<(PairFolder, f64)>,
}

impl From<PairFolder> for DataSet {
    fn from(folder: PairFolder) -> Self {
        Self { folders: vec![(folder, 1.)] }
    }
}

impl DataSet {
    /// Folders with their shares, of which only the ratios count.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no folder or a share is not a finite number above 0.
    pub fn mixture(folders: Vec<(PairFolder, f64)>) -> Result<Self> {
        if folders.is_empty() {
            return Err(Error::setting("data", "no folder", "at least one"));
        }
        if let Some((_, share)) = folders.iter().find(|(_, s)| !(s.is_finite() && *s > 0.)) {
            return Err(Error::setting("data.share", share, "a finite number above 0"));
        }
        Ok(Self { folders })
    }

    /// The number of pairs in all folders, those held back included.
    pub fn len(&self) -> usize {
        self.folders.iter().map(|(folder, _)| folder.len()).sum()
    }

    /// Never true: a folder without pairs cannot be opened.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The folders and their shares.
    pub fn folders(&self) -> &[(PairFolder, f64)] {
        &self.folders
    }

    /// A number that tells data sets apart: a single folder's
    /// [own](PairFolder::fingerprint), or one made of all of them and their shares.
    pub fn fingerprint(&self) -> u64 {
        self.of_all(PairFolder::fingerprint)
    }

    /// As [`DataSet::fingerprint`], made of the [names](PairFolder::names_fingerprint) and shares alone.
    pub fn names_fingerprint(&self) -> u64 {
        self.of_all(PairFolder::names_fingerprint)
    }

    fn of_all(&self, fingerprint: impl Fn(&PairFolder) -> u64) -> u64 {
        if let [(folder, _)] = &self.folders[..] {
            return fingerprint(folder);
        }
        let mut all = Fnv::default();
        for (folder, share) in &self.folders {
            all.word(fingerprint(folder));
            all.word(share.to_bits());
        }
        all.finish()
    }

    /// A pair's name: of several folders, with its path.
    pub(crate) fn name(&self, folder: usize, pair: usize) -> String {
        let Some((of, _)) = self.folders.get(folder) else { return String::new() };
        match of.visible(pair) {
            Some(path) if self.folders.len() > 1 => path.display().to_string(),
            _ => of.name(pair).unwrap_or_default().to_string(),
        }
    }
}

/// Which of each folder's pairs are trained on and which are held back.
#[derive(Debug)]
pub(crate) struct Split {
    /// For each folder, in the order of the names.
    pub(crate) trained: Vec<Vec<usize>>,
    /// For each folder, in the order of the hashes.
    pub(crate) held: Vec<Vec<usize>>,
}

impl Split {
    /// # Errors
    /// [`Error::Setting`] if nothing is held back, or a folder keeps nothing to train on.
    pub(crate) fn of(data: &DataSet, validation: Option<&Validation>) -> Result<Self> {
        let share = validation.map_or(0., |v| v.share);
        let mut split = Self { trained: Vec::new(), held: Vec::new() };
        for (folder, _) in &data.folders {
            let place = |pair: &usize| place(folder.name(*pair).unwrap_or_default());
            let (mut held, trained): (Vec<_>, Vec<_>) =
                (0..folder.len()).partition(|pair| place(pair) < share);
            held.sort_by(|a, b| place(a).total_cmp(&place(b)));
            if trained.is_empty() {
                let needed =
                    format!("a share that leaves some of a folder's {} pairs", folder.len());
                return Err(Error::setting("validation.share", share, &needed));
            }
            split.trained.push(trained);
            split.held.push(held);
        }
        if validation.is_some() && split.held.iter().all(Vec::is_empty) {
            let needed = format!("a share that holds back at least one of {} pairs", data.len());
            return Err(Error::setting("validation.share", share, &needed));
        }
        Ok(split)
    }

    /// The number of pairs that are trained on.
    pub(crate) fn pairs(&self) -> usize {
        self.trained.iter().map(Vec::len).sum()
    }
}

/// A name's place in 0 to 1, as if drawn at random.
fn place(name: &str) -> f64 {
    let mut hash = Fnv::default();
    hash.bytes(name.as_bytes());
    // SplitMix64's last steps: FNV leaves the upper bits of similar names alike.
    let mut z = hash.finish();
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 11) as f64 / (1u64 << 53) as f64
}
