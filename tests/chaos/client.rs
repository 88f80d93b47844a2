//! A client's life: it joins, listens, beats, stalls, leaves, is cut off, and comes back. What it learned is in its diary.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::binding::Binding;
use super::diary::{Diary, Got, Kind, Notice, Position, Reply, Stint};
use super::network::Network;
use super::plan::{Plan, Safeguard};
use super::socket::{Heard, Socket, TOPIC};
use super::world::{ChangeId, LAST_LANE, Operation, Person, Table, now_micros};

/// What the run asks of everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Come and go.
    Run,
    /// Come back and stay.
    Settle,
    End,
}

pub struct Shared {
    pub plan: Plan,
    pub network: Network,
    pub phase: watch::Receiver<Phase>,
    /// Clients that have joined to stay, and those that have seen the last row.
    pub settled: AtomicUsize,
    pub finished: AtomicUsize,
}

/// `n` of the row that ends everything.
pub const LAST: i64 = 1 << 40;

/// What is no answer after this time will not be one.
const ANSWER: Duration = Duration::from_secs(10);

pub struct Client {
    diary: Diary,
    random: StdRng,
    shared: Arc<Shared>,
    phase: watch::Receiver<Phase>,
    key: String,
    /// The newest position that it has, as it was told.
    position: Option<String>,
    wants_positions: bool,
    settled: bool,
    finished: bool,
}

/// Why a stint ended.
#[derive(PartialEq, Eq)]
enum End {
    /// The channel was left; the socket is still good.
    Left,
    Gone,
}

impl Client {
    pub fn new(number: usize, shared: Arc<Shared>) -> Client {
        let mut random = StdRng::seed_from_u64(shared.plan.seed << 20 | number as u64);
        let person = Person((number % usize::from(Person::COUNT)) as u8);
        let kind = match random.random_range(0..10) {
            // With the first one the relay begins to keep changes; positions from before are of no use.
            _ if number == 0 => Kind::Key,
            0..=1 => Kind::Plain,
            2..=5 => Kind::Key,
            _ => Kind::Since,
        };
        let mut bindings: Vec<_> = (0..random.random_range(1..=3)).map(|_| Binding::random(&mut random)).collect();
        bindings.push(Binding::ticks(random.random_bool(0.6)));
        let key = format!("{:032x}", random.random::<u128>());
        let wants_positions = kind == Kind::Since || random.random_bool(0.5);
        let diary = Diary { number, person, kind, bindings, stints: Vec::new(), complaints: Vec::new() };
        let phase = shared.phase.clone();
        Client { diary, random, shared, phase, key, position: None, wants_positions, settled: false, finished: false }
    }

    pub async fn live(mut self) -> Diary {
        let late = if self.diary.number == 0 { 0.0 } else { self.random.random_range(1.5..4.0) };
        sleep(Duration::from_secs_f64(late)).await;
        while !self.is_over() {
            let token = self.diary.person.token();
            if let Ok(Ok(socket)) = timeout(ANSWER, Socket::connect(self.shared.network.address, &token)).await {
                self.use_socket(socket).await;
            }
            let (away, left) = (self.time_away(), if self.is_running() { Phase::Settle } else { Phase::End });
            let _ = timeout(away, self.phase.wait_for(|phase| *phase >= left)).await;
        }
        self.diary
    }

    fn is_over(&self) -> bool {
        *self.phase.borrow() == Phase::End
    }

    fn is_running(&self) -> bool {
        *self.phase.borrow() == Phase::Run
    }

    /// Mostly as soon as supabase-js comes back; at times as long as a lid is closed.
    fn time_away(&mut self) -> Duration {
        if !self.is_running() {
            return Duration::from_millis(200);
        }
        let seconds = match self.random.random_range(0..10) {
            0 => self.random.random_range(0.3..1.0) * self.shared.plan.away_max.as_secs_f64(),
            1..=3 => self.random.random_range(0.0..0.2) * self.shared.plan.away_max.as_secs_f64(),
            _ => self.random.random_range(0.05..1.5),
        };
        Duration::from_secs_f64(seconds)
    }

    async fn use_socket(&mut self, mut socket: Socket) {
        loop {
            let mut stint = Stint { asked_at: now_micros(), ..Stint::default() };
            let port = socket.port;
            let ended = self.stint(&mut socket, &mut stint).await;
            stint.ended_at = now_micros();
            if stint.end.is_empty() {
                stint.end = String::from("the connection ended");
            }
            let half_open = stint.end.starts_with("half-open");
            self.diary.stints.push(stint);
            match ended {
                Some(End::Left) if !self.is_over() => continue,
                _ if half_open => self.shared.network.half_open(port),
                _ if self.random.random_bool(0.5) => {
                    let _ = timeout(ANSWER, socket.close()).await;
                    return;
                }
                // With a RST where something was left unread.
                _ => {}
            }
            return;
        }
    }

    /// `None`: there was never a reply to the join.
    async fn stint(&mut self, socket: &mut Socket, stint: &mut Stint) -> Option<End> {
        if self.diary.kind == Kind::Since {
            stint.since = self.position.as_deref().and_then(Position::parse);
        }
        let config = json!({ "broadcast": {}, "presence": { "key": "" }, "postgres_changes": self.bindings(), "private": false });
        let payload = json!({ "config": config, "access_token": self.diary.person.token() });
        let reference = socket.push(TOPIC, "phx_join", payload).await.ok()?;
        let ids = loop {
            match timeout(ANSWER, socket.next()).await.ok()?? {
                Ok(Heard::Reply(to, true, payload)) if to == reference => {
                    let ids = payload["response"]["postgres_changes"].as_array().cloned().unwrap_or_default();
                    break ids.iter().map(|item| item["id"].as_u64().unwrap_or_default()).collect::<Vec<_>>();
                }
                Ok(Heard::Reply(to, false, payload)) if to == reference => {
                    stint.end = format!("refused: {payload}");
                    return None;
                }
                // Of the channel that was left before.
                Ok(_) => {}
                Err(frame) => self.complain(format!("not understood: {frame}")),
            }
        };
        stint.joined_at = Some(now_micros());
        Some(self.listen(socket, stint, &ids).await)
    }

    async fn listen(&mut self, socket: &mut Socket, stint: &mut Stint, ids: &[u64]) -> End {
        let life = self.shared.plan.stint_mean.as_secs_f64() * -self.random.random_range(0.001_f64..1.0).ln();
        let life = sleep(Duration::from_secs_f64(life));
        tokio::pin!(life);
        let mut beat =
            tokio::time::interval_at(Instant::now() + self.shared.plan.heartbeat, self.shared.plan.heartbeat);
        let mut phase = self.phase.clone();
        // The ref of the heartbeat that has no reply yet, and how often it was waited for.
        let mut waiting: Option<(String, u32)> = None;
        loop {
            let is_told = !stint.notices.is_empty() || !self.expects_notice(stint);
            if !self.settled && !self.is_running() && is_told {
                self.settled = true;
                self.shared.settled.fetch_add(1, Ordering::Relaxed);
            }
            tokio::select! {
                biased;
                () = over(&mut phase) => return gone(stint, "the run is over"),
                () = &mut life, if self.is_running() => match self.end_or_act(socket, stint).await {
                    Some(end) => return end,
                    None => {
                        let more = self.random.random_range(0.1..1.0) * self.shared.plan.stint_mean.as_secs_f64();
                        life.as_mut().reset(Instant::now() + Duration::from_secs_f64(more));
                    }
                },
                _ = beat.tick() => {
                    if let Some((_, times)) = &mut waiting && self.shared.plan.without != Some(Safeguard::WaitForReplies) {
                        *times += 1;
                        if *times > 3 {
                            return gone(stint, "half-open: no reply to the heartbeat");
                        }
                        continue;
                    }
                    match socket.push("phoenix", "heartbeat", json!({})).await {
                        Ok(reference) => waiting = Some((reference, 0)),
                        Err(_) => return gone(stint, "a heartbeat could not be sent"),
                    }
                },
                heard = socket.next() => {
                    let Some(heard) = heard else { return gone(stint, "the connection ended") };
                    match heard {
                        Ok(Heard::Reply(to, ..)) => {
                            if waiting.as_ref().is_some_and(|(reference, _)| *reference == to) {
                                waiting = None;
                                stint.replies.push(Reply { at: now_micros(), got: stint.got.len() });
                            }
                        }
                        Ok(Heard::Event(event)) => self.take(event, stint, ids),
                        Ok(Heard::System(payload)) => self.told(&payload, stint),
                        Ok(Heard::Other(event)) => {
                            if event == "phx_close" || event == "phx_error" {
                                return gone(stint, &event);
                            }
                        }
                        Err(frame) => self.complain(format!("not understood: {frame}")),
                    }
                }
            }
        }
    }

    fn expects_notice(&self, stint: &Stint) -> bool {
        self.shared.plan.without != Some(Safeguard::Resume)
            && match self.diary.kind {
                Kind::Plain => false,
                Kind::Key => true,
                Kind::Since => stint.since.is_some(),
            }
    }

    /// What the end of a stint's time brings: the end of the connection, or something else.
    async fn end_or_act(&mut self, socket: &mut Socket, stint: &mut Stint) -> Option<End> {
        match self.random.random_range(0..12) {
            0..=3 => Some(gone(stint, "the client went")),
            4..=5 => Some(gone(stint, "half-open: the client was lost")),
            6 => {
                let left = socket.push(TOPIC, "phx_leave", json!({})).await;
                stint.end = String::from("the channel was left");
                Some(if left.is_ok() { End::Left } else { End::Gone })
            }
            // Joined again without a word: the old channel is closed by the server.
            7 => {
                stint.end = String::from("the channel was joined again");
                Some(End::Left)
            }
            8..=9 => {
                let payload = json!({ "access_token": self.diary.person.token() });
                socket
                    .push(TOPIC, "access_token", payload)
                    .await
                    .err()
                    .map(|_| gone(stint, "the token could not be sent"))
            }
            _ => {
                let seconds = self.random.random_range(0.2..1.0) * self.shared.plan.stall_max.as_secs_f64();
                let until = Instant::now() + Duration::from_secs_f64(seconds);
                if self.shared.plan.without != Some(Safeguard::WaitForReplies) {
                    sleep(until - Instant::now()).await;
                    return None;
                }
                // Beats on without reading, and is gone without having read.
                while Instant::now() < until {
                    sleep(Duration::from_millis(100)).await;
                    if socket.push("phoenix", "heartbeat", json!({})).await.is_err() {
                        break;
                    }
                }
                Some(gone(stint, "half-open: gone without having read"))
            }
        }
    }

    fn take(&mut self, event: super::socket::Event, stint: &mut Stint, ids: &[u64]) {
        let mut bindings = 0;
        for id in &event.ids {
            // Bindings that ask for the same have the same id.
            let mine = (0..ids.len()).filter(|place| ids[*place] == *id).fold(0, |bits, place| bits | 1 << place);
            if mine == 0 {
                self.complain(format!("{:?} for the binding {id}, of {ids:?}", event.change));
            }
            bindings |= mine;
        }
        let position = event.position.as_deref().map(Position::parse);
        if self.wants_positions && position.is_none_or(|position| position.is_none()) {
            self.complain(format!("{:?} without a position: {:?}", event.change, event.position));
        }
        let position = position.flatten().unwrap_or_default();
        if event.position.is_some() {
            self.position = event.position;
        }
        let (change, shows_old) = (event.change, event.shows_old);
        stint.got.push(Got { change, at: now_micros(), position, bindings, shows_old });
        let last = ChangeId::new(Table::Ticks, Operation::Insert, LAST, 0);
        if change == last && !std::mem::replace(&mut self.finished, true) {
            self.shared.finished.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn told(&mut self, payload: &Value, stint: &mut Stint) {
        let Some(resume) = payload.get("resume") else {
            let message = payload["message"].as_str().unwrap_or_default();
            // Who stalls for longer than --slow-client-grace is closed, and comes back. And of what only later policies would show
            // nobody knows, where Postgres decides: of posts until their members are followed, of notes until what their policy calls has been
            // read again. What must be shown is counted. What was committed before a restart, and so before this join, need not be shown.
            let asked =
                ["letters", "posts", "notes"].map(|table| format!("Row-level security of public.{table} could not be"));
            let altered =
                Table::ALL.map(|table| format!("public.{} was altered while the relay was away", table.name()));
            let is_expected = message.starts_with("Messages were not read fast enough")
                || altered.iter().any(|text| message.starts_with(text))
                || asked.iter().any(|text| message.starts_with(text));
            if payload["status"] != "ok" && !is_expected {
                self.complain(format!("told: {payload}"));
            }
            return;
        };
        let text = |key: &str| resume[key].as_str().map(str::to_owned);
        let position = |key: &str| resume[key].as_str().and_then(Position::parse);
        let (state, reason) = (text("state").unwrap_or_default(), text("reason").unwrap_or_default());
        let (from, to) = (position("from"), position("position"));
        stint.notices.push(Notice { at: now_micros(), got: stint.got.len(), state, from, position: to, reason });
        // Live goes on from there, unless something newer has come already.
        if let Some(to) = to
            && self.position.as_deref().and_then(Position::parse).is_none_or(|mine| mine < to)
        {
            self.position = text("position");
        }
    }

    fn bindings(&self) -> Value {
        let binding = |binding: &Binding| {
            let mut json = binding.to_json();
            if self.wants_positions {
                json["positions"] = json!(true);
            }
            if self.shared.plan.without == Some(Safeguard::Resume) {
                return json;
            }
            match (self.diary.kind, &self.position) {
                (Kind::Key, _) => json["resume"] = json!(self.key),
                (Kind::Since, Some(position)) => json["since"] = json!(position),
                _ => {}
            }
            json
        };
        self.diary.bindings.iter().map(binding).collect()
    }

    fn complain(&mut self, what: String) {
        self.diary.complaints.push((now_micros(), what));
    }
}

async fn over(phase: &mut watch::Receiver<Phase>) {
    // Whoever set the phase is gone: over as well.
    let _ = phase.wait_for(|phase| *phase == Phase::End).await;
}

fn gone(stint: &mut Stint, how: &str) -> End {
    stint.end = how.to_owned();
    End::Gone
}

/// The row that ends everything, for everybody.
pub fn last_row() -> String {
    let owner = Person(0).sub();
    format!("insert into ticks (n, lane, owner, room, secret) values ({LAST}, {LAST_LANE}, '{owner}', 0, false)")
}
