//! What is delivered, in which frames, and what happens where something is too large, too slow or not published.

use serde_json::{Value, json};

use crate::support::client::{Client, Vsn, all_of};
use crate::support::people::{ALICE, alice, anon, bob, service};
use crate::support::relay;
use crate::support::scene::{Scene, execute};

const OPEN: &str = "
    create table things (id int primary key, name text, owner uuid);
    grant select on things to anon, authenticated, service_role;
    alter publication supabase_realtime add table things;";

const OWNED: &str = "
    create table things (id int primary key, name text, owner uuid);
    alter table things enable row level security;
    create policy own on things for select to authenticated using (owner = auth.uid());
    grant select on things to anon, authenticated, service_role;
    alter publication supabase_realtime add table things;";

const WRITES: [&str; 3] = [
    "insert into things values (1, 'one', '11111111-1111-4111-8111-111111111111')",
    "update things set name = 'eins' where id = 1",
    "delete from things where id = 1",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_table_gives_the_frames_of_both_serializers() {
    let scene = Scene::new(OPEN).await;
    for vsn in [Vsn::V1, Vsn::V2] {
        let mut client = Client::connect_as(&scene.relay, &anon(), vsn).await;
        let ids = client.subscribe("things", json!([all_of("things")])).await;
        expect_frames_of_writes(&scene, &mut client, vsn, &ids).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_under_row_level_security_gives_its_owner_the_same_frames() {
    let scene = Scene::new(OWNED).await;
    for vsn in [Vsn::V1, Vsn::V2] {
        let mut client = Client::connect_as(&scene.relay, &alice(), vsn).await;
        let ids = client.subscribe("things", json!([all_of("things")])).await;
        expect_frames_of_writes(&scene, &mut client, vsn, &ids).await;
    }
}

/// PROTOCOL 2.1, 2.2 and 4.1, for the default replica identity.
async fn expect_frames_of_writes(scene: &Scene, client: &mut Client, vsn: Vsn, ids: &[u64]) {
    let record = |name: &str| json!({ "id": 1, "name": name, "owner": ALICE });
    let expected = [
        json!({ "type": "INSERT", "record": record("one") }),
        json!({ "type": "UPDATE", "record": record("eins"), "old_record": { "id": 1 } }),
        json!({ "type": "DELETE", "old_record": { "id": 1 } }),
    ];
    for (write, expected) in WRITES.iter().zip(expected) {
        scene.execute(write).await;
        let frame = client.next().await;
        let mut data = frame.payload["data"].clone();
        let timestamp = data["commit_timestamp"].take();
        assert_is_timestamp(&timestamp);
        let mut whole = json!({
            "schema": "public", "table": "things", "errors": null, "commit_timestamp": null,
            "columns": [{ "name": "id", "type": "int4" }, { "name": "name", "type": "text" }, { "name": "owner", "type": "uuid" }],
        });
        whole.as_object_mut().expect("an object").extend(expected.as_object().expect("an object").clone());
        assert_eq!(data, whole);

        let payload = json!({ "ids": ids, "data": frame.payload["data"] });
        let envelope = match vsn {
            Vsn::V1 => {
                json!({ "topic": "realtime:things", "event": "postgres_changes", "payload": payload, "ref": null })
            }
            Vsn::V2 => json!([null, null, "realtime:things", "postgres_changes", payload]),
        };
        assert_eq!(frame.raw, envelope);
    }
}

/// `2026-11-20T11:28:20.557Z`: three digits, UTC.
fn assert_is_timestamp(value: &Value) {
    let text = value.as_str().unwrap_or_default();
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z", "{value}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_goes_to_those_who_may_see_it_and_to_nobody_else() {
    let scene = Scene::new(&format!("{OWNED} alter table things replica identity full;")).await;
    let mut alice = Client::connect(&scene.relay, &alice()).await;
    let mut bob = Client::connect(&scene.relay, &bob()).await;
    let mut service = Client::connect(&scene.relay, &service()).await;
    let mut anon = Client::connect(&scene.relay, &anon()).await;
    for client in [&mut alice, &mut bob, &mut service, &mut anon] {
        client.subscribe("things", json!([all_of("things")])).await;
    }
    scene.execute(WRITES[0]).await;
    // From Alice to Bob: he sees it, not what it was; she gets nothing.
    let to_bob = "update things set name = 'two', owner = '22222222-2222-4222-8222-222222222222' where id = 1";
    scene.execute(to_bob).await;
    scene.execute(WRITES[2]).await;
    let last = "insert into things values (2, 'last', '11111111-1111-4111-8111-111111111111'),
        (3, 'last', '22222222-2222-4222-8222-222222222222')";
    scene.execute(last).await;

    assert_eq!(summary(&mut alice, 2).await, ["INSERT 1", "INSERT 2"]);
    let update = bob.next_change().await;
    assert_eq!((update.operation(), update.old_record()), ("UPDATE", &json!({ "id": 1 })));
    let delete = bob.next_change().await;
    assert_eq!((delete.operation(), &delete.old_record()["name"]), ("DELETE", &json!("two")));
    assert_eq!(summary(&mut bob, 1).await, ["INSERT 3"]);
    assert_eq!(summary(&mut service, 5).await, ["INSERT 1", "UPDATE 1", "DELETE 1", "INSERT 2", "INSERT 3"]);
    scene.execute("alter table things disable row level security").await;
    scene.execute("insert into things values (4)").await;
    assert_eq!(summary(&mut anon, 1).await, ["INSERT 4"]);
}

/// Operation and id of the next few changes.
async fn summary(client: &mut Client, count: usize) -> Vec<String> {
    let mut events = Vec::new();
    for _ in 0..count {
        let change = client.next_change().await;
        let row = if change.operation() == "DELETE" { change.old_record() } else { change.record() };
        events.push(format!("{} {}", change.operation(), row["id"]));
    }
    events
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_added_to_the_publication_is_heard_of_from_there_on() {
    let scene = Scene::new(
        "create table things (id int primary key); create table later (id int primary key);
         grant select on things, later to anon;
         alter publication supabase_realtime add table things;",
    )
    .await;
    let mut client = Client::connect(&scene.relay, &anon()).await;
    client.subscribe("all", json!([{ "event": "*", "schema": "public" }])).await;

    scene.execute("insert into later values (1)").await;
    scene.execute("alter publication supabase_realtime add table later").await;
    scene.execute("insert into later values (2)").await;

    client.expect_system("all", "ok", "Subscribed to PostgreSQL").await;
    let change = client.next_change().await;
    assert_eq!((change.table(), &change.record()["id"]), ("later", &json!(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_leaves_the_publication_is_told_to_its_subscribers() {
    let scene = Scene::new(OPEN).await;
    let mut client = Client::connect(&scene.relay, &anon()).await;
    client.subscribe("things", json!([all_of("things")])).await;

    scene.execute("insert into things values (1)").await;
    scene.execute("alter publication supabase_realtime drop table things").await;
    scene.execute("insert into things values (2)").await;
    assert_eq!(client.next_change().await.record()["id"], 1);
    client.expect_system("things", "error", "Unable to subscribe to changes with given parameters").await;

    scene.execute("alter publication supabase_realtime add table things").await;
    scene.execute("insert into things values (3)").await;
    client.expect_system("things", "ok", "Subscribed to PostgreSQL").await;
    assert_eq!(client.next_change().await.record()["id"], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partitioned_table_is_delivered_under_the_name_of_its_root() {
    let scene = Scene::new(
        "create table measures (id int, at date, primary key (id, at)) partition by range (at);
         create table measures_2025 partition of measures for values from ('2025-01-01') to ('2026-01-01');
         grant select on measures to anon;
         alter publication supabase_realtime add table measures;
         alter publication supabase_realtime set (publish_via_partition_root = true);",
    )
    .await;
    let mut client = Client::connect(&scene.relay, &anon()).await;
    client.subscribe("measures", json!([all_of("measures")])).await;

    scene.execute("insert into measures values (1, '2025-05-05')").await;
    scene
        .execute(
            "create table measures_2026 partition of measures for values from ('2026-01-01') to ('2027-01-01');
             insert into measures values (2, '2026-05-05')",
        )
        .await;
    // To another partition: what the stream has of it is a delete and an insert.
    scene.execute("update measures set at = '2026-06-06' where id = 1").await;

    for (operation, id) in [("INSERT", 1), ("INSERT", 2), ("DELETE", 1), ("INSERT", 1)] {
        let change = client.next_change().await;
        let row = if operation == "DELETE" { change.old_record() } else { change.record() };
        assert_eq!((change.table(), change.operation(), &row["id"]), ("measures", operation, &json!(id)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transaction_comes_whole_at_its_commit_and_small_ones_are_not_mixed_into_it() {
    const LARGE: i64 = 50_000;
    // Far less than it needs: it goes through the file.
    let scene = Scene::with_flags(OPEN, &["--transaction-buffer-max", "1MiB"]).await;
    let mut client = Client::connect(&scene.relay, &anon()).await;
    client.subscribe("things", json!([all_of("things")])).await;

    let large = crate::support::database::connect(&scene.database.url).await;
    execute(&large, "begin").await;
    for part in 0..10 {
        let (from, to) = (part * LARGE / 10 + 1, (part + 1) * LARGE / 10);
        execute(&large, &format!("insert into things select n, 'large' from generate_series({from}, {to}) as n")).await;
        scene.execute(&format!("insert into things values (-{part} - 1, 'small')")).await;
    }
    execute(&large, "commit").await;
    scene.execute("insert into things values (0, 'last')").await;

    let expected = (1..=10).map(|n| -n).chain(1..=LARGE).chain([0]);
    for id in expected {
        let change = client.next_change().await;
        if change.record()["id"] != id {
            client.fail(&format!("expected row {id}, got {}", change.data));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_is_closed_with_a_code_and_the_others_get_everything() {
    const ROWS: i32 = 400;
    let flags = ["--outbox-max", "256KiB", "--slow-client-grace", "1s", "--outbox-spill-max", "2MiB"];
    let scene = Scene::with_flags(OPEN, &flags).await;
    let mut slow = Client::connect(&scene.relay, &alice()).await;
    let mut quick = Client::connect(&scene.relay, &bob()).await;
    for client in [&mut slow, &mut quick] {
        client.subscribe("things", json!([all_of("things")])).await;
    }

    slow.stop_reading();
    // 40 MB: more than the sockets' buffers and the outbox hold.
    for id in 1..=ROWS {
        scene.execute(&format!("insert into things values ({id}, repeat('x', 100000))")).await;
    }
    for id in 1..=ROWS {
        assert_eq!(quick.next_change().await.record()["id"], id);
    }

    slow.read_again();
    let (code, reason) = slow.expect_close().await;
    assert_eq!(code, 1013, "{reason}");
    let rest = slow.rest();
    let changes = rest.iter().filter(|message| message.event == "postgres_changes");
    for (change, id) in changes.zip(1..) {
        assert_eq!(change.payload["data"]["record"]["id"], id, "what it gets before the close has no gap");
    }
    let last = rest.last().expect("it was told");
    assert_eq!((last.event.as_str(), &last.payload["status"]), ("system", &json!("error")), "{}", last.raw);
    quick.heartbeat().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletes_that_nothing_can_judge_are_delivered_as_the_mode_says() {
    // The old row is its key alone, and the policy needs more than that.
    let scene = Scene::new(OWNED).await;
    let url = &scene.database.url;
    let slot = format!("{}_2", scene.relay.slot);
    let authorized = relay::start(url, &["--deletes", "authorized", "--slot", &slot]).await;
    let mut to_all = Client::connect(&scene.relay, &bob()).await;
    to_all.subscribe("things", json!([all_of("things")])).await;
    let mut to_nobody = Client::connect(&authorized, &alice()).await;
    to_nobody.join("things", json!([all_of("things")])).await;
    let told = to_nobody.expect_system("things", "ok", "Subscribed to PostgreSQL").await;
    let hint = told["hint"].as_str().unwrap_or_default().to_lowercase().replace('"', "");
    assert!(hint.contains("replica identity full"), "the hint says what would make deletes come: {told}");

    for write in WRITES {
        scene.execute(write).await;
    }
    scene.execute("insert into things values (2, 'two', '11111111-1111-4111-8111-111111111111')").await;
    scene.execute("insert into things values (3, 'three', '22222222-2222-4222-8222-222222222222')").await;

    let delete = to_all.next_change().await;
    assert_eq!((delete.operation(), delete.old_record()), ("DELETE", &json!({ "id": 1 })));
    assert_eq!(summary(&mut to_all, 1).await, ["INSERT 3"]);
    assert_eq!(summary(&mut to_nobody, 3).await, ["INSERT 1", "UPDATE 1", "INSERT 2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletes_are_delivered_to_nobody_under_row_level_security_where_the_mode_is_none() {
    let sql = format!("{OWNED} alter table things replica identity full;");
    let scene = Scene::with_flags(&sql, &["--deletes", "none"]).await;
    let mut client = Client::connect(&scene.relay, &alice()).await;
    client.subscribe("things", json!([all_of("things")])).await;
    for write in WRITES {
        scene.execute(write).await;
    }
    scene.execute("insert into things values (2, 'two', '11111111-1111-4111-8111-111111111111')").await;
    assert_eq!(summary(&mut client, 3).await, ["INSERT 1", "UPDATE 1", "INSERT 2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cascade_shows_the_rows_it_deletes_to_nobody_who_could_not_see_them() {
    let scene = Scene::new(
        "create table rooms (id int primary key, owner uuid);
         create table posts (id int primary key, room int references rooms on delete cascade);
         alter table posts enable row level security;
         alter table posts replica identity full;
         create policy own on posts for select to authenticated
           using (exists (select from rooms where rooms.id = posts.room and rooms.owner = auth.uid()));
         grant select on rooms, posts to authenticated;
         alter publication supabase_realtime add table posts;
         insert into rooms values (1, '11111111-1111-4111-8111-111111111111'),
           (2, '22222222-2222-4222-8222-222222222222'), (3, '11111111-1111-4111-8111-111111111111');
         insert into posts values (1, 1), (2, 2);",
    )
    .await;
    let mut alice = Client::connect(&scene.relay, &alice()).await;
    let mut bob = Client::connect(&scene.relay, &bob()).await;
    for client in [&mut alice, &mut bob] {
        client.subscribe("posts", json!([all_of("posts")])).await;
    }
    scene.execute("delete from rooms where id = 1").await;
    scene.execute("insert into posts values (3, 3)").await;
    scene.execute("insert into posts values (4, 2)").await;

    // The oracle cannot look back: where it judges, her own delete is withheld; it is never shown to him.
    let first = summary(&mut alice, 1).await;
    if first == ["DELETE 1"] {
        assert_eq!(summary(&mut alice, 1).await, ["INSERT 3"]);
    } else {
        assert_eq!(first, ["INSERT 3"]);
    }
    assert_eq!(summary(&mut bob, 1).await, ["INSERT 4"]);
}
