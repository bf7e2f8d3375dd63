//! The same bits for any number of threads, forward and backward.

use crate::oracle::{cases, to_f32};
use candle_core::Tensor;
use isfm_testing::{bits, gradients, same_on_any_threads};

#[test]
fn results_do_not_depend_on_threads() {
    for (b, h, w, c, d) in [(2, 37, 29, 21, 33), (1, 90, 5, 64, 1)] {
        for case in cases(b, h, w, c, d) {
            let inputs: Vec<Tensor> = case.inputs.iter().map(to_f32).collect();
            let op = &*case.op;
            same_on_any_threads(&case.name, || {
                let grads = gradients(&inputs, op);
                (bits(&op(&inputs).unwrap()), grads.iter().map(bits).collect::<Vec<_>>())
            });
        }
    }
}
