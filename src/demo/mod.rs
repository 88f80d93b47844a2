//! A throw-away Postgres, for `walcast demo` and for the tests.

pub mod postgres;
