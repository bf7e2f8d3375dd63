use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

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

/// What a call of [`Adam::step`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// The parameters were updated.
    Done,
    /// They were too, but by what the state remembers alone: every gradient is exactly 0.
    Unguided,
    /// Nothing was changed: this parameter's gradient is not finite.
    NonFinite(String),
}

/// Adam without weight decay, in PyTorch's formula, whose state can be stored and restored.
#[derive(Clone, Debug)]
pub struct Adam {
    config: AdamConfig,
    step: usize,
    moments: BTreeMap<String, Moments>,
}

impl Adam {
    /// A fresh optimiser for these parameters.
    pub fn new(config: AdamConfig, vars: &BTreeMap<String, Var>) -> Self {
        let moments = vars
            .iter()
            .map(|(name, var)| {
                let zeros = vec![0.; var.elem_count()];
                (name.clone(), Moments { mean: zeros.clone(), square: zeros })
            })
            .collect();
        Self { config, step: 0, moments }
    }

    /// An optimiser that goes on after `step` steps with stored state.
    pub fn restore(config: AdamConfig, step: usize, moments: BTreeMap<String, Moments>) -> Self {
        Self { config, step, moments }
    }

    /// Steps taken.
    pub fn steps(&self) -> usize {
        self.step
    }

    /// The state by parameter name.
    pub fn moments(&self) -> &BTreeMap<String, Moments> {
        &self.moments
    }

    /// Updates every variable that has a gradient; one without (an unused parameter) keeps its
    /// value and state. Nothing is changed when a gradient is not finite.
    ///
    /// # Errors
    /// If no variable has a gradient, or variables and state do not belong together.
    pub fn step(
        &mut self,
        vars: &BTreeMap<String, Var>,
        grads: &GradStore,
        rate: f64,
    ) -> Result<Update> {
        if !vars.keys().eq(self.moments.keys()) {
            return Err(Error::Optimiser("parameters and state have different names".into()));
        }
        let gradients = vars
            .iter()
            .map(|(name, var)| match grads.get(var) {
                Some(g) if g.dims() != var.dims() => Err(Error::Optimiser(format!(
                    "{name} is {:?}, its gradient {:?}",
                    var.dims(),
                    g.dims()
                ))),
                found => Ok(found),
            })
            .collect::<Result<Vec<_>>>()?;
        let gradients = fetch(gradients)?;
        if gradients.iter().all(Option::is_none) {
            return Err(Error::Optimiser("no parameter has a gradient".into()));
        }
        for (name, gradient) in vars.keys().zip(&gradients) {
            if gradient.as_ref().is_some_and(|g| g.iter().any(|v| !v.is_finite())) {
                return Ok(Update::NonFinite(name.clone()));
            }
        }

        let unguided = gradients.iter().flatten().flatten().all(|&g| g == 0.);

        let step = i32::try_from(self.step + 1).unwrap_or(i32::MAX);
        let AdamConfig { beta1, beta2, eps } = self.config;
        let scale = (rate / (1. - beta1.powi(step))) as f32;
        let root = (1. - beta2.powi(step)).sqrt() as f32;
        let (b1, b2, eps) = ((1. - beta1) as f32, beta2 as f32, eps as f32);
        let b2_rest = (1. - beta2) as f32;
        let guided = |(var, gradient): (_, &Option<Vec<f32>>)| gradient.as_ref().map(|_| var);
        let weights =
            fetch(vars.values().map(Var::as_tensor).zip(&gradients).map(guided).collect())?;
        let work =
            vars.iter().zip(self.moments.values_mut()).zip(gradients.into_iter().zip(weights));
        let work: Vec<_> = work.collect();
        let updated = work.into_par_iter().map(|(((name, var), moments), new)| {
            let (Some(gradient), Some(mut weights)) = new else { return Ok(None) };
            if moments.mean.len() != weights.len() || moments.square.len() != weights.len() {
                return Err(Error::Optimiser(format!("{name} and its state differ in size")));
            }
            let state = moments.mean.iter_mut().zip(&mut moments.square);
            for ((w, g), (m, v)) in weights.iter_mut().zip(gradient).zip(state) {
                *m += (g - *m) * b1;
                *v = *v * b2 + g * g * b2_rest;
                *w -= scale * (*m / (v.sqrt() / root + eps));
            }
            Ok(Some((var, weights)))
        });
        let updated = updated.collect::<Result<Vec<_>>>()?;
        store(updated.into_iter().flatten().collect())?;
        self.step += 1;
        Ok(if unguided { Update::Unguided } else { Update::Done })
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
