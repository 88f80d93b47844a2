//! Which subscriptions a change matches.
//!
//! Given what clients ask for (`config.postgres_changes`), the catalog and one role; gives bound subscriptions, and for
//! each change the [`SubscriptionId`]s that match it. A filter is decided here only where the answer is provably
//! Postgres' own; otherwise the predicate carries a [`SqlTest`] and the match is reported as undecided.
//!
//! Knows no people: policies, grants on rows and sockets are the business of others. No async, no clock, no socket.

pub(crate) mod array_literal;
mod bind;
mod bytewise;
mod cast;
mod check;
mod filter;
mod index;
mod inspect;
pub(crate) mod like;
mod literal;
mod operators;
mod predicate;
mod slab;
mod sql_test;
mod subscription;

#[cfg(test)]
pub(crate) mod sample;

pub use bind::{BindError, Bound, BoundSubscription, bind};
pub use cast::{CastError, CastRequest, Casts};
pub use filter::{Clause, FilterError, Operator};
pub use index::{Matches, SubscriptionIndex};
pub use predicate::Predicate;
pub use sql_test::SqlTest;
pub use subscription::{Binding, BindingError, EventFilter, SubscriptionId};
