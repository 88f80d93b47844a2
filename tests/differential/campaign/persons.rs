//! Who subscribes: some ordinary users, some with claims that are not what policies expect, some of other roles.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use crate::support::relay::JWT_SECRET;

/// Made once per cluster. `editor` inherits `authenticated` and sometimes `staff`, `guest` is a member without
/// inheritance, `keeper` owns tables, and `auditor` is sometimes a member of it. None is ever exempt by an attribute: the
/// oracle, who may become each of them, would refuse to work.
pub(super) const ROLES: &str = "
    create role anon nologin;
    create role authenticated nologin;
    create role service_role nologin bypassrls;
    create role staff nologin;
    create role editor nologin inherit in role authenticated, staff;
    create role guest nologin noinherit in role authenticated;
    create role auditor nologin inherit in role authenticated;
    create role keeper nologin inherit in role authenticated;
    create role authenticator login noinherit;
    grant anon, authenticated, editor, guest, auditor, keeper to authenticator;";

/// Those whose grants a history plays with.
pub(super) const GRANTEES: [&str; 3] = ["anon", "authenticated", "guest"];

pub(super) struct Person {
    pub name: String,
    pub role: &'static str,
    /// The token's payload, exactly as it is signed.
    pub claims: String,
    pub token: String,
    /// For the subscriptions to all tables of the history.
    pub filter: Option<Filter>,
}

pub(super) struct Filter {
    /// As the client says it.
    pub text: &'static str,
    /// The same in SQL.
    pub sql: &'static str,
    /// Of which operations, as the client says it.
    pub event: &'static str,
}

impl Filter {
    pub(super) fn wants(&self, operation: &str) -> bool {
        self.event == "*" || self.event == operation
    }
}

const FILTERS: [Filter; 4] = [
    Filter { text: "n=gt.50", sql: "n > 50", event: "*" },
    Filter { text: "id=gte.40", sql: "id >= 40", event: "UPDATE" },
    Filter { text: "org=in.(1,2,5)", sql: "org in (1, 2, 5)", event: "*" },
    Filter { text: "kind=eq.public", sql: "kind = 'public'", event: "INSERT" },
];

impl Person {
    /// `exp` and `iat` are rounded, so that a seed gives the same claims all day.
    fn new(name: String, role: &'static str, claims: Value, filter: Option<Filter>) -> Person {
        let today = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() / 86_400 * 86_400;
        let mut payload = json!({ "role": role, "iat": today, "exp": today + 3 * 86_400 });
        payload.as_object_mut().expect("an object").extend(claims.as_object().expect("an object").clone());
        let key = EncodingKey::from_secret(JWT_SECRET.as_bytes());
        let token = jsonwebtoken::encode(&Header::default(), &payload, &key).expect("HS256 signs any claims");
        Person { name, role, claims: payload.to_string(), token, filter }
    }

    /// Another token for the same person: what it says of organizations and roles has changed.
    pub(super) fn renew(&mut self, rng: &mut StdRng) {
        let claims: Value = serde_json::from_str(&self.claims).expect("claims are JSON");
        if let Some(user) = claims["sub"].as_str().filter(|_| claims["aal"].is_string()) {
            let person = Person::new(self.name.clone(), self.role, ordinary(rng, user), self.filter.take());
            *self = person;
        }
    }

    /// The rows of its role are decided by grants alone.
    pub(super) fn is_exempt(&self) -> bool {
        self.role == "service_role"
    }
}

/// The ids of users; the last two never sign in.
pub(super) fn user_ids() -> Vec<String> {
    (1..=10).map(|n| format!("{n:08x}-0000-4000-8000-00000000000{}", n % 10)).collect()
}

pub(super) fn choose(rng: &mut StdRng) -> Vec<Person> {
    let users = user_ids();
    let mut persons = Vec::new();
    for (n, user) in users.iter().enumerate().take(8) {
        let role = match n {
            5 => "editor",
            6 => *["auditor", "keeper", "authenticated"].choose(rng).expect("not empty"),
            _ => "authenticated",
        };
        persons.push(Person::new(format!("user{n}"), role, ordinary(rng, user), None));
    }
    persons.push(Person::new("guest".into(), "guest", ordinary(rng, &users[1]), None));
    persons.push(Person::new("anon".into(), "anon", json!({}), None));
    for filter in FILTERS.into_iter().take(rng.random_range(2..=4)) {
        let user = users[..8].choose(rng).expect("not empty").clone();
        persons.push(Person::new(
            format!("{user} {}", filter.text),
            "authenticated",
            ordinary(rng, &user),
            Some(filter),
        ));
    }
    let others = odd(rng, &users);
    // Without them nothing is left open, and everything that programs decide is judged as of its commit.
    let count = if rng.random_bool(0.5) { 0 } else { rng.random_range(1..=others.len()) };
    for (name, role, claims) in others.into_iter().take(count) {
        persons.push(Person::new(name.into(), role, claims, None));
    }
    persons
}

/// What a token of a signed-in user says.
fn ordinary(rng: &mut StdRng, user: &str) -> Value {
    let orgs: Vec<u32> = (1..=6).filter(|_| rng.random_bool(0.4)).collect();
    let org = rng.random_range(1..=6);
    let role = *["admin", "member", "viewer"].choose(rng).expect("not empty");
    let level = *["aal1", "aal2"].choose(rng).expect("not empty");
    json!({
        "sub": user, "aud": "authenticated", "email": format!("{}@org{org}.test", &user[..8]), "aal": level,
        "app_metadata": { "org": org, "orgs": orgs, "role": role, "level": rng.random_range(0..6) },
        "user_metadata": { "name": "O'Hara \u{1F980} \"q\"", "kinds": ["public", "draft"] },
    })
}

/// Claims that policies do not expect: missing, of another type, or nonsense.
fn odd(rng: &mut StdRng, users: &[String]) -> Vec<(&'static str, &'static str, Value)> {
    let mut persons = vec![
        ("service", "service_role", json!({})),
        ("no sub", "authenticated", json!({ "app_metadata": { "org": 1 } })),
        ("sub no uuid", "authenticated", json!({ "sub": "me", "app_metadata": { "org": "one", "orgs": "all" } })),
        (
            "texts",
            "authenticated",
            json!({ "sub": users[0], "app_metadata": { "org": "2", "orgs": ["1", "2", null] } }),
        ),
        ("null", "authenticated", json!({ "sub": null, "app_metadata": null, "aal": null })),
        ("no object", "authenticated", json!({ "sub": users[2], "app_metadata": "text", "email": 7 })),
        ("anon with sub", "anon", json!({ "sub": users[3], "app_metadata": { "org": 3, "orgs": [3] } })),
        ("nested", "authenticated", json!({ "sub": users[4], "app_metadata": { "org": [1], "orgs": { "1": true } } })),
        (
            "editor 2",
            "editor",
            json!({ "sub": users[0], "app_metadata": { "org": 4, "orgs": [4, 5, 6], "role": "admin" } }),
        ),
        ("guest 2", "guest", json!({})),
    ];
    for n in (1..persons.len()).rev() {
        persons.swap(n, rng.random_range(0..=n));
    }
    persons
}
