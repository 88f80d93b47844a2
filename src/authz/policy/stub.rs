use super::failure::Undecided;
use super::*;
use crate::authz::tracked::{Moment, Tables};
use crate::catalog::{Catalog, Relation, Role};
use std::sync::Arc;
pub struct Person<'a> {
    pub role: &'a str,
    pub claims: &'a str,
}
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slots(pub Box<[Result<Value, Failure>]>);
#[derive(Clone, Debug, PartialEq)]
pub struct RowTypes;
impl RowTypes {
    pub fn new(_: &Catalog, _: &Arc<Relation>) -> RowTypes {
        RowTypes
    }
}
pub struct RowValues<'a>(&'a crate::change::Row);
impl<'a> RowValues<'a> {
    pub fn new(row: &'a crate::change::Row, _: Option<&'a crate::change::Row>, _: Arc<RowTypes>) -> Self {
        RowValues(row)
    }
}
impl Program {
    pub fn slots_of(&self, _: &Person<'_>) -> Slots {
        Slots(Box::new([]))
    }
    pub fn decide(&self, row: &RowValues<'_>, _: &Slots, _: &Tables, _: Moment, _: i64) -> Result<bool, Undecided> {
        let _ = row.0;
        Ok(false)
    }
}
pub fn compile(_: &Catalog, _: &Arc<Relation>, _: &Role) -> Result<Program, NotCompiled> {
    Err(NotCompiled::Tree(String::new()))
}

impl Audience {
    pub fn standing(&self, _: &Program, _: &Slots) -> Option<audience::Standing> {
        None
    }
    pub fn led(&self, _: &RowValues<'_>, _: &Tables, _: Moment, _: i64) -> audience::Led {
        audience::Led::Everyone
    }
}
