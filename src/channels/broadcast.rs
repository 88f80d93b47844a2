//! What is broadcast, wherever it comes from, and the frames that it becomes (PROTOCOL 2.4).

/// A message to everybody on a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// A JSON object that every receiver gets as it is: text frames `broadcast`, and REST's batch.
    Object(&'a str),
    /// An event with a payload that is not looked into: kind 3, REST's single event, rows of the database. Receivers of
    /// version 2 get it as kind 4, those of version 1 as text, and nothing where it is binary.
    Event {
        event: &'a str,
        payload: EventPayload<'a>,
        /// `meta.id`: the row's id.
        id: Option<&'a str>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventPayload<'a> {
    Json(&'a [u8]),
    Binary(&'a [u8]),
}
