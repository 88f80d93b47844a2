//! Broadcast from the database: `realtime.messages` and what writes there, where Supabase has not installed its own, and
//! `walcast.send`.

use postgres_protocol::escape::escape_identifier;

use super::plan::{AUTH_ROLES, created, literal};
use super::{Attempt, Config, Facts, OWN_PUBLICATION, Otherwise, Step};

const MESSAGES: &str = include_str!("../../sql/migrations/0005_realtime_messages.sql");
const FUNCTIONS: &str = include_str!("../../sql/migrations/0006_realtime_functions.sql");
const PARTITIONS: &str = include_str!("../../sql/migrations/0007_message_partitions.sql");
const SEND: &str = include_str!("../../sql/migrations/0008_send.sql");
const CLOSED: &str = include_str!("../../sql/migrations/0009_closed.sql");

/// What `created` calls them.
const MADE_SCHEMA: &str = "schema realtime";
/// Followed by the table's OID: another table may take its name. Without one it is of an earlier version or of a restored dump:
/// kept up to date, but nobody knows whether it is still the one that setup made.
const MADE_MESSAGES: &str = "realtime.messages";

const FUNCTION_NAMES: [&str; 4] = [
    "realtime.topic()",
    "realtime.send(jsonb, text, text, boolean)",
    "realtime.send_binary(bytea, text, text, boolean)",
    "realtime.broadcast_changes(text, text, text, text, text, record, record, text)",
];

pub(super) fn plan(facts: &Facts, config: &Config, steps: &mut Vec<Step>) {
    let roles = api_roles(facts, config);
    messages(facts, config, &roles, steps);
    steps.push(Step::required("walcast.send: broadcasts that no table keeps.", SEND));
    let login = escape_identifier(&config.stream_login);
    steps.push(Step::optional(
        "The stream's login checks its signatures, and keeps the partitions of realtime.messages.",
        format!(
            "grant select on walcast.broadcast_key to {login};\n\
             drop policy if exists stream on walcast.broadcast_key;\n\
             create policy stream on walcast.broadcast_key for select to {login} using (true);\n\
             grant execute on function walcast.keep_messages(interval) to {login}"
        ),
        format!("{} cannot read the key: what walcast.send says is refused.", config.stream_login),
    ));
    steps.push(Step::required(
        "Nobody looks at walcast's own but the stream's login.",
        CLOSED.replace("'walcast'; -- The stream's.", &format!("{};", literal(&config.stream_login))),
    ));
    for role in &roles {
        let name = escape_identifier(role);
        let sql = format!(
            "grant usage on schema walcast to {name};\n\
             revoke all on walcast.broadcasts from {name};\n\
             grant insert (topic, event, payload, private) on walcast.broadcasts to {name};\n\
             grant execute on function walcast.send(text, text, jsonb, boolean) to {name}"
        );
        let note = format!("{role} may not call walcast.send.");
        steps.push(Step::optional(format!("{role} may call walcast.send, and look at nothing else there."), sql, note));
    }
}

fn messages(facts: &Facts, config: &Config, roles: &[String], steps: &mut Vec<Step>) {
    let keeping = "What keeps the partitions of realtime.messages.";
    steps.push(Step::required(keeping, PARTITIONS));
    if let Some(strangers) = &facts.realtime_strangers {
        let title = "Broadcast from realtime.messages.";
        let sql = format!("do $stranger$ begin raise exception '%', {}; end $stranger$", literal(strangers));
        let note = "Whoever owns it could broadcast to anybody. Look at what it is, then drop it or change its owner.";
        steps.push(Step::optional(title, sql, note));
        return;
    }
    if created(facts, config).iter().any(|made| is_messages(made)) {
        let title = "realtime.messages, realtime.send, send_binary, broadcast_changes and topic.";
        let mut sql = format!("{MESSAGES}\n{FUNCTIONS}\n");
        if facts.messages.is_none() {
            sql.push_str(&format!(
                "update walcast.installation set created = array_append(array_remove(created, '{MADE_MESSAGES}'),\n    \
                 format('{MADE_MESSAGES} %s', 'realtime.messages'::regclass::oid));\n"
            ));
        }
        for role in roles {
            let role = escape_identifier(role);
            sql.push_str(&format!(
                "grant usage on schema realtime to {role};\ngrant select, insert, update on realtime.messages to {role};\n"
            ));
        }
        steps.push(Step::required(title, sql));
    }
    let note = "Rows inserted into realtime.messages on days without a partition fail. Have the owner of realtime.messages \
        make them.";
    let sql = "do $keep$\ndeclare\n    problem text := (select k.problem from walcast.keep_messages() k);\nbegin\n    \
        if problem is not null then\n        raise exception '%', problem;\n    end if;\nend\n$keep$";
    steps.push(Step::optional("Its partitions for the next days.", sql, note));
    let note = format!(
        "Nothing is broadcast from the database. Have the owner of both (or a superuser) run: alter publication \
         {OWN_PUBLICATION} add table realtime.messages;"
    );
    steps.push(Step::optional("The stream carries realtime.messages.", publish(config), note));
    let login = escape_identifier(&config.stream_login);
    let sql = format!("grant usage on schema realtime to {login};\ngrant select on realtime.messages to {login}");
    let note = "Nothing is replayed.";
    steps.push(Step::optional("The stream's login may read it, for replay.", sql, note));
}

fn is_messages(made: &str) -> bool {
    made.strip_prefix(MADE_MESSAGES).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

fn is_own_messages(facts: &Facts) -> impl Fn(&str) -> bool {
    let own = facts.messages.map(|oid| format!("{MADE_MESSAGES} {oid}"));
    move |made| own.as_deref() == Some(made)
}

/// In a dump that was restored elsewhere they say nothing.
pub(super) fn forget_oid(created: &mut [String]) {
    created.iter_mut().filter(|made| is_messages(made)).for_each(|made| made.truncate(MADE_MESSAGES.len()));
}

/// Whether this run makes the table, or an earlier one has made the one that is there.
pub(super) fn note_messages(facts: &Facts, created: &mut Vec<String>) {
    let is_own = is_own_messages(facts);
    created.retain(|made| made == MADE_MESSAGES || !is_messages(made) || is_own(made));
    if facts.messages.is_none() && !created.iter().any(|made| made == MADE_MESSAGES) {
        created.push(MADE_MESSAGES.to_owned());
    }
}

/// A table in both publications would change what the user's means.
fn publish(config: &Config) -> String {
    let publications: Vec<String> = config.publications.iter().map(|name| literal(name)).collect();
    let users = format!("array[{}]::text[]", publications.join(", "));
    format!(
        "do $publish$\nbegin\n    \
         if not exists (\n        select from pg_publication p\n        \
         join pg_publication_rel r on r.prpubid = p.oid and r.prrelid = to_regclass('realtime.messages')\n        \
         where p.pubname = '{OWN_PUBLICATION}'\n    ) and not exists (\n        \
         select from pg_publication where pubname = any ({users}) and puballtables\n    ) and not exists (\n        \
         select from pg_publication_tables t\n        \
         join pg_partition_tree('realtime.messages') part\n            \
         on part.relid = to_regclass(format('%I.%I', t.schemaname, t.tablename))\n        \
         where t.pubname = any ({users})\n    ) then\n        \
         alter publication {OWN_PUBLICATION} add table realtime.messages;\n    end if;\nend\n$publish$"
    )
}

/// The roles that tokens may name, but for those that walcast's own objects belong to or are read by.
fn api_roles(facts: &Facts, config: &Config) -> Vec<String> {
    let with_auth = AUTH_ROLES.iter().filter(|role| config.with_auth && !facts.roles.contains(**role));
    let known = facts.api_roles.iter().map(|role| role.name.clone());
    let all = known.chain(with_auth.map(|role| (*role).to_owned()));
    all.filter(|role| ![&facts.user, &config.stream_login, &config.oracle_login].contains(&role)).collect()
}

/// What setup made, and not what Supabase did.
pub(super) fn removal(facts: &Facts, steps: &mut Vec<Step>) {
    let made = |what: &str| facts.created.iter().any(|made| made == what);
    if facts.created.iter().any(|made| is_messages(made)) {
        let is_own = is_own_messages(facts);
        let functions = format!("drop function if exists {}", FUNCTION_NAMES.join(", "));
        let note = "Other things depend on them: they stay.";
        steps.push(match facts.messages {
            None => Step::optional("The functions that wrote to realtime.messages.", functions, note),
            Some(_) if facts.created.iter().any(|made| is_own(made)) => Step::optional(
                "realtime.messages, with its policies and messages, and the functions that write there.",
                format!("drop table realtime.messages;\n{functions}"),
                note,
            ),
            Some(_) => {
                let title = "realtime.messages and the functions that write there stay.";
                let note = "It is not the table that setup made, as far as is known. If it is yours to drop: \
                    drop table realtime.messages;";
                let attempts = vec![Attempt::plain("-- Nothing is dropped").noting(note)];
                Step { title: title.into(), attempts, otherwise: Otherwise::Note(note.into()) }
            }
        });
    }
    if made(MADE_SCHEMA) {
        let note = "It has other things: it stays.";
        steps.push(Step::optional("The schema realtime.", "drop schema if exists realtime", note));
    }
}
