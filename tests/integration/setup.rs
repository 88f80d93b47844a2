//! `walcast setup`, and what it refuses. Roles are global: each test has a cluster of its own.

use tokio_postgres::Client;
use walcast::demo::postgres::{Cluster, ClusterOptions};
use walcast::setup::{self, Config, Facts, Outcome, Report, Secrets};

use super::ddl_log::{TABLE, newest};
use crate::support::database::{Database, connect};

pub fn cluster() -> Cluster {
    Cluster::start(&ClusterOptions::default()).expect("a throw-away Postgres")
}

pub fn config(cluster: &Cluster) -> Config {
    Config { with_auth: true, authority: format!("127.0.0.1:{}", cluster.port()), ..Config::default() }
}

pub async fn set_up(database: &mut Database, config: &Config) -> Report {
    let report = setup::run(&mut database.client, config).await.expect("setup");
    assert_eq!(report.notes().collect::<Vec<_>>(), Vec::<&str>::new());
    report
}

/// What Postgres has from 16 on.
pub const STANDBY_SNAPSHOT: &str = "do $$ begin
    if to_regprocedure('pg_catalog.pg_log_standby_snapshot()') is null then
        create function pg_catalog.pg_log_standby_snapshot() returns pg_lsn language sql as 'select pg_current_wal_lsn()';
        revoke execute on function pg_catalog.pg_log_standby_snapshot() from public;
    end if;
end $$";

#[tokio::test]
async fn setup_makes_logins_that_can_do_their_work_and_no_more() {
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    let report = set_up(&mut database, &config(&cluster)).await;
    let stream = connect(report.url.as_deref().unwrap()).await;
    let (login, password) = setup::oracle_login(&stream).await.unwrap().expect("the oracle's login");
    stream.query("select pg_create_logical_replication_slot('s', 'pgoutput')", &[]).await.unwrap();
    assert!(stream.query("select walcast.prune_ddl_log(0)", &[]).await.is_ok());
    assert!(stream.query("insert into walcast.ddl_log (tag) values ('forged')", &[]).await.is_err());

    let url = format!("postgres://{login}:{password}@127.0.0.1:{}/{}", cluster.port(), database.name);
    let oracle = connect(&url).await;
    for role in ["anon", "authenticated"] {
        oracle.batch_execute(&format!("set role {role}; select auth.uid(); reset role")).await.unwrap();
    }
    for forbidden in ["set role service_role", "set role walcast", "set role postgres", "table walcast.oracle_login"] {
        assert!(oracle.batch_execute(forbidden).await.is_err(), "{forbidden}");
    }
}

#[tokio::test]
async fn setup_twice_changes_nothing_and_remove_leaves_nothing() {
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    let inventory = "select array_agg(what order by what) from (
        select 'role ' || rolname from pg_roles union all select 'schema ' || nspname from pg_namespace
        where nspname !~ '^pg_(toast_)?temp'
        union all select 'publication ' || pubname from pg_publication
        union all select 'trigger ' || evtname from pg_event_trigger
        union all select 'slot ' || slot_name from pg_replication_slots
        union all select 'function ' || oid::regprocedure from pg_proc where oid >= 16384
        union all select 'member ' || roleid || ' ' || member from pg_auth_members) i(what)";
    let list = async |client: &Client| client.query_one(inventory, &[]).await.unwrap().get::<_, Vec<String>>(0);
    let before = list(&database.client).await;
    let config = config(&cluster);
    set_up(&mut database, &config).await;
    let once = list(&database.client).await;
    let secret = "select password from walcast.oracle_login";
    let password: String = database.client.query_one(secret, &[]).await.unwrap().get(0);
    let again = set_up(&mut database, &config).await;
    assert_eq!(list(&database.client).await, once);
    assert_eq!(database.client.query_one(secret, &[]).await.unwrap().get::<_, String>(0), password);
    assert!(again.url.unwrap().contains(":PASSWORD@"));

    database.client.query("select pg_create_logical_replication_slot('walcast', 'pgoutput')", &[]).await.unwrap();
    let report = setup::remove(&mut database.client, &config).await.unwrap();
    assert_eq!(report.notes().count(), 0, "{report}");
    assert_eq!(list(&database.client).await, before);
}

#[tokio::test]
async fn remove_leaves_what_others_use() {
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    let config = config(&cluster);
    set_up(&mut database, &config).await;
    database.client.batch_execute(TABLE).await.unwrap();
    let report = setup::remove(&mut database.client, &config).await.unwrap();
    assert!(report.notes().count() > 0);
    database.client.batch_execute("select auth.uid(); set role authenticated; reset role").await.unwrap();
    let sql = "select count(*) from pg_publication_tables where pubname = 'supabase_realtime'";
    assert_eq!(database.client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 1);
    assert!(
        database
            .client
            .query_one("select to_regnamespace('walcast')::text", &[])
            .await
            .unwrap()
            .get::<_, Option<String>>(0)
            .is_none()
    );
}

#[tokio::test]
async fn remove_leaves_a_table_that_has_taken_the_name_of_what_setup_made() {
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    let config = config(&cluster);
    let created = "select created from walcast.installation";
    let made = async |client: &Client| {
        let created: Vec<String> = client.query_one(created, &[]).await.unwrap().get(0);
        created.into_iter().filter(|what| what.starts_with("realtime.messages")).collect::<Vec<_>>()
    };
    set_up(&mut database, &config).await;
    let once = made(&database.client).await;
    set_up(&mut database, &config).await;
    assert_eq!((made(&database.client).await, once.len()), (once, 1));
    // As a dump that is restored has it.
    let elsewhere = "update walcast.installation set system_identifier = '1'";
    database.client.batch_execute(elsewhere).await.unwrap();
    set_up(&mut database, &config).await;
    assert_eq!(made(&database.client).await, ["realtime.messages"]);
    let report = setup::remove(&mut database.client, &config).await.unwrap();
    assert!(report.notes().any(|note| note.contains("drop table realtime.messages;")), "{report}");
    set_up(&mut database, &config).await;
    assert_eq!(made(&database.client).await, Vec::<String>::new(), "nobody has noted that it was made");

    // Made again by setup, it is setup's; made by somebody else, it is not, whatever setup does with it later.
    database.client.batch_execute("drop table realtime.messages").await.unwrap();
    set_up(&mut database, &config).await;
    let theirs = "drop table realtime.messages; create table realtime.messages (topic text, extension text, payload jsonb,
        event text, private boolean, inserted_at timestamp default now(), id uuid primary key default gen_random_uuid());
        insert into realtime.messages (topic) values ('theirs')";
    database.client.batch_execute(theirs).await.unwrap();
    let row_security = "select relrowsecurity from pg_class where oid = 'realtime.messages'::regclass";
    for removes_at_once in [true, false] {
        if !removes_at_once {
            set_up(&mut database, &config).await;
            assert_eq!(made(&database.client).await, Vec::<String>::new());
            assert!(!database.client.query_one(row_security, &[]).await.unwrap().get::<_, bool>(0));
        }
        let report = setup::remove(&mut database.client, &config).await.unwrap();
        let stays = report.notes().any(|note| note.contains("drop table realtime.messages;"));
        assert_eq!(stays, removes_at_once, "{report}");
        assert_eq!(database.client.query("table realtime.messages", &[]).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn the_dry_run_is_a_script_that_does_the_same_and_shows_no_password() {
    let cluster = cluster();
    let database = Database::create_in(&cluster).await;
    let config = config(&cluster);
    let facts = Facts::read(&database.client, &config).await.unwrap();
    let secrets = Secrets::generate();
    let script = setup::script(&setup::plan(&facts, &config, &secrets));
    assert!(!script.contains(&secrets.stream) && !script.contains(&secrets.oracle));
    assert!(!script.contains("SCRAM-SHA-256"));
    database.client.batch_execute(&script).await.unwrap();
    assert!(newest(&database.client).await.1.is_some());
}

#[tokio::test]
async fn the_stream_may_have_the_server_look_where_it_can_be_asked() {
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    let config = config(&cluster);
    let script = async |client: &Client| {
        let facts = Facts::read(client, &config).await.unwrap();
        setup::script(&setup::plan(&facts, &config, &Secrets::generate()))
    };
    let look = "select pg_log_standby_snapshot()";
    if database.client.query("select where to_regproc('pg_log_standby_snapshot') is null", &[]).await.unwrap().len()
        == 1
    {
        assert!(!script(&database.client).await.contains("standby_snapshot"));
    }
    database.client.batch_execute(STANDBY_SNAPSHOT).await.unwrap();
    assert!(script(&database.client).await.contains("grant execute on function pg_catalog.pg_log_standby_snapshot()"));
    let report = set_up(&mut database, &config).await;
    let stream = connect(report.url.as_deref().unwrap()).await;
    stream.query(look, &[]).await.unwrap();
    assert!(!script(&database.client).await.contains("grant execute on function pg_catalog.pg_log"), "it is done");
    drop(stream);
    setup::remove(&mut database.client, &config).await.unwrap();

    // A login that was there, and may have had it: what setup granted is taken back, and nothing else.
    database.client.batch_execute("create role walcast login replication bypassrls").await.unwrap();
    for had in [false, true] {
        if had {
            database
                .client
                .batch_execute("grant execute on function pg_log_standby_snapshot() to walcast")
                .await
                .unwrap();
        }
        for _ in 0..2 {
            set_up(&mut database, &config).await;
        }
        let may = "select has_function_privilege('walcast', 'pg_log_standby_snapshot()', 'execute')";
        assert!(database.client.query_one(may, &[]).await.unwrap().get::<_, bool>(0));
        let report = setup::remove(&mut database.client, &config).await.unwrap();
        assert_eq!(report.notes().count(), 0, "{report}");
        assert_eq!(database.client.query_one(may, &[]).await.unwrap().get::<_, bool>(0), had);
    }
}

#[tokio::test]
async fn an_owner_who_is_no_superuser_gets_what_is_possible_and_is_told_the_rest() {
    let cluster = cluster();
    let admin = Database::create_in(&cluster).await;
    let sql = format!("create role boss login createrole; alter database {} owner to boss", admin.name);
    admin.client.batch_execute(&sql).await.unwrap();
    let mut client = connect(&cluster.url("boss", &admin.name)).await;
    let report = setup::run(&mut client, &config(&cluster)).await.expect("setup without a superuser");
    let notes: Vec<&str> = report.notes().collect();
    assert!(notes.iter().any(|note| note.contains("Event triggers need a superuser")), "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("alter role \"walcast\" replication bypassrls;")), "{notes:?}");
    assert!(
        report.steps.iter().any(|(title, outcome)| title.contains("log that carries") && *outcome == Outcome::Done)
    );
    assert!(newest(&client).await.1.is_some(), "the base state");
    // The superuser's turn.
    let mut admin = admin;
    let again = setup::run(&mut admin.client, &config(&cluster)).await.unwrap();
    assert_eq!(again.notes().count(), 0, "{again}");
    assert!(again.url.unwrap().contains(":PASSWORD@"));
}

/// What setup runs in the schema, it would run for its owner.
#[tokio::test]
async fn a_schema_that_a_stranger_made_is_not_touched() {
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    let sql = format!(
        "create role mallory; grant create on database {} to mallory; set role mallory; create schema walcast;
         create function walcast.pwn() returns text language plpgsql as
           'begin create role pwned superuser; return 1; end';
         create view walcast.oracle_login as select walcast.pwn() as login, '' as password;
         create view walcast.installation as select array[walcast.pwn()] as created; reset role",
        database.name
    );
    database.client.batch_execute(&sql).await.unwrap();
    let error = setup::run(&mut database.client, &config(&cluster)).await.expect_err("a stranger's").to_string();
    assert!(error.contains("the schema walcast belongs to mallory"), "{error}");
    assert!(setup::remove(&mut database.client, &config(&cluster)).await.is_err());
    assert_eq!(setup::oracle_login(&database.client).await.unwrap(), None);
    let pwned = "select exists (select from pg_roles where rolname = 'pwned')";
    assert!(!database.client.query_one(pwned, &[]).await.unwrap().get::<_, bool>(0));
    database.client.batch_execute("drop schema walcast cascade").await.unwrap();
    set_up(&mut database, &config(&cluster)).await;
}

/// What Supabase's own server has installed by its migrations, as far as walcast has to do with it.
const SUPABASE: &str = "
    create role supabase_realtime_admin noinherit nologin; create role anon; create role authenticated; create role service_role;
    create schema realtime; grant all on schema realtime to supabase_realtime_admin;
    create table realtime.messages (topic text not null, extension text not null, payload jsonb, event text,
        private boolean default false, updated_at timestamp not null default now(),
        inserted_at timestamp not null default now(), id uuid not null default gen_random_uuid(),
        primary key (id, inserted_at)) partition by range (inserted_at);
    alter table realtime.messages owner to supabase_realtime_admin; alter table realtime.messages enable row level security;
    create table realtime.messages_2020_01_01 partition of realtime.messages for values from ('2020-01-01') to ('2020-01-02');
    create function realtime.topic() returns text language sql stable as 'select 1::text';
    create function realtime.send(payload jsonb, event text, topic text, private boolean default true) returns void
        language sql as $$ insert into realtime.messages (payload, event, topic, private, extension)
        values (payload, event, topic, private, 'theirs') $$;
    create publication supabase_realtime_messages_publication for table realtime.messages;";

#[tokio::test]
async fn what_supabase_installed_stays_as_it_is_and_is_worked_with() {
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    database.client.batch_execute(SUPABASE).await.unwrap();
    let theirs = "select array_agg(what order by what) from (
        select f.oid::regprocedure || f.prosrc || f.proowner from pg_proc f where pronamespace = 'realtime'::regnamespace
        union all select a.attname || c.relowner || coalesce(c.relacl::text, '') from pg_attribute a join pg_class c on c.oid = a.attrelid
        where c.oid = 'realtime.messages'::regclass
        union all select pubname || pubowner from pg_publication where pubname ~ 'messages') i(what)";
    let list = async |client: &Client| client.query_one(theirs, &[]).await.unwrap().get::<_, Vec<String>>(0);
    let before = list(&database.client).await;
    let report = set_up(&mut database, &config(&cluster)).await;
    let mut station = crate::support::station::Station::start(&database.url, None).await;
    station.until_carried(true).await;
    database.client.batch_execute("select realtime.send('{}', 'theirs', 'a')").await.unwrap();
    assert_eq!(station.next().await.event, "theirs");
    station.finish().await;
    let partitions = "select array_agg(distinct pg_get_userbyid(relowner)::text), count(*) from pg_inherits
        join pg_class on oid = inhrelid where inhparent = 'realtime.messages'::regclass";
    let row = database.client.query_one(partitions, &[]).await.unwrap();
    assert_eq!(row.get::<_, Vec<String>>(0), ["supabase_realtime_admin"]);
    assert_eq!(row.get::<_, i64>(1), 5, "of five days; the old one is gone");
    let stream = connect(report.url.as_deref().unwrap()).await;
    assert_eq!(stream.query("select topic from realtime.messages", &[]).await.unwrap().len(), 1);
    drop(stream);

    let removed = setup::remove(&mut database.client, &config(&cluster)).await.unwrap();
    assert_eq!(removed.notes().count(), 0, "{removed}");
    let mut after = list(&database.client).await;
    // The table's grants are explicit once something was granted and taken back.
    after.iter_mut().for_each(|what| *what = what.split('{').next().unwrap().to_owned());
    assert_eq!(after, before);
}

#[tokio::test]
async fn whoever_owns_the_messages_runs_nothing_with_the_rights_of_who_ran_setup() {
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    database.client.batch_execute(SUPABASE).await.unwrap();
    let report = set_up(&mut database, &config(&cluster)).await;
    let stream = connect(report.url.as_deref().unwrap()).await;
    // Constant, so computed whenever a partition is made.
    let sql = "create role mallory login in role supabase_realtime_admin;
        set role supabase_realtime_admin;
        create function realtime.rise() returns int language plpgsql as $$ begin
            if current_user <> 'supabase_realtime_admin' then alter role mallory superuser; end if; return 1; end $$;
        create function realtime.one(int) returns int immutable language plpgsql as $$
            declare n int; begin select realtime.rise() into n; return n; end $$;
        create domain realtime.word as text check (realtime.one(1) = 1);
        create table realtime.ids (id uuid primary key);
        create index on realtime.ids ((id::text || realtime.one(1)));
        reset role";
    database.client.batch_execute(sql).await.unwrap();
    let last_day = "do $$ begin execute format('drop table realtime.%I',
        to_char(timezone('utc', now())::date + 3, '\"messages_\"YYYY_MM_DD')); end $$";
    let keep = async || {
        let row = stream.query_one("select created, problem from walcast.keep_messages()", &[]).await.unwrap();
        (row.get::<_, i32>(0), row.get::<_, Option<String>>(1).unwrap_or_default())
    };
    database.client.batch_execute(last_day).await.unwrap();
    for (made, undone) in [
        ("add constraint c check (realtime.one(1) = 1)", "drop constraint c"),
        ("add constraint c check (topic <> 'x'::realtime.word)", "drop constraint c"),
        ("add constraint c foreign key (id) references realtime.ids", "drop constraint c"),
        ("add column w realtime.word", "drop column w"),
    ] {
        let alter =
            |what| format!("set role supabase_realtime_admin; alter table realtime.messages {what}; reset role");
        database.client.batch_execute(&alter(made)).await.unwrap();
        let (created, problem) = keep().await;
        assert!(created == 0 && problem.contains("supabase_realtime_admin has to make it"), "{made}: {problem}");
        database.client.batch_execute(&alter(undone)).await.unwrap();
    }
    let sql = "set role supabase_realtime_admin; create index i on realtime.messages ((topic || realtime.one(1))); reset role";
    database.client.batch_execute(sql).await.unwrap();
    assert_eq!(keep().await.0, 0);
    database.client.batch_execute("drop index realtime.i").await.unwrap();
    assert_eq!(keep().await, (1, String::new()), "of what Postgres brings, it is made again");
    let risen = "select rolsuper from pg_roles where rolname = 'mallory'";
    assert!(!database.client.query_one(risen, &[]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test]
async fn partitions_are_kept_and_what_others_made_is_left_alone() {
    let cluster = cluster();
    let mut database = Database::create_in(&cluster).await;
    let report = set_up(&mut database, &config(&cluster)).await;
    let stream = connect(report.url.as_deref().unwrap()).await;
    let keep = async |retention: &str| {
        let sql = format!("select created, dropped, problem from walcast.keep_messages({retention})");
        let row = stream.query_one(&sql, &[]).await.unwrap();
        (row.get::<_, i32>(0), row.get::<_, i32>(1), row.get::<_, Option<String>>(2))
    };
    let log = async || {
        let sql = "select count(*) from walcast.ddl_log";
        database.client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0)
    };
    let before = log().await;
    assert_eq!(keep("").await, (0, 0, None));
    assert_eq!(keep("'-1 year'").await, (0, 0, None), "what would be made again is not dropped");
    assert_eq!(log().await, before, "with nothing to do there is no DDL");

    let sql = "create table realtime.messages_2020_01_01 partition of realtime.messages for values from ('2020-01-01') to ('2020-01-02');
        create table realtime.mine partition of realtime.messages for values from ('2020-01-02') to ('2020-01-03');
        create table realtime.others partition of realtime.messages default;
        do $$ declare day date := timezone('utc', now())::date + 2; begin
            execute format('drop table realtime.%I', to_char(day, '\"messages_\"YYYY_MM_DD'));
            execute format('drop table realtime.%I', to_char(day + 1, '\"messages_\"YYYY_MM_DD'));
            execute format('create table realtime.two_days partition of realtime.messages for values from (%L) to (%L)', day, day + 1);
        end $$";
    database.client.batch_execute(sql).await.unwrap();
    assert_eq!(keep("'3 days'").await, (1, 1, None));
    // Rows of a day that the default partition took are its own, and the rest goes on.
    let sql = "do $$ declare day date := timezone('utc', now())::date; begin
            execute format('drop table realtime.%I', to_char(day + 1, '\"messages_\"YYYY_MM_DD'));
            execute format('drop table realtime.%I', to_char(day + 3, '\"messages_\"YYYY_MM_DD'));
            insert into realtime.messages (topic, extension, inserted_at) values ('a', 'b', day + 1.5 * interval '1 day');
        end $$";
    database.client.batch_execute(sql).await.unwrap();
    let (created, dropped, problem) = keep("'3 days'").await;
    assert_eq!((created, dropped), (1, 0));
    assert!(problem.unwrap().contains("was not made"));
    database.client.batch_execute("select from realtime.mine, realtime.others, realtime.two_days").await.unwrap();
    // Nobody waits for long.
    let mut other = connect(&cluster.url("postgres", &database.name)).await;
    let transaction = other.transaction().await.unwrap();
    let sql = "delete from realtime.others;
        create table realtime.messages_2020_01_01 partition of realtime.messages for values from ('2020-01-01') to ('2020-01-02')";
    database.client.batch_execute(sql).await.unwrap();
    transaction.batch_execute("insert into realtime.messages (topic, extension) values ('a', 'b')").await.unwrap();
    let (_, dropped, problem) = keep("'3 days'").await;
    assert_eq!(dropped, 0);
    assert!(problem.unwrap().contains("lock timeout"));
    transaction.commit().await.unwrap();
    assert_eq!(keep("'3 days'").await.1, 1);
}
