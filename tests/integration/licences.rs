//! What `cargo deny check licenses bans sources` says by deny.toml, where cargo-deny is not at hand: CI builds nothing for
//! it. Advisories are not looked at here, since they come from a database.

use std::collections::HashSet;
use std::process::Command;

use serde_json::Value;

const DENY: &str = include_str!("../../deny.toml");

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The quoted strings of what follows a key, up to a bracket.
fn listed(key: &str) -> HashSet<&'static str> {
    let after = DENY.split_once(key).unwrap_or_else(|| panic!("deny.toml has no {key:?}")).1;
    let list = after.split_once(']').expect("a list").0;
    list.split('"').skip(1).step_by(2).collect()
}

/// Everything that is built on this machine, tests included.
fn packages() -> Vec<Value> {
    let version = Command::new("rustc").arg("-vV").output().expect("rustc runs").stdout;
    let version = String::from_utf8(version).expect("text");
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let asked = ["metadata", "--format-version", "1", "--locked", "--all-features", "--filter-platform", host];
    let output = Command::new(cargo).args(asked).current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let resolved: HashSet<&str> =
        metadata["resolve"]["nodes"].as_array().expect("nodes").iter().filter_map(|node| node["id"].as_str()).collect();
    let packages = metadata["packages"].as_array().expect("packages").iter();
    packages.filter(|package| package["id"].as_str().is_some_and(|id| resolved.contains(id))).cloned().collect()
}

/// Whether an SPDX expression is met by the allowed licences; `/` is an older way to write OR.
fn is_met(expression: &str, allowed: &HashSet<&str>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any_of(&words, &mut at, allowed);
    met && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize, allowed: &HashSet<&str>) -> bool {
    let mut met = all_of(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all_of(words, at, allowed);
    }
    met
}

fn all_of(words: &[&str], at: &mut usize, allowed: &HashSet<&str>) -> bool {
    let mut met = licence(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= licence(words, at, allowed);
    }
    met
}

fn licence(words: &[&str], at: &mut usize, allowed: &HashSet<&str>) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let met = any_of(words, at, allowed);
        *at += 1;
        return met;
    }
    // An exception is another licence, and none is allowed.
    if words.get(*at) == Some(&"WITH") {
        *at += 2;
        return false;
    }
    allowed.contains(word)
}

#[test]
fn expressions_are_read_as_spdx_has_them() {
    let allowed = HashSet::from(["MIT", "Zlib"]);
    for good in
        ["MIT", "MIT OR GPL-3.0", "GPL-3.0/MIT", "(GPL-3.0 OR MIT) AND Zlib", "Apache-2.0 WITH LLVM-exception OR MIT"]
    {
        assert!(is_met(good, &allowed), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "MIT WITH exception", "(MIT OR Zlib) AND GPL-3.0", "MIT Zlib"] {
        assert!(!is_met(bad, &allowed), "{bad}");
    }
}

#[test]
fn licences_crates_and_sources_are_those_that_deny_toml_allows() {
    let (allowed, denied) = (listed("[licenses]"), listed("deny = ["));
    assert!(
        allowed.contains("MIT") && denied.contains("openssl-sys"),
        "deny.toml is read wrongly: {allowed:?} {denied:?}"
    );
    let (mut wrong, packages) = (Vec::new(), packages());
    for package in &packages {
        let text = |key: &str| package[key].as_str().unwrap_or_default();
        if !is_met(text("license"), &allowed) {
            wrong.push(format!("{} {}: licence {:?}", text("name"), text("version"), text("license")));
        }
        if denied.contains(text("name")) {
            wrong.push(format!("{} is banned", text("name")));
        }
        if text("name") != "walcast" && text("source") != CRATES_IO {
            wrong.push(format!("{} comes from {:?}", text("name"), text("source")));
        }
    }
    let own = packages.iter().find(|package| package["name"] == "walcast").expect("walcast");
    let wildcards = own["dependencies"].as_array().expect("dependencies").iter().filter(|one| one["req"] == "*");
    wrong.extend(wildcards.map(|one| format!("{} has no version", one["name"])));
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(packages.len() > 100, "only {} packages were looked at", packages.len());
}
