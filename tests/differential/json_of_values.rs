//! A value's text, encoded by walcast, against `to_jsonb` of the value.

use tokio_postgres::Client;
use walcast::catalog::{Catalog, Oid};
use walcast::encode::{DatumError, write_json};

use super::random_values::{Make, SCALARS, Shape};
use super::{number_from_env, pg_types, random};
use crate::support::database::Database;

/// What `wal::connection` pins, and a function that says "refused" where `to_jsonb` raises an error.
const SESSION: &str = "
set timezone = 'UTC'; set datestyle = 'ISO'; set extra_float_digits = 3; set bytea_output = 'hex';
set intervalstyle = 'postgres'; set lc_monetary = 'C'; set client_encoding = 'UTF8';
create function to_jsonb_or_null(v anyelement) returns text language plpgsql as $$
begin return to_jsonb(v)::text; exception when others then return null; end $$;";

/// User-defined types: name, definition, and the shape of the literals.
fn user_types() -> Vec<(&'static str, String, Shape)> {
    let scalar = |name: &str| Shape::Scalar(SCALARS.iter().find(|(scalar, _)| *scalar == name).expect("a scalar").1);
    let mood = Shape::Scalar(|random| {
        use rand::seq::IndexedRandom;
        ["sad", "ok", "so so, really", "q\"\\"].choose(random).unwrap().to_string()
    });
    let inner = Shape::Composite(vec![scalar("text"), scalar("int4").array(), scalar("json"), mood.clone()]);
    let outer = Shape::Composite(vec![
        inner.clone(),
        inner.clone().array(),
        scalar("timestamptz"),
        scalar("bytea"),
        scalar("float8"),
        scalar("bool"),
        scalar("timestamp").array(),
        scalar("jsonb"),
        mood.clone(),
    ]);
    let domain = |base: &str| (format!("create domain {{}} as {base}"), scalar(base.trim_end_matches("[]")));
    let mut types = vec![
        ("mood", "create type {} as enum ('sad', 'ok', 'so so, really', 'q\"\\')".to_owned(), mood.clone()),
        ("inner_row", "create type {} as (\"a \"\"b\" text, n int4[], json_value json, m mood)".to_owned(), inner),
        ("float_domain", domain("float8").0, domain("float8").1),
        ("bytes_domain", domain("bytea").0, domain("bytea").1),
        ("time_domain", domain("timestamptz").0, domain("timestamptz").1),
        ("text_domain", domain("text").0, domain("text").1),
        ("domain_of_domain", "create domain {} as time_domain".to_owned(), scalar("timestamptz")),
        ("array_domain", domain("int4[]").0, domain("int4").1.array()),
        ("mood_domain", "create domain {} as mood".to_owned(), mood),
        ("box_array", "create domain {} as box[]".to_owned(), Shape::Array(Box::new(scalar("box")), ';')),
        ("one_field", "create type {} as (a text)".to_owned(), Shape::Composite(vec![scalar("text")])),
        (
            "outer_row",
            "create type {} as (i inner_row, ii inner_row[], t time_domain, b bytea, f float_domain, ok bool,
                                ts timestamp[], j jsonb, mm mood_domain)"
                .to_owned(),
            outer.clone(),
        ),
        ("row_domain", "create domain {} as outer_row".to_owned(), outer),
        (
            "text_range",
            "create type {} as range (subtype = text)".to_owned(),
            Shape::Scalar(|_| "[a,\"b c\"]".to_owned()),
        ),
    ];
    for (name, definition, _) in &mut types {
        *definition = definition.replace("{}", name);
    }
    types
}

#[tokio::test]
async fn json_of_values() {
    let (mut random, seed) = random();
    let values = number_from_env("WALCAST_DIFFERENTIAL_VALUES").unwrap_or(5_000) as usize;
    let database = Database::create().await;
    let client = &database.client;
    client.batch_execute(SESSION).await.unwrap();

    let mut types: Vec<(String, Shape)> = Vec::new();
    for (name, make) in SCALARS {
        if *name == "xml" && client.batch_execute("select '<a/>'::xml").await.is_err() {
            println!("json_of_values: this server was built without libxml, xml is left out");
            continue;
        }
        types.push(((*name).to_owned(), Shape::Scalar(*make)));
    }
    for (name, definition, shape) in user_types() {
        client.batch_execute(&definition).await.unwrap_or_else(|err| panic!("{definition}: {err}"));
        types.push((name.to_owned(), shape));
    }
    for (extension, make) in EXTENSIONS {
        let available = client
            .query_opt("select from pg_available_extensions where name = $1", &[extension])
            .await
            .unwrap()
            .is_some();
        if available {
            client.batch_execute(&format!("create extension {extension}")).await.unwrap();
            types.push(((*extension).to_owned(), Shape::Scalar(*make)));
        } else {
            println!("json_of_values: the extension {extension} is not installed, its type is left out");
        }
    }
    // An array of each. Box has its own delimiter, which arrays of it and domains over these inherit.
    for (name, shape) in types.clone() {
        let delimiter = if name.starts_with("box") { ';' } else { ',' };
        types.push((format!("{name}[]"), Shape::Array(Box::new(shape), delimiter)));
    }
    let catalog = pg_types::load(client).await;

    let per_type = values.div_ceil(types.len());
    let (mut compared, mut refused, mut only_postgres, mut differences) = (0, 0, 0, Vec::new());
    for (name, shape) in &types {
        for batch in batches(per_type) {
            let literals: Vec<String> = (0..batch).map(|_| shape.literal(&mut random)).collect();
            for pair in pairs(client, name, &literals).await {
                compared += 1;
                match pair.compare(&catalog) {
                    Verdict::Equal => {}
                    Verdict::BothRefuse => refused += 1,
                    Verdict::OnlyPostgres => only_postgres += 1,
                    Verdict::Different(ours) => differences
                        .push(format!("{name}: text {:?}\n  ours  {ours}\n  Postgres {:?}", pair.text, pair.jsonb)),
                }
            }
        }
    }
    println!(
        "json_of_values: {compared} values of {} types compared, {} differences; {refused} refused by both, \
         {only_postgres} left to Postgres",
        types.len(),
        differences.len()
    );
    assert!(compared >= values, "{compared} of {values} values compared");
    assert!(differences.is_empty(), "seed {seed}: {}", differences[..differences.len().min(10)].join("\n"));
}

/// Types of extensions: hstore has a cast to json, the others have none.
const EXTENSIONS: &[(&str, Make)] = &[
    ("hstore", |_| "a=>1, \"b c\"=>NULL".to_owned()),
    ("citext", |_| "Some \"Text\"".to_owned()),
    ("ltree", |_| "a.b.c".to_owned()),
    ("cube", |_| "(1,2),(3,4)".to_owned()),
];

fn batches(mut count: usize) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let batch = count.min(500);
        count -= batch;
        (batch > 0).then_some(batch)
    })
}

/// A value's text as the output function prints it, and what `to_jsonb` makes of it (`None`: an error).
struct Pair {
    type_oid: Oid,
    text: String,
    jsonb: Option<String>,
}

enum Verdict {
    Equal,
    BothRefuse,
    OnlyPostgres,
    Different(String),
}

/// `format` calls the output function; a cast to text would not (bool, bpchar).
async fn pairs(client: &Client, name: &str, literals: &[String]) -> Vec<Pair> {
    let sql = format!(
        "select '{name}'::regtype::oid, format('%s', value), to_jsonb_or_null(value)
         from unnest($1::text[]) as literal, cast(literal as {name}) as value"
    );
    let rows = client.query(&sql, &[&literals]).await.unwrap_or_else(|err| panic!("{name}: {err:?}"));
    rows.iter().map(|row| Pair { type_oid: row.get(0), text: row.get(1), jsonb: row.get(2) }).collect()
}

impl Pair {
    fn compare(&self, catalog: &Catalog) -> Verdict {
        let mut ours = Vec::new();
        match (write_json(catalog, self.type_oid, self.text.as_bytes(), &mut ours), self.on_the_wire()) {
            (Err(DatumError::OnlyPostgres), Some(_)) => Verdict::OnlyPostgres,
            (Err(DatumError::NotJsonb(_)), None) => Verdict::BothRefuse,
            (Ok(()), Some(wire)) if wire.as_bytes() == ours => Verdict::Equal,
            (result, _) => Verdict::Different(format!("{result:?} {}", String::from_utf8_lossy(&ours))),
        }
    }

    /// PROTOCOL 4.3 where it differs from `to_jsonb`: two rules for columns of these very types.
    fn on_the_wire(&self) -> Option<String> {
        const FLOAT4: Oid = 700;
        const FLOAT8: Oid = 701;
        const NUMERIC: Oid = 1700;
        const BYTEA: Oid = 17;
        let jsonb = self.jsonb.clone()?;
        Some(match self.type_oid {
            FLOAT4 | FLOAT8 | NUMERIC if jsonb.starts_with('"') => "null".to_owned(),
            BYTEA => jsonb.replacen("\\\\x", "", 1),
            _ => jsonb,
        })
    }
}
