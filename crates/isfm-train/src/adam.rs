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
            .par_iter()
            .map(|(name, var)| match grads.get(var) {
                None => Ok(None),
                Some(g) if g.dims() != var.dims() => Err(Error::Optimiser(format!(
                    "{name} is {:?}, its gradient {:?}",
                    var.dims(),
                    g.dims()
                ))),
                Some(g) => Ok(Some(values(g)?)),
            })
            .collect::<Result<Vec<_>>>()?;
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
        let work: Vec<_> = vars.iter().zip(self.moments.values_mut()).zip(gradients).collect();
        work.into_par_iter().try_for_each(|(((name, var), moments), gradient)| {
            let Some(gradient) = gradient else { return Ok(()) };
            let mut weights = values(var)?;
            if moments.mean.len() != weights.len() || moments.square.len() != weights.len() {
                return Err(Error::Optimiser(format!("{name} and its state differ in size")));
            }
            let state = moments.mean.iter_mut().zip(&mut moments.square);
            for ((w, g), (m, v)) in weights.iter_mut().zip(gradient).zip(state) {
                *m += (g - *m) * b1;
                *v = *v * b2 + g * g * b2_rest;
                *w -= scale * (*m / (v.sqrt() / root + eps));
            }
            var.set(&Tensor::from_vec(weights, var.shape(), var.device())?)?;
            Ok(())
        })?;
        self.step += 1;
        Ok(if unguided { Update::Unguided } else { Update::Done })
    }
}

/// A tensor's elements in row-major order.
pub(crate) fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}
