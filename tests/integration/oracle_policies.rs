//! A policy that only Postgres can evaluate reads other tables as they are now. It must be the policy of now, too: an
//! earlier one beside later rows would show what was shown at no moment.

use serde_json::json;

use crate::support::client::{Client, all_of};
use crate::support::people::{ALICE, alice};
use crate::support::scene::Scene;

const LETTERS: &str = "
    create table readers (lane int, reader uuid, primary key (lane, reader));
    create table letters (id int primary key, lane int not null, secret boolean not null);
    alter table letters enable row level security;
    create function may_read(of_lane int) returns boolean language plpgsql stable as $$
    begin
      return exists (select from public.readers r where r.lane = of_lane and r.reader = auth.uid());
    end $$;
    create policy readable on letters for select to authenticated using (may_read(lane));
    grant select on letters, readers to authenticated;
    create table marks (id int primary key);
    grant select on marks to authenticated;
    alter publication supabase_realtime add table letters, marks;";

async fn at_letters() -> (Scene, Client) {
    let scene = Scene::new(LETTERS).await;
    let mut client = Client::connect(&scene.relay, &alice()).await;
    client.subscribe("letters", json!([all_of("letters"), all_of("marks")])).await;
    (scene, client)
}

/// Commits these one after the other while the relay stands still, and a mark. Gives the letters that come before it.
async fn letters_of(scene: &Scene, client: &mut Client, transactions: &[&str]) -> Vec<i64> {
    scene.relay.freeze();
    scene.execute_each(transactions).await;
    scene.execute("insert into marks values (1)").await;
    scene.relay.thaw();
    let mut letters = Vec::new();
    loop {
        let change = client.next_change().await;
        if change.table() == "marks" {
            return letters;
        }
        letters.push(change.record()["id"].as_i64().expect("a letter has a number"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_in_after_the_policy_was_tightened_is_judged_by_the_tightened_one() {
    let (scene, mut client) = at_letters().await;
    let enter = format!("insert into readers values (1, '{ALICE}')");
    let transactions = [
        "insert into letters values (1, 1, true), (2, 1, false)",
        "alter policy readable on letters using (may_read(lane) and not secret)",
        &enter,
    ];
    assert_eq!(letters_of(&scene, &mut client, &transactions).await, [2]);
    assert!(scene.relay.metric("oracle_outdated_total").await >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_that_come_and_go_are_those_of_the_answer() {
    let (scene, mut client) = at_letters().await;
    let enter = format!("insert into readers values (1, '{ALICE}')");
    let transactions = [
        "insert into letters values (1, 1, true), (2, 1, false), (3, 2, true)",
        "create policy no_secrets on letters as restrictive for select using (not secret)",
        "create policy open on letters for select using (lane = 2 and may_read(1))",
        "drop policy no_secrets on letters",
        "create policy no_secrets_again on letters as restrictive for select using (not secret or lane = 2)",
        &enter,
    ];
    assert_eq!(letters_of(&scene, &mut client, &transactions).await, [2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_there_is_no_policy_any_more_nothing_is_shown_and_without_row_security_all_is() {
    let (scene, mut client) = at_letters().await;
    let enter = format!("insert into readers values (1, '{ALICE}')");
    let transactions = ["insert into letters values (1, 1, false)", "drop policy readable on letters", &enter];
    assert_eq!(letters_of(&scene, &mut client, &transactions).await, [0; 0]);
    scene
        .execute("delete from marks; create policy readable on letters for select using (may_read(lane) and secret)")
        .await;
    let transactions = [
        "insert into letters values (2, 1, false)",
        "drop policy readable on letters",
        "alter table letters disable row level security",
    ];
    loop {
        let change = client.next_change().await;
        if change.operation() == "DELETE" {
            break;
        }
    }
    assert_eq!(letters_of(&scene, &mut client, &transactions).await, [2]);
}
