//! Plays a transcript's client against a relay: sends what was sent, runs what was run, waits for what was received.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_postgres::Client;

use super::connection::{Connection, Heard};
use super::http;
use super::masks::{self, Renaming};
use super::message::{Message, number};
use super::token;
use super::transcript::{Frame, Line, Response, Step, Transcript};

/// The original waits five seconds before it refuses a join; nothing else that is expected takes as long.
const PATIENCE: Duration = Duration::from_secs(10);

/// A table whose changes mark the end of a case; wildcard subscriptions hear of it too.
const FENCE: &str = "walcast_fence";

pub const FENCE_SCHEMA: &str = "create table walcast_fence (id bigint generated always as identity primary key);
    grant select on walcast_fence to service_role;
    alter publication supabase_realtime add table walcast_fence;";

/// Where transcripts are played.
pub struct Stage<'a> {
    pub address: SocketAddr,
    pub database: &'a Client,
}

struct Play<'a> {
    stage: &'a Stage<'a>,
    transcript: &'a Transcript,
    now: i64,
    connections: HashMap<String, Connection>,
    renaming: Renaming,
    /// The answer to the latest plain request.
    response: Option<Response>,
    /// The latest statement's error.
    failed: Option<String>,
}

/// Plays the case to its end; the error says at which line it differs, and how.
pub async fn play(stage: &Stage<'_>, transcript: &Transcript) -> Result<(), String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs() as i64;
    let mut play = Play {
        stage,
        transcript,
        now,
        connections: HashMap::new(),
        renaming: Renaming::default(),
        response: None,
        failed: None,
    };
    for (index, line) in transcript.lines.iter().enumerate() {
        if is_the_end(&transcript.name, line) {
            break;
        }
        // Before the clients go: whatever else they were sent must be here by then.
        if matches!(line.step, Step::Close { code, .. } if !is_the_servers(code)) {
            play.nothing_more().await.map_err(|error| place(transcript, line, &error))?;
        }
        play.step(index, &line.step).await.map_err(|error| place(transcript, line, &error))?;
    }
    play.nothing_more().await.map_err(|error| format!("{}: at the end: {error}", transcript.name))
}

/// 1006 is a connection that breaks, 1009 a frame too large: the original gives either at random.
fn is_the_servers(code: u16) -> bool {
    matches!(code, 1006 | 1009)
}

fn place(transcript: &Transcript, line: &Line, error: &str) -> String {
    format!("{}.jsonl:{}: {error}", transcript.name, line.number)
}

fn is_the_end(case: &str, line: &Line) -> bool {
    let text = match &line.step {
        Step::Send { frame: Frame::Text(text), .. } | Step::Receive { frame: Frame::Text(text), .. } => text,
        _ => return false,
    };
    masks::UNTIL.iter().any(|(name, until, _)| case.starts_with(name) && text.contains(until))
}

impl Play<'_> {
    async fn step(&mut self, index: usize, step: &Step) -> Result<(), String> {
        match step {
            Step::Connect { connection, url, host, headers } => {
                let target = self.renewed(
                    url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path),
                );
                let headers: Vec<(String, String)> =
                    headers.iter().map(|(name, value)| (name.clone(), self.renewed(value))).collect();
                if self.is_refused(index, connection) {
                    self.response =
                        Some(http::refused_upgrade(self.stage.address, &format!("/{target}"), host, &headers).await?);
                } else {
                    let opened = Connection::open(self.stage.address, &format!("/{target}"), host, &headers).await?;
                    self.connections.insert(connection.clone(), opened);
                }
                Ok(())
            }
            Step::Upgraded { connection } => self.connection(connection).map(|_| ()),
            Step::UpgradeRefused { response, .. } | Step::HttpResponse(response) => self.answered(response),
            Step::HttpRequest { method, path } => {
                let path = self.renewed(path);
                self.response = Some(http::request(self.stage.address, method, &path).await?);
                Ok(())
            }
            Step::Send { connection, frame } => {
                let frame = match frame {
                    Frame::Text(text) => Frame::Text(self.renewed(text)),
                    Frame::Binary(bytes) => Frame::Binary(bytes.clone()),
                };
                self.connection(connection)?.send(frame).await
            }
            Step::Receive { connection, frame } => self.receive(connection, frame).await,
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
                let expected_to_fail = matches!(self.next(index), Some(Step::SqlFails(_)));
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

    fn next(&self, index: usize) -> Option<&Step> {
        self.transcript.lines.get(index + 1).map(|line| &line.step)
    }

    fn is_refused(&self, index: usize, name: &str) -> bool {
        self.transcript.lines[index + 1..]
            .iter()
            .find_map(|line| match &line.step {
                Step::Upgraded { connection } if connection == name => Some(false),
                Step::UpgradeRefused { connection, .. } if connection == name => Some(true),
                _ => None,
            })
            .unwrap_or(false)
    }

    fn renewed(&self, text: &str) -> String {
        token::renewed(text, self.transcript.recorded_at, self.now)
    }

    fn connection(&mut self, name: &str) -> Result<&mut Connection, String> {
        self.connections.get_mut(name).ok_or_else(|| format!("connection {name} is not open"))
    }

    async fn receive(&mut self, name: &str, frame: &Frame) -> Result<(), String> {
        let Frame::Text(text) = frame else { return Err("a binary frame is recorded: none is in scope".to_string()) };
        let mut recorded = Message::parse(text).ok_or("the recorded frame is no Phoenix message")?;
        if masks::is_withheld(&self.transcript.name, &mut recorded) {
            return Ok(());
        }
        let expected = format!("{recorded:?}");
        let mut ours = self
            .connection(name)?
            .message(&recorded.topic, PATIENCE)
            .await
            .map_err(|error| format!("{error}\n  expected {expected}"))?;
        let received = format!("{ours:?}");
        masks::apply(&mut self.renaming, &mut ours, &mut recorded);
        if ours == recorded {
            return Ok(());
        }
        Err(format!("expected {expected}\n  received {received}\n  after masks: {}", difference(&ours, &recorded)))
    }

    /// A frame too long to be recorded whole: of the same kind on the same topic, and as long but for the numbers in it.
    async fn receive_long(&mut self, name: &str, beginning: &str, bytes: usize) -> Result<(), String> {
        let connection = self.connection(name)?;
        let (ours, length) = connection.any_message(PATIENCE).await?;
        if !beginning.contains(&format!("\"{}\"", ours.topic)) || !beginning.contains(&format!("\"{}\"", ours.event)) {
            return Err(format!("expected a frame that begins {}, got one of {}", &beginning[..80], ours.topic));
        }
        if length.abs_diff(bytes) > 64 {
            return Err(format!("expected about {bytes} bytes, got {length}"));
        }
        Ok(())
    }

    async fn close(&mut self, name: &str, code: u16) -> Result<(), String> {
        let mut connection = self.connections.remove(name).ok_or_else(|| format!("connection {name} is not open"))?;
        match code {
            _ if is_the_servers(code) => connection.closed_by_server(PATIENCE).await,
            _ => connection.close((code == 1000).then_some(1000), PATIENCE).await,
        }
    }

    fn answered(&mut self, recorded: &Response) -> Result<(), String> {
        let ours = self.response.take().ok_or("there was no answer")?;
        let of = |response: &Response| (response.status, response.content_type.clone(), response.body.clone());
        if of(&ours) == of(recorded) { Ok(()) } else { Err(format!("expected {recorded:?}\n  received {ours:?}")) }
    }

    /// Whatever the relay was to send has been sent when it has sent what came later: a change of the fence table to a
    /// channel of our own, then on every connection the answer to a heartbeat.
    async fn nothing_more(&mut self) -> Result<(), String> {
        if self.connections.is_empty() {
            return Ok(());
        }
        self.pass_the_fence().await?;
        for (name, connection) in &mut self.connections {
            if connection.is_closed() {
                continue;
            }
            connection.heartbeat(PATIENCE).await?;
            let more: Vec<&Message> = connection
                .held()
                .filter(|message| !is_of_fence(message) && !masks::may_come(&self.transcript.name, message))
                .collect();
            if !more.is_empty() {
                return Err(format!("{name} was sent more than was recorded: {more:?}"));
            }
        }
        Ok(())
    }

    async fn pass_the_fence(&self) -> Result<(), String> {
        let key = token::of_role("service_role", self.now);
        let path = format!("/socket/websocket?apikey={key}&vsn=2.0.0");
        let mut watcher = Connection::open(self.stage.address, &path, "localhost", &[]).await?;
        let bindings = format!(r#"[{{"event":"INSERT","schema":"public","table":"{FENCE}"}}]"#);
        let join = format!(r#"["1","1","realtime:fence","phx_join",{{"config":{{"postgres_changes":{bindings}}}}}]"#);
        watcher.send(Frame::Text(join)).await?;
        let reply = watcher.message("realtime:fence", PATIENCE).await?;
        if reply.payload["status"] != "ok" {
            return Err(format!("the fence was refused: {reply:?}"));
        }
        let insert = "insert into walcast_fence default values returning id";
        let row = self.stage.database.query_one(insert, &[]).await.map_err(|error| format!("{error:?}"))?;
        let id = row.get::<_, i64>(0).to_string();
        loop {
            let mut message = watcher.message("realtime:fence", PATIENCE).await?;
            let passed = message.change().is_some_and(|change| number(&change["record"]["id"]) == Some(&id));
            if passed {
                return watcher.close(None, PATIENCE).await;
            }
        }
    }
}

fn is_of_fence(message: &Message) -> bool {
    message.clone().change().is_some_and(|change| change.get("table").is_some_and(|table| table == FENCE))
}

/// The parts in which two messages differ.
fn difference(ours: &Message, recorded: &Message) -> String {
    let parts = [
        ("join_ref", format!("{:?}", ours.join_ref), format!("{:?}", recorded.join_ref)),
        ("ref", ours.reference.to_string(), recorded.reference.to_string()),
        ("event", ours.event.clone(), recorded.event.clone()),
        ("payload", ours.payload.to_string(), recorded.payload.to_string()),
    ];
    let differing = parts.iter().filter(|(_, ours, recorded)| ours != recorded);
    differing.map(|(name, ours, recorded)| format!("{name} is {ours}, not {recorded}")).collect::<Vec<_>>().join("; ")
}
