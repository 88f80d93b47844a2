//! Policies that sleep, fail or try to become somebody else: they silence their own table's subscribers and nobody else.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::client::{Client, all_of};
use crate::support::people::{alice, anon, bob};
use crate::support::scene::Scene;

const HOSTILE: &str = "
    create function dream() returns boolean language plpgsql as $$ begin perform pg_sleep(600); return true; end $$;
    create function fail() returns boolean language plpgsql as $$ begin raise exception 'no, %', 'never'; end $$;
    create function rise() returns boolean language plpgsql as $$
    begin
      perform set_config('role', 'none', false);
      perform set_config('session_authorization', 'postgres', false);
      execute 'create table public.loot as select 1 as n';
      return true;
    end $$;
    create function pose() returns boolean language plpgsql as $$
    begin
      perform set_config('request.jwt.claims', '{\"role\":\"authenticated\",\"sub\":\"11111111-1111-4111-8111-111111111111\"}', false);
      perform set_config('role', 'none', false);
      return false;
    end $$;
    create table dreams (id int primary key);
    create table failures (id int primary key);
    create table rises (id int primary key);
    create table poses (id int primary key);
    create table diary (id int primary key, owner uuid not null);
    create table open (id int primary key);
    alter table dreams enable row level security;
    alter table failures enable row level security;
    alter table rises enable row level security;
    alter table poses enable row level security;
    alter table diary enable row level security;
    create policy slow on dreams for select to authenticated using (dream());
    create policy fails on failures for select to authenticated using (fail());
    create policy rises on rises for select to authenticated using (rise());
    create policy poses on poses for select to authenticated using (pose());
    create policy own on diary for select to authenticated using (owner = auth.uid());
    grant select on dreams, failures, rises, poses, diary, open to anon, authenticated;
    alter publication supabase_realtime add table dreams, failures, rises, poses, diary, open;";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_policy_hurts_nobody_elses_events() {
    let scene = Scene::with_flags(HOSTILE, &["--authz-timeout", "1s"]).await;
    let mut victim = Client::connect(&scene.relay, &alice()).await;
    victim.subscribe("diary", json!([all_of("diary")])).await;
    let mut bystander = Client::connect(&scene.relay, &anon()).await;
    bystander.subscribe("open", json!([all_of("open")])).await;
    let mut subscriber = Client::connect(&scene.relay, &bob()).await;
    for table in ["dreams", "failures", "rises", "poses"] {
        subscriber.subscribe(table, json!([all_of(table)])).await;
    }

    let started = Instant::now();
    for id in 1..=20 {
        scene
            .execute(&format!(
                "insert into dreams values ({id}); insert into failures values ({id}); insert into rises values ({id});
                 insert into poses values ({id});
                 insert into diary values ({id}, '11111111-1111-4111-8111-111111111111'),
                   (-{id}, '22222222-2222-4222-8222-222222222222');
                 insert into open values ({id})"
            ))
            .await;
    }
    for id in 1..=20 {
        assert_eq!(bystander.next_change().await.record()["id"], id);
        assert_eq!(victim.next_change().await.record()["id"], id);
    }
    // Twenty sleeps of a second, one after the other, would be a policy of one table in everybody's way.
    assert!(started.elapsed() < Duration::from_secs(15), "others waited {:?}", started.elapsed());

    // Its own subscribers are told, once, and get nothing.
    for table in ["dreams", "failures"] {
        subscriber.expect_system(table, "error", "").await;
    }
    subscriber.subscribe("open", json!([all_of("open")])).await;
    scene.execute("insert into open values (21)").await;
    let mark = subscriber.wait_for("the mark", |message| message.topic == "realtime:open").await;
    assert_eq!(mark.payload["data"]["record"]["id"], 21);
    for message in subscriber.rest() {
        assert_ne!(message.event, "postgres_changes", "{}", message.raw);
        assert!(
            !["realtime:dreams", "realtime:failures"].contains(&message.topic.as_str()),
            "told twice: {}",
            message.raw
        );
    }
    let loot = "select to_regclass('public.loot') is null";
    assert!(scene.database.client.query_one(loot, &[]).await.expect("an answer").get::<_, bool>(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_postgres_refuses_disables_its_own_channel_alone() {
    let scene = Scene::new(HOSTILE).await;
    let mut client = Client::connect(&scene.relay, &anon()).await;
    client.join("bad", json!([{ "event": "*", "schema": "public", "table": "open", "filter": "id=eq.abc" }])).await;
    client.expect_system("bad", "error", "invalid input syntax for type integer: \"abc\"").await;
    client.subscribe("good", json!([all_of("open")])).await;
    scene.execute("insert into open values (1)").await;
    assert_eq!(client.next_change().await.topic, "realtime:good");
}
