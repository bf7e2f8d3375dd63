//! The operations, their gradients, layers and chains.

mod chain;
mod errors;
mod gradients;
mod nn;
mod oracle;
mod properties;
mod pyramid;
mod threads;
mod values;
