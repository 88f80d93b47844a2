use tokio::sync::oneshot;

use super::super::job::Work;
use super::*;
use crate::authz::CastFailure;
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

fn take(queue: &Queue, lane: Lane) -> Option<Job> {
    queue.take(lane, false)
}

#[tokio::test]
async fn first_come_first_served_but_for_those_asked_again() {
    let queue = Queue::new(1000);
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
    let queue = Queue::new(1000);
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
    let queue = Queue::new(1000);
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
    let queue = Queue::new(25);
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
    let queue = Queue::new(1000);
    drop(push(&queue, "a", "1"));
    let _answer = push(&queue, "a", "2");
    assert_eq!(text(&take(&queue, Lane::Fast).unwrap()), "2");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_visible_yet_comes_again_after_a_growing_pause() {
    let queue = Queue::new(1000);
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
    let queue = Arc::new(Queue::new(1000));
    let idle = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { queue.wait(Lane::Fast, true).await }
    });
    while queue.state().idle == 0 {
        tokio::task::yield_now().await;
    }
    let _answers = (push(&queue, "a", "1"), push(&queue, "a", "2"));
    assert_eq!(text(&queue.take(Lane::Fast, true).unwrap()), "1");
    assert!(queue.take(Lane::Fast, true).is_none());
    idle.await.unwrap();
    assert_eq!(text(&queue.take(Lane::Fast, true).unwrap()), "2");
}

#[tokio::test]
async fn a_closed_queue_answers_at_once_and_may_open_again() {
    let queue = Queue::new(1000);
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
