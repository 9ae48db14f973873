//! Who sits where: the limits on connections, in all and from one network.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

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

/// Who sits where, for the limits.
#[derive(Default)]
pub(crate) struct Seats {
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_ip: HashMap<IpAddr, usize>,
}

impl Seats {
    /// A place for one more connection from `ip`.
    ///
    /// # Errors
    /// The answer for the client, when there is none.
    pub fn take(self: &Arc<Self>, ip: IpAddr, max: usize, per_ip_max: usize) -> Result<Seat, Rejection> {
        let key = network(ip);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= max {
            return Err(FULL);
        }
        let here = taken.by_ip.entry(key).or_default();
        if *here >= per_ip_max {
            return Err(FULL_FOR_IP);
        }
        *here += 1;
        taken.all += 1;
        Ok(Seat { seats: Arc::clone(self), ip, key })
    }
}

/// One connection's place within the limits; dropping it gives it back.
pub(crate) struct Seat {
    seats: Arc<Seats>,
    /// The client's address.
    pub ip: IpAddr,
    key: IpAddr,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Some(here) = taken.by_ip.get_mut(&self.key) {
            *here -= 1;
            if *here == 0 {
                taken.by_ip.remove(&self.key);
            }
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
}
