//! One test binary: it links once, and its tests share one throw-away Postgres.
//!
//! `support` has the parts that tests are told with; each other room says in its header what belongs there.

mod chaos;
mod conformance;
mod differential;
mod fault;
mod fuzz;
mod integration;
mod support;
