//! Questions that are put together: each gets the answer to its own rows, for its own identity and transaction.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::oneshot::error::TryRecvError;
use walcast::authz::{Answer, Asked, Identity, OracleConfig, OracleError, Question, Verdict};

use crate::support::database::connect;
use crate::support::policies::{Ground, Table, identity};
use crate::support::scene::until;

use Verdict::{Allowed, Denied, Failed};

/// Rows belong to ann, bob and nobody by turns. The policy waits while the test holds lock 1 exclusively.
const GATED: &str = "
create function gate() returns bool language plpgsql as $$ begin
  perform pg_advisory_xact_lock_shared(1); return true; end $$;
create table notes(id int primary key, author text, body text);
alter table notes enable row level security;
create policy own on notes using ((select gate()) and author = auth.jwt() ->> 'sub');
";

fn patient() -> OracleConfig {
    let long = Duration::from_secs(60);
    OracleConfig { sessions: 1, slow_sessions: 1, slow_after: long, timeout: long, ..OracleConfig::default() }
}

fn user(name: &str) -> Identity {
    identity("authenticated", &format!(r#"{{"sub":"{name}"}}"#))
}

fn question(table: &Table, who: &Identity, rows: std::ops::Range<usize>) -> Question {
    table.question(who, table.texts()[rows].to_vec()).expect("an oracle plan")
}

/// Holds up every question that is asked, until it is opened.
struct Gate<'a> {
    ground: &'a Ground,
    /// A question is asked only while somebody wants to know.
    _first: tokio::sync::oneshot::Receiver<Result<Answer, OracleError>>,
}

impl<'a> Gate<'a> {
    /// Closed, with a question in flight that it holds up.
    async fn closed(ground: &'a Ground, first: Question) -> Gate<'a> {
        ground.execute("select pg_advisory_lock(1)").await;
        let first = ground.oracle.ask(first);
        let waits = "select exists (select from pg_locks where locktype = 'advisory' and not granted)";
        until(&ground.database.client, waits).await;
        Gate { ground, _first: first }
    }

    async fn open(self) {
        self.ground.execute("select pg_advisory_unlock(1)").await;
    }
}

#[tokio::test]
async fn many_transactions_asked_together_get_their_own_verdicts() {
    let ground = Ground::with(GATED, patient()).await;
    // Each row in a transaction of its own, as the stream would tell of them.
    let mut xids: Vec<u32> = Vec::new();
    for n in 0..150 {
        let author = ["ann", "bob", "nobody"][n % 3];
        let insert = format!(
            "with n as (insert into notes values ({n}, '{author}', '{{n}}') returning 1)
             select pg_current_xact_id()::xid::text from n"
        );
        let row = ground.database.client.query_one(&insert, &[]).await.unwrap();
        xids.push(row.get::<_, &str>(0).parse().unwrap());
    }
    let table = ground.table("notes").await;
    let people = [user("ann"), user("bob")];
    let gate = Gate::closed(&ground, question(&table, &user("carl"), 0..1)).await;
    let mut asked = Vec::new();
    for n in 0..150 {
        for (place, who) in people.iter().enumerate() {
            // Of differing length, so that a place that is off by anything is seen.
            let rows = n..(n + 1 + n % 4).min(150);
            let question = Question { xid: Some(xids[rows.end - 1]), ..question(&table, who, rows.clone()) };
            asked.push((place, rows, ground.oracle.ask(question)));
        }
    }
    gate.open().await;
    let questions = asked.len() as u64;
    for (place, rows, answer) in asked {
        let expected = rows.clone().map(|n| if n % 3 == place { Allowed } else { Denied }).collect();
        assert_eq!(answer.await.unwrap(), Ok(Answer::Verdicts(expected)), "{place} {rows:?}");
    }
    let statements = ground.metrics.statements.get();
    // 750 rows at 128 a statement, for carl and as a first one for each of the others.
    assert!(statements <= questions / 20, "{statements} statements for {questions} questions");
}

#[tokio::test]
async fn one_that_is_not_visible_yet_waits_and_the_others_do_not() {
    let ground = Ground::with(&format!("{GATED} insert into notes values (1, 'ann'), (2, 'bob')"), patient()).await;
    let table = ground.table("notes").await;
    let seen = "select pg_current_xact_id()::xid::text";
    let xid_of = async |client: &tokio_postgres::Client| -> u32 {
        client.query_one(seen, &[]).await.unwrap().get::<_, &str>(0).parse().unwrap()
    };
    let before = xid_of(&ground.database.client).await;
    let writer = connect(&ground.database.url).await;
    writer.batch_execute("begin").await.unwrap();
    let newest = xid_of(&writer).await;

    let ann = user("ann");
    let gate = Gate::closed(&ground, question(&table, &ann, 0..1)).await;
    let ask = |xid, rows| ground.oracle.ask(Question { xid: Some(xid), ..question(&table, &ann, rows) });
    let mut waiting = ask(newest, 0..1);
    let others = [ask(before, 0..2), ask(before, 1..2)];
    gate.open().await;
    let [first, second] = others;
    assert_eq!(first.await.unwrap(), Ok(Answer::Verdicts(vec![Allowed, Denied])));
    assert!(matches!(waiting.try_recv(), Err(TryRecvError::Empty)));
    assert_eq!(second.await.unwrap(), Ok(Answer::Verdicts(vec![Denied])));
    writer.batch_execute("commit").await.unwrap();
    assert_eq!(waiting.await.unwrap(), Ok(Answer::Verdicts(vec![Allowed])));
    // The gate's, the one for the three, and one more for each time that the transaction was not visible.
    let (statements, repeated) = (ground.metrics.statements.get(), ground.metrics.visibility_waits.get());
    assert!(repeated > 0 && statements <= 2 + repeated, "{statements} statements, {repeated} repeated");
}

#[tokio::test]
async fn a_row_that_raises_an_error_hurts_itself_only() {
    let ground = Ground::with(
        "create function gate() returns bool language plpgsql as $$ begin
           perform pg_advisory_xact_lock_shared(1); return true; end $$;
         create table t(id int primary key); alter table t enable row level security;
         create policy p on t using ((select gate()) and 1 / (id - 7) <> 9);
         insert into t select generate_series(1, 20)",
        patient(),
    )
    .await;
    let (table, ann) = (ground.table("t").await, user("ann"));
    let gate = Gate::closed(&ground, question(&table, &ann, 0..1)).await;
    let asked: Vec<_> = (0..10).map(|n| (n, ground.oracle.ask(question(&table, &ann, 2 * n..2 * n + 2)))).collect();
    gate.open().await;
    for (n, answer) in asked {
        let expected = if n == 3 { vec![Failed, Allowed] } else { vec![Allowed; 2] };
        assert_eq!(answer.await.unwrap(), Ok(Answer::Verdicts(expected)), "{n}");
    }
    assert_eq!(ground.metrics.rows_failed.get(), 1);
}

#[tokio::test]
async fn questions_that_are_slow_only_together_are_not_taken_for_slow() {
    let config = OracleConfig { slow_after: Duration::from_millis(400), ..patient() };
    let ground = Ground::with(
        "create table t(id int primary key); alter table t enable row level security;
         create policy p on t using (pg_sleep(0.04) is not null); insert into t select generate_series(1, 30)",
        config,
    )
    .await;
    let (table, ann) = (ground.table("t").await, user("ann"));
    let asked = join_all((0..30).map(|n| ground.oracle.ask(question(&table, &ann, n..n + 1)))).await;
    for answer in asked {
        assert_eq!(answer.unwrap(), Ok(Answer::Verdicts(vec![Allowed])));
    }
    assert_eq!(ground.metrics.slow_questions.get(), 0);
}

#[tokio::test]
async fn a_value_that_cannot_be_turned_into_json_fails_its_own_row_only() {
    let ground = Ground::with(
        "create type mood as enum ('good', 'bad');
         create function mood_json(mood) returns json language plpgsql as $$ begin
           if $1 = 'bad' then raise exception 'no'; end if; return to_json($1::text); end $$;
         create cast (mood as json) with function mood_json(mood);
         create table t(id int primary key, mood mood); insert into t values (1, 'good'), (2, 'bad'), (3, null)",
        patient(),
    )
    .await;
    let table = ground.table("t").await;
    let columns = vec![table.relation.column_named("mood").unwrap(), table.relation.column_named("id").unwrap()];
    let question = |rows: std::ops::Range<usize>| Question {
        xid: None,
        relation: Arc::clone(&table.relation),
        asked: Asked::Json { role: "authenticated".into(), columns: columns.clone() },
        rows: table.texts()[rows].to_vec(),
    };
    let row = |mood: Option<&str>, id: &str| Some(vec![mood.map(Into::into), Some(id.into())]);
    let (good, absent) = (row(Some("\"good\""), "1"), row(None, "3"));
    let asked = [question(0..1), question(0..3), question(1..2)].map(|question| ground.oracle.ask(question));
    let expected = [vec![good.clone()], vec![good, None, absent], vec![None]];
    for (answer, expected) in asked.into_iter().zip(expected) {
        assert_eq!(answer.await.unwrap(), Ok(Answer::Json(expected)));
    }
    assert_eq!(ground.metrics.rows_failed.get(), 2);
}
