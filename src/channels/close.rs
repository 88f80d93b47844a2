//! Why a socket ends, and what the client is told in the close frame (PROTOCOL 8, and the README's table).

use prometheus_client::encoding::EncodeLabelValue;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum CloseReason {
    /// The client said so, or its connection broke.
    Client,
    /// Nothing came in for the idle timeout.
    Idle,
    /// The relay stops; the client should come back, to this one or another.
    Shutdown,
    /// The client read too slowly for too long; what was queued is lost, and it is told so.
    SlowConsumer,
    /// Too much is held of large messages that are still arriving, of all clients together.
    Overloaded,
    /// A large message did not arrive in time.
    SlowMessage,
    /// Joins per second were exceeded.
    JoinRate,
    /// A frame above the limit.
    TooLarge,
    /// A text frame that is not UTF-8.
    NotUtf8,
    /// A frame that breaks RFC 6455.
    Protocol,
}

impl CloseReason {
    /// The code of the close frame.
    pub fn code(self) -> u16 {
        match self {
            CloseReason::Client | CloseReason::Idle => 1000,
            CloseReason::JoinRate => 1001,
            CloseReason::Protocol => 1002,
            CloseReason::NotUtf8 => 1007,
            CloseReason::SlowMessage => 1008,
            CloseReason::TooLarge => 1009,
            CloseReason::Shutdown => 1012,
            // "Try again later": the client is to rejoin, and what it missed it must read again.
            CloseReason::SlowConsumer | CloseReason::Overloaded => 1013,
        }
    }

    /// The reason in the close frame. The original gives none, so only our own codes have one.
    pub fn text(self) -> &'static str {
        match self {
            CloseReason::SlowConsumer => "SlowConsumer: Messages were not read fast enough",
            CloseReason::Overloaded => "Overloaded: Too many large messages are being received",
            CloseReason::SlowMessage => "SlowMessage: The message did not arrive in time",
            _ => "",
        }
    }
}
