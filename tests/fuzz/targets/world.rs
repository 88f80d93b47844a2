//! The catalog that filters and policies are read against: `world.sql`, as walcast read it once.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use serde::Deserialize;
use serde_json::value::RawValue;
use walcast::catalog::{Catalog, Relation, Roles, SessionFacts, State};
use walcast::change::{Layout, Row};
use walcast::wal::pgoutput::{Field, Tuple};

use super::{UNIT, parts};

#[derive(Deserialize)]
struct World {
    state: Box<RawValue>,
    roles: Box<RawValue>,
    bodies: HashMap<u32, Arc<str>>,
    roles_of_bodies: Vec<u32>,
}

/// Made by `WALCAST_FUZZ_CORPUS=write`: also when the document's format has changed.
pub fn catalog() -> &'static Catalog {
    static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
        let world: World = serde_json::from_str(include_str!("../world.json")).expect("world.json");
        let state = State::parse(world.state.get()).expect("the state of world.json");
        let roles = Roles::parse(world.roles.get()).expect("the roles of world.json");
        let mut catalog = Catalog::from_state(state, Arc::new(roles), 1).expect("a catalog");
        catalog.session = Arc::new(SessionFacts {
            bodies: world.bodies.into_iter().map(|(oid, tree)| (oid, Ok(tree))).collect(),
            roles: world.roles_of_bodies.into_iter().collect(),
            time_zone: "UTC".into(),
            date_style: "ISO, MDY".into(),
            interval_style: "postgres".into(),
            is_utf8: true,
            ..SessionFacts::default()
        });
        catalog
    });
    &CATALOG
}

pub fn table(name: &str) -> Option<&'static Arc<Relation>> {
    catalog().relations.values().find(|relation| relation.name == name)
}

/// A row of units, one for a column: `\N` is NULL, `\U` an unchanged TOAST value; what is missing is NULL.
pub fn row(relation: &Arc<Relation>, units: &[u8]) -> Row {
    let layout = Arc::new(Layout::identity(Arc::clone(relation)));
    let mut values: Vec<Option<&[u8]>> = parts(units, UNIT).take(relation.columns.len()).map(Some).collect();
    values.resize(relation.columns.len(), None);
    let is_toast: Vec<bool> = values.iter().map(|value| *value == Some(b"\\U")).collect();
    let values = values.into_iter().map(|value| value.filter(|value| !matches!(*value, b"\\N" | b"\\U")));
    let mut tuple = Tuple::from_values(values);
    for (field, is_toast) in tuple.fields.iter_mut().zip(is_toast) {
        if is_toast {
            *field = Field::UnchangedToast;
        }
    }
    Row { layout, tuple, key_only: false }
}
