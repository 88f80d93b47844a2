//! Postgres' own functions and casts as policies' programs evaluate them, against Postgres.
//!
//! Random and extreme arguments. The answer is Postgres' value, its error, or "undecided", which no function may say of
//! half of its calls.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio_postgres::Client;
use walcast::authz::policy::builtin::{self, Builtin};
use walcast::authz::policy::decode::{decode, encode};
use walcast::authz::policy::{DatumType, Failure, Value};

use super::policy_values::{MOODS, literal, quoted, spelling};
use super::{number_from_env, random};
use crate::support::database::Database;

/// A function that says `V` and the value as its output function prints it, NULL, or `E` and the error.
const SESSION: &str = "
set timezone = 'UTC'; set datestyle = 'ISO'; set extra_float_digits = 3; set bytea_output = 'hex';
set intervalstyle = 'postgres'; set client_encoding = 'UTF8';
create type mood as enum ('sad', 'ok', 'so so');
create function tried(expression text) returns text language plpgsql as $$
declare answer text;
begin
  execute 'select case when value is null then null else ''V'' || format(''%s'', value) end from (select '
    || expression || ') as s(value)' into answer;
  return answer;
exception when others then return 'E' || sqlerrm;
end $$;";

/// A function as the server declares it.
struct Declared {
    builtin: &'static Builtin,
    name: String,
    args: Vec<String>,
    result: String,
    is_set: bool,
    is_variadic: bool,
}

/// One call: in SQL, and what it gives here.
struct Call {
    sql: String,
    result: DatumType,
    ours: Result<Value, Failure>,
}

#[derive(Default)]
struct Tally {
    calls: usize,
    values: usize,
    errors: usize,
    undecided: usize,
    /// The value is right or wrong, but its text is undecided on both ways.
    unreadable: usize,
    differences: Vec<String>,
}

#[tokio::test]
async fn builtins() {
    let (mut random, seed) = random();
    let calls = number_from_env("WALCAST_DIFFERENTIAL_BUILTINS").unwrap_or(200) as usize;
    let database = Database::create().await;
    let client = &database.client;
    client.batch_execute(SESSION).await.unwrap();
    let (mut total, mut differences, mut evasive) = (Tally::default(), Vec::new(), Vec::new());
    for function in declared(client).await {
        let mut tally = Tally::default();
        let made: Vec<Call> = std::iter::repeat_with(|| function.call(&mut random)).flatten().take(calls).collect();
        let statements: Vec<&str> = made.iter().map(|call| call.sql.as_str()).collect();
        for (call, theirs) in made.iter().zip(answers(client, &statements).await) {
            tally.compare(call, theirs);
        }
        if tally.undecided * 2 >= tally.calls {
            evasive.push(format!("{}: {} of {}", function.sql_name(), tally.undecided, tally.calls));
        }
        differences.append(&mut tally.differences);
        total.add(&tally);
    }
    println!(
        "builtins: {} calls, {} values and {} errors as Postgres', {} undecided, {} not read back, {} differences",
        total.calls,
        total.values,
        total.errors,
        total.undecided,
        total.unreadable,
        differences.len()
    );
    assert!(differences.is_empty(), "seed {seed}:\n{}", differences[..differences.len().min(40)].join("\n"));
    assert!(evasive.is_empty(), "seed {seed}: undecided too often: {}", evasive.join(", "));
}

/// The functions that the table has and this server, too; their strictness must be the server's.
async fn declared(client: &Client) -> Vec<Declared> {
    let sql =
        "select proname::text, proargtypes::regtype[]::text[], prorettype::regtype::text, proretset, provariadic <> 0,
                      proisstrict, provolatile::text
               from pg_proc where oid = $1";
    let mut functions = Vec::new();
    for builtin in builtin::all() {
        let Some(row) = client.query_opt(sql, &[&builtin.oid]).await.unwrap() else { continue };
        assert_eq!(row.get::<_, bool>(5), builtin.strict, "{builtin:?} is strict");
        assert_ne!(row.get::<_, String>(6), "v", "{builtin:?} is volatile");
        functions.push(Declared {
            builtin,
            name: row.get(0),
            args: row.get(1),
            result: row.get(2),
            is_set: row.get(3),
            is_variadic: row.get(4),
        });
    }
    assert!(functions.len() > 300, "{} functions", functions.len());
    functions
}

async fn answers(client: &Client, expressions: &[&str]) -> Vec<Option<String>> {
    let sql = "select tried(expression) from unnest($1::text[]) with ordinality as s(expression, n) order by n";
    let rows = client.query(sql, &[&expressions]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

impl Declared {
    fn sql_name(&self) -> String {
        format!("{}({})", self.name, self.args.join(", "))
    }

    /// A call with random arguments; `None` if one of them cannot be read here.
    fn call(&self, random: &mut StdRng) -> Option<Call> {
        let polymorphic = match self.name.as_str() {
            "to_jsonb" => ["text", "uuid", "boolean", "numeric", "jsonb"].choose(random)?,
            _ => ["integer", "text", "uuid"].choose(random)?,
        };
        let concrete = |name: &str| match name {
            // Without a length it would be that of one character.
            "character" => "bpchar".to_owned(),
            "anyarray" | "anycompatiblearray" => format!("{polymorphic}[]"),
            "anyelement" | "anycompatible" => (*polymorphic).to_owned(),
            "anyenum" => "mood".to_owned(),
            other => other.to_owned(),
        };
        let (mut values, mut args) = (Vec::new(), Vec::new());
        for (place, arg) in self.args.iter().enumerate() {
            let type_name = concrete(arg);
            if random.random_ratio(1, 15) {
                values.push(Value::Null);
                args.push(format!("null::{type_name}"));
                continue;
            }
            let text = literal(random, &self.name, &self.args, place, &type_name);
            values.push(decode(&datum_type(&type_name), &text).ok()?);
            args.push(format!("{}::{type_name}", quoted(&text)));
        }
        if self.is_variadic
            && let Some(last) = args.last_mut()
        {
            last.insert_str(0, "variadic ");
        }
        let call = format!("pg_catalog.\"{}\"({})", self.name, args.join(", "));
        let result = datum_type(&concrete(&self.result));
        let (sql, result) = match self.is_set {
            true => (format!("array(select {call})"), DatumType::Array(Box::new(result))),
            false => (call, result),
        };
        let ours = match self.builtin.strict && values.iter().any(Value::is_null) {
            true if self.is_set => Ok(Value::Array([].into())),
            true => Ok(Value::Null),
            false => (self.builtin.eval)(&values),
        };
        if let (Some(pair), [a, b]) = (self.builtin.pair, &values[..])
            && !a.is_null()
            && !b.is_null()
        {
            assert_eq!(pair(a, b), ours, "{sql} in its two ways");
        }
        if let Err(Failure::Error(error)) = &ours {
            assert!(self.builtin.can_fail, "{sql} is an error ({error}) of what never fails");
        }
        Some(Call { sql, result, ours })
    }
}

impl Tally {
    fn compare(&mut self, call: &Call, theirs: Option<String>) {
        self.calls += 1;
        let outcome = match (&call.ours, theirs.as_deref()) {
            (Err(Failure::Undecided(_)), _) => {
                self.undecided += 1;
                return;
            }
            (Ok(Value::Null), None) => true,
            (Err(Failure::Error(_)), Some(text)) => {
                self.errors += 1;
                text.starts_with('E')
            }
            (Ok(value), Some(text)) => match text.strip_prefix('V').map(|text| agrees(&call.result, value, text)) {
                Some(Some(equal)) => equal,
                Some(None) => {
                    self.unreadable += 1;
                    return;
                }
                None => false,
            },
            (_, None) => false,
        };
        self.values += usize::from(outcome && call.ours.is_ok());
        if !outcome {
            self.differences.push(format!("{}\n  ours {:?}\n  Postgres {theirs:?}", call.sql, call.ours));
        }
    }

    fn add(&mut self, other: &Tally) {
        self.calls += other.calls;
        self.values += other.values;
        self.errors += other.errors;
        self.undecided += other.undecided;
        self.unreadable += other.unreadable;
    }
}

/// Whether Postgres' text is that of our value; `None`: neither can be brought to the other.
fn agrees(of: &DatumType, value: &Value, text: &str) -> Option<bool> {
    if let Ok(ours) = encode(of, value) {
        return Some(ours == text);
    }
    decode(of, text).ok().map(|theirs| theirs == *value)
}

/// The types that the arguments and results have here, by the names `regtype` prints.
fn datum_type(name: &str) -> DatumType {
    if let Some(element) = name.strip_suffix("[]") {
        return DatumType::Array(Box::new(datum_type(element)));
    }
    match name {
        "boolean" => DatumType::Bool,
        "smallint" => DatumType::Int2,
        "integer" => DatumType::Int4,
        "bigint" => DatumType::Int8,
        "oid" => DatumType::Oid,
        "real" => DatumType::Float4,
        "double precision" => DatumType::Float8,
        "numeric" => DatumType::Numeric,
        "text" | "character varying" => DatumType::Text,
        "bpchar" => DatumType::Bpchar,
        "uuid" => DatumType::Uuid,
        "date" => DatumType::Date,
        "time without time zone" => DatumType::Time,
        "timestamp without time zone" => DatumType::Timestamp,
        "timestamp with time zone" => DatumType::Timestamptz,
        "interval" => DatumType::Interval,
        "json" => DatumType::Json,
        "jsonb" => DatumType::Jsonb,
        "bytea" => DatumType::Bytea,
        "mood" => DatumType::Enum(MOODS.iter().map(|label| (*label).to_owned()).collect()),
        other => panic!("no generator for {other}"),
    }
}

const CAST_TYPES: &[&str] = &[
    "boolean",
    "smallint",
    "integer",
    "bigint",
    "oid",
    "real",
    "double precision",
    "numeric",
    "text",
    "uuid",
    "date",
    "time without time zone",
    "timestamp without time zone",
    "timestamp with time zone",
    "interval",
    "json",
    "jsonb",
    "bytea",
    "mood",
    "integer[]",
    "text[]",
    "uuid[]",
    "numeric[]",
    "boolean[]",
    "jsonb[]",
];

/// What is read from text must be what Postgres reads, and print as Postgres prints it.
#[tokio::test]
async fn casts_of_odd_spellings() {
    let (mut random, seed) = random();
    let spellings = number_from_env("WALCAST_DIFFERENTIAL_BUILTINS").unwrap_or(200) as usize * 5;
    let database = Database::create().await;
    let client = &database.client;
    client.batch_execute(SESSION).await.unwrap();
    let (mut compared, mut undecided, mut differences) = (0, 0, Vec::new());
    for name in CAST_TYPES {
        let of = datum_type(name);
        let texts: Vec<String> = (0..spellings).map(|_| spelling(&mut random, name)).collect();
        let statements: Vec<String> = texts.iter().map(|text| format!("{}::{name}", quoted(text))).collect();
        let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
        for (text, theirs) in texts.iter().zip(answers(client, &statements).await) {
            let theirs = theirs.expect("no literal is NULL");
            let ours = decode(&of, text);
            compared += 1;
            let agree = match (&ours, theirs.strip_prefix('V')) {
                (Err(Failure::Undecided(_)), _) => {
                    undecided += 1;
                    true
                }
                (Err(Failure::Error(_)), theirs) => theirs.is_none(),
                (Ok(value), Some(theirs)) => {
                    let again = decode(&of, theirs).map_or(true, |again| again == *value || is_nan(value));
                    again && agrees(&of, value, theirs) != Some(false)
                }
                (Ok(_), None) => false,
            };
            if !agree {
                differences.push(format!("{name} {text:?}: ours {ours:?}, Postgres {theirs:?}"));
            }
        }
    }
    println!("casts: {compared} compared, {undecided} undecided, {} differences", differences.len());
    assert!(differences.is_empty(), "seed {seed}:\n{}", differences[..differences.len().min(40)].join("\n"));
    assert!(undecided * 2 < compared, "{undecided} of {compared} undecided");
}

fn is_nan(value: &Value) -> bool {
    matches!(value, Value::Float(bits) if f64::from_bits(*bits).is_nan())
}
