//! Who may come in at all: connections that are accepted, whatever becomes of them.
//!
//! An accepted connection costs a descriptor, before anybody knows whose it is. Each has a [`Seat`] until its socket is
//! closed, and until it is a WebSocket, or gone, it is a [`Visit`] besides: a handshake, a request, or somebody who says
//! nothing. What is above a limit is closed without a word: an answer would cost more than the question.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Config;
use super::addresses::{Addresses, Place};
use super::metrics::{Metrics, RefusalLabels, Refused};

/// Between two lines in the log about the same trouble: a flood of connections is none of lines.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

pub struct Doors {
    sockets_max: usize,
    visits_max: usize,
    sockets: AtomicUsize,
    visits: AtomicUsize,
    /// Of visits; sockets have their own.
    addresses: Arc<Addresses>,
    metrics: Arc<Metrics>,
    pub refusals: Line,
    pub accept_failures: Line,
}

/// A connection's descriptor, given back when dropped.
pub struct Seat(Arc<Doors>);

/// A connection that is no WebSocket, or not yet.
pub struct Visit {
    doors: Arc<Doors>,
    _place: Place,
}

impl Doors {
    pub fn new(config: &Config, metrics: Arc<Metrics>) -> Arc<Doors> {
        metrics.sockets_max.set(i64::try_from(config.sockets_max).unwrap_or(i64::MAX));
        Arc::new(Doors {
            sockets_max: config.sockets_max,
            visits_max: config.handshakes_max,
            sockets: AtomicUsize::new(0),
            visits: AtomicUsize::new(0),
            addresses: Addresses::new(config.connections_per_address_max),
            metrics,
            refusals: Line::default(),
            accept_failures: Line::default(),
        })
    }

    /// Lets a connection in. `address` is `None` where it says nothing: a proxy's.
    pub fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Option<(Seat, Visit)> {
        let seat = self.seat().ok_or(Refused::Sockets);
        let entered = seat.and_then(|seat| Ok((seat, self.visit(address)?)));
        entered.map_err(|refused| self.refuse(refused)).ok()
    }

    fn seat(self: &Arc<Self>) -> Option<Seat> {
        let taken = self.sockets.fetch_add(1, Ordering::Relaxed);
        self.metrics.sockets.inc();
        let seat = Seat(Arc::clone(self));
        (taken < self.sockets_max).then_some(seat)
    }

    fn visit(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Visit, Refused> {
        let place = match address {
            None => Place::default(),
            Some(address) => self.addresses.take(address).ok_or(Refused::Address)?,
        };
        let taken = self.visits.fetch_add(1, Ordering::Relaxed);
        self.metrics.handshakes.inc();
        let visit = Visit { doors: Arc::clone(self), _place: place };
        if taken < self.visits_max { Ok(visit) } else { Err(Refused::Handshakes) }
    }

    fn refuse(&self, reason: Refused) {
        self.metrics.sockets_refused.get_or_create(&RefusalLabels { reason }).inc();
        if let Some(times) = self.refusals.count(Instant::now()) {
            let (sockets, handshakes) = (self.sockets_max, self.visits_max);
            tracing::warn!(?reason, times, sockets, handshakes, "Connections are refused: there are too many");
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.sockets.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.sockets.dec();
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.doors.visits.fetch_sub(1, Ordering::Relaxed);
        self.doors.metrics.handshakes.dec();
    }
}

/// Something that is said once in a while, with how often it has been since.
#[derive(Default)]
pub struct Line(Mutex<(Option<Instant>, u64)>);

impl Line {
    /// `Some`: it is to be said now.
    pub fn count(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (said, times) = &mut *state;
        *times += 1;
        if said.is_some_and(|said| now.saturating_duration_since(said) < LINE_INTERVAL) {
            return None;
        }
        *said = Some(now);
        Some(std::mem::take(times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doors(config: Config) -> (Arc<Doors>, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::default());
        (Doors::new(&config, Arc::clone(&metrics)), metrics)
    }

    fn refused(metrics: &Metrics, reason: Refused) -> u64 {
        metrics.sockets_refused.get_or_create(&RefusalLabels { reason }).get()
    }

    #[test]
    fn seats_and_visits_are_given_back_however_they_end() {
        let (doors, metrics) = doors(Config { sockets_max: 3, handshakes_max: 2, ..Config::default() });
        let (seat, visit) = doors.enter(None).unwrap();
        let second = doors.enter(None).unwrap();
        assert!(doors.enter(None).is_none());
        assert_eq!(refused(&metrics, Refused::Handshakes), 1);
        // The first has become a WebSocket.
        drop(visit);
        let third = doors.enter(None).unwrap();
        assert!(doors.enter(None).is_none());
        assert_eq!(refused(&metrics, Refused::Sockets), 1);
        assert_eq!((metrics.sockets.get(), metrics.handshakes.get()), (3, 2));
        drop((seat, second, third));
        assert_eq!((metrics.sockets.get(), metrics.handshakes.get()), (0, 0));
        assert!(doors.enter(None).is_some());
    }

    #[test]
    fn an_address_has_as_many_visits_as_sockets_and_a_proxy_has_no_address() {
        let (doors, metrics) = doors(Config { connections_per_address_max: Some(1), ..Config::default() });
        let address = "192.0.2.1".parse().ok();
        let entered = doors.enter(address);
        assert!(entered.is_some() && doors.enter(address).is_none());
        assert_eq!((refused(&metrics, Refused::Address), metrics.sockets.get()), (1, 1));
        assert!(doors.enter(None).is_some());
        drop(entered);
        assert!(doors.enter(address).is_some());
    }

    #[test]
    fn a_flood_is_said_once_in_a_while() {
        let (line, now) = (Line::default(), Instant::now());
        assert_eq!((0..50).filter_map(|_| line.count(now)).collect::<Vec<_>>(), [1]);
        assert_eq!(line.count(now + LINE_INTERVAL), Some(50));
    }
}
