use std::collections::BTreeMap;

use candle_core::Tensor;
use isfm_ops::weighted_sum;

use crate::adam::fetch;
use crate::{Adam, Error, Result};

/// The moving average of an optimiser's parameters, on their device.
pub(crate) struct Average {
    decay: f64,
    values: BTreeMap<String, Tensor>,
}

impl Average {
    /// Starts at the parameters as they are.
    pub(crate) fn start(decay: f64, adam: &Adam) -> Result<Self> {
        let copies = adam
            .vars()
            .iter()
            .map(|(name, var)| Ok((name.clone(), var.as_detached_tensor().copy()?)));
        Ok(Self { decay, values: copies.collect::<Result<_>>()? })
    }

    /// Goes on from stored values.
    ///
    /// # Errors
    /// If they differ in names or sizes from the parameters.
    pub(crate) fn restore(
        decay: f64,
        adam: &Adam,
        values: BTreeMap<String, Vec<f32>>,
    ) -> Result<Self> {
        let sizes: Vec<_> = values.iter().map(|(name, values)| (name, values.len())).collect();
        let vars = adam.vars();
        if !vars.iter().map(|(name, var)| (name, var.elem_count())).eq(sizes) {
            return Err(Error::Optimiser("parameters and their average differ".into()));
        }
        let tensor = |((name, values), var): ((String, Vec<f32>), &candle_core::Var)| {
            Ok((name, Tensor::from_vec(values, var.shape(), var.device())?))
        };
        let values = values.into_iter().zip(vars.values()).map(tensor).collect::<Result<_>>()?;
        Ok(Self { decay, values })
    }

    /// After a step of the optimiser's.
    pub(crate) fn update(&mut self, adam: &Adam) -> Result<()> {
        let t = adam.steps() as f64;
        let keep = self.decay.min((1. + t) / (10. + t));
        for (average, var) in self.values.values_mut().zip(adam.vars().values()) {
            *average = weighted_sum(average, keep, &var.as_detached_tensor(), 1. - keep)?;
        }
        Ok(())
    }

    /// The average of each parameter.
    pub(crate) fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.values
    }

    /// Its elements.
    ///
    /// # Errors
    /// If they cannot be brought from a GPU.
    pub(crate) fn values(&self) -> Result<BTreeMap<String, Vec<f32>>> {
        Ok(self.values.keys().cloned().zip(fetch(self.values.values())?).collect())
    }
}
