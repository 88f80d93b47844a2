//! How many sockets an address has, where that is limited.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Who has IPv6 has a network of this many bits, and every address in it.
const IPV6_NETWORK: u128 = u128::MAX << 64;

pub struct Addresses {
    max: Option<usize>,
    sockets: Mutex<HashMap<IpAddr, usize>>,
}

/// One socket's place, given back when dropped. The default is nobody's.
#[derive(Default)]
pub struct Place(Option<(Arc<Addresses>, IpAddr)>);

impl Addresses {
    pub fn new(max: Option<usize>) -> Arc<Addresses> {
        Arc::new(Addresses { max, sockets: Mutex::default() })
    }

    /// `None`: the address has as many as it may. Where there is no limit nothing is counted.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let Some(max) = self.max else { return Some(Place(None)) };
        let address = match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & IPV6_NETWORK)),
            address => address,
        };
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let count = sockets.entry(address).or_default();
        if *count >= max {
            if *count == 0 {
                sockets.remove(&address);
            }
            return None;
        }
        *count += 1;
        Some(Place(Some((Arc::clone(self), address))))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((addresses, address)) = self.0.take() else { return };
        let mut sockets = addresses.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sockets.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                sockets.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let addresses = Addresses::new(Some(1));
        let take = |address: &str| addresses.take(address.parse().unwrap());
        let (first, other) = (take("192.0.2.1"), take("2001:db8::1"));
        assert!(first.is_some() && other.is_some());
        assert!(take("::ffff:192.0.2.1").is_none() && take("2001:db8::2").is_none());
        assert!(take("2001:db8:0:1::1").is_some());
        drop((first, other));
        assert!(addresses.sockets.lock().unwrap().is_empty());
        assert!(take("192.0.2.1").is_some());
        assert!(Addresses::new(None).take("192.0.2.1".parse().unwrap()).is_some_and(|place| place.0.is_none()));
    }
}
