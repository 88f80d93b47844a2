//! How many descriptors the process may have, and how many of them are the clients'.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Left for what is not a client: the database's connections come on top. Standard streams, listeners, the runtime's
/// own, a spilled transaction, the certificate when it is read again, whatever a library opens for a moment.
const RESERVED: u64 = 64;

/// Of a client behind TLS: its connection, and both ends of the pair to the task that encrypts.
const DESCRIPTORS_OF_TLS: u64 = 3;

/// Raises the soft limit to the hard one; what holds afterwards. `None`: there is no limit.
pub fn raise_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, ?current, ?maximum, "the limit of open files cannot be raised");
            current
        }
    }
}

/// How many clients fit beside so many connections to the database.
pub fn sockets_within(descriptors: Option<u64>, database_connections: usize, is_tls: bool) -> usize {
    let Some(descriptors) = descriptors else { return usize::MAX };
    let each = if is_tls { DESCRIPTORS_OF_TLS } else { 1 };
    let left = descriptors.saturating_sub(RESERVED).saturating_sub(database_connections as u64);
    usize::try_from(left / each).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_keeps_its_descriptors() {
        assert_eq!(sockets_within(Some(1024), 10, false), 950);
        assert_eq!(sockets_within(Some(1024), 10, true), 316);
        assert_eq!(sockets_within(Some(20), 10, false), 0);
        assert_eq!(sockets_within(None, 10, true), usize::MAX);
    }
}
