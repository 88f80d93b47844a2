//! What people write day in, day out: it changes nobody's rights.

use rand::Rng;

use super::{Script, Write, pick, take};
use crate::support::people::{AGENT, ALICE};

impl Script {
    /// A write that changes nobody's rights.
    pub fn content(&mut self) -> Write {
        match self.random.random_range(0..100) {
            0..30 if !self.sessions.is_empty() => self.insert_message(),
            30..48 => self.update_message(),
            48..56 => self.delete_message(),
            56..64 => self.insert_announcement(),
            64..70 => self.update_announcement(),
            70..74 => self.delete_announcement(),
            74..79 => self.insert_contact(),
            79..82 => self.update_contact(),
            82..92 if !self.contacts.is_empty() => self.insert_inbox(),
            92..95 => self.update_inbox(),
            95..98 => self.delete_inbox(),
            _ => self.update_agent(),
        }
    }

    fn insert_message(&mut self) -> Write {
        let session = pick(&mut self.random, &self.sessions).clone();
        let (sender, kind) = if self.chance(50) { (ALICE, "user") } else { (AGENT, "agent") };
        let body = self.body();
        self.sessions_of_new_messages.push_back(session.clone());
        Write::Insert {
            table: "chat_messages",
            sql: format!(
                "insert into chat_messages (session_id, sender_id, sender_type, body, metadata) values
                 ('{session}', '{sender}', '{kind}', '{body}', '{{\"tags\": [1, 2.50, null], \"b\": {{}}}}') returning id::text"
            ),
        }
    }

    fn update_message(&mut self) -> Write {
        if self.messages.is_empty() {
            return self.insert_announcement();
        }
        let message = self.random.random_range(0..self.messages.len());
        let key = self.messages[message].0.clone();
        let set = match self.random.random_range(0..3) {
            0 => "read_at = clock_timestamp()".to_owned(),
            1 => format!("body = '{}'", self.body()),
            // It moves: whoever sees it only now must not see where it was.
            _ => {
                let session = pick(&mut self.random, &self.sessions).clone();
                self.messages[message].1.clone_from(&session);
                format!("session_id = '{session}'")
            }
        };
        let sql = format!("update chat_messages set {set} where id = {key}");
        Write::Update { table: "chat_messages", key, sql }
    }

    fn delete_message(&mut self) -> Write {
        match take(&mut self.random, &mut self.messages) {
            None => self.insert_announcement(),
            Some((key, _)) => {
                let sql = format!("delete from chat_messages where id = {key}");
                Write::Delete { table: "chat_messages", key, sql }
            }
        }
    }

    fn insert_announcement(&mut self) -> Write {
        let (published, title) = (self.chance(60), self.body());
        let values = format!("('{title}', {published})");
        let sql = format!("insert into announcements (title, published) values {values} returning id::text");
        Write::Insert { table: "announcements", sql }
    }

    fn update_announcement(&mut self) -> Write {
        if self.announcements.is_empty() {
            return self.insert_announcement();
        }
        let key = pick(&mut self.random, &self.announcements).clone();
        let sql = format!("update announcements set published = not published where id = {key}");
        Write::Update { table: "announcements", key, sql }
    }

    fn delete_announcement(&mut self) -> Write {
        match take(&mut self.random, &mut self.announcements) {
            None => self.insert_announcement(),
            Some(key) => {
                let sql = format!("delete from announcements where id = {key}");
                Write::Delete { table: "announcements", key, sql }
            }
        }
    }

    fn insert_contact(&mut self) -> Write {
        let (workspace, name) = (self.workspace(), self.body());
        let sql =
            format!("insert into contacts (workspace_id, name) values ('{workspace}', '{name}') returning id::text");
        Write::Insert { table: "contacts", sql }
    }

    fn update_contact(&mut self) -> Write {
        if self.contacts.is_empty() {
            return self.insert_contact();
        }
        let key = pick(&mut self.random, &self.contacts).clone();
        let set = match self.random.random_range(0..2) {
            0 => format!("workspace_id = '{}'", self.workspace()),
            _ => format!("email = '{}@example.com'", self.random.random_range(0..100)),
        };
        let sql = format!("update contacts set {set} where id = '{key}'");
        Write::Update { table: "contacts", key, sql }
    }

    fn insert_inbox(&mut self) -> Write {
        let contact = pick(&mut self.random, &self.contacts).clone();
        let (workspace, body) = (self.workspace(), self.body());
        // This month's partition, and the one for the rest.
        let at = if self.chance(80) { "now()" } else { "'2001-01-01 00:00:00.25+00'" };
        let columns = "workspace_id, contact_id, direction, body, created_at";
        let values = format!("'{workspace}', '{contact}', 'inbound', '{body}', {at}");
        let sql = format!("insert into livechat_messages ({columns}) values ({values}) returning id::text");
        Write::Insert { table: "livechat_messages", sql }
    }

    fn update_inbox(&mut self) -> Write {
        if self.inbox.is_empty() {
            return self.insert_announcement();
        }
        let key = pick(&mut self.random, &self.inbox).clone();
        let set = match self.random.random_range(0..2) {
            0 => format!("workspace_id = '{}'", self.workspace()),
            _ => format!("body = '{}'", self.body()),
        };
        let sql = format!("update livechat_messages set {set} where id = '{key}'");
        Write::Update { table: "livechat_messages", key, sql }
    }

    fn delete_inbox(&mut self) -> Write {
        match take(&mut self.random, &mut self.inbox) {
            None => self.insert_announcement(),
            Some(key) => {
                let sql = format!("delete from livechat_messages where id = '{key}'");
                Write::Delete { table: "livechat_messages", key, sql }
            }
        }
    }

    fn update_agent(&mut self) -> Write {
        if self.agents.is_empty() {
            return self.insert_announcement();
        }
        let key = pick(&mut self.random, &self.agents).to_string();
        let sql = format!("update support_agents set available = not available where user_id = '{key}'");
        Write::Update { table: "support_agents", key, sql }
    }
}
