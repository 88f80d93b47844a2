//! `walcast explain`: each gate's verdict for a row and a person.

use serde_json::{Value, json};
use walcast::change::Operation;
use walcast::check::{Finding, Level, Report};
use walcast::dispatch::Deletes;
use walcast::explain::{self, Question};
use walcast::wal::Conninfo;

use crate::support::database::{Database, shared_cluster};
use crate::support::people::{ALICE, BOB};
use crate::support::relay::{Program, set_up};
use crate::support::scene::{ROOMS, execute, prepared};

const NOTES: &str = "
    create table notes (id int primary key, owner uuid, body text, hidden boolean not null default false);
    alter table notes enable row level security;
    create policy mine on notes for select to authenticated using (owner = auth.uid());
    create policy open on notes for select using (body like 'open%');
    create policy shown on notes as restrictive for select using (not hidden);
    create policy writes on notes for insert with check (true);
    create policy others on notes for select to service_role using (true);
    grant select on notes to authenticated;
    alter publication supabase_realtime add table notes;";

async fn notes() -> Database {
    let rows = format!(
        "insert into notes values (1, '{ALICE}', 'mine', false), (2, '{BOB}', 'his', false), (3, '{ALICE}', 'mine', true),
            (4, '{BOB}', 'open to all', false);"
    );
    prepared(shared_cluster(), &format!("{NOTES} {rows}")).await
}

/// Whether Alice gets an INSERT.
fn about(table: &str, key: &str) -> Question {
    Question {
        publication: "supabase_realtime".to_owned(),
        table: table.to_owned(),
        key: key.to_owned(),
        role: "authenticated".to_owned(),
        claims: json!({ "role": "authenticated", "sub": ALICE }).to_string(),
        event: Operation::Insert,
        filter: None,
        deletes: Deletes::Compatible,
        delete_indexes: Vec::new(),
    }
}

fn deleted(key: &str, deletes: Deletes) -> Question {
    Question { event: Operation::Delete, deletes, ..about("notes", key) }
}

async fn explain(database: &Database, question: &Question) -> Report {
    let conninfo = Conninfo::parse(&database.url).unwrap();
    explain::with_oracle(&conninfo, None, question).await.unwrap_or_else(|error| panic!("{error:?}"))
}

fn gate<'r>(report: &'r Report, what: &str) -> &'r Finding {
    let found = report.findings.iter().find(|finding| finding.what == what);
    found.unwrap_or_else(|| panic!("nothing about {what} in\n{report}"))
}

/// The gate says this; whether the event is delivered is the last word.
#[track_caller]
fn says(report: &Report, what: &str, level: Level, words: &str) {
    let finding = gate(report, what);
    assert_eq!(finding.level, level, "{what} in\n{report}");
    assert!(finding.detail.contains(words), "{words:?} of {what} in\n{report}");
}

#[track_caller]
fn concludes(report: &Report, is_delivered: bool) {
    let last = report.findings.last().expect("a verdict");
    assert_eq!(last.what, "verdict", "{report}");
    assert_eq!(last.level, if is_delivered { Level::Pass } else { Level::Fail }, "{report}");
    assert_eq!(report.failed(), !is_delivered, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_policy_has_its_verdict_and_one_permissive_one_is_enough() {
    let database = notes().await;
    let report = explain(&database, &about("notes", "4")).await;
    concludes(&report, true);
    says(&report, "policy \"mine\"", Level::Pass, "permissive: false or NULL, and another policy shows the row");
    says(&report, "policy \"open\"", Level::Pass, "permissive: true");
    says(&report, "policy \"shown\"", Level::Pass, "restrictive: true");
    says(&report, "policy \"writes\"", Level::Pass, "not for SELECT");
    says(&report, "policy \"others\"", Level::Pass, "for other roles");
    // auth.uid() is known by its body.
    says(&report, "policies", Level::Pass, "together they show the row; decided in-process, as of the commit");
    assert!(report.findings.iter().all(|finding| finding.level == Level::Pass), "{report}");

    let report = explain(&database, &about("notes", "2")).await;
    concludes(&report, false);
    says(&report, "policy \"mine\"", Level::Warn, "permissive: false or NULL");
    says(&report, "policies", Level::Fail, "together they hide the row");

    let report = explain(&database, &about("notes", "3")).await;
    concludes(&report, false);
    says(&report, "policy \"mine\"", Level::Pass, "permissive: true");
    says(&report, "policy \"shown\"", Level::Fail, "every restrictive policy has to be true");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_it_is_decided_is_what_the_relay_would_do() {
    let members = format!("insert into members values (1, '{ALICE}'); insert into posts values (1, 1);");
    let procedural = "create function is_mine(owner uuid) returns boolean language plpgsql stable as
            'begin if owner is null then return false; end if; return owner = auth.uid(); end';
        create table things (id int primary key, owner uuid); alter table things enable row level security;
        create policy mine on things for select using (is_mine(owner));
        grant select on things to authenticated; alter publication supabase_realtime add table things;";
    let things = format!("insert into things values (1, '{ALICE}');");
    let database = prepared(shared_cluster(), &format!("{ROOMS} {members} {procedural} {things}")).await;
    let report = explain(&database, &about("posts", "1")).await;
    concludes(&report, true);
    says(&report, "policies", Level::Warn, "asked of Postgres for every change, because table \"public\".\"members\"");
    assert!(gate(&report, "policies").statement.as_deref().unwrap().starts_with("walcast setup"), "{report}");
    set_up(&database.url).await;
    let report = explain(&database, &about("posts", "1")).await;
    says(&report, "policies", Level::Pass, "decided in-process, as of the commit, with tables that are followed");

    let report = explain(&database, &about("things", "1")).await;
    concludes(&report, true);
    says(&report, "policies", Level::Warn, "it is written in plpgsql");
    assert!(gate(&report, "policies").statement.as_deref().unwrap().contains("language sql"), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_published_or_not_granted_is_said_with_its_statement() {
    let database = notes().await;
    execute(
        &database.client,
        "create table loose (id int primary key);
         create publication inserts for table notes with (publish = 'insert');
         create schema app; create table app.plans (id int primary key); grant select on app.plans to authenticated;
         create table narrow (id int primary key, body text); grant select (body) on narrow to authenticated;
         create table keyless (id int); grant select on keyless to authenticated;
         insert into app.plans values (1); insert into narrow values (1); insert into keyless values (1);
         alter publication supabase_realtime add table app.plans, narrow, keyless",
    )
    .await;
    let heal = |report: &Report, what: &str| gate(report, what).statement.clone().expect("a statement");

    let report = explain(&database, &about("loose", "1")).await;
    concludes(&report, false);
    assert_eq!(heal(&report, "publication"), "alter publication \"supabase_realtime\" add table \"public\".\"loose\";");
    let only = Question { publication: "inserts".into(), event: Operation::Update, ..about("notes", "1") };
    let report = explain(&database, &only).await;
    concludes(&report, false);
    says(&report, "publication", Level::Fail, "leaves out UPDATE");

    let report = explain(&database, &about("app.plans", "1")).await;
    concludes(&report, false);
    says(&report, "grants", Level::Fail, "no USAGE");
    execute(&database.client, &heal(&report, "grants")).await;
    concludes(&explain(&database, &about("app.plans", "1")).await, true);

    let report = explain(&database, &about("narrow", "1")).await;
    concludes(&report, false);
    says(&report, "grants", Level::Fail, "may not read the primary key (id)");
    execute(&database.client, &heal(&report, "grants")).await;
    concludes(&explain(&database, &about("narrow", "1")).await, true);

    let report = explain(&database, &about("keyless", "{\"id\": 1}")).await;
    concludes(&report, false);
    says(&report, "grants", Level::Fail, "no primary key");

    let nobody = Question { role: "nobody".into(), ..about("notes", "1") };
    let report = explain(&database, &nobody).await;
    concludes(&report, false);
    says(&report, "grants", Level::Fail, "there is no role \"nobody\"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_match_do_not_match_or_are_refused() {
    let database = notes().await;
    let filtered = |filter: &str| Question { filter: Some(filter.to_owned()), ..about("notes", "1") };
    let report = explain(&database, &filtered("body=eq.mine")).await;
    concludes(&report, true);
    says(&report, "filter", Level::Pass, "body=eq.mine matches the row");
    let report = explain(&database, &filtered("body=eq.other")).await;
    concludes(&report, false);
    says(&report, "filter", Level::Fail, "body=eq.other does not match the row");
    let report = explain(&database, &filtered("nothing=eq.1")).await;
    concludes(&report, false);
    says(&report, "filter", Level::Fail, "nothing");

    // The key is all that a DELETE has.
    let delete = |filter: &str| Question { event: Operation::Delete, ..filtered(filter) };
    concludes(&explain(&database, &delete("id=eq.1")).await, true);
    assert_eq!(gate(&explain(&database, &delete("body=eq.mine")).await, "filter").level, Level::Fail);
    execute(&database.client, "alter table notes replica identity full").await;
    concludes(&explain(&database, &delete("body=eq.mine")).await, true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_named_by_their_key_or_by_columns() {
    let rooms = format!(
        "{ROOMS} insert into members values (1, '{ALICE}'); alter publication supabase_realtime add table members;"
    );
    let database = prepared(shared_cluster(), &rooms).await;
    let key = json!({ "room": 1, "member": ALICE }).to_string();
    concludes(&explain(&database, &about("members", &key)).await, true);
    let report = explain(&database, &about("members", &json!({ "room": 1, "member": BOB }).to_string())).await;
    concludes(&report, false);
    says(&report, "row", Level::Fail, "no row of that key now");
    let conninfo = Conninfo::parse(&database.url).unwrap();
    for key in ["1", "{}", "{\"nothing\": 1}"] {
        let error = explain::with_oracle(&conninfo, None, &about("members", key)).await.unwrap_err();
        assert!(matches!(error, explain::Error::Key(..)), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletes_are_judged_as_their_mode_and_the_old_row_allow() {
    let database = notes().await;
    // The bare key: Bob's note is his, and Alice is sent its key all the same.
    for key in ["1", "2"] {
        let report = explain(&database, &deleted(key, Deletes::Compatible)).await;
        concludes(&report, true);
        says(&report, "old row", Level::Warn, "everybody who subscribes to the table");
        concludes(&explain(&database, &deleted(key, Deletes::Authorized)).await, false);
        concludes(&explain(&database, &deleted(key, Deletes::None)).await, false);
    }
    // What the index keeps is judged.
    let indexed = |key: &str| Question {
        delete_indexes: vec!["public.notes".parse().unwrap()],
        ..deleted(key, Deletes::Authorized)
    };
    let report = explain(&database, &indexed("1")).await;
    concludes(&report, true);
    says(&report, "old row", Level::Pass, "--delete-index");
    concludes(&explain(&database, &indexed("2")).await, false);

    execute(&database.client, "alter table notes replica identity full").await;
    for deletes in [Deletes::Compatible, Deletes::Authorized] {
        concludes(&explain(&database, &deleted("1", deletes)).await, true);
        concludes(&explain(&database, &deleted("2", deletes)).await, false);
    }
    let report = explain(&database, &deleted("1", Deletes::None)).await;
    concludes(&report, false);
    says(&report, "old row", Level::Fail, "--deletes none");
    // Without row-level security the mode says nothing.
    execute(&database.client, "alter table notes disable row level security").await;
    concludes(&explain(&database, &deleted("1", Deletes::None)).await, true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_has_as_much_of_the_old_row_as_the_replica_identity() {
    let database = notes().await;
    let updated = Question { event: Operation::Update, ..about("notes", "1") };
    let report = explain(&database, &updated).await;
    concludes(&report, true);
    says(&report, "old row", Level::Warn, "key's columns only");
    execute(&database.client, gate(&report, "old row").statement.as_deref().unwrap()).await;
    let report = explain(&database, &updated).await;
    concludes(&report, true);
    says(&report, "old row", Level::Pass, "REPLICA IDENTITY FULL");
    execute(&database.client, "alter table notes replica identity nothing").await;
    let report = explain(&database, &updated).await;
    concludes(&report, false);
    says(&report, "old row", Level::Fail, "Postgres refuses");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_ends_as_the_verdict_says_and_refuses_what_is_no_question() {
    let database = notes().await;
    let claims = json!({ "role": "authenticated", "sub": ALICE }).to_string();
    let run = async |key: &str, claims: &str, more: &[&str]| {
        let fixed = ["explain", "--database-url", &database.url, "--table", "notes", "--key", key, "--claims", claims];
        let arguments: Vec<&str> = fixed.iter().chain(more).copied().collect();
        let mut program = Program::spawn(&arguments);
        let status = program.exit().await;
        let log = program.finished().await;
        (status.code(), log)
    };
    let (code, log) = run("1", &claims, &["--json"]).await;
    assert_eq!(code, Some(0), "{log}");
    let report: Value = serde_json::from_str(&log).unwrap_or_else(|error| panic!("{error}: {log}"));
    assert_eq!(report["findings"].as_array().unwrap().last().unwrap()["what"], "verdict");
    let (code, log) = run("2", &claims, &[]).await;
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("FAIL  verdict"), "{log}");
    let (code, log) =
        run("1", &claims, &["--event", "delete", "--deletes", "authorized", "--delete-index", "public.notes"]).await;
    assert_eq!(code, Some(0), "{log}");
    for (claims, more, words) in [
        ("{", &[][..], "--claims is not JSON"),
        ("{}", &[][..], "has no \"role\""),
        (&claims, &["--event", "TRUNCATE"][..], "it is INSERT, UPDATE or DELETE"),
    ] {
        let (code, log) = run("1", claims, more).await;
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains(words), "{words:?} in {log}");
    }
}
