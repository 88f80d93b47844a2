//! Policies decided in-process.
//!
//! A policy's own expression tree, with the bodies of the SQL functions it calls, becomes a [`Program`] over
//! (row, claims, now) with SQL's three-valued logic. The promise: the answer is Postgres' own, or there is none
//! ([`Failure::Undecided`]), and then Postgres is asked. No clock, no socket, no async.
//!
//! ```text
//! pg_node_tree ──tree──► Node ──lower──► Expr ──plan──► Program ──eval──► allowed, denied, undecided
//! ```

pub mod builtin;
mod calendar;
pub mod datum_type;
pub mod decode;
mod encode;
pub mod eval;
pub mod expr;
pub mod failure;
pub mod json;
pub mod program;
pub mod value;

pub use datum_type::DatumType;
pub use eval::{Person, Row, RowTypes, RowValues, Slots};
pub use expr::{Access, Expr, Query, Source};
pub use failure::{Failure, NotCompiled};
pub use program::{Clause, Need, Program};
pub use value::Value;
