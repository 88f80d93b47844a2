//! Topics: `realtime:` and whatever follows it (PROTOCOL 3.1).

/// What every channel's topic begins with. Case-sensitive.
pub const PREFIX: &str = "realtime:";

/// The topic of the socket itself: heartbeats.
pub const PHOENIX: &str = "phoenix";

/// A topic is kept for as long as its channel is, so it must have a limit. Filters of legacy topics are the longest that
/// are seen; Supabase has no limit of its own.
pub const BYTES_MAX: usize = 4096;

/// What a client may ask to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic<'a> {
    /// The subtopic, never empty. Colons in it mean nothing here.
    Channel(&'a str),
    /// `realtime:` alone.
    Nameless,
    TooLong,
    /// Not a channel of ours.
    Unmatched,
}

impl<'a> Topic<'a> {
    pub fn parse(topic: &'a str) -> Topic<'a> {
        match topic.strip_prefix(PREFIX) {
            None => Topic::Unmatched,
            Some("") => Topic::Nameless,
            Some(_) if topic.len() > BYTES_MAX => Topic::TooLong,
            Some(subtopic) => Topic::Channel(subtopic),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_realtime_topics_with_a_name_are_channels() {
        assert_eq!(Topic::parse("realtime:room:1"), Topic::Channel("room:1"));
        assert_eq!(Topic::parse("realtime:"), Topic::Nameless);
        assert_eq!(Topic::parse("Realtime:room"), Topic::Unmatched);
        assert_eq!(Topic::parse("phoenix"), Topic::Unmatched);
        assert_eq!(Topic::parse(&format!("realtime:{}", "x".repeat(5000))), Topic::TooLong);
    }
}
