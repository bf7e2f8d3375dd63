//! The same bits for any number of threads.

use crate::common::{Case, Sizes};
use candle_core::DType;
use isfm_testing::{bits, same_on_any_threads};

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for sizes in [
        Sizes { b: 2, h: 13, w: 11, d: 40, r: 2, n: 5 },
        Sizes { b: 1, h: 9, w: 16, d: 16, r: 1, n: 16 },
        Sizes { b: 1, h: 12, w: 7, d: 150, r: 3, n: 4 },
    ] {
        let case = Case::new(sizes, 1);
        let dy = case.weights(2);
        same_on_any_threads(&format!("{sizes:?}"), || {
            let mut all = case.gradients(&dy, DType::F32);
            all.push(case.run(DType::F32));
            all.iter().map(bits).collect::<Vec<_>>()
        });
    }
}
