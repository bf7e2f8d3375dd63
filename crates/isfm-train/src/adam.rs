use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use candle_nn::Optimizer;
use rayon::prelude::*;
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
/// As a [`candle_nn::Optimizer`] it names its parameters by their places, "0", "1" and so on.
#[derive(Clone, Debug)]
pub struct Adam {
    config: AdamConfig,
    rate: f64,
    step: usize,
    vars: BTreeMap<String, Var>,
    moments: BTreeMap<String, Moments>,
    weight_decay: f64,
    clip: Option<f64>,
    norm: Option<f64>,
}

impl Adam {
    /// A fresh optimiser for these parameters.
    pub fn named(vars: BTreeMap<String, Var>, config: AdamConfig) -> Self {
        let zeros = |var: &Var| {
            let zeros = vec![0.; var.elem_count()];
            Moments { mean: zeros.clone(), square: zeros }
        };
        let moments = vars.iter().map(|(name, var)| (name.clone(), zeros(var))).collect();
        Self::assemble(vars, config, 0, moments)
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
        for ((name, var), Moments { mean, square }) in vars.iter().zip(moments.values()) {
            if [mean.len(), square.len()] != [var.elem_count(); 2] {
                return Err(Error::Optimiser(format!("{name} and its state differ in size")));
            }
        }
        Ok(Self::assemble(vars, config, step, moments))
    }

    fn assemble(
        vars: BTreeMap<String, Var>,
        config: AdamConfig,
        step: usize,
        moments: BTreeMap<String, Moments>,
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

    /// The elements of every parameter, in the order of their names.
    pub(crate) fn values(&self) -> Result<Vec<Vec<f32>>> {
        let all = self.vars.values().map(|var| Some(var.as_tensor())).collect();
        Ok(fetch(all)?.into_iter().flatten().collect())
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
    pub fn moments(&self) -> &BTreeMap<String, Moments> {
        &self.moments
    }

    /// Updates every parameter that has a gradient; one without (an unused parameter) keeps its
    /// value and state. Nothing is changed when a gradient is not finite.
    ///
    /// # Errors
    /// If no parameter has a gradient, or a gradient has another shape than its parameter.
    pub fn update(&mut self, grads: &GradStore) -> Result<Update> {
        let gradient = |(name, var): (&String, &Var)| match grads.get(var) {
            Some(g) if g.dims() != var.dims() => Err(Error::Optimiser(format!(
                "{name} is {:?}, its gradient {:?}",
                var.dims(),
                g.dims()
            ))),
            found => Ok(found),
        };
        let mut gradients = fetch(self.vars.iter().map(gradient).collect::<Result<_>>()?)?;
        if gradients.iter().all(Option::is_none) {
            return Err(Error::Optimiser("no parameter has a gradient".into()));
        }
        for (name, gradient) in self.vars.keys().zip(&gradients) {
            if gradient.as_ref().is_some_and(|g| g.iter().any(|v| !v.is_finite())) {
                return Ok(Update::NonFinite(name.clone()));
            }
        }

        let unguided = gradients.iter().flatten().flatten().all(|&g| g == 0.);

        if let Some(clip) = self.clip {
            // Each tensor summed in order, so that the norm does not depend on the threads.
            let square = |g: &Vec<f32>| g.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
            let squares: Vec<f64> = gradients.par_iter().flatten().map(square).collect();
            let norm = squares.iter().sum::<f64>().sqrt();
            let scale = (clip / (norm + 1e-6)).min(1.) as f32;
            if scale < 1. {
                gradients
                    .par_iter_mut()
                    .flatten()
                    .for_each(|g| g.iter_mut().for_each(|v| *v *= scale));
            }
            self.norm = Some(norm);
        }

        let step = i32::try_from(self.step + 1).unwrap_or(i32::MAX);
        let AdamConfig { beta1, beta2, eps } = self.config;
        let scale = (self.rate / (1. - beta1.powi(step))) as f32;
        let root = (1. - beta2.powi(step)).sqrt() as f32;
        let (b1, b2, eps) = ((1. - beta1) as f32, beta2 as f32, eps as f32);
        let b2_rest = (1. - beta2) as f32;
        let decayed = (1. - self.rate * self.weight_decay) as f32;
        let guided = |(var, gradient): (_, &Option<Vec<f32>>)| gradient.as_ref().map(|_| var);
        let weights = self.vars.values().map(Var::as_tensor).zip(&gradients).map(guided);
        let weights = fetch(weights.collect())?;
        let state = self.vars.values().zip(self.moments.values_mut());
        let work: Vec<_> = state.zip(gradients.into_iter().zip(weights)).collect();
        let updated = work.into_par_iter().filter_map(|((var, moments), new)| {
            let (Some(gradient), Some(mut weights)) = new else { return None };
            let state = moments.mean.iter_mut().zip(&mut moments.square);
            let keep = if var.rank() > 1 { decayed } else { 1. };
            for ((w, g), (m, v)) in weights.iter_mut().zip(gradient).zip(state) {
                *m += (g - *m) * b1;
                *v = *v * b2 + g * g * b2_rest;
                *w = *w * keep - scale * (*m / (v.sqrt() / root + eps));
            }
            Some((var, weights))
        });
        store(updated.collect())?;
        self.step += 1;
        Ok(if unguided { Update::Unguided } else { Update::Done })
    }
}

impl Optimizer for Adam {
    type Config = AdamConfig;

    fn new(vars: Vec<Var>, config: AdamConfig) -> candle_core::Result<Self> {
        let named = vars.into_iter().enumerate().map(|(at, var)| (at.to_string(), var));
        Ok(Self::named(named.collect(), config))
    }

    fn step(&mut self, grads: &GradStore) -> candle_core::Result<()> {
        match self.update(grads) {
            Ok(Update::Done | Update::Unguided) => Ok(()),
            Ok(Update::NonFinite(name)) => {
                candle_core::bail!("the gradient of parameter {name} is not finite")
            }
            Err(Error::Candle(e)) => Err(e),
            Err(e) => Err(candle_core::Error::wrap(e)),
        }
    }

    fn learning_rate(&self) -> f64 {
        self.rate
    }

    fn set_learning_rate(&mut self, rate: f64) {
        self.rate = rate;
    }
}

/// The elements of each tensor. From a GPU all come in one transfer: hundreds of small ones would
/// take longer than the update itself.
fn fetch(tensors: Vec<Option<&Tensor>>) -> Result<Vec<Option<Vec<f32>>>> {
    if tensors.iter().flatten().all(|t| t.device().is_cpu()) {
        return tensors.into_par_iter().map(|t| t.map(values).transpose()).collect();
    }
    let flat = |t: &&Tensor| t.to_dtype(DType::F32)?.flatten_all();
    let flat = tensors.iter().flatten().map(flat).collect::<candle_core::Result<Vec<_>>>()?;
    let all = Tensor::cat(&flat, 0)?.to_vec1::<f32>()?;
    let mut rest = &all[..];
    let mut take = |t: &Tensor| {
        let (these, after) = rest.split_at(t.elem_count());
        rest = after;
        these.to_vec()
    };
    Ok(tensors.into_iter().map(|t| t.map(&mut take)).collect())
}

/// Writes new elements to variables, to a GPU in one transfer.
fn store(updated: Vec<(&Var, Vec<f32>)>) -> Result<()> {
    let Some(device) = updated.first().map(|(var, _)| var.device().clone()) else { return Ok(()) };
    if device.is_cpu() {
        return updated.into_par_iter().try_for_each(|(var, weights)| {
            Ok(var.set(&Tensor::from_vec(weights, var.shape(), &device)?)?)
        });
    }
    let all: Vec<f32> = updated.iter().flat_map(|(_, weights)| weights).copied().collect();
    let len = all.len();
    let all = Tensor::from_vec(all, len, &device)?;
    let mut at = 0;
    for (var, weights) in updated {
        var.set(&all.narrow(0, at, weights.len())?.reshape(var.shape())?)?;
        at += weights.len();
    }
    Ok(())
}

/// A tensor's elements in row-major order.
pub(crate) fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}
