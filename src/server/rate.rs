//! How many requests a second the API is asked: what the `x-rate-*` headers say, and when it is too many (PROTOCOL 7.1).

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};

use super::answer::{self, Answer};

const ROLLING: HeaderName = HeaderName::from_static("x-rate-rolling");
const LIMIT: HeaderName = HeaderName::from_static("x-rate-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-rate-limit-remaining");

/// The average is that of so many seconds, or of all there have been.
const SECONDS: u64 = 60;

/// Counts the requests of all clients together, as there is one tenant.
pub struct Rate {
    limit: u32,
    seconds: Mutex<Seconds>,
}

/// A request that has been counted.
pub struct Counted {
    is_too_much: bool,
    rolling: u32,
    limit: u32,
}

/// How many requests there were in each of the last seconds, oldest first.
struct Seconds {
    counts: VecDeque<u32>,
    /// When the newest of them began.
    began: Option<Instant>,
}

impl Rate {
    pub fn new(limit: u32) -> Rate {
        Rate { limit, seconds: Mutex::new(Seconds { counts: VecDeque::new(), began: None }) }
    }

    /// Counts a request, and answers it if there have not been too many.
    pub fn answer(&self, now: Instant, answer: impl FnOnce() -> Answer) -> Answer {
        let counted = self.count(now);
        let answer = counted.refusal().unwrap_or_else(answer);
        counted.stamp(answer)
    }

    /// Counts a request; for answers that take time.
    pub fn count(&self, now: Instant) -> Counted {
        let mut seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        seconds.turn_to(now);
        let is_too_much = seconds.average() >= self.limit;
        seconds.count();
        Counted { is_too_much, rolling: seconds.average(), limit: self.limit }
    }
}

impl Counted {
    /// The answer to one request too many.
    pub fn refusal(&self) -> Option<Answer> {
        let refusal = || answer::json(StatusCode::TOO_MANY_REQUESTS, r#"{"message":"Too many requests"}"#);
        self.is_too_much.then(refusal)
    }

    pub fn stamp(&self, mut answer: Answer) -> Answer {
        let headers = answer.headers_mut();
        headers.insert(ROLLING, HeaderValue::from(self.rolling));
        headers.insert(LIMIT, HeaderValue::from(self.limit));
        headers.insert(REMAINING, HeaderValue::from(self.limit.saturating_sub(self.rolling)));
        answer
    }
}

impl Seconds {
    /// Begins the seconds that have come since the last request.
    fn turn_to(&mut self, now: Instant) {
        let began = *self.began.get_or_insert(now);
        let passed = now.saturating_duration_since(began).as_secs();
        if self.counts.is_empty() {
            self.counts.push_back(0);
        }
        for _ in 0..passed.min(SECONDS) {
            self.counts.push_back(0);
        }
        while self.counts.len() as u64 > SECONDS {
            self.counts.pop_front();
        }
        self.began = Some(began + std::time::Duration::from_secs(passed));
    }

    fn count(&mut self) {
        if let Some(newest) = self.counts.back_mut() {
            *newest = newest.saturating_add(1);
        }
    }

    /// Rounded to whole requests.
    fn average(&self) -> u32 {
        let (sum, seconds) = (self.counts.iter().map(|count| u64::from(*count)).sum::<u64>(), self.counts.len() as u64);
        u32::try_from((sum + seconds / 2) / seconds.max(1)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Status, rolling average, and what remains.
    fn ask(rate: &Rate, now: Instant) -> (u16, String, String) {
        let answer = rate.answer(now, || answer::json(StatusCode::OK, "{}"));
        let header = |name: &HeaderName| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header(&LIMIT), "10");
        (answer.status().as_u16(), header(&ROLLING), header(&REMAINING))
    }

    #[test]
    fn above_the_average_there_are_too_many_until_it_has_fallen() {
        let (rate, start) = (Rate::new(10), Instant::now());
        for n in 1..=10 {
            assert_eq!(ask(&rate, start), (200, n.to_string(), (10 - n).to_string()));
        }
        assert_eq!(ask(&rate, start), (429, "11".into(), "0".into()));
        // 11 in two seconds, and this one.
        assert_eq!(ask(&rate, start + Duration::from_secs(1)), (200, "6".into(), "4".into()));
        assert_eq!(ask(&rate, start + Duration::from_secs(40)), (200, "0".into(), "10".into()));
        assert_eq!(ask(&rate, start + Duration::from_secs(4000)), (200, "0".into(), "10".into()));
    }
}
