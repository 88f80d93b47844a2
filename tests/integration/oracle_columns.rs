//! Tables whose columns change between a change and the question about its rows.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot::error::TryRecvError;
use walcast::authz::{Answer, Asked, Identity, OracleConfig, OracleError, Question, RowText, Verdict};
use walcast::catalog::Column;

use crate::support::database::connect;
use crate::support::policies::{Ground, Table, identity, own_cluster};

use Verdict::{Allowed, Denied, Failed};

const NOTES: &str = "
create table notes(id int primary key, hidden text, author text, secret bool);
alter table notes enable row level security;
create policy own on notes using (author = auth.jwt() ->> 'sub' and not secret);
insert into notes values (1, 'ann', 'ann', false), (2, 'bob', 'bob', false), (3, 'ann', 'ann', true);
";

/// Its policy is a function of the whole row.
const WHOLE: &str = "
create table notes(id int primary key, hidden text, author text);
alter table notes enable row level security;
create function shown(notes) returns bool language plpgsql as $$ begin return ($1).author = 'ann'; end $$;
create policy own on notes using (shown(notes));
insert into notes values (1, 'ann', 'ann'), (2, 'ann', 'bob');
";

fn ann() -> Identity {
    identity("authenticated", r#"{"sub":"ann"}"#)
}

fn question(table: &Table) -> Question {
    table.question(&ann(), table.texts()).expect("an oracle plan")
}

async fn ask(ground: &Ground, question: Question) -> Result<Answer, OracleError> {
    ground.oracle.ask(question).await.expect("an answer or an error")
}

fn verdicts<const N: usize>(verdicts: [Verdict; N]) -> Result<Answer, OracleError> {
    Ok(Answer::Verdicts(verdicts.into()))
}

/// What the policy says of rows that were written before this.
async fn judged_after(schema: &str, statements: &str) -> Result<Answer, OracleError> {
    let ground = Ground::new(schema).await;
    let table = ground.table("notes").await;
    ground.execute(statements).await;
    ask(&ground, question(&table)).await
}

#[tokio::test]
async fn columns_that_are_not_read_may_come_and_go() {
    for statements in [
        "alter table notes add column more text",
        "alter table notes add column more text not null default 'x', add column yet int",
        "alter table notes drop column hidden",
        "alter table notes drop column hidden; alter table notes add column more bool default true",
        "alter table notes rename column hidden to shown",
        "alter table notes alter column hidden type bytea using ''",
    ] {
        assert_eq!(judged_after(NOTES, statements).await, verdicts([Allowed, Denied, Denied]), "{statements}");
    }
}

#[tokio::test]
async fn a_column_that_is_read_and_gone_denies() {
    for statements in [
        "alter table notes drop column author cascade",
        "alter table notes drop column author cascade; alter table notes add column author text default 'ann'",
        "alter table notes rename column author to writer",
        "alter table notes rename column author to x; alter table notes rename column hidden to author",
    ] {
        let answer = judged_after(NOTES, statements).await;
        // Where no column has the name any more, Postgres refuses the policy's text before it looks at a row.
        let refused = matches!(&answer, Err(OracleError::Refused { sqlstate, .. }) if sqlstate == "42703");
        assert!(refused || answer == Err(OracleError::ColumnGone), "{statements}: {answer:?}");
    }
    assert!(judged_after(NOTES, "drop table notes").await.is_err());
    let another = format!("drop table notes cascade; {NOTES}");
    assert_eq!(judged_after(NOTES, &another).await, Err(OracleError::ColumnGone), "another table of the same name");
}

#[tokio::test]
async fn nothing_is_decided_by_a_column_that_the_image_never_had() {
    // Without the look at the columns, what was `hidden` would be read as the new column: as many as before.
    let reads_new = "create or replace function shown(notes) returns bool language plpgsql as $$ begin
                       return ($1).fresh = 'ann'; end $$";
    for statements in [
        "alter table notes add column fresh text default 'ann'",
        "alter table notes drop column author; alter table notes add column fresh text default 'ann'",
    ] {
        let statements = format!("{statements}; {reads_new}");
        assert_eq!(judged_after(WHOLE, &statements).await, verdicts([Failed, Failed]), "{statements}");
    }
}

#[tokio::test]
async fn a_row_that_is_still_the_same_is_asked_of_the_table() {
    let ground = Ground::new(WHOLE).await;
    let update = "with u as (update notes set hidden = '' returning 1)
                  select pg_current_xact_id()::xid::text from u limit 1";
    let xid = ground.database.client.query_one(update, &[]).await.unwrap().get::<_, &str>(0).parse().unwrap();
    let table = ground.table("notes").await;
    ground.execute("alter table notes add column fresh text default 'ann'").await;
    let asked = Question { xid: Some(xid), ..question(&table) };
    assert_eq!(ask(&ground, asked).await, verdicts([Allowed, Denied]));
}

#[tokio::test]
async fn questions_that_misfit_together_are_answered_each() {
    let ground = Ground::new(NOTES).await;
    let table = ground.table("notes").await;
    ground.execute("alter table notes add column more text").await;
    let json = Asked::Json {
        role: "authenticated".into(),
        columns: vec![table.relation.column_named("secret").unwrap(), table.relation.column_named("id").unwrap()],
    };
    let filter = Asked::Filter { role: "authenticated".into(), expression: "id > 1".into(), columns: None };
    let ask_of = |asked: Asked, row: usize| {
        let rows = vec![table.texts()[row].clone()];
        ground.oracle.ask(Question { xid: None, relation: Arc::clone(&table.relation), asked, rows })
    };
    let policy = question(&table).asked;
    let asked: Vec<_> = (0..3).map(|row| (row, [&policy, &json].map(|asked| ask_of(asked.clone(), row)))).collect();
    for (row, [verdict, json]) in asked {
        assert_eq!(verdict.await.unwrap(), verdicts([[Allowed, Denied, Denied][row]]));
        let values = vec![Some(["false", "false", "true"][row].into()), Some((row + 1).to_string().into())];
        assert_eq!(json.await.unwrap(), Ok(Answer::Json(vec![Some(values)])));
    }
    // It reads the whole row, for all that is known.
    assert_eq!(ask_of(filter, 1).await.unwrap(), verdicts([Failed]));
    assert_eq!(ground.metrics.misfits.get(), 7);
    // From the catalog as it is now nothing misfits.
    let table = ground.table("notes").await;
    assert_eq!(ask(&ground, question(&table)).await, verdicts([Allowed, Denied, Denied]));
    assert_eq!(ground.metrics.misfits.get(), 7);
}

#[tokio::test]
async fn columns_that_are_not_visible_yet_are_waited_for() {
    let long = Duration::from_secs(60);
    let config = OracleConfig { sessions: 1, slow_sessions: 1, slow_after: long, timeout: long, ..Default::default() };
    let cluster = own_cluster();
    let ground = Ground::in_cluster(&cluster, NOTES, config).await;
    let table = ground.table("notes").await;
    // The session has read the row type; it would wait for the lock of ALTER TABLE to do so now.
    assert_eq!(ask(&ground, question(&table)).await, verdicts([Allowed, Denied, Denied]));
    let writer = connect(&ground.database.url).await;
    writer.batch_execute("begin; alter table notes add column fresh int").await.unwrap();
    let row = writer.query_one("select pg_current_xact_id()::xid::text", &[]).await.unwrap();
    let xid = row.get::<_, &str>(0).parse().unwrap();
    // As the stream tells of it once it is flushed.
    let mut asked = question(&table);
    let fresh = Column { attnum: 5, name: "fresh".into(), type_oid: 23, ..table.relation.columns[0].clone() };
    Arc::make_mut(&mut asked.relation).columns.push(fresh);
    let longer = |row: &RowText| RowText { literal: row.literal.replace(')', r#","9")"#).into(), ..row.clone() };
    asked.rows = asked.rows.iter().map(longer).collect();
    let mut answer = ground.oracle.ask(Question { xid: Some(xid), ..asked });
    // One session: it is free for others again, so the question has been asked.
    assert_eq!(ask(&ground, question(&table)).await, verdicts([Allowed, Denied, Denied]));
    assert!(matches!(answer.try_recv(), Err(TryRecvError::Empty)));
    assert!(ground.metrics.misfits.get() > 0);
    writer.batch_execute("commit").await.unwrap();
    assert_eq!(answer.await.unwrap(), verdicts([Allowed, Denied, Denied]));
}
