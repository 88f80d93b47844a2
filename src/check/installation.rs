//! What `walcast setup` installed, and whether it is still whole.

use tokio_postgres::{Client, Error};

use super::{Config, Report};
use crate::catalog::relation::quote_identifier;
use crate::resume::store;
use crate::setup::OWN_PUBLICATION;
use crate::wal::Conninfo;
use crate::wal::publication::Own;

const SETUP: &str = "walcast setup";

/// Which changes are noticed when, with event triggers.
const PLACES: &str = "policies, grants, functions, tables and publications are applied at their place in the stream; what event \
    triggers do not see (roles, memberships, ALTER ROLE and ALTER DATABASE .. SET) within a second, by a poll";

pub(super) async fn look(
    client: &Client,
    conninfo: &Conninfo,
    config: &Config,
    report: &mut Report,
) -> Result<(), Error> {
    if let Some(strangers) = Own::look(client).await?.strangers {
        let detail = format!(
            "{strangers}, who can neither become a superuser nor this database's owner: it is neither read nor believed. \
             Drop it, or change its owner if it is yours"
        );
        report.fail("setup", detail, None);
        return Ok(());
    }
    // Not to_regclass: it fails where the schema may not be used.
    let row = client
        .query_one(
            "select to_regnamespace('walcast') is not null,
                coalesce(has_schema_privilege(to_regnamespace('walcast')::oid, 'usage'), false),
                (select count(*) from pg_event_trigger where evtname in ('walcast_ddl_command_end', 'walcast_sql_drop')),
                (select count(*) from pg_event_trigger
                    where evtname in ('walcast_ddl_command_end', 'walcast_sql_drop') and evtenabled = 'A'),
                exists (select from pg_publication where pubname = $1)",
            &[&OWN_PUBLICATION],
        )
        .await?;
    if !row.get::<_, bool>(0) {
        report.warn(
            "setup",
            "has not been run: catalog changes are found by a poll, up to a second late, and policies that walcast cannot \
             evaluate itself deny",
            Some(SETUP.into()),
        );
        return Ok(());
    }
    if !row.get::<_, bool>(1) {
        let detail =
            format!("{} may not use the schema walcast: serve and check want the login that setup made", conninfo.user);
        report.fail("setup", detail, None);
        return Ok(());
    }
    event_triggers(row.get(2), row.get(3), report);
    if !row.get::<_, bool>(4) {
        let detail = "walcast's own publication is missing: catalog changes are found by a poll alone";
        report.warn("setup", detail, Some(SETUP.into()));
    }
    where_it_was_done(client, config, report).await?;
    secrets(client, report).await?;
    if !store::has_tables(client).await? {
        let detail = format!(
            "its tables are missing, or {} lacks rights on them: positions of resuming clients are kept in memory only, and a \
             restart of the relay forgets them",
            conninfo.user
        );
        report.warn("resume", detail, Some(SETUP.into()));
    }
    oracle(client, conninfo, report).await
}

fn event_triggers(present: i64, always: i64, report: &mut Report) {
    match (present, always) {
        (2, 2) => report.pass("event triggers", PLACES),
        (2, _) => report.warn(
            "event triggers",
            format!("they are not ENABLE ALWAYS: DDL under session_replication_role = replica is found by the poll alone. Else {PLACES}"),
            Some(
                "alter event trigger walcast_ddl_command_end enable always;\n\
                 alter event trigger walcast_sql_drop enable always;"
                    .into(),
            ),
        ),
        _ => report.warn(
            "event triggers",
            "are missing: every change of policies, grants, functions, tables and roles is found by a poll. For up to a second after a policy is tightened, rows may be judged by \
             the policy before; and a policy and a row changed in one transaction are not told apart",
            Some(format!("{SETUP} -- as a superuser")),
        ),
    }
}

/// A dump carries the schema to another server, but not the logins nor the slot.
async fn where_it_was_done(client: &Client, config: &Config, report: &mut Report) -> Result<(), Error> {
    let row = client
        .query_opt(
            "select publications, system_identifier = (select system_identifier::text from pg_control_system()),
                database = (select oid from pg_database where datname = current_database()), version
            from walcast.installation",
            &[],
        )
        .await?;
    let Some(row) = row else {
        report.fail("setup", "is incomplete: walcast.installation is empty", Some(SETUP.into()));
        return Ok(());
    };
    if !(row.get::<_, bool>(1) && row.get::<_, bool>(2)) {
        report.fail(
            "setup",
            "was done on another server or database: this is a restored dump or a copy. Logins, passwords and the slot did \
             not come with it",
            Some(format!("{SETUP} --new-passwords")),
        );
    }
    let mut publications: Vec<String> = row.get(0);
    let mut wanted = config.publications.clone();
    publications.sort_unstable();
    wanted.sort_unstable();
    if publications != wanted {
        report.warn(
            "setup",
            format!(
                "was done for {}, not for {}: catalog changes in the stream are of the other, and each is loaded instead",
                publications.join(", "),
                wanted.join(", ")
            ),
            Some(format!("{SETUP} --publication {}", wanted.join(" --publication "))),
        );
    } else {
        report.pass("setup", format!("walcast {} was set up here", row.get::<_, String>(3)));
    }
    Ok(())
}

/// Who is given pg_read_all_data, for reports or backups, is not given the right to sign or to log in.
async fn secrets(client: &Client, report: &mut Report) -> Result<(), Error> {
    let sql = "select relname::text from pg_class
        where relnamespace = 'walcast'::regnamespace and relname in ('broadcast_key', 'oracle_login') and not relrowsecurity
        order by relname";
    let open: Vec<String> =
        client.query(sql, &[]).await?.iter().map(|row| format!("walcast.{}", row.get::<_, &str>(0))).collect();
    if !open.is_empty() {
        let detail = format!(
            "was run by an earlier version: members of pg_read_all_data can read {}. A password that somebody has read is \
             changed by --new-passwords",
            open.join(" and ")
        );
        report.warn("setup", detail, Some(SETUP.into()));
    }
    Ok(())
}

/// Policies run code that other people wrote: whatever this login can become, they can become.
async fn oracle(client: &Client, conninfo: &Conninfo, report: &mut Report) -> Result<(), Error> {
    let row = client.query_opt("select login, password from walcast.oracle_login", &[]).await?;
    let Some((login, password)) = row.map(|row| (row.get::<_, String>(0), row.get::<_, String>(1))) else {
        report.fail("oracle", "has no login: policies that Postgres has to evaluate deny", Some(SETUP.into()));
        return Ok(());
    };
    let sql = "with recursive becomes(oid) as (
            select oid from pg_roles where rolname = $1
            union
            select m.roleid from becomes b join pg_auth_members m on m.member = b.oid
        )
        select rolname::text from pg_roles join becomes using (oid)
        where rolsuper or rolbypassrls or rolreplication or rolcreaterole or rolcreatedb
            or rolname in ('pg_read_all_data', 'pg_write_all_data', 'pg_execute_server_program', 'pg_read_server_files',
                'pg_write_server_files')
        order by rolname";
    let powerful: Vec<String> = client.query(sql, &[&login]).await?.iter().map(|row| row.get(0)).collect();
    let name = quote_identifier(&login);
    for role in &powerful {
        let statement = match *role == login {
            true => format!("alter role {name} nosuperuser nobypassrls noreplication nocreaterole nocreatedb;"),
            false => format!("revoke {} from {name};", quote_identifier(role)),
        };
        report.fail(
            "oracle",
            format!("{login} can become {role}: so could a function that a policy calls"),
            Some(statement),
        );
    }
    match conninfo.with_user(&login, Some(&password)).connect().await {
        Ok(_) if powerful.is_empty() => {
            report.pass("oracle", format!("{login} can log in, and become nothing but API roles"))
        }
        Ok(_) => {}
        Err(error) => report.fail(
            "oracle",
            format!("{login} cannot log in: {}", crate::causes::with_causes(&error)),
            Some(format!("{SETUP} --new-passwords")),
        ),
    }
    Ok(())
}
