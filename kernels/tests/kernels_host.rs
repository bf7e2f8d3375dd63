//! The kernels compiled as plain C++ by the host's compiler, against plain Rust loops.
//!
//! The compiler is `CXX`, else the first of c++, g++ and clang++ that runs; `CXXFLAGS` is passed
//! on (`-Werror`, `-fsanitize=address,undefined`). Without one the tests say so and pass.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use isfm_kernels::{MAX_THREADS, haar, silu, sources};

/// The kernels as a program of the host, built from the sources that the crate gives out.
struct Host {
    folder: tempfile::TempDir,
    program: PathBuf,
}

#[derive(Clone, Copy)]
struct Launch {
    grid: [u32; 3],
    block: [u32; 3],
}

fn words(s: &str) -> Vec<String> {
    s.split_whitespace().map(String::from).collect()
}

fn compiler() -> Option<Vec<String>> {
    let runs = |command: &Vec<String>| {
        let (program, arguments) = command.split_first()?;
        Command::new(program).args(arguments).arg("--version").output().ok().map(|_| ())
    };
    if let Ok(cxx) = std::env::var("CXX")
        && !cxx.trim().is_empty()
    {
        let command = words(&cxx);
        assert!(runs(&command).is_some(), "CXX={cxx} cannot be run");
        return Some(command);
    }
    ["c++", "g++", "clang++"].map(words).into_iter().find(|c| runs(c).is_some())
}

impl Host {
    fn build() -> Option<Self> {
        let Some(compiler) = compiler() else {
            // Not `eprintln!`, which the test harness hides when a test passes.
            let said = writeln!(
                std::io::stderr(),
                "SKIPPED: no C++ compiler (CXX, c++, g++, clang++), the kernels were not run"
            );
            assert!(said.is_ok());
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("haar.cu", sources::HAAR);
        write("silu.cu", sources::SILU);
        for (name, text) in sources::HEADERS {
            write(name, text);
        }
        let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/driver.cpp");
        let program = folder.path().join(format!("driver{}", std::env::consts::EXE_SUFFIX));
        let out = Command::new(&compiler[0])
            .args(&compiler[1..])
            // No fused multiply-adds that only some processors have: one result everywhere.
            .args(["-std=c++17", "-O1", "-Wall", "-Wextra", "-ffp-contract=off"])
            .args(words(&std::env::var("CXXFLAGS").unwrap_or_default()))
            .arg("-I")
            .arg(folder.path())
            .arg(driver)
            .arg("-o")
            .arg(&program)
            .output()
            .unwrap();
        assert!(out.status.success(), "{compiler:?}: {}", String::from_utf8_lossy(&out.stderr));
        Some(Self { folder, program })
    }

    /// The kernel's outputs, one after another.
    fn run(&self, kernel: &str, at: Launch, arguments: &[usize], inputs: &[&[f32]]) -> Vec<f32> {
        let [input, output] = ["input", "output"].map(|name| self.folder.path().join(name));
        let bytes: Vec<u8> = inputs.concat().iter().flat_map(|x| x.to_ne_bytes()).collect();
        std::fs::write(&input, bytes).unwrap();
        let out = Command::new(&self.program)
            .args([&input, &output])
            .arg(kernel)
            .args(at.grid.iter().chain(&at.block).map(u32::to_string))
            .args(arguments.iter().map(usize::to_string))
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{kernel} {arguments:?}: {errors}");
        let bytes = std::fs::read(&output).unwrap();
        bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
    }
}

/// Numbers in (-range, range), the same every time.
fn numbers(n: usize, seed: u32, range: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        // xorshift32
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32
    };
    (0..n).map(|_| (2. * next() - 1.) * range).collect()
}

fn close(got: f32, want: f64, error: f64, what: &str) {
    assert!((f64::from(got) - want).abs() <= error, "{what}: {got}, should be {want}");
}

#[derive(Clone, Copy, Debug)]
struct Map {
    batch: usize,
    height: usize,
    width: usize,
    channels: usize,
}

impl Map {
    fn arguments(self) -> [usize; 4] {
        [self.batch, self.height, self.width, self.channels]
    }
    fn len(self) -> usize {
        self.batch * self.height * self.width * self.channels
    }
    fn at(self, b: usize, y: usize, x: usize, c: usize) -> usize {
        ((b * self.height + y) * self.width + x) * self.channels + c
    }
    fn half(self, channels: usize) -> Self {
        Self { height: self.height / 2, width: self.width / 2, channels, ..self }
    }
    /// Where a 2×2 block's pixels and its four bands' values lie in `x` and `[approx | details]`,
    /// for every block and channel.
    fn blocks(self) -> Vec<([usize; 4], [usize; 4])> {
        let (low, high) = (self.half(self.channels), self.half(3 * self.channels));
        let mut all = Vec::new();
        for b in 0..self.batch {
            for i in 0..low.height {
                for j in 0..low.width {
                    for c in 0..self.channels {
                        let pixels = [(0, 0), (0, 1), (1, 0), (1, 1)];
                        let band = |k: usize| low.len() + high.at(b, i, j, k * self.channels + c);
                        all.push((
                            pixels.map(|(y, x)| self.at(b, 2 * i + y, 2 * j + x, c)),
                            [low.at(b, i, j, c), band(0), band(1), band(2)],
                        ));
                    }
                }
            }
        }
        all
    }
}

const SIGNS: [[f64; 4]; 4] =
    [[1., 1., 1., 1.], [1., 1., -1., -1.], [1., -1., 1., -1.], [1., -1., -1., 1.]];

/// The forward transform and its transpose in f64, each value with the sum of magnitudes that
/// went into it.
fn haar_oracle(map: Map, x: &[f32]) -> Vec<(f64, f64)> {
    let mut bands = vec![(0., 0.); map.half(4 * map.channels).len()];
    for (pixels, places) in map.blocks() {
        for (signs, place) in SIGNS.iter().zip(places) {
            for (sign, &p) in signs.iter().zip(&pixels) {
                bands[place].0 += 0.5 * sign * f64::from(x[p]);
                bands[place].1 += 0.5 * f64::from(x[p].abs());
            }
        }
    }
    bands
}

fn haar_transpose_oracle(map: Map, bands: &[f32]) -> Vec<(f64, f64)> {
    let mut x = vec![(0., 0.); map.len()];
    for (pixels, places) in map.blocks() {
        for (signs, &place) in SIGNS.iter().zip(&places) {
            for (sign, &p) in signs.iter().zip(&pixels) {
                x[p].0 += 0.5 * sign * f64::from(bands[place]);
                x[p].1 += 0.5 * f64::from(bands[place].abs());
            }
        }
    }
    x
}

fn check_haar(host: &Host, map: Map, at: Launch) {
    let x = numbers(map.len(), 1, 3.);
    let bands = host.run(haar::FORWARD, at, &map.arguments(), &[&x]);
    let want = haar_oracle(map, &x);
    assert_eq!(bands.len(), want.len(), "{map:?}");
    for (&got, (want, size)) in bands.iter().zip(want) {
        // Two roundings of half an ulp (6e-8) each; halving is exact.
        close(got, want, 1.2e-7 * size, &format!("forward {map:?}"));
    }

    let bands = numbers(bands.len(), 2, 3.);
    let x = host.run(haar::INVERSE, at, &map.arguments(), &[&bands]);
    let want = haar_transpose_oracle(map, &bands);
    assert_eq!(x.len(), want.len(), "{map:?}");
    for (&got, (want, size)) in x.iter().zip(want) {
        close(got, want, 1.2e-7 * size, &format!("inverse {map:?}"));
    }
}

#[test]
fn haar_agrees_with_plain_loops() {
    let Some(host) = Host::build() else { return };
    let one = Launch { grid: [1; 3], block: [1; 3] };
    let even = Launch { grid: [2, 2, 2], block: [4, 2, 1] };
    let odd = Launch { grid: [1, 3, 2], block: [3, 1, 2] };
    let wide = Launch { grid: [3, 2, 5], block: [32, 8, 1] };
    assert!(wide.block.iter().product::<u32>() <= MAX_THREADS);

    // The sub-bands' order and signs on numbers that can be checked by eye.
    let map = Map { batch: 1, height: 2, width: 2, channels: 1 };
    let bands = host.run(haar::FORWARD, one, &map.arguments(), &[&[1., 2., 3., 4.]]);
    assert_eq!(bands, [5., -2., -1., 0.]);
    assert_eq!(host.run(haar::INVERSE, one, &map.arguments(), &[&bands]), [1., 2., 3., 4.]);

    for (batch, height, width, channels) in [
        (1, 1, 1, 1),
        (1, 1, 4, 2),
        (2, 5, 1, 3),
        (1, 2, 3, 1),
        (2, 3, 5, 3),
        (2, 4, 6, 5),
        (3, 7, 2, 33),
        (1, 6, 9, 1),
        (2, 5, 7, 16),
        (0, 4, 4, 3),
        (2, 0, 4, 3),
        (2, 4, 0, 3),
        (2, 4, 4, 0),
    ] {
        let map = Map { batch, height, width, channels };
        for at in [one, even, odd, wide] {
            check_haar(&host, map, at);
        }
    }

    // There and back again: the bands are read where they were written.
    let map = Map { batch: 2, height: 6, width: 10, channels: 7 };
    let x = numbers(map.len(), 3, 1.);
    let bands = host.run(haar::FORWARD, even, &map.arguments(), &[&x]);
    let back = host.run(haar::INVERSE, odd, &map.arguments(), &[&bands]);
    for (&got, &want) in back.iter().zip(&x) {
        // Four roundings of half an ulp of numbers up to 4.
        close(got, f64::from(want), 1e-6, "there and back");
    }

    // A NaN stays in its block and channel.
    let map = Map { batch: 1, height: 4, width: 4, channels: 3 };
    let mut x = numbers(map.len(), 4, 1.);
    x[map.at(0, 1, 2, 1)] = f32::NAN;
    let bands = host.run(haar::FORWARD, wide, &map.arguments(), &[&x]);
    assert_eq!(bands.iter().filter(|v| v.is_nan()).count(), 4);
    let back = host.run(haar::INVERSE, wide, &map.arguments(), &[&bands]);
    assert_eq!(back.iter().filter(|v| v.is_nan()).count(), 4);
}

fn silu_f64(x: f64) -> f64 {
    x / (1. + (-x).exp())
}

/// By central differences, so that it owes nothing to the formula under test; error below 1e-9.
fn silu_slope(x: f64) -> f64 {
    let h = 1e-5;
    (silu_f64(x + h) - silu_f64(x - h)) / (2. * h)
}

#[test]
fn silu_and_gate_agree_with_plain_loops() {
    let Some(host) = Host::build() else { return };
    // 2e-7 for expf, half an ulp each for the sum, the quotient and the product(s); and what lies
    // below f32's normal numbers.
    let value = |want: f64| 6e-7 * want.abs() + 3e-37;
    // 1 - sigmoid loses up to half an ulp of 1 (3e-8), which |x| up to 17 multiplies.
    let slope = |factor: f64| 1e-6 * factor.abs();

    for n in [0usize, 1, 2, 31, 257, 1000] {
        for at in [
            Launch { grid: [1, 1, 1], block: [1, 1, 1] },
            Launch { grid: [3, 1, 1], block: [32, 1, 1] },
            Launch { grid: [5, 1, 1], block: [MAX_THREADS, 1, 1] },
        ] {
            let mut z = numbers(n, 5, 8.);
            for (z, extreme) in z.iter_mut().zip([0., -0., 30., -30., 17., -95., 1e30, -1e30]) {
                *z = extreme;
            }
            let (x, dy) = (numbers(n, 6, 2.), numbers(n, 7, 2.));
            let wide = |v: &[f32]| v.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
            let (xs, zs, dys) = (wide(&x), wide(&z), wide(&dy));

            let y = host.run(silu::FORWARD, at, &[n], &[&z]);
            let dx = host.run(silu::BACKWARD, at, &[n], &[&z, &dy]);
            let gated = host.run(silu::GATE_FORWARD, at, &[n], &[&x, &z]);
            let both = host.run(silu::GATE_BACKWARD, at, &[n], &[&x, &z, &dy]);
            assert_eq!([y.len(), dx.len(), gated.len(), both.len()], [n, n, n, 2 * n]);
            let (gate_dx, gate_dz) = both.split_at(n);
            for i in 0..n {
                let (x, z, dy) = (xs[i], zs[i], dys[i]);
                let (silu, change) = (silu_f64(z), if z.abs() > 1e6 { 0. } else { silu_slope(z) });
                let change = if z > 1e6 { 1. } else { change };
                close(y[i], silu, value(silu), &format!("silu({z})"));
                close(dx[i], dy * change, slope(dy), &format!("silu'({z})"));
                close(gated[i], x * silu, value(x * silu), &format!("{x} * silu({z})"));
                close(gate_dx[i], dy * silu, value(dy * silu), &format!("gate dx at {z}"));
                close(gate_dz[i], dy * x * change, slope(dy * x), &format!("gate dz at {x} {z}"));
            }
        }
    }

    let at = Launch { grid: [1; 3], block: [4, 1, 1] };
    let special = [f32::NAN, f32::INFINITY];
    let y = host.run(silu::FORWARD, at, &[2], &[&special]);
    assert!(y[0].is_nan() && y[1] == f32::INFINITY, "{y:?}");
    assert!(host.run(silu::BACKWARD, at, &[1], &[&[f32::NAN], &[1.]])[0].is_nan());
}
