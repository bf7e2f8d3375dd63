//! The network against the authors' program: every stage, the losses and all gradients.
//!
//! Agreement is asked in ‖difference‖/‖reference‖: an independent f32 implementation reaches 1e-7
//! on stages and 5e-6 on gradients, and f32 itself differs from f64 by 5e-7 and 1.3e-6 on
//! `strong_c32`; looser bounds let a scan with B and C swapped pass.

use std::path::PathBuf;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use isfm_losses::{FusionLoss, LossWeights, clamp_unit, fusion_loss};
use isfm_model::{Checkpoint, Config, Network, Weights};
use isfm_testing::{Golden, golden, relative, same_bits};

const STAGE: f64 = 2e-6;
const LOSS: f64 = 1e-6;
const GRADIENT: f64 = 1e-5;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

struct Case {
    checkpoint: Checkpoint,
    numbers: Golden,
}

fn case(name: &str) -> Case {
    let config = Config::read(fixture(&format!("{name}.json"))).unwrap();
    let weights = fixture(&format!("{name}.weights.safetensors"));
    let checkpoint = Checkpoint::read(weights, Some(&config), &Device::Cpu).unwrap();
    Case { checkpoint, numbers: golden!(format!("{name}.case.safetensors")) }
}

/// B×C×H×W from B×H×W×C.
fn channels_first(x: &Tensor) -> Tensor {
    x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()
}

fn check_gradient(name: &str, gradients: &GradStore, variable: &Tensor, want: &Tensor) {
    let got = gradients.get(variable).unwrap_or_else(|| panic!("{name} has no gradient"));
    let d = relative(got, want);
    assert!(d <= GRADIENT, "gradient of {name}: {d:.2e}, needs {GRADIENT:.0e}");
}

impl Case {
    fn agree(&self, name: &str, got: &Tensor, bound: f64) {
        let d = relative(got, &self.numbers[name].reshape(got.dims()).unwrap());
        assert!(d <= bound, "{name}: {d:.2e}, needs {bound:.0e}");
    }

    fn check_stages(&self) {
        let Checkpoint { config, weights, .. } = &self.checkpoint;
        let network = Network::from_weights(config, weights).unwrap();
        let (visible, infrared) = (&self.numbers["in.vi_y"], &self.numbers["in.ir"]);
        let stages = network.forward_stages(visible, infrared).unwrap();
        self.agree("out.conv1_before", &channels_first(&stages.visible.shallow), STAGE);
        self.agree("out.conv2_before", &channels_first(&stages.infrared.shallow), STAGE);
        self.agree("out.BMM_layers1.1", &stages.visible.deep, STAGE);
        self.agree("out.BMM_layers2.1", &stages.infrared.deep, STAGE);
        for (k, mff) in stages.frequency.iter().enumerate() {
            let name = |part: &str| format!("out.MFF_layers.{k}.{part}");
            self.agree(&name("fused"), &channels_first(mff.fused.as_ref().unwrap()), STAGE);
            self.agree(&name("low"), &channels_first(&mff.bands.low), STAGE);
            self.agree(&name("high"), &channels_first(&mff.high_mean().unwrap()), STAGE);
        }
        for (k, isf) in stages.interactive.iter().enumerate() {
            self.agree(&format!("out.ISF_layers.{k}"), isf, STAGE);
        }
        self.agree("out.fused", &stages.fused, STAGE);
        let alone = network.forward(visible, infrared).unwrap();
        assert!(same_bits(&alone, &stages.fused));
    }

    fn loss(&self, weights: &Weights) -> FusionLoss {
        let network = Network::from_weights(&self.checkpoint.config, weights).unwrap();
        let (visible, infrared) = (&self.numbers["in.vi_y"], &self.numbers["in.ir"]);
        let fused = clamp_unit(&network.forward(visible, infrared).unwrap()).unwrap();
        fusion_loss(&fused, visible, infrared, &LossWeights::default()).unwrap()
    }

    fn check_gradients(&self) {
        let weights = &self.checkpoint.weights;
        let variable = |t| Var::from_tensor(t).unwrap().into_inner();
        let variables: Weights = weights.iter().map(|(k, t)| (k.clone(), variable(t))).collect();
        let loss = self.loss(&variables);
        self.agree("loss.pixel_loss", &loss.content, LOSS);
        self.agree("loss.max_pixel_loss", &loss.intensity, LOSS);
        self.agree("loss.grad_loss", &loss.gradient, LOSS);
        self.agree("loss.ssim_loss", &loss.ssim, LOSS);
        self.agree("loss.loss", &loss.total, LOSS);
        let gradients = loss.total.backward().unwrap();
        let mut compared = 0;
        for (name, want) in self.numbers.under("grad.") {
            let Some(variable) = variables.get(name) else { continue };
            check_gradient(name, &gradients, variable, want);
            compared += 1;
        }
        assert_eq!(compared, variables.len(), "every parameter's gradient is compared");
    }

    /// Without gradients layers take other ways; which they take must not depend on one tensor alone.
    fn check_gradients_alone(&self) {
        for (name, value) in &self.checkpoint.weights {
            let mut weights = self.checkpoint.weights.clone();
            weights.insert(name.clone(), Var::from_tensor(value).unwrap().into_inner());
            let gradients = self.loss(&weights).total.backward().unwrap();
            let want = &self.numbers[&format!("grad.{name}")];
            check_gradient(&format!("{name} alone"), &gradients, &weights[name], want);
        }
    }
}

#[test]
fn strong_c32() {
    let case = case("strong_c32");
    case.check_stages();
    case.check_gradients();
}

#[test]
fn tiny_k4() {
    let case = case("tiny_k4");
    case.check_stages();
    case.check_gradients();
}

#[test]
fn a_parameter_trained_alone_has_its_gradient() {
    case("tiny_k4").check_gradients_alone();
}

#[test]
fn tiny_odd() {
    case("tiny_odd").check_stages();
}

#[test]
fn tiny_depth2() {
    case("tiny_depth2").check_stages();
}

#[test]
fn tiny_pth_reads_as_its_safetensors() {
    let case = case("tiny_pth");
    case.check_stages();
    let pth = Checkpoint::read(fixture("tiny_pth.pth"), None, &Device::Cpu).unwrap();
    assert_eq!(pth.config, case.checkpoint.config, "inferred from the shapes");
    assert!(pth.weights.keys().eq(case.checkpoint.weights.keys()));
    for (name, tensor) in &pth.weights {
        assert!(same_bits(tensor, &case.checkpoint.weights[name]), "{name}");
    }
}
