//! `walcast setup` run again while the relay streams: plans turn from Postgres' to tracked ones and back without a restart,
//! and every decision on the way is right.

use serde_json::json;
use walcast::demo::postgres::{Cluster, ClusterOptions};

use crate::support::client::{Client, all_of};
use crate::support::people::{ALICE, alice};
use crate::support::relay::set_up;
use crate::support::scene::{ROOMS, Scene, until};

/// Decided in-process; decided by Postgres because the policies are not compiled.
const HERE: &str = "walcast_decisions_total";
const BY_POSTGRES: &str = "walcast_decisions_not_compiled_total";
/// Tables are read again each time that plans have stopped to need them.
const LOADS: &str = "walcast_tracked_loads_total";
const ROLES: &str = "walcast_roles_version";

struct Room {
    scene: Scene,
    client: Client,
    posts: u32,
}

impl Room {
    /// Two posts that Alice may see, and one between them that she may not.
    async fn post(&mut self) {
        let id = self.posts;
        self.posts += 3;
        let sql = |id: u32, room: u32| format!("insert into posts values ({id}, {room})");
        self.scene.execute_each(&[&sql(id, 1), &sql(id + 1, 2), &sql(id + 2, 1)]).await;
        for expected in [id, id + 2] {
            assert_eq!(self.client.next_change().await.record()["id"], json!(expected));
        }
    }

    /// Posts until this metric counts; the state of the stream is announced by nothing else.
    async fn post_until_counted(&mut self, metric: &str) {
        let before = self.scene.relay.metric(metric).await;
        for _ in 0..500 {
            self.post().await;
            if self.scene.relay.metric(metric).await > before {
                return;
            }
        }
        panic!("{metric} stays at {before}; the relay's log:\n{}", self.scene.relay.log());
    }

    /// Until the poll has looked twice: what it has found at first it has told by then.
    async fn is_polled(&self) {
        let client = &self.scene.database.client;
        for _ in 0..2 {
            let now: String = client.query_one("select clock_timestamp()::text", &[]).await.unwrap().get(0);
            let polls = format!(
                "select exists (select from pg_stat_activity where datname = current_database() and usename = user
                   and query like '-- A number that changes%' and query_start > '{now}')"
            );
            until(client, &polls).await;
        }
    }

    async fn roles_are_found(&self, sql: &str) {
        let before = self.scene.relay.metric(ROLES).await;
        self.scene.execute(sql).await;
        self.scene.relay.until_metric(ROLES, |version| version > before).await;
    }

    async fn is_followed(&self) -> bool {
        let sql =
            "select exists (select from pg_publication_tables where pubname = 'walcast' and tablename = 'members')";
        self.scene.database.client.query_one(sql, &[]).await.unwrap().get(0)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_setup_adds_or_takes_out_changes_the_plan_of_a_running_relay() {
    let scene = Scene::new(&format!("{ROOMS} insert into members values (1, '{ALICE}');")).await;
    let mut client = Client::connect(&scene.relay, &alice()).await;
    client.subscribe("posts", json!([all_of("posts")])).await;
    let mut room = Room { scene, client, posts: 1 };
    let url = room.scene.database.url.clone();

    assert!(!room.is_followed().await);
    room.post_until_counted(BY_POSTGRES).await;
    assert_eq!(room.scene.relay.metric(HERE).await, 0.0);

    set_up(&url).await;
    assert!(room.is_followed().await);
    room.post_until_counted(HERE).await;
    let by_postgres = room.scene.relay.metric(BY_POSTGRES).await;
    // As of the commit: each post is judged by the membership of its own place.
    room.scene
        .execute_each(&[
            "delete from members",
            "insert into posts values (100001, 1)",
            "insert into members select 1, '11111111-1111-4111-8111-111111111111'",
        ])
        .await;
    room.post().await;
    assert_eq!(room.scene.relay.metric(BY_POSTGRES).await, by_postgres);

    // No policy reads it: setup takes it out. One does again, and nobody has run setup: Postgres is asked.
    let member = "exists (select from members m where m.room = posts.room and m.member = auth.uid())";
    room.scene.execute("alter policy member on posts using (room = 1)").await;
    set_up(&url).await;
    assert!(!room.is_followed().await);
    room.post_until_counted(HERE).await;
    room.scene.execute(&format!("alter policy member on posts using ({member})")).await;
    room.post_until_counted(BY_POSTGRES).await;

    // What was committed while it was not followed counts.
    room.scene
        .execute_each(&[
            "delete from members",
            "insert into members values (1, '11111111-1111-4111-8111-111111111111')",
        ])
        .await;
    set_up(&url).await;
    room.post_until_counted(HERE).await;
}

/// The stream tells of DDL at once and the poll finds it a second later, roles are found by the poll alone; each makes
/// sessions read the bodies of functions again. In a cluster of its own: roles belong to all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_catalog_stops_decisions_once() {
    let cluster = Cluster::start(&ClusterOptions::default()).expect("a cluster");
    let scene = Scene::in_cluster(&cluster, &format!("{ROOMS} insert into members values (1, '{ALICE}');")).await;
    set_up(&scene.database.url).await;
    let mut client = Client::connect(&scene.relay, &alice()).await;
    client.subscribe("posts", json!([all_of("posts")])).await;
    let mut room = Room { scene, client, posts: 1 };
    room.roles_are_found("create role passer_by").await;
    room.post_until_counted(HERE).await;
    let loads = room.scene.relay.metric(LOADS).await;

    room.scene.execute("create table unrelated (id int)").await;
    room.post_until_counted(HERE).await;
    room.is_polled().await;
    room.post().await;
    assert_eq!(room.scene.relay.metric(LOADS).await, loads + 1.0);
    room.roles_are_found("create role bystander").await;
    room.post_until_counted(HERE).await;
    assert_eq!(room.scene.relay.metric(LOADS).await, loads + 2.0);
}

/// Whom a row may be for depends on the owner of a function as well, which is nobody's role who subscribes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_are_led_to_anew_when_the_owner_of_a_policys_function_sees_more() {
    let cluster = Cluster::start(&ClusterOptions::default()).expect("a cluster");
    let sql = format!(
        "create role keeper nologin;
         grant usage on schema public, auth to keeper;
         create table members (room int, member uuid, primary key (room, member));
         alter table members enable row level security;
         grant select on members to keeper;
         create function is_member(r int) returns boolean language sql stable security definer
           as 'select exists (select from public.members m where m.room = r and m.member = auth.uid())';
         alter function is_member owner to keeper;
         create table posts (id int primary key, room int not null, author uuid);
         alter table posts enable row level security;
         create policy mine on posts for select to authenticated using (author = auth.uid());
         create policy member on posts for select to authenticated using (is_member(room));
         grant select on posts to authenticated;
         alter publication supabase_realtime add table posts;
         insert into members values (1, '{ALICE}');"
    );
    let scene = Scene::in_cluster(&cluster, &sql).await;
    set_up(&scene.database.url).await;
    let mut client = Client::connect(&scene.relay, &alice()).await;
    client.subscribe("posts", json!([all_of("posts")])).await;
    let room = Room { scene, client, posts: 1 };
    room.roles_are_found("create role passer_by").await;
    let Room { scene, mut client, .. } = room;
    // Decided here: people stand by what the policies compare.
    let (mut id, here) = (0, scene.relay.metric(HERE).await);
    while scene.relay.metric(HERE).await == here {
        assert!(id < 500, "nothing is decided here; the relay's log:\n{}", scene.relay.log());
        id += 2;
        let hers = format!("insert into posts values ({id}, 2, '{ALICE}')");
        scene.execute_each(&[&format!("insert into posts values ({}, 1)", id - 1), &hers]).await;
        assert_eq!(client.next_change().await.record()["id"], json!(id), "the keeper sees no members");
    }
    let before = scene.relay.metric(ROLES).await;
    scene.execute("alter role keeper bypassrls").await;
    scene.relay.until_metric(ROLES, |version| version > before).await;
    scene.execute(&format!("insert into posts values ({}, 1)", id + 1)).await;
    scene.execute(&format!("insert into posts values ({}, 2, '{ALICE}')", id + 2)).await;
    for expected in [id + 1, id + 2] {
        assert_eq!(client.next_change().await.record()["id"], json!(expected));
    }
}
