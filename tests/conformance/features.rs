//! The table of features, FEATURES.md: each row names what shows it, and what it names exists.
//!
//! - `conformance: join_leave` is a recorded case that is played (the beginning of its name);
//! - `integration::websocket::pongs_never_land_inside_a_frame` is a test of this crate, `channels::hub::..` one of the library;
//! - `js: <title>` and `py: <name>` are tests of the published clients;
//! - `does not apply: <why>` is for the few rows that may.

use std::path::{Path, PathBuf};

use super::{is_played, transcript};

const TABLE: &str = include_str!("FEATURES.md");

/// Rows that may say why they do not apply to walcast: long-poll, a tenant's default for presence, dropping above a rate,
/// the admin API of many tenants, and the sweep of sockets without channels.
const MAY_NOT_APPLY: [u32; 5] = [16, 58, 105, 115, 122];
const ROWS: u32 = 124;

#[test]
fn every_feature_names_the_test_that_shows_it() {
    let mut wrong = Vec::new();
    let mut next = 1;
    for row in TABLE.lines().filter_map(Row::parse) {
        assert_eq!(row.number, next, "rows are numbered without gaps");
        next += 1;
        if row.shown_by.is_empty() {
            wrong.push(format!("{}: nothing shows \"{}\"", row.number, row.feature));
        }
        for shown in &row.shown_by {
            if let Err(error) = check(row.number, shown) {
                wrong.push(format!("{}: {error}", row.number));
            }
        }
    }
    assert_eq!(next - 1, ROWS, "a row is missing");
    assert!(wrong.is_empty(), "{} of the table's entries are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

struct Row<'a> {
    number: u32,
    feature: &'a str,
    shown_by: Vec<&'a str>,
}

impl<'a> Row<'a> {
    /// `None`: the line is no feature.
    fn parse(line: &'a str) -> Option<Row<'a>> {
        let cells: Vec<&str> =
            line.strip_prefix('|')?.trim_end().strip_suffix('|')?.split('|').map(str::trim).collect();
        let number = cells.first()?.parse().ok()?;
        let shown_by = match cells.get(5) {
            Some(shown) => shown.split('`').skip(1).step_by(2).collect(),
            None => Vec::new(),
        };
        Some(Row { number, feature: cells[1], shown_by })
    }
}

fn check(number: u32, shown: &str) -> Result<(), String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    if let Some(why) = shown.strip_prefix("does not apply: ") {
        let may = MAY_NOT_APPLY.contains(&number) && !why.is_empty();
        return may.then_some(()).ok_or(format!("may not say \"{shown}\""));
    }
    if let Some(case) = shown.strip_prefix("conformance: ") {
        let cases = transcript::all();
        let known = cases.iter().any(|known| known.name.starts_with(case) && is_played(&known.name));
        return known.then_some(()).ok_or(format!("no case {case:?} is played"));
    }
    if let Some(title) = shown.strip_prefix("js: ") {
        return find(&here.join("tests/js"), "mjs", &[&format!("test('{title}'"), &format!("test(\"{title}\"")]);
    }
    if let Some(name) = shown.strip_prefix("py: ") {
        return find(&here.join("tests/py"), "py", &[&format!("def {name}(")]);
    }
    let (module, function) = shown.rsplit_once("::").ok_or(format!("{shown:?} is no test"))?;
    let first = module.split("::").next().unwrap_or_default();
    let root = match first {
        "integration" | "fault" | "differential" | "conformance" => here.join("tests"),
        _ => here.join("src"),
    };
    // The module's own file, or that of one above it that has it inline.
    let mut path = root.join(module.replace("::", "/"));
    loop {
        for file in [path.with_extension("rs"), path.join("mod.rs")] {
            if std::fs::read_to_string(&file).is_ok_and(|source| has_test(&source, function)) {
                return Ok(());
            }
        }
        if !path.pop() || path == root {
            return Err(format!("there is no test {shown}"));
        }
    }
}

/// Whether the function is there, and is a test.
fn has_test(source: &str, function: &str) -> bool {
    let lines: Vec<&str> = source.lines().collect();
    let signature = format!("fn {function}(");
    lines.iter().enumerate().any(|(at, line)| {
        line.contains(&signature)
            && lines[at.saturating_sub(4)..at].iter().any(|line| line.trim().starts_with("#[") && line.contains("test"))
    })
}

/// Whether a file of this kind in the directory has one of the texts.
fn find(directory: &Path, extension: &str, texts: &[&str]) -> Result<(), String> {
    let files = std::fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut paths = files.filter_map(|file| Some(file.ok()?.path()));
    let has = |path: PathBuf| {
        path.extension().is_some_and(|is| is == extension)
            && std::fs::read_to_string(path).is_ok_and(|source| texts.iter().any(|text| source.contains(text)))
    };
    paths.any(has).then_some(()).ok_or(format!("no test has {texts:?}"))
}
