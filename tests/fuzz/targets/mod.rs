//! What is fuzzed. The functions know nothing of who drives them: `cargo-fuzz/` includes this file, too.
//!
//! An input of several parts has them between the separators of ASCII: records, and units in a record.

mod datum;
mod filter;
mod join;
mod pgoutput;
mod phoenix;
pub mod policy;
mod session;
pub mod token;
mod words;
pub mod world;

pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

pub const TARGETS: &[Target] = &[
    Target { name: "pgoutput", run: pgoutput::fuzz_pgoutput },
    Target { name: "phoenix", run: phoenix::fuzz_phoenix },
    Target { name: "session", run: session::fuzz_session },
    Target { name: "join", run: join::fuzz_join },
    Target { name: "filter", run: filter::fuzz_filter },
    Target { name: "policy", run: policy::fuzz_policy },
    Target { name: "datum", run: datum::fuzz_datum },
    Target { name: "token", run: token::fuzz_token },
    Target { name: "conninfo", run: words::fuzz_conninfo },
    Target { name: "forwarded", run: words::fuzz_forwarded },
];

/// Runs the target of that name, which there must be.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target");
    (target.run)(data);
}

/// Between the parts of an input.
pub const RECORD: u8 = 0x1e;
/// Between the parts of a part.
pub const UNIT: u8 = 0x1f;

fn parts(data: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    data.split(move |byte| *byte == separator)
}
