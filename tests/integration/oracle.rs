//! The oracle against a real Postgres: each trap of evaluating other people's policies is a test.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};
use tokio::sync::oneshot::error::TryRecvError;
use tokio_postgres::CancelToken;
use walcast::authz::oracle::{Connect, ConnectError, Connected, PlainConnect};
use walcast::authz::{
    Answer, Asked, CastFailure, Identity, Oracle, OracleConfig, OracleError, Question, Verdict, row_text,
};
use walcast::routing::CastRequest;
use walcast::wal::pgoutput::Tuple;

use crate::support::database::connect;
use crate::support::policies::{Ground, Table, cluster, identity, oracle_by, oracle_of, plainly};
use crate::support::relay::pause_between_polls;
use crate::support::scene::until;

use Verdict::{Allowed, Denied, Failed};

const ANN: &str = "00000000-0000-0000-0000-00000000000a";
const BOB: &str = "00000000-0000-0000-0000-00000000000b";

const NOTES: &str = "
create table notes(id int primary key, author uuid, body text);
alter table notes enable row level security;
create policy own on notes using (author = (select auth.uid()));
insert into notes select n, ('00000000-0000-0000-0000-00000000000' || case n % 3 when 0 then 'a' else 'b' end)::uuid,
  'note ' || n from generate_series(1, 300) n;
";

fn user(id: &str) -> Identity {
    identity("authenticated", &format!(r#"{{"role":"authenticated","sub":"{id}"}}"#))
}

fn expected(who: &str, rows: u32) -> Vec<Verdict> {
    (1..=rows).map(|n| if (n % 3 == 0) == (who == ANN) { Allowed } else { Denied }).collect()
}

/// A question with nothing but a policy of the test's own.
async fn judged(policy: &str) -> Result<Vec<Verdict>, OracleError> {
    let ground = Ground::new(&format!(
        "create table t(id int primary key, body text); alter table t enable row level security;
         insert into t values (1, 'one'), (2, null), (3, 'three'); {policy}"
    ))
    .await;
    ground.judge(&ground.table("t").await, &user(ANN)).await
}

fn one_session() -> OracleConfig {
    OracleConfig { sessions: 1, slow_sessions: 1, ..OracleConfig::default() }
}

fn question(table: &Table, who: &Identity) -> Question {
    table.question(who, table.texts()).expect("an oracle plan")
}

#[tokio::test]
async fn answers_come_in_the_order_of_the_rows() {
    let ground = Ground::new(NOTES).await;
    let table = ground.table("notes").await;
    assert_eq!(ground.judge(&table, &user(ANN)).await.unwrap(), expected(ANN, 300));
}

#[tokio::test]
async fn identities_asked_at_once_get_their_own_answers() {
    let ground = Ground::new(NOTES).await;
    let table = ground.table("notes").await;
    let users = [ANN, BOB].into_iter().cycle().take(200);
    let asked = join_all(users.map(|id| ground.judge(&table, Box::leak(Box::new(user(id)))))).await;
    for (n, answer) in asked.into_iter().enumerate() {
        assert_eq!(answer.unwrap(), expected([ANN, BOB][n % 2], 300), "{n}");
    }
}

#[tokio::test]
async fn null_is_a_no() {
    let verdicts = judged("create policy p on t using (body <> 'one')").await.unwrap();
    assert_eq!(verdicts, [Denied, Denied, Allowed]);
}

#[tokio::test]
async fn a_row_that_raises_an_error_is_denied_alone() {
    let verdicts = judged("create policy p on t using (1 / (id - 2) <> 0)").await.unwrap();
    assert_eq!(verdicts, [Allowed, Failed, Allowed]);
}

#[tokio::test]
async fn an_exception_with_any_code_is_only_a_failed_row() {
    for code in ["P0001", "57P01", "57014", "40001", "08006", "53300", "XX000"] {
        let verdicts = judged(&format!(
            "create function f(n int) returns bool language plpgsql as $$ begin
               if n = 2 then raise exception using errcode = '{code}'; end if; return true; end $$;
             create policy p on t using (f(id))"
        ))
        .await;
        assert_eq!(verdicts, Ok(vec![Allowed, Failed, Allowed]), "{code}");
    }
}

#[tokio::test]
async fn what_a_policy_sets_for_the_session_does_not_survive() {
    let evil = format!(
        "create function evil() returns bool language plpgsql as $$ begin
           perform set_config('request.jwt.claims', '{{\"sub\":\"{BOB}\"}}', false);
           perform set_config('role', 'none', false);
           perform set_config('search_path', 'nowhere', false);
           perform set_config('statement_timeout', '1', false);
           return true; end $$;
         create table e(id int primary key); alter table e enable row level security;
         create policy p on e using (evil()); insert into e values (1);"
    );
    let ground = Ground::with(&format!("{NOTES}{evil}"), one_session()).await;
    let (notes, evil) = (ground.table("notes").await, ground.table("e").await);
    for _ in 0..3 {
        assert_eq!(ground.judge(&evil, &user(ANN)).await.unwrap(), [Allowed]);
        assert_eq!(ground.judge(&notes, &user(ANN)).await.unwrap(), expected(ANN, 300));
    }
    // Nor where they are in flight together.
    let (a, b) = (user(ANN), user(ANN));
    let (first, second) = tokio::join!(ground.judge(&evil, &a), ground.judge(&notes, &b));
    assert_eq!((first.unwrap(), second.unwrap()), (vec![Allowed], expected(ANN, 300)));
}

#[tokio::test]
async fn stepping_out_of_the_role_gains_nothing() {
    let ground = Ground::new(
        "create table secrets(id int); insert into secrets values (1);
         create function escape() returns bool language plpgsql as $$ begin
           perform set_config('role', 'none', true);
           return exists (select from secrets); end $$;
         create function write() returns bool language plpgsql as $$ begin
           perform set_config('transaction_read_only', 'off', true);
           insert into t values (9); return true; end $$;
         create table t(id int primary key); alter table t enable row level security; insert into t values (1);
         create policy p on t using (escape()); grant all on t to authenticated;
         create table w(id int primary key); alter table w enable row level security; insert into w values (1);
         create policy p on w using (write());",
    )
    .await;
    ground.execute("revoke all on secrets from anon, authenticated, owner").await;
    assert_eq!(ground.judge(&ground.table("t").await, &user(ANN)).await.unwrap(), [Failed]);
    assert_eq!(ground.judge(&ground.table("w").await, &user(ANN)).await.unwrap(), [Failed]);
}

/// What was granted, or made, in the transaction that the row is from.
#[tokio::test]
async fn an_error_of_before_the_transaction_was_visible_is_no_answer() {
    let is_one = "create function is_one(r int) returns bool stable language plpgsql as 'begin return r = 1; end'";
    let ground = Ground::with(
        &format!(
            "create table members(room int, who uuid); insert into members values (1, '{ANN}'); {is_one};
             create table rooms(id int primary key); alter table rooms enable row level security;
             create policy m on rooms using (exists (select from members where room = rooms.id and who = auth.uid()));
             create function calls_one(r int) returns bool stable language plpgsql as 'begin return is_one(r); end';
             create table halls(id int primary key); alter table halls enable row level security;
             create policy one on halls using (calls_one(id)); insert into rooms values (1); insert into halls values (1)"
        ),
        one_session(),
    )
    .await;
    let (rooms, halls) = (ground.table("rooms").await, ground.table("halls").await);
    ground.execute("revoke select on members from authenticated; drop function is_one").await;
    let writer = connect(&ground.database.url).await;
    for (table, sql) in [(&rooms, "grant select on members to authenticated"), (&halls, is_one)] {
        writer.batch_execute(&format!("begin; {sql}")).await.unwrap();
        let row = writer.query_one("select pg_current_xact_id()::xid::text", &[]).await.unwrap();
        let xid: u32 = row.get::<_, &str>(0).parse().unwrap();
        let waits = ground.metrics.visibility_waits.get();
        let mut answer = ground.oracle.ask(Question { xid: Some(xid), ..question(table, &user(ANN)) });
        while ground.metrics.visibility_waits.get() == waits {
            assert!(matches!(answer.try_recv(), Err(TryRecvError::Empty)), "{sql}");
            pause_between_polls().await;
        }
        writer.batch_execute("commit").await.unwrap();
        assert_eq!(answer.await.unwrap(), Ok(Answer::Verdicts(vec![Allowed])), "{sql}");
    }
}

#[tokio::test]
async fn a_question_waits_until_its_transaction_is_visible_and_holds_up_nobody() {
    let ground = Ground::with(
        &format!(
            "{NOTES} create table rooms(id int primary key); create table members(room int, who uuid);
             alter table rooms enable row level security; insert into rooms values (1);
             create policy m on rooms using (exists (select from members where room = rooms.id and who = auth.uid()))"
        ),
        one_session(),
    )
    .await;
    let (rooms, notes) = (ground.table("rooms").await, ground.table("notes").await);
    // What the stream may already have sent: committed for it, still running for everybody else.
    let writer = connect(&ground.database.url).await;
    writer.batch_execute("begin").await.unwrap();
    writer.execute(&format!("insert into members values (1, '{ANN}')"), &[]).await.unwrap();
    let row = writer.query_one("select pg_current_xact_id()::xid::text", &[]).await.unwrap();
    let xid: u32 = row.get::<_, &str>(0).parse().unwrap();

    let mut answer = ground.oracle.ask(Question { xid: Some(xid), ..question(&rooms, &user(ANN)) });
    // There is one session only: had the question kept it, these would not be answered.
    for _ in 0..3 {
        assert_eq!(ground.judge(&notes, &user(BOB)).await.unwrap(), expected(BOB, 300));
    }
    assert!(matches!(answer.try_recv(), Err(TryRecvError::Empty)));
    assert!(ground.metrics.visibility_waits.get() > 0);
    writer.batch_execute("commit").await.unwrap();
    assert_eq!(answer.await.unwrap(), Ok(Answer::Verdicts(vec![Allowed])));
}

/// Counts the cancel requests that were sent.
struct CountsCancels {
    plainly: Arc<PlainConnect>,
    sent: Arc<AtomicUsize>,
}

impl Connect for CountsCancels {
    fn connect(&self) -> BoxFuture<'_, Result<Connected, ConnectError>> {
        self.plainly.connect()
    }

    fn cancel(&self, token: CancelToken) -> BoxFuture<'static, Result<(), ConnectError>> {
        let (cancel, sent) = (self.plainly.cancel(token), Arc::clone(&self.sent));
        Box::pin(async move { cancel.await.map(|()| _ = sent.fetch_add(1, Ordering::Relaxed)) })
    }
}

#[tokio::test]
async fn a_policy_that_sleeps_delays_its_own_table_only() {
    let config =
        OracleConfig { timeout: Duration::from_millis(1500), slow_after: Duration::from_millis(200), ..one_session() };
    let mut ground = Ground::new(&format!(
        "{NOTES} create table s(id int primary key); alter table s enable row level security;
         insert into s values (1); create policy p on s using (pg_sleep(3600) is not null)"
    ))
    .await;
    let connect = Arc::new(CountsCancels { plainly: plainly(&ground.database.name, "oracle"), sent: Arc::default() });
    let _sessions;
    (ground.oracle, ground.metrics, _sessions) = oracle_by(Arc::clone(&connect) as _, config);
    let (slow, notes) = (ground.table("s").await, ground.table("notes").await);
    let started = Instant::now();
    let mut sleeping: Vec<_> = (0..3).map(|_| ground.oracle.ask(question(&slow, &user(ANN)))).collect();
    // Behind the sleeper, on the one session for quick questions.
    for _ in 0..20 {
        assert_eq!(ground.judge(&notes, &user(ANN)).await.unwrap(), expected(ANN, 300));
    }
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
    assert!(matches!(sleeping[0].try_recv(), Err(TryRecvError::Empty)));
    for answer in sleeping {
        assert!(matches!(answer.await.unwrap(), Err(OracleError::Timeout(_))));
    }
    // Those that waited behind a silent policy are not given its whole deadline each.
    assert!(started.elapsed() < Duration::from_millis(4500), "{:?}", started.elapsed());
    // Each lane has cancelled what kept its session, and was not content with dropping the connection.
    assert!(connect.sent.load(Ordering::Relaxed) >= 2, "a sleeper was left behind");
    // A cancel is a message to a process: when that has heard of it nobody says.
    let awake =
        "select count(*) = 0 from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'";
    until(&ground.database.client, awake).await;
    assert_eq!(ground.judge(&notes, &user(ANN)).await.unwrap(), expected(ANN, 300));
}

#[tokio::test]
async fn a_policy_that_is_merely_slow_is_answered() {
    let config = OracleConfig { slow_after: Duration::from_millis(100), ..OracleConfig::default() };
    let ground = Ground::with(
        "create table s(id int primary key); alter table s enable row level security; insert into s values (1);
         create policy p on s using (pg_sleep(0.3) is not null)",
        config,
    )
    .await;
    let table = ground.table("s").await;
    for _ in 0..2 {
        assert_eq!(ground.judge(&table, &user(ANN)).await, Ok(vec![Allowed]));
    }
    assert_eq!(ground.metrics.slow_questions.get(), 1, "the second goes to the slow lane at once");
}

#[tokio::test]
async fn a_policy_that_ends_its_siblings_sessions_silences_nobody() {
    let ground = Ground::new(&format!(
        "{NOTES}
         create function murder() returns bool language plpgsql as $$ begin
           perform set_config('role', 'none', true);
           perform pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and usename = 'oracle' and pid <> pg_backend_pid();
           return true; end $$;
         create table m(id int primary key); alter table m enable row level security; insert into m values (1);
         create policy p on m using (murder())"
    ))
    .await;
    let (murderous, notes) = (ground.table("m").await, ground.table("notes").await);
    let _murder = ground.oracle.ask(question(&murderous, &user(ANN)));
    let asked = join_all((0..50).map(|_| ground.oracle.ask(question(&notes, &user(ANN))))).await;
    for answer in asked {
        assert_eq!(answer.unwrap(), Ok(Answer::Verdicts(expected(ANN, 300))));
    }
}

#[tokio::test]
async fn sessions_that_were_ended_are_opened_again() {
    let ground = Ground::new(NOTES).await;
    let notes = ground.table("notes").await;
    for _ in 0..3 {
        assert_eq!(ground.judge(&notes, &user(ANN)).await.unwrap(), expected(ANN, 300));
        let all = "select pg_terminate_backend(pid, 5000) from pg_stat_activity
                   where datname = current_database() and usename = 'oracle'";
        ground.database.client.query(all, &[]).await.unwrap();
    }
    assert_eq!(ground.judge(&notes, &user(ANN)).await.unwrap(), expected(ANN, 300));
}

#[tokio::test]
async fn a_powerful_login_is_refused_with_the_statement_that_mends_it() {
    let ground = Ground::new(NOTES).await;
    let notes = ground.table("notes").await;
    let roles = [
        ("super_o", "superuser login", r#"ALTER ROLE "super_o" NOSUPERUSER"#),
        ("bypass_o", "bypassrls login", r#"ALTER ROLE "bypass_o" NOBYPASSRLS"#),
        ("repl_o", "replication login", r#"ALTER ROLE "repl_o" NOREPLICATION"#),
        ("member_o", "login noinherit in role anon, service_role", r#"REVOKE "service_role" FROM "member_o""#),
        (
            "server_o",
            "login in role pg_execute_server_program",
            r#"REVOKE "pg_execute_server_program" FROM "server_o""#,
        ),
    ];
    for (login, options, statement) in roles {
        ground.execute(&format!("create role {login} {options}")).await;
        let (oracle, _, _sessions) = oracle_of(&ground.database.name, login, one_session());
        let answer = oracle.ask(question(&notes, &user(ANN))).await.unwrap();
        let Err(OracleError::Login(refusal)) = answer else { panic!("{login}: {answer:?}") };
        assert!(refusal.to_string().contains(statement), "{refusal}");
    }
}

#[tokio::test]
async fn a_login_whose_search_path_hides_the_built_ins_is_refused() {
    let ground = Ground::new(NOTES).await;
    ground.execute("create role path_o login; alter role path_o set search_path = public, pg_catalog").await;
    let (oracle, _, _sessions) = oracle_of(&ground.database.name, "path_o", one_session());
    let answer = oracle.ask(question(&ground.table("notes").await, &user(ANN))).await.unwrap();
    assert!(matches!(answer, Err(OracleError::Login(_))), "{answer:?}");
}

#[tokio::test]
async fn without_a_login_nothing_is_answered() {
    let ground = Ground::new(NOTES).await;
    let notes = ground.table("notes").await;
    let absent = Oracle::absent();
    assert_eq!(absent.ask(question(&notes, &user(ANN))).await.unwrap(), Err(OracleError::NoOracle));
    assert!(matches!(absent.cast("anon", &cast("pg_catalog.int4", "1")).await, Err(CastFailure::Unanswered(_))));
}

#[tokio::test]
async fn a_login_that_cannot_connect_denies_after_the_deadline() {
    let ground = Ground::new(NOTES).await;
    let config = OracleConfig { timeout: Duration::from_millis(300), ..one_session() };
    let (oracle, _, _sessions) = oracle_of(&ground.database.name, "no_such_login", config);
    let answer = oracle.ask(question(&ground.table("notes").await, &user(ANN))).await.unwrap();
    assert_eq!(answer, Err(OracleError::Unreachable));
}

#[tokio::test]
async fn a_role_that_the_login_may_not_take_on_is_an_error() {
    let ground = Ground::new(NOTES).await;
    let notes = ground.table("notes").await;
    let who = identity("nobody_of_ours", "{}");
    assert!(matches!(ground.judge(&notes, &who).await, Err(OracleError::Role { .. })));
    // And the session is none the worse for it.
    assert_eq!(ground.judge(&notes, &user(ANN)).await.unwrap(), expected(ANN, 300));
}

#[tokio::test]
async fn execute_is_checked_for_each_role() {
    let ground = Ground::with(
        "create function members_only() returns bool language sql stable as 'select true';
         revoke execute on function members_only() from public; grant execute on function members_only() to authenticated;
         create table t(id int primary key); alter table t enable row level security; insert into t values (1);
         create policy p on t using (members_only())",
        one_session(),
    )
    .await;
    let table = ground.table("t").await;
    for _ in 0..8 {
        assert_eq!(ground.judge(&table, &user(ANN)).await, Ok(vec![Allowed]));
        assert_ne!(ground.judge(&table, &identity("anon", "{}")).await, Ok(vec![Allowed]));
    }
    ground.execute("revoke execute on function members_only() from authenticated").await;
    assert_ne!(ground.judge(&table, &user(ANN)).await, Ok(vec![Allowed]));
}

#[tokio::test]
async fn a_helper_in_a_private_schema_needs_usage_for_the_login_only() {
    let ground = Ground::new(
        "create schema private; grant usage on schema private to oracle;
         create function private.ok() returns bool language sql stable security definer as 'select true';
         create table t(id int primary key); alter table t enable row level security; insert into t values (1);
         create policy p on t using ((select private.ok()))",
    )
    .await;
    let table = ground.table("t").await;
    for _ in 0..8 {
        assert_eq!(ground.judge(&table, &user(ANN)).await, Ok(vec![Allowed]));
    }
    // Every session's plan is void, and Postgres would make it anew as the role.
    ground.execute("alter function private.ok() cost 200").await;
    for _ in 0..8 {
        assert_eq!(ground.judge(&table, &user(ANN)).await, Ok(vec![Allowed]));
    }
    ground.execute("revoke usage on schema public from public").await;
    assert_ne!(ground.judge(&table, &user(BOB)).await, Ok(vec![Allowed]), "a real SELECT names the schema");
}

#[tokio::test]
async fn policies_see_the_logins_own_settings_and_filters_the_streams() {
    let ground = Ground::new(
        "create table t(id int primary key, at timestamptz); alter table t enable row level security;
         create policy p on t using (extract(hour from at) = 2 and current_setting('TimeZone') = 'Asia/Tokyo');
         insert into t values (1, '2026-01-01 17:00+00')",
    )
    .await;
    ground
        .execute(
            "create role tokyo login noinherit in role authenticated; alter role tokyo set timezone = 'Asia/Tokyo'",
        )
        .await;
    let (oracle, _, _sessions) = oracle_of(&ground.database.name, "tokyo", one_session());
    let table = ground.table("t").await;
    let answer = oracle.ask(question(&table, &user(ANN))).await.unwrap();
    assert_eq!(answer, Ok(Answer::Verdicts(vec![Allowed])));
    let filter = filter(&table, "at::pg_catalog.text = '2026-01-01 17:00:00+00'");
    assert_eq!(oracle.ask(filter).await.unwrap(), Ok(Answer::Verdicts(vec![Allowed])));
}

fn filter(table: &Table, expression: &str) -> Question {
    let asked = Asked::Filter { role: "authenticated".into(), expression: expression.into(), columns: None };
    Question { xid: None, relation: Arc::clone(&table.relation), asked, rows: table.texts() }
}

#[tokio::test]
async fn filters_are_asked_without_policies() {
    let ground = Ground::new(NOTES).await;
    let notes = ground.table("notes").await;
    let verdicts = ground.verdicts(filter(&notes, r#""notes"."body" ~ '^note 1.*0$'"#)).await.unwrap();
    let matching: Vec<usize> = (1..=300).filter(|n| verdicts[n - 1] == Allowed).collect();
    assert_eq!(matching, [10, 100, 110, 120, 130, 140, 150, 160, 170, 180, 190]);
}

async fn json(ground: &Ground, table: &Table, columns: &[&str]) -> Vec<Vec<Option<Box<str>>>> {
    let columns = columns.iter().map(|name| table.relation.column_named(name).expect("a column")).collect();
    let asked = Asked::Json { role: "authenticated".into(), columns };
    let question = Question { xid: None, relation: Arc::clone(&table.relation), asked, rows: table.texts() };
    match ground.oracle.ask(question).await.unwrap() {
        Ok(Answer::Json(json)) => json.into_iter().map(|row| row.expect("JSON of every row")).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn any_text_survives_the_way_through_a_literal() {
    let ground = Ground::new(
        r#"create type "Odd type" as ("a b" text, c text[]);
         create table "We ird""T"(id int primary key, gone int, "co,l(" text, odd "Odd type", many text[], "t" bytea);
         alter table "We ird""T" drop column gone;
         create domain dom as text; alter table "We ird""T" add column d dom, add column gone2 int;
         alter table "We ird""T" drop column gone2;
         alter table "We ird""T" enable row level security;"#,
    )
    .await;
    let nasty = [
        "",
        " ",
        "\"",
        "\\",
        "\\\\\"",
        "a,b",
        "(a)",
        "{a}",
        "NULL",
        "null",
        "\n\t\r",
        "é漢😀",
        "'",
        "a\"b\\c,{}()",
        "\\N",
        "$1",
        "\"\"",
        "{\"(\\\",\\\")\"}",
    ];
    for (n, text) in nasty.iter().enumerate() {
        let sql = r#"insert into "We ird""T" values ($1, $2, row($2, array[$2, null, $2])::"Odd type", array[$2, '', null], convert_to($2, 'UTF8'), $2)"#;
        ground.database.client.execute(sql, &[&(n as i32), text]).await.unwrap();
    }
    ground.execute(r#"insert into "We ird""T" values (99)"#).await;
    let table = ground.table("We ird\"T").await;
    let got = json(&ground, &table, &["co,l(", "odd", "many", "t", "d"]).await;
    let sql = r#"select to_jsonb("co,l(")::text, to_jsonb(odd)::text, to_jsonb(many)::text, to_jsonb("t")::text, to_jsonb(d)::text from "We ird""T" order by id"#;
    let rows = ground.database.client.query(sql, &[]).await.unwrap();
    assert_eq!(got.len(), rows.len());
    for (row, got) in rows.iter().zip(&got) {
        let wanted: Vec<Option<String>> = (0..5).map(|n| row.get(n)).collect();
        assert_eq!(got.iter().map(|text| text.as_deref().map(str::to_owned)).collect::<Vec<_>>(), wanted);
    }
}

#[tokio::test]
async fn a_generated_column_is_computed_from_the_image() {
    let ground = Ground::new(
        "create table g(id int primary key, gone int, first text, last text,
           whole text generated always as (upper(first) || '-' || last) stored);
         alter table g drop column gone; alter table g enable row level security;
         create function takes_row(g) returns bool language sql as $$ select $1.whole = 'A-1' $$;
         create policy p on g using (whole = 'A-1' and takes_row(g));
         insert into g(id, first, last) values (1, 'a', '1'), (2, 'b', '1'), (3, null, '1')",
    )
    .await;
    let table = ground.table("g").await;
    assert!(!table.texts()[0].missing.is_empty(), "the stream has no generated columns");
    assert_eq!(ground.judge(&table, &user(ANN)).await.unwrap(), [Allowed, Denied, Denied]);
    let json = json(&ground, &table, &["whole", "id"]).await;
    assert_eq!(json[1], [Some("\"B-1\"".into()), Some("2".into())]);
    assert_eq!(json[2][0], None);
}

const TOASTED: &str = "
create table k(id int primary key, team text, long text); alter table k enable row level security;
create policy p on k using (long like auth.jwt() ->> 'prefix' || '%');
insert into k values (1, 'x', 'alpha'), (2, 'x', 'beta'), (3, 'x', 'alpha');
";

/// The table's row images without the column that was not touched.
fn untouched(table: &Table) -> Vec<walcast::authz::RowText> {
    let strip = |row: &walcast::change::Row| {
        let mut row = row.clone();
        let mut fields = row.tuple.fields.to_vec();
        fields[2] = walcast::wal::pgoutput::Field::UnchangedToast;
        row.tuple = Tuple { frame: row.tuple.frame.clone(), fields: fields.into() };
        row_text(&row, None)
    };
    table.rows.iter().map(strip).collect()
}

#[tokio::test]
async fn what_an_update_did_not_touch_is_asked_of_the_row_while_it_is_the_same() {
    let ground = Ground::new(TOASTED).await;
    let who = identity("authenticated", r#"{"prefix":"alp"}"#);
    let sql = "with u as (update k set team = 'y' returning 1) select pg_current_xact_id()::xid::text from u limit 1";
    let xid: u32 = ground.database.client.query_one(sql, &[]).await.unwrap().get::<_, &str>(0).parse().unwrap();
    let table = ground.table("k").await;
    let asked = || Question { xid: Some(xid), ..table.question(&who, untouched(&table)).unwrap() };
    assert_eq!(ground.verdicts(asked()).await.unwrap(), [Allowed, Denied, Allowed]);

    // Changed since: what is there now says nothing of the row as it was.
    ground.execute("update k set long = 'alphabet' where id = 2; update k set team = 'z' where id = 3").await;
    assert_eq!(ground.verdicts(asked()).await.unwrap(), [Allowed, Denied, Denied]);

    let old = table.rows[0].clone();
    let whole = row_text(&walcast::change::Row { key_only: true, ..old.clone() }, Some(&old));
    assert!(whole.missing.is_empty(), "the old row of REPLICA IDENTITY FULL has it");
}

#[tokio::test]
async fn a_row_that_lacks_what_is_read_is_denied_and_counted() {
    let ground = Ground::new(TOASTED).await;
    let table = ground.table("k").await;
    let who = identity("authenticated", r#"{"prefix":""}"#);
    let mut rows = untouched(&table);
    rows[1] = row_text(&table.rows[1], None);
    let question = table.question(&who, rows).unwrap();
    assert_eq!(ground.verdicts(question).await.unwrap(), [Failed, Allowed, Failed]);
    assert_eq!(ground.metrics.rows_incomplete.get(), 2);
}

fn cast(sql_name: &str, text: &str) -> CastRequest {
    CastRequest { type_oid: 1, sql_name: sql_name.into(), text: text.into(), array: false }
}

#[tokio::test]
async fn filter_values_are_read_and_printed_by_postgres() {
    let ground =
        Ground::new("create type mood as enum ('ok', 'so''so'); create domain small as int check (value < 5)").await;
    let ask = async |sql_name: &str, text: &str, array: bool| {
        ground.oracle.cast("authenticated", &CastRequest { array, ..cast(sql_name, text) }).await
    };
    assert_eq!(ask("integer", " 007 ", false).await, Ok("7".into()));
    assert_eq!(
        ask("timestamp with time zone", "2026-01-01 02:00+09", false).await,
        Ok("2025-12-31 17:00:00+00".into())
    );
    assert_eq!(ask("public.mood", "so'so", false).await, Ok("so'so".into()));
    assert_eq!(
        ask("uuid", "{A0EEBC999C0B4EF8BB6D6BB9BD380A11}", false).await,
        Ok("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11".into())
    );
    assert_eq!(ask("integer", "{1,  02}", true).await, Ok("{1,2}".into()));
    let refused = [
        ("integer", "abc", r#"ERROR 22P02 (invalid_text_representation) invalid input syntax for type integer: "abc""#),
        (
            "integer",
            "99999999999",
            r#"ERROR 22003 (numeric_value_out_of_range) value "99999999999" is out of range for type integer"#,
        ),
        (
            "public.mood",
            "nope",
            r#"ERROR 22P02 (invalid_text_representation) invalid input value for enum mood: "nope""#,
        ),
        (
            "public.small",
            "7",
            r#"ERROR 23514 (check_violation) value for domain small violates check constraint "small_check""#,
        ),
    ];
    for (sql_name, text, message) in refused {
        let failure = ask(sql_name, text, false).await.unwrap_err();
        assert_eq!(failure.to_string(), message);
    }
    // As routing asks whether a text is a regular expression.
    let used = "pg_catalog.text is null or ''::pg_catalog.text operator(pg_catalog.~) $1::pg_catalog.text";
    let regex = CastRequest { type_oid: CastRequest::REGEX, ..cast(used, "(") };
    let failure = ground.oracle.cast("anon", &regex).await.unwrap_err();
    assert!(failure.to_string().starts_with("ERROR 2201B (invalid_regular_expression)"), "{failure}");
}

#[tokio::test]
async fn what_waits_is_bounded_in_bytes() {
    let config = OracleConfig { queue_bytes_max: 100_000, ..one_session() };
    let ground = Ground::with(NOTES, config).await;
    let notes = ground.table("notes").await;
    let answers = join_all((0..20).map(|_| ground.oracle.ask(question(&notes, &user(ANN))))).await;
    let refused = answers.iter().filter(|answer| **answer == Ok(Err(OracleError::Overloaded))).count();
    assert!((1..20).contains(&refused), "{refused} of 20 refused");
    // What was answered makes room again.
    assert_eq!(ground.judge(&notes, &user(ANN)).await.unwrap(), expected(ANN, 300));
}

#[tokio::test]
async fn a_server_that_restarts_is_waited_for() {
    let own = walcast::demo::postgres::Cluster::start(&Default::default()).unwrap();
    let admin = connect(&own.url("postgres", "postgres")).await;
    admin.batch_execute("create role authenticated; create role oracle login in role authenticated").await.unwrap();
    let metrics = Arc::new(walcast::authz::AuthzMetrics::default());
    let login = walcast::authz::oracle::PlainConnect(own.url("oracle", "postgres").parse().unwrap());
    let config = OracleConfig { timeout: Duration::from_secs(30), ..OracleConfig::default() };
    let (oracle, task) = Oracle::new(&config, Arc::new(login), metrics);
    let shutdown = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(task.run(shutdown.clone()));
    assert_eq!(oracle.cast("authenticated", &cast("integer", "1")).await, Ok("1".into()));
    own.stop("fast", Duration::from_secs(20)).unwrap();
    let waiting = tokio::spawn({
        let oracle = oracle.clone();
        async move { oracle.cast("authenticated", &cast("integer", "2")).await }
    });
    own.start_server().unwrap();
    assert_eq!(waiting.await.unwrap(), Ok("2".into()));
    shutdown.cancel();
    running.await.unwrap();
    let closed = oracle.cast("authenticated", &cast("integer", "3")).await;
    assert_eq!(closed, Err(CastFailure::Unanswered(OracleError::Closed)));
    let _ = cluster();
}
