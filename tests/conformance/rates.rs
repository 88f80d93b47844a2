//! Cases about rates: how many frames pass before a limit is noticed is chance, which sorts of frames come then is not.
//!
//! What was sent is sent at its recorded times, and each connection must be sent frames of the recorded sorts, in an order
//! that the recording has too; among all of them every recorded sort must occur.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::connection::Connection;
use super::message::Message;
use super::pace::Pace;
use super::received::Received;
use super::replay::{PATIENCE, Stage, answered};
use super::transcript::{Frame, Request, Step, Transcript};
use super::{http, token};

/// The sorts of what connections were sent, in the order of their first frames.
#[derive(Default)]
struct Heard(HashMap<String, Vec<String>>);

impl Heard {
    fn take(&mut self, connection: &str, message: &Message) {
        let sorts = self.0.entry(connection.to_string()).or_default();
        let sort = sort(message);
        if !sorts.contains(&sort) {
            sorts.push(sort);
        }
    }

    fn all(&self) -> BTreeSet<&String> {
        self.0.values().flatten().collect()
    }
}

/// All of a reply and of a system message, and the event of anything else.
fn sort(message: &Message) -> String {
    match message.event.as_str() {
        "phx_reply" | "system" => format!("{} {}", message.event, message.payload),
        event => event.to_string(),
    }
}

/// A diff comes before or after its sender's reply.
fn has_place(sort: &&String) -> bool {
    !sort.starts_with("presence_diff")
}

pub async fn play(stage: &Stage<'_>, case: &Transcript) -> Result<(), String> {
    let (now, mut pace) = (token::now(), Pace::new(stage.second.unwrap_or(Duration::from_secs(1))));
    let renewed = |text: &str| token::renewed(text, case.recorded_at, now);
    let (mut ours, mut recorded) = (Heard::default(), Heard::default());
    let (mut connections, mut answer) = (HashMap::<String, Connection>::new(), None);
    for line in &case.lines {
        let at = |error: String| format!("{}.jsonl:{}: {error}", case.name, line.number);
        match &line.step {
            Step::Connect { connection, url, host, headers } => {
                let (_, path) = url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).unwrap_or_default();
                let path = format!("/{}", renewed(path));
                let opened = Connection::open(stage.address, &path, host, headers).await.map_err(at)?;
                connections.insert(connection.clone(), opened);
            }
            Step::Send { connection, frame: Frame::Text(text) } => {
                pace.wait_until(line.at).await;
                let to = connections.get_mut(connection).ok_or_else(|| at(format!("{connection} is not open")))?;
                to.send(Frame::Text(renewed(text))).await.map_err(at)?;
            }
            Step::Receive { connection, frame: Frame::Text(text) } => {
                let message = Message::parse(text).ok_or_else(|| at("no Phoenix message".into()))?;
                recorded.take(connection, &message);
            }
            Step::HttpRequest(request) => {
                pace.wait_until(line.at).await;
                let headers = request.headers.iter().map(|(name, value)| (name.clone(), renewed(value))).collect();
                let request = Request { headers, ..request.clone() };
                answer = Some(http::request(stage.address, &request).await.map_err(at)?);
            }
            Step::HttpResponse(expected) => {
                let answer = answer.take().ok_or_else(|| at("there was no answer".into()))?;
                answered(&answer, expected).map_err(at)?;
            }
            // They are closed when everything has been heard.
            Step::Upgraded { .. } | Step::Close { .. } | Step::Note => {}
            other => return Err(at(format!("not a step of a case about rates: {other:?}"))),
        }
    }
    for (name, connection) in &mut connections {
        connection.heartbeat(PATIENCE).await.map_err(|error| format!("{}: {name}: {error}", case.name))?;
        connection.held().filter_map(Received::text).for_each(|message| ours.take(name, message));
    }
    compare(&ours, &recorded).map_err(|error| format!("{}: {error}", case.name))
}

fn compare(ours: &Heard, recorded: &Heard) -> Result<(), String> {
    if ours.all() != recorded.all() {
        return Err(format!("of the sorts {:#?}\n  came {:#?}", recorded.all(), ours.all()));
    }
    for (connection, sorts) in &ours.0 {
        let then = recorded.0.get(connection).map_or(&[][..], Vec::as_slice);
        let mut then = then.iter().filter(has_place);
        if !sorts.iter().filter(has_place).all(|sort| then.any(|it| it == sort)) {
            return Err(format!("{connection} was sent {sorts:#?}\n  and not {:#?}", recorded.0.get(connection)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(sorts: &[(&str, &[&str])]) -> Heard {
        let owned = |(connection, sorts): &(&str, &[&str])| {
            (connection.to_string(), sorts.iter().map(ToString::to_string).collect())
        };
        Heard(sorts.iter().map(owned).collect())
    }

    #[test]
    fn every_sort_must_occur_in_its_order() {
        let recorded = heard(&[("a", &["join", "system", "close"]), ("b", &["join", "system", "close"])]);
        assert!(compare(&recorded, &recorded).is_ok());
        assert!(compare(&heard(&[("a", &["join", "system", "close"]), ("b", &["join"])]), &recorded).is_ok());
        assert!(compare(&heard(&[("a", &["join", "close"]), ("b", &["join"])]), &recorded).is_err(), "no system");
        assert!(compare(&heard(&[("a", &["join", "close", "system"])]), &recorded).is_err(), "another order");
        assert!(compare(&heard(&[("a", &["join", "system", "close", "x"])]), &recorded).is_err(), "one more");
    }
}
