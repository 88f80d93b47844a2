//! A table's policies, chosen so that they say yes and no.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::grammar::{Expression, expression, leading};
use super::persons::Person;
use super::tables::Table;
use super::truth::Truth;

/// Attempts at a set that is neither too open nor too closed.
const ATTEMPTS_MAX: usize = 400;

#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub name: String,
    pub permissive: bool,
    /// Of the policy: `public`, or names.
    pub roles: &'static str,
    pub expression: Expression,
}

impl Policy {
    pub(super) fn create(&self, table: &str) -> String {
        let Policy { name, roles, expression, .. } = self;
        let kind = if self.permissive { "permissive" } else { "restrictive" };
        let command = if name.len() % 2 == 0 { "select" } else { "all" };
        format!("create policy {name} on {table} as {kind} for {command} to {roles} using ({})", expression.sql)
    }
}

/// What the set looks like to whoever reads a failure.
pub(super) fn describe(table: &Table) -> String {
    table.policies.iter().map(|policy| policy.create(&table.name)).collect::<Vec<_>>().join("; ")
}

/// A fifth of them yes, a fifth no.
pub(super) fn is_balanced(shown: usize, asked: usize) -> bool {
    shown * 5 >= asked && asked.saturating_sub(shown) * 5 >= asked
}

/// One policy that is balanced for those whom it is for, judged by the rows that are there.
async fn policy(rng: &mut StdRng, truth: &Truth, persons: &[Person], table: &Table, permissive: bool) -> Policy {
    for _ in 0..ATTEMPTS_MAX {
        let roles = match rng.random_range(0..8) {
            0..=2 => "public",
            3..=5 => "authenticated",
            6 => "anon, authenticated",
            _ if permissive => "staff, guest",
            _ => "authenticated",
        };
        let name = format!("p{}", rng.random_range(0..100_000));
        let policy = Policy { name, permissive, roles, expression: expression(rng, &table.name) };
        // A restrictive one alone shows nothing: it is measured as if it were permissive.
        let alone = Policy { permissive: true, ..policy.clone() };
        let (shown, asked) = truth.measure(&[alone], persons, table, |person| is_for(roles, person.role)).await;
        if asked > 0 && is_balanced(shown, asked) {
            return policy;
        }
    }
    panic!("no balanced policy for {} in {ATTEMPTS_MAX} attempts", table.name)
}

/// As the roles of `persons::ROLES` are made.
fn is_for(roles: &str, role: &str) -> bool {
    match roles {
        "public" => true,
        "staff, guest" => matches!(role, "editor" | "guest"),
        "authenticated" => !matches!(role, "anon" | "guest"),
        _ => role != "guest",
    }
}

/// A set by which a row leads to people. Mostly it is for few: it is not measured.
fn that_lead(rng: &mut StdRng, table: &str) -> Vec<Policy> {
    let policy = |rng: &mut StdRng| Policy {
        name: format!("p{}", rng.random_range(0..100_000)),
        permissive: true,
        roles: "public",
        expression: leading(rng, table),
    };
    (0..*[1, 1, 1, 2].choose(rng).expect("not empty")).map(|_| policy(rng)).collect()
}

/// A balanced set: permissive ones, perhaps a restrictive one.
pub(super) async fn choose(rng: &mut StdRng, truth: &Truth, persons: &[Person], table: &Table) -> Vec<Policy> {
    if table.leads {
        return that_lead(rng, &table.name);
    }
    for _ in 0..ATTEMPTS_MAX {
        let mut policies = Vec::new();
        for _ in 0..*[1, 1, 2, 2, 3].choose(rng).expect("not empty") {
            policies.push(policy(rng, truth, persons, table, true).await);
        }
        if rng.random_bool(0.3) {
            policies.push(policy(rng, truth, persons, table, false).await);
        }
        let (shown, asked) = truth.measure(&policies, persons, table, |_| true).await;
        // Further inside than asked for: a history drifts.
        if shown * 4 >= asked && asked.saturating_sub(shown) * 4 >= asked {
            return policies;
        }
    }
    panic!("no balanced set of policies for {} in {ATTEMPTS_MAX} attempts", table.name)
}
