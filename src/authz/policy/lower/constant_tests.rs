use super::*;
use crate::authz::policy::json::Json;
use crate::authz::policy::tree;
use crate::catalog::{Catalog, Role};

/// `{CONST ..}` as Postgres prints it: type, length, bytes.
fn constant(oid: Oid, by_value: bool, length: i32, datum: &str) -> Result<Value, NotCompiled> {
    let text = format!(
        "{{CONST :consttype {oid} :consttypmod -1 :constcollid 0 :constlen {length} :constbyval {by_value} \
         :constisnull false :location 9 :constvalue {datum}}}"
    );
    let catalog = Catalog::default();
    let role = Role { oid: 1, name: "r".into(), superuser: false, bypass_rls: false, inherits: [1].into() };
    let tree = tree::read(&text).unwrap();
    match Lowering::new(&catalog, &role).constant(tree.as_node().unwrap())? {
        Expr::Const(value) => Ok(value),
        other => panic!("{other:?}"),
    }
}

#[test]
fn datums_by_value_and_by_reference() {
    let cases = [
        (23, true, 4, "4 [ -2 -1 -1 -1 -1 -1 -1 -1 ]", Value::Int(-2)),
        (16, true, 1, "1 [ 1 0 0 0 0 0 0 0 ]", Value::Bool(true)),
        (25, false, -1, "5 [ 20 0 0 0 97 ]", Value::text("a")),
        (25, false, -1, "4 [ 16 0 0 0 ]", Value::text("")),
        (1082, true, 4, "4 [ -119 28 0 0 0 0 0 0 ]", Value::Date(7305)),
        (1009, false, -1, "16 [ 64 0 0 0 0 0 0 0 0 0 0 0 25 0 0 0 ]", Value::Array([].into())),
    ];
    for (oid, by_value, length, datum, value) in cases {
        assert_eq!(constant(oid, by_value, length, datum), Ok(value), "{datum}");
    }
}

#[test]
fn numerics_keep_their_scale() {
    let Value::Numeric(value) = constant(1700, false, -1, "10 [ 40 0 0 0 0 -127 5 0 -60 9 ]").unwrap() else {
        panic!()
    };
    assert_eq!(value.to_string(), "5.25");
    assert!(constant(1700, false, -1, "6 [ 24 0 0 0 0 -64 ]").is_err(), "NaN");
}

#[test]
fn jsonb_is_read_as_it_is_stored() {
    let datum = "30 [ 120 0 0 0 1 0 0 32 1 0 0 -128 13 0 0 16 97 0 0 0 40 0 0 0 -128 -128 1 0 -120 19 ]";
    let Value::Jsonb(json) = constant(3802, false, -1, datum).unwrap() else { panic!() };
    let Json::Object(pairs) = &*json else { panic!("{json:?}") };
    assert_eq!(&*pairs[0].0, "a");
    assert_eq!(pairs[0].1, Json::Number("1.5".parse().unwrap()));
}

#[test]
fn arrays_of_text_with_padding() {
    let datum = "40 [ -96 0 0 0 1 0 0 0 0 0 0 0 25 0 0 0 2 0 0 0 1 0 0 0 20 0 0 0 97 0 0 0 20 0 0 0 98 0 0 0 ]";
    let wanted = Value::Array([Value::text("a"), Value::text("b")].into());
    assert_eq!(constant(1009, false, -1, datum), Ok(wanted));
}

#[test]
fn damaged_datums_are_refused() {
    let refused = [
        (23, true, 4, "4 [ 1 0 0 0 ]"),
        (23, true, 4, "2 [ 1 0 0 0 0 0 0 0 ]"),
        (16, true, 1, "1 [ 7 0 0 0 0 0 0 0 ]"),
        (25, false, -1, "5 [ 99 0 0 0 97 ]"),
        (25, false, -1, "5 [ 20 0 0 0 -1 ]"),
        (25, false, -1, "5 [ 22 0 0 0 97 ]"),
        (2950, false, 16, "3 [ 1 2 3 ]"),
        (3802, false, -1, "8 [ 32 0 0 0 1 0 0 32 ]"),
        (3802, false, -1, "8 [ 32 0 0 0 -1 -1 -1 47 ]"),
        (1009, false, -1, "8 [ 32 0 0 0 1 0 0 0 ]"),
        (1009, false, -1, "24 [ 96 0 0 0 1 0 0 0 0 0 0 0 25 0 0 0 -1 -1 -1 127 1 0 0 0 ]"),
        (1009, false, -1, "24 [ 96 0 0 0 1 0 0 0 -1 -1 -1 -1 25 0 0 0 2 0 0 0 1 0 0 0 ]"),
    ];
    for (oid, by_value, length, datum) in refused {
        assert!(constant(oid, by_value, length, datum).is_err(), "{datum}");
    }
}
