//! The same bits for any number of threads, forward and backward.

use crate::oracle::{bits, cases, gradients, to_f32};
use candle_core::Tensor;

#[test]
fn results_do_not_depend_on_threads() {
    for (b, h, w, c, d) in [(2, 37, 29, 21, 33), (1, 90, 5, 64, 1)] {
        for case in cases(b, h, w, c, d) {
            let inputs: Vec<Tensor> = case.inputs.iter().map(to_f32).collect();
            let op = &*case.op;
            let all: Vec<Vec<Vec<u32>>> = [1, 2, 3]
                .into_iter()
                .map(|n| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
                    let mut out = vec![bits(&pool.install(|| op(&inputs).unwrap()))];
                    out.extend(pool.install(|| gradients(op, &inputs)).iter().map(bits));
                    out
                })
                .collect();
            assert!(all[0] == all[1] && all[0] == all[2], "{}", case.name);
        }
    }
}
