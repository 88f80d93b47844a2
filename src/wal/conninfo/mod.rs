//! Where the database is and how to log in, as libpq's users write it.

mod given;
mod parse;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use tokio_postgres::{CancelToken, Client, NoTls};

use given::Given;

use super::error::Error;
use super::sql_tls::SqlTls;

/// A conninfo that says something impossible, or something that walcast does not do. Never shows a value that may
/// be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConninfoError {
    #[error("the connection string is malformed: {0}")]
    Malformed(&'static str),
    #[error("the connection string names several hosts; a slot lives on one server: name the primary alone")]
    SeveralHosts,
    #[error("the connection string has no user (give one, or set PGUSER)")]
    NoUser,
    #[error("unknown connection parameter {0:?}")]
    UnknownParameter(String),
    #[error("the connection parameter {0} is not supported by walcast: remove it")]
    Unsupported(&'static str),
    #[error("invalid value {value:?} of the connection parameter {parameter}; expected {expected}")]
    InvalidValue { parameter: &'static str, value: String, expected: &'static str },
}

/// How much of TLS is demanded; the words are libpq's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SslMode {
    Disable,
    /// TLS where the server offers it, unverified: no protection against an active attacker, as in libpq.
    #[default]
    Prefer,
    /// TLS; unverified unless `sslrootcert` is given (then as `verify-ca`), as in libpq.
    Require,
    /// The certificate's chain is checked, the host's name is not.
    VerifyCa,
    VerifyFull,
}

/// Where certificates that a server's chain may end in come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootCerts {
    /// `sslrootcert=system`, or nothing given: those of the operating system.
    System,
    File(PathBuf),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelBinding {
    Disable,
    #[default]
    Prefer,
    Require,
}

/// The one server of a conninfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// The name is what the certificate is checked against; `address` (`hostaddr`) saves looking it up.
    Tcp { name: String, address: Option<IpAddr> },
    /// The directory of the socket.
    Unix(PathBuf),
}

/// Text that no log and no error message shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A parsed conninfo. `Display` and `Debug` never show the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conninfo {
    pub host: Host,
    pub port: u16,
    pub user: String,
    pub dbname: String,
    pub(super) password: Option<Password>,
    pub ssl_mode: SslMode,
    pub ssl_root_certs: Option<RootCerts>,
    pub channel_binding: ChannelBinding,
    pub connect_timeout: Duration,
    pub application_name: String,
    /// Command-line options for the server process (`-c name=value`).
    pub options: Option<String>,
}

/// libpq waits for ever by default; a daemon that retries must not.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl Conninfo {
    /// Reads a conninfo; what it leaves out comes from `PGUSER`, `PGPASSWORD` and libpq's defaults.
    pub fn parse(text: &str) -> Result<Conninfo, ConninfoError> {
        Conninfo::parse_with(text, |variable| std::env::var(variable).ok())
    }

    fn parse_with(text: &str, environment: impl Fn(&str) -> Option<String>) -> Result<Conninfo, ConninfoError> {
        let given = Given::read(text)?;
        let user = given.user.or_else(|| environment("PGUSER")).ok_or(ConninfoError::NoUser)?;
        let password = given.password.or_else(|| environment("PGPASSWORD"));
        let host = match (given.host, given.hostaddr) {
            (Some(path), _) if path.starts_with('/') => Host::Unix(path.into()),
            (Some(name), address) => Host::Tcp { name, address },
            (None, Some(address)) => Host::Tcp { name: address.to_string(), address: Some(address) },
            (None, None) => Host::Tcp { name: "localhost".to_owned(), address: None },
        };
        Ok(Conninfo {
            host,
            port: given.port.unwrap_or(5432),
            dbname: given.dbname.unwrap_or_else(|| user.clone()),
            user,
            password: password.map(Password),
            ssl_mode: given.ssl_mode,
            ssl_root_certs: given.ssl_root_certs,
            channel_binding: given.channel_binding,
            connect_timeout: given.connect_timeout.unwrap_or(CONNECT_TIMEOUT),
            application_name: given.application_name.unwrap_or_else(|| "walcast".to_owned()),
            options: given.options,
        })
    }

    /// The same server and database with another login (the oracle's).
    pub fn with_user(&self, user: &str, password: Option<&str>) -> Conninfo {
        Conninfo { user: user.to_owned(), password: password.map(|p| Password(p.to_owned())), ..self.clone() }
    }

    pub fn with_application_name(&self, name: &str) -> Conninfo {
        Conninfo { application_name: name.to_owned(), ..self.clone() }
    }

    /// What errors and logs call the server.
    pub fn address(&self) -> String {
        match &self.host {
            Host::Tcp { name, .. } if name.contains(':') => format!("[{name}]:{}", self.port),
            Host::Tcp { name, .. } => format!("{name}:{}", self.port),
            Host::Unix(_) => self.socket_path().display().to_string(),
        }
    }

    /// The socket's file; for TCP a path that nobody asks for.
    pub(super) fn socket_path(&self) -> PathBuf {
        match &self.host {
            Host::Unix(directory) => directory.join(format!(".s.PGSQL.{}", self.port)),
            Host::Tcp { .. } => PathBuf::new(),
        }
    }

    /// TLS is never spoken over a unix socket, whatever the mode: libpq's rule.
    pub(super) fn effective_ssl_mode(&self) -> SslMode {
        match self.host {
            Host::Unix(_) => SslMode::Disable,
            Host::Tcp { .. } => self.ssl_mode,
        }
    }

    /// For ordinary SQL. What is checked of a certificate is not in it: use [`Conninfo::connect`].
    pub fn tokio_postgres_config(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.user(&self.user).dbname(&self.dbname).port(self.port);
        config.application_name(&self.application_name).connect_timeout(self.connect_timeout);
        match &self.host {
            Host::Unix(directory) => {
                config.host_path(directory);
            }
            Host::Tcp { name, address } => {
                config.host(name);
                address.iter().for_each(|address| {
                    config.hostaddr(*address);
                });
            }
        }
        if let Some(password) = &self.password {
            config.password(password.expose());
        }
        if let Some(options) = &self.options {
            config.options(options);
        }
        config.ssl_mode(match self.effective_ssl_mode() {
            SslMode::Disable => tokio_postgres::config::SslMode::Disable,
            SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => tokio_postgres::config::SslMode::Require,
        });
        config.channel_binding(match self.channel_binding {
            ChannelBinding::Disable => tokio_postgres::config::ChannelBinding::Disable,
            ChannelBinding::Prefer => tokio_postgres::config::ChannelBinding::Prefer,
            ChannelBinding::Require => tokio_postgres::config::ChannelBinding::Require,
        });
        config
    }

    /// An ordinary SQL connection, under the same rules as the replication connection. The future is the
    /// connection's task: it ends with the client, or with the error that ended the session.
    pub async fn connect(&self) -> Result<(Client, ConnectionTask), Error> {
        // tokio-postgres bounds the TCP handshake alone; a server that accepts and stays silent is bounded here.
        let limit = self.connect_timeout * 2;
        match tokio::time::timeout(limit, self.connect_unbounded()).await {
            Ok(connected) => connected,
            Err(_) => Err(Error::ConnectTimeout { address: self.address(), limit }),
        }
    }

    async fn connect_unbounded(&self) -> Result<(Client, ConnectionTask), Error> {
        let config = self.tokio_postgres_config();
        if self.effective_ssl_mode() == SslMode::Disable {
            let (client, connection) = config.connect(NoTls).await.map_err(|error| self.unreachable(error))?;
            return Ok((client, Box::pin(connection)));
        }
        let connected = config.connect(SqlTls::new(self)?).await;
        let (client, connection) = connected.map_err(|error| self.unreachable(error))?;
        Ok((client, Box::pin(connection)))
    }

    /// Names the address where nobody answers.
    fn unreachable(&self, error: tokio_postgres::Error) -> Error {
        let is_io = std::error::Error::source(&error).is_some_and(|source| source.is::<io::Error>());
        if !is_io {
            return Error::Sql(error);
        }
        let source = error.into_source().and_then(|source| source.downcast::<io::Error>().ok());
        let source = source.map_or_else(|| io::ErrorKind::NotConnected.into(), |source| *source);
        Error::Connect { address: self.address(), source }
    }

    /// Asks the server to cancel what a session of [`Conninfo::connect`] runs, over the same kind of transport.
    pub async fn cancel(&self, token: CancelToken) -> Result<(), Error> {
        if self.effective_ssl_mode() == SslMode::Disable {
            return Ok(token.cancel_query(NoTls).await?);
        }
        Ok(token.cancel_query(SqlTls::new(self)?).await?)
    }
}

/// What carries an ordinary connection's bytes; somebody has to poll it.
pub type ConnectionTask = Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send>>;

impl fmt::Display for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}/{}", self.user, self.address(), self.dbname)
    }
}

impl std::str::FromStr for Conninfo {
    type Err = ConninfoError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Conninfo::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Conninfo, ConninfoError> {
        Conninfo::parse_with(text, |_| None)
    }

    #[test]
    fn a_uri_and_key_value_pairs_say_the_same() {
        let uri = parse(
            "postgresql://us%40er:p%2Fw%3A@db.example:6543/my%20db?sslmode=verify-full&sslrootcert=/ca.pem\
             &connect_timeout=3&application_name=relay&options=-c%20a%3Db",
        );
        let pairs = parse(
            r"host=db.example port = 6543 user='us@er' password=p/w: dbname='my db' sslmode=verify-full
              sslrootcert=/ca.pem connect_timeout=3 application_name=relay options='-c a=b'",
        );
        assert_eq!(uri, pairs);
        let conninfo = uri.unwrap();
        assert_eq!(conninfo.host, Host::Tcp { name: "db.example".into(), address: None });
        assert_eq!((conninfo.port, conninfo.user.as_str(), conninfo.dbname.as_str()), (6543, "us@er", "my db"));
        assert_eq!(conninfo.password.unwrap().expose(), "p/w:");
        assert_eq!(conninfo.ssl_mode, SslMode::VerifyFull);
        assert_eq!(conninfo.connect_timeout, Duration::from_secs(3));
        assert_eq!(conninfo.options.as_deref(), Some("-c a=b"));
    }

    #[test]
    fn what_is_left_out_is_what_libpq_would_take() {
        let conninfo = parse("user=u").unwrap();
        assert_eq!(conninfo.to_string(), "u@localhost:5432/u");
        assert_eq!(conninfo.ssl_mode, SslMode::Prefer);
        assert_eq!(parse("postgres://"), Err(ConninfoError::NoUser));
        let environment = |name: &str| Some(format!("env-{name}"));
        let conninfo = Conninfo::parse_with("postgres:///d", environment).unwrap();
        assert_eq!(conninfo.user, "env-PGUSER");
        assert_eq!(conninfo.password.unwrap().expose(), "env-PGPASSWORD");
    }

    #[test]
    fn a_host_with_a_slash_is_a_unix_socket() {
        let socket = Host::Unix("/var/run/postgresql".into());
        for text in [
            "postgres://u@%2Fvar%2Frun%2Fpostgresql/d",
            "postgres://u@/d?host=/var/run/postgresql",
            "postgres:///d?host=/var/run/postgresql&user=u",
            "host=/var/run/postgresql user=u dbname=d sslmode=verify-full",
        ] {
            let conninfo = parse(text).unwrap();
            assert_eq!(conninfo.host, socket, "{text}");
            assert_eq!(conninfo.dbname, "d");
            assert_eq!(conninfo.effective_ssl_mode(), SslMode::Disable);
            assert_eq!(conninfo.address(), "/var/run/postgresql/.s.PGSQL.5432");
        }
        let with_port = parse("postgres://u@%2Ftmp%2Fpg:5433/d").unwrap();
        assert_eq!(with_port.address(), "/tmp/pg/.s.PGSQL.5433");
    }

    #[test]
    fn ipv6_and_hostaddr_are_understood() {
        let conninfo = parse("postgres://u@[::1]:5433/d").unwrap();
        assert_eq!(conninfo.address(), "[::1]:5433");
        let conninfo = parse("host=db.example hostaddr=10.0.0.1 user=u").unwrap();
        assert_eq!(conninfo.host, Host::Tcp { name: "db.example".into(), address: Some([10, 0, 0, 1].into()) });
    }

    #[test]
    fn several_hosts_are_refused_in_either_spelling() {
        for text in ["postgres://u@a,b/d", "postgres://u@a:1,b:2/d", "host=a,b user=u", "host=a port=1,2 user=u"] {
            assert_eq!(parse(text), Err(ConninfoError::SeveralHosts), "{text}");
        }
    }

    #[test]
    fn the_password_is_never_shown() {
        let conninfo = parse("postgres://u:hunter2@h/d").unwrap();
        let other = conninfo.with_user("walcast_oracle", Some("hunter3"));
        assert_eq!(other.to_string(), "walcast_oracle@h:5432/d");
        for shown in [format!("{conninfo} {conninfo:?} {conninfo:#?}"), format!("{other} {other:?}")] {
            assert!(!shown.contains("hunter"), "{shown}");
        }
        for mangled in ["u:hunter2@h/d", "user=u password='hunter2", "postgres://u:%hunter2@h/d", "hunter2"] {
            let error = parse(mangled).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter"), "{error:?}");
        }
    }

    #[test]
    fn what_walcast_does_not_do_is_named_and_what_makes_no_difference_is_ignored() {
        assert_eq!(parse("user=u sslcert=/x"), Err(ConninfoError::Unsupported("sslcert")));
        assert_eq!(parse("postgres://u@h/d?pgbouncer=true"), Err(ConninfoError::UnknownParameter("pgbouncer".into())));
        assert!(parse("user=u sslmode=no-verify").unwrap_err().to_string().contains("verify-full"));
        assert!(parse("user=u port=0").is_err());
        assert!(parse("user=u keepalives=1 target_session_attrs=any").is_ok());
    }
}
