//! A Phoenix message as either serializer writes it, with numbers as they are spelled.

use serde_json::{Map, Value};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Absent where the serializer has no place for it (1.0.0), which is a difference of its own.
    pub join_ref: Option<Value>,
    pub reference: Value,
    pub topic: String,
    pub event: String,
    pub payload: Value,
}

impl Message {
    /// `None` where `text` is neither `[join_ref, ref, topic, event, payload]` nor an object of exactly
    /// `topic, event, payload, ref`.
    pub fn parse(text: &str) -> Option<Message> {
        match serde_json::from_str(&numbers_spelled(text)).ok()? {
            Value::Array(parts) => {
                let [join_ref, reference, topic, event, payload] = <[Value; 5]>::try_from(parts).ok()?;
                let (topic, event) = (topic.as_str()?.to_string(), event.as_str()?.to_string());
                Some(Message { join_ref: Some(join_ref), reference, topic, event, payload })
            }
            Value::Object(mut object) if object.len() == 4 => {
                let mut take = |key: &str| object.remove(key);
                let (topic, event) = (take("topic")?.as_str()?.to_string(), take("event")?.as_str()?.to_string());
                let (reference, payload) = (take("ref")?, take("payload")?);
                Some(Message { join_ref: None, reference, topic, event, payload })
            }
            _ => None,
        }
    }

    /// The change inside: `payload.data` of a `postgres_changes` frame, the payload itself on a legacy channel.
    pub fn change(&mut self) -> Option<&mut Map<String, Value>> {
        match self.event.as_str() {
            "postgres_changes" => self.payload.get_mut("data")?.as_object_mut(),
            "INSERT" | "UPDATE" | "DELETE" => self.payload.as_object_mut(),
            _ => None,
        }
    }
}

/// How [`Message`]s hold the number `1.50`: a string, because as a number it would be equal to `1.5`.
const NUMBER: &str = "number ";

pub fn number(value: &Value) -> Option<&str> {
    value.as_str()?.strip_prefix(NUMBER)
}

fn numbers_spelled(json: &str) -> String {
    let mut out = String::with_capacity(json.len() + 64);
    let mut rest = json;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => string_length(rest),
            '-' | '0'..='9' => {
                let end =
                    rest.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E')).unwrap_or(rest.len());
                out.push_str(&format!("\"{NUMBER}{}\"", &rest[..end]));
                rest = &rest[end..];
                continue;
            }
            other => other.len_utf8(),
        };
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    out
}

/// The length of the JSON string that `text` begins with, quotes included.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            b'"' if !escaped => return index + 1,
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_serializers_are_read_and_numbers_keep_their_spelling() {
        let message = Message::parse(r#"[null,7,"t","e",{"a":[1.50,"1.5 \" 2"],"b":-1e3}]"#).unwrap();
        assert_eq!(number(&message.reference), Some("7"));
        assert_eq!(number(&message.payload["a"][0]), Some("1.50"));
        assert_eq!(message.payload["a"][1], "1.5 \" 2");
        let old = Message::parse(r#"{"ref":null,"event":"e","payload":{},"topic":"t"}"#).unwrap();
        assert_eq!((old.join_ref, old.reference), (None, Value::Null));
        assert_eq!(Message::parse(r#"{"ref":null,"event":"e","payload":{},"topic":"t","join_ref":"1"}"#), None);
    }
}
