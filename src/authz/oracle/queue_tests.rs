use tokio::sync::oneshot;

use super::super::job::Work;
use super::super::sample::{filter, json, policy};
use super::state::MERGED_BYTES_MAX;
use super::*;
use crate::authz::oracle::question::{Answer, Question};
use crate::authz::{CastFailure, OracleError};
use crate::routing::CastRequest;

type Reply = oneshot::Receiver<Result<String, CastFailure>>;

fn job(queue: &Queue, role: &str, text: &str) -> (Job, Reply) {
    let (reply, answer) = oneshot::channel();
    let request = CastRequest { type_oid: 23, sql_name: "integer".into(), text: text.into(), array: false };
    let ticket = queue.ticket(10).expect("room");
    (Job::new(Work::Cast { role: role.into(), request, reply }, ticket), answer)
}

fn push(queue: &Queue, role: &str, text: &str) -> Reply {
    let (job, answer) = job(queue, role, text);
    queue.push(job);
    answer
}

fn text(job: &Job) -> &str {
    match &job.work {
        Work::Cast { request, .. } => &request.text,
        Work::Ask { .. } => "",
    }
}

fn queue(bytes_max: usize) -> Arc<Queue> {
    Arc::new(Queue::new(bytes_max))
}

/// The only question of the next batch.
fn take(queue: &Arc<Queue>, lane: Lane) -> Option<Job> {
    let (mut jobs, _) = queue.take(lane, false)?.into_parts();
    assert_eq!(jobs.len(), 1);
    jobs.pop()
}

fn texts(batch: &Batch) -> Vec<&str> {
    batch.jobs.iter().map(text).collect()
}

#[tokio::test]
async fn first_come_first_served_but_for_those_asked_again() {
    let queue = queue(1000);
    let _answers = (push(&queue, "a", "1"), push(&queue, "b", "2"));
    let first = take(&queue, Lane::Fast).unwrap();
    assert_eq!(text(&first), "1");
    queue.push_again(first);
    assert_eq!(text(&take(&queue, Lane::Fast).unwrap()), "1");
    assert_eq!(text(&take(&queue, Lane::Fast).unwrap()), "2");
    assert!(take(&queue, Lane::Fast).is_none());
}

#[tokio::test]
async fn slow_tables_take_turns() {
    let queue = queue(1000);
    let key = |role: &str| LaneKey { relation: None, role: role.into() };
    queue.mark_slow(&key("a"), false);
    queue.mark_slow(&key("b"), false);
    let _answers: Vec<_> = [("a", "1"), ("a", "2"), ("a", "3"), ("b", "4")].map(|(r, t)| push(&queue, r, t)).into();
    assert!(take(&queue, Lane::Fast).is_none());
    let order: Vec<String> = std::iter::from_fn(|| take(&queue, Lane::Slow)).map(|job| text(&job).to_owned()).collect();
    assert_eq!(order, ["1", "4", "2", "3"]);
}

#[tokio::test]
async fn a_table_is_fast_again_after_many_quick_answers() {
    let queue = queue(1000);
    let key = LaneKey { relation: None, role: "a".into() };
    queue.mark_slow(&key, true);
    assert!(queue.is_silent(&key));
    for _ in 1..QUICK_ANSWERS_MIN {
        queue.mark_quick(&key);
    }
    assert!(!queue.is_silent(&key));
    let _first = push(&queue, "a", "1");
    assert!(take(&queue, Lane::Slow).is_some());
    queue.mark_quick(&key);
    let _second = push(&queue, "a", "2");
    assert!(take(&queue, Lane::Fast).is_some());
}

#[tokio::test]
async fn room_is_given_back_with_the_answer() {
    let queue = queue(25);
    let first = push(&queue, "a", "1");
    let _second = push(&queue, "a", "2");
    assert!(queue.ticket(10).is_none());
    take(&queue, Lane::Fast).unwrap().fail(OracleError::Unreachable);
    assert!(first.await.unwrap().is_err());
    assert!(queue.ticket(10).is_some());
    let empty = Queue::new(5);
    assert!(empty.ticket(100).is_some(), "one question is let in, whatever its size");
}

#[tokio::test]
async fn withdrawn_questions_are_not_asked() {
    let queue = queue(1000);
    drop(push(&queue, "a", "1"));
    let _answer = push(&queue, "a", "2");
    assert_eq!(text(&take(&queue, Lane::Fast).unwrap()), "2");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_visible_yet_comes_again_after_a_growing_pause() {
    let queue = queue(1000);
    let (job, _answer) = job(&queue, "a", "1");
    queue.push_later(job);
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let since = Instant::now();
        let job = loop {
            match take(&queue, Lane::Fast) {
                Some(job) => break job,
                None => queue.wait(Lane::Fast, true).await,
            }
        };
        pauses.push(since.elapsed());
        queue.push_later(job);
    }
    assert!(pauses.is_sorted(), "{pauses:?}");
    assert!(pauses[0] < Duration::from_millis(5) && pauses[11] >= PAUSE_MAX, "{pauses:?}");
}

#[tokio::test]
async fn a_busy_session_leaves_work_to_an_idle_one() {
    let queue = queue(1000);
    let idle = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { queue.wait(Lane::Fast, true).await }
    });
    while queue.state().idle == 0 {
        tokio::task::yield_now().await;
    }
    let _answers = (push(&queue, "a", "1"), push(&queue, "a", "2"));
    assert_eq!(texts(&queue.take(Lane::Fast, true).unwrap()), ["1"]);
    assert!(queue.take(Lane::Fast, true).is_none());
    idle.await.unwrap();
    assert_eq!(texts(&queue.take(Lane::Fast, true).unwrap()), ["2"]);
}

#[tokio::test]
async fn a_busy_session_does_not_wake_itself_for_what_it_leaves_to_an_idle_one() {
    let queue = queue(1000);
    let mut idle = Box::pin(queue.wait(Lane::Fast, true));
    assert!(futures_util::poll!(&mut idle).is_pending());
    let _answer = push(&queue, "a", "1");
    // The idle one has been woken and has not run yet. This session must sleep, or on its thread nobody ever would.
    for _ in 0..3 {
        assert!(queue.take(Lane::Fast, true).is_none());
        assert!(futures_util::poll!(Box::pin(queue.wait(Lane::Fast, false))).is_pending());
    }
    assert!(futures_util::poll!(&mut idle).is_ready());
    drop(idle);
    assert_eq!(texts(&queue.take(Lane::Fast, false).unwrap()), ["1"]);
}

#[tokio::test]
async fn a_closed_queue_answers_at_once_and_may_open_again() {
    let queue = queue(1000);
    let before = push(&queue, "a", "1");
    queue.close(OracleError::Closed);
    let after = push(&queue, "a", "2");
    for answer in [before, after] {
        assert_eq!(answer.await.unwrap(), Err(CastFailure::Unanswered(OracleError::Closed)));
    }
    queue.open();
    let _answer = push(&queue, "a", "3");
    assert!(take(&queue, Lane::Fast).is_some());
}

type AnswerOf = oneshot::Receiver<Result<Answer, OracleError>>;

/// A question of this transaction; its xid is its name here.
fn ask(queue: &Queue, xid: u32, question: Question) -> AnswerOf {
    let (reply, answer) = oneshot::channel();
    let work = Work::Ask { question: Question { xid: Some(xid), ..question }, reply };
    queue.push(Job::new(work, queue.ticket(10).expect("room")));
    answer
}

fn xids(batch: &Batch) -> Vec<u32> {
    batch.jobs.iter().filter_map(|job| job.question()?.xid).collect()
}

#[tokio::test]
async fn what_asks_alike_gathers_while_one_is_in_flight_and_goes_out_as_one() {
    let queue = queue(1000);
    let mut answers = vec![ask(&queue, 1, policy("ann", "x"))];
    let first = queue.take(Lane::Fast, false).unwrap();
    answers.extend((2..5).map(|xid| ask(&queue, xid, policy("ann", "x"))));
    assert!(queue.take(Lane::Fast, true).is_none(), "they wait for the first");
    drop(first);
    let second = queue.take(Lane::Fast, true).unwrap();
    assert_eq!(xids(&second), [2, 3, 4]);
    drop(second);
    assert!(queue.take(Lane::Fast, false).is_none());
    assert!(queue.state().groups.is_empty(), "nothing is left of it");
}

#[tokio::test]
async fn nothing_is_held_back_from_a_session_that_is_idle() {
    let queue = queue(1000);
    let _first = (ask(&queue, 1, policy("ann", "x")), queue.take(Lane::Fast, false).unwrap());
    let _others = [ask(&queue, 2, policy("ann", "x")), ask(&queue, 3, policy("bob", "x"))];
    let ready = queue.take(Lane::Fast, true).unwrap();
    assert_eq!(xids(&ready), [3], "what is held back does not hold back others");
    assert!(queue.take(Lane::Fast, true).is_none());
    // Even if it was held back before the session became idle.
    queue.wait(Lane::Fast, true).await;
    assert_eq!(xids(&queue.take(Lane::Fast, false).unwrap()), [2]);
}

#[tokio::test]
async fn a_push_wakes_an_idle_session_for_a_group_in_flight() {
    let queue = queue(1000);
    let _first = (ask(&queue, 1, policy("ann", "x")), queue.take(Lane::Fast, false).unwrap());
    let mut idle = Box::pin(queue.wait(Lane::Fast, true));
    // The first push left a permit behind.
    while futures_util::poll!(&mut idle).is_ready() {
        idle = Box::pin(queue.wait(Lane::Fast, true));
    }
    let _second = ask(&queue, 2, policy("ann", "x"));
    assert!(futures_util::poll!(&mut idle).is_ready());
    drop(idle);
    assert_eq!(xids(&queue.take(Lane::Fast, false).unwrap()), [2]);
}

#[tokio::test]
async fn nothing_is_put_together_that_does_not_ask_alike() {
    let queue = queue(1000);
    let others = [policy("ann", "x"), policy("bob", "x"), policy("ann", "y"), filter("x"), filter("y"), json(&[1])];
    let _answers: Vec<_> = others.iter().map(|other| ask(&queue, 1, other.clone())).collect();
    let _again: Vec<_> = others.iter().map(|other| ask(&queue, 2, other.clone())).collect();
    let batches: Vec<Batch> = std::iter::from_fn(|| queue.take(Lane::Fast, false)).collect();
    assert_eq!(batches.len(), others.len());
    for (batch, other) in batches.iter().zip(&others) {
        assert_eq!(xids(batch), [1, 2]);
        let asked: Vec<String> = batch.jobs.iter().map(|job| format!("{:?}", job.question().unwrap().asked)).collect();
        assert_eq!(asked, [format!("{:?}", other.asked), format!("{:?}", other.asked)]);
    }
}

#[tokio::test]
async fn a_merged_question_has_bounds_and_what_fills_one_does_not_wait() {
    let queue = queue(100_000);
    let _first = (ask(&queue, 0, policy("ann", "x")), queue.take(Lane::Fast, false).unwrap());
    let _answers: Vec<_> = (0..MERGED_ROWS_MAX as u32 + 5).map(|xid| ask(&queue, xid, policy("ann", "x"))).collect();
    let full = queue.take(Lane::Fast, true).unwrap();
    assert_eq!(full.jobs.len(), MERGED_ROWS_MAX);
    assert!(queue.take(Lane::Fast, true).is_none(), "five are worth waiting for");

    let mut large = policy("bob", "x");
    large.rows[0].literal = "x".repeat(MERGED_BYTES_MAX * 2 / 3).into();
    let _answers = (ask(&queue, 1, large.clone()), ask(&queue, 2, large));
    let first = queue.take(Lane::Fast, true).unwrap();
    assert_eq!((xids(&first), queue.take(Lane::Fast, true).is_none()), (vec![1], true));
    drop(first);
    assert_eq!(xids(&queue.take(Lane::Fast, true).unwrap()), [2]);
}

#[tokio::test]
async fn a_merged_question_that_takes_long_is_made_smaller_and_grows_again() {
    let queue = queue(100_000);
    let (slow_after, quick) = (Duration::from_millis(250), Duration::from_millis(1));
    let key = LaneKey { relation: Some(crate::wal::pgoutput::RelationId(1)), role: "r".into() };
    let size = |queue: &Arc<Queue>| {
        let answers: Vec<_> = (0..MERGED_ROWS_MAX as u32).map(|xid| ask(queue, xid, policy("ann", "x"))).collect();
        let batch = queue.take(Lane::Fast, false).unwrap();
        drop(answers);
        let size = batch.jobs.len();
        drop(batch);
        assert!(queue.take(Lane::Fast, false).is_none(), "withdrawn");
        size
    };
    queue.pace(&key, 40, slow_after / 4, slow_after);
    assert_eq!(size(&queue), 20);
    queue.pace(&key, 10, slow_after, slow_after);
    assert_eq!(size(&queue), MERGED_ROWS_MIN);
    queue.pace(&key, MERGED_ROWS_MIN, slow_after, slow_after);
    assert_eq!(size(&queue), MERGED_ROWS_MIN);
    for n in 1..=4 {
        queue.pace(&key, 1, quick, slow_after);
        queue.pace(&key, MERGED_ROWS_MIN << (n - 1), quick, slow_after);
        assert_eq!(size(&queue), MERGED_ROWS_MIN << n);
    }
    assert!(queue.state().merged_rows.is_empty());
}

#[tokio::test]
async fn what_is_asked_alone_is_in_no_group() {
    let queue = queue(1000);
    let _answers = (ask(&queue, 1, policy("ann", "x")), ask(&queue, 2, policy("ann", "x")));
    let (jobs, hold) = queue.take(Lane::Fast, false).unwrap().into_parts();
    jobs.into_iter().rev().for_each(|job| queue.push_again(Job { alone: true, ..job }));
    drop(hold);
    let _third = ask(&queue, 3, policy("ann", "x"));
    let batches: Vec<Batch> = std::iter::from_fn(|| queue.take(Lane::Fast, false)).collect();
    assert_eq!(batches.iter().map(xids).collect::<Vec<_>>(), [[1], [2], [3]]);
}

#[tokio::test]
async fn a_table_that_has_become_silent_takes_what_waits_along() {
    let queue = queue(1000);
    let mut answers = vec![ask(&queue, 1, policy("ann", "x"))];
    let (mut jobs, hold) = queue.take(Lane::Fast, false).unwrap().into_parts();
    answers.extend((2..4).map(|xid| ask(&queue, xid, policy("ann", "x"))));
    let first = jobs.pop().unwrap();
    queue.mark_slow(&first.key.clone(), true);
    queue.push_again(first);
    drop(hold);
    assert!(queue.take(Lane::Fast, false).is_none());
    let slow: Vec<Vec<u32>> = std::iter::from_fn(|| queue.take(Lane::Slow, false)).map(|batch| xids(&batch)).collect();
    assert_eq!(slow, [[1], [2], [3]], "one by one: the deadline is each one's own");
}

#[tokio::test]
async fn closing_while_one_is_in_flight_leaves_nothing_behind() {
    let queue = queue(1000);
    let first = ask(&queue, 1, policy("ann", "x"));
    let in_flight = queue.take(Lane::Fast, false).unwrap();
    let second = ask(&queue, 2, policy("ann", "x"));
    queue.close(OracleError::Closed);
    assert_eq!(second.await.unwrap(), Err(OracleError::Closed));
    drop(in_flight);
    assert!(first.await.is_err());
    queue.open();
    let _third = ask(&queue, 3, policy("ann", "x"));
    assert_eq!(xids(&queue.take(Lane::Fast, false).unwrap()), [3]);
    assert!(queue.state().groups.is_empty());
}

#[tokio::test]
async fn what_expires_in_a_group_gives_up_its_turn() {
    let queue = queue(1000);
    let first = ask(&queue, 1, policy("ann", "x"));
    queue.expire(Duration::ZERO);
    assert_eq!(first.await.unwrap(), Err(OracleError::Unreachable));
    assert!(queue.take(Lane::Fast, false).is_none());
    let _second = ask(&queue, 2, policy("ann", "x"));
    assert_eq!(xids(&queue.take(Lane::Fast, false).unwrap()), [2]);
}
