//! Which pairs a subcommand works on.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use isfm_files::Pairing;
use isfm_files::pairs::{Pair, is_picture};

use crate::shard::Shard;
use crate::{Console, Usage, list};

/// Two folders, a list, or two files.
#[derive(Args, Clone, Debug, Default)]
pub struct PairArgs {
    /// Folder of visible pictures (PET, SPECT or CT of medical pairs), or one picture
    #[arg(long, value_name = "V", requires = "infrared")]
    pub visible: Option<PathBuf>,
    /// Folder of infrared pictures (MRI of medical pairs), or one picture. In folders, pictures of one
    /// name are pairs: whole names first, then names without extension
    #[arg(long, value_name = "I", requires = "visible")]
    pub infrared: Option<PathBuf>,
    /// A list of pairs instead: CSV with the columns visible,infrared and perhaps name, or JSON lines
    /// (.jsonl) with these keys; paths are relative to the list
    #[arg(long, value_name = "FILE", conflicts_with_all = ["visible", "infrared"])]
    pub list: Option<PathBuf>,
    /// Take the I-th of N shares of the pairs, by a hash of their names; `auto` or `auto/N` for what MPI,
    /// Slurm or an indexed Kubernetes job say of this process
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,
}

/// The pairs to work on.
#[derive(Clone, Debug)]
pub struct Found {
    /// They, and what beside them was found in the folders.
    pub pairing: Pairing,
    /// How many there were before this process's share was taken.
    pub all: usize,
    /// They are one pair of files.
    pub single: bool,
}

impl PairArgs {
    /// Finds them; nothing is opened but a list.
    ///
    /// # Errors
    /// [`Usage`], if there are none.
    pub fn find(&self) -> Result<Found> {
        self.look().map_err(Usage::of)
    }

    fn look(&self) -> Result<Found> {
        let (mut pairing, single) = match (&self.visible, &self.infrared, &self.list) {
            (.., Some(file)) => (Pairing { pairs: list::read(file)?, ..Pairing::default() }, false),
            (Some(visible), Some(infrared), _) => match (visible.is_dir(), infrared.is_dir()) {
                (true, true) => (Pairing::find(visible, infrared)?, false),
                (false, false) => (file_pair(visible, infrared)?, true),
                (first, _) => {
                    let (folder, file) =
                        if first { (visible, infrared) } else { (infrared, visible) };
                    bail!(
                        "{} is a folder, but {} is none: give two files or two folders",
                        folder.display(),
                        file.display()
                    );
                }
            },
            _ => bail!("needs --visible and --infrared, or --list"),
        };
        let all = pairing.pairs.len();
        if let Some(shard) = self.shard {
            if single {
                bail!("--shard takes a share of folders or of a list, not of one pair");
            }
            pairing.pairs.retain(|pair| shard.has(&pair.name));
            pairing.ambiguous.retain(|ambiguous| shard.has(ambiguous.name()));
        }
        Ok(Found { pairing, all, single })
    }

    /// Whether `path` is one of the two folders or files.
    pub fn is_input(&self, path: &Path) -> bool {
        let Ok(path) = path.canonicalize() else { return false };
        let inputs = [&self.visible, &self.infrared].into_iter().flatten();
        inputs.into_iter().any(|input| input.canonicalize().is_ok_and(|input| input == path))
    }

    /// Says which of the folders' files are in no pair.
    pub fn say_others(&self, pairing: &Pairing, console: Console) {
        let alone = [&pairing.visible_alone[..], &pairing.infrared_alone].concat();
        console.list("pictures have no partner", &alone);
        for (folder, skipped) in [&self.visible, &self.infrared].into_iter().zip(pairing.skipped) {
            if let Some(folder) = folder {
                console.skipped(folder, skipped);
            }
        }
    }
}

fn file_pair(visible: &Path, infrared: &Path) -> Result<Pairing> {
    for path in [visible, infrared] {
        if !path.exists() {
            bail!("{}: there is no such file or folder", path.display());
        }
    }
    // A FIFO has no extension that says what comes.
    let name = if is_picture(visible) { visible.file_stem() } else { visible.file_name() };
    let name = name.map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let pair = Pair { name, visible: visible.into(), infrared: infrared.into() };
    Ok(Pairing { pairs: vec![pair], ..Pairing::default() })
}
