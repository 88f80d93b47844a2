//! What is written in [`super::chat`]: transactions of one to five writes, made up by a seeded generator that knows
//! which rows there are.

mod content;

use std::collections::{BTreeMap, VecDeque};

use rand::Rng;
use rand::rngs::StdRng;

use crate::support::people::{ADMIN, AGENT, ALICE, BOB};

/// An agent who is no subscriber.
const OTHER_AGENT: &str = "44444444-4444-4444-8444-444444444444";
/// A user who is no subscriber.
const STRANGER: &str = "66666666-6666-4666-8666-666666666666";
const WORKSPACES: [&str; 3] = [
    "bbbbbbbb-0000-4000-8000-000000000001",
    "bbbbbbbb-0000-4000-8000-000000000002",
    "bbbbbbbb-0000-4000-8000-000000000003",
];
const USERS: [&str; 3] = [ALICE, BOB, STRANGER];
const AGENTS: [&str; 2] = [AGENT, OTHER_AGENT];
const MEMBERS: [&str; 5] = [ALICE, BOB, AGENT, ADMIN, STRANGER];

/// One statement that changes one row; `key` is the key's text (the `id` of it where it has two columns).
pub enum Write {
    /// `sql` returns the key.
    Insert {
        table: &'static str,
        sql: String,
    },
    Update {
        table: &'static str,
        key: String,
        sql: String,
    },
    Delete {
        table: &'static str,
        key: String,
        sql: String,
    },
    /// Of a table that nobody subscribes to.
    Unpublished {
        sql: String,
    },
}

pub struct Transaction {
    pub writes: Vec<Write>,
    /// It touches what policies look up.
    pub changes_visibility: bool,
}

/// The generator, and the rows that there are.
pub struct Script {
    random: StdRng,
    sessions: Vec<String>,
    /// Who has which session.
    taken: BTreeMap<String, &'static str>,
    /// Each with its session.
    messages: Vec<(String, String)>,
    /// The sessions of messages whose keys are not known yet, in order.
    sessions_of_new_messages: VecDeque<String>,
    announcements: Vec<String>,
    contacts: Vec<String>,
    inbox: Vec<String>,
    agents: Vec<&'static str>,
    members: Vec<(usize, &'static str)>,
}

impl Script {
    pub fn new(random: StdRng) -> Script {
        Script {
            random,
            sessions: Vec::new(),
            taken: BTreeMap::new(),
            messages: Vec::new(),
            sessions_of_new_messages: VecDeque::new(),
            announcements: Vec::new(),
            contacts: Vec::new(),
            inbox: Vec::new(),
            agents: Vec::new(),
            members: Vec::new(),
        }
    }

    /// A row has got this key.
    pub fn inserted(&mut self, table: &str, key: &str) {
        let rows = match table {
            "chat_messages" => {
                let session = self.sessions_of_new_messages.pop_front().expect("it was made up here");
                return self.messages.push((key.to_owned(), session));
            }
            "announcements" => &mut self.announcements,
            "contacts" => &mut self.contacts,
            "livechat_messages" => &mut self.inbox,
            "live_chat_sessions" => &mut self.sessions,
            _ => return,
        };
        rows.push(key.to_owned());
    }

    pub fn next_transaction(&mut self) -> Transaction {
        let changes_visibility = self.sessions.len() < 4 || self.chance(20);
        let count = self.random.random_range(1..=5);
        let writes = if changes_visibility {
            match self.random.random_range(0..10) {
                0..=1 => self.open_session(),
                2..=5 => self.change_sessions(count),
                6..=7 => self.change_members(count),
                8 => self.change_agents(),
                _ => self.delete_session(),
            }
        } else {
            (0..count).map(|_| self.content()).collect()
        };
        Transaction { writes, changes_visibility }
    }

    /// A session, with its first messages.
    fn open_session(&mut self) -> Vec<Write> {
        let id = format!("aaaaaaaa-0000-4000-8000-{:012x}", self.random.random_range(0..1_u64 << 48));
        let user = pick(&mut self.random, &USERS);
        let session =
            format!("insert into live_chat_sessions (id, user_id) values ('{id}', '{user}') returning id::text");
        let mut writes = vec![Write::Insert { table: "live_chat_sessions", sql: session }];
        for _ in 0..self.random.random_range(0..3) {
            let sql = format!(
                "insert into chat_messages (session_id, sender_id, body) values ('{id}', '{user}', '{}') returning id::text",
                self.body()
            );
            self.sessions_of_new_messages.push_back(id.clone());
            writes.push(Write::Insert { table: "chat_messages", sql });
        }
        writes
    }

    /// Sessions taken, closed, handed over and given to somebody else.
    fn change_sessions(&mut self, count: usize) -> Vec<Write> {
        let mut sessions = self.sessions.clone();
        let mut writes = Vec::new();
        for _ in 0..count {
            let Some(key) = take(&mut self.random, &mut sessions) else { break };
            let set = match self.random.random_range(0..5) {
                0 | 1 if !self.agents.is_empty() => {
                    let agent = *pick(&mut self.random, &self.agents);
                    self.taken.insert(key.clone(), agent);
                    format!("agent_id = '{agent}', status = 'active'")
                }
                2 => "status = 'closed', closed_at = now()".to_owned(),
                3 => {
                    self.taken.remove(&key);
                    "agent_id = null, status = 'waiting'".to_owned()
                }
                _ => format!("user_id = '{}'", pick(&mut self.random, &USERS)),
            };
            let sql = format!("update live_chat_sessions set {set} where id = '{key}'");
            writes.push(Write::Update { table: "live_chat_sessions", key, sql });
        }
        if writes.is_empty() { self.open_session() } else { writes }
    }

    fn change_members(&mut self, count: usize) -> Vec<Write> {
        let writes = (0..count).map(|_| {
            let member = (self.random.random_range(0..WORKSPACES.len()), *pick(&mut self.random, &MEMBERS));
            let (workspace, user) = (WORKSPACES[member.0], member.1);
            let sql = match self.members.iter().position(|one| *one == member) {
                Some(position) => {
                    self.members.swap_remove(position);
                    format!("delete from workspace_members where workspace_id = '{workspace}' and user_id = '{user}'")
                }
                None => {
                    self.members.push(member);
                    format!("insert into workspace_members (workspace_id, user_id) values ('{workspace}', '{user}')")
                }
            };
            Write::Unpublished { sql }
        });
        writes.collect()
    }

    /// Somebody becomes an agent, lets go of his sessions, or stops being one.
    fn change_agents(&mut self) -> Vec<Write> {
        let table = "support_agents";
        let agent = *pick(&mut self.random, &AGENTS);
        let Some(position) = self.agents.iter().position(|one| *one == agent) else {
            self.agents.push(agent);
            let values = format!("('{agent}', 'Agent {}')", &agent[..1]);
            let sql = format!("insert into {table} (user_id, display_name) values {values} returning user_id::text");
            return vec![Write::Insert { table, sql }];
        };
        let sessions: Vec<String> =
            self.taken.iter().filter(|(_, one)| **one == agent).map(|(session, _)| session.clone()).take(5).collect();
        if sessions.is_empty() {
            self.agents.swap_remove(position);
            let sql = format!("delete from {table} where user_id = '{agent}'");
            return vec![Write::Delete { table, key: agent.to_owned(), sql }];
        }
        let release = |key: String| {
            let sql = format!("update live_chat_sessions set agent_id = null, status = 'waiting' where id = '{key}'");
            Write::Update { table: "live_chat_sessions", key, sql }
        };
        sessions.iter().for_each(|session| _ = self.taken.remove(session));
        sessions.into_iter().map(release).collect()
    }

    /// Only a session without messages: they would be deleted with it, and who might see them depends on what is gone.
    fn delete_session(&mut self) -> Vec<Write> {
        let is_empty = |session: &String| self.messages.iter().all(|(_, of)| of != session);
        let Some(position) = self.sessions.iter().position(is_empty) else { return self.change_sessions(1) };
        let key = self.sessions.swap_remove(position);
        self.taken.remove(&key);
        let sql = format!("delete from live_chat_sessions where id = '{key}'");
        vec![Write::Delete { table: "live_chat_sessions", key, sql }]
    }

    fn workspace(&mut self) -> &'static str {
        WORKSPACES[self.random.random_range(0..WORKSPACES.len())]
    }

    /// Text with something in it that JSON must escape.
    fn body(&mut self) -> String {
        let words = ["hello", "\"quoted\"", "back\\slash", "naïve ☃ 𝄞", "tab\there", "line\nfeed", ""];
        format!("{} {}", pick(&mut self.random, &words), self.random.random_range(0..1000))
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }
}

fn pick<'a, T>(random: &mut StdRng, items: &'a [T]) -> &'a T {
    &items[random.random_range(0..items.len())]
}

fn take<T>(random: &mut StdRng, items: &mut Vec<T>) -> Option<T> {
    (!items.is_empty()).then(|| items.swap_remove(random.random_range(0..items.len())))
}
