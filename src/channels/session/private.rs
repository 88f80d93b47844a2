//! Private channels: what is asked of the policies, when, and what becomes of the answers (PROTOCOL 5).
//!
//! ```text
//!   phx_join ──── read ──► joined, or refused        access_token ── read ──► renewed, or closed
//!   broadcast, track ── (read) ── write ──► the same frame again, with the right known
//! ```

use std::sync::Arc;

use tokio::sync::oneshot;

use super::joining::Joining;
use super::{Action, Now, Raw, Session};
use crate::authz::{Claims, TopicError, TopicGrant, TopicQuestion, TopicRight};
use crate::channels::channel::Rights;
use crate::channels::question::{Answer, Question};
use crate::channels::subscribe::ChannelId;
use crate::channels::system::message;

/// What the session waits for. One thing at a time: the server reads nothing more from the client until it is answered.
pub(super) enum Pending {
    /// Whether a join may read, and then what is replayed to it.
    Join(Joining),
    /// Whether a new token may.
    Renewal { channel: ChannelId, token: Arc<str>, claims: Arc<Claims> },
    /// A right that a frame needs, which is then looked at again.
    Frame { channel: ChannelId, right: TopicRight, frame: Owned },
}

pub(super) enum Owned {
    Text(Box<str>),
    Binary(Box<[u8]>),
}

impl Raw<'_> {
    fn to_owned(self) -> Owned {
        match self {
            Raw::Text(text) => Owned::Text(text.into()),
            Raw::Binary(bytes) => Owned::Binary(bytes.into()),
        }
    }
}

impl Owned {
    fn as_raw(&self) -> Raw<'_> {
        match self {
            Owned::Text(text) => Raw::Text(text),
            Owned::Binary(bytes) => Raw::Binary(bytes),
        }
    }
}

impl Session {
    /// `None`: there is nobody to ask, so nobody may.
    pub(super) fn ask(
        &self,
        claims: &Claims,
        subtopic: &str,
        right: TopicRight,
        presence: bool,
    ) -> Option<oneshot::Receiver<Result<TopicGrant, TopicError>>> {
        let authority = self.lobby.services.authority.as_ref()?;
        self.lobby.metrics.topic_questions.inc();
        Some(authority.ask(TopicQuestion {
            identity: Arc::new(claims.identity()),
            topic: subtopic.into(),
            headers: Arc::clone(&self.headers),
            right,
            presence,
        }))
    }

    pub(super) fn wait(&mut self, question: Question, pending: Pending, actions: &mut Vec<Action>) {
        debug_assert!(self.pending.is_none(), "one question at a time");
        self.pending = Some(Box::new(pending));
        actions.push(Action::Wait(question));
    }

    pub(super) fn ask_to_write(&mut self, raw: Raw<'_>, place: usize, actions: &mut Vec<Action>) {
        self.ask_for_frame(TopicRight::Write, raw, place, actions);
    }

    /// Whether presence may be read, where the join did not ask.
    pub(super) fn ask_to_watch(&mut self, raw: Raw<'_>, place: usize, actions: &mut Vec<Action>) {
        self.ask_for_frame(TopicRight::Read, raw, place, actions);
    }

    fn ask_for_frame(&mut self, right: TopicRight, raw: Raw<'_>, place: usize, actions: &mut Vec<Action>) {
        let channel = &self.channels[place];
        let (id, frame) = (channel.id, raw.to_owned());
        let pending = Pending::Frame { channel: id, right, frame };
        match self.ask(&channel.claims, channel.address.subtopic(), right, true) {
            Some(answer) => self.wait(Question::Topic(answer), pending, actions),
            None => {
                // A channel that is joined has been granted something by somebody; he is gone.
                self.lobby.metrics.writes_denied.inc();
            }
        }
    }

    pub(super) fn answered(&mut self, answer: Answer, now: Now, actions: &mut Vec<Action>) {
        let Some(pending) = self.pending.take() else { return };
        match (*pending, answer) {
            (Pending::Join(joining), Answer::Topic(answer)) => self.join_answered(joining, answer, now, actions),
            (Pending::Join(joining), Answer::Replay(answer)) => self.replay_answered(joining, answer, now, actions),
            (Pending::Renewal { channel, token, claims }, Answer::Topic(answer)) => {
                self.renewal_answered(channel, token, claims, answer, now, actions);
            }
            (Pending::Frame { channel, right, frame }, Answer::Topic(answer)) => {
                self.frame_answered(channel, right, &frame, answer, now, actions);
            }
            (Pending::Renewal { .. } | Pending::Frame { .. }, Answer::Replay(_)) => {
                debug_assert!(false, "a replay is asked for by joins alone");
            }
        }
    }

    fn frame_answered(
        &mut self,
        channel: ChannelId,
        right: TopicRight,
        frame: &Owned,
        answer: Result<TopicGrant, TopicError>,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        if let Some(channel) = self.channels.iter_mut().find(|other| other.id == channel)
            && let Some(mut rights) = channel.rights
        {
            // An error is a denial, for as long as the token: as the original has it.
            let grant = answer.unwrap_or_default();
            match right {
                TopicRight::Read => rights.watches = Some(grant.presence),
                TopicRight::Write => rights.write = Some(grant),
            }
            channel.permit(rights);
        }
        // The channel may have been closed meanwhile: then the frame is answered as that.
        self.is_again = true;
        self.receive(frame.as_raw(), now, actions);
        self.is_again = false;
    }

    /// Asks whether a new token may still read; the old rights hold until that is answered.
    pub(super) fn ask_to_renew(
        &mut self,
        place: usize,
        token: Arc<str>,
        claims: Arc<Claims>,
        actions: &mut Vec<Action>,
    ) {
        let channel = &self.channels[place];
        let asked = self.ask(&claims, channel.address.subtopic(), TopicRight::Read, channel.presence_enabled);
        let Some(asked) = asked else {
            let text = message::no_read(channel.address.subtopic());
            return self.end_for_token(place, &text, actions);
        };
        let pending = Pending::Renewal { channel: channel.id, token, claims };
        self.wait(Question::Topic(asked), pending, actions);
    }

    fn renewal_answered(
        &mut self,
        channel: ChannelId,
        token: Arc<str>,
        claims: Arc<Claims>,
        answer: Result<TopicGrant, TopicError>,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Some(place) = self.channels.iter().position(|other| other.id == channel) else { return };
        let channel = &mut self.channels[place];
        let grant = match answer {
            Ok(grant) => grant,
            Err(error) => return self.end_for_token(place, &error.to_string(), actions),
        };
        let asks_presence = channel.presence_enabled;
        let after = Rights::read(grant, asks_presence);
        let before = channel.rights.unwrap_or(after);
        let lost = before.hears && !after.hears || before.watches == Some(true) && after.watches == Some(false);
        if !grant.broadcast && !grant.presence {
            self.lobby.metrics.reads_denied.inc();
            let text = message::no_read(self.channels[place].address.subtopic());
            return self.end_for_token(place, &text, actions);
        }
        if lost {
            self.lobby.metrics.reads_denied.inc();
            let text = message::no_longer_read(self.channels[place].address.subtopic());
            return self.end_for_token(place, &text, actions);
        }
        channel.permit(after);
        self.renewed(place, token, claims, now, actions);
    }
}
