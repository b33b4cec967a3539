//! The two JSON calls that `run` needs, and the fields it prints. The views themselves belong to the protocol; reading
//! them here by name keeps xtask's build small.

use anyhow::{Context as _, Result};
use serde_json::Value;

/// No view is larger.
const BODY_BYTES_MAX: u64 = 16 << 20;

/// A coordinator and its operator's token.
pub struct Api {
    url: String,
    token: String,
    agent: ureq::Agent,
}

impl Api {
    pub fn new(url: &str, token: &str) -> Api {
        let agent = ureq::Agent::config_builder().proxy(None).build().new_agent();
        Api { url: url.to_owned(), token: token.to_owned(), agent }
    }

    /// All jobs, in the order they were handed in.
    pub fn jobs(&self) -> Result<Vec<Job>> {
        let view = self.get("/v1/admin/jobs")?;
        let list = view["jobs"].as_array().context("/v1/admin/jobs has no `jobs`")?;
        let mut jobs: Vec<Job> = list.iter().map(Job::read).collect::<Result<_>>()?;
        jobs.sort_by_key(|job| job.id);
        Ok(jobs)
    }

    pub fn job(&self, id: u64) -> Result<Job> {
        Job::read(&self.get(&format!("/v1/jobs/{id}"))?)
    }

    fn get(&self, path: &str) -> Result<Value> {
        let mut response = self
            .agent
            .get(format!("{}{path}", self.url))
            .header("authorization", format!("Bearer {}", self.token))
            .call()
            .with_context(|| format!("GET {path} failed"))?;
        let body = response.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_string()?;
        serde_json::from_str(&body).with_context(|| format!("GET {path} did not return JSON"))
    }
}

/// What is printed of a job.
#[derive(Debug)]
pub struct Job {
    pub id: u64,
    pub name: String,
    pub state: String,
    pub units_settled: u64,
    pub contributors: u64,
    pub units_refereed: u64,
    pub rounds_max: u64,
    pub target: Target,
    pub history: Vec<Round>,
}

/// What a job is after.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    Accuracy(f64),
    BitsPerByte(f64),
    /// Not a training job: nothing is reached by it.
    None,
}

#[derive(Debug)]
pub struct Round {
    pub round: u64,
    pub loss: f64,
    pub accuracy: f64,
    pub bits_per_byte: Option<f64>,
}

impl Round {
    /// What the round is judged by, e.g. `test accuracy 0.7000`.
    pub fn standing(&self) -> String {
        match self.bits_per_byte {
            Some(bits) => format!("bits per byte {bits:.4}"),
            None => format!("test accuracy {:.4}", self.accuracy),
        }
    }
}

impl Job {
    fn read(view: &Value) -> Result<Job> {
        let number = |name: &str| view[name].as_u64().with_context(|| format!("a job has no `{name}`"));
        let text = |name: &str| view[name].as_str().map(str::to_owned).with_context(|| format!("a job has no `{name}`"));
        let train = &view["train"];
        let history = match train["history"].as_array() {
            Some(rounds) => rounds.iter().map(Round::read).collect::<Result<_>>()?,
            None => Vec::new(),
        };
        Ok(Job {
            id: number("id")?,
            name: text("name")?,
            state: text("state")?,
            units_settled: number("units_settled")?,
            contributors: number("contributors")?,
            units_refereed: number("units_refereed")?,
            rounds_max: train["rounds_max"].as_u64().unwrap_or(0),
            target: match (train["target_accuracy"].as_f64(), train["target_bits_per_byte"].as_f64()) {
                (Some(accuracy), _) => Target::Accuracy(accuracy),
                (None, Some(bits)) => Target::BitsPerByte(bits),
                (None, None) => Target::None,
            },
            history,
        })
    }

    /// Neither now nor later will it have more rounds.
    pub fn is_over(&self) -> bool {
        matches!(self.state.as_str(), "finished" | "cancelled")
    }

    /// Whether a round is good enough.
    pub fn is_reached(&self, round: &Round) -> bool {
        match self.target {
            Target::Accuracy(least) => round.accuracy >= least,
            Target::BitsPerByte(most) => round.bits_per_byte.is_some_and(|bits| bits <= most),
            Target::None => false,
        }
    }

    /// One line of progress.
    pub fn line(&self, round: &Round) -> String {
        format!(
            "round {:>3}/{}  {}  loss {:.4}  units settled {} ({} by the referee)  contributors {}",
            round.round,
            self.rounds_max,
            round.standing(),
            round.loss,
            self.units_settled,
            self.units_refereed,
            self.contributors
        )
    }
}

impl Round {
    fn read(view: &Value) -> Result<Round> {
        // A loss that is not finite has no JSON number; it must not look like a good one.
        Ok(Round {
            round: view["round"].as_u64().context("a round has no number")?,
            loss: view["loss"].as_f64().unwrap_or(f64::NAN),
            accuracy: view["accuracy"].as_f64().context("a round has no accuracy")?,
            bits_per_byte: view["bits_per_byte"].as_f64(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn view() -> Value {
        json!({
            "id": 3, "name": "fashion-mlp", "state": "running", "units_settled": 8, "contributors": 2, "units_refereed": 1,
            "train": {
                "rounds_max": 60, "target_accuracy": 0.82,
                "history": [{ "round": 0, "loss": 2.4, "accuracy": 0.1 }, { "round": 1, "loss": 0.9, "accuracy": 0.7 }]
            }
        })
    }

    #[test]
    fn a_round_is_one_line() {
        let job = Job::read(&view()).unwrap();
        let expected = "round   1/60  test accuracy 0.7000  loss 0.9000  units settled 8 (1 by the referee)  contributors 2";
        assert_eq!(job.line(&job.history[1]), expected);
        assert!(!job.is_over());
        assert!(
            !job.is_reached(&job.history[1])
                && job.is_reached(&Round { accuracy: 0.82, ..Round::read(&json!({ "round": 2, "accuracy": 0 })).unwrap() })
        );
    }

    #[test]
    fn texts_are_judged_by_bits_and_fewer_are_better() {
        let mut text = view();
        let train = text["train"].as_object_mut().unwrap();
        train.remove("target_accuracy");
        train.insert("target_bits_per_byte".to_owned(), json!(2.4));
        train["history"][1]["bits_per_byte"] = json!(2.3);
        let job = Job::read(&text).unwrap();
        assert!(job.line(&job.history[1]).starts_with("round   1/60  bits per byte 2.3000  loss 0.9000  units"));
        assert!(job.is_reached(&job.history[1]) && !job.is_reached(&job.history[0]), "a round without bits reached nothing");
    }

    #[test]
    fn missing_fields_are_errors_and_nothing_is_reached_by_accident() {
        for field in ["id", "name", "state", "units_settled", "contributors", "units_refereed"] {
            let mut broken = view();
            broken.as_object_mut().unwrap().remove(field);
            assert!(Job::read(&broken).unwrap_err().to_string().contains(field));
        }
        let mut matmul = view();
        matmul["train"] = Value::Null;
        let job = Job::read(&matmul).unwrap();
        assert!(job.history.is_empty() && job.target == Target::None);
        let mut no_accuracy = view();
        no_accuracy["train"]["history"][1]["accuracy"] = Value::Null;
        assert!(Job::read(&no_accuracy).is_err());
    }
}
