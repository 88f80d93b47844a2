//! `walcast check` on databases that each have one thing wrong. Roles and settings: clusters of their own.

use walcast::check::{self, Finding, Kind, Level, Report};
use walcast::demo::postgres::{Cluster, ClusterOptions};
use walcast::setup;
use walcast::wal::{Budget, Conninfo};

use crate::support::database::{Database, connect};

const TABLES: &str = "create table messages (id bigint primary key, author uuid, body text);
    alter table messages enable row level security; grant select on messages to authenticated;
    create policy mine on messages for select to authenticated using (author = auth.uid());
    alter publication supabase_realtime add table messages";

struct Patient {
    cluster: Cluster,
    database: Database,
    /// The stream's login.
    url: String,
}

impl Patient {
    /// A database that is set up as it should be.
    async fn healthy() -> Patient {
        let settings = vec!["max_slot_wal_keep_size = '1GB'".to_owned()];
        let cluster = Cluster::start(&ClusterOptions { settings, ..ClusterOptions::default() }).unwrap();
        let mut database = Database::create_in(&cluster).await;
        let authority = format!("127.0.0.1:{}", cluster.port());
        let config = setup::Config { with_auth: true, authority, ..setup::Config::default() };
        let url = setup::run(&mut database.client, &config).await.unwrap().url.unwrap();
        database.client.batch_execute(TABLES).await.unwrap();
        Patient { cluster, database, url }
    }

    async fn sql(&self, sql: &str) {
        self.database.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    async fn check(&self) -> Report {
        check::run(&Conninfo::parse(&self.url).unwrap(), &check::Config::default()).await
    }
}

fn find<'a>(report: &'a Report, level: Level, words: &str) -> &'a Finding {
    let found = report
        .findings
        .iter()
        .find(|finding| finding.level == level && (finding.what.contains(words) || finding.detail.contains(words)));
    found.unwrap_or_else(|| panic!("no {level:?} about {words:?} in\n{report}"))
}

fn bad(report: &Report) -> Vec<&Finding> {
    report.findings.iter().filter(|finding| finding.level != Level::Pass).collect()
}

#[tokio::test]
async fn a_healthy_database_passes_and_its_plans_are_shown() {
    let patient = Patient::healthy().await;
    let report = patient.check().await;
    assert!(!report.failed(), "{report}");
    // A key cannot tell whose message was deleted: that is worth a word.
    let deletes = find(&report, Level::Warn, "deletes of");
    assert!(deletes.statement.as_deref().unwrap().contains("replica identity full"));
    assert_eq!(bad(&report).len(), 1, "{report}");
    let table = find(&report, Level::Pass, "\"messages\"");
    assert!(table.detail.contains("authenticated sees what its policies say, compiled: "), "{}", table.detail);
    assert!(table.detail.contains("author = auth.uid()"), "{}", table.detail);
    assert!(table.detail.contains("reads columns author; claims sub"), "{}", table.detail);
    assert!(table.detail.contains("anon sees nothing"), "{}", table.detail);

    patient.sql(deletes.statement.as_deref().unwrap()).await;
    assert_eq!(bad(&patient.check().await), Vec::<&Finding>::new());
}

/// Each ailment, what is said of it, and whether the statement it is given heals it.
#[tokio::test]
async fn each_ailment_is_named_and_its_statement_heals_it() {
    let patient = Patient::healthy().await;
    patient.sql("alter table messages replica identity full").await;
    patient.sql(super::setup::STANDBY_SNAPSHOT).await;
    let ailments: &[(&str, Level, &str)] = &[
        ("revoke execute on function pg_log_standby_snapshot() from walcast", Level::Warn, "moved on every 15 seconds"),
        ("alter publication walcast add table messages", Level::Fail, "walcast's own publication too"),
        ("alter role walcast noreplication", Level::Fail, "may not replicate"),
        ("alter event trigger walcast_sql_drop enable", Level::Warn, "ENABLE ALWAYS"),
        ("alter role walcast_oracle bypassrls", Level::Fail, "can become walcast_oracle"),
        ("grant service_role to walcast_oracle", Level::Fail, "can become service_role"),
        ("revoke usage on schema auth from authenticated", Level::Warn, "authenticated may not"),
        ("revoke execute on function auth.uid() from public, authenticated", Level::Warn, "authenticated may not"),
        ("revoke select on messages from authenticated", Level::Warn, "nobody sees anything"),
        ("alter table messages replica identity nothing", Level::Fail, "no replica identity"),
        (
            "alter table messages disable row level security; grant select on messages to anon",
            Level::Warn,
            "anonymous key",
        ),
    ];
    for (ailment, level, words) in ailments {
        // The event trigger takes the table out of walcast's own publication again: not here.
        let replica = "begin; alter event trigger walcast_ddl_command_end disable; ";
        let always = "; alter event trigger walcast_ddl_command_end enable always; commit";
        patient.sql(&format!("{replica}{ailment}{always}")).await;
        let report = patient.check().await;
        let finding = find(&report, *level, words);
        patient.sql(finding.statement.as_deref().expect("a statement")).await;
        let healed = patient.check().await;
        let still = healed
            .findings
            .iter()
            .any(|other| other.level == *level && other.what == finding.what && other.detail == finding.detail);
        assert!(!still, "after {:?}\n{healed}", finding.statement);
        // For the next one.
        patient.sql("alter table messages replica identity full; alter table messages enable row level security").await;
    }
}

#[tokio::test]
async fn secrets_that_an_earlier_version_left_open_are_named_and_setup_hides_them() {
    let mut patient = Patient::healthy().await;
    let reader = connect(&patient.cluster.url("postgres", &patient.database.name)).await;
    let as_reader =
        "create role reader nologin in role pg_read_all_data; grant usage on schema walcast to reader; set role reader";
    reader.batch_execute(as_reader).await.unwrap();
    let tables = ["broadcast_key", "oracle_login"];
    let rows = async |table: &str| reader.query(&format!("table walcast.{table}"), &[]).await.unwrap().len();
    for table in tables {
        assert_eq!(rows(table).await, 0, "{table}");
        patient
            .sql(&format!(
                "alter table walcast.{table} disable row level security; drop policy stream on walcast.{table}"
            ))
            .await;
        assert_eq!(rows(table).await, 1, "{table}");
    }
    let report = patient.check().await;
    let open = find(&report, Level::Warn, "walcast.broadcast_key and walcast.oracle_login");
    assert_eq!(open.statement.as_deref(), Some("walcast setup"));

    setup::run(&mut patient.database.client, &setup::Config::default()).await.unwrap();
    for table in tables {
        assert_eq!(rows(table).await, 0, "{table}");
    }
    // Not by BYPASSRLS alone, which not every server gives.
    patient.sql("alter role walcast nobypassrls").await;
    let stream = connect(&patient.url).await;
    assert!(setup::oracle_login(&stream).await.unwrap().is_some());
    assert!(!patient.check().await.findings.iter().any(|finding| finding.detail.contains("pg_read_all_data")));
}

#[tokio::test]
async fn a_database_of_before_resume_keeps_positions_in_memory_only() {
    let mut patient = Patient::healthy().await;
    for ailment in [
        "revoke insert on walcast.resume_keys from walcast",
        "revoke update on walcast.resume_state from walcast",
        "drop table walcast.resume_keys, walcast.resume_state",
    ] {
        patient.sql(ailment).await;
        let report = patient.check().await;
        let finding = find(&report, Level::Warn, "positions of resuming clients are kept in memory only");
        assert_eq!(finding.statement.as_deref(), Some("walcast setup"), "{ailment}");
        let config = setup::Config { with_auth: true, ..setup::Config::default() };
        setup::run(&mut patient.database.client, &config).await.unwrap();
        let healed = patient.check().await;
        assert!(healed.findings.iter().all(|finding| finding.what != "resume"), "after {ailment}\n{healed}");
    }
}

#[tokio::test]
async fn tables_that_cannot_be_followed_are_named() {
    let patient = Patient::healthy().await;
    patient
        .sql(
            "create table keyless (a int); create table deaf (id int primary key); alter table deaf replica identity nothing;
             create table nobody (id int primary key);
             alter publication supabase_realtime add table keyless, deaf, nobody",
        )
        .await;
    let report = patient.check().await;
    find(&report, Level::Warn, "has no primary key");
    let keyless = report.findings.iter().filter(|f| f.level == Level::Fail && f.what.contains("keyless")).count();
    assert_eq!(keyless, 1, "the application's UPDATE fails\n{report}");
    assert!(patient.database.client.batch_execute("update keyless set a = 1").await.is_err());
    let deaf = find(&report, Level::Fail, "\"deaf\"").statement.clone().unwrap();
    assert!(deaf.ends_with("replica identity default;"));
    assert!(
        report
            .findings
            .iter()
            .any(|f| f.level == Level::Warn && f.detail.starts_with("nobody sees") && f.what.contains("nobody"))
    );
}

#[tokio::test]
async fn column_lists_that_kill_the_stream_or_the_application_are_named() {
    let patient = Patient::healthy().await;
    let version: String = patient.database.client.query_one("show server_version_num", &[]).await.unwrap().get(0);
    if version.parse::<u32>().unwrap() < 150000 {
        return;
    }
    patient
        .sql(
            "create publication second for table messages (id, body);
             create table narrow (id int primary key, b int unique not null, c text);
             alter publication supabase_realtime add table narrow (b, c)",
        )
        .await;
    let config =
        check::Config { publications: vec!["supabase_realtime".into(), "second".into()], ..check::Config::default() };
    let report = check::run(&Conninfo::parse(&patient.url).unwrap(), &config).await;
    find(&report, Level::Fail, "different column lists");
    find(&report, Level::Fail, "without its replica identity's columns");
    // Identity FULL would make UPDATE fail: it is not advised where there is a column list.
    let deletes = find(&report, Level::Warn, "deletes of");
    assert!(!deletes.statement.as_deref().unwrap().contains("full"), "{deletes:?}");
}

#[tokio::test]
async fn a_bare_database_and_a_restored_dump_are_recognised() {
    let mut patient = Patient::healthy().await;
    patient.sql("update walcast.installation set system_identifier = '1'").await;
    let report = patient.check().await;
    let finding = find(&report, Level::Fail, "restored dump");
    assert_eq!(finding.statement.as_deref(), Some("walcast setup --new-passwords"));
    let config = setup::Config { new_passwords: true, ..setup::Config::default() };
    setup::run(&mut patient.database.client, &config).await.unwrap();
    let url = patient.database.url.clone();
    let report = check::run(&Conninfo::parse(&url).unwrap(), &check::Config::default()).await;
    assert!(!report.failed(), "{report}");

    let bare = Database::create_in(&patient.cluster).await;
    let report = check::run(&Conninfo::parse(&bare.url).unwrap(), &check::Config::default()).await;
    find(&report, Level::Warn, "has not been run");
    let finding = find(&report, Level::Fail, "supabase_realtime does not exist");
    assert_eq!(finding.statement.as_deref(), Some("create publication \"supabase_realtime\";"));
}

#[tokio::test]
async fn what_the_slot_would_wait_for_is_named_by_its_process() {
    let patient = Patient::healthy().await;
    let other = connect(&patient.database.url).await;
    let pid: i32 = other.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    other.batch_execute("begin; select pg_current_xact_id()").await.unwrap();
    let report = patient.check().await;
    let finding = find(&report, Level::Warn, &format!("process {pid} "));
    assert!(finding.statement.as_deref().unwrap().contains(&format!("pg_terminate_backend({pid})")));
    other.batch_execute("rollback").await.unwrap();

    patient.sql("select pg_create_logical_replication_slot('walcast', 'pgoutput')").await;
    find(&patient.check().await, Level::Pass, "MB of WAL are held");
}

#[tokio::test]
async fn who_pins_the_slot_and_slots_that_nobody_reads_are_named() {
    let patient = Patient::healthy().await;
    patient.sql("select pg_create_logical_replication_slot('walcast', 'pgoutput')").await;
    patient.sql("select pg_create_logical_replication_slot('walcast_old', 'pgoutput')").await;
    let other = connect(&patient.database.url).await;
    let pid: i32 = other.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    other.batch_execute("begin; select pg_current_xact_id()").await.unwrap();
    for _ in 0..3 {
        patient.sql("create table filler (a int); drop table filler; select pg_switch_wal()").await;
    }
    patient.sql("checkpoint").await;
    // The slot that is read is at the open transaction; to it the budget is small.
    patient.sql("select pg_replication_slot_advance('walcast', pg_current_wal_lsn())").await;
    let slot_budget = Budget { catalog_xmin_age_max: 1, ..Budget::default() };
    let config = check::Config { slot_budget, ..check::Config::default() };
    let report = check::run(&Conninfo::parse(&patient.url).unwrap(), &config).await;
    let pin = find(&report, Level::Warn, &format!("process {pid} "));
    assert!(pin.detail.contains("keeps the slot where it is"), "{}", pin.detail);
    assert!(pin.statement.as_deref().unwrap().starts_with(&format!("select pg_terminate_backend({pid});")));
    let slot = find(&report, Level::Warn, "walcast is not in use");
    assert!(slot.statement.as_deref().unwrap().contains("open transactions"));

    let orphan = find(&report, Level::Warn, "nobody reads walcast_old");
    patient.sql(orphan.statement.as_deref().unwrap()).await;
    let report = patient.check().await;
    assert!(!report.to_string().contains("walcast_old"), "{report}");
}

#[tokio::test]
async fn a_server_that_cannot_replicate_and_one_that_is_not_there_fail() {
    let settings = vec!["wal_level = replica".to_owned()];
    let cluster = Cluster::start(&ClusterOptions { settings, ..ClusterOptions::default() }).unwrap();
    let database = Database::create_in(&cluster).await;
    let report = check::run(&Conninfo::parse(&database.url).unwrap(), &check::Config::default()).await;
    let finding = find(&report, Level::Fail, "replica: logical replication needs logical");
    assert!(finding.statement.as_deref().unwrap().starts_with("alter system set wal_level = logical;"));

    let nowhere = Conninfo::parse("postgres://u@127.0.0.1:1/d?connect_timeout=5").unwrap();
    let report = check::run(&nowhere, &check::Config::default()).await;
    assert!(report.failed());
    assert_eq!(report.findings.len(), 1);
}

/// Each plan, what it reads, and for those of Postgres what to do about it.
#[tokio::test]
async fn plans_say_what_they_read_and_what_keeps_them_from_being_decided_here() {
    let patient = Patient::healthy().await;
    patient
        .sql(
            "create role auditor; create role moderator; grant moderator to walcast_oracle;
             create table members (room int, person uuid, primary key (room, person));
             create table posts (id int primary key, room int, tenant text, title text);
             alter table posts enable row level security; alter table posts replica identity full;
             alter table messages replica identity full;
             create function is_member(r int) returns boolean language sql stable security definer set search_path = '' as
                'select exists (select from public.members m where m.room = r and m.person = auth.uid())';
             create function is_procedural(r int) returns boolean language plpgsql stable as 'begin if r = 1 then return true; end if; return false; end';
             create policy member on posts for select to authenticated
                using (is_member(room) and tenant = (auth.jwt() -> 'app_metadata' ->> 'tenant'));
             create policy pattern on posts for select to anon using (title ~ '^open');
             create policy helper on posts for select to anon using (is_procedural(room));
             create policy audit on posts for select to auditor using (true);
             grant select on posts to authenticated, anon, auditor;
             alter publication supabase_realtime add table posts; alter publication walcast add table members;
             grant select on members to walcast",
        )
        .await;
    let report = patient.check().await;
    let plan = |role: &str| {
        let found = report.plans.iter().find(|plan| plan.table.contains("posts") && plan.role == role);
        found.unwrap_or_else(|| panic!("no plan of {role} in\n{report}"))
    };
    let tracked = plan("authenticated");
    assert_eq!(tracked.plan, Kind::Tracked, "{tracked:?}");
    assert_eq!(tracked.columns.as_deref().unwrap(), ["room", "tenant"]);
    assert_eq!(tracked.tables, ["\"public\".\"members\" (room, person)"]);
    assert_eq!(tracked.claims.as_deref().unwrap(), ["app_metadata.tenant", "sub"]);
    let oracle = plan("anon");
    assert_eq!(oracle.plan, Kind::Oracle);
    assert_eq!(oracle.obstacles.len(), 2, "{oracle:?}");
    assert_eq!(plan("service_role").plan, Kind::Open);
    // Policies name it, tokens cannot.
    assert_eq!(plan("auditor").plan, Kind::Compiled);
    find(&report, Level::Pass, "auditor (no token can name it) sees");

    let pattern = find(&report, Level::Warn, "policy \"pattern\"");
    assert!(pattern.detail.contains("operator ~(text,text) is not known here"), "{pattern:?}");
    assert!(pattern.statement.as_deref().unwrap().contains("LIKE"));
    let helper = find(&report, Level::Warn, "policy \"helper\"");
    assert!(helper.detail.contains("written in plpgsql"), "{helper:?}");
    assert!(helper.statement.as_deref().unwrap().contains("language sql"));

    let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    let plans = json["plans"].as_array().unwrap();
    let anon = plans.iter().find(|plan| plan["role"] == "anon" && plan["table"].as_str().unwrap().contains("posts"));
    assert_eq!(anon.unwrap()["plan"], "oracle");
    assert!(anon.unwrap()["obstacles"][0]["remedy"].is_string());

    // The two ways in which changes of the catalog are noticed.
    find(&report, Level::Pass, "at their place in the stream");
    find(&report, Level::Pass, "roles, memberships");
    patient.sql("drop event trigger walcast_ddl_command_end").await;
    find(&patient.check().await, Level::Warn, "every change of policies, grants, functions, tables and roles");
}

#[tokio::test]
async fn broadcast_from_the_database_is_looked_at() {
    let patient = Patient::healthy().await;
    patient
        .sql(
            "create policy own on realtime.messages for select to authenticated using (realtime.topic() = auth.uid()::text);
             create policy odd on realtime.messages for insert to authenticated with check (realtime.topic() ~ '^a')",
        )
        .await;
    let report = patient.check().await;
    find(&report, Level::Pass, "broadcast from the database");
    find(&report, Level::Warn, "policy \"odd\"");
    for (right, role, kind) in [
        ("(read)", "authenticated", Kind::Compiled),
        ("(write)", "authenticated", Kind::Oracle),
        ("(read)", "anon", Kind::Denied),
        ("(write)", "service_role", Kind::Open),
    ] {
        let plan = report.plans.iter().find(|plan| plan.table.ends_with(right) && plan.role == role);
        assert_eq!(plan.map(|plan| plan.plan), Some(kind), "{role} {right}");
    }
    let today = "timezone('utc', now())::date";
    let drop = format!(
        "do $$ declare part name; begin foreach part in array array[to_char({today}, '\"messages_\"YYYY_MM_DD'),
            to_char({today} + 1, '\"messages_\"YYYY_MM_DD')] loop execute format('drop table realtime.%I', part);
         end loop; end $$"
    );
    patient.sql(&drop).await;
    let report = patient.check().await;
    let fix = find(&report, Level::Fail, "no partition for today").statement.clone().unwrap();
    find(&report, Level::Warn, "no partition for tomorrow");
    patient.sql(&fix).await;
    find(&patient.check().await, Level::Pass, "broadcast from the database");
    for (breakage, words) in [
        ("alter publication walcast drop table realtime.messages", "in no publication that is read"),
        ("revoke select on realtime.messages from walcast", "may not read realtime.messages"),
    ] {
        patient.sql(breakage).await;
        let report = patient.check().await;
        patient.sql(find(&report, Level::Warn, words).statement.as_deref().unwrap()).await;
        find(&patient.check().await, Level::Pass, "broadcast from the database");
    }
    patient.sql("drop table realtime.messages").await;
    find(&patient.check().await, Level::Warn, "there is no realtime.messages");
}
