//! Who asks: roles of all kinds, and claims that policies expect or do not.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

/// `editor` inherits, `guest` is a member without inheritance, `chief` inherits by way of `staff`, `heir` inherits from an
/// owner of tables. Policies run on `oracle`.
pub(super) const ROLES: &str = "
    create role anon nologin;
    create role authenticated nologin;
    create role service_role nologin bypassrls;
    create role staff nologin;
    create role editor nologin inherit in role authenticated, staff;
    create role guest nologin noinherit in role authenticated;
    create role chief nologin inherit in role staff;
    create role keeper nologin;
    create role heir nologin inherit in role keeper;
    create role oracle login noinherit in role anon, authenticated, staff, editor, guest, chief, keeper, heir;";

pub(super) const NAMES: [&str; 8] =
    ["anon", "authenticated", "editor", "guest", "chief", "keeper", "heir", "authenticated"];

pub(super) const MOODS: [&str; 4] = ["sad", "ok", "happy", "so so"];

pub(super) struct Person {
    pub role: &'static str,
    pub claims: String,
}

/// Few, so that rows are somebody's.
pub(super) fn user_ids() -> Vec<String> {
    (1..=4).map(|n| format!("{n:08x}-0000-4000-8000-00000000000{n}")).collect()
}

pub(super) fn choose(random: &mut StdRng, count: usize) -> Vec<Person> {
    let mut people = Vec::new();
    for n in 0..count {
        let role = if n < 5 { "authenticated" } else { NAMES[n % NAMES.len()] };
        let claims = match n {
            0..=7 => ordinary(random, role, n).to_string(),
            8 => String::new(),
            _ => odd(random, role).to_string(),
        };
        people.push(Person { role, claims });
    }
    people
}

fn ordinary(random: &mut StdRng, role: &str, n: usize) -> Value {
    let users = user_ids();
    let orgs: Vec<u32> = (0..7).filter(|_| random.random_bool(0.4)).collect();
    let uids: Vec<&String> = users.iter().filter(|_| random.random_bool(0.4)).collect();
    let word = *["a", "b", "ab", "abc", "\u{e9}"].choose(random).expect("not empty");
    json!({
        "sub": users[n % users.len()], "role": role, "email": format!("{word}@x.test"), "aal": format!("aal{}", n % 2 + 1),
        "word": word, "ok": random.random_bool(0.5), "org": random.random_range(0..7), "orgs": orgs, "uids": uids,
        "app_metadata": { "org": random.random_range(0..7).to_string(), "level": random.random_range(0..7), "words": [word, "x"] },
        "until": if n == 3 { "Jan 31 2024 10:00 UTC" } else { "2024-01-31T10:00:00Z" },
    })
}

/// Each claim missing, NULL, of another type, or nonsense.
fn odd(random: &mut StdRng, role: &str) -> Value {
    let user = random.random_range(0..4);
    let mut claims = ordinary(random, role, user);
    let object = claims.as_object_mut().expect("an object");
    let names: Vec<String> = object.keys().cloned().collect();
    for name in names {
        let other = match random.random_range(0..10) {
            0 => {
                object.remove(&name);
                continue;
            }
            1..=2 => Value::Null,
            3 => json!("nonsense"),
            4 => json!([1, null, "2"]),
            5 => json!({ "org": null, "level": "three" }),
            _ => continue,
        };
        object.insert(name, other);
    }
    claims
}
