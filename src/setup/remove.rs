//! Taking everything away again.

use postgres_protocol::escape::{escape_identifier, escape_literal};

use super::plan::LOG_SNAPSHOTS;
use super::{Config, Facts, OWN_PUBLICATION, Step};

/// The steps of `setup --remove`: only what setup made, and only what nobody else has come to use.
pub fn removal(facts: &Facts, config: &Config) -> Vec<Step> {
    let made = |what: String| facts.created.contains(&what);
    let mut steps = vec![
        Step::required("The log's rows are filled in at once.", "set constraints all immediate"),
        Step::optional(
            "The event triggers.",
            "drop event trigger if exists walcast_ddl_command_end;\ndrop event trigger if exists walcast_sql_drop",
            "The event triggers belong to a superuser, who has to remove them; they do no harm without the schema.",
        ),
        Step::optional(
            format!("The slot {}.", config.slot),
            format!(
                "select pg_drop_replication_slot(slot_name) from pg_replication_slots\n\
                 where slot_name = {} and database = current_database()",
                escape_literal(&config.slot).trim_start()
            ),
            "The slot is in use: stop `walcast serve` first, then remove again. Until then it holds back WAL.",
        ),
        Step::optional(
            "walcast's own publication.",
            format!("drop publication if exists {OWN_PUBLICATION}"),
            "The publication belongs to somebody else.",
        ),
    ];
    for publication in config.publications.iter().filter(|name| made(format!("publication {name}"))) {
        let name = escape_identifier(publication);
        steps.push(Step::optional(
            format!("The publication {publication}, if it is still empty."),
            format!(
                "do $drop$ begin\n    if not exists (select from pg_publication_tables where pubname = {}) then\n        \
                 execute {};\n    end if;\nend $drop$",
                escape_literal(publication).trim_start(),
                escape_literal(&format!("drop publication if exists {name}")).trim_start(),
            ),
            "The publication belongs to somebody else.",
        ));
    }
    steps.push(Step::required("The schema walcast.", "drop schema if exists walcast cascade"));
    super::broadcasts::removal(facts, &mut steps);
    if facts.may_log_snapshots == Some(true) && made(LOG_SNAPSHOTS.into()) {
        let login = escape_identifier(&config.stream_login);
        steps.push(Step::optional(
            "The stream's login may no longer have the server write down what runs.",
            format!("revoke execute on function pg_catalog.pg_log_standby_snapshot() from {login}"),
            "A superuser granted it, who has to take it back.",
        ));
    }
    for login in [&config.oracle_login, &config.stream_login] {
        if facts.roles.contains(login) && made(format!("role {login}")) {
            steps.push(drop_role(login));
        }
    }
    if made("auth helpers".into()) {
        steps.push(Step::optional(
            "The helpers of schema auth, if nothing uses them.",
            "drop function if exists auth.uid(), auth.jwt(), auth.role(), auth.email();\ndrop schema if exists auth",
            "Policies use them, or the schema has other things: they stay.",
        ));
    }
    for role in ["anon", "authenticated", "service_role"] {
        if facts.roles.contains(role) && made(format!("role {role}")) {
            // No DROP OWNED here: what was granted to these roles was granted by the application.
            let revoke = format!(
                "do $revoke$ begin\n    if to_regnamespace('auth') is not null then\n        \
                 revoke usage on schema auth from {role};\n    end if;\nend $revoke$;\n\
                 revoke usage on schema public from {role};\ndrop role {role}"
            );
            steps.push(Step::optional(format!("The role {role}."), revoke, "Things depend on it: it stays."));
        }
    }
    steps
}

fn drop_role(login: &str) -> Step {
    let name = escape_identifier(login);
    Step::optional(
        format!("The login {login}."),
        format!("drop owned by {name};\ndrop role {name}"),
        "It is used elsewhere, perhaps by another database of this server: it stays.",
    )
}
