//! Sets of policies: several permissive and restrictive ones, for everybody or for some.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::functions::Function;
use super::grammar::{Grammar, Place};

pub(super) struct Policy {
    name: String,
    permissive: bool,
    command: &'static str,
    roles: &'static str,
    pub expression: String,
}

impl Policy {
    pub fn create(&self, table: &str) -> String {
        let Policy { name, command, roles, expression, .. } = self;
        let kind = if self.permissive { "permissive" } else { "restrictive" };
        format!("create policy {name} on {table} as {kind} for {command} to {roles} using ({expression})")
    }
}

/// A set for a table.
pub(super) fn choose(random: &mut StdRng, functions: &[Function], table: &str) -> Vec<Policy> {
    let permissive = *[1, 1, 1, 2, 2, 3].choose(random).expect("not empty");
    let restrictive = *[0, 0, 0, 1, 1, 2].choose(random).expect("not empty");
    let mut policies: Vec<Policy> =
        (0..permissive + restrictive).map(|n| policy(random, functions, table, n < permissive)).collect();
    if random.random_bool(0.06) {
        // The role may not call it: of several policies the others still count.
        let place = random.random_range(0..policies.len());
        let expression = &policies[place].expression;
        policies[place].expression = if random.random_bool(0.7) {
            format!("for_some({table}.a) and ({expression})")
        } else {
            format!("for_some({table}.a)")
        };
    }
    policies
}

fn policy(random: &mut StdRng, functions: &[Function], table: &str, permissive: bool) -> Policy {
    // Their order among each other is that of their names.
    let name = format!("{}{}", ["a", "m", "z"].choose(random).expect("not empty"), random.random_range(0..100_000));
    let command = if random.random_bool(0.5) { "select" } else { "all" };
    let roles = match random.random_range(0..10) {
        0..=5 => "public",
        6 => "authenticated, anon",
        7 => "staff, keeper, anon, guest",
        8 => "authenticated",
        _ => "anon, staff, authenticated, keeper",
    };
    let expression = Grammar::new(random, functions).policy(&Place::of_row(table));
    Policy { name, permissive, command, roles, expression }
}

/// Those of the inner table that has some.
pub(super) fn of_guarded(random: &mut StdRng) -> String {
    let condition = Grammar::new(random, &[]).condition(&Place::of_guarded());
    format!(
        "alter table guarded enable row level security;
         create policy mine on guarded using (who = auth.uid() or flag);
         create policy other on guarded for select to authenticated, staff using ({condition});
         create policy but on guarded as restrictive using (org is distinct from 3);"
    )
}
