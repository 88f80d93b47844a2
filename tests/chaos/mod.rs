//! Chaos: clients of every kind come and go, the network, the relay and Postgres break at random, and in the end each
//! client's diary is compared with what Postgres says that it was entitled to.
//!
//!   WALCAST_CHAOS_SECONDS=1800 WALCAST_CHAOS_SEED=1 cargo test --release --test main chaos::nobody -- --nocapture
//!
//! Without these it is short, so that it can be a part of every test run. The seed fixes who the clients are, what is
//! written and what breaks when; how the machine interleaves that is its own.

mod binding;
mod checker;
mod checker_tests;
mod client;
mod diary;
mod network;
mod plan;
mod report;
mod run;
mod socket;
mod stage;
mod timeline;
mod trouble;
mod truth;
mod world;
mod writer;

use plan::{Plan, Safeguard};
use report::Wrong;
use run::{Outcome, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_loses_anything_whatever_breaks() {
    let plan = Plan::from_environment();
    println!("chaos: {plan:?}");
    let outcome = run(plan.clone()).await;
    println!("{}", outcome.report.table());
    if !outcome.report.violations.is_empty() {
        fail(&plan, &outcome);
    }
}

fn fail(plan: &Plan, outcome: &Outcome) -> ! {
    let log = &outcome.relay_log;
    let tail = log.len().saturating_sub(10_000);
    let tail = (tail..log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(log.len());
    let details = outcome.report.details(&outcome.log, outcome.began);
    panic!(
        "chaos with the seed {}:\n{details}\n{}\nthe relay's log:\n{}",
        plan.seed,
        outcome.report.table(),
        &log[tail..]
    );
}

/// What the run without this safeguard must find.
async fn finds(safeguard: Safeguard, wrongs: &[Wrong]) {
    let plan = Plan::without(safeguard);
    let outcome = run(plan.clone()).await;
    println!("without {safeguard:?}: {}", outcome.report.table());
    let unexpected = |wrong: &Wrong| !wrongs.contains(wrong);
    let found = wrongs.iter().any(|wrong| outcome.report.count(*wrong) > 0);
    if !found || outcome.report.violations.iter().any(|violation| unexpected(&violation.wrong)) {
        fail(&plan, &outcome);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_resume_the_loss_is_found() {
    // Clients that ask for positions alone are told where they begin, each time anew.
    let told_anew = [Wrong::Forgotten, Wrong::NotTold, Wrong::Position, Wrong::Stuck];
    finds(Safeguard::Resume, &[&[Wrong::Lost][..], &told_anew].concat()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_lets_too_many_in_is_found() {
    finds(Safeguard::Policies, &[Wrong::Leaked, Wrong::Lost]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledging_what_was_not_handled_is_found() {
    finds(Safeguard::WaitForReplies, &[Wrong::Lost]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_retention_the_loss_is_found() {
    // Who comes back behind the last row never gets it.
    finds(Safeguard::Retention, &[Wrong::Lost, Wrong::NotTold, Wrong::Stuck]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_permanent_slot_the_loss_is_found() {
    finds(Safeguard::PermanentSlot, &[Wrong::Lost, Wrong::FalseGap]).await;
}
