//! A clock that wakes a thread of its own when a call takes long: to set it costs a system call, and wakes nobody.

use std::time::Duration;

/// Rings once, unless it is set anew or put off before.
#[cfg(target_os = "linux")]
pub(super) struct Alarm(std::os::fd::OwnedFd);

#[cfg(target_os = "linux")]
impl Alarm {
    /// `None` where the system has no such clock, or gives none.
    pub(super) fn new() -> Option<Self> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).ok().map(Self)
    }

    /// Rings so long from now; zero = not at all. Whether it could be set: in a runner the plugin may have closed it.
    pub(super) fn set(&self, after: Duration) -> bool {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        let time = |duration: Duration| Timespec {
            tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: duration.subsec_nanos().into(),
        };
        let once = Itimerspec { it_interval: time(Duration::ZERO), it_value: time(after) };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once).is_ok()
    }

    /// Waits until it rings. Whether it can ring again.
    pub(super) fn wait(&self) -> bool {
        loop {
            match rustix::io::read(&self.0, &mut [0_u8; 8]) {
                Err(rustix::io::Errno::INTR) => {}
                read => return read == Ok(8),
            }
        }
    }
}

/// Such a clock is Linux's own.
#[cfg(not(target_os = "linux"))]
pub(super) enum Alarm {}

#[cfg(not(target_os = "linux"))]
impl Alarm {
    pub(super) fn new() -> Option<Self> {
        None
    }

    pub(super) fn set(&self, _after: Duration) -> bool {
        match *self {}
    }

    pub(super) fn wait(&self) -> bool {
        match *self {}
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn rings_when_it_was_set_to_and_not_when_it_was_put_off() {
        let alarm = Alarm::new().unwrap();
        let began = Instant::now();
        assert!(alarm.set(Duration::from_millis(1)) && alarm.set(Duration::ZERO) && alarm.set(Duration::from_millis(30)));
        assert!(alarm.wait());
        assert!(began.elapsed() >= Duration::from_millis(30));
    }
}
