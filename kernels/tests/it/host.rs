//! The kernels compiled as plain C++ by the host's compiler, and what their results are compared
//! with.
//!
//! The compiler is `CXX`, else the first of c++, g++ and clang++ that runs; `CXXFLAGS` is passed
//! on. Without one the tests say so and pass.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor};
use isfm_kernels::{Arg, Element, Launch, Limit, Module, Need, Plan, Type};
use isfm_testing::{Numbers, gradients, tensor, values};

pub const TYPES: [Type; 3] = [Type::F32, Type::F16, Type::Bf16];

/// What a plan says, to be altered.
#[derive(Clone, Debug)]
pub struct Work {
    pub inputs: Vec<Need>,
    pub outputs: Vec<Need>,
    pub scratch: Vec<Need>,
    pub launches: Vec<Launch>,
}

/// The plan, which must not be refused.
pub fn plan(made: Result<Plan, Limit>) -> Work {
    let plan = made.unwrap();
    let needs = [plan.inputs(), plan.outputs(), plan.scratch()];
    let [inputs, outputs, scratch] = needs.map(<[Need]>::to_vec);
    Work { inputs, outputs, scratch, launches: plan.launches().to_vec() }
}

/// The kernels as a program of the host.
pub struct Host {
    folder: tempfile::TempDir,
    program: PathBuf,
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

/// The program, built once; `None` without a compiler.
pub fn host() -> Option<&'static Host> {
    static HOST: OnceLock<Option<Host>> = OnceLock::new();
    HOST.get_or_init(Host::build).as_ref()
}

impl Host {
    fn build() -> Option<Self> {
        let Some(compiler) = compiler().filter(|_| cfg!(unix)) else {
            // Not `eprintln!`, which the test harness hides when a test passes.
            let said = writeln!(
                std::io::stderr(),
                "SKIPPED: no C++ compiler (CXX, c++, g++, clang++), the kernels were not run"
            );
            assert!(said.is_ok());
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let [host, sources] =
            ["tests/host", "src"].map(|p| Path::new(env!("CARGO_MANIFEST_DIR")).join(p));
        let program = folder.path().join("driver");
        let out = Command::new(&compiler[0])
            .args(&compiler[1..])
            // No fused multiply-adds that only some processors have: one result everywhere.
            .args(["-std=c++17", "-O1", "-Wall", "-Wextra", "-ffp-contract=off"])
            // Kernels read eight halves as one vector, as a device allows.
            .arg("-fno-strict-aliasing")
            .args(words(&std::env::var("CXXFLAGS").unwrap_or_default()))
            .args([&host, &sources].map(|folder| format!("-I{}", folder.display())))
            .args(Module::ALL.iter().map(|m| format!("-include{}.cu", m.name())))
            .arg(host.join("driver.cpp"))
            .arg("-o")
            .arg(&program)
            .output()
            .unwrap();
        assert!(out.status.success(), "{compiler:?}: {}", String::from_utf8_lossy(&out.stderr));
        Some(Self { folder, program })
    }

    /// The plan's outputs. Threads run in ascending, then in descending order: without a missing
    /// barrier both give the same.
    pub fn run(&self, plan: &Work, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let [up, down] = [false, true].map(|descending| self.run_once(plan, inputs, descending));
        assert!(up == down, "the order of the threads changes the result");
        let mut at = 0;
        plan.outputs
            .iter()
            .map(|&Need { element, len, .. }| {
                let bytes = &up[at..at + len * element.size()];
                at += bytes.len();
                decode(element, bytes)
            })
            .collect()
    }

    /// The first output of a plan, which must not be refused.
    pub fn first(&self, made: Result<Plan, Limit>, inputs: &[&[f64]]) -> Vec<f64> {
        self.run(&plan(made), inputs).remove(0)
    }

    fn run_once(&self, plan: &Work, inputs: &[&[f64]], descending: bool) -> Vec<u8> {
        assert_eq!(inputs.len(), plan.inputs.len());
        let mut request = Request::default();
        request.number(descending.into());
        request.number((plan.inputs.len() + plan.outputs.len() + plan.scratch.len()) as u32);
        for (&need, input) in plan.inputs.iter().zip(inputs) {
            assert_eq!(need.len, input.len(), "an input's size");
            request.buffer(0, need);
            request.0.extend(encode(need.element, input));
        }
        plan.outputs.iter().for_each(|&need| request.buffer(1, need));
        plan.scratch.iter().for_each(|&need| request.buffer(2, need));
        request.number(plan.launches.len() as u32);
        for launch in &plan.launches {
            request.bytes(launch.kernel.as_bytes());
            request.number(launch.grid);
            request.number(launch.block);
            request.number(launch.args.len() as u32);
            launch.args.iter().for_each(|arg| request.argument(plan, arg));
        }
        // Tests run side by side.
        let thread = format!("{:?}", std::thread::current().id());
        let [from, to] =
            ["request", "result"].map(|n| self.folder.path().join(n.to_owned() + &thread));
        std::fs::write(&from, request.0).unwrap();
        let out = Command::new(&self.program).args([&from, &to]).output().unwrap();
        let errors = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{:?}: {errors} {plan:?}", out.status);
        std::fs::read(&to).unwrap()
    }
}

#[derive(Default)]
struct Request(Vec<u8>);

impl Request {
    fn number(&mut self, n: u32) {
        self.0.extend(n.to_ne_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u32);
        self.0.extend(bytes);
    }

    fn buffer(&mut self, kind: u32, Need { element, len, .. }: Need) {
        self.number(kind);
        self.0.extend(((len * element.size()) as u64).to_ne_bytes());
    }

    fn argument(&mut self, plan: &Work, arg: &Arg) {
        let (inputs, outputs) = (plan.inputs.len(), plan.outputs.len());
        let (buffer, at, Need { element, len, .. }) = match *arg {
            Arg::Input(i, at) => (i, at, plan.inputs[i]),
            Arg::Output(i, at) => (inputs + i, at, plan.outputs[i]),
            Arg::Scratch(i, at) => (inputs + outputs + i, at, plan.scratch[i]),
            Arg::Null => return self.number(0),
            Arg::U32(n) => return self.value(&n.to_ne_bytes()),
            Arg::F32(x) => return self.value(&x.to_ne_bytes()),
            Arg::Scan(s) => return self.value(&s.words().map(u32::to_ne_bytes).concat()),
            Arg::Conv(s) => return self.value(&s.words().map(u32::to_ne_bytes).concat()),
        };
        assert!(at <= len, "a place outside its buffer: {arg:?}");
        self.number(1);
        self.number(buffer as u32);
        self.0.extend(((at * element.size()) as u64).to_ne_bytes());
    }

    fn value(&mut self, bytes: &[u8]) {
        self.number(2);
        self.bytes(bytes);
    }
}

fn encode(element: Element, values: &[f64]) -> Vec<u8> {
    let each = |x: &f64| match element {
        Element::Float(Type::F32) => (*x as f32).to_ne_bytes().to_vec(),
        Element::Float(Type::F16) => half::f16::from_f64(*x).to_ne_bytes().to_vec(),
        Element::Float(Type::Bf16) => half::bf16::from_f64(*x).to_ne_bytes().to_vec(),
        Element::U32 => (*x as u32).to_ne_bytes().to_vec(),
    };
    values.iter().flat_map(each).collect()
}

fn decode(element: Element, bytes: &[u8]) -> Vec<f64> {
    let four = |b: &[u8]| [b[0], b[1], b[2], b[3]];
    bytes
        .chunks_exact(element.size())
        .map(|b| match element {
            Element::Float(Type::F32) => f32::from_ne_bytes(four(b)).into(),
            Element::Float(Type::F16) => half::f16::from_ne_bytes([b[0], b[1]]).to_f64(),
            Element::Float(Type::Bf16) => half::bf16::from_ne_bytes([b[0], b[1]]).to_f64(),
            Element::U32 => u32::from_ne_bytes(four(b)).into(),
        })
        .collect()
}

/// Numbers in [low, high) as `t` holds them, the same every time.
pub fn numbers(t: Type, n: usize, seed: u64, low: f64, high: f64) -> Vec<f64> {
    Numbers(seed).vec(n, low, high).into_iter().map(|x| round(t, x)).collect()
}

/// To the nearest number of type `t`.
pub fn round(t: Type, x: f64) -> f64 {
    decode(t.into(), &encode(t.into(), &[x]))[0]
}

/// Every result within `relative` of the largest (what sums in f32 may lose), and half a unit of
/// its own last place, which writing it as `t` loses.
pub fn close(t: Type, got: &[f64], want: &[f64], relative: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: how many results");
    let unit = match t {
        Type::F32 => 6e-8,
        Type::F16 => 4.9e-4,
        Type::Bf16 => 3.95e-3,
    };
    // Below the normal numbers of f16 units are as large as its smallest.
    let smallest = if t == Type::F16 { 3e-8 } else { 1e-37 };
    let largest = want.iter().filter(|w| w.is_finite()).fold(0f64, |m, w| m.max(w.abs()));
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let near = (got - want).abs() <= unit * want.abs() + relative * largest + smallest;
        let same = got == want || got.is_nan() && want.is_nan();
        assert!(near || same, "{what}, {t:?}, result {i}: {got}, should be {want}");
    }
}

/// `f` of the inputs in f64 on the CPU, and, given the gradient of the result, its inputs'.
pub fn oracle(
    inputs: &[(&[f64], &[usize])],
    grad: &[f64],
    f: impl Fn(&[Tensor]) -> candle_core::Result<Tensor>,
) -> (Vec<f64>, Vec<Vec<f64>>) {
    let tensor = |(data, shape): &(&[f64], &[usize])| tensor(data, shape, DType::F64);
    let inputs: Vec<Tensor> = inputs.iter().map(tensor).collect();
    let grad = Tensor::new(grad, &Device::Cpu).unwrap();
    // The product with a constant hands its gradient on unchanged, whatever the result is.
    let grads = gradients(&inputs, |v| (f(v)?.flatten_all()? * &grad)?.sum_all());
    (values(&f(&inputs).unwrap()), grads.iter().map(values).collect())
}
