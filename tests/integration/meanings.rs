//! Rows for people, while what decides about them moves.

use serde_json::json;

use crate::support::client::{Client, all_of};
use crate::support::database::connect;
use crate::support::people::{ALICE, BOB, alice, bob};
use crate::support::scene::{ROOMS, Scene, execute};

/// The ids of posts up to a mark, a row of a table that everybody may see.
async fn posts(client: &mut Client, mark: i64) -> Vec<i64> {
    let mut ids = Vec::new();
    loop {
        let message = client.wait_for("a change", |message| message.event == "postgres_changes").await;
        let data = &message.payload["data"];
        let row = if data["type"] == "DELETE" { &data["old_record"] } else { &data["record"] };
        match (data["table"].as_str(), row["id"].as_i64()) {
            (Some("marks"), id) if id == Some(mark) => return ids,
            (Some("marks"), _) => {}
            (_, id) => ids.extend(id),
        }
    }
}

const MARKS: &str = "create table marks (id int primary key); grant select on marks to authenticated;
    alter publication supabase_realtime add table marks;";

async fn scene(sql: &str) -> (Scene, Client, Client) {
    let scene = Scene::new(&format!("{MARKS}{sql}")).await;
    let mut clients = Vec::new();
    for person in [alice(), bob()] {
        let mut client = Client::connect(&scene.relay, &person).await;
        client.subscribe("c", json!([all_of("posts"), all_of("marks")])).await;
        clients.push(client);
    }
    let bob = clients.pop().expect("two");
    (scene, clients.pop().expect("two"), bob)
}

/// By the index of people, and by a new token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refreshed_token_of_somebody_else_is_somebody_else() {
    let (scene, mut client, mut other) = scene(
        "create table posts (id int primary key, owner uuid); alter table posts enable row level security;
         create policy own on posts using (owner = auth.uid()); grant select on posts to authenticated;
         alter publication supabase_realtime add table posts;",
    )
    .await;
    let of = |id: i32, who: &str| format!("insert into posts values ({id}, '{who}')");
    scene.execute_each(&[&of(1, ALICE), &of(2, BOB), "insert into marks values (1)"]).await;
    assert_eq!((posts(&mut client, 1).await, posts(&mut other, 1).await), (vec![1], vec![2]));
    client.push("realtime:c", "access_token", json!({ "access_token": bob().token() })).await;
    client.expect_system("c", "ok", "Subscribed to PostgreSQL").await;
    scene.execute_each(&[&of(3, ALICE), &of(4, BOB), "insert into marks values (2)"]).await;
    assert_eq!((posts(&mut client, 2).await, posts(&mut other, 2).await), (vec![4], vec![4]));
}

/// The body is a string: another schema earlier on the path gives its names another meaning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_comes_to_mean_another_table_counts_from_its_commit() {
    let body = "language sql as 'select exists (select from members where room = r and member = auth.uid())'";
    let scene = early_and_late(body).await;
    scene.0.relay.until_metric("tracked_loads_total", |loads| loads > 0.0).await;
    come_and_go(scene).await;
}

/// Postgres' own plan of the body outlives that: the session that is asked must not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_comes_to_mean_another_table_counts_in_questions_too() {
    let body =
        "language plpgsql as 'begin return exists (select from members where room = r and member = auth.uid()); end'";
    come_and_go(early_and_late(body).await).await;
}

/// Posts for the members of rooms, by a function that finds `members` on its path; Alice is one.
async fn early_and_late(body: &str) -> (Scene, Client, Client) {
    let (scene, mut alice, mut bob) = scene(&format!(
        "create schema early; grant usage on schema early to public;
         create table members (room int, member uuid, primary key (room, member));
         insert into members values (1, '{ALICE}');
         create function is_member(r int) returns boolean stable security definer set search_path = early, public {body};
         create table posts (id int primary key, room int); alter table posts enable row level security;
         create policy own on posts using (is_member(room)); grant select on posts to authenticated;
         alter publication supabase_realtime add table posts, members;"
    ))
    .await;
    scene.execute_each(&["insert into posts values (1, 1)", "insert into marks values (1)"]).await;
    assert_eq!((posts(&mut alice, 1).await, posts(&mut bob, 1).await), (vec![1], vec![]));
    (scene, alice, bob)
}

/// Another table of members, of whom Bob is the only one, is there for a while.
async fn come_and_go((scene, mut alice, mut bob): (Scene, Client, Client)) {
    // One after the other: a question to Postgres sees what is there when it is asked.
    for round in 0..3 {
        let swap = |id: i32| {
            format!(
                "begin; create table early.members (room int, member uuid, primary key (room, member));
                 insert into early.members values (1, '{BOB}'); insert into posts values ({id}, 1); commit"
            )
        };
        let steps = [swap(0), "select".into(), "drop table early.members".into()];
        for (step, sql) in (0..).zip(steps) {
            let id = 10 * (round + 1) + step;
            let sql = if step == 0 { swap(id) } else { format!("{sql}; insert into posts values ({id}, 1)") };
            scene.execute_each(&[&sql, &format!("insert into marks values ({id})")]).await;
            let id = i64::from(id);
            let seen = (posts(&mut alice, id).await, posts(&mut bob, id).await);
            assert_eq!(seen, if step == 2 { (vec![id], vec![]) } else { (vec![], vec![id]) }, "{sql}");
        }
    }
}

/// While a table is locked nothing prints its policies' expressions: what the poll finds meanwhile comes without them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_in_the_way_of_a_policys_text_hides_nothing() {
    let (scene, mut alice, mut bob) = scene(
        "create function is_mine(who uuid) returns boolean stable language plpgsql as 'begin return who = auth.uid(); end';
         create table posts (id int primary key, owner uuid); alter table posts enable row level security;
         create policy own on posts using (is_mine(owner)); grant select on posts to authenticated;
         alter publication supabase_realtime add table posts;",
    )
    .await;
    let before = scene.relay.metric("roles_version").await;
    let writer = connect(&scene.database.url).await;
    execute(&writer, "begin; lock table posts in access exclusive mode").await;
    // What no event trigger sees.
    scene.execute(&format!("alter database {} set work_mem = '5MB'", scene.database.name)).await;
    scene.relay.until_metric("roles_version", |version| version > before).await;
    execute(&writer, &format!("insert into posts values (1, '{ALICE}'); insert into marks values (1); commit")).await;
    assert_eq!((posts(&mut alice, 1).await, posts(&mut bob, 1).await), (vec![1], vec![]));
}

/// Members and posts move in one transaction, with columns that change their names in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_that_swap_their_names_within_a_transaction_do_not_swap_people() {
    let (scene, mut alice, mut bob) = scene(
        "create table posts (id int primary key, owner uuid, author uuid); alter table posts enable row level security;
         create policy own on posts using (owner = auth.uid()); grant select on posts to authenticated;
         alter publication supabase_realtime add table posts;",
    )
    .await;
    scene
        .execute_each(&[
            &format!(
                "begin; insert into posts values (1, '{ALICE}', '{BOB}'); alter table posts rename owner to x;
                 alter table posts rename author to owner; alter table posts rename x to author; commit"
            ),
            "insert into marks values (1)",
        ])
        .await;
    // The policy is about the first of the two, whatever its name. Of the row in the stream nobody knows which that is:
    // the one that is there now is asked about.
    assert_eq!((posts(&mut alice, 1).await, posts(&mut bob, 1).await), (vec![1], vec![]));
    let sql = format!("insert into posts values (2, '{ALICE}', '{BOB}')");
    scene.execute_each(&[&sql, "insert into marks values (2)"]).await;
    assert_eq!((posts(&mut alice, 2).await, posts(&mut bob, 2).await), (vec![2], vec![]));
}

/// Members are renamed and added to, and move with the posts.
/// The row was written before its transaction gave the name to another column.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_takes_over_a_name_within_a_transaction_does_not_take_over_the_value() {
    let (scene, mut alice, mut bob) = scene(
        "create table posts (id int primary key, owner uuid); alter table posts enable row level security;
         create policy own on posts using (owner = auth.uid()); grant select on posts to authenticated;
         alter publication supabase_realtime add table posts;",
    )
    .await;
    scene
        .execute(&format!(
            "begin; insert into posts values (1, '{ALICE}'); alter table posts rename owner to author;
             alter table posts add owner uuid; alter policy own on posts using (owner = auth.uid()); commit"
        ))
        .await;
    scene
        .execute_each(&[&format!("insert into posts values (2, '{ALICE}', '{BOB}')"), "insert into marks values (1)"])
        .await;
    assert_eq!(posts(&mut alice, 1).await, [0; 0], "nobody is the owner of the first one, and Bob of the second");
    assert_eq!(posts(&mut bob, 1).await, [2]);
}

/// Old rows are judged by the catalog before; a column more, or no policy at all, is no reason to lose them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletes_beside_an_added_column_reach_whoever_saw_the_rows() {
    let (scene, mut alice, mut bob) = scene(&format!(
        "create table posts (id int primary key, owner uuid); alter table posts enable row level security;
         alter table posts replica identity full;
         create policy own on posts using (owner = auth.uid()); grant select on posts to authenticated;
         alter publication supabase_realtime add table posts; insert into posts values (1, '{ALICE}');",
    ))
    .await;
    let mut open = Client::connect(&scene.relay, &crate::support::people::bob()).await;
    open.subscribe("open", json!([all_of("marks")])).await;
    scene.execute("begin; delete from posts where id = 1; alter table posts add note text; commit").await;
    scene.execute("insert into marks values (1)").await;
    assert_eq!(posts(&mut alice, 1).await, [1]);
    assert_eq!(posts(&mut bob, 1).await, [0; 0]);
    scene.execute("begin; delete from marks where id = 1; alter table marks add note text; commit").await;
    let deleted = open.wait_for("a delete", |message| message.payload["data"]["type"] == "DELETE").await;
    assert_eq!(deleted.payload["data"]["old_record"], json!({ "id": 1 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_inner_table_is_called_does_not_matter() {
    let (scene, mut alice, mut bob) = scene(&format!(
        "{ROOMS} insert into members values (1, '{ALICE}'); alter publication supabase_realtime add table members;"
    ))
    .await;
    let steps = [
        ("insert into posts values (1, 1)".into(), [true, false]),
        (
            "begin; insert into posts values (2, 1); alter table members rename member to who; commit".into(),
            [true, false],
        ),
        ("insert into posts values (3, 1)".into(), [true, false]),
        ("begin; alter table members rename to people; insert into posts values (4, 1); commit".into(), [true, false]),
        ("insert into posts values (5, 1)".into(), [true, false]),
        (
            format!(
                "begin; update people set who = '{BOB}'; insert into posts values (6, 1); alter table people add extra int; commit"
            ),
            [false, true],
        ),
        ("insert into posts values (7, 1)".into(), [false, true]),
        ("begin; insert into posts values (8, 1); truncate people; commit".into(), [false, false]),
        (
            format!(
                "begin; insert into people values (1, '{ALICE}'); savepoint s; delete from people; rollback to s;
                 insert into posts values (9, 1); commit"
            ),
            [true, false],
        ),
    ];
    // One after the other: a question to Postgres sees what is there when it is asked.
    for (mark, (sql, expected)) in (1..).zip(steps) {
        scene.execute_each(&[&sql, &format!("insert into marks values ({mark})")]).await;
        let seen = [posts(&mut alice, mark).await.len() == 1, posts(&mut bob, mark).await.len() == 1];
        assert_eq!(seen, expected, "{sql}");
    }
}
