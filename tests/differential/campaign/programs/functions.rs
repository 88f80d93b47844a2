//! The functions of a world: strict or not, of whoever owns or whoever calls them, for everybody or for some.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::grammar::{Grammar, Place};
use super::tables::Type;

pub(super) struct Function {
    pub name: String,
    pub arguments: Vec<Type>,
    pub returns: Type,
    pub is_set: bool,
    /// It may raise an error, or not everybody may call it.
    pub fails: bool,
    pub create: String,
}

const SIGNATURES: [(&[Type], Type); 10] = [
    (&[Type::Int], Type::Bool),
    (&[Type::Uuid, Type::Int], Type::Bool),
    (&[Type::Text], Type::Bool),
    (&[], Type::Uuid),
    (&[Type::Int], Type::Int),
    (&[Type::Int, Type::Int], Type::Int),
    (&[], Type::Text),
    (&[Type::Bool], Type::Bool),
    (&[Type::Uuid], Type::Uuid),
    (&[Type::Int], Type::Date),
];

pub(super) fn choose(random: &mut StdRng) -> Vec<Function> {
    let mut functions: Vec<Function> = SIGNATURES
        .iter()
        .enumerate()
        .map(|(n, (arguments, returns))| function(random, n, arguments, *returns))
        .collect();
    functions.push(set(
        random,
        "set_of",
        "select m.org from public.members m where m.who = auth.uid()",
        &[],
        Type::Int,
    ));
    functions.push(restricted());
    functions
}

fn function(random: &mut StdRng, n: usize, arguments: &[Type], returns: Type) -> Function {
    let name = format!("f{n}");
    let body = Grammar::new(random, &[]).value(returns, &Place::of_body(arguments));
    let body = match random.random_range(0..10) {
        // What is not only an expression is called, not put in its place.
        0 => format!("select {body} where true"),
        1 if returns == Type::Bool => {
            format!("select exists (select from public.members m where m.org = 3 and m.who = auth.uid() and {body})")
        }
        2 if returns == Type::Bool && arguments.first() == Some(&Type::Int) => {
            "select exists (select from public.members m where m.org = $1 and m.who = auth.uid())".to_owned()
        }
        _ => format!("select {body}"),
    };
    let strict = random.random_bool(0.4);
    let create = create(random, &name, arguments, &returns.sql().replace("char(3)", "bpchar"), &body, strict);
    Function { name, arguments: arguments.to_vec(), returns, is_set: false, fails: true, create }
}

fn set(random: &mut StdRng, name: &str, body: &str, arguments: &[Type], returns: Type) -> Function {
    let create = create(random, name, arguments, &format!("setof {}", returns.sql()), body, false);
    let (name, arguments) = (name.to_owned(), arguments.to_vec());
    Function { name, arguments, returns, is_set: true, fails: true, create }
}

/// For some roles only; called where a row cannot pass without it, or where it can.
fn restricted() -> Function {
    let create = "create function for_some(x int) returns boolean language sql stable as 'select x < 4';
        revoke execute on function for_some(int) from public;
        grant execute on function for_some(int) to authenticated, staff"
        .to_owned();
    let name = "for_some".to_owned();
    // By no place's choice: policies call it where it says something.
    let (arguments, returns) = (vec![Type::Int], Type::Interval);
    Function { name, arguments, returns, is_set: false, fails: true, create }
}

fn create(random: &mut StdRng, name: &str, arguments: &[Type], returns: &str, body: &str, strict: bool) -> String {
    let arguments: Vec<&str> = arguments.iter().map(|of| of.sql()).collect();
    let definer = random.random_bool(0.3);
    let kind = if definer { "security definer" } else { "" };
    let strict = if strict { "strict" } else { "" };
    let path =
        *["", "", "set search_path = ''", "set search_path = public, pg_temp"].choose(random).expect("not empty");
    // Names in it are others' under an empty path.
    let path = if body.contains("mood") || body.contains(" from ") && !body.contains("public.") { "" } else { path };
    let body =
        if random.random_bool(0.3) { format!("begin atomic {body}; end") } else { format!("as $body$ {body} $body$") };
    let owner = if definer && random.random_bool(0.4) {
        format!("; alter function {name}({}) owner to keeper", arguments.join(", "))
    } else {
        String::new()
    };
    format!(
        "create function {name}({}) returns {returns} language sql stable {strict} {kind} {path} {body}{owner}",
        arguments.join(", ")
    )
}
