//! Which pairs are this process's, where several share the work.

use std::str::FromStr;

/// One of several processes: it takes the pairs whose names' hash falls to it. Which these are depends
/// on the name and on the number of shards alone, so lists may grow and every process may look by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1.
    index: u64,
    count: u64,
}

impl Shard {
    /// The `index`th of `count`, from 1.
    pub fn new(index: u64, count: u64) -> Result<Self, String> {
        if (1..=count).contains(&index) {
            return Ok(Self { index, count });
        }
        Err(format!("shard {index} of {count}: needs I/N with I from 1 to N"))
    }

    /// Whether the pair of this name is this process's.
    pub fn has(self, pair: &str) -> bool {
        hash(pair) % self.count == self.index - 1
    }

    /// Such as `2-of-5`, for names of files.
    pub fn label(self) -> String {
        format!("{}-of-{}", self.index, self.count)
    }

    /// What a scheduler has told a process of its place among `variables`: MPI (Open MPI, and MPICH and
    /// its kin), a Slurm step of several tasks, a Slurm job array, a Kubernetes indexed job. Kubernetes
    /// does not tell how many there are.
    fn of_environment(
        count: Option<u64>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let number = |name: &str| -> Result<Option<u64>, String> {
            let Some(text) = variable(name) else { return Ok(None) };
            let number = text.trim().parse::<u64>();
            number.map(Some).map_err(|_| format!("{name} is {text:?}, no number"))
        };
        // From 0, and one that tells how many.
        let ranks = [
            ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
            ("PMI_RANK", "PMI_SIZE"),
            ("SLURM_PROCID", "SLURM_NTASKS"),
        ];
        for (rank, size) in ranks {
            if let (Some(rank), Some(size)) = (number(rank)?, number(size)?)
                && size > 1
            {
                return Self::new(rank.saturating_add(1), size);
            }
        }
        if let Some(id) = number("SLURM_ARRAY_TASK_ID")? {
            let first = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
            let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
            let count = number("SLURM_ARRAY_TASK_COUNT")?.or(count);
            let count = count.ok_or("SLURM_ARRAY_TASK_COUNT is not set: give auto/N")?;
            return Self::new((id.saturating_sub(first) / step).saturating_add(1), count);
        }
        if let Some(index) = number("JOB_COMPLETION_INDEX")? {
            let count = count.ok_or(
                "an indexed Kubernetes job does not tell its number of completions: give auto/N",
            )?;
            return Self::new(index.saturating_add(1), count);
        }
        Err("no scheduler's variables are set (MPI's, Slurm's, or JOB_COMPLETION_INDEX): give I/N"
            .to_owned())
    }
}

/// `I/N`, or `auto` or `auto/N` for what the scheduler says.
impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<u64>().ok();
        let environment = |name: &str| std::env::var(name).ok();
        let (index, count) = match text.split_once('/') {
            None if text == "auto" => return Self::of_environment(None, environment),
            Some(("auto", count)) if number(count).is_some() => {
                return Self::of_environment(number(count), environment);
            }
            Some((index, count)) => (number(index), number(count)),
            None => (None, None),
        };
        match (index, count) {
            (Some(index), Some(count)) => Self::new(index, count),
            _ => Err("needs I/N, such as 1/3, or auto".to_owned()),
        }
    }
}

/// 64-bit FNV-1a, whose last bits are spread by a round of SplitMix64: FNV's own repeat with the last
/// letters.
fn hash(name: &str) -> u64 {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_falls_to_one() {
        for count in [1, 2, 3, 7, 16] {
            let mut taken = vec![0; count as usize];
            for k in 0..7000 {
                let name = format!("{k:05}");
                let own = (1..=count).filter(|&i| Shard::new(i, count).unwrap().has(&name));
                let own: Vec<u64> = own.collect();
                assert_eq!(own.len(), 1, "{name}");
                taken[own[0] as usize - 1] += 1;
            }
            let (least, most) = (taken.iter().min().unwrap(), taken.iter().max().unwrap());
            assert!(most - least < 7000 / count as i32 / 3 + 1, "{taken:?}");
        }
    }

    #[test]
    fn names_keep_their_shard() {
        // Shards of runs begun by another version must fit together: these values never change.
        assert_eq!(hash(""), 0xf52a_15e9_a9b5_e89b);
        let of = |name| (1..=5).find(|&i| Shard::new(i, 5).unwrap().has(name)).unwrap();
        assert_eq!(["a", "b", "FLIR_00006", "day/001"].map(of), [2, 2, 5, 5]);
    }

    #[test]
    fn text_is_read() {
        assert_eq!("2/3".parse(), Shard::new(2, 3));
        for bad in ["0/3", "4/3", "1/0", "1", "", "a/b", "1/2/3", "-1/3", "auto/x"] {
            assert!(bad.parse::<Shard>().is_err(), "{bad}");
        }
    }

    #[test]
    fn schedulers_are_asked() {
        let of = |count, variables: &[(&str, &str)]| {
            let variable = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            Shard::of_environment(count, variable)
        };
        let mpi = [("OMPI_COMM_WORLD_RANK", "2"), ("OMPI_COMM_WORLD_SIZE", "4")];
        assert_eq!(of(None, &mpi), Shard::new(3, 4));
        assert_eq!(of(None, &[("PMI_RANK", "0"), ("PMI_SIZE", "2")]), Shard::new(1, 2));
        let array = [
            ("SLURM_PROCID", "0"),
            ("SLURM_NTASKS", "1"),
            ("SLURM_ARRAY_TASK_ID", "14"),
            ("SLURM_ARRAY_TASK_MIN", "10"),
            ("SLURM_ARRAY_TASK_STEP", "2"),
            ("SLURM_ARRAY_TASK_COUNT", "5"),
        ];
        assert_eq!(of(None, &array), Shard::new(3, 5));
        assert_eq!(of(None, &[("SLURM_PROCID", "3"), ("SLURM_NTASKS", "8")]), Shard::new(4, 8));
        let kubernetes = [("JOB_COMPLETION_INDEX", "1")];
        assert_eq!(of(Some(2), &kubernetes), Shard::new(2, 2));
        assert!(of(None, &kubernetes).unwrap_err().contains("auto/N"));
        assert!(of(None, &[]).unwrap_err().contains("I/N"));
        assert!(
            of(None, &[("PMI_RANK", "x"), ("PMI_SIZE", "2")]).unwrap_err().contains("PMI_RANK")
        );
        assert!(of(Some(1), &kubernetes).is_err());
    }
}
