//! Random histories, end to end: tables, policies, people and transactions at random, a relay as people run it, and
//! everybody's events compared with what SELECT shows them under `SET LOCAL ROLE` and claims at that commit.
//!
//! One transaction at a time, so that Postgres can be asked as of its commit: new rows just after it, old rows just
//! before it. What is decided in-process must agree with that however late it is decided. What is asked of Postgres is
//! asked later than the commit: new rows may then be judged as of any moment up to the decision, old rows are in no
//! table any more (DESIGN section 5); both are counted apart, and only where the relay says that it has asked.
//!
//! `WALCAST_DIFFERENTIAL_DECISIONS` says how many decisions, about policies that said both yes and no a fifth of the time:
//!
//! ```text
//! WALCAST_DIFFERENTIAL_DECISIONS=1000000 cargo test --test main campaign -- --nocapture
//! ```

mod audience;
mod ddl;
mod grammar;
mod history;
mod judge;
mod persons;
mod phases;
mod policies;
mod programs;
mod tables;
mod tally;
mod truth;
mod world;

use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use walcast::demo::postgres::{Cluster, ClusterOptions};

use crate::support::database::connect;
use crate::support::scene::{execute, from_env};
use tally::Tally;
use world::World;

/// Every day's run.
const DECISIONS: u64 = 10_000;
/// The seed of a run of that size: what is run before every commit is no lottery. Larger runs draw.
const EVERY_DAY: u64 = 11;
/// After so many a history has grown old: another schema.
const DECISIONS_PER_HISTORY: usize = 30_000;
const TRANSACTIONS_PER_HISTORY: usize = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_decision_of_a_random_history_is_that_of_a_select() {
    let wanted = from_env("WALCAST_DIFFERENTIAL_DECISIONS", DECISIONS) as usize;
    let (_, seed) = if wanted == DECISIONS as usize { super::seeded(EVERY_DAY) } else { super::random() };
    let settings = vec!["synchronous_commit = local".to_owned(), "max_connections = 100".to_owned()];
    let cluster = Cluster::start(&ClusterOptions { settings, hba: None }).expect("a cluster");
    execute(&connect(&cluster.url("postgres", "postgres")).await, persons::ROLES).await;
    let mut tally = Tally::default();
    let start = Instant::now();
    let mut history = 0;
    while tally.counted() < wanted && tally.wrongs == 0 {
        // Each history by itself: one that fails can be had again without those before it.
        let history_seed = seed.wrapping_add(history);
        history += 1;
        let rng = StdRng::seed_from_u64(history_seed);
        let label = format!("WALCAST_DIFFERENTIAL_SEED={history_seed}");
        let mut world = World::new(&cluster, rng, label, &mut tally).await;
        world.settle(&mut tally).await;
        let until = wanted.min(tally.counted() + DECISIONS_PER_HISTORY);
        let transactions_max = tally.transactions + TRANSACTIONS_PER_HISTORY;
        while tally.counted() < until && tally.transactions < transactions_max && tally.wrongs == 0 {
            act(&mut world, &cluster, &mut tally).await;
        }
        tally.system_messages += world.audience.system_messages();
        if tally.wrongs > 0 {
            let log = world.relay.log();
            log.lines()
                .filter(|line| line.contains("WARN") || line.contains("ERROR"))
                .for_each(|line| println!("{line}"));
        }
    }
    tally.print();
    let all = tally.counted();
    println!("{:.0} counted decisions/s", all as f64 / start.elapsed().as_secs_f64());
    assert!(tally.wrongs == 0, "{} wrong:\n{}", tally.wrongs, tally.wrong.join("\n"));
}

/// A while of each kind; a restart only now and then, since it takes seconds.
async fn act(world: &mut World, cluster: &Cluster, tally: &mut Tally) {
    world.live(8, tally).await;
    let lag = world.rng.random_range(3..12);
    world.lagging(lag, tally).await;
    world.beside_standby(cluster, 2, tally).await;
    if world.rng.random_ratio(1, 2) {
        world.claims_change().await;
    }
    if world.rng.random_ratio(1, 4) {
        world.roles_change(tally).await;
    }
    if world.rng.random_ratio(1, 6) {
        world.restarted(3, tally).await;
    }
}
