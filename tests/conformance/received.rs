//! What a server sends: a Phoenix message as text, or a broadcast of kind 4 (PROTOCOL 2.3).

use super::message::Message;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    Text(Message),
    Broadcast(UserBroadcast),
}

/// Kind 4: `4, topic length, event length, metadata length, encoding`, then the three strings and the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserBroadcast {
    pub topic: String,
    pub event: String,
    pub metadata: String,
    /// 0 is binary, 1 is JSON.
    pub encoding: u8,
    pub payload: Payload,
}

/// Text where it is UTF-8, so that differences can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    Text(String),
    Bytes(Vec<u8>),
}

impl Received {
    /// `None` where it is neither; official clients throw at any other kind.
    pub fn parse_binary(bytes: &[u8]) -> Option<Received> {
        let [4, topic, event, metadata, encoding, rest @ ..] = bytes else { return None };
        let (topic, rest) = rest.split_at_checked(usize::from(*topic))?;
        let (event, rest) = rest.split_at_checked(usize::from(*event))?;
        let (metadata, payload) = rest.split_at_checked(usize::from(*metadata))?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let payload = text(payload).map_or_else(|| Payload::Bytes(payload.to_vec()), Payload::Text);
        Some(Received::Broadcast(UserBroadcast {
            topic: text(topic)?,
            event: text(event)?,
            metadata: text(metadata)?,
            encoding: *encoding,
            payload,
        }))
    }

    pub fn topic(&self) -> &str {
        match self {
            Received::Text(message) => &message.topic,
            Received::Broadcast(broadcast) => &broadcast.topic,
        }
    }

    pub fn text(&self) -> Option<&Message> {
        match self {
            Received::Text(message) => Some(message),
            Received::Broadcast(_) => None,
        }
    }
}

/// The parts in which two differ.
pub fn difference(ours: &Received, recorded: &Received) -> String {
    let (Received::Text(ours), Received::Text(recorded)) = (ours, recorded) else {
        return format!("{ours:?} is not {recorded:?}");
    };
    let parts = [
        ("join_ref", format!("{:?}", ours.join_ref), format!("{:?}", recorded.join_ref)),
        ("ref", ours.reference.to_string(), recorded.reference.to_string()),
        ("event", ours.event.clone(), recorded.event.clone()),
        ("payload", ours.payload.to_string(), recorded.payload.to_string()),
    ];
    let differing = parts.iter().filter(|(_, ours, recorded)| ours != recorded);
    differing.map(|(name, ours, recorded)| format!("{name} is {ours}, not {recorded}")).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_4_is_read_and_nothing_else() {
        let frame = b"\x04\x0a\x02\x02\x01realtime:tev{}{\"a\":1}";
        let Some(Received::Broadcast(broadcast)) = Received::parse_binary(frame) else { panic!("kind 4") };
        assert_eq!((broadcast.topic.as_str(), broadcast.event.as_str()), ("realtime:t", "ev"));
        assert_eq!((broadcast.metadata.as_str(), broadcast.encoding), ("{}", 1));
        assert_eq!(broadcast.payload, Payload::Text("{\"a\":1}".into()));
        assert_eq!(Received::parse_binary(b"\x04\xff\x00\x00\x00short"), None);
        assert_eq!(Received::parse_binary(b"\x02\x0a\x02\x02\x01realtime:tev{}"), None);
    }
}
