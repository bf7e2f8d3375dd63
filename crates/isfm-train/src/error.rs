use std::path::{Path, PathBuf};

use crate::corrupt::Listed;

/// What can go wrong in this crate. No text repeats its `source()`: print the whole chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A folder that is not a data set.
    #[error("{}: {problem}; needs vi/NAME and ir/NAME (or train/vi and train/ir) with the same names", dir.display())]
    Folder {
        /// The folder given.
        dir: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Two images of a pair that differ in size.
    #[error(
        "{} is {}x{}, but {} is {}x{}: the images of a pair must have the same size",
        visible.display(), visible_size.0, visible_size.1,
        infrared.display(), infrared_size.0, infrared_size.1
    )]
    PairSize {
        /// The visible image.
        visible: PathBuf,
        /// Its width and height.
        visible_size: (u32, u32),
        /// The infrared image.
        infrared: PathBuf,
        /// Its width and height.
        infrared_size: (u32, u32),
    },
    /// Two images that an alignment lays side by side, not on each other.
    #[error(
        "by the alignment {} and {} have nothing in common: it is not theirs",
        visible.display(), infrared.display()
    )]
    NothingCommon {
        /// The visible image.
        visible: PathBuf,
        /// The infrared image.
        infrared: PathBuf,
    },
    /// Folders of which no pairs can be made.
    #[error(transparent)]
    Files(#[from] isfm_files::Error),
    /// An image that cannot be read; the text names the file.
    #[error(transparent)]
    Image(Box<isfm::Error>),
    /// An image whose values cannot be trained on.
    #[error("cannot train on the image {}", path.display())]
    Pixels {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<isfm::Error>,
    },
    /// More pairs that cannot be trained on than [`Corrupt`](crate::Corrupt) allows.
    #[error(
        "{} of {pairs} pairs cannot be trained on, at most {most} may be left out:{}",
        problems.len(), Listed(problems)
    )]
    Corrupt {
        /// What is wrong with each.
        problems: Vec<String>,
        /// How many pairs there are.
        pairs: usize,
        /// How many may be left out.
        most: usize,
    },
    /// A file that cannot be read or written.
    #[error("cannot read or write {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A setting outside its range.
    #[error("setting `{setting}` is {got}, needs {needed}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// The value given.
        got: String,
        /// What would be right.
        needed: String,
    },
    /// A fresh run into a folder that holds something already.
    #[error("{}: the output folder is not empty; resume the run in it, or name another folder", .0.display())]
    OutputNotEmpty(PathBuf),
    /// An output folder that another run is writing to.
    #[error("{}: another run is writing to this folder", .0.display())]
    OutputInUse(PathBuf),
    /// Resuming where no checkpoint can be read.
    #[error("{}: no usable checkpoint to resume from ({problem})", dir.display())]
    NoCheckpoint {
        /// The output folder.
        dir: PathBuf,
        /// What was found instead.
        problem: String,
    },
    /// A file that is not an undamaged training checkpoint.
    #[error("{}: not a usable training checkpoint: {problem}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Resuming with other settings than the checkpoint's.
    #[error("{}: made with `{setting}` = {there}, but {given} was given; a run can only be resumed with its own settings", path.display())]
    Differs {
        /// The checkpoint.
        path: PathBuf,
        /// The setting's name.
        setting: String,
        /// Its value in the checkpoint.
        there: String,
        /// Its value now.
        given: String,
    },
    /// A loss or gradient that is not a number or infinite. Weights and checkpoints are untouched.
    #[error(
        "step {step}: {what} is not finite; samples: {}; last good checkpoint: {} (step {checkpoint_step})",
        samples.join(", "), checkpoint.display()
    )]
    NonFinite {
        /// The step that failed, counted from 1.
        step: usize,
        /// The loss term, or the parameter whose gradient it is.
        what: String,
        /// The names of the pairs in the batch.
        samples: Vec<String>,
        /// The checkpoint to go back to.
        checkpoint: PathBuf,
        /// How many steps it holds.
        checkpoint_step: usize,
    },
    /// A network whose output lies outside [0, 1] everywhere, step after step, where the clamped
    /// image has no slope: training cannot get it back.
    #[error(
        "step {step}: every gradient has been exactly 0 for {steps} steps, because all of the \
         fused image lies outside 0 to 1; start again with another seed or a lower learning rate"
    )]
    Stuck {
        /// The step, counted from 1.
        step: usize,
        /// How many steps it has been so.
        steps: usize,
    },
    /// Weights of another shape than the optimiser's state, or a loss that reaches no weight.
    #[error("optimiser: {0}")]
    Optimiser(String),
    /// An image that cannot be resized.
    #[error("resize to {width}x{height}: {problem}")]
    Resize {
        /// The width asked for.
        width: u32,
        /// The height asked for.
        height: u32,
        /// Why.
        problem: String,
    },
    /// A thread pool or loading thread that failed.
    #[error("threads: {0}")]
    Threads(String),
    /// A group of processes that cannot work together any more.
    #[error("ranks: {0}")]
    Collective(String),
    /// What one rank of a group could not do, as all of them report it.
    #[error("rank {rank}: {problem}")]
    OnRank {
        /// The rank.
        rank: usize,
        /// Its error, with all causes.
        problem: String,
    },
    /// A rank that would not do the same as rank 0.
    #[error(
        "rank {rank} has `{setting}` = {given}, but rank 0 has {first}; all ranks of a run need the same \
         program, settings and data"
    )]
    World {
        /// The first rank that differs.
        rank: usize,
        /// What differs first.
        setting: String,
        /// Its value on rank 0.
        first: String,
        /// Its value on that rank.
        given: String,
    },
    /// A run file that cannot be understood.
    #[error("run file {origin}: {problem}")]
    RunFile {
        /// The file.
        origin: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Pictures that cannot be scored.
    #[error(transparent)]
    Metrics(#[from] isfm_metrics::Error),
    /// An error of the model's.
    #[error(transparent)]
    Model(#[from] isfm_model::Error),
    /// An error of Candle's own.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl From<isfm::Error> for Error {
    fn from(error: isfm::Error) -> Self {
        Self::Image(error.into())
    }
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The text with all its causes, for where an error becomes part of another's text.
    pub(crate) fn chain(&self) -> String {
        let chain = std::iter::successors(Some(self as &dyn std::error::Error), |e| e.source());
        chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }

    /// Where another rank's error has been returned already; never seen.
    pub(crate) fn ended() -> Self {
        Self::Collective("the ranks disagree about how the step ended".into())
    }

    pub(crate) fn setting(setting: &'static str, got: impl ToString, needed: &str) -> Self {
        Self::Setting { setting, got: got.to_string(), needed: needed.to_string() }
    }

    /// For `map_err`: an I/O error with the path it happened at.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.to_path_buf(), source }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// One of each.
    fn every_variant() -> Vec<Error> {
        let path = || PathBuf::from("a.png");
        let text = |text: &str| text.to_string();
        let infrared = isfm::Side::Infrared;
        let list = io::Error::other("no permission");
        let read = io::Error::other("no header").into();
        vec![
            Error::Folder { dir: path(), problem: text("empty") },
            Error::PairSize {
                visible: path(),
                visible_size: (1, 2),
                infrared: path(),
                infrared_size: (3, 4),
            },
            Error::NothingCommon { visible: path(), infrared: path() },
            Error::Files(isfm_files::Error::List { folder: path(), source: list }),
            isfm::Error::Read { path: path(), problem: read }.into(),
            Error::Pixels {
                path: path(),
                source: isfm::Error::NotFinite { side: infrared, value: f32::NAN, index: 5 }.into(),
            },
            Error::Corrupt { problems: vec![text("cut off")], pairs: 3, most: 0 },
            Error::Io { path: path(), source: io::Error::other("disk full") },
            Error::Setting { setting: "batch", got: text("0"), needed: text("1") },
            Error::OutputNotEmpty(path()),
            Error::OutputInUse(path()),
            Error::NoCheckpoint { dir: path(), problem: text("none") },
            Error::Checkpoint { path: path(), problem: text("damaged") },
            Error::Differs {
                path: path(),
                setting: text("seed"),
                there: text("1"),
                given: text("2"),
            },
            Error::NonFinite {
                step: 1,
                what: text("loss"),
                samples: vec![text("a")],
                checkpoint: path(),
                checkpoint_step: 0,
            },
            Error::Stuck { step: 50, steps: 50 },
            Error::Optimiser(text("no state")),
            Error::Resize { width: 1, height: 2, problem: text("no rows") },
            Error::Threads(text("none left")),
            Error::Collective(text("gone")),
            Error::OnRank { rank: 1, problem: text("disk full") },
            Error::World { rank: 1, setting: text("seed"), first: text("1"), given: text("2") },
            Error::RunFile { origin: text("run.toml"), problem: text("unknown key") },
            Error::Metrics(isfm_metrics::Error::Empty { width: 0, height: 3 }),
            Error::Model(isfm_model::Error::UnknownPreset(text("huge"))),
            Error::Candle(candle_core::Error::Msg(text("no kernel"))),
        ]
    }

    #[test]
    fn a_chain_names_each_cause_once() {
        for error in every_variant() {
            // No wildcard: a new variant belongs into the list above, too.
            #[rustfmt::skip]
            let cause = match error {
                Error::Files(_) => "no permission",
                Error::Image(_) => "no header",
                Error::Pixels { .. } => "NaN",
                Error::Io { .. } => "disk full",
                Error::Metrics(_) => "0x3",
                Error::Model(_) => "huge",
                Error::Candle(_) => "no kernel",
                Error::Corrupt { .. } => "cut off",
                Error::Folder { .. } | Error::PairSize { .. } | Error::NothingCommon { .. }
                | Error::Setting { .. }
                | Error::OutputNotEmpty(_) | Error::OutputInUse(_) | Error::NoCheckpoint { .. }
                | Error::Checkpoint { .. } | Error::Differs { .. } | Error::NonFinite { .. }
                | Error::Stuck { .. } | Error::Optimiser(_) | Error::Resize { .. }
                | Error::Threads(_) | Error::RunFile { .. } | Error::Collective(_)
                | Error::OnRank { .. } | Error::World { .. } => &error.to_string(),
            };
            isfm_testing::says_once(&error, cause);
            assert_eq!(isfm_testing::chain(&error), error.chain());
        }
    }
}
