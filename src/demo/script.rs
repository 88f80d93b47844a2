//! The conversation of the demo: who writes what into which table. Knows neither how it is written nor who listens.

use std::time::Duration;

use serde_json::{Value, json};

pub const CUSTOMER: &str = "11111111-1111-4111-8111-111111111111";
pub const AGENT: &str = "33333333-3333-4333-8333-333333333333";
pub const EAVESDROPPER: &str = "22222222-2222-4222-8222-222222222222";

/// Who writes; each under a token of his own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    Customer,
    Agent,
}

impl Speaker {
    pub fn id(self) -> &'static str {
        match self {
            Speaker::Customer => CUSTOMER,
            Speaker::Agent => AGENT,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Speaker::Customer => "customer",
            Speaker::Agent => "agent",
        }
    }
}

/// A write as PostgREST and SQL both can say it.
#[derive(Clone, Debug)]
pub enum Write {
    Insert {
        table: &'static str,
        row: Value,
    },
    /// Of the rows whose column has this value.
    Update {
        table: &'static str,
        column: &'static str,
        value: String,
        row: Value,
    },
    Delete {
        table: &'static str,
        column: &'static str,
        value: String,
    },
}

#[derive(Clone, Debug)]
pub struct Line {
    pub speaker: Speaker,
    /// What a person needs to read and type.
    pub pause: Duration,
    pub write: Write,
}

impl Line {
    /// Whether a change is what this line wrote. Others may come before it: the stream may be behind what a listener has
    /// already read.
    pub fn made(&self, change: &Value) -> bool {
        let is = |kind: &str, table: &str| change["type"] == kind && change["table"] == table;
        let has = |image: &str, row: &Value| {
            row.as_object().into_iter().flatten().all(|(column, value)| change[image][column] == *value)
        };
        match &self.write {
            Write::Insert { table, row } => is("INSERT", table) && has("record", row),
            Write::Update { table, row, .. } => is("UPDATE", table) && has("record", row),
            Write::Delete { table, column, value } => {
                is("DELETE", table) && change["old_record"][*column] == value.as_str()
            }
        }
    }
}

/// Opens the session; before it there is nothing to listen to.
pub fn opening(session: &str) -> Line {
    let row = json!({ "id": session, "subject": "Where is my order?" });
    line(Speaker::Customer, 0, Write::Insert { table: "live_chat_sessions", row })
}

/// What is said on `messages-<session>`.
pub fn conversation(session: &str) -> Vec<Line> {
    use Speaker::{Agent, Customer};
    let says = |speaker: Speaker, pause, body: &str| {
        let kind = if speaker == Agent { "agent" } else { "user" };
        let row = json!({ "session_id": session, "sender_type": kind, "body": body });
        line(speaker, pause, Write::Insert { table: "chat_messages", row })
    };
    let session_becomes =
        |row| Write::Update { table: "live_chat_sessions", column: "id", value: session.to_owned(), row };
    let typo = "It schould have come yesterday.";
    vec![
        says(Customer, 300, "Hello? Is anybody there?"),
        line(Agent, 900, session_becomes(json!({ "status": "active", "agent_id": AGENT }))),
        says(Agent, 600, "Hi, this is Ada. What can I do for you?"),
        says(Customer, 1_200, typo),
        line(
            Customer,
            700,
            Write::Update {
                table: "chat_messages",
                column: "body",
                value: typo.to_owned(),
                row: json!({ "body": "It should have come yesterday." }),
            },
        ),
        says(Agent, 1_100, "It is on its way: today before noon."),
        says(Customer, 800, "asdf"),
        line(Customer, 400, Write::Delete { table: "chat_messages", column: "body", value: "asdf".to_owned() }),
        says(Customer, 700, "Thank you!"),
        line(Agent, 600, session_becomes(json!({ "status": "closed" }))),
    ]
}

fn line(speaker: Speaker, pause: u64, write: Write) -> Line {
    Line { speaker, pause: Duration::from_millis(pause), write }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_knows_its_own_change_from_an_older_one() {
        let session = "aaaaaaaa-0000-4000-8000-000000000001";
        let change = |kind: &str, table: &str, record: Value| json!({ "type": kind, "table": table, "record": record });
        let opened = change("INSERT", "live_chat_sessions", json!({ "id": session, "subject": "Where is my order?" }));
        let taken =
            change("UPDATE", "live_chat_sessions", json!({ "id": session, "status": "active", "agent_id": AGENT }));
        let script = conversation(session);
        assert!(opening(session).made(&opened));
        assert!(script.iter().all(|line| !line.made(&opened)));
        assert_eq!(script.iter().filter(|line| line.made(&taken)).count(), 1);
    }
}
