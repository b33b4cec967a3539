//! Backward of a layer normalisation from its input alone. Devices keep mean and rstd of forward, each within its own
//! tolerance: what that changes is part of the bounds here.

use manyhands_shaders::{FLUSH, UNIT_ROUNDOFF, layer_norm};

use crate::verify::freivalds::gamma;

/// For terms of second order.
const OWN: f64 = 1.01;

/// Sums over the rows seen so far.
pub struct Norm {
    gain: Vec<f64>,
    rows: usize,
    /// `Σ dy·x̂`, `Σ|dy·x̂|`, and `Σ|dy|` times what x̂ may be off by.
    gains: [Vec<f64>; 3],
    /// `Σ dy` and `Σ|dy|`.
    shifts: [Vec<f64>; 2],
}

impl Norm {
    pub fn new(gain: Vec<f64>) -> Self {
        let zeros = || vec![0.0; gain.len()];
        let (gains, shifts) = ([zeros(), zeros(), zeros()], [zeros(), zeros()]);
        Self { gain, rows: 0, gains, shifts }
    }

    /// The error by x and its tolerance, for some rows of x and of the error by y.
    ///
    /// With δ and ρ the bounds on mean and, relatively, on rstd, x̂ is off by `rstd·δ·(1 + ρ) + |x̂|·ρ`; so is the mean of
    /// `h·x̂` by the mean of |h| times that; and all is multiplied by rstd.
    pub fn backward(&mut self, x: &[f64], d_y: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (channels, count) = (self.gain.len(), self.gain.len() as f64);
        let shift = vec![0.0; channels];
        let exact = layer_norm::forward_reference(x, &self.gain, &shift);
        let errors = layer_norm::forward_tolerance(x, &self.gain, &shift);
        let saved = layer_norm::Saved { x, mean: &exact.mean, rstd: &exact.rstd };
        let expected = layer_norm::backward_reference(saved, &self.gain, d_y, &[]);
        let mut tolerance = layer_norm::backward_tolerance(saved, &self.gain, d_y, &[]);
        for (row, d_y) in d_y.chunks_exact(channels).enumerate() {
            let (mean, rstd) = (exact.mean[row], exact.rstd[row]);
            let ratio = errors.rstd[row] / rstd;
            let own = |j: usize| {
                let normalized = (x[row * channels + j] - mean) * rstd;
                (normalized, rstd * errors.mean[row] * (1.0 + ratio) + normalized.abs() * ratio)
            };
            let (mut h_mean, mut product_mean, mut product_error) = (0.0, 0.0, 0.0);
            for (j, &d) in d_y.iter().enumerate() {
                let ((normalized, off), h) = (own(j), d * self.gain[j]);
                h_mean += h / count;
                product_mean += h * normalized / count;
                product_error += h.abs() * off / count;
                self.gains[0][j] += d * normalized;
                self.gains[1][j] += (d * normalized).abs();
                self.gains[2][j] += d.abs() * off;
                self.shifts[0][j] += d;
                self.shifts[1][j] += d.abs();
            }
            for (j, &d) in d_y.iter().enumerate() {
                let (normalized, off) = own(j);
                let inner = (d * self.gain[j] - h_mean - normalized * product_mean).abs();
                let moved = off * (product_mean.abs() + product_error) + normalized.abs() * product_error;
                let bound = &mut tolerance[row * channels + j];
                *bound = (*bound * (1.0 + ratio).powi(3) + rstd * (ratio * inner + (1.0 + ratio) * moved)) * OWN;
            }
            self.rows += 1;
        }
        (expected, tolerance)
    }

    /// Two stages of chunked sums: chunks of rows, and what these give.
    fn roundings(&self) -> f64 {
        131.0 + self.rows as f64 / 64.0
    }

    pub fn gain_gradient(&self) -> (Vec<f64>, Vec<f64>) {
        let gamma = gamma(self.roundings() + 3.0, UNIT_ROUNDOFF);
        let [sums, sizes, off] = &self.gains;
        let flush = (self.rows as f64 + 2.0) * 4.0 * FLUSH;
        (sums.clone(), sizes.iter().zip(off).map(|(size, off)| (gamma * size + off) * OWN + flush).collect())
    }

    pub fn shift_gradient(&self) -> (Vec<f64>, Vec<f64>) {
        let gamma = gamma(self.roundings(), UNIT_ROUNDOFF);
        let [sums, sizes] = &self.shifts;
        (sums.clone(), sizes.iter().map(|size| gamma * size + (self.rows as f64 + 2.0) * FLUSH).collect())
    }
}
