//! Who is on which topic: the only thing that sockets share. Sharded, with short locks.

use super::broadcast::Content;
use super::outbox::Burst;
use super::subscribe::ChannelId;

/// Public and private channels of one name are two topics (PROTOCOL 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TopicKey<'a> {
    pub private: bool,
    /// Without `realtime:`.
    pub subtopic: &'a str,
}

/// What became of a broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broadcasted {
    /// Queued for so many channels.
    To(usize),
    /// Its payload is above the limit.
    TooLarge,
    /// More events per second than allowed.
    TooMany,
}

#[derive(Default)]
pub struct Hub {}

impl Hub {
    /// Gives a message to everybody on the topic but `from`. In order: what one caller broadcasts later is received
    /// later. The burst holds the waking of their sockets until it is let go.
    pub fn broadcast(
        &self,
        _topic: TopicKey<'_>,
        _content: &Content<'_>,
        _from: Option<ChannelId>,
        _burst: &mut Burst,
    ) -> Broadcasted {
        Broadcasted::To(0)
    }
}
