//! What the original gets wrong by asking about the table as it is when it gets to a change: the later transaction has
//! always committed when the first one is judged, since the relay stands still until both have.

use serde_json::json;

use crate::support::client::{Client, all_of};
use crate::support::people::{ALICE, BOB, alice, bob};
use crate::support::relay::set_up;
use crate::support::scene::Scene;

const ROOMS: &str = "
    create table members (room int, member uuid, primary key (room, member));
    create table posts (id int primary key, room int not null, text text);
    alter table posts enable row level security;
    alter table posts replica identity full;
    create policy member on posts for select to authenticated
        using (exists (select from members m where m.room = posts.room and m.member = auth.uid()));
    grant select on posts, members to authenticated;
    create table marks (id int primary key);
    grant select on marks to authenticated;
    alter publication supabase_realtime add table posts, marks;";

async fn scene() -> Scene {
    let scene = Scene::new("").await;
    let members =
        format!("insert into members values (1, '{ALICE}'), (2, '{BOB}'); insert into posts values (1, 1, 'one');");
    scene.execute(&format!("{ROOMS} {members}")).await;
    // The membership table is followed from here on.
    set_up(&scene.database.url).await;
    scene
}

async fn at_posts(scene: &Scene) -> (Client, Client) {
    let mut clients = [Client::connect(&scene.relay, &alice()).await, Client::connect(&scene.relay, &bob()).await];
    for client in &mut clients {
        client.subscribe("posts", json!([all_of("posts"), all_of("marks")])).await;
    }
    // Until the table is loaded, and a transaction after that is read, Postgres is asked, which answers as of now.
    for n in 1.. {
        if scene.relay.metric("tracked_serving").await == 1.0 {
            break;
        }
        scene.execute(&format!("insert into marks values (-{n})")).await;
        for client in &mut clients {
            assert_eq!(events(client).await, [""; 0]);
        }
    }
    clients.into()
}

/// Commits these one after the other while the relay stands still, and a mark.
async fn behind_its_back(scene: &Scene, transactions: &[&str]) {
    scene.relay.freeze();
    scene.execute_each(transactions).await;
    scene.execute("insert into marks values (1)").await;
    scene.relay.thaw();
}

/// Operation and key of everything up to the mark.
async fn events(client: &mut Client) -> Vec<String> {
    let mut events = Vec::new();
    loop {
        let change = client.next_change().await;
        if change.table() == "marks" {
            return events;
        }
        let row = if change.operation() == "DELETE" { change.old_record() } else { change.record() };
        events.push(format!("{} {}", change.operation(), row["id"]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_deleted_at_once_is_still_inserted_for_whoever_could_see_it() {
    let scene = scene().await;
    let (mut alice, mut bob) = at_posts(&scene).await;
    behind_its_back(&scene, &["insert into posts values (2, 1, 'short')", "delete from posts where id = 2"]).await;
    assert_eq!(events(&mut alice).await, ["INSERT 2", "DELETE 2"]);
    assert_eq!(events(&mut bob).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_moved_out_of_view_later_is_shown_as_it_was() {
    let scene = scene().await;
    let (mut alice, mut bob) = at_posts(&scene).await;
    behind_its_back(&scene, &["update posts set text = 'eins' where id = 1", "update posts set room = 2 where id = 1"])
        .await;
    assert_eq!(events(&mut alice).await, ["UPDATE 1"]);
    assert_eq!(events(&mut bob).await, ["UPDATE 1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_membership_that_is_revoked_right_after_a_change_still_counts_for_it() {
    let scene = scene().await;
    let (mut alice, mut bob) = at_posts(&scene).await;
    let revoke = format!("delete from members where member = '{ALICE}'");
    let grant = format!("insert into members values (1, '{BOB}')");
    let transactions =
        ["insert into posts values (2, 1, 'for Alice')", &revoke, &grant, "insert into posts values (3, 1, 'for Bob')"];
    behind_its_back(&scene, &transactions).await;
    assert_eq!(events(&mut alice).await, ["INSERT 2"]);
    assert_eq!(events(&mut bob).await, ["INSERT 3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_is_not_heard_by_whoever_could_never_see_the_row() {
    let scene = scene().await;
    let (mut alice, mut bob) = at_posts(&scene).await;
    // The second one takes away what the first is judged by.
    behind_its_back(&scene, &["delete from posts where id = 1", "delete from members"]).await;
    assert_eq!(events(&mut alice).await, ["DELETE 1"]);
    assert_eq!(events(&mut bob).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_rows_are_judged_as_of_before_their_transaction() {
    let scene = scene().await;
    scene.execute("alter table posts replica identity full").await;
    let (mut alice, mut bob) = at_posts(&scene).await;
    let changes_places =
        format!("delete from members; insert into members values (1, '{BOB}'), (2, '{ALICE}'); delete from posts");
    behind_its_back(&scene, &[&format!("begin; {changes_places}; commit")]).await;
    assert_eq!((events(&mut alice).await, events(&mut bob).await), (vec!["DELETE 1".to_owned()], vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_moves_shows_its_past_to_whoever_could_see_that() {
    let scene = scene().await;
    scene.execute("alter table posts replica identity full").await;
    let (mut alice, mut bob) = at_posts(&scene).await;
    let joins = format!("insert into members values (2, '{ALICE}')");
    scene.execute_each(&[&joins, "update posts set room = 2"]).await;
    let (of_alice, of_bob) = (alice.next_change().await, bob.next_change().await);
    assert_eq!((of_alice.operation(), of_bob.operation()), ("UPDATE", "UPDATE"));
    assert_eq!(of_alice.old_record()["room"], 1);
    assert_eq!(*of_bob.old_record(), json!({ "id": 1 }));
}

/// Old rows by the policies that the transaction began with, new ones by those that it leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_beside_a_change_of_policies_is_judged_by_the_policies_before_it() {
    let scene = scene().await;
    let (mut alice, mut bob) = at_posts(&scene).await;
    // Bob may see everything from here on: not what was gone before.
    let opened = "begin; delete from posts where id = 1; alter policy member on posts using (true); \
        insert into posts values (2, 1, 'for all'); commit";
    scene.execute(opened).await;
    scene.execute("insert into marks values (1)").await;
    assert_eq!(events(&mut alice).await, ["DELETE 1", "INSERT 2"]);
    assert_eq!(events(&mut bob).await, ["INSERT 2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_beside_a_change_of_policies_shows_its_past_by_the_policies_before_it() {
    let scene = scene().await;
    scene.execute("alter table posts replica identity full").await;
    let (mut alice, mut bob) = at_posts(&scene).await;
    scene.execute("begin; update posts set room = 2; alter policy member on posts using (true); commit").await;
    let (of_alice, of_bob) = (alice.next_change().await, bob.next_change().await);
    assert_eq!((of_alice.operation(), of_bob.operation()), ("UPDATE", "UPDATE"));
    assert_eq!(of_alice.old_record()["room"], 1);
    assert_eq!(*of_bob.old_record(), json!({ "id": 1 }));
}

/// `now()` is the commit's, however late the relay comes to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_is_open_or_shut_as_of_the_commit_a_second_to_either_side() {
    let scene = Scene::new(
        "create table offers (id int primary key, expires timestamptz not null);
         alter table offers enable row level security;
         create policy open on offers for select to authenticated using (expires > now());
         grant select on offers to authenticated;
         create table marks (id int primary key);
         grant select on marks to authenticated;
         alter publication supabase_realtime add table offers, marks;",
    )
    .await;
    let mut client = Client::connect(&scene.relay, &alice()).await;
    client.subscribe("offers", json!([all_of("offers"), all_of("marks")])).await;
    scene.relay.freeze();
    // clock_timestamp(): the commit is hardly later than the statement.
    scene
        .execute(
            "insert into offers values (1, clock_timestamp() - interval '1 second'), \
             (2, clock_timestamp() + interval '1 second')",
        )
        .await;
    scene.execute("select pg_sleep(1.2)").await;
    scene.execute("insert into marks values (1)").await;
    scene.relay.thaw();
    assert_eq!(events(&mut client).await, ["INSERT 2"]);
}
