//! `walcast`: see the library's documentation for the map of the house.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    walcast::cli::Cli::parse().run()
}
