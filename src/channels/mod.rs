//! Channels: Phoenix sessions without I/O, and outboxes.
//!
//! Given a client's frames and the time; gives actions: frames to send, subscriptions to make and to end, a close. What
//! dispatch has for a channel it pushes into the socket's [`Outbox`] itself, around an [`Address`]; what channels have
//! for each other goes through the [`Hub`]. Knows no sockets, no tables and no policies.

pub mod broadcast;
pub mod channel;
mod chat;
pub mod close;
pub mod diary;
pub mod frame;
pub mod hub;
pub mod join;
pub mod limits;
pub mod lobby;
pub mod metrics;
pub mod opening;
pub mod outbox;
pub mod phoenix;
mod presence;
pub mod question;
mod raw_object;
pub mod replay;
pub mod session;
pub mod subscribe;
pub mod system;
pub mod token;
pub mod topic;

pub use broadcast::{Content, EventPayload};
pub use close::CloseReason;
pub use diary::LogLevel;
pub use hub::{Broadcasted, Hub, TopicKey};
pub use limits::{Gate, Limits};
pub use lobby::{Config, Lobby};
pub use metrics::Metrics;
pub use opening::Opening;
pub use outbox::{Outbox, OutboxReader, Pushed};
pub use phoenix::{Address, Serializer};
pub use question::{Answer, Question};
pub use replay::{ReplayError, ReplayRequest, Replayed, ReplayedPayload, Replayer};
pub use session::{Action, Input, Now, Session};
pub use subscribe::{ChannelId, EventShapeKind, Subscribe, SubscriptionSink};
pub use system::{EventShape, postgres_changes_frame};
pub use token::TokenVerifier;
