//! Setup puts the tables that policies read into walcast's own publication, and check says what it could not. Roles are
//! global: each test has a cluster of its own.

use walcast::catalog::{Catalog, Followed, Roles, State};
use walcast::check::{self, Level};
use walcast::demo::postgres::{Cluster, ClusterOptions};
use walcast::setup::{self, Config, Outcome, Report};
use walcast::wal::Conninfo;

use crate::support::database::{Database, connect};

struct House {
    cluster: Cluster,
    database: Database,
    config: Config,
    /// The stream's login.
    url: String,
}

const TABLES: &str = "
    create schema private;
    create table messages (id int primary key, room int, owner uuid); alter table messages enable row level security;
    create table members (room int, person uuid, primary key (room, person)); alter table members enable row level security;
    create table people (id uuid primary key);
    create table private.teams (id int primary key) partition by range (id);
    create table private.team_1 partition of private.teams for values from (0) to (10);
    create table unread (id int primary key);
    create function in_team() returns boolean language sql stable security definer set search_path = '' as
        'select exists (select from private.teams)';
    grant usage on schema private to authenticated;
    create policy a on messages for select to authenticated using (exists (
        select from members m where m.room = messages.room));
    create policy b on members using (person in (select id from people) and in_team());
    grant select on messages to authenticated;
    alter publication supabase_realtime add table messages";

impl House {
    async fn new(sql: &str) -> House {
        let cluster = Cluster::start(&ClusterOptions::default()).expect("a throw-away Postgres");
        let database = Database::create_in(&cluster).await;
        let config = Config {
            with_auth: true,
            authority: format!("127.0.0.1:{}", cluster.port()),
            conninfo: Some(Conninfo::parse(&database.url).unwrap()),
            ..Config::default()
        };
        let mut house = House { cluster, database, config, url: String::new() };
        house.url = house.set_up().await.url.unwrap();
        house.sql(sql).await;
        house
    }

    async fn set_up(&mut self) -> Report {
        setup::run(&mut self.database.client, &self.config).await.expect("setup")
    }

    async fn sql(&self, sql: &str) {
        self.database.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    async fn own(&self) -> Vec<String> {
        let sql = "select coalesce(array_agg(r.prrelid::regclass::text order by 1), '{}') from pg_publication_rel r
            join pg_publication p on p.oid = r.prpubid where p.pubname = 'walcast' and r.prrelid::regclass::text not in ('walcast.ddl_log', 'realtime.messages')";
        let mut own: Vec<String> = self.database.client.query_one(sql, &[]).await.unwrap().get(0);
        own.sort_unstable();
        own
    }

    async fn check(&self) -> check::Report {
        check::run(&Conninfo::parse(&self.url).unwrap(), &check::Config::default()).await
    }
}

fn notes(report: &Report) -> Vec<&str> {
    report.notes().collect()
}

#[tokio::test]
async fn setup_follows_what_policies_read_and_lets_go_of_what_they_do_not() {
    let mut house = House::new(TABLES).await;
    assert!(house.own().await.is_empty());
    let report = house.check().await;
    for table in ["members", "people", "teams"] {
        let finding =
            report.findings.iter().find(|f| f.level == Level::Warn && f.what.contains(&format!("\"{table}\"")));
        let finding = finding.unwrap_or_else(|| panic!("nothing about {table}: {report}"));
        assert!(finding.statement.as_deref().unwrap().starts_with("walcast setup"), "{finding:?}");
    }

    let report = house.set_up().await;
    assert_eq!(notes(&report), Vec::<&str>::new(), "{report}");
    assert_eq!(house.own().await, ["members", "people", "private.teams"]);
    let stream = connect(&house.url).await;
    stream.batch_execute("select from members; select from people; select from private.teams").await.unwrap();
    let report = house.check().await;
    for table in ["members", "people", "teams"] {
        let what = format!("\"{table}\", which policies read");
        assert!(report.findings.iter().any(|f| f.level == Level::Pass && f.what.contains(&what)), "{report}");
    }

    // A relay that streams reads it in the log, at its place.
    let sql = "select state from walcast.ddl_log where state is not null order by id desc limit 1";
    let state: String = house.database.client.query_one(sql, &[]).await.unwrap().get(0);
    let catalog = Catalog::from_state(State::parse(&state).unwrap(), Roles::default().into(), 0).unwrap();
    let members = catalog.referenced.values().find(|relation| relation.name == "members").unwrap();
    assert_eq!(members.followed, Followed::Whole);

    // Again: nothing to do. A new policy: one more; a policy gone: fewer, with all that only it led to.
    let done = house.set_up().await;
    assert!(!done.steps.iter().any(|(title, _)| title.contains("polic") && title.contains("\"")), "{done}");
    house.sql("create policy c on messages using (exists (select from unread))").await;
    assert_eq!(notes(&house.set_up().await), Vec::<&str>::new());
    assert_eq!(house.own().await, ["members", "people", "private.teams", "unread"]);
    house.sql("drop policy a on messages").await;
    assert_eq!(notes(&house.set_up().await), Vec::<&str>::new());
    assert_eq!(house.own().await, ["unread"]);

    house.config.track = false;
    house.sql("drop policy c on messages").await;
    house.set_up().await;
    assert_eq!(house.own().await, ["unread"], "--no-track leaves it as it is");
    let report = setup::remove(&mut house.database.client, &house.config).await.unwrap();
    assert!(!notes(&report).iter().any(|note| note.contains("walcast")), "{report}");
}

#[tokio::test]
async fn what_would_break_the_application_is_left_alone_and_named() {
    let mut house = House::new(
        "create table messages (id int primary key); alter table messages enable row level security;
         create table no_key (id int); create unlogged table unlogged (id int primary key);
         create table nothing (id int primary key); alter table nothing replica identity nothing;
         create table parent (id int primary key); create table child () inherits (parent);
         create table yours (id int primary key); create view seen as select 1 as id;
         create table root (id int primary key) partition by range (id);
         create table leaf partition of root for values from (0) to (10);
         create table own_leaf partition of root for values from (10) to (20);
         create table tree (id int primary key) partition by range (id);
         create table branch partition of tree for values from (0) to (10);
         create policy p on messages using (exists (select from no_key) and exists (select from unlogged)
            and exists (select from nothing) and exists (select from parent) and exists (select from yours)
            and exists (select from seen) and exists (select from root) and exists (select from tree));
         alter publication supabase_realtime add table messages, yours, leaf",
    )
    .await;
    let report = house.set_up().await;
    assert_eq!(house.own().await, ["tree"], "{report}");
    let expected = [
        ("no_key", "add primary key"),
        ("nothing", "replica identity default"),
        ("unlogged", "set logged"),
        ("parent", "other tables inherit"),
        ("seen", "it is no table"),
        ("root", "add table \"public\".\"root\""),
    ];
    let checked = house.check().await;
    for (table, words) in expected {
        let start = format!("\"public\".\"{table}\", which policies read");
        let left = report.steps.iter().find(|(title, _)| title.starts_with(&start));
        let Some((_, Outcome::Left(note))) = left else { panic!("nothing about {table}: {report}") };
        assert!(note.contains(words), "{note}");
        let found = checked.findings.iter().find(|f| f.level == Level::Warn && f.what.contains(&start));
        let found = found.unwrap_or_else(|| panic!("nothing about {table}: {checked}"));
        assert!(format!("{found:?}").replace('\\', "").contains(words), "{found:?}");
    }
    assert_eq!(notes(&report).len(), expected.len(), "{report}");

    // Each partition counts, wherever it is published: the event trigger sees it.
    house.sql("alter publication supabase_realtime add table branch").await;
    assert!(house.own().await.is_empty());
    let version: String = house.database.client.query_one("show server_version_num", &[]).await.unwrap().get(0);
    if version.parse::<u32>().unwrap() >= 150_000 {
        house
            .sql(
                "create schema other; alter publication supabase_realtime drop table branch;
                 alter publication walcast add table tree; alter publication supabase_realtime add tables in schema other",
            )
            .await;
        assert_eq!(house.own().await, ["tree"]);
        house.sql("create table other.twig partition of tree for values from (10) to (20)").await;
        assert!(house.own().await.is_empty());
    }
    if version.parse::<u32>().unwrap() >= 180_000 {
        house
            .sql(
                "create table made (id int primary key, twice int generated always as (id * 2) stored);
                 alter table made replica identity full; create policy q on messages using (exists (select from made))",
            )
            .await;
        let report = house.set_up().await;
        assert!(notes(&report).iter().any(|note| note.contains("generated columns")), "{report}");
        house.sql("alter table made replica identity default").await;
        house.set_up().await;
        assert_eq!(house.own().await, ["made"]);
        house.sql("insert into made (id) values (1); update made set id = 2; delete from made").await;
    }
}

#[tokio::test]
async fn without_ownership_the_owner_is_told_the_command() {
    let mut house = House::new(TABLES).await;
    let sql = "create role boss login createrole; create role else_owner; alter table people owner to else_owner;
        alter publication walcast owner to boss; grant create on database db to boss";
    let sql = sql.replace(" db ", &format!(" {} ", house.database.name));
    house.sql(&sql).await;
    house.sql("grant usage on schema walcast to boss; grant all on all tables in schema walcast to boss").await;
    house.sql("alter table members owner to boss").await;
    let mut client = connect(&house.cluster.url("boss", &house.database.name)).await;
    let tracking = setup::track(&mut client, &house.config).await.unwrap();
    let script = setup::script(&tracking.steps);
    assert!(script.contains("alter publication walcast add table \"public\".\"people\";"), "{script}");
    // The owner's turn; a publication that is somebody's who cannot become the database's owner would not be touched.
    house.sql("alter publication walcast owner to current_user").await;
    assert_eq!(notes(&house.set_up().await), Vec::<&str>::new());
    assert_eq!(house.own().await, ["members", "people", "private.teams"]);
}
