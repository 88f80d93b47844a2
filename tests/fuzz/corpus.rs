//! The seeds: valid input of every kind, made by the project itself. They must stay valid, or mutants of them say little.

use std::collections::HashMap;
use std::fs;

use serde_json::json;
use serde_json::value::RawValue;
use walcast::authz::oracle::PlainConnect;
use walcast::authz::read_session_facts;
use walcast::catalog::role::ROLES_SQL;
use walcast::catalog::state::STATE_SQL;
use walcast::wal::Lsn;
use walcast::wal::pgoutput::message::{Begin, Commit, RelationColumn, RelationId, StreamRelation};
use walcast::wal::pgoutput::{Field, Message, OldTuple, Tuple, encode};

use super::campaign::{corpus, corpus_of};
use super::targets::{RECORD, TARGETS, policy, token, world};
use crate::support::policies::{Ground, cluster};

const TREES: &str = "select p.polname::text, c.relname::text, p.polqual::text from pg_policy p join pg_class c on c.oid = p.polrelid order by 2, 1";

#[tokio::test]
async fn every_target_has_seeds_that_mean_something() {
    if std::env::var("WALCAST_FUZZ_CORPUS").is_ok_and(|value| value == "write") {
        write().await;
        return println!("written; run it again without the variable, to read what was written");
    }
    for target in TARGETS {
        assert!(corpus(target.name).len() >= 4, "{} has no seeds", target.name);
    }
    let seeds: Vec<_> = corpus("policy").into_iter().filter(|(path, _)| is_seed(path)).collect();
    let is_compiled = |bytes: &[u8]| {
        let parts: Vec<String> =
            bytes.split(|byte| *byte == RECORD).map(|part| String::from_utf8_lossy(part).into()).collect();
        let relation = world::table(&parts[0]).expect("a table");
        policy::compiled(&policy::with_policy(relation, &parts[1])).is_some()
    };
    let compiled = seeds.iter().filter(|(_, bytes)| is_compiled(bytes)).count();
    assert!(compiled * 10 >= seeds.len() * 9, "only {compiled} of {} policies are evaluated", seeds.len());
}

fn is_seed(path: &std::path::Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seed-"))
}

fn write_seeds(target: &str, seeds: Vec<(String, Vec<u8>)>) {
    fs::create_dir_all(corpus_of(target)).expect("a directory");
    for (path, _) in corpus(target).iter().filter(|(path, _)| is_seed(path)) {
        fs::remove_file(path).expect("an old seed");
    }
    for (name, bytes) in seeds {
        fs::write(corpus_of(target).join(format!("seed-{name}")), bytes).expect("a seed");
    }
}

fn numbered(seeds: &[&str]) -> Vec<(String, Vec<u8>)> {
    let bytes = seeds.iter().map(|seed| seed.replace('␞', "\x1e").replace('␟', "\x1f").into_bytes());
    bytes.enumerate().map(|(number, bytes)| (format!("{number:02}"), bytes)).collect()
}

async fn write() {
    let ground = Ground::new(include_str!("world.sql")).await;
    write_world(&ground).await;
    let trees = ground.database.client.query(TREES, &[]).await.expect("trees");
    let seeds = trees.iter().map(|row| {
        let (name, table, tree): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        (
            format!("{table}-{name}"),
            [&table, &tree, CLAIMS, ROW, OTHERS].join("\x1e").replace('␟', "\x1f").replace('␞', "\x1e").into_bytes(),
        )
    });
    write_seeds("policy", seeds.collect());
    write_seeds("pgoutput", messages());
    let tokens = token::tokens().into_iter().map(|(name, token)| (name, token.into_bytes()));
    write_seeds("token", tokens.collect());
    write_seeds("phoenix", numbered(PHOENIX).into_iter().chain(binary_frames("b")).collect());
    write_seeds("session", sessions());
    write_seeds("join", numbered(JOINS));
    write_seeds("filter", numbered(FILTERS));
    write_seeds("datum", numbered(DATUMS));
    write_seeds("conninfo", numbered(CONNINFOS));
    write_seeds("forwarded", numbered(FORWARDED));
}

async fn write_world(ground: &Ground) {
    let client = &ground.database.client;
    client.batch_execute("set search_path = pg_catalog, pg_temp").await.expect("a setting");
    let state =
        client.query_one(&format!("select ({STATE_SQL})::text"), &[&vec!["p"], &true]).await.expect("the state");
    let roles = client.query_one(&format!("select ({ROLES_SQL})::text"), &[]).await.expect("the roles");
    client.batch_execute("reset search_path").await.expect("a setting");
    let connect = PlainConnect(cluster().url("oracle", &ground.database.name).parse().expect("a conninfo"));
    let (reading, _) = read_session_facts(&connect, &ground.catalog().await).await.expect("session facts");
    let bodies: HashMap<u32, &str> =
        reading.facts.bodies.iter().filter_map(|(oid, tree)| Some((*oid, &**tree.as_ref().ok()?))).collect();
    let raw = |text: &str| -> Box<RawValue> { RawValue::from_string(text.to_owned()).expect("JSON") };
    let world = json!({ "bodies": bodies, "roles_of_bodies": reading.facts.roles });
    let mut text = serde_json::to_string(&world).expect("JSON");
    text.pop();
    let (state, roles) = (raw(state.get(0)), raw(roles.get(0)));
    let text = format!("{text},\n\"roles\":{},\n\"state\":{}}}\n", roles.get(), state.get());
    fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/world.json"), text).expect("world.json");
}

const CLAIMS: &str = r#"{"role":"authenticated","sub":"11111111-1111-4111-8111-111111111111","email":"A@b.c","tenant":"x","tenants":["x","none"],"aal":"aal2","n":12.5e-1,"app_metadata":{"teams":["x","y"],"level":"3"}}"#;

/// Of `docs`.
const ROW: &str = "1␟11111111-1111-4111-8111-111111111111␟7␟x␟a/11111111-1111-4111-8111-111111111111␟{a,c}␟{11111111-1111-4111-8111-111111111111,NULL}␟{\"a\": {\"b\": \"x\"}, \"k\": [1, \"two\"], \"n\": 1.25}␟t␟2.50␟2029-12-31 23:59:59+00␟2029-12-31␟happy␟3␟1";

/// Rows of the tables that policies read: `members`, `teams` and `folders` all begin with a number.
const OTHERS: &str = "7␟11111111-1111-4111-8111-111111111111␟3␞7␟name␟f␞1␟\\N␟11111111-1111-4111-8111-111111111111␞7␟22222222-2222-4222-8222-222222222222␟1";

fn messages() -> Vec<(String, Vec<u8>)> {
    let id = RelationId(16_400);
    let column =
        |name: &str, type_oid, is_key| RelationColumn { name: name.into(), type_oid, type_modifier: -1, is_key };
    let tuple = || Tuple::from_values([Some(&b"1"[..]), Some("é\\n".as_bytes()), None, Some(b"")]);
    let toasted = || {
        let mut tuple = tuple();
        tuple.fields[1] = Field::UnchangedToast;
        tuple
    };
    let relation = StreamRelation {
        id,
        schema: "public".into(),
        name: "docs".into(),
        replica_identity: b'f',
        columns: vec![
            column("id", 23, true),
            column("t", 25, false),
            column("u", 2950, false),
            column("é", 3802, false),
        ],
    };
    let messages = [
        ("begin", Message::Begin(Begin { final_lsn: Lsn(0x1_0000_0020), commit_timestamp: 7, xid: 731 })),
        ("commit", Message::Commit(Commit { commit_lsn: Lsn(32), end_lsn: Lsn(64), commit_timestamp: -7 })),
        ("origin", Message::Origin),
        ("relation", Message::Relation(relation)),
        ("type", Message::Type { oid: 16_390, schema: "public".into(), name: "mood".into() }),
        ("insert", Message::Insert { relation: id, new: tuple() }),
        ("update", Message::Update { relation: id, old: OldTuple::Absent, new: toasted() }),
        ("update-key", Message::Update { relation: id, old: OldTuple::Key(tuple()), new: tuple() }),
        ("update-full", Message::Update { relation: id, old: OldTuple::Full(tuple()), new: toasted() }),
        ("delete", Message::Delete { relation: id, old: OldTuple::Key(tuple()) }),
        ("truncate", Message::Truncate { relations: vec![id, RelationId(2)], cascade: true, restart_identity: false }),
        (
            "logical",
            Message::Logical {
                transactional: true,
                lsn: 64,
                prefix: "walcast".into(),
                content: b"\0\x01content"[..].into(),
            },
        ),
    ];
    messages.iter().map(|(name, message)| (name.to_string(), encode(message).to_vec())).collect()
}

const PHOENIX: &[&str] = &[
    r#"1{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1","join_ref":null}"#,
    r#"1{"topic":"realtime:a\"b\u00e9","event":"phx_join","payload":{"config":{"broadcast":{"ack":true}}},"ref":7,"join_ref":"1","x":[1]}"#,
    r#"2[null,"1","phoenix","heartbeat",{}]"#,
    r#"2["1","2","realtime:room","broadcast",{"type":"broadcast","event":"e","payload":{"a":[1,2.5e3,"\ud83d\ude00"]}}]"#,
    r#"2["1",{"a": 1},"realtime:room","presence",null,"more",[]]"#,
];

/// Kinds 3, as JSON and as bytes, and 0.
fn binary_frames(prefix: &str) -> Vec<(String, Vec<u8>)> {
    let kind3 = |encoding: u8, payload: &[u8]| {
        let head = [3, 1, 1, 13, 1, 2, encoding];
        [prefix.as_bytes(), &head, b"12realtime:rooms", b"{}", payload].concat()
    };
    let kind0 = [prefix.as_bytes(), &[0, 1, 1, 13, 1], b"12realtime:room", b"xe", b"\xff\0"].concat();
    vec![
        ("kind3-json".into(), kind3(1, br#"{"a":1}"#)),
        ("kind3-bytes".into(), kind3(0, b"\0\xff")),
        ("kind0".into(), kind0),
    ]
}

fn sessions() -> Vec<(String, Vec<u8>)> {
    let join = |topic: &str, config: &str| format!(r#"T["1","1","realtime:{topic}","phx_join",{{"config":{config}}}]"#);
    let all = r#"{"broadcast":{"ack":true,"self":true},"presence":{"enabled":true,"key":"k"},"postgres_changes":[{"event":"*","schema":"public","table":"t","filter":"id=eq.1"}]}"#;
    let private = r#"{"private":true,"broadcast":{"ack":true,"self":true,"replay":{"since":1,"limit":9},"replication_ready":true},"presence":{"enabled":true}}"#;
    let broadcast = |topic: &str| {
        format!(r#"T["1","2","realtime:{topic}","broadcast",{{"type":"broadcast","event":"e","payload":{{"a":1}}}}]"#)
    };
    let track = |topic: &str, state: &str| {
        format!(r#"T["1","3","realtime:{topic}","presence",{{"type":"presence","event":"track","payload":{state}}}]"#)
    };
    let mut all_of_it = vec![
        ("public", ["2", &join("room", all), &broadcast("room"), &track("room", r#"{"name":"é"}"#), &track("room", r#"{"n":2}"#), r#"T["1","4","realtime:room","presence",{"type":"presence","event":"untrack"}]"#, r#"T["1","5","realtime:room","phx_leave",{}]"#].join("␞")),
        ("private", ["2", &join("mate", private), &broadcast("mate"), &track("mate", "{}"), &broadcast("mate"), "KA"].join("␞")),
        ("limited", ["2lo", &join("room", all), &broadcast("room"), &broadcast("room"), &broadcast("room"), &broadcast("room"), &track("room", "{}"), &track("room", r#"{"n":1}"#), &track("room", r#"{"n":2}"#), "KA"].join("␞")),
        ("private-only", ["2p", &join("room", all), &join("mate", private), "KA"].join("␞")),
        ("tokens", ["2", r#"T["1","1","realtime:room","phx_join",{"config":{},"access_token":"goodsub"}]"#, r#"T["1","2","realtime:room","access_token",{"access_token":"goodother"}]"#, "Kx", r#"T[null,"3","phoenix","heartbeat",{}]"#].join("␞")),
        ("version-1", ["1", r#"T{"topic":"realtime:room","event":"phx_join","payload":{"config":{"broadcast":{"ack":true,"self":true},"presence":{"enabled":true}}},"ref":"1","join_ref":"1"}"#, r#"T{"topic":"realtime:room","event":"broadcast","payload":{"type":"broadcast","event":"e","payload":{}},"ref":"2"}"#, r#"T{"topic":"realtime:room","event":"presence","payload":{"type":"presence","event":"track","payload":{"a":1}},"ref":"3"}"#, r#"T{"topic":"public:t","event":"phx_join","payload":{},"ref":"4"}"#, "S", "G"].join("␞")),
        ("rejoin", ["2", &join("room", all), &join("room", "{}"), &join("a", "{}"), &join("b", "{}"), &join("c", "{}"), &join("d", "{}"), r#"T["1","9","realtime:public:docs:id=eq.1","phx_join",{}]"#, "S", "G"].join("␞")),
    ]
    .into_iter()
    .map(|(name, text)| (name.to_owned(), text.replace('␞', "\x1e").into_bytes()))
    .collect::<Vec<_>>();
    let join = join("room", r#"{"broadcast":{"self":true,"ack":true}}"#);
    for (name, frame) in binary_frames("") {
        all_of_it.push((name, [b"2", &[RECORD][..], join.as_bytes(), &[RECORD], b"B", &frame].concat()));
    }
    all_of_it
}

const JOINS: &[&str] = &[
    r#"{"config":{"broadcast":{"ack":false,"self":false},"presence":{"key":"","enabled":false},"postgres_changes":[],"private":false}}␞room"#,
    r#"{"config":{"postgres_changes":[{"event":"*","schema":"public","table":"t","filter":"id=eq.1","select":["a","b"]},{"event":"INSERT","schema":"public"},{"table":"x","id":7}]},"access_token":"t"}␞a:b"#,
    r#"{"config":{"private":"true","broadcast":{"replay":{"since":1700000000000,"limit":10},"replication_ready":true},"presence":{"key":5,"enabled":"TRUE"}},"user_token":"u","access_token":"sb_x"}␞p"#,
    r#"{"user_token":"u"}␞public:todos:id=eq.1"#,
    r#"{"config":{"postgres_changes":[null,{"schema":"*","deep":[[[{"a":[1e3,-0.0,"\u00e9"]}]]]}]}}␞x"#,
    r#"[]␞x"#,
];

const FILTERS: &[&str] = &[
    "kinds␞id=eq.1␞␞1␟t␟2␟3␞2",
    "kinds␞i4=gt.2,i4=lte.9,t=neq.x␞id␟t␞1␟t␟2␟3␟1.5␟2.5␟1.25␟hello␞1␟f",
    "kinds␞id=in.(1,2,\"3\"),b=is.true␞␞3␟t␞1",
    "kinds␞t=like.h%o,v=not.ilike.%B_␞␞1␟t␟2␟3␟1␟2␟3␟hello␟vb␞\\N",
    "kinds␞t=match.^h.*o$,t=not.imatch.x␞␞1␟t␟2␟3␟1␟2␟3␟hello␞\\N",
    "kinds␞u=eq.11111111-1111-4111-8111-111111111111,d=gte.2024-01-01,tz=lt.2024-01-01 00:00:00+00␞␞1␟t␟2␟3␟1␟2␟3␟x␟v␟c␟11111111-1111-4111-8111-111111111111␟2024-01-02␟10:00:00␟2024-01-01 00:00:00␟2023-01-01 00:00:00+00␞\\N",
    "kinds␞by=eq.\\xdeadbeef,m=eq.happy,s=neq.short␞␞1␟\\N␟\\N␟\\N␟\\N␟\\N␟\\N␟\\N␟\\N␟\\N␟\\N␟\\N␟\\N␟\\N␟\\N␟1 day␟\\xdeadbeef␟{}␟{}␟happy␟long␞\\U",
    "kinds␞ta=eq.\"{a,b}\",n=isdistinct.1.50,f8=lt.NaN,t=is.null␞␞1␟t␟1␟2␟1␟Infinity␟1.5␟\\N␞1",
    "docs␞team=not.in.(1,2,3)␞name␞1␟\\N␟4␞1",
    "*␞id=eq.1␞␞1␞1",
];

const DATUMS: &[&str] = &[
    "16␞t",
    "21␞-32768",
    "23␞42",
    "20␞9223372036854775807",
    "700␞1e-05",
    "701␞NaN",
    "1700␞-0.000120",
    "1700␞Infinity",
    "25␞text \" \\ \n é",
    "17␞\\xdeadbeef",
    "2950␞11111111-1111-4111-8111-111111111111",
    "1082␞2024-02-29",
    "1082␞infinity",
    "1082␞0044-03-15 BC",
    "1114␞2024-02-29 12:34:56.789",
    "1184␞2024-02-29 12:34:56.789+05:30",
    "1186␞1 year 2 mons -3 days",
    "1266␞10:00:00+01",
    "114␞{\"b\": 1, \"a\": [1e2, null, {\"é\": \"\\u00e9\\n\"}], \"b\": 2}",
    "3802␞{\"a\": [1, 2.50, {\"b\": \"x\"}]}",
    "1009␞{a,\"b c\",NULL,\"q\\\"\\\\\"}",
    "1007␞[0:1]={1,2}",
    "1007␞{{1,2},{3,4}}",
    "3807␞{\"{\\\"a\\\": 1}\",NULL}",
    "2951␞{11111111-1111-4111-8111-111111111111}",
    "1020␞{(1,1),(0,0);(2,2),(0,0)}",
    "3904␞[1,10)",
    "869␞10.0.0.0/8",
    "1560␞101",
];

const CONNINFOS: &[&str] = &[
    "postgres://user:pa%2Fss@host:5433/db?sslmode=verify-full&application_name=x",
    "postgresql://[::1]:5432/db?user=u&password=p&connect_timeout=3",
    "host='db' port=5432 user=u password='it\\'s' dbname=d sslmode=require channel_binding=require",
    "host=/var/run/postgresql user=u options='-c statement_timeout=5s' sslrootcert=system hostaddr=127.0.0.1",
    "postgres://u@%2Ftmp/db",
];

const FORWARDED: &[&str] = &[
    "10.0.0.1␞10.0.0.0/8,fd00::/8␞https://*.example.com,https://app.test␞https://a.example.com␞198.51.100.1, 10.0.0.9␞203.0.113.1:80␞x␞https",
    "203.0.113.9␞10.0.0.0/8␞*␞null␞1.2.3.4",
    "fd00::1␞fd00::/8,0.0.0.0/0␞https://[::1]:3000␞https://[::1]:3000␞[2001:db8::1]:443, unknown, ::ffff:10.0.0.1",
    "::ffff:10.0.0.1␞10.0.0.1␞http://localhost:3000␞http://localhost:3000␞for=192.0.2.60;proto=http",
];
