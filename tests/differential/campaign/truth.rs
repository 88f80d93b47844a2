//! What Postgres says: a real SELECT under `SET LOCAL ROLE` and claims.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::join_all;
use tokio_postgres::{Client as Postgres, SimpleQueryMessage};

use super::persons::Person;
use super::policies::Policy;
use super::tables::Table;
use crate::support::database::connect;
use crate::support::scene::execute;

/// An error shows nothing, and must not take the other rows with it: those are looked at in halves, down to single ones.
pub(super) const BY_HALVES: &str = "
    create schema campaign;
    grant usage on schema campaign to public;
    create function campaign.shown(source text, keys bigint[]) returns bigint[] language plpgsql as $$
    declare
        found_keys bigint[];
        half int := cardinality(keys) / 2;
    begin
        execute format('select array_agg(id) from public.%I where id = any ($1)', source) into found_keys using keys;
        return found_keys;
    exception when others then
        if half = 0 then
            return null;
        end if;
        return campaign.shown(source, keys[:half]) || campaign.shown(source, keys[half + 1:]);
    end $$;
    create function campaign.is_planned(source text) returns boolean language plpgsql as $$
    begin
        execute format('explain select id from public.%I where id = -1', source);
        return true;
    exception when others then
        return false;
    end $$;";

/// The same with a plan that outlives the claims it was made under.
pub(super) fn by_plan(table: &str) -> String {
    format!(
        "create function campaign.shown_of_{table}(keys bigint[]) returns setof bigint language plpgsql as $$
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

/// By key, so that no other row is looked at; and in what policies read, for Postgres when the relay asks it as well: which
/// errors a sub-query meets is its plan's business, and where tables are small plans change with their statistics.
pub(super) const AS_ASKED: &str = "set enable_seqscan = off";

/// Sessions of a superuser, who becomes everybody in turn.
pub(super) struct Truth {
    sessions: Vec<Postgres>,
    /// For what is measured in transactions that are rolled back.
    measuring: Postgres,
}

/// What each person is shown.
pub(super) type Shown = Vec<Seen>;

/// Rows by table and key.
#[derive(Default)]
pub(super) struct Seen {
    pub shown: HashSet<(usize, i64)>,
    /// Not shown, since the planner stumbled: it evaluates stable functions to estimate how many rows they select, also
    /// where the row itself does not need them. With a plan that was made before, the same SELECT shows these.
    pub with_a_plan: HashSet<(usize, i64)>,
}

impl Seen {
    pub(super) fn contains(&self, row: &(usize, i64)) -> bool {
        self.shown.contains(row)
    }
}

/// Keys by table.
pub(super) type Keys = BTreeMap<usize, Vec<i64>>;

/// The columns that each role may read, by table.
pub(super) type Columns = Arc<HashMap<(usize, String), Vec<String>>>;

impl Truth {
    pub(super) async fn new(url: &str) -> Truth {
        let mut sessions = Vec::new();
        for _ in 0..3 {
            let session = connect(url).await;
            execute(&session, &format!("{AS_ASKED}; set client_min_messages = error; set jit = off")).await;
            sessions.push(session);
        }
        let measuring = connect(url).await;
        execute(&measuring, "set client_min_messages = error; set jit = off").await;
        Truth { sessions, measuring }
    }

    /// Which of these rows a SELECT shows whom, now.
    pub(super) async fn shown(&self, persons: &[Person], tables: &[Table], keys: &Keys) -> Shown {
        let asked = persons.iter().enumerate().map(|(n, person)| {
            let session = &self.sessions[n % self.sessions.len()];
            self.shown_to(session, person, tables, keys)
        });
        join_all(asked).await
    }

    async fn shown_to(&self, session: &Postgres, person: &Person, tables: &[Table], keys: &Keys) -> Seen {
        let select = |(table, keys): (&usize, &Vec<i64>)| {
            format!("; select {table}, id from public.{} where id in ({})", tables[*table].name, list(keys))
        };
        let all: String = keys.iter().map(select).collect();
        if all.is_empty() {
            return Seen::default();
        }
        if let Some(shown) = ask(session, person, &all).await {
            return Seen { shown, with_a_plan: HashSet::new() };
        }
        let mut seen = Seen::default();
        for (table, keys) in keys {
            let name = &tables[*table].name;
            // What fails before there is a plan fails for every row.
            let shown = format!(
                "case when campaign.is_planned('{name}') then campaign.shown('{name}', '{{{}}}') end",
                list(keys)
            );
            let sql = format!("; select {table}, unnest({shown})");
            let shown = ask(session, person, &sql).await.expect("errors are caught");
            let missing: Vec<i64> = keys.iter().copied().filter(|key| !shown.contains(&(*table, *key))).collect();
            seen.shown.extend(shown);
            if !missing.is_empty() {
                seen.with_a_plan.extend(self.with_a_plan(session, person, *table, name, &missing).await);
            }
        }
        seen
    }

    /// The same by a generic plan, made under claims that no function stumbles over.
    async fn with_a_plan(
        &self,
        session: &Postgres,
        person: &Person,
        table: usize,
        name: &str,
        keys: &[i64],
    ) -> HashSet<(usize, i64)> {
        let plan = format!(
            "; set local plan_cache_mode = force_generic_plan; \
             select set_config('request.jwt.claims', '{{}}', true); select count(*) from campaign.shown_of_{name}('{{-1}}'); \
             select set_config('request.jwt.claims', '{}', true)",
            person.claims.replace('\'', "''")
        );
        let sql = format!("{plan}; select {table}, k from campaign.shown_of_{name}('{{{}}}') as k", list(keys));
        ask(session, person, &sql).await.expect("errors are caught")
    }

    /// Of these rows those that a filter, in SQL, matches.
    pub(super) async fn matching(&self, tables: &[Table], keys: &Keys, condition: &str) -> HashSet<(usize, i64)> {
        let select = |(table, keys): (&usize, &Vec<i64>)| {
            let name = &tables[*table].name;
            format!("select {table}, id from public.{name} where id in ({}) and ({condition})", list(keys))
        };
        let sql: Vec<String> = keys.iter().map(select).collect();
        let messages = self.sessions[0].simple_query(&sql.join("; ")).await.expect("a filter in SQL");
        messages.iter().filter_map(pair).collect()
    }

    /// How many of all rows a set of policies shows, to those persons who are not exempt and are meant.
    pub(super) async fn measure(
        &self,
        policies: &[Policy],
        persons: &[Person],
        table: &Table,
        is_meant: impl Fn(&Person) -> bool,
    ) -> (usize, usize) {
        let name = &table.name;
        let mut sql = format!("begin; alter table {name} enable row level security; ");
        for old in &table.policies {
            sql += &format!("drop policy {} on {name}; ", old.name);
        }
        for policy in policies {
            sql += &format!("{}; ", policy.create(name));
        }
        execute(&self.measuring, &sql).await;
        let (mut shown, mut asked) = (0, 0);
        for person in persons.iter().filter(|person| !person.is_exempt() && is_meant(person)) {
            shown += self.count(person, table).await;
            asked += table.live.len();
        }
        execute(&self.measuring, "rollback").await;
        (shown, asked)
    }

    /// How many rows of the table the person is shown, in the transaction that is open.
    async fn count(&self, person: &Person, table: &Table) -> usize {
        let (name, who) = (&table.name, become_person(person));
        let count = format!("savepoint s; {who}; select 0, count(*) from public.{name}; reset role; release s");
        let messages = match self.measuring.simple_query(&count).await {
            Ok(messages) => messages,
            Err(_) => {
                let keys = list(&table.live);
                let sql = format!(
                    "rollback to s; {who}; select 0, coalesce(cardinality(campaign.shown('{name}', '{{{keys}}}')), 0); reset role; release s"
                );
                self.measuring.simple_query(&sql).await.unwrap_or_else(|error| panic!("{error:?} in {sql}"))
            }
        };
        let (_, count) = messages.iter().find_map(pair).expect("a count");
        usize::try_from(count).expect("not negative")
    }

    /// Which columns the roles may read.
    pub(super) async fn columns(&self, persons: &[Person], tables: &[Table]) -> Columns {
        let roles: HashSet<String> = persons.iter().map(|person| format!("'{}'", person.role)).collect();
        let roles = roles.into_iter().collect::<Vec<_>>().join(", ");
        let mut columns: HashMap<(usize, String), Vec<String>> = HashMap::new();
        for (number, table) in tables.iter().enumerate() {
            let sql = format!(
                "select r.rolname::text, a.attname::text from pg_roles r, pg_attribute a
                 where r.rolname in ({roles}) and a.attrelid = 'public.{}'::regclass and a.attnum > 0
                   and not a.attisdropped and has_column_privilege(r.oid, a.attrelid, a.attnum, 'select')
                 order by a.attname",
                table.name
            );
            for row in self.sessions[0].query(&sql, &[]).await.expect("columns") {
                columns.entry((number, row.get(0))).or_default().push(row.get(1));
            }
        }
        Arc::new(columns)
    }
}

fn become_person(person: &Person) -> String {
    let claims = person.claims.replace('\'', "''");
    format!("select set_config('request.jwt.claims', '{claims}', true); set local role {}", person.role)
}

/// `None`: an error.
async fn ask(session: &Postgres, person: &Person, selects: &str) -> Option<HashSet<(usize, i64)>> {
    let sql = format!("rollback; begin; {}{selects}; rollback", become_person(person));
    match session.simple_query(&sql).await {
        Ok(messages) => Some(messages.iter().filter_map(pair).collect()),
        Err(error) => {
            assert!(error.code().is_some(), "not an answer: {error:?}");
            None
        }
    }
}

/// Table and key; `None`: another message, or the row of `set_config`.
fn pair(message: &SimpleQueryMessage) -> Option<(usize, i64)> {
    let SimpleQueryMessage::Row(row) = message else { return None };
    if row.len() != 2 {
        return None;
    }
    let number = |column| row.get(column).expect("not NULL");
    Some((number(0).parse().expect("a table"), number(1).parse().expect("a key")))
}

fn list(keys: &[i64]) -> String {
    keys.iter().map(i64::to_string).collect::<Vec<_>>().join(",")
}
