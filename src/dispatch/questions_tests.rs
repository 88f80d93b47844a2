use super::*;
use crate::authz::oracle::ByHand;
use crate::authz::{Asked as Subject, RowText, Verdict};
use crate::catalog::ColumnSet;
use crate::dispatch::sample::relation;
use tokio::sync::mpsc::UnboundedReceiver;

struct Desk {
    questions: Questions,
    asked: UnboundedReceiver<ByHand>,
    /// Asked and not answered.
    open: VecDeque<ByHand>,
}

impl Desk {
    fn new() -> Desk {
        let (oracle, asked) = Oracle::by_hand();
        Desk { questions: Questions::new(oracle), asked, open: VecDeque::new() }
    }

    fn put(&mut self, table: u32, bytes: usize) {
        let literal = "x".repeat(bytes).into();
        let question = Question {
            xid: None,
            relation: Arc::new(relation(RelationId(table))),
            asked: Subject::Filter { role: "r".into(), expression: "true".into(), columns: None },
            rows: vec![RowText { literal, missing: ColumnSet::default(), is_new: true }],
        };
        self.questions.put(Arc::default(), question);
    }

    /// How many questions the oracle has of a table.
    fn asked(&mut self, table: u32) -> usize {
        self.open.extend(std::iter::from_fn(|| self.asked.try_recv().ok()));
        self.open.iter().filter(|(question, _)| question.relation.id == RelationId(table)).count()
    }

    /// Answers the oldest of a table; gives the table that the next answer was about.
    async fn answer(&mut self, table: u32, answer: Result<Answer, OracleError>) -> u32 {
        self.asked(table);
        let at = self.open.iter().position(|(question, _)| question.relation.id == RelationId(table)).unwrap();
        let (_, reply) = self.open.remove(at).unwrap();
        reply.send(answer).unwrap();
        self.next().await
    }

    async fn next(&mut self) -> u32 {
        let answered = self.questions.next().await;
        self.questions.settle(&answered);
        answered.relation.id.0
    }
}

fn yes() -> Result<Answer, OracleError> {
    Ok(Answer::Verdicts(vec![Verdict::Allowed]))
}

fn timeout() -> Result<Answer, OracleError> {
    Err(OracleError::Timeout(Duration::from_secs(5)))
}

#[tokio::test(start_paused = true)]
async fn a_table_at_its_cap_leaves_room_for_others() {
    let mut desk = Desk::new();
    (0..TABLE_QUESTIONS_MAX + 10).for_each(|_| desk.put(1, 10));
    desk.put(2, 10);
    assert_eq!((desk.asked(1), desk.asked(2)), (TABLE_QUESTIONS_MAX, 1));
    desk.answer(1, yes()).await;
    assert_eq!(desk.asked(1), TABLE_QUESTIONS_MAX, "one of those that waited");
}

#[tokio::test(start_paused = true)]
async fn a_question_larger_than_any_bound_is_asked_alone() {
    let mut desk = Desk::new();
    desk.put(1, 2 * BYTES_MAX);
    desk.put(1, 10);
    desk.put(2, 10);
    assert_eq!((desk.asked(1), desk.asked(2)), (1, 1), "another table's first question is always asked");
    desk.answer(1, yes()).await;
    assert_eq!(desk.asked(1), 1);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_the_common_share_is_asked_when_another_table_gives_back() {
    let mut desk = Desk::new();
    for table in 1..=4 {
        desk.put(table, BYTES_MAX / 4 - 1000);
    }
    desk.put(5, 1000);
    desk.put(5, 3000);
    assert_eq!(desk.asked(5), 1);
    desk.answer(1, yes()).await;
    assert_eq!(desk.asked(5), 2);
}

#[tokio::test(start_paused = true)]
async fn there_is_no_room_while_too_much_waits_and_there_is_again() {
    let mut desk = Desk::new();
    let piece = TABLE_BYTES_MAX / 2 - 300;
    (0..2 + WAITING_BYTES_MAX / piece + 1).for_each(|_| desk.put(1, piece));
    assert!(!desk.questions.has_room());
    while !desk.questions.has_room() {
        desk.answer(1, yes()).await;
    }
    while desk.asked(1) > 0 {
        desk.answer(1, yes()).await;
    }
    assert_eq!((desk.questions.bytes, desk.questions.waiting_bytes), (0, 0));
    assert!(desk.questions.is_empty() && desk.questions.tables.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_table_whose_questions_time_out_is_denied_at_once_beyond_a_few() {
    let mut desk = Desk::new();
    (0..2000).for_each(|_| desk.put(1, 10_000));
    let in_flight = desk.asked(1);
    desk.answer(1, timeout()).await;
    // All that waited is denied without being asked.
    let mut denied = 0;
    while desk.questions.under_way.len() > desk.asked(1) {
        assert_eq!(desk.next().await, 1);
        denied += 1;
    }
    assert_eq!((desk.asked(1), denied), (in_flight - 1, 2000 - in_flight));
    assert_eq!(desk.questions.waiting_bytes, 0);
    // Others are asked as ever.
    desk.put(2, 10);
    assert_eq!(desk.asked(2), 1);
    while desk.asked(1) > 0 {
        desk.answer(1, yes()).await;
    }
    (0..100).for_each(|_| desk.put(1, 10));
    assert_eq!(desk.asked(1), TROUBLED_QUESTIONS_MAX);
    tokio::time::advance(TROUBLED_FOR).await;
    (0..100).for_each(|_| desk.put(1, 10));
    assert_eq!(desk.asked(1), TROUBLED_QUESTIONS_MAX + 100);
}

#[tokio::test(start_paused = true)]
async fn trouble_is_worth_a_word_now_and_then() {
    let mut questions = Desk::new().questions;
    assert!(questions.is_worth_a_word(RelationId(1)));
    assert!(!questions.is_worth_a_word(RelationId(1)));
    assert!(questions.is_worth_a_word(RelationId(2)));
    tokio::time::advance(LOG_PAUSE).await;
    assert!(questions.is_worth_a_word(RelationId(1)));
}
