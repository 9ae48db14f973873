//! The codes clients see: of `error` frames and of close frames.

/// Why a frame got an `error`; the session survives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// Not JSON, not an object, no or bad `action`, over a limit.
    BadFrame,
    /// An action before registration.
    NotRegistered,
    /// The handler refused the registration.
    Refused,
    /// Known not to be stored; try again after `retry_after_ms`.
    Busy,
    /// The write's outcome is unknown; the message may run.
    Unconfirmed,
    /// Over the connection's rate.
    RateLimited,
    /// Given up after its attempts.
    Failed,
    /// Passed its deadline on its last attempt.
    Timeout,
    /// No plugin serves this action at present.
    Unavailable,
}

impl ErrorCode {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::BadFrame,
        Self::NotRegistered,
        Self::Refused,
        Self::Busy,
        Self::Unconfirmed,
        Self::RateLimited,
        Self::Failed,
        Self::Timeout,
        Self::Unavailable,
    ];

    /// After how long another attempt is worth it, when nothing better is known.
    #[must_use]
    pub fn retry_after_ms(self) -> Option<u64> {
        matches!(self, Self::Busy | Self::RateLimited).then_some(1000)
    }

    /// The code as it stands in the frame.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadFrame => "bad_frame",
            Self::NotRegistered => "not_registered",
            Self::Refused => "refused",
            Self::Busy => "busy",
            Self::Unconfirmed => "unconfirmed",
            Self::RateLimited => "rate_limited",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Why the server closes a socket. 4000–4099: do not reconnect by yourself; 4100–4199: reconnect with backoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// The client closed, normally.
    Normal,
    /// A protocol error.
    Protocol,
    /// A binary frame where only text is allowed.
    Unsupported,
    /// Text that is not UTF-8.
    InvalidText,
    /// A message over the limit.
    TooLarge,
    /// Whether it may register could not be decided, and it can be told in no other way.
    TryAgain,
    /// Closed by the application.
    Application,
    /// The handler refused the registration.
    Refused,
    /// Rate or origin.
    Policy,
    /// A newer connection has the same id.
    Replaced,
    /// The client's token has expired.
    Expired,
    /// Not registered in time.
    RegistrationTimeout,
    /// Nothing heard for too long.
    Idle,
    /// The outgoing buffer is full.
    SlowConsumer,
    /// The server is going away.
    Draining,
}

impl CloseCode {
    /// The number in the close frame.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::Protocol => 1002,
            Self::Unsupported => 1003,
            Self::InvalidText => 1007,
            Self::TooLarge => 1009,
            Self::TryAgain => 1013,
            Self::Application => 4000,
            Self::Refused => 4003,
            Self::Policy => 4008,
            Self::Replaced => 4009,
            Self::Expired => 4010,
            Self::RegistrationTimeout => 4101,
            Self::Idle => 4102,
            Self::SlowConsumer => 4103,
            Self::Draining => 4104,
        }
    }

    /// Whether the client is sent away for what it did or left undone, and not because it left, fell silent, or the server did.
    #[must_use]
    pub fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::Protocol
                | Self::Unsupported
                | Self::InvalidText
                | Self::TooLarge
                | Self::Policy
                | Self::RegistrationTimeout
                | Self::SlowConsumer
        )
    }

    /// The word `disconnect` is given as its reason.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Normal => "client",
            Self::Protocol | Self::Unsupported | Self::InvalidText | Self::TooLarge => "protocol",
            Self::TryAgain => "busy",
            Self::Application => "application",
            Self::Refused => "refused",
            Self::Policy => "policy",
            Self::Replaced => "replaced",
            Self::Expired => "expired",
            Self::RegistrationTimeout => "registration_timeout",
            Self::Idle => "idle",
            Self::SlowConsumer => "slow_consumer",
            Self::Draining => "draining",
        }
    }
}

pub use plugsocket_plugin::call::SYSTEM_ACTIONS;
