//! Who sits where: the limits on connections, in all and from one network.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::head::Rejection;

/// No place is left.
pub(crate) const FULL: Rejection = Rejection::with_headers(
    "connections",
    "503 Service Unavailable",
    "Retry-After: 5\r\n",
    "this server holds as many connections as it may (limits.connections_max)",
);
/// No place is left for this network.
pub(crate) const FULL_FOR_IP: Rejection = Rejection::with_headers(
    "connections_per_ip",
    "429 Too Many Requests",
    "Retry-After: 5\r\n",
    "too many connections from your address (limits.connections_per_ip_max)",
);

/// From so many connections on it is looked at whether one address holds most of them.
const CROWD: usize = 200;

/// Who sits where, for the limits.
#[derive(Default)]
pub(crate) struct Seats {
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_ip: HashMap<IpAddr, usize>,
    is_crowd_told: bool,
}

impl Seats {
    /// A place for one more connection from `ip`.
    ///
    /// # Errors
    /// The answer for the client, when there is none.
    pub fn take(self: &Arc<Self>, ip: IpAddr, max: usize, per_ip_max: usize) -> Result<Seat, Rejection> {
        let mut taken = self.lock();
        if taken.all >= max {
            return Err(FULL);
        }
        let key = network(ip);
        taken.enter(key, per_ip_max)?;
        taken.all += 1;
        Ok(Seat { seats: Arc::clone(self), ip, key: Some(key) })
    }

    /// A place for one more connection that a trusted proxy at `ip` brings: it counts for no address until it is [moved](Seat::move_to).
    ///
    /// # Errors
    /// The answer for the client, when there is none.
    pub fn take_for_proxy(self: &Arc<Self>, ip: IpAddr, max: usize) -> Result<Seat, Rejection> {
        let mut taken = self.lock();
        if taken.all >= max {
            return Err(FULL);
        }
        taken.all += 1;
        Ok(Seat { seats: Arc::clone(self), ip, key: None })
    }

    /// How many connections `ip` holds, when it is most of them: answered once, for the first address that does.
    pub fn crowd(&self, ip: IpAddr) -> Option<usize> {
        let mut taken = self.lock();
        let here = taken.by_ip.get(&network(ip)).copied().unwrap_or_default();
        if taken.is_crowd_told || taken.all < CROWD || here * 2 <= taken.all {
            return None;
        }
        taken.is_crowd_told = true;
        Some(here)
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn enter(&mut self, key: IpAddr, per_ip_max: usize) -> Result<(), Rejection> {
        let here = self.by_ip.entry(key).or_default();
        if *here >= per_ip_max {
            return Err(FULL_FOR_IP);
        }
        *here += 1;
        Ok(())
    }

    fn leave(&mut self, key: IpAddr) {
        if let Some(here) = self.by_ip.get_mut(&key) {
            *here -= 1;
            if *here == 0 {
                self.by_ip.remove(&key);
            }
        }
    }
}

/// One connection's place within the limits; dropping it gives it back.
pub(crate) struct Seat {
    seats: Arc<Seats>,
    /// The client's address, as far as it is known.
    pub ip: IpAddr,
    /// What it counts for; `None` behind a proxy that has not told yet.
    key: Option<IpAddr>,
}

impl Seat {
    /// From here on it counts for `ip`.
    ///
    /// # Errors
    /// The answer for the client, when `ip` has no place left.
    pub fn move_to(&mut self, ip: IpAddr, per_ip_max: usize) -> Result<(), Rejection> {
        let key = network(ip);
        self.ip = ip;
        if self.key == Some(key) {
            return Ok(());
        }
        let mut taken = self.seats.lock();
        taken.enter(key, per_ip_max)?;
        if let Some(old) = self.key.replace(key) {
            taken.leave(old);
        }
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        taken.all -= 1;
        if let Some(key) = self.key {
            taken.leave(key);
        }
    }
}

/// What counts as one address: all of IPv4, the /64 of IPv6, which one client has to itself.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) & (u128::MAX << 64))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_limited_in_all_and_per_network() {
        let seats = Arc::new(Seats::default());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = seats.take(ip("2001:db8::1"), 3, 1).unwrap();
        assert_eq!(seats.take(ip("2001:db8::2"), 3, 1).err(), Some(FULL_FOR_IP), "the same /64");
        let _second = seats.take(ip("10.0.0.1"), 3, 1).unwrap();
        let _third = seats.take(ip("10.0.0.2"), 3, 1).unwrap();
        assert_eq!(seats.take(ip("10.0.0.3"), 3, 1).err(), Some(FULL));
        drop(first);
        assert!(seats.take(ip("2001:db8::2"), 3, 1).is_ok());
    }

    #[test]
    fn a_proxys_seat_counts_for_its_client_once_that_is_known() {
        let seats = Arc::new(Seats::default());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (proxy, client) = (ip("10.0.0.1"), ip("192.0.2.1"));
        let mut first = seats.take_for_proxy(proxy, 3).unwrap();
        let mut second = seats.take_for_proxy(proxy, 3).unwrap();
        first.move_to(client, 1).unwrap();
        first.move_to(client, 1).unwrap();
        assert_eq!((first.ip, second.move_to(client, 1)), (client, Err(FULL_FOR_IP)));
        drop(first);
        second.move_to(client, 1).unwrap();
        drop(second);
        let taken = seats.lock();
        assert_eq!((taken.all, taken.by_ip.len()), (0, 0));
    }

    #[test]
    fn one_address_with_most_connections_is_told_once() {
        let seats = Arc::new(Seats::default());
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut held: Vec<_> = (0..100).map(|_| seats.take(one, 1_000, 1_000).unwrap()).collect();
        assert_eq!(seats.crowd(one), None, "too few");
        held.extend((0..100).map(|_| seats.take(other, 1_000, 1_000).unwrap()));
        assert_eq!((seats.crowd(one), seats.crowd(other)), (None, None), "one half is not most");
        held.push(seats.take(one, 1_000, 1_000).unwrap());
        assert_eq!((seats.crowd(one), seats.crowd(one)), (Some(101), None));
    }
}
