//! Policies decided in-process.
//!
//! A policy's own expression tree, with the bodies of the SQL functions it calls, becomes a [`Program`] over
//! (row, claims, now) with SQL's three-valued logic. The promise: the answer is Postgres' own, or there is none
//! ([`Failure::Undecided`]), and then Postgres is asked. No clock, no socket, no async.
//!
//! ```text
//! pg_node_tree ──tree──► Node ──lower──► Expr ──plan──► Program ──eval──► allowed, denied, undecided
//! ```

pub mod audience;
pub mod builtin;
mod calendar;
mod claims_read;
pub mod datum_type;
pub mod decode;
mod encode;
pub mod eval;
pub mod expr;
pub mod failure;
pub mod json;
pub mod lower;
pub mod program;
pub mod tree;
pub mod value;
mod walk;

pub use audience::{Audience, OfSlot, Values, Way};
pub use claims_read::claims_read;
pub use datum_type::DatumType;
pub use eval::{ChannelSettings, Person, Row, RowTypes, RowValues, Slots};
pub use expr::{Access, Expr, Query, Source};
pub use failure::{Failure, NotCompiled};
pub use lower::{compile, compile_check, not_compiled, tables_read};
pub use program::{Clause, Need, Program};
pub use value::Value;
