use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use candle_nn::Optimizer;
use isfm_ops::{AdamStep, adam_step, magnitudes};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The learning rate until one is set: PyTorch's.
const RATE: f64 = 1e-3;

/// Adam's constants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamConfig {
    /// Decay of the mean gradient.
    pub beta1: f64,
    /// Decay of the mean squared gradient.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
}

impl Default for AdamConfig {
    /// The authors' (and PyTorch's) values.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8 }
    }
}

/// One parameter's state: running means of its gradient and of the gradient's square.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    /// The running mean of the gradient.
    pub mean: Vec<f32>,
    /// The running mean of the gradient's square.
    pub square: Vec<f32>,
}

/// What a call of [`Adam::update`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// The parameters were updated.
    Done,
    /// They were too, but by what the state remembers alone: every gradient is exactly 0.
    Unguided,
    /// Nothing was changed: this parameter's gradient is not finite.
    NonFinite(String),
}

/// Adam in PyTorch's formula, whose state can be stored and restored; without weight decay and
/// clipping unless given ([`Adam::with_weight_decay`], [`Adam::with_clip`]).
///
/// Parameters are `F32` and on one device, on which they and the state stay: on a GPU a step brings two
/// numbers for each 4096 gradients to the host.
///
/// As a [`candle_nn::Optimizer`] it names its parameters by their places, "0", "1" and so on.
#[derive(Clone, Debug)]
pub struct Adam {
    config: AdamConfig,
    rate: f64,
    step: usize,
    vars: BTreeMap<String, Var>,
    /// Of each parameter 2×N: both running means.
    moments: BTreeMap<String, Tensor>,
    weight_decay: f64,
    clip: Option<f64>,
    norm: Option<f64>,
}

impl Adam {
    /// A fresh optimiser for these parameters.
    ///
    /// # Errors
    /// If the device has no memory for its state.
    pub fn named(vars: BTreeMap<String, Var>, config: AdamConfig) -> Result<Self> {
        let zeros = |(name, var): (&String, &Var)| {
            let zeros = Tensor::zeros((2, var.elem_count()), DType::F32, var.device())?;
            Ok((name.clone(), zeros))
        };
        let moments = vars.iter().map(zeros).collect::<Result<_>>()?;
        Ok(Self::assemble(vars, config, 0, moments))
    }

    /// An optimiser that goes on after `step` steps with stored state.
    ///
    /// # Errors
    /// [`Error::Optimiser`] if parameters and state differ in names or sizes.
    pub fn restore(
        vars: BTreeMap<String, Var>,
        config: AdamConfig,
        step: usize,
        moments: BTreeMap<String, Moments>,
    ) -> Result<Self> {
        if !vars.keys().eq(moments.keys()) {
            return Err(Error::Optimiser("parameters and state have different names".into()));
        }
        let both = |((name, Moments { mean, square }), var): ((String, Moments), &Var)| {
            let n = var.elem_count();
            if [mean.len(), square.len()] != [n; 2] {
                return Err(Error::Optimiser(format!("{name} and its state differ in size")));
            }
            Ok((name, Tensor::from_vec([mean, square].concat(), (2, n), var.device())?))
        };
        let moments = moments.into_iter().zip(vars.values()).map(both).collect::<Result<_>>()?;
        Ok(Self::assemble(vars, config, step, moments))
    }

    fn assemble(
        vars: BTreeMap<String, Var>,
        config: AdamConfig,
        step: usize,
        moments: BTreeMap<String, Tensor>,
    ) -> Self {
        let (weight_decay, clip, norm) = (0., None, None);
        Self { config, rate: RATE, step, vars, moments, weight_decay, clip, norm }
    }

    /// With decoupled weight decay (AdamW): at each step, parameters of two or more dimensions
    /// that have a gradient shrink by the learning rate times `decay` before they are updated.
    /// Biases, norms and other vectors do not.
    #[must_use]
    pub fn with_weight_decay(mut self, decay: f64) -> Self {
        self.weight_decay = decay;
        self
    }

    /// With gradients scaled down so that the root of the sum of all their squares is at most
    /// `clip`, as PyTorch's `clip_grad_norm_` does.
    #[must_use]
    pub fn with_clip(mut self, clip: Option<f64>) -> Self {
        self.clip = clip;
        self
    }

    /// The norm of the last update's gradients before they were clipped; none without clipping.
    pub fn norm(&self) -> Option<f64> {
        self.norm
    }

    /// Steps taken.
    pub fn steps(&self) -> usize {
        self.step
    }

    /// The parameters by name.
    pub fn vars(&self) -> &BTreeMap<String, Var> {
        &self.vars
    }

    /// The state by parameter name.
    ///
    /// # Errors
    /// If it cannot be brought from a GPU.
    pub fn moments(&self) -> Result<BTreeMap<String, Moments>> {
        let moments = fetch(self.moments.values())?.into_iter().map(|mut mean| {
            let square = mean.split_off(mean.len() / 2);
            Moments { mean, square }
        });
        Ok(self.moments.keys().cloned().zip(moments).collect())
    }

    /// Updates every parameter that has a gradient; one without (an unused parameter) keeps its
    /// value and state. Nothing is changed when a gradient is not finite, or its square is beyond `f32`.
    ///
    /// # Errors
    /// If no parameter has a gradient, or a gradient has another shape than its parameter.
    pub fn update(&mut self, grads: &GradStore) -> Result<Update> {
        let guided = self.vars.iter().zip(self.moments.values_mut());
        let guided =
            guided.filter_map(|((name, var), moments)| Some((name, var, grads.get(var)?, moments)));
        let guided: Vec<_> = guided.collect();
        if guided.is_empty() {
            return Err(Error::Optimiser("no parameter has a gradient".into()));
        }
        let mut sizes = Vec::with_capacity(guided.len());
        for (name, var, gradient, _) in &guided {
            if gradient.dims() != var.dims() {
                let (of, to) = (gradient.dims(), var.dims());
                return Err(Error::Optimiser(format!("{name} is {to:?}, its gradient {of:?}")));
            }
            sizes.push(magnitudes(gradient)?);
        }
        // Added up in the order of their places, so that the norm does not depend on the threads.
        let (mut squares, mut unguided) = (0., true);
        for ((name, ..), parts) in guided.iter().zip(fetch(&sizes)?) {
            let sums = parts.iter().step_by(2).map(|&sum| f64::from(sum));
            let sum: f64 = sums.sum();
            if !sum.is_finite() {
                return Ok(Update::NonFinite((*name).clone()));
            }
            squares += sum;
            unguided &= parts.iter().all(|&magnitude| magnitude == 0.);
        }
        let mut gain = 1.;
        if let Some(clip) = self.clip {
            let norm = f64::sqrt(squares);
            gain = (clip / (norm + 1e-6)).min(1.);
            self.norm = Some(norm);
        }

        let step = i32::try_from(self.step + 1).unwrap_or(i32::MAX);
        let AdamConfig { beta1, beta2, eps } = self.config;
        let decayed = (1. - self.rate * self.weight_decay) as f32;
        let step = AdamStep {
            gain: gain as f32,
            mean_rest: (1. - beta1) as f32,
            square_keep: beta2 as f32,
            square_rest: (1. - beta2) as f32,
            keep: 1.,
            rate: (self.rate / (1. - beta1.powi(step))) as f32,
            root: (1. - beta2.powi(step)).sqrt() as f32,
            eps: eps as f32,
        };
        // All before the first is changed.
        let next = guided.into_iter().map(|(_, var, gradient, moments)| {
            let step = AdamStep { keep: if var.rank() > 1 { decayed } else { 1. }, ..step };
            Ok((var, adam_step(var, gradient, moments, step)?, moments))
        });
        for (var, next, moments) in next.collect::<Result<Vec<_>>>()? {
            var.set(&next.get(0)?.reshape(var.shape())?)?;
            *moments = next.narrow(0, 1, 2)?;
        }
        self.step += 1;
        Ok(if unguided { Update::Unguided } else { Update::Done })
    }
}

impl Optimizer for Adam {
    type Config = AdamConfig;

    fn new(vars: Vec<Var>, config: AdamConfig) -> candle_core::Result<Self> {
        let named = vars.into_iter().enumerate().map(|(at, var)| (at.to_string(), var));
        Self::named(named.collect(), config).map_err(candle_error)
    }

    fn step(&mut self, grads: &GradStore) -> candle_core::Result<()> {
        match self.update(grads) {
            Ok(Update::Done | Update::Unguided) => Ok(()),
            Ok(Update::NonFinite(name)) => {
                candle_core::bail!("the gradient of parameter {name} is not finite")
            }
            Err(error) => Err(candle_error(error)),
        }
    }

    fn learning_rate(&self) -> f64 {
        self.rate
    }

    fn set_learning_rate(&mut self, rate: f64) {
        self.rate = rate;
    }
}

fn candle_error(error: Error) -> candle_core::Error {
    match error {
        Error::Candle(error) => error,
        error => candle_core::Error::wrap(error),
    }
}

/// The elements of each of some `F32` tensors on one device. From a GPU all come in one transfer: hundreds
/// of small ones would take longer than the step.
pub(crate) fn fetch<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<Vec<Vec<f32>>> {
    let flat = tensors.into_iter().map(Tensor::flatten_all);
    let flat = flat.collect::<candle_core::Result<Vec<_>>>()?;
    if flat.iter().all(|tensor| tensor.device().is_cpu()) {
        return Ok(flat.iter().map(Tensor::to_vec1).collect::<candle_core::Result<_>>()?);
    }
    let all = Tensor::cat(&flat, 0)?.to_vec1::<f32>()?;
    let mut rest = &all[..];
    let take = |tensor: &Tensor| {
        let (these, after) = rest.split_at(tensor.elem_count());
        rest = after;
        these.to_vec()
    };
    Ok(flat.iter().map(take).collect())
}
