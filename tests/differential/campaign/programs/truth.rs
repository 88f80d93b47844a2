//! What Postgres says: a SELECT of each table as each person, row by row only where that fails.

use std::collections::HashSet;

use futures_util::future::join_all;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::people::Person;
use crate::support::database::connect;
use crate::support::scene::execute;

const SHOWN: &str = "
    create schema camp;
    grant usage on schema camp to public;
    create function camp.shown(names text[], keys bigint[]) returns table (place int, ids bigint[], moment bigint, planned boolean)
    language plpgsql as $$
    begin
        moment := (extract(epoch from now() - '2000-01-01 00:00Z') * 1000000)::bigint;
        for n in 1..cardinality(names) loop
            place := n;
            planned := true;
            begin
                execute format('select array_agg(id) from public.%I', names[n]) into ids;
            exception when others then
                -- What fails in planning fails for every row.
                begin
                    execute format('explain select id from public.%I where id = -1', names[n]);
                    execute format('select array_agg(k) from camp.shown_of_%s($1) as k', names[n]) into ids using keys;
                exception when others then
                    planned := false;
                    ids := null;
                end;
            end;
            return next;
        end loop;
    end $$;";

/// The rows of one table, one at a time; what is planned once holds for all of them.
fn by_row(table: &str) -> String {
    format!(
        "create function camp.shown_of_{table}(keys bigint[]) returns setof bigint language plpgsql
         set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
        declare
            key bigint;
            found_key bigint;
        begin
            foreach key in array keys loop
                begin
                    select t.id into found_key from public.{table} as t where t.id = key;
                    if found_key is not null then
                        return next key;
                    end if;
                exception when others then
                end;
            end loop;
        end $$;"
    )
}

pub(super) fn functions(tables: &[String]) -> String {
    let each: String = tables.iter().map(|table| by_row(table)).collect();
    format!("{SHOWN}{each}")
}

/// Sessions of the login that policies run on.
pub(super) struct Truth(Vec<Client>);

/// What one person is shown, by table, and when that was, in microseconds since 2000.
pub(super) struct Shown {
    pub now: i64,
    pub rows: Vec<HashSet<i64>>,
    /// No plan could be made: the planner works out functions to estimate how many rows they select.
    pub unplanned: HashSet<usize>,
}

impl Truth {
    pub async fn new(url: &str) -> Truth {
        let mut sessions = Vec::new();
        for _ in 0..2 {
            let session = connect(url).await;
            execute(&session, "set jit = off; set client_min_messages = error; set statement_timeout = '60s'").await;
            sessions.push(session);
        }
        Truth(sessions)
    }

    pub async fn shown(&self, people: &[Person], tables: &[String], keys: usize) -> Vec<Shown> {
        let count = self.0.len();
        let halves = self.0.iter().enumerate().map(async |(n, session)| {
            let mut shown = Vec::new();
            for person in people.iter().skip(n).step_by(count) {
                shown.push(ask(session, person, tables, keys).await);
            }
            shown
        });
        let mut halves: Vec<_> = join_all(halves).await.into_iter().map(Vec::into_iter).collect();
        (0..people.len()).map(|n| halves[n % count].next().expect("an answer for each")).collect()
    }
}

async fn ask(session: &Client, person: &Person, tables: &[String], keys: usize) -> Shown {
    let claims = person.claims.replace('\'', "''");
    let (role, names) = (person.role, tables.join(","));
    let sql = format!(
        "begin; select set_config('request.jwt.claims', '{claims}', true); set local role {role};
         select place, ids, moment, planned from camp.shown('{{{names}}}', array(select generate_series(1, {keys}))); rollback"
    );
    let messages = session.simple_query(&sql).await.unwrap_or_else(|error| panic!("{error:?} in {sql}"));
    let mut shown = Shown { now: 0, rows: Vec::new(), unplanned: HashSet::new() };
    for message in &messages {
        let SimpleQueryMessage::Row(row) = message else { continue };
        if row.len() != 4 {
            continue; // Of `set_config`.
        }
        let keys = row.get(1).unwrap_or_default();
        let keys = keys.trim_matches(['{', '}']).split(',').filter(|key| !key.is_empty());
        if row.get(3) == Some("f") {
            shown.unplanned.insert(shown.rows.len());
        }
        shown.rows.push(keys.map(|key| key.parse().expect("a key")).collect());
        shown.now = row.get(2).expect("a moment").parse().expect("a number");
    }
    assert_eq!(shown.rows.len(), tables.len());
    shown
}
