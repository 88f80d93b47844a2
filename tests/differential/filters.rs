//! Filters, decided by `routing` and by Postgres: `select column operator constant`.
//!
//! Where routing leaves the decision to Postgres, its SQL must parse, under an empty search_path too, and say the same.

use std::sync::Arc;

use serde_json::json;
use tokio_postgres::Client;
use walcast::catalog::{Catalog, Relation};
use walcast::change::{Change, Layout, OldRow, Operation, Row};
use walcast::routing::{
    Binding, Bound, CastError, CastRequest, Casts, Matches, SubscriptionId, SubscriptionIndex, bind,
};
use walcast::wal::pgoutput::Tuple;

use super::filter_questions::{CITEXT, COLUMNS, Column, Question};
use super::{number_from_env, random};
use crate::support::database::Database;

const SESSION: &str = "
set timezone = 'UTC'; set datestyle = 'ISO'; set extra_float_digits = 3; set bytea_output = 'hex';
set intervalstyle = 'postgres'; set lc_monetary = 'C'; set client_encoding = 'UTF8';
create collation ignore_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
create type mood as enum ('sad', 'ok', 'so so, really', 'happy');
create domain mood_domain as mood;
create domain short_text as text check (length(value) < 5);
create domain small_int as int check (value < 10);
create type pair as (n int, t text);
create function tried(sql text) returns bool language plpgsql as $$
declare answer bool;
begin execute sql into answer; return coalesce(answer, false); exception when others then return null; end $$;";

/// How many filters are asked of each row.
const FILTERS_PER_ROW: usize = 25;

#[tokio::test]
async fn filters_are_decided_as_postgres_decides_them() {
    let (mut random, seed) = random();
    let wanted = number_from_env("WALCAST_DIFFERENTIAL_FILTERS").unwrap_or(3_000) as usize;
    let database = Database::create().await;
    let mut client = crate::support::database::connect(&database.url).await;
    let columns = set_up(&client).await;
    let catalog =
        walcast::catalog::loader::load(&mut client, &["supabase_realtime".to_owned()], None).await.unwrap().catalog;
    let mut tally = Tally::default();
    let mut casts = Casts::default();
    while tally.asked < wanted {
        let (change, id) = insert_row(&client, &catalog, &columns, &mut random).await;
        let questions: Vec<Question> = (0..FILTERS_PER_ROW).map(|_| Question::random(&columns, &mut random)).collect();
        ask(&client, &catalog, &change, id, &questions, &mut casts, &mut tally).await;
    }
    println!("filters: {tally:?}");
    assert!(
        tally.differences.is_empty(),
        "seed {seed}: {}",
        tally.differences[..tally.differences.len().min(20)].join("\n")
    );
    assert!(tally.decided > wanted / 4, "too little is decided in-process: {tally:?}");
}

#[derive(Debug, Default)]
struct Tally {
    asked: usize,
    matched: usize,
    refused: usize,
    /// Without Postgres.
    decided: usize,
    /// By Postgres, with routing's SQL.
    undecided: usize,
    /// Values that Postgres was asked about.
    casts: usize,
    differences: Vec<String>,
}

async fn set_up(client: &Client) -> Vec<&'static Column> {
    client.batch_execute(SESSION).await.unwrap();
    let mut columns: Vec<&Column> = COLUMNS.iter().collect();
    let citext = "select from pg_available_extensions where name = 'citext'";
    if client.query_opt(citext, &[]).await.unwrap().is_some() {
        client.batch_execute("create extension citext").await.unwrap();
        columns.push(&CITEXT);
    } else {
        println!("filters: citext is not installed, its type is left out");
    }
    let quoted = |column: &&Column| format!("{} {}", quote(column.name), column.definition);
    let definitions: Vec<String> = columns.iter().map(quoted).collect();
    let sql = format!(
        "create table filters (id serial primary key, {}); create publication supabase_realtime for table filters;",
        definitions.join(", ")
    );
    client.batch_execute(&sql).await.unwrap();
    columns
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A row of random values, as the stream would carry it.
async fn insert_row(
    client: &Client,
    catalog: &Catalog,
    columns: &[&Column],
    random: &mut rand::rngs::StdRng,
) -> (Change, i32) {
    use rand::Rng;
    let names: Vec<String> = columns.iter().map(|column| quote(column.name)).collect();
    let literal = |column: &&Column, random: &mut rand::rngs::StdRng| {
        // Tables refuse what a length or a domain forbids.
        let text = column.literal(random);
        let fits = match column.definition {
            definition if definition.starts_with("char(5)") => text.chars().count() <= 5,
            "short_text" => text.chars().count() < 5,
            "small_int" => text != "10",
            _ => true,
        };
        if random.random_ratio(1, 8) || !fits {
            return "null".to_owned();
        }
        format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
    };
    let values: Vec<String> = columns.iter().map(|column| literal(column, random)).collect();
    let printed: Vec<String> = names
        .iter()
        .map(|name| format!("case when num_nulls({name}) = 1 then null else format('%s', {name}) end"))
        .collect();
    let sql = format!(
        "insert into filters ({}) values ({}) returning id, {}",
        names.join(", "),
        values.join(", "),
        printed.join(", ")
    );
    let row = client.query_one(&sql, &[]).await.unwrap_or_else(|err| panic!("{err:?}\n{sql}"));
    let id: i32 = row.get(0);
    let relation: &Arc<Relation> = catalog.relations.values().next().unwrap();
    let id_text = id.to_string();
    let texts: Vec<Option<&str>> =
        std::iter::once(Some(id_text.as_str())).chain((1..row.len()).map(|at| row.get(at))).collect();
    let tuple = Tuple::from_values(texts.into_iter().map(|text| text.map(str::as_bytes)));
    let new = Row { layout: Arc::new(Layout::identity(relation.clone())), tuple, key_only: false };
    let relation = relation.clone();
    let (operation, old) = (Operation::Insert, OldRow::Absent);
    (
        Change {
            relation,
            operation,
            new: Some(new),
            old,
            kept: None,
            commit_lsn: walcast::wal::Lsn::ZERO,
            index: 0,
            commit_timestamp: 0,
        },
        id,
    )
}

async fn ask(
    client: &Client,
    catalog: &Catalog,
    change: &Change,
    row: i32,
    questions: &[Question],
    casts: &mut Casts,
    tally: &mut Tally,
) {
    let mut index = SubscriptionIndex::default();
    let mut bound = Vec::new();
    for (at, question) in questions.iter().enumerate() {
        let params = json!({"schema": "public", "table": "filters", "filter": question.filter});
        let Ok(binding) = Binding::parse(params.as_object().unwrap()) else {
            tally.refused += 1;
            continue;
        };
        match answered(client, catalog, &binding, casts, tally).await {
            Bound::Ready(subscriptions) => {
                index.insert(SubscriptionId(at as u32), &subscriptions[0]);
                bound.push(at);
            }
            Bound::Refused(error) => {
                tally.refused += 1;
                check_refusal(client, question, &error.to_string(), row, tally).await;
            }
            Bound::NeedsCasts(requests) => panic!("{}: still asks {requests:?}", question.filter),
        }
    }
    let mut matches = Matches::default();
    index.matches(change, &mut matches);
    let sql_of = |at: usize| {
        let found = matches.undecided.iter().find(|(_, ids)| ids.contains(&SubscriptionId(at as u32)));
        found.map(|(predicate, _)| predicate.sql().expect("undecided comes with SQL").expression.clone())
    };
    let expected = evaluate(client, row, bound.iter().map(|at| questions[*at].expected()).collect()).await;
    client.batch_execute("set search_path = ''").await.unwrap();
    let asked: Vec<Option<String>> = bound.iter().map(|at| sql_of(*at)).collect();
    let answers = evaluate(client, row, asked.iter().map(|sql| sql.clone().unwrap_or("true".into())).collect()).await;
    client.batch_execute("reset search_path").await.unwrap();
    for (((at, expected), sql), answer) in bound.into_iter().zip(expected).zip(asked).zip(answers) {
        tally.asked += 1;
        let question = &questions[at];
        let matched = matches.matched.contains(&SubscriptionId(at as u32));
        let ours = if sql.is_some() { answer } else { Some(matched) };
        *(if sql.is_some() { &mut tally.undecided } else { &mut tally.decided }) += 1;
        tally.matched += usize::from(ours == Some(true));
        // An error is for nobody's eyes; patterns alone may raise one on some value.
        let agree = ours == expected || (question.has_pattern && expected.is_none() && ours == Some(false));
        if !agree || (expected.is_none() && !question.has_pattern) {
            tally.differences.push(format!(
                "{} on row {row}: ours {ours:?} ({}), Postgres {expected:?} by {}",
                question.filter,
                sql.as_deref().unwrap_or("in-process"),
                question.expected()
            ));
        }
    }
}

/// Binds, and asks Postgres what binding wants to know.
async fn answered(
    client: &Client,
    catalog: &Catalog,
    binding: &Binding,
    casts: &mut Casts,
    tally: &mut Tally,
) -> Bound {
    let first = bind(binding, catalog, "postgres", casts);
    let Bound::NeedsCasts(requests) = first else { return first };
    for request in requests {
        tally.casts += 1;
        let answer = match client.query_one(&request.statement(), &[&request.text]).await {
            Ok(row) => Ok(row.get::<_, String>(0)),
            Err(error) => {
                let error = error.as_db_error().unwrap_or_else(|| panic!("{request:?}: {error:?}"));
                Err(CastError::from_postgres(error.code().code(), error.message(), error.detail()))
            }
        };
        if answer.is_ok() && request.type_oid != CastRequest::REGEX {
            plain_cast_reads_the_same(client, &request).await;
        }
        casts.insert(request, answer);
    }
    bind(binding, catalog, "postgres", casts)
}

/// The statement must be one that Postgres also takes as a plain cast.
async fn plain_cast_reads_the_same(client: &Client, request: &CastRequest) {
    let brackets = if request.array { "[]" } else { "" };
    let sql = format!("select ($1::text::{}{brackets})::text", request.sql_name);
    client.query_one(&sql, &[&request.text]).await.unwrap_or_else(|err| panic!("{request:?}: {err:?}"));
}

/// What is refused for its value must be an error in Postgres, too.
async fn check_refusal(client: &Client, question: &Question, error: &str, row: i32, tally: &mut Tally) {
    if error.contains("ERROR P0001") {
        return;
    }
    let expected = evaluate(client, row, question.clauses.clone()).await;
    if !expected.contains(&None) {
        tally.differences.push(format!("{}: refused with {error}, Postgres {expected:?}", question.filter));
    }
}

/// The truth of each expression on a row of the table; `None`: an error.
async fn evaluate(client: &Client, row: i32, expressions: Vec<String>) -> Vec<Option<bool>> {
    if expressions.is_empty() {
        return Vec::new();
    }
    let all: Vec<String> = expressions.iter().map(|expression| format!("coalesce({expression}, false)")).collect();
    let sql = format!("select array[{}] from public.filters where id = {row}", all.join(",\n"));
    if let Ok(found) = client.query_one(&sql, &[]).await {
        return found.get::<_, Vec<Option<bool>>>(0);
    }
    let single = |expression: &String| format!("select {expression} from public.filters where id = {row}");
    let statements: Vec<String> = expressions.iter().map(single).collect();
    let sql = "select array_agg(public.tried(sql) order by n) from unnest($1::text[]) with ordinality as s(sql, n)";
    client.query_one(sql, &[&statements]).await.unwrap().get(0)
}
