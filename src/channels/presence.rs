//! What a channel keeps of its own presence: its key, and how often it has called lately.

use std::sync::Arc;
use std::time::{Duration, Instant};

pub struct OwnPresence {
    pub key: Arc<str>,
    calls: u32,
    window_ends: Option<Instant>,
}

impl OwnPresence {
    pub fn new(key: Option<&str>) -> OwnPresence {
        OwnPresence { key: key.map_or_else(random_key, Arc::from), calls: 0, window_ends: None }
    }

    /// Counts a track or untrack; a window begins with the first. Whether it is within the limit.
    pub fn call(&mut self, max: Option<u32>, window: Duration, now: Instant) -> bool {
        if self.window_ends.is_none_or(|ends| ends <= now) {
            (self.calls, self.window_ends) = (0, Some(now + window));
        }
        self.calls = self.calls.saturating_add(1);
        max.is_none_or(|max| self.calls <= max)
    }
}

/// A UUID of version 4.
fn random_key() -> Arc<str> {
    let random: u128 = rand::random();
    let bits = random & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let text = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_made_is_a_uuid_and_another_each_time() {
        let (one, other) = (random_key(), random_key());
        assert_ne!(one, other);
        assert_eq!(one.len(), 36);
        assert_eq!(one.as_bytes()[14], b'4');
        assert!(matches!(one.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
    }

    #[test]
    fn calls_are_counted_in_windows() {
        let (mut own, start) = (OwnPresence::new(Some("k")), Instant::now());
        let mut call = |seconds| own.call(Some(2), Duration::from_secs(30), start + Duration::from_secs(seconds));
        assert_eq!([call(0), call(1), call(29), call(30)], [true, true, false, true]);
    }
}
