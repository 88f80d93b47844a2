use proptest::prelude::*;

use super::*;

const SAMPLE: &str = r#"{OPEXPR :opno 96 :opretset false :args ({VAR :varno 1 :varnullingrels (b)} {CONST :constvalue 4 [ 1 -1 0 127 ]}) :alias <> :name a\{b\ \)é :names ("x" "y\ z" "") :cols (o 23 25) :location -1}"#;

fn sample() -> Node<'static> {
    match read(SAMPLE).unwrap() {
        Tree::Node(node) => node,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_kind_of_value_is_read() {
    let node = sample();
    assert_eq!((node.name, node.int("opno"), node.flag("opretset")), ("OPEXPR", Ok(96), Ok(false)));
    assert_eq!(node.field("alias"), Some(&Tree::Null));
    assert_eq!(node.text("name").unwrap(), "a{b )é");
    let names: Vec<_> = node.list("names").unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(names, ["x", "y z", ""]);
    assert_eq!(node.field("cols").unwrap().as_numbers(), Some(vec![23, 25]));
    let [Tree::Node(var), Tree::Node(constant)] = node.list("args").unwrap() else { panic!("two nodes") };
    assert_eq!(var.field("varnullingrels").unwrap().as_numbers(), Some(vec![]));
    assert_eq!(constant.field("constvalue"), Some(&Tree::Datum { length: 4, bytes: vec![1, 255, 0, 127] }));
}

#[test]
fn fields_of_other_versions_count_when_they_say_something() {
    let node = sample();
    assert_eq!(node.unknown_field(&["opno", "args", "name", "names", "cols"]), None);
    assert_eq!(node.unknown_field(&["args", "name", "names", "cols"]), Some("opno"));
    assert!(!node.flag("added_later").unwrap());
}

#[test]
fn names_of_14_are_read_as_those_of_18() {
    assert_eq!(read("{CASE :args ({WHEN :x 1})}").unwrap(), read("{CASEEXPR :args ({CASEWHEN :x 1})}").unwrap());
}

#[test]
fn what_is_no_tree_is_an_error() {
    for text in
        ["", "{", "{A", "{A :b", "{A :b}", "(", ")", "}", "{A b c}", "{A :b 1 2}", "1 2", "2 [ 1 x ]", "2 [ 999 ]"]
    {
        assert!(read(text).is_err(), "{text}");
    }
}

#[test]
fn deep_nesting_is_refused_before_the_stack_is() {
    let deep = "(".repeat(100_000);
    assert_eq!(read(&deep), Err(TreeError::Depth));
}

proptest! {
    #[test]
    fn no_text_is_too_much(text in "[ (){}<>:\\[\\]\\\\a0-9é\n\"-]{0,200}") {
        let _ = read(&text);
    }

    #[test]
    fn no_damage_is_too_much(at in 0..SAMPLE.len(), len in 0usize..30, new in ".{0,5}") {
        let mut bytes = SAMPLE.as_bytes().to_vec();
        let end = (at + len).min(bytes.len());
        bytes.splice(at..end, new.bytes());
        let _ = read(&String::from_utf8_lossy(&bytes));
    }
}
