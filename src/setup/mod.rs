//! `walcast setup`: everything that walcast needs in a database, and nothing that it does not.
//!
//! [`Facts`] are read from the database, [`plan`](plan::plan) turns them into [`Step`]s of plain SQL without asking
//! anything, [`run()`] carries them out in one transaction. `--dry-run` prints the same steps. Run again, it repairs what
//! is missing and leaves the rest; `--remove` takes away what it made. What policies read is found out and [`track`]ed
//! afterwards, in a transaction of its own. Knows nothing of the relay.

mod broadcasts;
mod facts;
mod plan;
mod remove;
mod run;
pub mod tracking;

pub use facts::{ApiRole, Facts, api_roles};
pub use plan::{Secrets, plan};
pub use remove::removal;
pub use run::{Outcome, Report, SetupError, automatic, facts, oracle_login, remove, run};
pub use tracking::{Tracking, track};

use crate::wal::Conninfo;

/// The publication that is walcast's own: `walcast.ddl_log`, and what it tracks.
pub const OWN_PUBLICATION: &str = "walcast";

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Config {
    /// The publications that subscribers read; those that are missing are created empty.
    pub publications: Vec<String>,
    /// The slot that `serve` makes; only `--remove` needs its name.
    pub slot: String,
    /// The login that `serve` is given: REPLICATION, BYPASSRLS, and SELECT on walcast's own tables.
    pub stream_login: String,
    /// The login that policies are evaluated on: NOINHERIT, member of the API roles, nothing else.
    pub oracle_login: String,
    /// Make `anon`, `authenticated`, `service_role` and `auth.uid()/jwt()/role()/email()`.
    pub with_auth: bool,
    /// Give the two logins new passwords although they have one.
    pub new_passwords: bool,
    /// Put the tables that policies read into walcast's own publication.
    pub track: bool,
    /// Where the oracle's login reads the bodies of functions; without it their tables are not known.
    pub conninfo: Option<Conninfo>,
    /// `host:port` for the URL that is printed at the end.
    pub authority: String,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            publications: vec!["supabase_realtime".into()],
            slot: "walcast".into(),
            stream_login: "walcast".into(),
            oracle_login: "walcast_oracle".into(),
            with_auth: false,
            new_passwords: false,
            track: true,
            conninfo: None,
            authority: "localhost:5432".into(),
        }
    }
}

/// One thing to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub title: String,
    /// Tried in this order until one succeeds.
    pub attempts: Vec<Attempt>,
    pub otherwise: Otherwise,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub sql: String,
    /// What it means that this is the attempt that succeeded; the first one has nothing to say.
    pub note: Option<String>,
    /// Parts of `sql` that are not to be shown.
    pub secrets: Vec<String>,
}

/// What happens when no attempt succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// Nothing is done at all.
    Abort,
    /// The rest is done without it.
    Note(String),
}

impl Step {
    fn required(title: impl Into<String>, sql: impl Into<String>) -> Step {
        Step { title: title.into(), attempts: vec![Attempt::plain(sql)], otherwise: Otherwise::Abort }
    }

    fn optional(title: impl Into<String>, sql: impl Into<String>, note: impl Into<String>) -> Step {
        let attempts = vec![Attempt::plain(sql)];
        Step { title: title.into(), attempts, otherwise: Otherwise::Note(note.into()) }
    }

    /// As SQL with comments, for `--dry-run`. It can be run by psql.
    pub fn script(&self) -> String {
        let mut script = format!("-- {}\n", self.title);
        for (place, attempt) in self.attempts.iter().enumerate() {
            let sql = attempt.shown();
            if place == 0 {
                script.push_str(sql.trim_end());
                script.push('\n');
            } else {
                script.push_str("-- Or, should that be refused:\n");
                for line in sql.trim_end().lines() {
                    script.push_str(&format!("--   {line}\n"));
                }
            }
        }
        script
    }
}

impl Attempt {
    fn plain(sql: impl Into<String>) -> Attempt {
        let mut sql: String = sql.into();
        if !sql.trim_end().ends_with(';') {
            sql.push(';');
        }
        Attempt { sql, note: None, secrets: Vec::new() }
    }

    fn noting(self, note: impl Into<String>) -> Attempt {
        Attempt { note: Some(note.into()), ..self }
    }

    fn hiding(self, secret: impl Into<String>) -> Attempt {
        let mut secrets = self.secrets;
        secrets.push(secret.into());
        Attempt { secrets, ..self }
    }

    fn shown(&self) -> String {
        self.secrets.iter().fold(self.sql.clone(), |sql, secret| sql.replace(secret.as_str(), "(generated)"))
    }
}

/// The whole of it as one script.
pub fn script(steps: &[Step]) -> String {
    let mut script = String::from("begin;\n");
    for step in steps {
        script.push('\n');
        script.push_str(&step.script());
    }
    script.push_str("\ncommit;\n");
    script
}
