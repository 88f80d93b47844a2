//! Expressions at random, by their types: whatever programs are compiled from, in each other's company.
//!
//! What is known to be left to Postgres is not made (outer joins, GROUP BY, what fails on some rows of a sub-query): it
//! would prove nothing here.

mod conditions;
mod queries;
mod values;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::functions::Function;
use super::tables::{INNER, JUDGED, Type};

pub(super) struct Grammar<'a> {
    pub random: &'a mut StdRng,
    pub functions: &'a [Function],
    /// Names of what is in FROM are counted.
    aliases: usize,
}

#[derive(Clone)]
struct Variable {
    sql: String,
    of: Type,
}

/// What can be named at a place, the innermost query's last.
#[derive(Clone, Default)]
pub(super) struct Place {
    levels: Vec<Vec<Variable>>,
    /// In a query over tables: an error there is nobody's to know.
    in_query: bool,
    /// Of functions' bodies: arguments.
    in_body: bool,
    /// So much may still be nested.
    left: u32,
}

impl Place {
    /// The row of a judged table.
    pub fn of_row(table: &str) -> Place {
        let variable = |(name, of): &(&str, Type)| Variable { sql: format!("{table}.{name}"), of: *of };
        Place { levels: vec![JUDGED.iter().map(variable).collect()], left: 3, ..Place::default() }
    }

    /// A row of the inner table that has policies of its own.
    pub fn of_guarded() -> Place {
        let guarded = INNER.iter().find(|shape| shape.name == "guarded").expect("it is there");
        let variable = |(name, of): &(&str, Type)| Variable { sql: format!("guarded.{name}"), of: *of };
        Place {
            levels: vec![guarded.columns.iter().map(variable).collect()],
            in_query: true,
            left: 1,
            ..Place::default()
        }
    }

    /// The body of a function of these arguments.
    pub fn of_body(arguments: &[Type]) -> Place {
        let variable = |(n, of): (usize, &Type)| Variable { sql: format!("${}", n + 1), of: *of };
        Place {
            levels: vec![arguments.iter().enumerate().map(variable).collect()],
            in_body: true,
            left: 2,
            ..Place::default()
        }
    }

    fn deeper(&self) -> Place {
        Place { left: self.left.saturating_sub(1), ..self.clone() }
    }

    fn is_leaf(&self) -> bool {
        self.left == 0
    }
}

impl<'a> Grammar<'a> {
    pub fn new(random: &'a mut StdRng, functions: &'a [Function]) -> Grammar<'a> {
        Grammar { random, functions, aliases: 0 }
    }

    fn chance(&mut self, of_a_hundred: u32) -> bool {
        self.random.random_ratio(of_a_hundred, 100)
    }

    fn pick<'t>(&mut self, all: &[&'t str]) -> &'t str {
        all.choose(self.random).expect("not empty")
    }

    /// A column, the inner ones first.
    fn column(&mut self, of: Type, place: &Place) -> Option<String> {
        for (outward, level) in place.levels.iter().rev().enumerate() {
            let fitting: Vec<&Variable> = level.iter().filter(|variable| variable.of == of).collect();
            let is_last = outward + 1 == place.levels.len();
            if let Some(found) = fitting.choose(self.random)
                && (is_last || self.random.random_bool(0.65))
            {
                return Some(found.sql.clone());
            }
        }
        None
    }
}
