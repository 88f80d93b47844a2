//! What a client asked to have logged of itself (`log_level`, PROTOCOL 1.2): for whoever debugs one page among thousands.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much a socket wants said of it. What is told of all of them is not touched by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    #[default]
    Error,
    Warning,
    Info,
}

impl LogLevel {
    /// Of the upgrade's parameter; anything else is the default.
    pub fn of(parameter: Option<&str>) -> LogLevel {
        match parameter {
            Some("info") => LogLevel::Info,
            Some("warning") => LogLevel::Warning,
            _ => LogLevel::Error,
        }
    }
}

/// Anybody may ask, so the lines of all sockets together are few: a log is not for strangers to fill.
const LINES_PER_SECOND: u32 = 20;

#[derive(Default)]
pub struct Diary(Mutex<(Option<Instant>, u32)>);

impl Diary {
    /// Counts a line, if there is room for it in this second.
    pub fn has_room(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, lines) = &mut *state;
        if since.is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1)) {
            (*since, *lines) = (Some(now), 0);
        }
        *lines += 1;
        *lines <= LINES_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_do_not_fill_the_log() {
        let (diary, now) = (Diary::default(), Instant::now());
        assert_eq!((0..1000).filter(|_| diary.has_room(now)).count(), 20);
        assert!(diary.has_room(now + Duration::from_secs(1)));
    }
}
