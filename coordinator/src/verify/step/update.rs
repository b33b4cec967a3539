//! The state after the step, from the state before and the revealed gradients.

use manyhands::plan::{State, StateKind, What};
use manyhands_protocol::work::InnerOptimizer;
use manyhands_shaders::gradient_norm::squares;
use manyhands_shaders::sgd_momentum::{self, Rates};
use manyhands_shaders::{FLUSH, UNIT_ROUNDOFF, adamw, adamw_advance};
use rand::CryptoRng;

use super::forward::PIECE_VALUES;
use super::{Checker, StepRefusal, Tensor, widen};
use crate::verify::freivalds::gamma;

const POWERS: State = State { parameter: None, kind: StateKind::Powers };
const INNER_STEP: State = State { parameter: None, kind: StateKind::InnerStep };

/// What clipping multiplies every gradient by, and how far a computed factor may be off, relatively.
#[derive(Clone, Copy)]
struct Clipped {
    factor: f64,
    error: f64,
}

impl<'a, R: CryptoRng + ?Sized> Checker<'a, R> {
    pub fn update(&mut self) -> Result<(), StepRefusal> {
        self.inner_step()?;
        match self.step.work.optimizer {
            InnerOptimizer::Sgd { learning_rate, momentum, clip_norm } => {
                let clipped = self.clipped(clip_norm);
                self.sgd(Rates { learning_rate, momentum }, clipped)
            }
            InnerOptimizer::AdamW { learning_rate, beta1, beta2, epsilon, weight_decay, clip_norm } => {
                let rates = adamw::Rates { learning_rate, beta1, beta2, epsilon, weight_decay };
                let powers = self.powers(rates)?;
                let clipped = self.clipped(clip_norm);
                self.adamw(rates, powers, clipped)
            }
        }
    }

    fn state(&self, parameter: usize, kind: StateKind) -> (State, [&'a [f32]; 2]) {
        let of = State { parameter: Some(parameter as u32), kind };
        (of, [self.before[&of], self.after[&of]])
    }

    fn gradient_of(&self, parameter: usize) -> &'a [f32] {
        let what = What::Gradient { parameter: parameter as u32 };
        self.trace.iter().find(|(of, _)| of.what == what).map_or(&[], |(_, values)| values)
    }

    /// The counter that dropout's masks are of is the step itself.
    fn inner_step(&mut self) -> Result<(), StepRefusal> {
        let number = self.step.number;
        for (tensor, state, expected) in
            [(Tensor::Before(INNER_STEP), &self.before, number), (Tensor::After(INNER_STEP), &self.after, number + 1)]
        {
            let Some(words) = state.get(&INNER_STEP) else { return Ok(()) };
            for (index, (word, expected)) in words.iter().zip([expected, 0, 0, 0]).enumerate() {
                if word.to_bits() != expected {
                    let (got, expected) = (*word, f32::from_bits(expected).into());
                    return Err(StepRefusal::Value { tensor, index, got, expected, tolerance: 0.0 });
                }
            }
        }
        Ok(())
    }

    fn sgd(&mut self, rates: Rates, clipped: Clipped) -> Result<(), StepRefusal> {
        let learning_rate = f64::from(rates.learning_rate);
        for parameter in 0..self.network.parameters.len() {
            let gradient = self.gradient_of(parameter);
            let (velocity, [v, v_after]) = self.state(parameter, StateKind::Velocity);
            let (of, [p, p_after]) = self.state(parameter, StateKind::Parameter);
            for (first, g) in (0..).step_by(PIECE_VALUES).zip(gradient.chunks(PIECE_VALUES)) {
                let [mut g, v, p] = [g, &v[first..][..g.len()], &p[first..][..g.len()]].map(widen);
                g.iter_mut().for_each(|g| *g *= clipped.factor);
                let expected = sgd_momentum::reference(rates, &g, &v, &p);
                let mut tolerance = sgd_momentum::tolerance(rates, &g, &v, &p);
                for (i, g) in g.iter().enumerate() {
                    let error = g.abs() * clipped.error;
                    tolerance.velocity[i] += error;
                    tolerance.parameter[i] += learning_rate * error;
                }
                self.add_settling(parameter, first, &p_after[first..], &mut tolerance.parameter);
                let [velocity, of] = [velocity, of].map(Tensor::After);
                self.compare("velocity", velocity, first, &v_after[first..], &expected.velocity, &tolerance.velocity)?;
                self.compare("sgd", of, first, &p_after[first..], &expected.parameter, &tolerance.parameter)?;
            }
        }
        Ok(())
    }

    /// What two subtractions, each rounded once to nearest, may add to a settled parameter.
    fn add_settling(&self, parameter: usize, first: usize, after: &[f32], tolerance: &mut [f64]) {
        let Some(checkpoint) = self.step.settled_from.and_then(|checkpoint| checkpoint.get(parameter)) else { return };
        for ((tolerance, &after), &before) in tolerance.iter_mut().zip(after).zip(checkpoint.iter().skip(first)) {
            let (before, after) = (f64::from(before), f64::from(after));
            *tolerance += UNIT_ROUNDOFF * ((before - after).abs() + after.abs()) + FLUSH;
        }
    }

    /// AdamW's running powers: β to the number of steps before, within a rounding for each, and one step on after. Gives the
    /// revealed ones of this step.
    fn powers(&mut self, rates: adamw::Rates) -> Result<[f64; 2], StepRefusal> {
        let [before, after] = [self.before[&POWERS], self.after[&POWERS]];
        let steps = self.step.number;
        let beta = [rates.beta1, rates.beta2].map(f64::from);
        let [first, second] = beta.map(|beta| beta.powi(steps as i32));
        let rounded = gamma(f64::from(steps), UNIT_ROUNDOFF);
        let tolerance = [first, second].map(|power| rounded * power + if steps > 0 { FLUSH } else { 0.0 });
        let tolerance = [tolerance[0], tolerance[1], 0.0, 0.0];
        self.compare("powers", Tensor::Before(POWERS), 0, before, &[first, second, 0.0, 0.0], &tolerance)?;
        let params = adamw_advance::Params { beta1: rates.beta1, beta2: rates.beta2 };
        let before = [before[0], before[1], before[2], before[3]].map(f64::from);
        let (expected, mut tolerance) = (adamw_advance::reference(params, before), adamw_advance::tolerance(params, before));
        tolerance[2..].fill(0.0);
        self.compare("powers", Tensor::After(POWERS), 0, after, &expected, &tolerance)?;
        Ok([after[0], after[1]].map(f64::from))
    }

    /// From the squares of all revealed gradients together.
    fn clipped(&self, most: f32) -> Clipped {
        if most <= 0.0 {
            return Clipped { factor: 1.0, error: 0.0 };
        }
        let (mut total, mut parts) = (0.0, 0.0);
        for parameter in 0..self.network.parameters.len() {
            let gradient = self.gradient_of(parameter);
            total += gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>();
            parts += f64::from(squares::parts(gradient.len() as u32));
        }
        // A square passes its part, the sum of the parts, and half of that the root; root, quotient and product are 9 units.
        let roundings = f64::from(squares::CHUNK + squares::PART / squares::CHUNK + 3) + 131.0 + parts / 64.0;
        let flush = parts * f64::from(8 * squares::PART) * FLUSH / total.max(f64::MIN_POSITIVE);
        let error = 0.51 * (gamma(roundings, UNIT_ROUNDOFF) + flush) + 9.0 * UNIT_ROUNDOFF;
        Clipped { factor: (f64::from(most) / total.sqrt()).min(1.0), error }
    }

    /// The moments from the revealed gradient, the parameter from the revealed moments: in that form each is well
    /// conditioned, however small the gradient.
    fn adamw(&mut self, rates: adamw::Rates, powers: [f64; 2], clipped: Clipped) -> Result<(), StepRefusal> {
        let [beta1, beta2] = [rates.beta1, rates.beta2].map(f64::from);
        for parameter in 0..self.network.parameters.len() {
            let gradient = self.gradient_of(parameter);
            let (first_moment, [m, m_after]) = self.state(parameter, StateKind::FirstMoment);
            let (second_moment, [v, v_after]) = self.state(parameter, StateKind::SecondMoment);
            let (of, [p, p_after]) = self.state(parameter, StateKind::Parameter);
            for (first, g) in (0..).step_by(PIECE_VALUES).zip(gradient.chunks(PIECE_VALUES)) {
                let pieces = [m, v, p, m_after, v_after].map(|tensor| widen(&tensor[first..][..g.len()]));
                let [m, v, p, m_new, v_new] = &pieces;
                let g: Vec<f64> = g.iter().map(|&g| f64::from(g) * clipped.factor).collect();
                let before = adamw::Before { gradient: &g, first: m, second: v, parameter: p };
                let expected = adamw::reference(rates, powers, before);
                let mut tolerance = adamw::tolerance(rates, powers, before);
                for (i, g) in g.iter().enumerate() {
                    let error = clipped.error;
                    tolerance.first[i] += (1.0 - beta1) * g.abs() * error;
                    tolerance.second[i] += (1.0 - beta2) * g * g * (2.0 + error) * error;
                }
                let [first_moment, second_moment, of] = [first_moment, second_moment, of].map(Tensor::After);
                self.compare("moments", first_moment, first, &m_after[first..], &expected.first, &tolerance.first)?;
                self.compare("moments", second_moment, first, &v_after[first..], &expected.second, &tolerance.second)?;
                let moments = adamw::Moments { first: m_new, second: v_new };
                let expected = adamw::parameter_reference(rates, powers, moments, p);
                let mut tolerance = adamw::parameter_tolerance(rates, powers, moments, p);
                self.add_settling(parameter, first, &p_after[first..], &mut tolerance);
                self.compare("adamw", of, first, &p_after[first..], &expected, &tolerance)?;
            }
        }
        Ok(())
    }
}
