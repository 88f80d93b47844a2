//! Clients that come back are sent what they missed.

use serde_json::{Value, json};

use crate::support::client::{Client, Message, all_of, topic};
use crate::support::people::{Person, alice, anon};
use crate::support::relay::{Relay, set_up};
use crate::support::scene::{ROOMS, Scene, until};

const NOTES: &str = "
    create table notes (id int primary key, owner uuid, body text);
    alter table notes enable row level security;
    create policy own on notes for select to authenticated using (owner = auth.uid());
    create policy open on notes for select to anon using (owner is null);
    grant select on notes to anon, authenticated;
    alter publication supabase_realtime add table notes;";

const KEY: &str = "a-key-that-nobody-could-guess";

fn binding(extra: &Value) -> Value {
    let mut binding = json!({ "event": "*", "schema": "public", "table": "notes" });
    binding.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    json!([binding])
}

/// Joins; gives the ids of the notes that are replayed, and what is said of resuming after them.
async fn join(relay: &Relay, person: &Person, extra: Value) -> (Client, Vec<i64>, Value) {
    let mut client = Client::connect(relay, person).await;
    client.subscribe("notes", binding(&extra)).await;
    let (ids, said) = until_resumed(&mut client).await;
    (client, ids, said)
}

async fn until_resumed(client: &mut Client) -> (Vec<i64>, Value) {
    let mut ids = Vec::new();
    loop {
        let message = client.next().await;
        match &*message.event {
            "postgres_changes" => ids.push(id_of(&message)),
            "system" if message.payload.get("resume").is_some() => {
                assert_eq!(message.topic, topic("notes"));
                return (ids, message.payload);
            }
            _ => client.fail(&format!("unexpected: {}", message.raw)),
        }
    }
}

fn id_of(message: &Message) -> i64 {
    let data = &message.payload["data"];
    let row = if data["type"] == "DELETE" { &data["old_record"] } else { &data["record"] };
    row["id"].as_i64().unwrap_or_else(|| panic!("no id: {data}"))
}

async fn insert(scene: &Scene, ids: std::ops::RangeInclusive<i64>) {
    for id in ids {
        scene.execute(&format!("insert into notes values ({id}, null, 'note {id}')")).await;
    }
}

/// A plain client, by whom is known how far the stream has come.
async fn observer(relay: &Relay, person: &Person) -> Client {
    let mut client = Client::connect(relay, person).await;
    client.subscribe("observer", binding(&json!({}))).await;
    client
}

async fn until_sent(client: &mut Client, last: i64) {
    while client.next_change().await.record()["id"] != last {}
}

/// The ids of the next changes.
async fn next_ids(client: &mut Client, count: usize) -> Vec<i64> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(client.next_change().await.record()["id"].as_i64().unwrap());
    }
    ids
}

/// What was queued before the first reply is acknowledged by the second heartbeat, which has been taken when it is
/// answered.
async fn acknowledge(scene: &Scene, client: &mut Client) {
    let before = scene.relay.metric("acknowledgements").await;
    // What was dispatched is known to be handed over a moment later.
    while scene.relay.metric("acknowledgements").await == before {
        client.heartbeat().await;
    }
}

#[tokio::test]
async fn a_key_is_enough() {
    let scene = Scene::new(NOTES).await;
    let key = || json!({ "resume": KEY });
    let (mut client, replayed, said) = join(&scene.relay, &anon(), key()).await;
    assert_eq!((replayed, &said["resume"]["state"]), (vec![], &json!("started")));
    insert(&scene, 1..=3).await;
    assert_eq!(next_ids(&mut client, 3).await, [1, 2, 3]);
    acknowledge(&scene, &mut client).await;
    insert(&scene, 4..=5).await;
    assert_eq!(next_ids(&mut client, 2).await, [4, 5]);
    drop(client);
    let mut observer = observer(&scene.relay, &anon()).await;
    insert(&scene, 6..=8).await;
    until_sent(&mut observer, 8).await;

    let (mut client, replayed, said) = join(&scene.relay, &anon(), key()).await;
    assert_eq!(replayed, [4, 5, 6, 7, 8], "what was not acknowledged comes again, and all that was missed");
    assert_eq!((&said["resume"]["state"], &said["status"]), (&json!("complete"), &json!("ok")));
    insert(&scene, 9..=9).await;
    assert_eq!(next_ids(&mut client, 1).await, [9]);
    acknowledge(&scene, &mut client).await;
    drop(client);

    // Another binding, or another person, is not the same key.
    let (_client, replayed, said) = join(&scene.relay, &anon(), json!({ "resume": KEY, "filter": "id=gt.0" })).await;
    assert_eq!((replayed, &said["resume"]["state"]), (vec![], &json!("started")));
    for issuer in [json!(null), json!("https://one.example"), json!("https://two.example")] {
        let mut person = alice();
        person.claims["iss"] = issuer;
        let (_client, replayed, said) = join(&scene.relay, &person, key()).await;
        assert_eq!((replayed, &said["resume"]["state"]), (vec![], &json!("started")));
    }
    let (_client, replayed, said) = join(&scene.relay, &anon(), key()).await;
    assert_eq!((replayed, &said["resume"]["state"]), (vec![], &json!("complete")));
}

/// supabase-py's heartbeats have no ref: they prove nothing, and a pong proves that the client's stack has what came before.
#[tokio::test]
async fn a_pong_is_enough_for_whoever_says_so() {
    let scene = Scene::new(NOTES).await;
    let mut next = 1;
    for (extra, needed) in [(json!({}), 3), (json!({ "resume_ack": "pong" }), 1)] {
        let mut extra = extra;
        extra["resume"] = format!("{KEY}-{next}").into();
        let (mut client, _, said) = join(&scene.relay, &anon(), extra.clone()).await;
        assert_eq!(said["resume"]["state"], "started");
        insert(&scene, next..=next + 1).await;
        assert_eq!(next_ids(&mut client, 2).await, [next, next + 1]);
        let before = scene.relay.metric("acknowledgements").await;
        for _ in 0..3 {
            client.heartbeat_without_ref().await;
        }
        // What was dispatched is known to be handed over a moment later.
        while needed == 1 && scene.relay.metric("acknowledgements").await == before {
            client.heartbeat_without_ref().await;
        }
        drop(client);
        let mut observer = observer(&scene.relay, &anon()).await;
        insert(&scene, next + 2..=next + 2).await;
        until_sent(&mut observer, next + 2).await;
        let (_client, replayed, said) = join(&scene.relay, &anon(), extra).await;
        assert_eq!(said["resume"]["state"], "complete", "{said}");
        assert_eq!(replayed, (next + 3 - needed..=next + 2).collect::<Vec<_>>());
        next += 10;
    }
}

#[tokio::test]
async fn a_position_of_ones_own_is_exact() {
    let scene = Scene::new(NOTES).await;
    let (mut client, _, said) = join(&scene.relay, &anon(), json!({ "positions": true })).await;
    assert_eq!(said["resume"]["state"], "started", "{said}");
    let mut since = said["resume"]["position"].clone();
    let mut seen = Vec::new();
    for round in 0..4 {
        // Of a transaction with several rows some, and then the connection is gone.
        scene
            .execute(&format!(
                "insert into notes select n, null, '' from generate_series({0} * 5, {0} * 5 + 4) n",
                round
            ))
            .await;
        for _ in 0..3 {
            let change = client.next_change().await;
            seen.push(change.record()["id"].as_i64().unwrap());
            since = change.record()["walcast_position"].clone();
        }
        drop(client);
        let again = json!({ "since": since, "positions": true });
        let (next, replayed, said) = join(&scene.relay, &anon(), again).await;
        assert_eq!(said["resume"]["state"], "complete", "{said}");
        assert_eq!(said["resume"]["from"], since);
        assert_eq!(replayed.len(), 2, "{replayed:?}");
        seen.extend(replayed);
        since = said["resume"]["position"].clone();
        client = next;
    }
    assert_eq!(seen, (0..20).collect::<Vec<i64>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_and_a_kill_lose_nothing() {
    let mut scene = Scene::new(NOTES).await;
    let key = || json!({ "resume": KEY });
    let (mut client, ..) = join(&scene.relay, &anon(), key()).await;
    let (mut plain, ..) = (Client::connect(&scene.relay, &anon()).await, ());
    plain.subscribe("notes", binding(&json!({}))).await;
    let mut next = 1;
    for way in ["-TERM", "-KILL", "-TERM", "-KILL"] {
        insert(&scene, next..=next + 2).await;
        assert_eq!(next_ids(&mut client, 3).await, [next, next + 1, next + 2]);
        acknowledge(&scene, &mut client).await;
        // Written down.
        let written = scene.relay.metric("positions_written").await;
        insert(&scene, next + 3..=next + 3).await;
        assert_eq!(next_ids(&mut client, 1).await, [next + 3]);
        acknowledge(&scene, &mut client).await;
        scene.relay.until_metric("positions_written", |value| value > written).await;
        insert(&scene, next + 4..=next + 4).await;
        assert_eq!(next_ids(&mut client, 1).await, [next + 4]);
        match way {
            "-TERM" => {
                scene.relay.terminate();
                scene.relay.exit().await;
            }
            _ => scene.relay.kill().await,
        }
        insert(&scene, next + 5..=next + 6).await;
        scene.relay.restart().await;
        // Whoever is new is not sent what was sent before, though it is read again.
        let mut plain = Client::connect(&scene.relay, &anon()).await;
        plain.subscribe("notes", binding(&json!({}))).await;
        let (again, replayed, said) = join(&scene.relay, &anon(), key()).await;
        client = again;
        assert_eq!(said["resume"]["state"], "complete", "{way}: {said}\n{}", scene.relay.log());
        // What has not been read again yet comes as it is read.
        let mut replayed = replayed;
        while replayed.last() != Some(&(next + 6)) {
            replayed.extend(next_ids(&mut client, 1).await);
        }
        let needed: Vec<i64> = (next + 4..=next + 6).collect();
        assert!(replayed.ends_with(&needed), "{way}: {replayed:?} instead of {needed:?}");
        assert!(replayed[0] >= next && replayed.is_sorted(), "{way}: {replayed:?}");
        insert(&scene, next + 7..=next + 7).await;
        assert_eq!(next_ids(&mut client, 1).await, [next + 7]);
        loop {
            let id = next_ids(&mut plain, 1).await[0];
            // What it was told while nobody knew that it had been: at most what a kill leaves unwritten.
            assert!(id >= next + 3, "{way}: {id} was sent again to somebody new");
            if id == next + 7 {
                break;
            }
        }
        next += 8;
    }
}

/// While the relay runs, what was decided at each commit holds.
#[tokio::test]
async fn memberships_hold_as_of_each_commit() {
    let scene = Scene::new(ROOMS).await;
    // The membership table is followed from here on.
    set_up(&scene.database.url).await;
    let alice_id = crate::support::people::ALICE;
    let bindings = json!([{ "event": "*", "schema": "public", "table": "posts", "resume": "k" }]);
    let mut client = Client::connect(&scene.relay, &alice()).await;
    client.subscribe("notes", bindings.clone()).await;
    assert_eq!(until_resumed(&mut client).await.1["resume"]["state"], "started");
    drop(client);
    let mut observer = Client::connect(&scene.relay, &alice()).await;
    observer.subscribe("observer", json!([all_of("posts")])).await;
    // Until the table is loaded, and a transaction after that is read, Postgres is asked, which answers as of now.
    while scene.relay.metric("tracked_serving").await != 1.0 {
        scene.execute("insert into posts values (-1, 9); delete from posts where id = -1").await;
    }
    scene
        .execute_each(&[
            "insert into posts values (1, 1)",
            &format!("insert into members values (1, '{alice_id}')"),
            "insert into posts values (2, 1)",
            "delete from members",
            "insert into posts values (3, 1)",
            &format!("insert into members values (2, '{alice_id}')"),
            "insert into posts values (4, 2)",
        ])
        .await;
    until_sent(&mut observer, 4).await;
    let mut client = Client::connect(&scene.relay, &alice()).await;
    client.subscribe("notes", bindings).await;
    let (mut replayed, said) = until_resumed(&mut client).await;
    // The key of a deleted row is everybody's, by default.
    replayed.retain(|id| *id > 0);
    assert_eq!((replayed, &said["resume"]["state"]), (vec![2, 4], &json!("complete")));
}

/// The server may learn of the old socket's end long after the client has come back.
#[tokio::test]
async fn a_client_may_come_back_before_it_was_missed() {
    let scene = Scene::new(NOTES).await;
    let key = || json!({ "resume": KEY });
    let (old, ..) = join(&scene.relay, &anon(), key()).await;
    let mut observer = observer(&scene.relay, &anon()).await;
    insert(&scene, 1..=3).await;
    until_sent(&mut observer, 3).await;
    let (mut new, replayed, said) = join(&scene.relay, &anon(), key()).await;
    assert_eq!((replayed, &said["resume"]["state"]), (vec![1, 2, 3], &json!("complete")));
    insert(&scene, 4..=5).await;
    assert_eq!(next_ids(&mut new, 2).await, [4, 5]);
    // Its end is not the end of the key.
    drop(old);
    acknowledge(&scene, &mut new).await;
    drop(new);
    insert(&scene, 6..=6).await;
    until_sent(&mut observer, 6).await;
    let (_client, replayed, _) = join(&scene.relay, &anon(), key()).await;
    assert_eq!(replayed, [6]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_that_was_missed_comes_at_the_clients_pace() {
    let scene = Scene::with_flags(NOTES, &["--outbox-max", "64KiB", "--outbox-spill-max", "1MiB"]).await;
    let (one, ..) = join(&scene.relay, &anon(), json!({ "resume": KEY })).await;
    let (two, _, said) =
        join(&scene.relay, &anon(), json!({ "resume": KEY, "event": "INSERT", "positions": true })).await;
    let since = said["resume"]["position"].clone();
    drop((one, two));
    let mut observer = observer(&scene.relay, &anon()).await;
    let rows = 20_000;
    scene
        .execute(&format!("insert into notes select n, null, repeat('x', 300) from generate_series(1, {rows}) n"))
        .await;
    until_sent(&mut observer, rows).await;
    let all: Vec<i64> = (1..=rows).collect();
    // From what was noted, and from what was kept.
    for extra in [json!({ "resume": KEY }), json!({ "since": since })] {
        let (_client, replayed, said) = join(&scene.relay, &anon(), extra).await;
        assert_eq!(said["resume"]["state"], "complete", "{said}");
        assert!(replayed == all, "{} of {rows}", replayed.len());
    }
}

/// Whom nothing is known of but a position is judged by what holds at the return.
#[tokio::test]
async fn policies_hold_as_of_the_return() {
    let scene = Scene::new(NOTES).await;
    let (client, _, said) = join(&scene.relay, &alice(), json!({ "resume": "k" })).await;
    let since = said["resume"]["position"].clone();
    drop(client);
    let mut observer = observer(&scene.relay, &alice()).await;
    let alice_id = crate::support::people::ALICE;
    scene
        .execute_each(&[
            &format!("insert into notes values (1, '{alice_id}', 'hers')"),
            "insert into notes values (2, null, 'nobody''s')",
            &format!("insert into notes values (3, '{alice_id}', 'hers, then hidden')"),
            "alter policy own on notes using (owner = auth.uid() and body not like '%hidden')",
            &format!("insert into notes values (4, '{alice_id}', 'hers')"),
        ])
        .await;
    until_sent(&mut observer, 4).await;
    let (_client, replayed, said) = join(&scene.relay, &alice(), json!({ "since": since })).await;
    assert_eq!((replayed, &said["resume"]["state"]), (vec![1, 4], &json!("complete")));
}

/// By its name, and under the grants that it has now, the old column would be shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_was_made_anew_while_the_relay_was_away_shows_nothing_of_the_old_one() {
    // Other slots would keep a new one from knowing what was long ago.
    let cluster = crate::integration::setup::cluster();
    let sql = format!("{NOTES} alter table notes drop body, add body text;");
    let mut scene = Scene::in_cluster(&cluster, &sql).await;
    let key = || json!({ "resume": KEY });
    let stop = async |scene: &mut Scene| {
        scene.relay.terminate();
        scene.relay.exit().await;
    };
    let (mut client, ..) = join(&scene.relay, &anon(), key()).await;
    insert(&scene, 1..=1).await;
    assert_eq!(next_ids(&mut client, 1).await, [1]);
    stop(&mut scene).await;
    insert(&scene, 2..=2).await;
    scene.execute("alter table notes add more int").await;
    scene.relay.restart().await;
    let (mut client, mut replayed, said) = join(&scene.relay, &anon(), key()).await;
    assert_eq!(said["resume"]["state"], "complete", "body was altered long before, and more is nobody's name: {said}");
    while replayed.last() != Some(&2) {
        replayed.extend(next_ids(&mut client, 1).await);
    }
    assert_eq!(replayed, [1, 2]);

    stop(&mut scene).await;
    insert(&scene, 3..=3).await;
    scene.execute("alter table notes drop body, add body text").await;
    scene.execute("insert into notes (id, body) values (4, 'new')").await;
    scene.relay.restart().await;
    let mut client = Client::connect(&scene.relay, &anon()).await;
    client.subscribe("notes", binding(&key())).await;
    let (mut has_gap, mut has_new) = (false, false);
    while !(has_gap && has_new) {
        let message = client.next().await;
        let raw = message.raw.to_string();
        // As it is written by `insert`. Where the stream begins before `more` was added the columns of then are known, and the
        // old one stands before it.
        if raw.contains("\"note ") {
            assert!(raw.find("\"body\"") < raw.find("\"more\""), "{raw}");
            has_gap = true;
        }
        let resume = &message.payload["resume"];
        if resume["state"] == "gap" && resume["reason"].as_str().unwrap().contains("was altered") {
            assert_ne!(resume["from"], resume["position"], "where it ends is known: {raw}");
            has_gap = true;
        }
        has_new |= raw.contains("\"new\"");
    }
}

/// Those who listen to that table have to read again, up to where it was altered. Others have missed nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_because_a_column_was_made_anew_ends_where_it_was() {
    let cluster = crate::integration::setup::cluster();
    let other = "create table other (id int primary key, body text); grant select on other to anon;
        alter publication supabase_realtime add table other;";
    let mut scene = Scene::in_cluster(&cluster, &format!("{NOTES} {other}")).await;
    let of_notes = || json!({ "resume": KEY });
    let of_other = || json!({ "resume": KEY, "table": "other" });
    let (first, ..) = join(&scene.relay, &anon(), of_notes()).await;
    let (second, ..) = join(&scene.relay, &anon(), of_other()).await;
    insert(&scene, 1..=1).await;
    scene.relay.terminate();
    scene.relay.exit().await;
    drop((first, second));
    scene
        .execute_each(&[
            "insert into notes values (2, null, 'note 2')",
            "insert into other values (3, 'another')",
            "alter table notes drop body, add body text",
            "insert into notes values (4, null, 'new')",
        ])
        .await;
    scene.relay.restart().await;
    let (mut client, replayed, said) = join(&scene.relay, &anon(), of_notes()).await;
    let resume = &said["resume"];
    assert_eq!((replayed, &resume["state"]), (vec![], &json!("gap")), "{said}");
    assert!(resume["reason"].as_str().unwrap().contains("was altered"), "{said}");
    let (replayed, whole) = until_resumed(&mut client).await;
    assert_eq!((replayed, &whole["resume"]["state"]), (vec![4], &json!("complete")), "{whole}");
    assert_eq!(whole["resume"]["from"], resume["position"]);
    let (_client, replayed, said) = join(&scene.relay, &anon(), of_other()).await;
    assert_eq!((replayed, &said["resume"]["state"]), (vec![3], &json!("complete")), "{said}");
}

#[tokio::test]
async fn what_is_not_kept_is_announced() {
    let scene = Scene::with_flags(NOTES, &["--resume-memory-max", "20kB"]).await;
    let (mut client, ..) = join(&scene.relay, &anon(), json!({ "resume": KEY })).await;
    insert(&scene, 1..=1).await;
    assert_eq!(next_ids(&mut client, 1).await, [1]);
    acknowledge(&scene, &mut client).await;
    drop(client);
    let mut observer = observer(&scene.relay, &anon()).await;
    scene.execute("insert into notes select n, null, repeat('x', 200) from generate_series(2, 500) n").await;
    until_sent(&mut observer, 500).await;
    let (mut client, replayed, said) = join(&scene.relay, &anon(), json!({ "resume": KEY })).await;
    assert_eq!((&said["resume"]["state"], &said["status"]), (&json!("gap"), &json!("error")), "{said}");
    assert_eq!(replayed, [0; 0], "the gap is told before what follows it");
    let until = said["resume"]["position"].clone();
    let (replayed, whole) = until_resumed(&mut client).await;
    assert_eq!((&whole["resume"]["state"], &whole["resume"]["from"]), (&json!("complete"), &until), "{whole}");
    assert!(said["resume"]["reason"].as_str().unwrap().contains("--resume-memory-max"), "{said}");
    let kept: Vec<i64> = (501 - replayed.len() as i64..=500).collect();
    assert!(!replayed.is_empty() && replayed == kept, "what is left comes all the same: {replayed:?}");
    insert(&scene, 501..=501).await;
    assert_eq!(next_ids(&mut client, 1).await, [501]);
    for (since, reason) in [
        (json!("last tuesday"), "not a position"),
        (json!("1:1:0/16B3748:3"), "another database"),
        (json!(said["resume"]["position"].as_str().unwrap().replace(":0/", ":FF/")), "another database"),
    ] {
        let (_client, replayed, said) = join(&scene.relay, &anon(), json!({ "since": since })).await;
        assert_eq!((replayed, &said["resume"]["state"]), (vec![], &json!("gap")), "{said}");
        assert!(said["resume"]["reason"].as_str().unwrap().contains(reason), "{said}");
    }
    let (_client, replayed, said) = join(&scene.relay, &anon(), json!({ "resume": "guessable" })).await;
    assert_eq!((replayed, &said["resume"]["state"]), (vec![], &json!("refused")), "{said}");
}

#[tokio::test]
async fn a_kill_while_nothing_happens_is_no_gap() {
    let mut scene = Scene::new(NOTES).await;
    let (client, _, said) = join(&scene.relay, &anon(), json!({ "resume": KEY })).await;
    scene.relay.until_metric("positions_written", |value| value > 0.0).await;
    let from = said["resume"]["position"].as_str().unwrap().split(':').nth(2).unwrap().to_owned();
    // The rest of the database is busy, and the slot goes with it.
    scene.execute("create table elsewhere as select n from generate_series(1, 1000) n").await;
    let slot = &scene.relay.slot;
    let moved = format!("select confirmed_flush_lsn > '{from}' from pg_replication_slots where slot_name = '{slot}'");
    until(&scene.database.client, &moved).await;
    scene.relay.kill().await;
    scene.relay.restart().await;
    drop(client);
    let (_client, replayed, said) = join(&scene.relay, &anon(), json!({ "resume": KEY })).await;
    assert_eq!((replayed, &said["resume"]["state"]), (vec![], &json!("complete")), "{said}");
}

/// Positions of another database say nothing here: a dump was restored, perhaps, which some earlier slot had a part in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_of_another_database_are_a_gap_once() {
    let mut scene = Scene::new(NOTES).await;
    let key = || json!({ "resume": KEY });
    let (mut client, ..) = join(&scene.relay, &anon(), key()).await;
    for (id, state) in [(1, "gap"), (3, "complete")] {
        insert(&scene, id..=id).await;
        assert_eq!(next_ids(&mut client, 1).await, [id]);
        acknowledge(&scene, &mut client).await;
        drop(client);
        scene.relay.terminate();
        scene.relay.exit().await;
        if state == "gap" {
            scene.execute("insert into walcast.resume_state values ('of-old', '1', '0/1', true)").await;
        }
        scene.relay.restart().await;
        let (again, _, said) = join(&scene.relay, &anon(), key()).await;
        client = again;
        assert_eq!(said["resume"]["state"], state, "{said}");
        if state == "gap" {
            assert_eq!(until_resumed(&mut client).await.1["resume"]["state"], "complete");
        }
    }
}

/// Nothing can be written down, and nobody waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_tables_of_its_own_keys_are_remembered_in_memory() {
    let mut scene = Scene::new(NOTES).await;
    set_up(&scene.database.url).await;
    scene.execute("drop table walcast.resume_keys, walcast.resume_state").await;
    scene.relay.terminate();
    scene.relay.exit().await;
    scene.relay.restart().await;
    let key = || json!({ "resume": KEY });
    let (client, ..) = join(&scene.relay, &anon(), key()).await;
    let mut observer = observer(&scene.relay, &anon()).await;
    insert(&scene, 1..=1).await;
    until_sent(&mut observer, 1).await;
    drop(client);
    let (_client, replayed, said) = join(&scene.relay, &anon(), key()).await;
    assert_eq!((replayed, &said["resume"]["state"]), (vec![1], &json!("complete")));
}
