//! `POST /api/broadcast`: what is wrong with a batch, or its messages (PROTOCOL 7.2).

use std::borrow::Cow;

use super::json::{Elements, Json};

const BLANK: &str = "can't be blank";
const INVALID: &str = "is invalid";
const TOO_LARGE: &str = "Payload size exceeds tenant limit";

/// Of one request. What else is in a batch is counted as events per second; this bounds what one request asks at once.
pub const MESSAGES_MAX: usize = 10_000;

pub struct Message<'a> {
    /// Without `realtime:`.
    pub topic: Cow<'a, str>,
    pub private: bool,
    /// What receivers get: `{"event","meta"?,"payload","type"}`.
    pub object: String,
}

/// Why nothing of a batch is sent.
#[derive(Debug, PartialEq, Eq)]
pub enum BatchError {
    /// 422 with this body.
    Invalid(String),
    TooMany,
}

/// All messages, or what is wrong with any of them: one bad message spoils the batch.
pub fn parse(body: Option<Json<'_>>, payload_bytes_max: usize) -> Result<Vec<Message<'_>>, BatchError> {
    let whole = |problem: &str| Err(BatchError::Invalid(format!(r#"{{"errors":{{"messages":["{problem}"]}}}}"#)));
    let messages = body.and_then(|body| body.fields(["messages"])).and_then(|[messages]| messages);
    let Some(messages) = messages.filter(|messages| !messages.is_null()) else { return whole(BLANK) };
    let elements = match messages.elements(MESSAGES_MAX) {
        None => return whole(INVALID),
        Some(Elements::TooMany) => return Err(BatchError::TooMany),
        Some(Elements::All(elements)) if elements.is_empty() => return whole(BLANK),
        Some(Elements::All(elements)) => elements,
    };
    if elements.iter().any(|element| !element.is_object()) {
        return whole(INVALID);
    }
    let read: Vec<_> = elements.into_iter().map(|element| message(element, payload_bytes_max)).collect();
    if read.iter().all(Result::is_ok) {
        return Ok(read.into_iter().flatten().collect());
    }
    let problems: Vec<_> = read.into_iter().map(|message| message.err().unwrap_or_default().json()).collect();
    Err(BatchError::Invalid(format!(r#"{{"errors":{{"messages":[{}]}}}}"#, problems.join(","))))
}

/// What is wrong with a message, by field.
#[derive(Default)]
struct Problems(Vec<(&'static str, &'static str)>);

impl Problems {
    fn json(&self) -> String {
        let problems = self.0.iter().map(|(field, problem)| format!(r#""{field}":["{problem}"]"#));
        format!("{{{}}}", problems.collect::<Vec<_>>().join(","))
    }
}

fn message<'a>(element: Json<'a>, payload_bytes_max: usize) -> Result<Message<'a>, Problems> {
    let [topic, event, payload, private, id] =
        element.fields(["topic", "event", "payload", "private", "id"]).unwrap_or_default();
    let given = |value: Option<Json<'a>>| value.filter(|value| !value.is_null());
    let name = |value: Option<Json<'a>>| match given(value) {
        None => Err(BLANK),
        Some(value) => match value.string() {
            None => Err(INVALID),
            Some(text) if text.trim().is_empty() => Err(BLANK),
            Some(text) => Ok(text),
        },
    };
    let payload = match given(payload) {
        None => Err(BLANK),
        Some(payload) if !payload.is_object() => Err(INVALID),
        Some(payload) if payload.text().len() > payload_bytes_max => Err(TOO_LARGE),
        Some(payload) => Ok(payload.text()),
    };
    let private = match given(private).map(Json::text) {
        None | Some("false" | "\"false\"" | "\"0\"") => Ok(false),
        Some("true" | "\"true\"" | "\"1\"") => Ok(true),
        Some(_) => Err(INVALID),
    };
    let id = match given(id) {
        None => Ok(None),
        Some(id) if id.string().is_some() => Ok(Some(id.text())),
        Some(_) => Err(INVALID),
    };
    match (name(topic), name(event), payload, private, id) {
        (Ok(topic), Ok(_), Ok(payload), Ok(private), Ok(id)) => {
            let object = object(event.map_or("", Json::text), payload, id);
            Ok(Message { topic, private, object })
        }
        (topic, event, payload, private, id) => {
            let fields = [
                ("event", event.err()),
                ("id", id.err()),
                ("payload", payload.err()),
                ("private", private.err()),
                ("topic", topic.err()),
            ];
            Err(Problems(fields.into_iter().filter_map(|(field, problem)| Some((field, problem?))).collect()))
        }
    }
}

/// Keys in the original's order. All three are JSON as they came.
fn object(event: &str, payload: &str, id: Option<&str>) -> String {
    let meta = id.map(|id| format!(r#""meta":{{"id":{id}}},"#)).unwrap_or_default();
    format!(r#"{{"event":{event},{meta}"payload":{payload},"type":"broadcast"}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invalid(body: &str) -> String {
        match parse(Json::check(body.as_bytes()), 100) {
            Err(BatchError::Invalid(body)) => body,
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("{body} is valid"),
        }
    }

    #[test]
    fn what_is_wrong_with_a_batch_is_said_by_message_and_field() {
        let whole = |problem: &str| format!(r#"{{"errors":{{"messages":["{problem}"]}}}}"#);
        for blank in ["{}", "[]", r#"{"messages":[]}"#, r#"{"messages":null}"#, "5", r#"[{"messages":[{}]}]"#] {
            assert_eq!(invalid(blank), whole("can't be blank"), "{blank}");
        }
        assert!(matches!(parse(None, 100), Err(BatchError::Invalid(body)) if body == whole("can't be blank")));
        for wrong in [r#"{"messages":5}"#, r#"{"messages":{}}"#, r#"{"messages":[1]}"#, r#"{"messages":"x"}"#] {
            assert_eq!(invalid(wrong), whole("is invalid"), "{wrong}");
        }
        let items = [
            (r#"{"event":"e","payload":{}}"#, r#"{"topic":["can't be blank"]}"#),
            (r#"{"topic":" ","event":"","payload":{}}"#, r#"{"event":["can't be blank"],"topic":["can't be blank"]}"#),
            (r#"{"topic":"t","event":"e"}"#, r#"{"payload":["can't be blank"]}"#),
            (r#"{"topic":"t","event":"e","payload":"s"}"#, r#"{"payload":["is invalid"]}"#),
            (r#"{"topic":"t","event":"e","payload":[]}"#, r#"{"payload":["is invalid"]}"#),
            (r#"{"topic":"t","event":"e","payload":{},"private":"maybe"}"#, r#"{"private":["is invalid"]}"#),
            (r#"{"topic":"t","event":"e","payload":{},"id":7}"#, r#"{"id":["is invalid"]}"#),
            (r#"{"topic":1}"#, r#"{"event":["can't be blank"],"payload":["can't be blank"],"topic":["is invalid"]}"#),
        ];
        for (item, problems) in items {
            let body = format!(r#"{{"messages":[{{"topic":"t","event":"e","payload":{{}}}},{item}]}}"#);
            assert_eq!(invalid(&body), format!(r#"{{"errors":{{"messages":[{{}},{problems}]}}}}"#), "{item}");
        }
        let large = format!(r#"{{"messages":[{{"topic":"t","event":"e","payload":{{"d":"{}"}}}}]}}"#, "x".repeat(100));
        assert_eq!(invalid(&large), r#"{"errors":{"messages":[{"payload":["Payload size exceeds tenant limit"]}]}}"#);
    }

    #[test]
    fn messages_are_what_receivers_get() {
        let body = r#"{"messages":[
            {"topic":"a","event":"e\"1","payload":{"n": 1.50}},
            {"topic":"b:c","event":"e","payload":{},"private":true,"id":"x","extra":1},
            {"topic":"d","event":"e","payload":{},"private":null,"id":null}]}"#;
        let messages = parse(Json::check(body.as_bytes()), 100).unwrap_or_default();
        let seen: Vec<_> = messages.iter().map(|m| (&*m.topic, m.private, &*m.object)).collect();
        let expected = [
            ("a", false, r#"{"event":"e\"1","payload":{"n": 1.50},"type":"broadcast"}"#),
            ("b:c", true, r#"{"event":"e","meta":{"id":"x"},"payload":{},"type":"broadcast"}"#),
            ("d", false, r#"{"event":"e","payload":{},"type":"broadcast"}"#),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_batch_has_an_end() {
        let body = format!(r#"{{"messages":[{}]}}"#, vec!["{}"; MESSAGES_MAX + 1].join(","));
        assert!(matches!(parse(Json::check(body.as_bytes()), 100), Err(BatchError::TooMany)));
    }
}
