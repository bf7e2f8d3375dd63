//! Scan orders as permutations, and the operations that walk along them.

use crate::common::{Case, Sizes, oracle, params};
use candle_core::{DType, Device, Result, Tensor};
use isfm_ssm::{ScanOrder, cross_merge, cross_merge_each, cross_scan, cross_scan_each};
use isfm_testing::{
    bits, dot, gradients, random, refused, relative, same_on_any_threads, tensor, values,
};
use proptest::prelude::*;

/// Every kind of order there is.
fn orders(h: usize, w: usize, wh: usize, ww: usize) -> Vec<ScanOrder> {
    let base = [
        ScanOrder::rows(h, w),
        ScanOrder::columns(h, w),
        ScanOrder::snake(h, w),
        ScanOrder::diagonals(h, w),
        ScanOrder::hilbert(h, w),
        ScanOrder::windows(h, w, wh, ww),
    ]
    .map(Result::unwrap);
    let mut all = base.to_vec();
    all.extend(base.iter().map(ScanOrder::reversed));
    all.extend(base.iter().map(ScanOrder::mirrored));
    all.extend(ScanOrder::vmamba(h, w).unwrap());
    // A transposed order of the transposed map is an order of this one.
    all.push(ScanOrder::hilbert(w, h).unwrap().transposed());
    all
}

fn cells(order: &ScanOrder) -> Vec<(i64, i64)> {
    let w = order.width() as i64;
    order.positions().iter().map(|&p| (i64::from(p) / w, i64::from(p) % w)).collect()
}

/// The longest way between neighbouring steps along an axis.
fn stride(order: &ScanOrder) -> i64 {
    let cells = cells(order);
    let step = |p: &[(i64, i64)]| (p[0].0 - p[1].0).abs().max((p[0].1 - p[1].1).abs());
    cells.windows(2).map(step).max().unwrap_or(0)
}

#[test]
fn small_orders_are_as_drawn() {
    let order = |o: Result<ScanOrder>| o.unwrap().positions().to_vec();
    assert_eq!(order(ScanOrder::rows(2, 3)), [0, 1, 2, 3, 4, 5]);
    assert_eq!(order(ScanOrder::columns(2, 3)), [0, 3, 1, 4, 2, 5]);
    assert_eq!(order(ScanOrder::snake(3, 2)), [0, 1, 3, 2, 4, 5]);
    assert_eq!(order(ScanOrder::diagonals(3, 3)), [0, 1, 3, 2, 4, 6, 5, 7, 8]);
    assert_eq!(order(ScanOrder::diagonals(2, 4)), [0, 1, 4, 2, 5, 3, 6, 7]);
    assert_eq!(order(ScanOrder::diagonals(3, 3).map(|o| o.mirrored())), {
        [2, 1, 5, 0, 4, 8, 3, 7, 6]
    });
    assert_eq!(order(ScanOrder::windows(3, 3, 2, 2)), [0, 1, 3, 4, 2, 5, 6, 7, 8]);
    assert_eq!(order(ScanOrder::hilbert(2, 2)), [0, 2, 3, 1]);
    // Hilbert's curve of the second order.
    let curve = [0, 1, 5, 4, 8, 12, 13, 9, 10, 14, 15, 11, 7, 6, 2, 3];
    assert_eq!(order(ScanOrder::hilbert(4, 4)), curve);
    let [rows, columns, rows_back, columns_back] = ScanOrder::vmamba(2, 3).unwrap();
    assert_eq!(rows.reversed(), rows_back);
    assert_eq!(columns.reversed(), columns_back);
    assert_eq!(columns.positions()[1], 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_order_visits_every_position_once(
        h in 1usize..40, w in 1usize..40, wh in 1usize..9, ww in 1usize..50,
    ) {
        for order in orders(h, w, wh, ww) {
            prop_assert_eq!((order.height(), order.width(), order.len()), (h, w, h * w));
            let again = ScanOrder::new(h, w, order.positions().to_vec()).unwrap();
            prop_assert_eq!(again.steps(), order.steps());
            let back = order.reversed().reversed();
            prop_assert!(back == order && order.mirrored().mirrored() == order);
            prop_assert!(order.transposed().transposed() == order);
            let mut reversed = order.positions().to_vec();
            reversed.reverse();
            let turned = order.reversed();
            prop_assert_eq!(turned.positions(), &reversed);
        }
    }

    #[test]
    fn continuous_orders_go_to_neighbours(h in 1usize..70, w in 1usize..70) {
        prop_assert!(stride(&ScanOrder::snake(h, w).unwrap()) <= 1);
        let hilbert = ScanOrder::hilbert(h, w).unwrap();
        prop_assert!(stride(&hilbert) <= 1);
        let diagonal = |p: &[(i64, i64)]| p[0].0 != p[1].0 && p[0].1 != p[1].1;
        let diagonals = cells(&hilbert).windows(2).filter(|p| diagonal(p)).count();
        prop_assert!(diagonals == 0 || h % 2 == 1 || w % 2 == 1, "{} diagonal steps", diagonals);
        prop_assert_eq!(cells(&hilbert)[0], (0, 0));
    }

    #[test]
    fn local_orders_stay_in_their_window(
        h in 1usize..30, w in 1usize..30, wh in 1usize..9, ww in 1usize..9,
    ) {
        let order = ScanOrder::windows(h, w, wh, ww).unwrap();
        let window = |&(i, j): &(i64, i64)| (i / wh as i64, j / ww as i64);
        let mut windows: Vec<_> = cells(&order).iter().map(window).collect();
        // Each window is entered once, row by row.
        windows.dedup();
        prop_assert_eq!(windows.len(), h.div_ceil(wh) * w.div_ceil(ww));
        prop_assert!(windows.is_sorted());
    }

    /// A Hilbert curve keeps near what is near: far better than rows do.
    #[test]
    fn hilbert_is_local(h in 16usize..48, w in 16usize..48) {
        let reach = |order: &ScanOrder| {
            let cells = cells(order);
            let far = |p: &[(i64, i64)]| {
                let (a, b) = (p[0], p[p.len() - 1]);
                ((a.0 - b.0).abs() + (a.1 - b.1).abs()) as f64
            };
            cells.windows(17).map(far).sum::<f64>() / (cells.len() - 16) as f64
        };
        // 16 steps along a row go 16 far; along the curve about √16.
        prop_assert!(reach(&ScanOrder::hilbert(h, w).unwrap()) < 7.);
        prop_assert!(reach(&ScanOrder::snake(h, w).unwrap()) > 8.);
    }

    /// Values, adjoints, inverses and gradients of the four operations.
    #[test]
    fn scans_and_merges(b in 1usize..3, h in 1usize..9, w in 1usize..9, c in 1usize..20) {
        let all = orders(h, w, 2, 3);
        let (k, l) = (all.len(), h * w);
        let seed = (b + 3 * h + 50 * w + 1000 * c) as u64;
        let (x, each) = (random(&[b, h, w, c], seed), random(&[b, h, w, k, c], seed + 1));
        let y = random(&[b, l, k, c], seed + 2);
        let scanned = cross_scan(&x, &all).unwrap();
        prop_assert_eq!(scanned.dims(), [b, l, k, c]);
        let (xs, got) = (values(&x), values(&scanned));
        for (i, row) in got.chunks(c).enumerate() {
            let (image, t, order) = (i / k / l, i / k % l, i % k);
            let at = image * l + all[order].positions()[t] as usize;
            prop_assert_eq!(row, &xs[at * c..][..c]);
        }
        let merged = cross_merge(&y, &all).unwrap();
        prop_assert!((dot(&scanned, &y) - dot(&x, &merged)).abs() < 1e-10);
        let k_times = cross_merge(&scanned, &all).unwrap();
        prop_assert!(relative(&k_times, &(&x * k as f64).unwrap()) < 1e-14);
        // One order alone is undone exactly.
        for order in &all {
            let one = std::slice::from_ref(order);
            let there = cross_scan(&x, one).unwrap();
            prop_assert_eq!(values(&cross_merge(&there, one).unwrap()), values(&x));
        }
        let there = cross_scan_each(&each, &all).unwrap();
        prop_assert_eq!(values(&cross_merge_each(&there, &all).unwrap()), values(&each));
        let back = cross_merge_each(&y, &all).unwrap();
        prop_assert_eq!(values(&cross_scan_each(&back, &all).unwrap()), values(&y));
        prop_assert!((dot(&there, &y) - dot(&each, &back)).abs() < 1e-10);
        // The operations are linear: the gradient of ⟨op(x), y⟩ is the adjoint's value at y.
        let gradient = |x: &Tensor, y: &Tensor, op: &dyn Fn(&Tensor) -> Result<Tensor>| {
            values(&gradients(std::slice::from_ref(x), |x| (op(&x[0])? * y)?.sum_all())[0])
        };
        prop_assert_eq!(gradient(&x, &y, &|x| cross_scan(x, &all)), values(&merged));
        prop_assert_eq!(gradient(&y, &x, &|y| cross_merge(y, &all)), values(&scanned));
        prop_assert_eq!(gradient(&each, &y, &|x| cross_scan_each(x, &all)), values(&back));
        prop_assert_eq!(gradient(&y, &each, &|y| cross_merge_each(y, &all)), values(&there));
    }
}

/// In VMamba's orders it is the four-direction scan, gradients too.
#[test]
fn ordered_scan_generalises_the_four_directions() {
    for (h, w) in [(5, 6), (1, 1), (1, 7), (7, 1), (12, 9)] {
        let sizes = Sizes { b: 2, h, w, d: 7, r: 2, n: 3 };
        let case = Case::new(sizes, 1);
        let dy = case.weights(2);
        let orders = ScanOrder::vmamba(h, w).unwrap();
        for (dtype, tolerance) in [(DType::F64, 1e-13), (DType::F32, 1e-5)] {
            let t = case.tensors(dtype);
            let run = |t: &[Tensor]| params(&t[2..]).in_orders(&t[0], &t[1], &orders);
            let y = run(&t).unwrap();
            // Rounding: the four outputs are summed in another order.
            assert!(relative(&y, &case.run(DType::F64)) < tolerance, "{h}x{w}");
            let grads = gradients(&t, |t| (run(t)? * dy.to_dtype(dtype)?)?.sum_all());
            for (got, want) in grads.iter().zip(case.gradients(&dy, DType::F64)) {
                assert!(relative(got, &want) < tolerance, "{h}x{w}");
            }
        }
    }
}

/// Five orders that no fixed operation has, against the scan of materialised sequences.
#[test]
fn ordered_scan_takes_any_orders() {
    let (b, h, w, d, r, n) = (2, 5, 4, 3, 2, 3);
    let orders = [
        ScanOrder::hilbert(h, w).unwrap(),
        ScanOrder::diagonals(h, w).unwrap().mirrored(),
        ScanOrder::windows(h, w, 2, 3).unwrap().reversed(),
        ScanOrder::snake(h, w).unwrap(),
        ScanOrder::new(h, w, (0..20).map(|p| p * 7 % 20).collect()).unwrap(),
    ];
    let k = orders.len();
    let dims: [&[usize]; 6] =
        [&[b, h, w, d], &[b, h, w, k, r + 2 * n], &[k, d, r], &[k, d], &[k * d, n], &[k * d]];
    let t: Vec<Tensor> = (5..).zip(dims).map(|(seed, dims)| random(dims, seed)).collect();
    let got = params(&t[2..]).in_orders(&t[0], &t[1], &orders).unwrap();
    let inputs = [0, 1, 2, 3, 4, 5].map(|i| values(&t[i]));
    let steps = |order: &ScanOrder| order.positions().iter().map(|&p| p as usize).collect();
    let orders: Vec<Vec<usize>> = orders.iter().map(steps).collect();
    let want = oracle(&inputs, [b, h * w, d, r, n], &orders);
    assert!(relative(&got, &tensor(&want, got.dims(), DType::F64)) < 1e-13);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let orders = orders(31, 40, 8, 8);
    let x = random(&[1, 31, 40, 24], 1).to_dtype(DType::F32).unwrap();
    same_on_any_threads("cross-scan and cross-merge", || {
        let y = cross_scan(&x, &orders).unwrap();
        (bits(&cross_merge(&y, &orders).unwrap()), bits(&y))
    });
}

#[test]
fn nonsense_is_refused() {
    for (h, w) in [(0, 3), (3, 0), (0, 0)] {
        refused(ScanOrder::rows(h, w), &["at least one position"]);
        refused(ScanOrder::diagonals(h, w), &["at least one position"]);
        refused(ScanOrder::hilbert(h, w), &["at least one position"]);
        refused(ScanOrder::windows(h, w, 2, 2), &["at least one position"]);
    }
    refused(ScanOrder::rows(usize::MAX, 2), &["32 bits"]);
    refused(ScanOrder::columns(1 << 16, 1 << 16), &["32 bits"]);
    refused(ScanOrder::windows(4, 4, 0, 2), &["windows of 0×2"]);
    refused(ScanOrder::new(2, 2, vec![0, 1, 2]), &["2×2", "3 positions, needs 4"]);
    refused(ScanOrder::new(2, 2, vec![0, 1, 2, 4]), &["step 3 visits 4"]);
    refused(ScanOrder::new(2, 2, vec![0, 1, 2, 1]), &["steps 1 and 3 both visit 1"]);

    let x = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    let orders = ScanOrder::vmamba(2, 3).unwrap();
    refused(cross_scan(&x(&[1, 3, 2, 4]), &orders), &["cross_scan", "[1, 3, 2, 4]", "[B, 2, 3"]);
    refused(cross_scan(&x(&[1, 2, 3]), &orders), &["[1, 2, 3]"]);
    refused(cross_scan(&x(&[1, 2, 3, 0]), &orders), &["at least 1"]);
    refused(cross_scan(&x(&[0, 2, 3, 1]), &orders), &["at least 1"]);
    refused(cross_scan(&x(&[1, 2, 3, 1]), &[]), &["orders", "none"]);
    let mixed = [orders[0].clone(), orders[1].transposed()];
    refused(cross_scan(&x(&[1, 2, 3, 1]), &mixed), &["2×3", "3×2", "same map"]);
    let whole = x(&[1, 2, 3, 1]).to_dtype(DType::U32).unwrap();
    refused(cross_scan(&whole, &orders), &["U32"]);
    refused(cross_merge(&x(&[1, 5, 4, 2]), &orders), &["cross_merge", "[B, 6, 4, C]"]);
    refused(cross_scan_each(&x(&[1, 2, 3, 3, 2]), &orders), &["[B, 2, 3, 4, C]"]);
    refused(cross_merge_each(&x(&[1, 6, 3, 2]), &orders), &["cross_merge_each", "[B, 6, 4, C]"]);
}
