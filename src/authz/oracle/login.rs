//! The oracle's own login, and why most logins will not do.
//!
//! Policies run code that other people wrote, and that code may `set_config('role', 'none')` and act as the login
//! itself: a table's owner would own the server if that were a superuser. So a session is used only after Postgres
//! has said that its login can do nothing on its own.

use tokio_postgres::Client;

/// The login must not be used.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("could not find out what the login may do")]
    Query(#[from] tokio_postgres::Error),
    #[error("login {login:?} {what}: policies would run with that power; mend it with: {statement}")]
    Powerful { login: String, what: &'static str, statement: String },
    /// Policy texts name built-in functions and operators without their schema.
    #[error(
        "the search_path of login {login:?} puts {schema:?} before pg_catalog: built-in operators in policies could mean others; mend it with: ALTER ROLE {login:?} RESET search_path"
    )]
    SearchPath { login: String, schema: String },
}

/// Every role that the login is, or may become, and what is wrong with it.
const POWERS: &str = "
select session_user::text, r.rolname::text, r.rolname = session_user,
       case when r.rolsuper then 'superuser'
            when r.rolbypassrls then 'bypassrls'
            when r.rolreplication then 'replication'
            else 'server' end
  from pg_catalog.pg_roles r
 where (r.rolsuper or r.rolbypassrls or r.rolreplication
        or r.rolname in ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files'))
   and pg_catalog.pg_has_role(session_user, r.oid, 'MEMBER')
 order by (r.rolname = session_user) desc, r.rolname
 limit 1";

const SEARCH_PATH: &str = "
select session_user::text,
       (select s::text
          from unnest(pg_catalog.current_schemas(true)) with ordinality as s(s, n)
         where not pg_catalog.starts_with(s::text, 'pg_temp_') order by n limit 1)";

/// Refuses a login that is superuser, BYPASSRLS or REPLICATION, or a member of a role that is.
pub async fn check_login(client: &Client) -> Result<(), LoginError> {
    // What the login can become is asked with nobody's operators but Postgres' own.
    client.batch_execute("BEGIN; SET LOCAL search_path = pg_catalog, pg_temp").await?;
    let power = client.query_opt(POWERS, &[]).await;
    client.batch_execute("ROLLBACK").await?;
    if let Some(row) = power? {
        let (login, role): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let (own, power): (bool, String) = (row.try_get(2)?, row.try_get(3)?);
        return Err(powerful(login, &role, own, &power));
    }
    let row = client.query_one(SEARCH_PATH, &[]).await?;
    match row.try_get::<_, Option<String>>(1)? {
        Some(schema) if schema != "pg_catalog" => Err(LoginError::SearchPath { login: row.try_get(0)?, schema }),
        _ => Ok(()),
    }
}

fn powerful(login: String, role: &str, own: bool, power: &str) -> LoginError {
    let quoted = |name: &str| crate::catalog::relation::quote_identifier(name);
    let (what, attribute) = match (power, own) {
        ("superuser", true) => ("is a superuser", "NOSUPERUSER"),
        ("bypassrls", true) => ("has BYPASSRLS", "NOBYPASSRLS"),
        ("replication", true) => ("has REPLICATION", "NOREPLICATION"),
        ("superuser", false) => ("is a member of a superuser role", ""),
        ("bypassrls", false) => ("is a member of a role with BYPASSRLS", ""),
        ("replication", false) => ("is a member of a role with REPLICATION", ""),
        _ => ("may read or write the server's files or run programs there", ""),
    };
    let statement = if own {
        format!("ALTER ROLE {} {attribute}", quoted(&login))
    } else {
        format!("REVOKE {} FROM {}", quoted(role), quoted(&login))
    };
    LoginError::Powerful { login, what, statement }
}
