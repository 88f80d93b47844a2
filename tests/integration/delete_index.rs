//! `--delete-index`: deletes of a table under the default replica identity, judged and filtered by the rows that are kept.

use serde_json::json;

use crate::support::client::{Client, all_of};
use crate::support::people::{ALICE, BOB, alice, bob};
use crate::support::scene::Scene;

const TODOS: &str = "
    create table todos (id int primary key, list int not null, owner uuid not null);
    alter table todos enable row level security;
    create policy own on todos for select to authenticated using (owner = auth.uid());
    create table marks (id int primary key);
    grant select on todos, marks to authenticated;
    alter publication supabase_realtime add table todos, marks;";

/// The old records of deletes up to the next mark.
async fn deletes(client: &mut Client) -> Vec<serde_json::Value> {
    let mut deletes = Vec::new();
    loop {
        let change = client.next_change().await;
        match (change.table(), change.operation()) {
            ("marks", _) => return deletes,
            (_, "DELETE") => deletes.push(change.old_record().clone()),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_reaches_those_who_saw_the_row_and_whose_filter_it_matched() {
    let flags = ["--deletes", "authorized", "--delete-index", "public.todos"];
    let scene = Scene::with_flags(TODOS, &flags).await;
    scene
        .execute(&format!(
            "insert into todos values (1, 1, '{ALICE}'), (2, 2, '{ALICE}'), (3, 1, '{BOB}'), (4, 1, '{ALICE}')"
        ))
        .await;
    let mut clients = [Client::connect(&scene.relay, &alice()).await, Client::connect(&scene.relay, &bob()).await];
    for client in &mut clients {
        let of_list = json!({ "event": "*", "schema": "public", "table": "todos", "filter": "list=eq.1" });
        client.subscribe("todos", json!([of_list, all_of("marks")])).await;
    }
    // After a mark: what a subscription needs kept is noticed with the next thing that dispatch does.
    for n in 1.. {
        scene.execute(&format!("insert into marks values (-{n})")).await;
        for client in &mut clients {
            deletes(client).await;
        }
        if scene.relay.metric("tracked_serving").await == 1.0 {
            break;
        }
    }
    // The last one was another person's by then: not what its row was before the transaction.
    scene
        .execute_each(&[
            "delete from todos where id = 1",
            "delete from todos where id = 2",
            "delete from todos where id = 3",
            &format!("begin; update todos set owner = '{BOB}' where id = 4; delete from todos where id = 4; commit"),
            "insert into marks values (1)",
        ])
        .await;
    let [alice, bob] = &mut clients;
    // The key alone: what is kept is to judge by.
    assert_eq!(deletes(alice).await, [json!({ "id": 1 }), json!({ "id": 4 })]);
    assert_eq!(deletes(bob).await, [json!({ "id": 3 })]);
}
