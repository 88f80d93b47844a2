//! What is already there.

use std::collections::HashSet;

use tokio_postgres::Client;

use super::{Config, OWN_PUBLICATION};
use crate::catalog::Oid;
use crate::wal::publication::Own;

/// What the plan depends on.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub server_version: u32,
    pub database: String,
    pub superuser: bool,
    /// Who runs setup.
    pub user: String,
    pub roles: HashSet<String>,
    /// The roles that tokens may name: those that `authenticator` is a member of, and Supabase's three.
    pub api_roles: Vec<ApiRole>,
    /// Of the stream's login, if it exists: `(login, replication, bypassrls)`.
    pub stream_login: Option<(bool, bool, bool)>,
    pub publications: HashSet<String>,
    pub own_publication_has_log: bool,
    pub walcast_schema: bool,
    pub event_triggers: bool,
    /// A login and password for the oracle are stored.
    pub oracle_stored: bool,
    /// Whether the stream's login may have the server look at what may be forgotten; `None`: this one cannot be asked to.
    pub may_log_snapshots: Option<bool>,
    /// The API roles that the oracle's login is a member of.
    pub oracle_member_of: HashSet<String>,
    /// `rds_replication` exists: REPLICATION is granted by membership.
    pub rds: bool,
    /// What an earlier setup made outside the schema `walcast`.
    pub created: Vec<String>,
    pub auth_functions: bool,
    pub realtime_schema: bool,
    /// `realtime.messages`, Supabase's or setup's own.
    pub messages: Option<Oid>,
    /// The schema `realtime` and what broadcasts come from, as far as it belongs to somebody whom nobody has made
    /// responsible for this database.
    pub realtime_strangers: Option<String>,
}

/// A role that tokens may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiRole {
    pub name: String,
    /// Superuser, BYPASSRLS or REPLICATION, itself or a role that it may become: the oracle must not be able to
    /// become it too, or a policy's function could.
    pub powerful: bool,
}

/// `$1`: names of API roles that are known without `authenticator`.
const API_ROLES: &str = "
    with recursive api as (
        select r.oid, r.rolname from pg_roles r where r.rolname = any ($1)
        union
        select r.oid, r.rolname
        from pg_auth_members m
        join pg_roles a on a.oid = m.member and a.rolname = 'authenticator'
        join pg_roles r on r.oid = m.roleid
    ),
    becomes(start, oid) as (
        select oid, oid from api
        union
        select b.start, m.roleid from becomes b join pg_auth_members m on m.member = b.oid
    )
    select api.rolname::text, bool_or(r.rolsuper or r.rolbypassrls or r.rolreplication)
    from api
    join becomes b on b.start = api.oid
    join pg_roles r on r.oid = b.oid
    group by api.rolname
    order by api.rolname";

/// The roles that tokens may name.
pub async fn api_roles(client: &Client) -> Result<Vec<ApiRole>, tokio_postgres::Error> {
    let known = ["anon", "authenticated", "service_role"];
    let rows = client.query(API_ROLES, &[&known.as_slice()]).await?;
    Ok(rows.iter().map(|row| ApiRole { name: row.get(0), powerful: row.get(1) }).collect())
}

impl Facts {
    pub async fn read(client: &Client, config: &Config) -> Result<Facts, tokio_postgres::Error> {
        let row = client
            .query_one(
                "select current_setting('server_version_num')::int, current_database()::text,
                    (select rolsuper from pg_roles where rolname = current_user),
                    to_regnamespace('walcast') is not null,
                    (select count(*) = 2 from pg_event_trigger
                        where evtname in ('walcast_ddl_command_end', 'walcast_sql_drop')),
                    to_regclass('walcast.oracle_login') is not null,
                    to_regclass('walcast.installation') is not null,
                    to_regprocedure('auth.uid()') is not null and to_regprocedure('auth.jwt()') is not null
                        and to_regprocedure('auth.role()') is not null and to_regprocedure('auth.email()') is not null,
                    current_user::text,
                    to_regnamespace('realtime') is not null, to_regclass('realtime.messages')::oid",
                &[],
            )
            .await?;
        let mut facts = Facts {
            server_version: u32::try_from(row.get::<_, i32>(0)).unwrap_or(0),
            database: row.get(1),
            superuser: row.get(2),
            walcast_schema: row.get(3),
            event_triggers: row.get(4),
            auth_functions: row.get(7),
            user: row.get(8),
            realtime_schema: row.get(9),
            messages: row.get(10),
            realtime_strangers: Own::look(client).await?.realtime_strangers,
            ..Facts::default()
        };
        if row.get(5) {
            let sql = "select exists (select from walcast.oracle_login where login = $1)";
            facts.oracle_stored = client.query_one(sql, &[&config.oracle_login]).await?.get(0);
        }
        if row.get(6) {
            let sql = "select created, system_identifier = (select system_identifier::text from pg_control_system())
                    and database = (select oid from pg_database where datname = current_database())
                from walcast.installation";
            if let Some(row) = client.query_opt(sql, &[]).await? {
                facts.created = row.get(0);
                if !row.get::<_, bool>(1) {
                    super::broadcasts::forget_oid(&mut facts.created);
                }
            }
        }
        facts.read_roles(client, config).await?;
        let sql = "select case when f.oid is not null then coalesce(has_function_privilege(r.oid, f.oid, 'execute'), false) end
            from (select to_regprocedure('pg_catalog.pg_log_standby_snapshot()')::oid) f(oid)
            left join pg_roles r on r.rolname = $1";
        facts.may_log_snapshots = client.query_one(sql, &[&config.stream_login]).await?.get(0);
        let rows = client.query("select pubname::text from pg_publication", &[]).await?;
        facts.publications = rows.iter().map(|row| row.get(0)).collect();
        let sql = "select exists (select from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
            where p.pubname = $1 and r.prrelid = to_regclass('walcast.ddl_log'))";
        facts.own_publication_has_log = client.query_one(sql, &[&OWN_PUBLICATION]).await?.get(0);
        Ok(facts)
    }

    async fn read_roles(&mut self, client: &Client, config: &Config) -> Result<(), tokio_postgres::Error> {
        let rows =
            client.query("select rolname::text, rolcanlogin, rolreplication, rolbypassrls from pg_roles", &[]).await?;
        for row in &rows {
            let name: String = row.get(0);
            if name == config.stream_login {
                self.stream_login = Some((row.get(1), row.get(2), row.get(3)));
            }
            self.roles.insert(name);
        }
        self.rds = self.roles.contains("rds_replication");
        self.api_roles = api_roles(client).await?;
        let sql = "select r.rolname::text from pg_auth_members m join pg_roles r on r.oid = m.roleid
            join pg_roles o on o.oid = m.member where o.rolname = $1";
        let rows = client.query(sql, &[&config.oracle_login]).await?;
        self.oracle_member_of = rows.iter().map(|row| row.get(0)).collect();
        Ok(())
    }
}
