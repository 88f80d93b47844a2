//! `walcast demo`: a throw-away Postgres with a chat, the relay, and a scripted conversation. [`postgres`] is the tests'
//! too, and [`client`] is what `walcast tail` listens with.

pub mod client;
pub mod postgres;
mod relay;
mod run;
mod script;
mod writer;

pub use run::{DemoError, Options, run};
