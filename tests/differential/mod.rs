//! The same question to walcast and to Postgres: the answers must be equal, and Postgres is right. The last large run, and
//! the mutants that these tests were tried with, stand in README.md.
//!
//! Values are random; the seed is printed and read back from `WALCAST_DIFFERENTIAL_SEED`. How many is said by a
//! variable of each test, with a default that suits every day.

mod authorization;
mod builtins;
mod campaign;
mod filter_questions;
mod filters;
mod in_progress;
mod json_of_values;
mod pg_types;
mod policy_values;
mod random_json;
mod random_values;
mod zoo;
mod zoo_programs;

use rand::SeedableRng;
use rand::rngs::StdRng;

/// The generator of a run, and its seed for whoever wants to see the run again.
fn random() -> (StdRng, u64) {
    seeded(rand::random())
}

/// The same, with this seed where none is given.
fn seeded(default: u64) -> (StdRng, u64) {
    let seed = number_from_env("WALCAST_DIFFERENTIAL_SEED").unwrap_or(default);
    println!("WALCAST_DIFFERENTIAL_SEED={seed}");
    (StdRng::seed_from_u64(seed), seed)
}

fn number_from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}
