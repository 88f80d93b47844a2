//! Programs alone, in random worlds: every decision of [`Program::decide`](walcast::authz::policy::Program::decide) against
//! a SELECT under `SET LOCAL ROLE` and claims, and everybody who is shown a row among those whom the row leads to.
//!
//! No relay: the stream is read in SQL, and goes through the parts that dispatch is made of. That is some twenty times as
//! fast as the histories beside it, and its grammar is the richer one: it is meant to notice what breaks in the evaluator.
//!
//! ```text
//! WALCAST_DIFFERENTIAL_DECISIONS=1000000 cargo test --test main campaign::programs -- --nocapture
//! ```

mod forms;
mod functions;
mod grammar;
mod judge;
mod people;
mod policies;
mod stream;
mod tables;
mod tally;
mod truth;
mod world;

use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tally::Tally;
use walcast::demo::postgres::{Cluster, ClusterOptions};
use world::World;

use crate::support::database::connect;
use crate::support::scene::{execute, from_env};

/// Every day's run, about sets of policies that are neither always yes nor always no.
const DECISIONS: u64 = 100_000;
/// The seed of a run of that size: what is run before every commit is no lottery.
const EVERY_DAY: u64 = 7;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_decide_random_worlds_as_a_select_does() {
    let wanted = from_env("WALCAST_DIFFERENTIAL_DECISIONS", DECISIONS) as usize;
    let (_, seed) = if wanted == DECISIONS as usize { super::super::seeded(EVERY_DAY) } else { super::super::random() };
    let settings = vec!["max_connections = 50".to_owned()];
    let cluster = Cluster::start(&ClusterOptions { settings, hba: None }).expect("a cluster");
    execute(&connect(&cluster.url("postgres", "postgres")).await, people::ROLES).await;
    let mut tally = Tally::default();
    let (start, mut number) = (Instant::now(), 0);
    let worlds_min = if wanted < DECISIONS as usize { 1 } else { forms::WORLDS };
    while (tally.counted() < wanted || tally.worlds < worlds_min) && tally.wrongs == 0 {
        // Each world by itself: one that fails can be had again without those before it.
        let seed = seed.wrapping_add(number);
        number += 1;
        let mut random = StdRng::seed_from_u64(seed);
        let label = format!("WALCAST_DIFFERENTIAL_SEED={seed}");
        let world = World::new(&cluster, &mut random, label, &mut tally).await;
        world.run(&mut random, &mut tally).await;
    }
    tally.print();
    println!(
        "{:.0} decisions by programs/s, {} wrong",
        tally.here as f64 / start.elapsed().as_secs_f64(),
        tally.wrongs
    );
    assert!(tally.wrongs == 0, "{} wrong:\n{}", tally.wrongs, tally.wrong.join("\n\n"));
    // What the planner works out to estimate is known but for a few forms.
    let missed = tally.unforeseen + tally.too_careful;
    assert!(missed * 2 <= tally.foreseen + 500, "the planner fails otherwise than foreseen: {missed}");
    assert_eq!(tally.not_loaded, 0, "questions about a table that is not loaded");
    let asked = tally.here + tally.undecided() + tally.not_compiled();
    assert!(tally.undecided() * 5 < asked, "undecided: {} of {asked}", tally.undecided());
    assert!(tally.not_compiled() * 5 < asked, "not compiled: {} of {asked}", tally.not_compiled());
}
