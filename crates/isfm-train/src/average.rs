use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::{Adam, Error, Result};

/// The moving average of an optimiser's parameters.
pub(crate) struct Average {
    decay: f64,
    values: BTreeMap<String, Vec<f32>>,
}

impl Average {
    /// Starts at the parameters as they are.
    pub(crate) fn start(decay: f64, adam: &Adam) -> Result<Self> {
        let values = adam.vars().keys().cloned().zip(adam.values()?).collect();
        Ok(Self { decay, values })
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
        let sizes = |of: &BTreeMap<String, Vec<f32>>| -> Vec<_> {
            of.iter().map(|(name, values)| (name.clone(), values.len())).collect()
        };
        let wanted: Vec<_> =
            adam.vars().iter().map(|(name, var)| (name.clone(), var.elem_count())).collect();
        if sizes(&values) != wanted {
            return Err(Error::Optimiser("parameters and their average differ".into()));
        }
        Ok(Self { decay, values })
    }

    /// After a step of the optimiser's.
    pub(crate) fn update(&mut self, adam: &Adam) -> Result<()> {
        let t = adam.steps() as f64;
        let rest = (1. - self.decay.min((1. + t) / (10. + t))) as f32;
        let work: Vec<_> = self.values.values_mut().zip(adam.values()?).collect();
        work.into_par_iter().for_each(|(average, weights)| {
            for (a, w) in average.iter_mut().zip(weights) {
                *a += (w - *a) * rest;
            }
        });
        Ok(())
    }

    pub(crate) fn values(&self) -> &BTreeMap<String, Vec<f32>> {
        &self.values
    }
}
