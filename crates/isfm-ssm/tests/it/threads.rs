//! The same bits for any number of threads.

use crate::common::{Case, Sizes};
use candle_core::DType;

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for sizes in [
        Sizes { b: 2, h: 13, w: 11, d: 40, r: 2, n: 5 },
        Sizes { b: 1, h: 9, w: 16, d: 16, r: 1, n: 16 },
        Sizes { b: 1, h: 12, w: 7, d: 150, r: 3, n: 4 },
    ] {
        let case = Case::new(sizes, 1);
        let dy = Case::new(sizes, 2).inputs[0].clone();
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| (case.run(DType::F32), case.gradients(&dy, DType::F32)))
        };
        let one = run(1);
        for threads in [2, 3, 8] {
            assert!(run(threads) == one, "{sizes:?} with {threads} threads");
        }
    }
}
