//! Short texts with a grammar: conninfo, and who proxies say a client is.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use walcast::server::Cidr;
use walcast::server::origins::Origins;
use walcast::server::proxies::{Client, Peer};
use walcast::wal::Conninfo;

use super::{RECORD, parts};

/// A conninfo is good or refused; a good one can be used, named in errors and shown in logs, without its password.
pub fn fuzz_conninfo(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Conninfo::parse(&text) {
        Ok(conninfo) => {
            let _ = conninfo.tokio_postgres_config();
            let other = conninfo.with_user("somebody", Some("hunter2-of-nobody")).with_application_name("fuzz");
            let shown = format!("{other:?} {}", other.address());
            assert!(!shown.contains("hunter2-of-nobody"), "the password is shown: {shown}");
        }
        Err(error) => assert!(error.to_string().len() <= 4 * data.len() + 500),
    }
}

/// Peer, proxies, an origin's patterns, and then the headers' values. Whoever is no proxy is who the connection says;
/// an address that somebody else wrote counts only behind a proxy, and only if it is one.
pub fn fuzz_forwarded(data: &[u8]) {
    let mut parts = parts(data, RECORD).map(String::from_utf8_lossy);
    let mut next = || parts.next().unwrap_or_default();
    let peer: IpAddr = next().parse().unwrap_or(IpAddr::from([10, 0, 0, 1]));
    let trusted: Vec<Cidr> = next().split(',').filter_map(|network| network.parse().ok()).collect();
    let patterns = next();
    let origin = next();
    let mut headers = HeaderMap::new();
    let mut written = Vec::new();
    for (place, value) in parts.enumerate() {
        let name = if place % 4 == 3 { "x-forwarded-proto" } else { "x-forwarded-for" };
        let Ok(header) = HeaderValue::from_bytes(value.as_bytes()) else { continue };
        headers.append(HeaderName::from_static(name), header);
        written.push(value);
    }
    let client = Client::of(Peer { address: SocketAddr::new(peer, 1), is_secure: false }, &headers, &trusted);
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.has(address));
    if !is_trusted(peer.to_canonical()) {
        assert_eq!((client.address, client.is_secure), (peer.to_canonical(), false), "a stranger was believed");
    }
    if client.address != peer.to_canonical() {
        let named = |hop: &str| {
            let hop = hop.trim();
            hop.parse().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()))
        };
        let hops = written.iter().flat_map(|value| value.split(',')).filter_map(named);
        assert!(hops.into_iter().any(|hop: IpAddr| hop.to_canonical() == client.address), "nobody wrote {client:?}");
    }
    if let Ok(origins) = Origins::parse(patterns.split(',').filter(|pattern| !pattern.is_empty())) {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_bytes(origin.as_bytes()) {
            headers.insert(hyper::header::ORIGIN, value);
        }
        let admitted = origins.admit(&headers);
        assert!(admitted || !origins.is_any());
    }
}
