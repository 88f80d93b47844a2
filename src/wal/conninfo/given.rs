//! What a conninfo's text gave, each parameter checked by itself.

use std::net::IpAddr;
use std::time::Duration;

use super::{ChannelBinding, ConninfoError, RootCerts, SslMode, parse};

/// What libpq has and what makes no difference here: both spellings stay usable in one environment.
const IGNORED: &[&str] = &[
    "client_encoding",
    "fallback_application_name",
    "gssencmode",
    "gssdelegation",
    "gsslib",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "passfile",
    "replication",
    "sslcompression",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
];

/// The parameters that were given, checked one by one.
#[derive(Default)]
pub(super) struct Given {
    pub(super) host: Option<String>,
    pub(super) hostaddr: Option<IpAddr>,
    pub(super) port: Option<u16>,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) dbname: Option<String>,
    pub(super) ssl_mode: SslMode,
    pub(super) ssl_root_certs: Option<RootCerts>,
    pub(super) channel_binding: ChannelBinding,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) application_name: Option<String>,
    pub(super) options: Option<String>,
}

impl Given {
    pub(super) fn read(text: &str) -> Result<Given, ConninfoError> {
        let mut given = Given::default();
        for (key, value) in parse::pairs(text)? {
            given.set(&key, value)?;
        }
        Ok(given)
    }

    fn set(&mut self, key: &str, value: String) -> Result<(), ConninfoError> {
        let invalid = |parameter, expected| ConninfoError::InvalidValue { parameter, value: value.clone(), expected };
        match key {
            "host" | "hostaddr" | "port" if value.contains(',') => return Err(ConninfoError::SeveralHosts),
            // An empty value is, to libpq, the same as none.
            _ if value.is_empty() => {}
            "host" => self.host = Some(value),
            "hostaddr" => self.hostaddr = Some(value.parse().map_err(|_| invalid("hostaddr", "an IP address"))?),
            "port" => {
                let port = value.trim().parse().ok().filter(|port| *port != 0);
                self.port = Some(port.ok_or_else(|| invalid("port", "a number from 1 to 65535"))?);
            }
            "user" => self.user = Some(value),
            "password" => self.password = Some(value),
            "dbname" => self.dbname = Some(value),
            "sslmode" => {
                self.ssl_mode = match value.as_str() {
                    "disable" => SslMode::Disable,
                    // `allow` differs from `prefer` in which of the two is tried first.
                    "allow" | "prefer" => SslMode::Prefer,
                    "require" => SslMode::Require,
                    "verify-ca" => SslMode::VerifyCa,
                    "verify-full" => SslMode::VerifyFull,
                    _ => return Err(invalid("sslmode", "disable, prefer, require, verify-ca or verify-full")),
                }
            }
            "sslrootcert" if value == "system" => self.ssl_root_certs = Some(RootCerts::System),
            "sslrootcert" => self.ssl_root_certs = Some(RootCerts::File(value.into())),
            "channel_binding" => {
                self.channel_binding = match value.as_str() {
                    "disable" => ChannelBinding::Disable,
                    "prefer" => ChannelBinding::Prefer,
                    "require" => ChannelBinding::Require,
                    _ => return Err(invalid("channel_binding", "disable, prefer or require")),
                }
            }
            "connect_timeout" => {
                let seconds: i64 = value.trim().parse().map_err(|_| invalid("connect_timeout", "seconds"))?;
                // 0 and less: libpq waits for ever. We keep our own limit.
                self.connect_timeout = u64::try_from(seconds).ok().filter(|s| *s > 0).map(Duration::from_secs);
            }
            "application_name" => self.application_name = Some(value),
            "options" => self.options = Some(value),
            "sslnegotiation" if value == "postgres" => {}
            "sslnegotiation" => return Err(ConninfoError::Unsupported("sslnegotiation=direct")),
            "sslcert" => return Err(ConninfoError::Unsupported("sslcert")),
            "sslkey" => return Err(ConninfoError::Unsupported("sslkey")),
            "sslcrl" => return Err(ConninfoError::Unsupported("sslcrl")),
            "service" => return Err(ConninfoError::Unsupported("service")),
            ignored if IGNORED.contains(&ignored) => {}
            unknown => return Err(ConninfoError::UnknownParameter(unknown.to_owned())),
        }
        Ok(())
    }
}
