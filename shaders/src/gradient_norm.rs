//! Clipping gradients by their global norm (Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural
//! networks, ICML 2013): `squares` sums squares in parts, a column sum adds the parts of all tensors up, `clip` scales.

pub mod clip;
pub mod squares;
