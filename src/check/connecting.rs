//! Whether the database answers, whether it is one, and whether it lets us replicate.

use std::time::Duration;

use tokio_postgres::Client;

use super::Report;
use crate::catalog::relation::quote_identifier;
use crate::causes::with_causes;
use crate::wal::connection::Connection;
use crate::wal::conninfo::Host;
use crate::wal::{Conninfo, Error};

const REMEDY_POOLER: &str = "Replication does not go through a pooler: point --database-url at the server itself, port 5432. On \
    Supabase that is the direct connection, db.<project>.supabase.co.";

pub(super) async fn connect(conninfo: &Conninfo, report: &mut Report) -> Option<Client> {
    match conninfo.connect().await {
        Ok((client, connection)) => {
            // Ends with the client.
            tokio::spawn(connection);
            report.pass("connection", format!("{conninfo} answers"));
            Some(client)
        }
        Err(error) => {
            let text = with_causes(&error);
            let detail = match says_pooler(&text) || looks_like_pooler(conninfo) {
                true => format!("{text}. {REMEDY_POOLER}"),
                false => text,
            };
            report.fail("connection", detail, None);
            None
        }
    }
}

/// Tries instead of reading `pg_roles`: managed services grant replication in ways of their own.
pub(super) async fn replicate(conninfo: &Conninfo, client: &Client, report: &mut Report) {
    let tried = async {
        // Nothing large is read and nothing is locked.
        let mut connection = Connection::open(conninfo, 1 << 20, Duration::from_secs(5)).await?;
        connection.identify_system().await
    };
    match tried.await {
        Ok(_) => report.pass("replication", format!("{} may replicate", conninfo.user)),
        Err(Error::Pooler(text)) => {
            report.fail("replication", format!("a pooler answers ({text}). {REMEDY_POOLER}"), None)
        }
        Err(Error::NoReplicationPrivilege { user }) => {
            let login = quote_identifier(&user);
            let rds =
                client.query_one("select exists (select from pg_roles where rolname = 'rds_replication')", &[]).await;
            let statement = match rds {
                Ok(row) if row.get(0) => format!("grant rds_replication to {login};"),
                _ => format!("alter role {login} replication;"),
            };
            report.fail("replication", format!("the login {user} may not replicate"), Some(statement));
        }
        Err(error) => {
            let text = with_causes(&error);
            let detail = match says_pooler(&text) || looks_like_pooler(conninfo) {
                true => format!("{text}. {REMEDY_POOLER}"),
                false => format!("{text}. Is a line for replication missing in pg_hba.conf?"),
            };
            report.fail("replication", detail, None);
        }
    }
}

fn says_pooler(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["pgbouncer", "supavisor", "pooler", "unsupported startup parameter", "tenant or user not found"]
        .iter()
        .any(|word| text.contains(word))
}

/// The ports and names that poolers are found under: 6543 is Supavisor's, 6432 PgBouncer's.
fn looks_like_pooler(conninfo: &Conninfo) -> bool {
    let by_name = match &conninfo.host {
        Host::Tcp { name, .. } => name.contains("pooler"),
        Host::Unix(_) => false,
    };
    by_name || matches!(conninfo.port, 6543 | 6432)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poolers_are_known_by_port_name_and_words() {
        let looks = |url: &str| looks_like_pooler(&Conninfo::parse(url).unwrap());
        assert!(looks("postgres://u@localhost:6543/d"));
        assert!(looks("postgres://u@aws-0-eu-central-1.pooler.supabase.com:5432/d"));
        assert!(!looks("postgres://u@localhost:5432/d"));
        assert!(says_pooler("unsupported startup parameter: replication"));
        assert!(says_pooler("Tenant or user not found"));
        assert!(!says_pooler("password authentication failed"));
    }
}
