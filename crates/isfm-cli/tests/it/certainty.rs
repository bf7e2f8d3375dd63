//! Intervals and tests, against SciPy's and against the plainest way to the same numbers.

use std::path::Path;

use isfm_cli::evaluate::certainty::{Comparison, Intervals, holm, quantile, signed_rank};
use isfm_cli::evaluate::report::{Outcome, PairReport, Report, Scored};
use isfm_metrics::{Metric, Scores};
use serde_json::Value;

use crate::common::json;

fn fixture() -> Value {
    json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/certainty.json"))
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// Methods with these values by one metric, picture by picture; no number is no value, and none at all
/// no result.
fn report(metric: Metric, methods: &[&[Option<f64>]]) -> Report {
    let pairs = (0..methods[0].len()).map(|at| {
        let scored = methods.iter().map(|values| {
            let value = values[at].ok_or_else(|| "no result".to_owned())?;
            let scores = Scores::of((!value.is_nan()).then_some((metric, value)));
            Ok(Scored { scores, picture: String::new() })
        });
        let outcome =
            Outcome { size: (1, 1), sources: Default::default(), methods: scored.collect() };
        PairReport { name: format!("{at:03}"), outcome: Ok(outcome) }
    });
    let names = (0..methods.len()).map(|at| format!("M{at}")).collect();
    Report::new(names, pairs.collect(), vec![metric])
}

fn some(values: &[f64]) -> Vec<Option<f64>> {
    values.iter().copied().map(Some).collect()
}

#[test]
fn signed_ranks_are_scipys() {
    for case in fixture()["tests"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let test = signed_rank(&numbers(&case["differences"]));
        assert_eq!(test.better.min(test.worse), case["least"].as_f64().unwrap(), "{name}");
        let p = case["p"].as_f64().unwrap();
        assert!((test.p - p).abs() <= 1e-12 * p.max(1e-3), "{name}: {} and not {p}", test.p);
    }
}

/// All 2ⁿ signs, one after the other.
#[test]
fn signed_ranks_are_those_of_all_signs() {
    let cases: [&[f64]; 5] = [
        &[],
        &[0., 0.],
        &[3., -1., 2., 2., -2., 0., 0.5, 7.],
        &[-1.; 9],
        &[f64::INFINITY, f64::INFINITY, -1., 2.],
    ];
    for differences in cases {
        let test = signed_rank(differences);
        let sizes: Vec<f64> =
            differences.iter().map(|d| d.abs()).filter(|size| *size > 0.).collect();
        let rank = |size: &f64| {
            let below = sizes.iter().filter(|other| *other < size).count() as f64;
            below + (sizes.iter().filter(|other| *other == size).count() as f64 + 1.) / 2.
        };
        let ranks: Vec<f64> = sizes.iter().map(rank).collect();
        let all: f64 = ranks.iter().sum();
        let least = test.better.min(test.worse);
        assert_eq!(test.better + test.worse, all);
        let as_unlike = (0..1u32 << ranks.len()).filter(|signs| {
            let sum: f64 =
                (0..ranks.len()).filter(|at| signs >> at & 1 == 1).map(|at| ranks[at]).sum();
            sum.min(all - sum) <= least
        });
        let p = as_unlike.count() as f64 / f64::from(1u32 << ranks.len());
        assert!((test.p - p).abs() < 1e-12, "{differences:?}: {} and not {p}", test.p);
    }
}

/// In either way.
#[test]
fn equal_sums_of_ranks_say_nothing() {
    let balanced =
        |n: i32| -> Vec<f64> { (1..=n).flat_map(|at| [f64::from(at), f64::from(-at)]).collect() };
    assert_eq!((signed_rank(&balanced(20)).p, signed_rank(&balanced(40)).p), (1., 1.));
}

#[test]
fn holm_is_statsmodels() {
    let case = &fixture()["holm"];
    let adjusted = holm(&numbers(&case["p"]));
    for (got, want) in adjusted.iter().zip(numbers(&case["adjusted"])) {
        assert!((got - want).abs() < 1e-12, "{got} and not {want}");
    }
    assert!(holm(&[]).is_empty());
}

/// Two bootstraps differ by chance: by few thousandths of the interval's length at these numbers.
#[test]
fn intervals_are_scipys() {
    for case in fixture()["intervals"].as_array().unwrap() {
        let values = some(&numbers(&case["values"]));
        let report = report(Metric::En, &[&values]);
        let level = case["level"].as_f64().unwrap();
        let intervals = Intervals::of(&report, level, 100_000);
        let [low, high] = intervals.bounds[0][0].unwrap();
        let [want_low, want_high] = ["low", "high"].map(|key| case[key].as_f64().unwrap());
        let allowed = 0.01 * (want_high - want_low);
        assert!((low - want_low).abs() < allowed, "{low} and not {want_low}");
        assert!((high - want_high).abs() < allowed, "{high} and not {want_high}");
    }
}

#[test]
fn intervals_are_the_same_in_every_run_and_where_they_can_be() {
    let values: Vec<f64> = (0..30).map(|at| f64::from(at * at % 17)).collect();
    let shifted: Vec<f64> = values.iter().map(|value| value + 100.).collect();
    let mut lacks = some(&values);
    lacks[3] = None;
    let mut small = some(&values);
    small[4] = Some(f64::NAN);
    let mut infinite = some(&values);
    infinite[5] = Some(f64::INFINITY);
    let methods = [&some(&values), &some(&shifted), &lacks, &small, &infinite];
    let report = report(Metric::Psnr, &methods.map(Vec::as_slice));
    let on = |threads| isfm_testing::on_threads(threads, || Intervals::of(&report, 95., 2000));
    let intervals = on(1);
    assert_eq!(intervals, on(4));
    let bounds = |at: usize| intervals.bounds[at][0];
    // The same pictures are drawn for both.
    let ([low, high], [low_shifted, high_shifted]) = (bounds(0).unwrap(), bounds(1).unwrap());
    assert!((low + 100. - low_shifted).abs() < 1e-9 && (high + 100. - high_shifted).abs() < 1e-9);
    let mean = values.iter().sum::<f64>() / 30.;
    assert!(low < mean && mean < high);
    // Of its own 29 pictures.
    let [low, high] = bounds(2).unwrap();
    assert!(low < high && high < 20.);
    assert_eq!(bounds(3), None);
    let [low, high] = bounds(4).unwrap();
    assert!(low.is_finite() && high == f64::INFINITY);

    // One picture says nothing of others, and none nothing at all.
    let one = self::report(Metric::En, &[&[Some(7.)], &[None]]);
    assert_eq!(Intervals::of(&one, 95., 100).bounds, [[None], [None]]);
    // Equal pictures leave no doubt.
    let equal = self::report(Metric::En, &[&[Some(0.5); 4]]);
    assert_eq!(Intervals::of(&equal, 95., 100).bounds, [[Some([0.5, 0.5])]]);
}

#[test]
fn quantiles_of_infinite_values_are_numbers() {
    let (low, high) = (f64::NEG_INFINITY, f64::INFINITY);
    let sorted = [low, low, 1., 2., high, high];
    let got = [0., 0.1, 0.3, 0.4, 0.5, 0.7, 0.9, 1.].map(|part| quantile(&sorted, part));
    assert_eq!(got, [low, low, low, 1., 1.5, high, high, high]);
}

/// Pictures that one of two lacks are left out, smaller may be better, infinite values can be equal.
#[test]
fn comparisons_are_paired() {
    let inf = f64::INFINITY;
    let first = [Some(1.), Some(2.), Some(3.), Some(4.), Some(inf), Some(6.)];
    let lower = [Some(0.5), Some(1.), Some(1.), Some(1.), Some(inf), Some(1.)];
    let holes = [None, Some(2.5), Some(f64::NAN), Some(5.), Some(inf), Some(inf)];
    let nothing = [None; 6];
    for (metric, sign) in [(Metric::Mse, 1.), (Metric::En, -1.)] {
        let report = report(metric, &[&first, &lower, &holes, &nothing]);
        let comparison = Comparison::of(&report, 0);
        let tests: Vec<_> = comparison.tests.iter().map(|tests| tests[0]).collect();
        assert!(tests[0].is_none() && tests[3].is_none());
        let (lower, holes) = (tests[1].unwrap(), tests[2].unwrap());
        assert_eq!((lower.pictures, holes.pictures), (6, 4));
        assert_eq!((lower.better - lower.worse) * sign, 15.);
        assert_eq!((holes.better - holes.worse) * sign, -6.);
        assert_eq!((lower.p, holes.p), (2. / 32., 2. / 8.));
        // Two methods are compared.
        assert_eq!((lower.adjusted, holes.adjusted), (2. * 2. / 32., 2. / 8.));
        // The other way round.
        let back = Comparison::of(&report, 1).tests[0][0].unwrap();
        assert_eq!((back.better, back.worse, back.p), (lower.worse, lower.better, lower.p));
    }
}
