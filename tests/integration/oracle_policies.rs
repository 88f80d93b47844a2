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
    alter table letters replica identity full;
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

/// Commits these one after the other while the relay stands still, and a mark. Gives the letters that come before it; 0:
/// one that nobody can say of whether it was to be seen.
async fn letters_of(scene: &Scene, client: &mut Client, transactions: &[&str]) -> Vec<i64> {
    scene.relay.freeze();
    scene.execute_each(transactions).await;
    scene.execute("insert into marks values (1)").await;
    scene.relay.thaw();
    let mut letters = Vec::new();
    loop {
        let message = client.next().await;
        if message.event == "system" {
            let text = message.payload["message"].as_str().unwrap_or_default();
            assert!(text.contains("could not be evaluated for you"), "{text}");
            letters.push(0);
            continue;
        }
        let data = &message.payload["data"];
        if data["table"] == "marks" {
            return letters;
        }
        let row = if data["type"] == "DELETE" { &data["old_record"] } else { &data["record"] };
        letters.push(row["id"].as_i64().expect("a letter has a number"));
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
    // The third one she may read now. As the policies were when it was written she might not; what they read may have changed.
    assert_eq!(letters_of(&scene, &mut client, &transactions).await, [2, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_gone_before_a_policy_was_opened_stays_hidden() {
    let (scene, mut client) = at_letters().await;
    scene.execute("insert into letters values (1, 1, true), (2, 1, true); insert into marks values (0)").await;
    assert_eq!(client.next_change().await.table(), "marks", "they are hers as little as later");
    let open = "alter policy readable on letters using (may_read(lane) or true)";
    let in_one = format!("begin; delete from letters where id = 1; {open}; commit");
    let transactions = ["delete from letters where id = 2", &in_one];
    assert_eq!(letters_of(&scene, &mut client, &transactions).await, [0; 0]);
    scene.execute("delete from marks where id = 1; alter policy readable on letters using (may_read(lane))").await;
    while client.next().await.payload["data"]["type"] != "DELETE" {}
    let transactions = ["insert into letters values (4, 1, true)", "delete from letters where id = 4", open];
    assert_eq!(letters_of(&scene, &mut client, &transactions).await, [0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_policies_nothing_is_shown_and_without_row_security_what_was_shown_before() {
    let (scene, mut client) = at_letters().await;
    let enter = format!("insert into readers values (1, '{ALICE}')");
    let transactions = ["insert into letters values (1, 1, false)", "drop policy readable on letters", &enter];
    assert_eq!(letters_of(&scene, &mut client, &transactions).await, [0; 0]);
    scene
        .execute("delete from marks; create policy readable on letters for select using (may_read(lane) and secret)")
        .await;
    let transactions = [
        "insert into letters values (2, 1, true), (3, 1, false)",
        "drop policy readable on letters",
        "alter table letters disable row level security",
    ];
    while client.next().await.payload["data"]["type"] != "DELETE" {}
    assert_eq!(letters_of(&scene, &mut client, &transactions).await, [2, 0]);
}
