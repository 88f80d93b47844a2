//! Plays a transcript's client against a relay: sends what was sent, runs what was run, waits for what was received.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio_postgres::Client;

use super::connection::{Connection, Heard};
use super::fence::Fence;
use super::http;
use super::masks;
use super::message::Message;
use super::pace::Pace;
use super::received::{Received, difference};
use super::renaming::Renaming;
use super::token;
use super::transcript::{Frame, Line, Request, Response, Step, Transcript};

/// The original waits five seconds before it refuses a join; nothing else that is expected takes as long.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Where transcripts are played.
#[derive(Clone, Copy)]
pub struct Stage<'a> {
    pub address: SocketAddr,
    pub database: &'a Client,
    /// Whether the ends of cases are marked in the database too: there must be room for a channel of our own.
    pub has_fence: bool,
    /// How long a recorded second is, where times are what is recorded. Otherwise nothing waits for them.
    pub second: Option<Duration>,
}

struct Play<'a> {
    stage: &'a Stage<'a>,
    fence: &'a mut Option<Fence>,
    transcript: &'a Transcript,
    now: i64,
    connections: HashMap<String, Connection>,
    renaming: Renaming,
    /// What each connection sent last.
    sent: HashMap<String, String>,
    /// The latest plain request, and its answer.
    asked: Option<(Request, Response)>,
    /// The answer to the latest upgrade that was refused.
    refused: Option<Response>,
    /// The latest statement's error.
    failed: Option<String>,
}

/// Plays cases one after the other; the errors say at which line they differ, and how.
pub async fn play_lane(stage: Stage<'_>, cases: &[&Transcript]) -> Vec<String> {
    let mut failures = Vec::new();
    let mut fence = match stage.has_fence {
        true => match Fence::open(&stage, token::now()).await {
            Ok(fence) => Some(fence),
            Err(error) => return vec![error],
        },
        false => None,
    };
    for case in cases {
        if let Err(failure) = play(&stage, &mut fence, case).await {
            failures.push(failure);
        }
    }
    failures
}

async fn play(stage: &Stage<'_>, fence: &mut Option<Fence>, transcript: &Transcript) -> Result<(), String> {
    let mut play = Play {
        stage,
        fence,
        transcript,
        now: token::now(),
        connections: HashMap::new(),
        renaming: Renaming::of_client(said(transcript)),
        sent: HashMap::new(),
        asked: None,
        refused: None,
        failed: None,
    };
    let lines = in_order(transcript);
    let mut pace = stage.second.map(Pace::new);
    let mut closing = false;
    for (index, line) in lines.iter().enumerate() {
        if let Some(pace) = &mut pace
            && is_the_clients(&line.step)
        {
            pace.wait_until(line.at).await;
        }
        // Before the clients go: whatever else they were sent must be here by then.
        let leaves = matches!(line.step, Step::Close { code, .. } if !play.is_the_servers(code));
        if leaves && !closing {
            play.nothing_more().await.map_err(|error| place(transcript, line, &error))?;
        }
        closing = leaves;
        play.step(&lines[index..], &line.step, line.number).await.map_err(|error| place(transcript, line, &error))?;
    }
    play.nothing_more().await.map_err(|error| format!("{}: at the end: {error}", transcript.name))
}

/// The lines, with the ends of connections before what they cause.
fn in_order(transcript: &Transcript) -> Vec<&Line> {
    let mut lines: Vec<&Line> = transcript.lines.iter().collect();
    for (_, end, effect) in masks::LATE_ENDS.iter().filter(|(case, ..)| *case == transcript.name) {
        let at = |lines: &[&Line], number| lines.iter().position(|line| line.number == number);
        if let (Some(from), Some(to)) = (at(&lines, *end), at(&lines, *effect)) {
            let line = lines.remove(from);
            lines.insert(to, line);
        }
    }
    lines
}

fn is_the_clients(step: &Step) -> bool {
    matches!(step, Step::Send { .. } | Step::Ping { .. } | Step::HttpRequest(_))
}

/// Everything that the client says.
fn said(transcript: &Transcript) -> impl Iterator<Item = String> {
    transcript.lines.iter().filter_map(|line| match &line.step {
        Step::Send { frame: Frame::Text(text), .. } => Some(text.clone()),
        Step::Sql(sql) => Some(sql.clone()),
        _ => None,
    })
}

fn place(transcript: &Transcript, line: &Line, error: &str) -> String {
    format!("{}.jsonl:{}: {error}", transcript.name, line.number)
}

impl Play<'_> {
    /// `lines`: from this one on.
    async fn step(&mut self, lines: &[&Line], step: &Step, number: usize) -> Result<(), String> {
        match step {
            Step::Connect { connection, url, host, headers } => {
                let target = self.renewed(
                    url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path),
                );
                let headers: Vec<(String, String)> =
                    headers.iter().map(|(name, value)| (name.clone(), self.renewed(value))).collect();
                if is_refused(lines, connection) {
                    self.refused =
                        Some(http::refused_upgrade(self.stage.address, &format!("/{target}"), host, &headers).await?);
                } else {
                    let opened = Connection::open(self.stage.address, &format!("/{target}"), host, &headers).await?;
                    self.connections.insert(connection.clone(), opened);
                }
                Ok(())
            }
            Step::Upgraded { connection } => self.connection(connection).map(|_| ()),
            Step::UpgradeRefused { response, .. } => {
                let ours = self.refused.take().ok_or("there was no answer")?;
                let mut recorded = response.clone();
                masks::upgrade(&self.transcript.name, &mut recorded);
                answered(&ours, &recorded)
            }
            Step::HttpRequest(request) => {
                let request = Request {
                    path: self.renewed(&request.path),
                    headers: request.headers.iter().map(|(name, it)| (name.clone(), self.renewed(it))).collect(),
                    ..request.clone()
                };
                let response = http::request(self.stage.address, &request).await?;
                self.asked = Some((request, response));
                Ok(())
            }
            Step::HttpResponse(recorded) => {
                let (request, ours) = self.asked.take().ok_or("there was no answer")?;
                let mut recorded = recorded.clone();
                masks::answer(&self.transcript.name, &request, &mut recorded);
                answered(&ours, &recorded)
            }
            Step::Send { connection, frame } => {
                let frame = match frame {
                    Frame::Text(text) => Frame::Text(self.renewed(text)),
                    Frame::Binary(bytes) => Frame::Binary(bytes.clone()),
                };
                if let Frame::Text(text) = &frame {
                    self.sent.insert(connection.clone(), text.clone());
                }
                self.connection(connection)?.send(frame).await
            }
            Step::Receive { connection, frame } => self.receive(connection, frame, number).await,
            Step::ReceiveLong { connection, beginning, bytes } => {
                self.receive_long(connection, beginning, *bytes).await
            }
            Step::Ping { connection, payload } => self.connection(connection)?.ping(payload).await,
            Step::Pong { connection, payload } => match self.connection(connection)?.hear(PATIENCE).await? {
                Heard::Pong(bytes) if bytes == *payload => Ok(()),
                other => Err(format!("expected a pong, got {other:?}")),
            },
            Step::Close { connection, code } => self.close(connection, *code).await,
            Step::Sql(sql) => {
                let expected_to_fail = matches!(lines.get(1).map(|line| &line.step), Some(Step::SqlFails(_)));
                match self.stage.database.batch_execute(sql).await {
                    Ok(()) => Ok(()),
                    Err(error) if expected_to_fail => {
                        self.failed = error.as_db_error().map(|error| error.message().to_string());
                        Ok(())
                    }
                    Err(error) => Err(format!("{sql}: {error:?}")),
                }
            }
            Step::SqlFails(error) => match self.failed.take() {
                Some(ours) if ours == *error => Ok(()),
                ours => Err(format!("expected the statement to fail with {error:?}, got {ours:?}")),
            },
            Step::Note => Ok(()),
        }
    }

    fn renewed(&self, text: &str) -> String {
        token::renewed(text, self.transcript.recorded_at, self.now)
    }

    /// The only one, where the recording gives no name.
    fn connection(&mut self, name: &str) -> Result<&mut Connection, String> {
        let found = match name {
            "" => self.connections.values_mut().next(),
            _ => self.connections.get_mut(name),
        };
        found.ok_or_else(|| format!("connection {name} is not open"))
    }

    async fn receive(&mut self, name: &str, frame: &Frame, line: usize) -> Result<(), String> {
        let case = &self.transcript.name;
        if masks::is_withheld_line(case, line) {
            return Ok(());
        }
        let mut recorded = match frame {
            Frame::Text(text) => Message::parse(text).map(Received::Text),
            Frame::Binary(bytes) => Received::parse_binary(bytes),
        }
        .ok_or("the recorded frame is neither a Phoenix message nor of kind 4")?;
        if let Received::Text(message) = &mut recorded {
            if masks::is_withheld(case, message) {
                return Ok(());
            }
            masks::reply_instead(case, line, message, self.sent.get(name).map_or("", String::as_str));
        }
        loop {
            if self.take_equal(name, &recorded)? {
                return Ok(());
            }
            let more = self.connection(name)?.hold_one(PATIENCE).await;
            more.map_err(|error| format!("{error}\n  expected {recorded:?}"))?;
        }
    }

    /// Takes what is equal to the recorded frame from what has arrived on its topic: the first, or one that may come
    /// before those that stand before it. An error where no further frame can help.
    fn take_equal(&mut self, name: &str, recorded: &Received) -> Result<bool, String> {
        let connection = self.connections.get_mut(name).ok_or_else(|| format!("connection {name} is not open"))?;
        let held: Vec<Received> = connection.held_on(recorded.topic()).cloned().collect();
        let case = &self.transcript.name;
        let may_come = |received: &Received| masks::may_come(case, received);
        let mut differs = None;
        for (place, ours) in held.iter().enumerate() {
            if !held[..place].iter().all(|earlier| may_come(earlier) || masks::order_is_open(earlier, ours)) {
                continue;
            }
            let (mut renaming, mut masked, mut expected) = (self.renaming.clone(), ours.clone(), recorded.clone());
            masks::apply(&mut renaming, &mut masked, &mut expected);
            masks::refusal(case, &mut masked, &expected);
            if masked == expected {
                connection.take_held(recorded.topic(), place);
                self.renaming = renaming;
                return Ok(true);
            }
            differs.get_or_insert_with(|| difference(&masked, &expected));
        }
        match (held.first(), differs) {
            (Some(first), Some(differs)) if !may_come(first) && !masks::order_is_open(first, recorded) => {
                Err(format!("expected {recorded:?}\n  received {first:?}\n  after masks: {differs}"))
            }
            _ => Ok(false),
        }
    }

    /// A frame too long to be recorded whole: of the same kind on the same topic, and as long but for the numbers in it.
    async fn receive_long(&mut self, name: &str, beginning: &str, bytes: usize) -> Result<(), String> {
        let (ours, length) = self.connection(name)?.any(PATIENCE).await?;
        let event = ours.text().map_or("", |message| message.event.as_str());
        if !beginning.contains(&format!("\"{}\"", ours.topic())) || !beginning.contains(&format!("\"{event}\"")) {
            return Err(format!("expected a frame that begins {}, got one of {}", &beginning[..80], ours.topic()));
        }
        if length.abs_diff(bytes) > 64 {
            return Err(format!("expected about {bytes} bytes, got {length}"));
        }
        Ok(())
    }

    /// 1006 is a connection that breaks, 1009 a frame too large: the original gives either at random.
    fn is_the_servers(&self, code: u16) -> bool {
        let case = &self.transcript.name;
        matches!(code, 1006 | 1009) && !masks::is_cut(case) || masks::is_closed_for_idleness(case, code)
    }

    async fn close(&mut self, name: &str, code: u16) -> Result<(), String> {
        let mut connection = self.connections.remove(name).ok_or_else(|| format!("connection {name} is not open"))?;
        match code {
            _ if self.is_the_servers(code) => {
                connection.closed_by_server((code == 1000).then_some(code), PATIENCE).await
            }
            1006 => {
                drop(connection);
                Ok(())
            }
            _ => connection.close((code == 1000).then_some(1000), PATIENCE).await,
        }
    }

    /// Whatever the relay was to send has been sent when it has sent what came later: a change of the fence table to a
    /// channel of our own, then on every connection the answer to a heartbeat. Twice, since the first may find what one
    /// client says to another still unread.
    async fn nothing_more(&mut self) -> Result<(), String> {
        if self.connections.is_empty() {
            return Ok(());
        }
        if let Some(fence) = self.fence {
            fence.pass(self.stage).await?;
        }
        for _ in 0..2 {
            for connection in self.connections.values_mut().filter(|connection| !connection.is_closed()) {
                connection.heartbeat(PATIENCE).await?;
            }
        }
        for (name, connection) in &self.connections {
            let unexpected = |received: &&Received| !masks::may_come(&self.transcript.name, received);
            let more: Vec<&Received> = connection.held().filter(unexpected).collect();
            if !more.is_empty() {
                return Err(format!("{name} was sent more than was recorded: {more:?}"));
            }
        }
        Ok(())
    }
}

/// Whether the upgrade of this connection was refused.
fn is_refused(lines: &[&Line], name: &str) -> bool {
    let outcome = lines.iter().find_map(|line| match &line.step {
        Step::Upgraded { connection } if connection == name => Some(false),
        Step::UpgradeRefused { connection, .. } if connection == name => Some(true),
        _ => None,
    });
    outcome.unwrap_or(false)
}

pub fn answered(ours: &Response, recorded: &Response) -> Result<(), String> {
    if ours == recorded { Ok(()) } else { Err(format!("expected {recorded:?}\n  received {ours:?}")) }
}
