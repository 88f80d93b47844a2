//! Bytes that nobody would send: one function per reader of foreign input, fed with mutations of a kept corpus.
//!
//! `targets` has the functions: each takes any bytes, must not panic, and checks what must hold of the answer (its header
//! says what). `campaign` drives them on stable Rust from `corpus/<target>`; `cargo-fuzz/` drives the same functions with
//! coverage where a nightly is at hand. What once failed stays in the corpus as a file that is named after it.
//!
//! All targets share a budget of 30 seconds. For hours of it, and for one target alone:
//!
//! ```text
//! WALCAST_FUZZ_SECONDS=3600 WALCAST_FUZZ_TARGET=policy cargo test --test main fuzz::campaign -- --nocapture
//! WALCAST_FUZZ_CORPUS=write cargo test --test main fuzz::corpus       # makes the seeds anew
//! cd tests/fuzz/cargo-fuzz && mkdir -p corpus/policy && cargo +nightly fuzz run policy corpus/policy ../corpus/policy
//! ```

mod campaign;
mod corpus;
mod long;
mod mutate;
mod targets;
