//! Who a client is, where proxies stand between: what they say counts, what anybody else says does not.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use hyper::header::{HeaderMap, HeaderName};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// A network, `10.0.0.0/8`, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a network: try 10.0.0.0/8, fd00::/8 or a single address")]
pub struct NotANetwork(String);

/// What a TCP connection is known by.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    pub is_secure: bool,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    pub address: IpAddr,
    /// It reached us, or the proxy, over TLS.
    pub is_secure: bool,
}

/// Whether an address is a proxy's.
pub fn is_trusted(address: IpAddr, trusted: &[Cidr]) -> bool {
    trusted.iter().any(|network| network.has(address))
}

impl Client {
    /// Of the addresses that were passed on, the last that is not a proxy's: those before it anybody may have written.
    pub fn of(peer: Peer, headers: &HeaderMap, trusted: &[Cidr]) -> Client {
        let is_trusted = |address| is_trusted(address, trusted);
        let mut client = Client { address: peer.address.ip().to_canonical(), is_secure: peer.is_secure };
        if !is_trusted(client.address) {
            return client;
        }
        // Each part by itself: a client that writes what is no text before what the proxy adds would hide that, too.
        let parts = |name: &HeaderName| -> Vec<Option<&str>> {
            let parts = headers.get_all(name).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
            parts.map(|part| std::str::from_utf8(part).ok().map(str::trim)).collect()
        };
        if let Some(proto) = parts(&FORWARDED_PROTO).last() {
            client.is_secure =
                proto.is_some_and(|proto| ["https", "wss"].iter().any(|tls| proto.eq_ignore_ascii_case(tls)));
        }
        for hop in parts(&FORWARDED_FOR).into_iter().rev() {
            // What cannot be read came from beyond the proxy that we know.
            let Some(address) = hop.and_then(address) else { break };
            client.address = address;
            if !is_trusted(address) {
                break;
            }
        }
        client
    }
}

/// With or without a port.
fn address(hop: &str) -> Option<IpAddr> {
    let with_port = || hop.parse::<SocketAddr>().ok().map(|address| address.ip());
    hop.parse::<IpAddr>().ok().or_else(with_port).map(|address| address.to_canonical())
}

impl Cidr {
    pub fn has(&self, address: IpAddr) -> bool {
        let mask = |width: u32| u128::MAX.checked_shl(width - u32::from(self.bits)).unwrap_or(0);
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let (network, address) = (u128::from(network.to_bits()), u128::from(address.to_bits()));
                network & mask(32) == address & mask(32)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                network.to_bits() & mask(128) == address.to_bits() & mask(128)
            }
            _ => false,
        }
    }
}

impl FromStr for Cidr {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Cidr, NotANetwork> {
        let wrong = || NotANetwork(text.to_owned());
        let (address, bits) = match text.trim().split_once('/') {
            None => (text.trim(), None),
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| wrong())?)),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(width);
        if bits > width { Err(wrong()) } else { Ok(Cidr { address, bits }) }
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn client(peer: &str, forwarded: &[&str]) -> String {
        client_of_bytes(peer, &forwarded.iter().map(|line| line.as_bytes()).collect::<Vec<_>>(), b"https")
    }

    fn client_of_bytes(peer: &str, forwarded: &[&[u8]], proto: &[u8]) -> String {
        let peer = Peer { address: SocketAddr::new(peer.parse().unwrap(), 1), is_secure: false };
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(FORWARDED_FOR, HeaderValue::from_bytes(value).unwrap());
        }
        headers.insert(FORWARDED_PROTO, HeaderValue::from_bytes(proto).unwrap());
        let trusted = ["10.0.0.0/8", "fd00::/8", "192.0.2.7"].map(|network| network.parse().unwrap());
        let client = Client::of(peer, &headers, &trusted);
        format!("{}{}", client.address, if client.is_secure { " tls" } else { "" })
    }

    #[test]
    fn only_proxies_are_believed() {
        assert_eq!(client("203.0.113.1", &["198.51.100.1"]), "203.0.113.1");
        assert_eq!(client("10.1.2.3", &[]), "10.1.2.3 tls");
        assert_eq!(client("10.1.2.3", &["198.51.100.1"]), "198.51.100.1 tls");
        assert_eq!(client("::ffff:10.1.2.3", &["198.51.100.1:4711"]), "198.51.100.1 tls");
        assert_eq!(client("fd00::1", &["[2001:db8::1]:443"]), "2001:db8::1 tls");
        // What the client wrote itself stands to the left of what the proxies added.
        assert_eq!(client("10.1.2.3", &["1.1.1.1, 198.51.100.1", "192.0.2.7"]), "198.51.100.1 tls");
        assert_eq!(client("10.1.2.3", &["198.51.100.1, unknown, 10.9.9.9"]), "10.9.9.9 tls");
        assert_eq!(client("10.1.2.3", &["10.0.0.9, 10.0.0.8"]), "10.0.0.9 tls");
    }

    #[test]
    fn what_is_no_text_hides_neither_the_client_nor_what_a_proxy_has_added() {
        let peer = "10.1.2.3";
        for unreadable in ["é", "1.1.1.1é", "\u{a0}"] {
            let same_line = format!("{unreadable}, 198.51.100.1");
            assert_eq!(client(peer, &[&same_line]), "198.51.100.1 tls");
            assert_eq!(client(peer, &[unreadable, "198.51.100.1, 10.0.0.9"]), "198.51.100.1 tls");
            // Who a proxy does not name is the proxy: not whom an earlier line names.
            assert_eq!(client(peer, &["1.1.1.1", unreadable]), "10.1.2.3 tls");
            assert_eq!(client(peer, &["1.1.1.1", unreadable, "10.0.0.9"]), "10.0.0.9 tls");
        }
        assert_eq!(client_of_bytes(peer, &[b"\xff\xfe, 198.51.100.1"], b"https"), "198.51.100.1 tls");
        assert_eq!(client_of_bytes(peer, &[b"1.1.1.1", b"\xff\xfe"], b"https"), "10.1.2.3 tls");
        assert_eq!(client_of_bytes(peer, &[b"198.51.100.1"], b"https, \xff"), "198.51.100.1");
        assert_eq!(client_of_bytes(peer, &[b"198.51.100.1"], b"\xff, https"), "198.51.100.1 tls");
    }

    #[test]
    fn networks_have_edges() {
        let has = |network: &str, address: &str| network.parse::<Cidr>().unwrap().has(address.parse().unwrap());
        assert!(has("10.0.0.0/8", "10.255.255.255") && !has("10.0.0.0/8", "11.0.0.0"));
        assert!(has("0.0.0.0/0", "1.2.3.4") && !has("0.0.0.0/0", "::1") && has("::/0", "::1"));
        assert!(has("192.0.2.128/25", "192.0.2.128") && !has("192.0.2.128/25", "192.0.2.127"));
        assert!(has("2001:db8::/33", "2001:db8:7fff::1") && !has("2001:db8::/33", "2001:db8:8000::1"));
        for bad in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "ten", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
