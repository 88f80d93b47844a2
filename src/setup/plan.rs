//! From facts to statements.

use postgres_protocol::escape::{escape_identifier, escape_literal};
use postgres_protocol::password::scram_sha_256;
use rand::Rng;
use rand::distr::Alphanumeric;

use super::{Attempt, Config, Facts, OWN_PUBLICATION, Otherwise, Step, broadcasts};
use crate::catalog::state::STATE_SQL;

const SCHEMA: &str = include_str!("../../sql/migrations/0001_schema.sql");
const DDL_LOG: &str = include_str!("../../sql/migrations/0002_ddl_log.sql");
const EVENT_TRIGGER: &str = include_str!("../../sql/migrations/0003_event_trigger.sql");
const RESUME: &str = include_str!("../../sql/migrations/0010_resume.sql");
const AUTH: &str = include_str!("../../sql/migrations/0004_auth.sql");

/// Passwords for logins that have none yet.
#[derive(Clone)]
pub struct Secrets {
    pub stream: String,
    pub oracle: String,
}

impl Secrets {
    /// 32 letters and digits: 190 bits, and nothing that a URL would have to escape.
    pub fn generate() -> Secrets {
        let password = || rand::rng().sample_iter(Alphanumeric).take(32).map(char::from).collect();
        Secrets { stream: password(), oracle: password() }
    }
}

/// The steps that are left to do. With every fact in place only those remain that are harmless to repeat.
pub fn plan(facts: &Facts, config: &Config, secrets: &Secrets) -> Vec<Step> {
    let mut steps = Vec::new();
    if facts.walcast_schema {
        let sql = "set constraints all immediate";
        steps.push(Step::required(
            "An earlier setup's log fills in its rows at once: they may not be pending below.",
            sql,
        ));
    }
    if config.with_auth {
        auth(facts, &mut steps);
    }
    steps.push(Step::required("The schema walcast.", SCHEMA));
    steps.push(Step::required("What is installed, and where.", installation(facts, config)));
    let ddl_log = DDL_LOG.replace("--{sql/catalog/state.sql}", STATE_SQL);
    steps.push(Step::required("The log that carries catalog changes at their place in the stream.", ddl_log));
    steps.push(Step::optional(
        "The event triggers that write it.",
        EVENT_TRIGGER,
        "Event triggers need a superuser here. Without them DDL is found by a poll, up to a second late: a policy that \
         is tightened in the same transaction as a row, or shortly before it, may be applied to that row too late. \
         Have a superuser run setup again.",
    ));
    steps.push(Step::required("Where those who resume have got to.", RESUME));
    publications(facts, config, &mut steps);
    stream_login(facts, config, secrets, &mut steps);
    log_snapshots(facts, config, &mut steps);
    oracle_login(facts, config, secrets, &mut steps);
    broadcasts::plan(facts, config, &mut steps);
    steps.push(Step::required(
        "The state to start from.",
        "insert into walcast.ddl_log (tag) select 'SETUP'\nwhere not exists (select from walcast.ddl_log where xid = \
         pg_current_xact_id() and state is null)",
    ));
    steps
}

/// What this run makes outside the schema, for `--remove`.
pub(super) fn created(facts: &Facts, config: &Config) -> Vec<String> {
    let mut created = facts.created.clone();
    let mut note = |absent: bool, what: String| {
        if absent && !created.contains(&what) {
            created.push(what);
        }
    };
    for publication in &config.publications {
        note(!facts.publications.contains(publication), format!("publication {publication}"));
    }
    note(!facts.publications.contains(OWN_PUBLICATION), format!("publication {OWN_PUBLICATION}"));
    for login in [&config.stream_login, &config.oracle_login] {
        note(!facts.roles.contains(login), format!("role {login}"));
    }
    note(facts.may_log_snapshots == Some(false), LOG_SNAPSHOTS.into());
    if config.with_auth {
        for role in AUTH_ROLES {
            note(!facts.roles.contains(role), format!("role {role}"));
        }
        note(!facts.auth_functions, "auth helpers".into());
    }
    if facts.realtime_strangers.is_none() {
        note(!facts.realtime_schema, "schema realtime".into());
        broadcasts::note_messages(facts, &mut created);
    }
    created
}

fn installation(facts: &Facts, config: &Config) -> String {
    let array = |values: &[String]| {
        let values: Vec<String> = values.iter().map(|value| literal(value)).collect();
        format!("array[{}]::text[]", values.join(", "))
    };
    format!(
        "insert into walcast.installation (publications, system_identifier, database, created, version)\n\
         select {}, (select system_identifier::text from pg_control_system()),\n    \
         (select oid from pg_database where datname = current_database()), {}, {}\n\
         on conflict (only_row) do update set (publications, system_identifier, database, created, version, at) =\n    \
         (excluded.publications, excluded.system_identifier, excluded.database, excluded.created, excluded.version, now())",
        array(&config.publications),
        array(&created(facts, config)),
        literal(env!("CARGO_PKG_VERSION")),
    )
}

pub(super) const AUTH_ROLES: [&str; 3] = ["anon", "authenticated", "service_role"];

fn auth(facts: &Facts, steps: &mut Vec<Step>) {
    for role in AUTH_ROLES {
        if facts.roles.contains(role) {
            continue;
        }
        let title = format!("The role {role}.");
        if role == "service_role" {
            let note =
                "service_role could not be given BYPASSRLS: have a superuser run: alter role service_role bypassrls;";
            steps.push(Step {
                title,
                attempts: vec![
                    Attempt::plain("create role service_role nologin noinherit bypassrls"),
                    Attempt::plain("create role service_role nologin noinherit").noting(note),
                ],
                otherwise: Otherwise::Abort,
            });
        } else {
            steps.push(Step::required(title, format!("create role {role} nologin noinherit")));
        }
    }
    steps.push(Step::optional(
        "auth.uid(), auth.jwt(), auth.role(), auth.email().",
        AUTH,
        "The helpers of schema auth could not be made; policies that use them will not work.",
    ));
}

fn publications(facts: &Facts, config: &Config, steps: &mut Vec<Step>) {
    for publication in &config.publications {
        if !facts.publications.contains(publication) {
            let create = literal(&format!("create publication {}", escape_identifier(publication)));
            steps.push(Step::required(
                format!("The publication {publication}, with no table yet."),
                format!(
                    "do $make$ begin\n    if not exists (select from pg_publication where pubname = {}) then\n        \
                     execute {create};\n    end if;\nend $make$",
                    literal(publication),
                ),
            ));
        }
    }
    let title = "walcast's own publication: whole rows, no filters, never a table that the others have.";
    let note = "Without its own publication walcast reads catalog changes by the poll alone.";
    if !facts.publications.contains(OWN_PUBLICATION) {
        steps.push(Step::optional(title, "create publication walcast for table walcast.ddl_log", note));
    } else if !facts.own_publication_has_log {
        steps.push(Step::optional(title, "alter publication walcast add table walcast.ddl_log", note));
    }
}

fn stream_login(facts: &Facts, config: &Config, secrets: &Secrets, steps: &mut Vec<Step>) {
    let login = escape_identifier(&config.stream_login);
    let title = format!("The login of the stream, {}.", config.stream_login);
    let without_bypass = "It could not be given BYPASSRLS: tables with row-level security that policies refer to cannot \
        be followed in memory, they are asked of Postgres instead. A superuser can mend it:";
    let without_replication =
        "It could not be given REPLICATION, without which nothing is streamed. A superuser can mend it:";
    let bypass = format!("{without_bypass} alter role {login} bypassrls;");
    let both = format!("{without_replication} alter role {login} replication bypassrls;");
    match facts.stream_login {
        None => {
            let verifier = scram_sha_256(secrets.stream.as_bytes());
            let create = |attributes: &str, extra: &str| {
                let password = literal(&verifier);
                let sql = format!("create role {login} login {attributes} password {password};{extra}");
                Attempt::plain(sql).hiding(verifier.clone())
            };
            let rds = format!("\ngrant rds_replication to {login};");
            let mut attempts = vec![create("replication bypassrls", "")];
            if facts.rds {
                attempts.push(create("bypassrls", &rds));
                attempts.push(create("", &rds).noting(&bypass));
            }
            attempts.push(create("replication", "").noting(&bypass));
            attempts.push(create("", "").noting(&both));
            steps.push(Step { title, attempts, otherwise: Otherwise::Note(create_by_hand(config)) });
        }
        Some((can_login, replication, bypass_rls)) => {
            if !(can_login && replication && bypass_rls) {
                let sql = format!("alter role {login} login replication bypassrls");
                let mut attempts = vec![Attempt::plain(sql)];
                if facts.rds {
                    let sql = format!("alter role {login} login; grant rds_replication to {login}");
                    attempts.push(Attempt::plain(sql).noting(&bypass));
                }
                steps.push(Step { title: title.clone(), attempts, otherwise: Otherwise::Note(both) });
            }
            if config.new_passwords {
                let verifier = scram_sha_256(secrets.stream.as_bytes());
                let sql = format!("alter role {login} password {}", literal(&verifier));
                let note = "The password could not be changed.".to_owned();
                let attempts = vec![Attempt::plain(sql).hiding(verifier)];
                steps.push(Step { title, attempts, otherwise: Otherwise::Note(note) });
            }
        }
    }
    steps.push(Step::optional(
        "What the stream's login may do here.",
        format!(
            "grant usage on schema walcast to {login};\n\
             grant select on walcast.ddl_log, walcast.installation, walcast.oracle_login to {login};\n\
             grant select, insert, update, delete on walcast.resume_keys, walcast.resume_state to {login};\n\
             drop policy if exists stream on walcast.oracle_login;\n\
             create policy stream on walcast.oracle_login for select to {login} using (true);\n\
             grant execute on function walcast.prune_ddl_log(bigint) to {login};\n{}",
            grant_connect(&config.stream_login),
        ),
        format!("{} cannot read walcast's own tables.", config.stream_login),
    ));
}

/// What it says in the list of what setup made.
pub(super) const LOG_SNAPSHOTS: &str = "execute on pg_log_standby_snapshot";

/// The server moves a slot's beginning on when it has written down which transactions run, every 15 seconds by itself: a
/// busy one fills a small budget in that time.
fn log_snapshots(facts: &Facts, config: &Config, steps: &mut Vec<Step>) {
    if facts.may_log_snapshots != Some(false) {
        return;
    }
    let login = escape_identifier(&config.stream_login);
    let sql = format!("grant execute on function pg_catalog.pg_log_standby_snapshot() to {login}");
    let note = format!(
        "Near its budget the slot is moved on every 15 seconds, not every second. A superuser can mend it: {sql};"
    );
    let title = "The stream's login may have the server write down what its slot no longer needs.";
    steps.push(Step::optional(title, sql, note));
}

fn create_by_hand(config: &Config) -> String {
    let login = escape_identifier(&config.stream_login);
    format!(
        "The login could not be made. Have a superuser run: create role {login} login replication bypassrls password '...'; and run setup again."
    )
}

fn oracle_login(facts: &Facts, config: &Config, secrets: &Secrets, steps: &mut Vec<Step>) {
    let login = escape_identifier(&config.oracle_login);
    let title = format!("The login that policies are evaluated on, {}.", config.oracle_login);
    let attributes = "login noinherit nocreatedb nocreaterole";
    let exists = facts.roles.contains(&config.oracle_login);
    if !exists || !facts.oracle_stored || config.new_passwords {
        let verifier = scram_sha_256(secrets.oracle.as_bytes());
        let verb = if exists { "alter" } else { "create" };
        let sql = format!(
            "{verb} role {login} {attributes} password {};\n\
             insert into walcast.oracle_login (login, password) values ({}, {})\n    \
             on conflict (only_row) do update set login = excluded.login, password = excluded.password",
            literal(&verifier),
            literal(&config.oracle_login),
            literal(&secrets.oracle),
        );
        let mut attempt = Attempt::plain(sql).hiding(verifier).hiding(&secrets.oracle);
        if exists {
            attempt = attempt.noting(
                "The login was there, with a password unknown to this database; it has a new one. Should another \
                 database of this server use it, give that one its own by --oracle-login.",
            );
        }
        let note = "Without the oracle's login, policies that walcast cannot compile deny.".to_owned();
        steps.push(Step { title, attempts: vec![attempt], otherwise: Otherwise::Note(note) });
    }
    steps.push(Step::optional(
        "The oracle's login may connect.",
        grant_connect(&config.oracle_login),
        "The oracle's login may not connect to this database.",
    ));
    let with_auth = AUTH_ROLES.iter().filter(|role| config.with_auth && !facts.roles.contains(**role));
    let new = with_auth.map(|role| (role.to_string(), *role == "service_role"));
    let known = facts.api_roles.iter().map(|role| (role.name.clone(), role.powerful));
    for (role, powerful) in known.chain(new) {
        if powerful || facts.oracle_member_of.contains(&role) {
            continue;
        }
        let sql = format!("grant {} to {login}", escape_identifier(&role));
        let note =
            format!("{role}'s policies that walcast cannot compile deny. Have an administrator of {role} run: {sql};");
        steps.push(Step::optional(format!("The oracle may become {role}."), sql, note));
    }
}

/// CONNECT is PUBLIC's unless somebody took it away; only then is a grant needed, and the ownership that it takes.
fn grant_connect(login: &str) -> String {
    let (name, login) = (literal(login), escape_identifier(login));
    format!(
        "do $grant$ begin\n    if not has_database_privilege({name}, current_database(), 'connect') then\n        \
         execute format('grant connect on database %I to {}', current_database());\n    end if;\nend $grant$",
        login.replace('\'', "''").replace('%', "%%"),
    )
}

pub(super) fn literal(text: &str) -> String {
    // With a backslash the escape is written " E'...'".
    escape_literal(text).trim_start().to_owned()
}
