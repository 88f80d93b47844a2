//! The loaded catalog against Postgres' own answers.

use tokio_postgres::Client;
use walcast::catalog::{Catalog, Loaded, PG_READ_ALL_DATA, Relation, ReplicaIdentity, TypeKind, loader};
use walcast::demo::postgres::{Cluster, ClusterOptions};

use crate::support::database::Database;

async fn load(client: &mut Client, publication: &str) -> Loaded {
    loader::load(client, &[publication.to_owned()], None).await.expect("load the catalog")
}

fn relation<'a>(catalog: &'a Catalog, name: &str) -> &'a Relation {
    let found = catalog.relations.values().find(|relation| relation.name == name);
    found.unwrap_or_else(|| panic!("{name} is not in the catalog"))
}

fn names(relation: &Relation, columns: &[walcast::catalog::ColumnIndex]) -> Vec<String> {
    columns.iter().map(|column| relation.column(*column).name.clone()).collect()
}

#[tokio::test]
async fn the_catalog_has_the_published_tables_with_keys_types_and_policies() {
    let mut database = Database::create().await;
    let setup = r#"
        create type mood as enum ('sad', 'ok', 'happy');
        create domain feeling as mood check (value <> 'sad');
        create type pair as (one feeling[], two int4range);
        create function me() returns uuid language sql stable as 'select null::uuid';
        create table "We ird" (id int, room int, "na.me" text collate "C", p pair, twice int generated always as (id * 2) stored,
            gone int, owner uuid, boxes box[], primary key (room, id));
        alter table "We ird" drop column gone;
        alter table "We ird" enable row level security;
        create policy mine on "We ird" for select using (owner = me() and "na.me" <> 'x') with check (room > 0);
    "#;
    // WITH CHECK is not allowed for SELECT: the policy is made for ALL.
    database.client.batch_execute(&setup.replace("for select using", "using")).await.unwrap();
    database
        .client
        .batch_execute(
            r#"create table whole (id int primary key, secret text);
            alter table whole enable row level security;
            create policy row_type on whole using (whole is not null);
            create table full_identity (a int, b int);
            alter table full_identity replica identity full;
            create table by_index (a int not null, b int not null unique, c int primary key);
            alter table by_index replica identity using index by_index_b_key;
            create table absent (id int primary key);
            create publication p for table "We ird", whole, full_identity, by_index with (publish = 'insert, delete')"#,
        )
        .await
        .unwrap();
    let loaded = load(&mut database.client, "p").await;
    let catalog = &loaded.catalog;
    assert!(catalog.complete);
    assert_eq!(loaded.publications, ["p"]);
    assert_eq!(catalog.relations.len(), 4);

    let weird = relation(catalog, "We ird");
    assert_eq!(weird.sql_name(), r#""public"."We ird""#);
    assert_eq!(names(weird, &weird.primary_key), ["room", "id"]);
    assert_eq!(weird.primary_key, weird.identity_key);
    assert!(weird.publish.insert && !weird.publish.update && weird.publish.delete);
    assert_eq!(weird.columns.iter().map(|c| c.attnum).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 7, 8]);
    let generated = weird.columns[4].generated.as_ref().unwrap();
    assert_eq!((generated.stored, generated.expression.as_deref()), (true, Some("(id * 2)")));
    let collation = weird.columns[2].collation.unwrap();
    assert!(collation.is_c && collation.deterministic);
    assert_eq!(weird.columns[0].collation, None);

    let policy = &weird.policies[0];
    assert!(policy.using_tree.as_deref().unwrap().starts_with("{BOOLEXPR"));
    assert_eq!(policy.using_text.as_deref(), Some("((owner = public.me()) AND (\"na.me\" <> 'x'::text))"));
    assert_eq!(policy.columns.as_deref(), Some(&[3, 7][..]), "not room, which only WITH CHECK reads");
    assert_eq!(relation(catalog, "whole").policies[0].columns, None, "it reads the whole row");
    let me = catalog.functions.values().find(|function| function.name == "me").unwrap();
    assert_eq!((me.language.as_str(), me.source.as_str()), ("sql", "select null::uuid"));

    let pair = &catalog.types[&weird.columns[3].type_oid];
    let TypeKind::Composite { attributes } = &pair.kind else { panic!("{pair:?}") };
    assert_eq!(attributes[0].0, "one");
    let TypeKind::Array { element, delimiter: b',' } = catalog.types[&attributes[0].1].kind else { panic!() };
    assert_eq!(catalog.types[&element].sql_name, "public.feeling");
    let TypeKind::Enum { labels } = &catalog.base_type(element).unwrap().kind else { panic!() };
    assert_eq!(labels, &["sad", "ok", "happy"]);
    assert!(matches!(catalog.types[&weird.columns[6].type_oid].kind, TypeKind::Array { delimiter: b';', .. }));

    let full = relation(catalog, "full_identity");
    assert_eq!(
        (full.replica_identity, names(full, &full.identity_key)),
        (ReplicaIdentity::Full, vec!["a".into(), "b".into()])
    );
    let index = relation(catalog, "by_index");
    assert_eq!(names(index, &index.identity_key), ["b"]);
    assert_eq!(names(index, &index.primary_key), ["c"]);
}

#[tokio::test]
async fn a_partitioned_table_is_its_root_or_its_leaves_as_the_publication_says() {
    let mut database = Database::create().await;
    database
        .client
        .batch_execute(
            "create table root (id int primary key) partition by range (id);
             create table leaf partition of root for values from (0) to (10);
             create publication by_root for table root with (publish_via_partition_root = true);
             create publication by_leaf for table root",
        )
        .await
        .unwrap();
    let mut seen = async |publications: &[&str]| {
        let publications: Vec<String> = publications.iter().map(|name| name.to_string()).collect();
        let loaded = loader::load(&mut database.client, &publications, None).await.unwrap();
        loaded.catalog.relations.values().map(|relation| relation.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(seen(&["by_root"]).await, ["root"]);
    assert_eq!(seen(&["by_leaf"]).await, ["leaf"]);
    assert_eq!(seen(&["by_root", "by_leaf"]).await, ["root"], "the stream names the root");
    assert!(seen(&["nonesuch"]).await.is_empty());
}

#[tokio::test]
async fn the_tables_are_those_of_pg_publication_tables() {
    let mut database = Database::create().await;
    let version: String = database.client.query_one("show server_version_num", &[]).await.unwrap().get(0);
    database
        .client
        .batch_execute(
            "create schema a; create schema b; create unlogged table a.unlogged (id int);
             create table a.plain (id int); create table b.plain (id int); create view a.v as select 1;
             create table a.root (id int) partition by range (id);
             create table b.branch partition of a.root for values from (0) to (10) partition by range (id);
             create table a.leaf partition of b.branch for values from (0) to (5);
             create table b.leaf partition of a.root for values from (10) to (20);
             create publication every for all tables;
             create publication every_root for all tables with (publish_via_partition_root = true);
             create publication branch for table b.branch, a.plain;
             create publication branch_root for table b.branch, b.leaf with (publish_via_partition_root = true)",
        )
        .await
        .unwrap();
    if version.parse::<u32>().unwrap() >= 150000 {
        database
            .client
            .batch_execute(
                // 14 lists root and branch here, though its stream names the root alone.
                "create publication nested for table a.root, b.branch with (publish_via_partition_root = true);
                 create publication schema_a for tables in schema a;
                 create publication schema_a_root for tables in schema a with (publish_via_partition_root = true);
                 create publication schema_b_root for tables in schema b, table a.plain
                    with (publish_via_partition_root = true)",
            )
            .await
            .unwrap();
    }
    let rows = database.client.query("select pubname::text from pg_publication", &[]).await.unwrap();
    for publication in rows.iter().map(|row| row.get::<_, String>(0)) {
        let catalog = load(&mut database.client, &publication).await.catalog;
        let mut ours: Vec<String> = catalog.relations.values().map(|r| format!("{}.{}", r.schema, r.name)).collect();
        ours.sort_unstable();
        let sql = "select schemaname || '.' || tablename from pg_publication_tables where pubname = $1";
        let rows = database.client.query(sql, &[&publication]).await.unwrap();
        let mut theirs: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        theirs.sort_unstable();
        assert_eq!(ours, theirs, "{publication}");
    }
}

#[tokio::test]
async fn a_locked_table_costs_the_texts_of_its_policies_and_nothing_else() {
    let mut database = Database::create().await;
    database
        .client
        .batch_execute(
            "create table t (id int primary key); alter table t enable row level security;
             create policy p on t using (id > 0); create publication pub for table t",
        )
        .await
        .unwrap();
    let other = crate::support::database::connect(&database.url).await;
    other.batch_execute("begin; lock table t in access exclusive mode").await.unwrap();
    let locked = load(&mut database.client, "pub").await.catalog;
    assert!(!locked.complete);
    let policy = &relation(&locked, "t").policies[0];
    assert!(policy.using_tree.is_some() && policy.using_text.is_none());
    other.batch_execute("rollback").await.unwrap();
    assert!(load(&mut database.client, "pub").await.catalog.complete);
}

#[tokio::test]
async fn a_load_that_must_see_a_transaction_waits_until_it_has_ended() {
    let mut database = Database::create().await;
    database.client.batch_execute("create publication pub").await.unwrap();
    let other = crate::support::database::connect(&database.url).await;
    other.batch_execute("begin; create table t (id int primary key); alter publication pub add table t").await.unwrap();
    let xid: String = other.query_one("select pg_current_xact_id()::text", &[]).await.unwrap().get(0);
    let xid = xid.parse::<u64>().unwrap() as u32;
    let publications = ["pub".to_owned()];
    let waiting = loader::load(&mut database.client, &publications, Some(xid));
    tokio::pin!(waiting);
    // Long enough for a few readings; that none of them ends the wait is the point.
    let few_readings = std::time::Duration::from_millis(50);
    assert!(tokio::time::timeout(few_readings, &mut waiting).await.is_err(), "the load did not wait");
    other.batch_execute("commit").await.unwrap();
    let loaded = waiting.await.unwrap();
    assert!(loaded.snapshot.sees(xid));
    assert_eq!(loaded.catalog.relations.len(), 1);
}

#[tokio::test]
async fn a_load_does_not_wait_for_the_wal_of_open_transactions_and_has_that_of_lazy_commits() {
    let cluster = Cluster::start(&ClusterOptions::default()).unwrap();
    let mut database = Database::create_in(&cluster).await;
    database.client.batch_execute("create table t (id int); create publication pub for table t").await.unwrap();
    let other = crate::support::database::connect(&database.url).await;
    let lazy = crate::support::database::connect(&database.url).await;
    lazy.batch_execute("set synchronous_commit = off; alter table t enable row level security").await.unwrap();
    let row = lazy.query_one("select pg_current_wal_insert_lsn()::text", &[]).await.unwrap();
    let committed: walcast::wal::Lsn = row.get::<_, &str>(0).parse().unwrap();
    let loaded = load(&mut database.client, "pub").await;
    assert!(relation(&loaded.catalog, "t").row_security);
    // A page's header may lie between.
    assert!(loaded.flush_lsn.0 + 40 >= committed.0, "{} < {committed}", loaded.flush_lsn);
    let started = std::time::Instant::now();
    other.batch_execute("begin; insert into t values (1)").await.unwrap();
    load(&mut database.client, "pub").await;
    assert!(started.elapsed() < std::time::Duration::from_secs(8), "{:?}", started.elapsed());
}

/// xorshift: the same seed gives the same grants everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

/// Random grants, memberships, owners and row-level security; then has_column_privilege, row_security_active,
/// has_schema_privilege and pg_has_role are asked of Postgres for every role. `WALCAST_TEST_GRANTS` rounds.
#[tokio::test]
async fn grants_memberships_and_row_security_are_what_postgres_says() {
    let rounds: usize = std::env::var("WALCAST_TEST_GRANTS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let seed =
        std::env::var("WALCAST_TEST_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(rand::random::<u64>) | 1;
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let cluster = Cluster::start(&ClusterOptions::default()).unwrap();
    let mut database = Database::create_in(&cluster).await;
    const ROLES: [&str; 7] = ["r0", "r1", "r2", "r3", "r4", "r5", "r6"];
    const TABLES: [&str; 3] = ["s1.t0", "s1.t1", "s2.t2"];
    database
        .client
        .batch_execute(
            "do $$ begin for i in 0..6 loop execute format('create role r%s', i); end loop; end $$;
             create schema s1; create schema s2;
             create table s1.t0 (a int primary key, b text, c text); create table s1.t1 (like s1.t0 including all);
             create table s2.t2 (like s1.t0 including all); create publication pub for table s1.t0, s1.t1, s2.t2",
        )
        .await
        .unwrap();
    for _ in 0..rounds {
        for _ in 0..12 {
            let (role, other, table) = (dice.pick(&ROLES), dice.pick(&ROLES), dice.pick(&TABLES));
            let statement = match dice.below(14) {
                0 => format!("grant select on {table} to {role}"),
                1 => format!("revoke select on {table} from {role}"),
                2 => format!("grant select ({}) on {table} to {role}", dice.pick(&["a", "b", "c", "a, c"])),
                3 => format!("grant {other} to {role}"),
                4 => format!("revoke {other} from {role}"),
                5 => format!("alter role {role} {}", dice.pick(&["inherit", "noinherit"])),
                6 => format!(
                    "alter role {role} {}",
                    dice.pick(&["bypassrls", "nobypassrls", "superuser", "nosuperuser"])
                ),
                7 => format!("alter table {table} owner to {role}"),
                8 => format!(
                    "alter table {table} {} row level security",
                    dice.pick(&["enable", "disable", "force", "no force"])
                ),
                9 => format!("grant {} to {role}", dice.pick(&["pg_read_all_data", "pg_monitor"])),
                10 => format!("grant usage on schema {} to {}", dice.pick(&["s1", "s2"]), dice.pick(&["public", role])),
                11 => format!("grant select ({}) on {table} to public", dice.pick(&["a", "b"])),
                12 => format!("revoke all on {table} from {}", dice.pick(&["public", role])),
                _ => format!("alter database {} owner to {role}", database.name),
            };
            // A circular membership is refused, and so it should be.
            if let Err(error) = database.client.batch_execute(&statement).await {
                let message = error.as_db_error().map(|e| e.message().to_owned()).unwrap_or_default();
                assert!(message.contains("is a member of role"), "{statement}: {error:?}");
            }
        }
        let catalog = load(&mut database.client, "pub").await.catalog;
        compare(&database.client, &catalog).await;
    }
}

async fn compare(client: &Client, catalog: &Catalog) {
    for (name, role) in &catalog.roles.by_name {
        let rows = client.query("select oid, pg_has_role($1, oid, 'USAGE') from pg_roles", &[name]).await.unwrap();
        for row in rows {
            let oid: u32 = row.get(0);
            assert_eq!(role.has_privileges_of(oid), row.get::<_, bool>(1), "pg_has_role({name}, {oid})");
        }
        if name.starts_with("pg_") {
            continue;
        }
        for relation in catalog.relations.values() {
            let table = relation.sql_name();
            let selectable = relation.selectable_columns(role, PG_READ_ALL_DATA);
            for column in relation.indices() {
                let column_name = &relation.column(column).name;
                let sql = "select has_column_privilege($1, $2::text::regclass, $3::text, 'SELECT')";
                let theirs: bool = client.query_one(sql, &[name, &table, column_name]).await.unwrap().get(0);
                assert_eq!(selectable.contains(column), theirs, "{name} selects {column_name} of {table}");
            }
            let sql = "select has_schema_privilege($1, $2::text, 'USAGE')";
            let theirs: bool = client.query_one(sql, &[name, &relation.schema]).await.unwrap().get(0);
            assert_eq!(catalog.may_use_schema(role, &relation.schema), theirs, "{name} uses {}", relation.schema);
            let visible = catalog.visible_columns(role, relation);
            assert_eq!(visible, if theirs { selectable } else { Default::default() }, "{name} sees of {table}");
            client.batch_execute(&format!("set role {name}")).await.unwrap();
            let sql = "select row_security_active($1::oid)";
            let theirs: bool = client.query_one(sql, &[&relation.id.0]).await.unwrap().get(0);
            client.batch_execute("reset role").await.unwrap();
            assert_eq!(relation.row_security_active(role), theirs, "{name} under RLS of {table}");
        }
    }
}
