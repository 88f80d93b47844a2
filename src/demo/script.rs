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
    Insert { table: &'static str, row: Value },
    /// Of the rows whose column has this value.
    Update { table: &'static str, column: &'static str, value: String, row: Value },
    Delete { table: &'static str, column: &'static str, value: String },
}

#[derive(Clone, Debug)]
pub struct Line {
    pub speaker: Speaker,
    /// What a person needs to read and type.
    pub pause: Duration,
    pub write: Write,
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
    let session_becomes = |row| Write::Update {
        table: "live_chat_sessions",
        column: "id",
        value: session.to_owned(),
        row,
    };
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
        line(Agent, 600, session_becomes(json!({ "status": "closed", "closed_at": "now" }))),
    ]
}

fn line(speaker: Speaker, pause: u64, write: Write) -> Line {
    Line { speaker, pause: Duration::from_millis(pause), write }
}
