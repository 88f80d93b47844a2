//! What policies read beside the published tables, and whether the stream carries it.

use std::collections::BTreeSet;

use tokio_postgres::Client;
use walcast::catalog::{Catalog, Followed, Relation, loader};

use crate::support::database::{Database, connect};

async fn load(client: &mut Client) -> Catalog {
    loader::load(client, &["app".to_owned()], None).await.expect("load the catalog").catalog
}

async fn server_version(client: &Client) -> u32 {
    let version: String = client.query_one("show server_version_num", &[]).await.unwrap().get(0);
    version.parse().unwrap()
}

fn any<'a>(catalog: &'a Catalog, name: &str) -> &'a Relation {
    let mut all = catalog.relations.values().chain(catalog.referenced.values());
    all.find(|relation| relation.name == name).unwrap_or_else(|| panic!("{name} is not in the catalog"))
}

fn referenced(catalog: &Catalog) -> BTreeSet<&str> {
    catalog.referenced.values().map(|relation| relation.name.as_str()).collect()
}

#[tokio::test]
async fn what_policies_read_is_in_the_catalog_through_tables_and_functions() {
    let mut database = Database::create().await;
    database
        .client
        .batch_execute(
            r#"create schema private;
            create type level as enum ('guest', 'boss');
            create table messages (id int primary key, room int, owner uuid);
            create table members (room int, person uuid, level level, primary key (room, person));
            create table people (id uuid primary key, team int);
            create table teams (id int primary key);
            create table "Team Notes" (id int primary key);
            create table elsewhere (id int primary key);
            create table private.secrets (id int primary key);
            create table unread (id int primary key);
            create view seen_view as select 1 as id;
            create function in_team(t int) returns boolean language sql stable as
                'select exists (select from Teams where id = t) and exists (select from "Team Notes" where id = t)';
            create function by_word(t int) returns boolean language sql stable security definer as
                $$ select in_team(t) or exists (select from private.secrets) $$;
            create function returns(t int) returns boolean language plpgsql stable as
                $$ begin return exists (select from elsewhere where id = t); end $$;
            create table not_reached (id int primary key);
            create function unused() returns boolean language sql as 'select exists (select from not_reached)';
            alter table messages enable row level security;
            create policy a on messages for select using (exists (
                select from members m where m.room = messages.room and m.person = owner and m.level = 'boss'));
            create policy w on messages for insert with check (exists (select from unread));
            alter table members enable row level security;
            create policy b on members using (person in (select id from people where by_word(team) and returns(team)));
            create policy v on people using (exists (select from seen_view));
            create publication app for table messages"#,
        )
        .await
        .unwrap();
    let catalog = load(&mut database.client).await;
    assert!(catalog.complete);
    assert_eq!(catalog.relations.len(), 1);
    let expected = ["Team Notes", "elsewhere", "members", "people", "secrets", "seen_view", "teams"];
    assert_eq!(referenced(&catalog), BTreeSet::from(expected));
    let mut functions: Vec<_> = catalog.functions.values().map(|function| function.name.as_str()).collect();
    functions.sort_unstable();
    assert_eq!(functions, ["by_word", "in_team", "returns"]);

    let members = any(&catalog, "members");
    assert!(members.row_security && !members.policies.is_empty());
    assert!(members.policies[0].using_tree.is_some(), "its policy counts inside of sub-queries");
    assert_eq!(members.policies[0].using_text, None, "nobody is asked about it");
    assert!(catalog.types.contains_key(&members.columns[2].type_oid), "types of its columns");
    assert!(catalog.schemas.contains_key("private"), "USAGE on its schema");
    assert_eq!((members.followed, members.publish.insert), (Followed::No, false));
    assert_eq!(any(&catalog, "seen_view").followed, Followed::NotLogged);

    // What has not changed is shared with the state before.
    let mut again = load(&mut database.client).await;
    again.share_with(&catalog);
    let (id, before) = catalog.referenced.iter().next().unwrap();
    assert!(std::sync::Arc::ptr_eq(before, &again.referenced[id]));
}

#[tokio::test]
async fn a_table_is_followed_where_the_stream_has_all_of_it() {
    let mut database = Database::create().await;
    database
        .client
        .batch_execute(
            "create schema walcast; create table walcast.ddl_log (id int primary key);
             create table whole (id int primary key); create table own (id int primary key);
             create table own_full (id int); alter table own_full replica identity full;
             create table no_key (id int); create table nothing (id int primary key);
             alter table nothing replica identity nothing;
             create table deferred (id int primary key deferrable);
             create table by_index (id int not null unique); alter table by_index replica identity using index by_index_id_key;
             create unlogged table unlogged (id int primary key);
             create table parent (id int primary key); create table child () inherits (parent);
             create table outside (id int primary key);
             create table reader (id int primary key);
             create policy p on reader using (exists (select from own_full) and exists (select from nothing)
                and exists (select from unlogged) and exists (select from outside) and exists (select from no_key));
             create publication app for table whole, deferred, by_index, parent, reader;
             create publication walcast for table walcast.ddl_log, own, own_full, no_key",
        )
        .await
        .unwrap();
    let catalog = load(&mut database.client).await;
    let followed = |name: &str| any(&catalog, name).followed;
    for name in ["whole", "own", "own_full", "by_index", "reader"] {
        assert_eq!(followed(name), Followed::Whole, "{name}");
    }
    for name in ["no_key", "nothing", "deferred"] {
        assert_eq!(followed(name), Followed::NoIdentity, "{name}");
    }
    assert_eq!(followed("unlogged"), Followed::NotLogged);
    assert_eq!(followed("parent"), Followed::Inherited);
    assert_eq!(followed("outside"), Followed::No);
    assert!(!catalog.referenced.values().any(|relation| relation.schema == "walcast"));

    let in_part = "alter publication app set (publish = 'insert, update, delete')";
    database.client.batch_execute(in_part).await.unwrap();
    let catalog = load(&mut database.client).await;
    assert_eq!(any(&catalog, "whole").followed, Followed::InPart, "without TRUNCATE");
    assert_eq!(any(&catalog, "own").followed, Followed::Whole);
    database
        .client
        .batch_execute("alter publication app set (publish = 'insert, update, delete, truncate')")
        .await
        .unwrap();
    if server_version(&database.client).await >= 150000 {
        let sql = "alter publication app set table whole where (id > 0), by_index (id), reader;
            drop publication walcast; create publication walcast for table own where (id > 0)";
        database.client.batch_execute(sql).await.unwrap();
        let catalog = load(&mut database.client).await;
        for name in ["whole", "by_index", "own"] {
            assert_eq!(any(&catalog, name).followed, Followed::InPart, "{name}");
        }
        // Both together are whole; where they cannot be read together the user's is read alone.
        let sql = "drop publication walcast; create publication walcast for table whole, own";
        database.client.batch_execute(sql).await.unwrap();
        let catalog = load(&mut database.client).await;
        assert_eq!(any(&catalog, "whole").followed, Followed::InPart);
        assert_eq!(any(&catalog, "own").followed, Followed::Whole);
    }
}

#[tokio::test]
async fn a_partitioned_table_is_followed_by_its_leaves() {
    let mut database = Database::create().await;
    let client = connect(&database.url).await;
    client
        .batch_execute(
            "create table root (id int primary key) partition by range (id);
             create table branch partition of root for values from (0) to (10) partition by range (id);
             create table leaf_a partition of branch for values from (0) to (5);
             create table leaf_b partition of root for values from (10) to (20);
             create table empty (id int primary key) partition by range (id);
             create table bare (id int primary key) partition by range (id);
             create table reader (id int primary key);
             create policy p on reader using (exists (select from root) and exists (select from bare)
                and exists (select from branch));
             create publication app for table reader; create publication walcast for table root, empty",
        )
        .await
        .unwrap();
    let catalog = load(&mut database.client).await;
    let id = async |name: &str| {
        let sql = "select $1::text::regclass::oid";
        walcast::wal::pgoutput::RelationId(client.query_one(sql, &[&name]).await.unwrap().get(0))
    };
    let (a, b) = (id("leaf_a").await, id("leaf_b").await);
    assert_eq!((any(&catalog, "root").followed, &any(&catalog, "root").leaves), (Followed::Whole, &vec![a, b]));
    assert_eq!((any(&catalog, "branch").followed, &any(&catalog, "branch").leaves), (Followed::Whole, &vec![a]));
    assert_eq!(any(&catalog, "empty").followed, Followed::Whole, "so will its first partition be");
    assert_eq!(any(&catalog, "bare").followed, Followed::No);

    // One leaf that is not carried is one too many.
    client
        .batch_execute("alter publication walcast drop table root; alter publication walcast add table leaf_a")
        .await
        .unwrap();
    let catalog = load(&mut database.client).await;
    assert_ne!(any(&catalog, "root").followed, Followed::Whole);
    assert_eq!(any(&catalog, "branch").followed, Followed::Whole, "its only leaf is");

    // Under the root's name the stream says nothing of a leaf that is emptied.
    let sql = "alter publication walcast drop table leaf_a; alter publication app add table root;
        alter publication app set (publish_via_partition_root = true)";
    client.batch_execute(sql).await.unwrap();
    let catalog = load(&mut database.client).await;
    assert_eq!((any(&catalog, "root").followed, any(&catalog, "root").leaves.len()), (Followed::InPart, 0));
    assert_ne!(any(&catalog, "branch").followed, Followed::Whole);
}

#[tokio::test]
async fn fifty_policies_fit_into_a_log_row() {
    let database = Database::create().await;
    let client = &database.client;
    client
        .batch_execute(
            "do $$ begin for i in 1..25 loop
                execute format('create table t%s (id int primary key, room int, owner uuid, body text)', i);
                execute format('create table m%s (room int, person uuid, role text, primary key (room, person))', i);
                execute format('create policy a on t%s for select using (exists (select from m%s m
                    where m.room = t%s.room and m.person = owner and m.role in (''admin'', ''member'')))', i, i, i);
                execute format('create policy b on m%s using (person = ''00000000-0000-0000-0000-000000000000'')', i);
            end loop; end $$;
            create publication app for all tables",
        )
        .await
        .unwrap();
    let sql = format!("select octet_length(({})::text)", walcast::catalog::state::STATE_SQL);
    let started = std::time::Instant::now();
    let bytes: i32 = client.query_one(&sql, &[&vec!["app"], &true]).await.unwrap().get(0);
    println!("{bytes} bytes of state, {:?}", started.elapsed());
    assert!(bytes < 300_000, "{bytes}");
}
