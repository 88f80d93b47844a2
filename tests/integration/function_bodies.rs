//! Trees of functions with string bodies, read on the oracle's login.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use walcast::authz::oracle::PlainConnect;
use walcast::authz::{SessionFactsTask, read_session_facts};
use walcast::catalog::{Catalog, SessionFacts};

use crate::support::database::connect;
use crate::support::policies::{Ground, cluster};

async fn facts_of(ground: &Ground, catalog: &Catalog) -> SessionFacts {
    let connect = PlainConnect(cluster().url("oracle", &ground.database.name).parse().unwrap());
    let (reading, again) = read_session_facts(&connect, catalog).await.expect("facts");
    assert!(!again, "{:?}", reading.facts);
    (*reading.facts).clone()
}

struct Read {
    catalog: Catalog,
    facts: SessionFacts,
}

impl Read {
    async fn of(ground: &Ground) -> Read {
        let catalog = ground.catalog().await;
        let facts = facts_of(ground, &catalog).await;
        Read { catalog, facts }
    }

    fn body(&self, name: &str) -> Result<&str, &str> {
        let function = self.catalog.functions.values().find(|function| function.name == name);
        let function = function.unwrap_or_else(|| panic!("no function {name}"));
        let body = self.facts.bodies.get(&function.oid).unwrap_or_else(|| panic!("{name} was not read"));
        body.as_deref().map_err(String::as_str)
    }

    /// For one role that runs it.
    fn body_for(&self, name: &str, role: &str) -> Result<&str, &str> {
        let function = self.catalog.functions.values().find(|function| function.name == name).expect(name);
        let role = self.catalog.roles.get(role).expect(role).oid;
        self.facts.body(function.oid, role).expect(name).as_deref().map_err(String::as_str)
    }

    fn tree(&self, name: &str) -> &str {
        let tree = self.body(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(tree.starts_with("(({QUERY"), "{name}: {tree}");
        tree
    }

    fn refusal(&self, name: &str) -> &str {
        self.body(name).expect_err(name)
    }
}

/// Functions of a policy, by name.
async fn ground(functions: &str) -> Ground {
    Ground::new(&format!(
        "create schema private; grant usage on schema private to authenticated, anon, editor, guest, owner, heir;
         create table members (room int, person uuid, primary key (room, person));
         create table private.teams (id int primary key, person uuid);
         create table rows (id int primary key, room int, person uuid); alter table rows enable row level security;
         {functions};
         do $$ declare f record; begin
            for f in select p.oid, p.proargtypes, p.provariadic from pg_proc p
                where pronamespace = 'public'::regnamespace
            loop
                -- What only matters is that the policy depends on it.
                execute format('create policy %I on rows using (exists (select %s(%s)))', f.oid, f.oid::regproc,
                    (select string_agg(case when f.provariadic <> 0 then 'variadic ' else '' end || 'null::' || case when a = 'anyelement'::regtype then 'int' else a::regtype::text end, ', ')
                        from unnest(f.proargtypes::oid[]) a));
            end loop;
         end $$"
    ))
    .await
}

#[tokio::test]
async fn bodies_are_read_whatever_the_signature() {
    let ground = ground(
        "create function positional(int, uuid) returns boolean language sql stable as
            'select exists (select from members where room = $1 and person = $2)';
         create function named(r int, p uuid) returns boolean language sql stable as
            'select exists (select from members where room = r and person = named.p) -- a comment';
         create function defaults(r int, p uuid default null) returns boolean language sql stable as
            'select r = 1;';
         create function pinned() returns boolean language sql stable security definer set search_path = '' as
            'select exists (select from private.teams where id = 1)';
         create function many() returns setof members language sql stable as 'select * from members';
         create function as_table(r int) returns table (who uuid, n int) language sql stable strict as
            'select person, room from members where room = r';
         create function numbers() returns setof int language sql stable as 'select room from members';
         create function variable(variadic ids int[]) returns boolean language sql as 'select 1 = any (ids)';
         create function whole(r rows) returns boolean language sql stable as 'select r.room > 0';
         create function whole_value() returns members language sql as 'select * from members limit 1';
         create function expression() returns boolean language plpgsql stable as
            'BEGIN -- who is it
                RETURN (select auth.uid()) is not null;
             END;'",
    )
    .await;
    let read = Read::of(&ground).await;
    let members = read.catalog.relations.values().find(|relation| relation.name == "members").unwrap();
    for name in [
        "positional",
        "named",
        "defaults",
        "pinned",
        "many",
        "as_table",
        "numbers",
        "variable",
        "whole",
        "whole_value",
        "expression",
    ] {
        read.tree(name);
    }
    for name in ["positional", "named", "many", "as_table", "numbers"] {
        assert!(read.tree(name).contains(&format!(":relid {} ", members.id.0)), "{name}");
    }
    assert!(read.tree("named").contains(":paramid 2"));
    // auth.uid() is reached through a policy's function, and is read like any other.
    read.tree("uid");
    assert!(!read.catalog.functions.values().any(|function| function.name.contains("pg_temp")));
    let left = "select count(*) from pg_proc where pronamespace::regnamespace::text like 'pg_temp%'";
    let left: i64 = ground.database.client.query_one(left, &[]).await.unwrap().get(0);
    assert_eq!(left, 0, "nothing stays");

    let facts = &read.facts;
    assert_eq!(
        facts.time_zone,
        ground.database.client.query_one("show timezone", &[]).await.unwrap().get::<_, String>(0)
    );
    assert_eq!((facts.date_style.as_str(), facts.interval_style.as_str()), ("ISO, MDY", "postgres"));
    assert!(facts.is_utf8);
    let anon = read.catalog.roles.get("anon").unwrap().oid;
    assert!(facts.roles.contains(&anon));
    assert!(!facts.roles.contains(&read.catalog.roles.get("service_role").unwrap().oid));
    assert!(
        !facts.roles.contains(&read.catalog.roles.get("nobody_of_ours").unwrap().oid),
        "the login cannot become it"
    );
}

#[tokio::test]
async fn a_body_written_to_attack_does_nothing() {
    let attacks = [
        "select true; END; insert into loot values (1); commit; --",
        "select true; END; insert into loot values (1); begin; select true",
        "select true; END",
        "insert into loot values (1) returning true",
        "select true; insert into loot values (1) returning true",
        "select set_config(''role'', ''none'', false) is null",
    ];
    let functions: Vec<String> = attacks
        .iter()
        .enumerate()
        .map(|(n, body)| {
            format!("create function attack_{n}() returns boolean language sql security definer as '{body}'")
        })
        .collect();
    let ground = ground(&format!(
        "create table loot (n int); grant all on loot to public;
         set check_function_bodies = off; {};
         create function attack_p() returns boolean language plpgsql as
            'begin return true); insert into loot values (1); select (true; end';
         create function attack_q() returns boolean language plpgsql as
            'begin return true; insert into loot values (1); end';
         create function \"attack_n\"\"(); select 1\"() returns boolean language sql as 'select true';
         reset check_function_bodies",
        functions.join(";")
    ))
    .await;
    let read = Read::of(&ground).await;
    for name in ["attack_0", "attack_1", "attack_2"] {
        let refusal = read.refusal(name);
        assert!(refusal.contains("multiple commands"), "{name}: {refusal}");
    }
    for name in ["attack_p", "attack_q"] {
        read.refusal(name);
    }
    read.tree("attack_n\"(); select 1");
    let loot: i64 = ground.database.client.query_one("select count(*) from loot", &[]).await.unwrap().get(0);
    assert_eq!(loot, 0);
}

#[tokio::test]
async fn what_would_not_mean_the_same_is_refused() {
    let ground = ground(
        "set check_function_bodies = off;
         create function polymorphic(anyelement) returns boolean language sql as 'select $1 is null';
         create function missing() returns boolean language sql as 'select exists (select from nowhere)';
         create function clock() returns boolean language sql as $$ select now() > 'yesterday'::timestamptz $$;
         create function ambiguous(room int) returns boolean language plpgsql stable as
            'begin return exists (select from members where room = room); end';
         create function alias(m int) returns boolean language plpgsql stable as
            'begin return exists (select from members m where m.person is null); end';
         create function several(a boolean) returns boolean language plpgsql as
            'begin if a then return true; end if; return false; end';
         create function wrong_type() returns boolean language sql as 'select 1';
         create table private.hidden (id int); create schema hidden; create table hidden.t (id int);
         create function for_nobody() returns boolean language sql as 'select exists (select from hidden.t)';
         reset check_function_bodies",
    )
    .await;
    let read = Read::of(&ground).await;
    for name in ["polymorphic", "missing", "clock", "ambiguous", "alias", "wrong_type", "for_nobody"] {
        read.refusal(name);
    }
    assert!(read.refusal("clock").contains("'yesterday'"), "{}", read.refusal("clock"));
    assert!(read.refusal("for_nobody").contains("permission denied for schema hidden"));
    let several = read.catalog.functions.values().find(|function| function.name == "several").unwrap();
    assert_eq!(read.facts.bodies.get(&several.oid), None, "it is no expression");
}

#[tokio::test]
async fn names_are_those_that_everybody_who_runs_the_function_finds() {
    let ground = ground(
        "create table private.members (id int primary key);
         create function unqualified() returns boolean language sql stable as 'select exists (select from members)';
         create function pinned() returns boolean language sql stable set search_path = private, public as
            'select exists (select from members)';
         create function by_owner() returns boolean language sql stable security definer
            set search_path = private, public as 'select exists (select from members)'",
    )
    .await;
    let read = Read::of(&ground).await;
    let id = async |name: &str| -> u32 {
        ground.database.client.query_one("select $1::text::regclass::oid", &[&name]).await.unwrap().get(0)
    };
    let (public, private) = (id("public.members").await, id("private.members").await);
    let reads = |read: &Read, name: &str, table: u32| read.tree(name).contains(&format!(":relid {table} "));
    let reads_as = |read: &Read, name: &str, role: &str, table: u32| {
        read.body_for(name, role).expect(name).contains(&format!(":relid {table} "))
    };
    assert!(reads(&read, "unqualified", public));
    assert!(reads_as(&read, "pinned", "anon", private) && reads_as(&read, "pinned", "authenticated", private));
    assert!(reads(&read, "by_owner", private));

    // anon would look into public now, the others into private.
    ground.execute("revoke usage on schema private from anon").await;
    let read = Read::of(&ground).await;
    assert!(reads_as(&read, "pinned", "anon", public) && reads_as(&read, "pinned", "authenticated", private));
    assert!(reads(&read, "by_owner", private), "it never runs as anon");

    // "$user" is another schema for each.
    let own = "create schema anon; create table anon.members (id int); grant usage on schema anon to anon";
    ground.execute(own).await;
    let read = Read::of(&ground).await;
    let of_anon = id("anon.members").await;
    assert!(reads_as(&read, "unqualified", "anon", of_anon) && reads_as(&read, "unqualified", "editor", public));

    // anon may not use the schema that the body names.
    ground
        .execute(
            "create or replace function pinned() returns boolean language sql stable as
                'select exists (select from private.members)'",
        )
        .await;
    let read = Read::of(&ground).await;
    assert!(reads_as(&read, "pinned", "authenticated", private));
    let refusal = read.body_for("pinned", "anon").expect_err("it may not use the schema");
    assert!(refusal.contains("may not use the schema private"), "{refusal}");
    ground.execute("drop schema anon cascade").await;

    // What was changed since the catalog was read is not taken for it.
    let catalog = ground.catalog().await;
    ground
        .execute("create or replace function unqualified() returns boolean language sql stable as 'select true'")
        .await;
    let connect_as = PlainConnect(cluster().url("oracle", &ground.database.name).parse().unwrap());
    let (reading, again) = read_session_facts(&connect_as, &catalog).await.unwrap();
    let unqualified = catalog.functions.values().find(|function| function.name == "unqualified").unwrap();
    assert!(again && reading.facts.bodies[&unqualified.oid].is_err());

    // A long migration costs the body, not the session.
    let other = connect(&ground.database.url).await;
    other.batch_execute("begin; lock table private.members in access exclusive mode").await.unwrap();
    let catalog = ground.catalog().await;
    let (reading, again) = read_session_facts(&connect_as, &catalog).await.unwrap();
    let by_owner = catalog.functions.values().find(|function| function.name == "by_owner").unwrap();
    assert!(again && reading.facts.bodies[&by_owner.oid].is_err());
}

#[tokio::test]
async fn every_state_of_the_catalog_gets_a_reading_of_its_own() {
    let ground = ground("create function f() returns boolean language sql as 'select true'").await;
    let mut catalog = ground.catalog().await;
    let (states, catalogs) = watch::channel(Arc::new(catalog.clone()));
    let (readings, mut read) = mpsc::channel(1);
    let connect = Arc::new(PlainConnect(cluster().url("oracle", &ground.database.name).parse().unwrap()));
    let task = SessionFactsTask { connect, catalogs, readings };
    let running = tokio::spawn(task.run(CancellationToken::new()));
    let first = read.recv().await.expect("a reading");
    assert_eq!((first.version, first.facts.bodies.len()), (0, catalog.functions.len()));
    let sql = "select pg_current_wal_flush_lsn()::text";
    let now: walcast::wal::Lsn =
        ground.database.client.query_one(sql, &[]).await.unwrap().get::<_, &str>(0).parse().unwrap();
    assert!(first.lsn <= now, "the stream will get there");

    catalog.version = 7;
    catalog.functions.clear();
    states.send_replace(Arc::new(catalog));
    let second = read.recv().await.expect("another reading");
    assert_eq!((second.version, second.facts.bodies.len()), (7, 0));
    assert!(second.lsn >= first.lsn);
    drop(states);
    running.await.expect("it ends with dispatch");
}

#[tokio::test]
async fn a_powerful_login_reads_nothing() {
    let ground = ground("create function f() returns boolean language sql as 'select true'").await;
    let connect = PlainConnect(ground.database.url.parse().unwrap());
    let error = read_session_facts(&connect, &ground.catalog().await).await.unwrap_err();
    assert!(error.to_string().contains("superuser"), "{error}");
}
