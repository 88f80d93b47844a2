//! Every difference from the recorded server that is allowed, each with its reason; all others fail.

use serde_json::{Map, Value};

use super::message::{Message, number};
use super::received::{Payload, Received, UserBroadcast};
use super::renaming::Renaming;
use super::transcript::{Request, Response};

// Cases and lines that are not played. -----------------------------------------------------------------------------------

/// Cases that cannot be played.
pub const NOT_PLAYED: &[(&str, &str)] = &[
    ("tenant_suspended", "walcast has one tenant, and no switch to suspend it"),
    ("limit_db_events", "its statements were not recorded; walcast drops no changes above a rate (DESIGN 8)"),
];

/// Recorded frames that walcast does not send: the case, and the numbers of the lines.
pub const WITHHELD_LINES: &[(&str, &[usize], &str)] = &[
    (
        "join_duplicate.v1",
        &[13, 17],
        "a flawed recording: both versions ran at once on one topic, so each heard the other",
    ),
    (
        "join_duplicate.v2",
        &[10, 14],
        "a flawed recording: both versions ran at once on one topic, so each heard the other",
    ),
    ("pg_toast.v2", &[10, 11], "a flawed recording: somebody else's change of the publication came in between"),
    (
        "broadcast_binary_v2",
        &[36],
        "a payload of kind 3 that claims to be JSON and is none: the original splices it into the frame of receivers of \
         version 1, which then is none either; walcast gives it to those of version 2 alone",
    ),
    (
        "broadcast_binary_v2",
        &[51, 52, 53, 54],
        "kind 0, which no official client sends, would become kind 2, which no official client reads: walcast drops it",
    ),
    ("broadcast_odd_payloads.v1", &[23, 26, 29, 32], NOT_AN_OBJECT),
];

const NOT_AN_OBJECT: &str = "a broadcast whose payload is no object: the original gives it to receivers of version 1, whose \
    clients throw, and dies of it where one of version 2 is to get it; walcast refuses it with a reason";

pub fn is_withheld_line(case: &str, line: usize) -> bool {
    WITHHELD_LINES.iter().any(|(name, lines, _)| *name == case && lines.contains(&line))
}

/// What walcast sends in the place of recorded frames: the case, the lines, the status and the response of a reply.
pub const REPLIES: &[(&str, &[usize], &str, &str, &str)] = &[
    ("broadcast_odd_payloads.v1", &[24, 27, 30, 33], "error", BROADCAST_NOT_A_MAP, NOT_AN_OBJECT),
    ("broadcast_odd_payloads.v2", &[23, 25, 27, 29], "error", BROADCAST_NOT_A_MAP, NOT_AN_OBJECT),
];

const BROADCAST_NOT_A_MAP: &str = r#"{"reason":"Broadcast payload must be a map"}"#;

/// `sent`: the frame that the client sent last, as text of either version.
pub fn reply_instead(case: &str, line: usize, recorded: &mut Message, sent: &str) {
    let Some((_, _, status, response, _)) =
        REPLIES.iter().find(|(name, lines, ..)| *name == case && lines.contains(&line))
    else {
        return;
    };
    let sent: Value = serde_json::from_str(sent).unwrap_or_default();
    let response: Value = serde_json::from_str(response).unwrap_or_default();
    let (join_ref, reference) = if sent.is_array() { (&sent[0], &sent[1]) } else { (&sent["join_ref"], &sent["ref"]) };
    recorded.event = "phx_reply".into();
    recorded.payload = serde_json::json!({ "status": status, "response": response });
    recorded.reference = reference.clone();
    recorded.join_ref = recorded.join_ref.is_some().then(|| join_ref.clone());
}

/// Connections whose end is recorded behind the frames that it caused: the line of the end, and the line it belongs before.
pub const LATE_ENDS: &[(&str, usize, usize)] =
    &[("presence_same_key.v1", 36, 34), ("presence_without_key.v1", 23, 22), ("presence_without_key.v2", 23, 22)];

/// Cases whose client cut its connection; elsewhere 1006 is the server's doing.
pub fn is_cut(case: &str) -> bool {
    case.starts_with("presence_without_key")
}

/// Cases with a binding to a whole schema: whatever others change comes to them too.
pub fn hears_every_table(case: &str) -> bool {
    case.starts_with("pg_wildcard")
}

/// Cases that end with the server closing for idleness, by this beginning.
pub fn is_closed_for_idleness(case: &str, code: u16) -> bool {
    case.starts_with("idle_") && code == 1000
}

// Order that the protocol leaves open. -----------------------------------------------------------------------------------

/// Whether either of two frames on a topic may come first. What is not named here comes as recorded.
pub fn order_is_open(one: &Received, other: &Received) -> bool {
    let (Received::Text(one), Received::Text(other)) = (one, other) else { return false };
    let is_own_reply = |message: &Message| {
        message.event == "phx_reply" && message.payload.pointer("/response/postgres_changes").is_none()
    };
    match (one.event.as_str(), other.event.as_str()) {
        // The sender gets reply and own diff in either order (PROTOCOL 3.3).
        ("presence_diff", _) if is_own_reply(other) => true,
        (_, "presence_diff") if is_own_reply(one) => true,
        // Two people who act at the same moment.
        ("presence_diff", "presence_diff") => !present(one).iter().any(|key| present(other).contains(key)),
        _ => false,
    }
}

fn present(diff: &Message) -> Vec<&String> {
    let keys = |part: &str| diff.payload.get(part).and_then(Value::as_object).into_iter().flat_map(Map::keys);
    keys("joins").chain(keys("leaves")).collect()
}

// Answers over HTTP. -----------------------------------------------------------------------------------------------------

/// Upgrades that the original refuses and walcast does not.
pub const UPGRADED: &[(&str, &str)] = &[
    ("connect_unknown_path", "walcast serves /realtime/v1/websocket itself: there need not be a gateway before it"),
    ("connect_unknown_tenant", "walcast has one tenant, and takes any Host for it"),
];

pub fn upgrade(case: &str, recorded: &mut Response) {
    if UPGRADED.iter().any(|(name, _)| *name == case) {
        *recorded =
            Response { status: 101, content_type: None, allow_origin: None, has_rate: false, body: String::new() };
    }
}

/// Makes of a recorded answer what walcast's must be.
pub fn answer(case: &str, request: &Request, recorded: &mut Response) {
    // The preflight that the original leaves to its gateway, and that walcast answers itself (PROTOCOL 1.6).
    if request.method == "OPTIONS" {
        *recorded = Response {
            status: 204,
            content_type: None,
            allow_origin: Some("*".into()),
            has_rate: false,
            body: String::new(),
        };
    }
    // One tenant, whatever the Host: the request is judged, and here it has no messages.
    let is_nobodys = |(name, value): &(String, String)| name == "Host" && value.starts_with("nosuch.");
    if case == "rest_broadcast_errors" && request.headers.iter().any(is_nobodys) {
        recorded.status = 422;
        recorded.has_rate = true;
        recorded.body = r#"{"errors":{"messages":["can't be blank"]}}"#.into();
    }
}

// Frames that come beside those recorded, or do not come. ----------------------------------------------------------------

/// Where frames may come that the recording does not have: in this case, on topics with this beginning, with this in it.
pub const MORE: &[(&str, &str, &str, &str)] = &[
    ("connect_service_role", "realtime:svc", "", "the recording ends before its legacy subscription's system message"),
    (
        "pg_types_filters_valid",
        "realtime:tv10",
        "INSERT",
        "by=eq.\\xdeadbeef is true of the row, as Postgres says; the original compares with the text without its \\x",
    ),
    ("pg_types_filters.", "realtime:tf", "INSERT", POISON),
    ("pg_poison_filter", "realtime:victim", "in poisoned batch", POISON),
];

const POISON: &str = "the original loses every change of a poll in which one filter has no operator (DESIGN 8)";

pub fn may_come(case: &str, received: &Received) -> bool {
    // A version stands behind a dot: `pg_types_filters.` is not `pg_types_filters_valid`.
    let case = format!("{case}.");
    MORE.iter().any(|(name, topic, text, _)| {
        case.starts_with(name) && received.topic().starts_with(topic) && format!("{received:?}").contains(text)
    })
}

/// Subscriptions that the original takes and then dies of; walcast refuses them at once (DESIGN 8).
pub const REFUSED: &[(&str, &[&str], &str)] = &[
    ("pg_types_filters.", &["realtime:tf18", "realtime:tf19"], "there is no `=` for point and json"),
    ("pg_poison_filter", &["realtime:poison"], "there is no `=` for json"),
];

pub fn refusal(case: &str, ours: &mut Received, recorded: &Received) {
    let (Received::Text(ours), Received::Text(recorded)) = (ours, recorded) else { return };
    let case = format!("{case}.");
    let refused = REFUSED.iter().any(|(name, topics, _)| case.starts_with(name) && topics.contains(&&*ours.topic));
    let says = ours.payload.get("message").and_then(Value::as_str).unwrap_or_default();
    if refused
        && (ours.event.as_str(), recorded.event.as_str()) == ("system", "system")
        && ours.payload["status"] == "error"
        && says.contains("An exception happened so please check your connect parameters")
    {
        ours.payload = recorded.payload.clone();
    }
}

/// Recorded changes that walcast does not deliver: of this case, of this type, on this topic.
pub const WITHHELD: &[(&str, &str, &str, &str)] = &[
    ("pg_rls_others_rows", "DELETE", "realtime:ro", "a row that the subscriber could never see (DESIGN 8)"),
    ("pg_rls_anon", "DELETE", "realtime:ran", "no policy for anon: no row of the table was ever his (DESIGN 8)"),
    ("pg_types_filters_valid", "INSERT", "realtime:tv16", "ch=eq.a is not 'ab': the original cuts char(n) (DESIGN 8)"),
];

pub fn is_withheld(case: &str, recorded: &mut Message) -> bool {
    let kind = recorded.change().and_then(|change| change.get("type")).and_then(Value::as_str).map(str::to_string);
    WITHHELD.iter().any(|(name, withheld, topic, _)| {
        case.starts_with(name) && kind.as_deref() == Some(withheld) && recorded.topic == *topic
    })
}

// Values that differ from run to run, or on purpose. ---------------------------------------------------------------------

/// Makes of both what must be equal.
pub fn apply(renaming: &mut Renaming, ours: &mut Received, recorded: &mut Received) {
    match (ours, recorded) {
        (Received::Text(ours), Received::Text(recorded)) => apply_to_text(renaming, ours, recorded),
        (Received::Broadcast(ours), Received::Broadcast(recorded)) => message_ids(renaming, ours, recorded),
        _ => {}
    }
}

/// Rows of `realtime.messages` have other UUIDs each time, in kind 4's metadata and in the payload. All else is compared
/// byte by byte.
fn message_ids(renaming: &mut Renaming, ours: &mut UserBroadcast, recorded: &UserBroadcast) {
    ours.metadata = renaming.text(&ours.metadata, &recorded.metadata);
    if let (Payload::Text(ours), Payload::Text(recorded)) = (&mut ours.payload, &recorded.payload) {
        *ours = renaming.text(ours, recorded);
    }
}

fn apply_to_text(renaming: &mut Renaming, ours: &mut Message, recorded: &mut Message) {
    // UUIDs of messages from the database, keys that the server made, and `phx_ref`s, which are opaque (PROTOCOL 3.3, 6).
    if matches!(recorded.event.as_str(), "broadcast" | "presence_state" | "presence_diff") {
        renaming.value(&mut ours.payload, &recorded.payload);
    }
    hint(ours);
    seconds_since_expiry(ours);
    seconds_since_expiry(recorded);
    elixir_exception(ours, recorded);
    binding_ids_of_a_reply(renaming, ours, recorded);
    binding_ids_of_an_event(renaming, ours, recorded);
    let (Some(ours), Some(recorded)) = (ours.change(), recorded.change()) else { return };
    commit_timestamp(ours, recorded);
    old_record_of_a_delete_under_policies(ours, recorded);
    first_characters(ours, recorded);
    row_ids(renaming, ours, recorded);
}

/// A fifth key of ours in `system` payloads, where a remedy can be named (DESIGN 8).
fn hint(ours: &mut Message) {
    if let (true, Some(payload)) = (ours.event == "system", ours.payload.as_object_mut()) {
        payload.remove("hint");
    }
}

/// "Token has expired 60 seconds ago": the second may have turned between signing and checking, and the case that waits
/// for an expiry need not wait as long as the recording did.
fn seconds_since_expiry(message: &mut Message) {
    for text in [["message"].as_slice(), ["response", "reason"].as_slice()] {
        let value = text.iter().try_fold(&mut message.payload, |value, key| value.get_mut(*key));
        if let Some(Value::String(text)) = value
            && let Some((before, rest)) = text.split_once("Token has expired ")
        {
            let after = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            *text = format!("{before}Token has expired N{after}");
        }
    }
}

/// What Elixir says of an exception in a join is Elixir's own; that it is an error is the protocol (PROTOCOL 3.1).
fn elixir_exception(ours: &mut Message, recorded: &mut Message) {
    let is_error = |message: &Message| message.payload.get("status").is_some_and(|status| status == "error");
    let reason = recorded.payload.pointer("/response/reason").and_then(Value::as_str).unwrap_or_default();
    if reason.starts_with("UnknownErrorOnChannel: ") && is_error(ours) {
        ours.payload["response"] = recorded.payload["response"].clone();
    }
}

fn binding_ids_of_a_reply(renaming: &mut Renaming, ours: &mut Message, recorded: &mut Message) {
    let topic = ours.topic.clone();
    let list = "/response/postgres_changes";
    let (Some(ours), Some(recorded)) = (ours.payload.pointer_mut(list), recorded.payload.pointer(list)) else { return };
    let (Some(ours), Some(recorded)) = (ours.as_array_mut(), recorded.as_array()) else { return };
    for (our, recorded) in ours.iter_mut().zip(recorded) {
        let (Some(our), Some(id)) = (our.get_mut("id"), recorded.get("id").and_then(Value::as_str)) else { continue };
        // realtime-js tests the truth of an id: zero would be none.
        let Some(number) = number(our).filter(|number| number.parse::<u64>().is_ok_and(|id| id > 0)) else { continue };
        renaming.bindings.insert((topic.clone(), number.to_string()), id.to_string());
        *our = Value::String(id.to_string());
    }
}

/// The original's order among the ids of one frame is that of no list (PROTOCOL 4.1).
fn binding_ids_of_an_event(renaming: &Renaming, ours: &mut Message, recorded: &mut Message) {
    let topic = ours.topic.clone();
    if let Some(ids) = ours.payload.get_mut("ids").and_then(Value::as_array_mut) {
        for id in ids.iter_mut() {
            let known = number(id).and_then(|number| renaming.bindings.get(&(topic.clone(), number.to_string())));
            if let Some(recorded) = known {
                *id = Value::String(recorded.clone());
            }
        }
    }
    for message in [ours, recorded] {
        if let Some(ids) = message.payload.get_mut("ids").and_then(Value::as_array_mut) {
            ids.sort_by_key(Value::to_string);
        }
    }
}

/// Another time, of the same form: `2026-11-20T11:48:25.436Z`. Null stays null.
fn commit_timestamp(ours: &mut Map<String, Value>, recorded: &Map<String, Value>) {
    let is_time = |text: &str| {
        let form = "0000-00-00T00:00:00.000Z";
        text.len() == form.len()
            && text.chars().zip(form.chars()).all(|(c, f)| if f == '0' { c.is_ascii_digit() } else { c == f })
    };
    let key = "commit_timestamp";
    let (Some(our), Some(theirs)) = (ours.get_mut(key), recorded.get(key)) else { return };
    if our.as_str().is_some_and(is_time) && theirs.as_str().is_some_and(is_time) {
        *our = theirs.clone();
    }
}

/// With RLS on the original's old record of a DELETE is its key. Ours is the whole row under replica identity FULL where the
/// policy allowed the old row too (DESIGN 5, 8); what the recording has must be in it.
fn old_record_of_a_delete_under_policies(ours: &mut Map<String, Value>, recorded: &Map<String, Value>) {
    let under_policies = ["rls_default", "rls_full", "nopk_rls"].iter().any(|table| recorded["table"] == *table);
    if !under_policies || recorded["type"] != "DELETE" {
        return;
    }
    let recorded_keys = recorded.get("old_record").and_then(Value::as_object);
    if let (Some(Value::Object(old)), Some(keys)) = (ours.get_mut("old_record"), recorded_keys) {
        old.retain(|name, _| keys.contains_key(name));
    }
}

/// The original cuts char(n) and bit(n) to their first character: a bug there (DESIGN 8). Ours must begin with it.
fn first_characters(ours: &mut Map<String, Value>, recorded: &Map<String, Value>) {
    let columns = recorded.get("columns").and_then(Value::as_array).into_iter().flatten();
    let cut = columns.filter(|column| column["type"] == "bpchar" || column["type"] == "bit");
    for name in cut.filter_map(|column| column["name"].as_str()) {
        for image in ["record", "old_record"] {
            let our = ours.get_mut(image).and_then(|image| image.get_mut(name));
            let theirs = recorded.get(image).and_then(|image| image.get(name));
            if let (Some(Value::String(our)), Some(Value::String(theirs))) = (our, theirs)
                && theirs.chars().count() == 1
                && our.starts_with(theirs.as_str())
            {
                our.clone_from(theirs);
            }
        }
    }
}

/// The same row has the same id throughout a case, then as now; two rows have two.
fn row_ids(renaming: &mut Renaming, ours: &mut Map<String, Value>, recorded: &Map<String, Value>) {
    let table = recorded.get("table").and_then(Value::as_str).unwrap_or_default().to_string();
    for image in ["record", "old_record"] {
        for column in ["id", "Some Id"] {
            let our = ours.get_mut(image).and_then(|image| image.get_mut(column));
            let theirs = recorded.get(image).and_then(|image| image.get(column));
            let (Some(our), Some(theirs)) = (our, theirs) else { continue };
            let (Some(id), Some(then)) = (number(our).map(str::to_string), number(theirs)) else { continue };
            if renaming.is_row(&table, &id, then) {
                *our = theirs.clone();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(renaming: &mut Renaming, ours: &str, recorded: &str) -> bool {
        let parse = |text: &str| Received::Text(Message::parse(text).unwrap());
        let (mut ours, mut recorded) = (parse(ours), parse(recorded));
        apply(renaming, &mut ours, &mut recorded);
        ours == recorded
    }

    #[test]
    fn ids_may_differ_but_not_change_their_meaning() {
        let mut renaming = Renaming::default();
        let reply = |a: u32, b: u32| {
            format!(
                r#"["1","1","realtime:t","phx_reply",{{"status":"ok","response":{{"postgres_changes":[{{"id":{a}}},{{"id":{b}}}]}}}}]"#
            )
        };
        let event = |row: u32, ids: &str| {
            format!(
                r#"[null,null,"realtime:t","postgres_changes",{{"data":{{"type":"INSERT","table":"t","record":{{"id":{row}}}}},"ids":{ids}}}]"#
            )
        };
        assert!(compared(&mut renaming, &reply(1, 2), &reply(900, 800)));
        assert!(compared(&mut renaming, &event(1, "[1,2]"), &event(7, "[800,900]")));
        assert!(!compared(&mut renaming, &event(2, "[1]"), &event(8, "[800]")), "the other binding");
        assert!(!compared(&mut renaming, &event(2, "[2]"), &event(7, "[800]")), "another row under the same id");
        assert!(!compared(&mut renaming, &reply(0, 2), &reply(900, 800)), "zero is no id");
    }

    #[test]
    fn only_order_that_is_open_may_differ() {
        let text = |text: &str| Received::Text(Message::parse(text).unwrap());
        let reply = text(r#"["1","2","realtime:t","phx_reply",{"status":"ok","response":{}}]"#);
        let join = text(r#"["1","1","realtime:t","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#);
        let diff = |key: &str| {
            text(&format!(r#"[null,null,"realtime:t","presence_diff",{{"joins":{{"{key}":{{}}}},"leaves":{{}}}}]"#))
        };
        let broadcast = text(r#"[null,null,"realtime:t","broadcast",{}]"#);
        assert!(order_is_open(&reply, &diff("a")) && order_is_open(&diff("a"), &reply));
        assert!(order_is_open(&diff("a"), &diff("b")) && !order_is_open(&diff("a"), &diff("a")));
        assert!(!order_is_open(&join, &diff("a")), "the reply to a join comes first");
        assert!(!order_is_open(&reply, &broadcast), "a copy for oneself comes before its acknowledgement");
        assert!(!order_is_open(&broadcast, &diff("a")));
    }

    #[test]
    fn frames_of_kind_4_differ_by_one_byte_or_one_id() {
        let frame = |metadata: &str, payload: &str| {
            let lengths = [4, 10, 2, metadata.len() as u8, 1];
            let bytes = [&lengths, b"realtime:tev".as_slice(), metadata.as_bytes(), payload.as_bytes()].concat();
            Received::parse_binary(&bytes).unwrap()
        };
        let (one, other) = ("aaaaaaaa-0000-0000-0000-000000000001", "bbbbbbbb-0000-0000-0000-000000000002");
        let of =
            |id: &str, n: &str| frame(&format!("{{\"id\":\"{id}\"}}"), &format!("{{\"id\": \"{id}\", \"n\": {n}}}"));
        let mut renaming = Renaming::default();
        let mut compared = |ours: Received, recorded: Received| {
            let (mut ours, mut recorded) = (ours, recorded);
            apply(&mut renaming, &mut ours, &mut recorded);
            ours == recorded
        };
        assert!(compared(of(one, "1.50"), of(other, "1.50")));
        assert!(!compared(of(one, "1.5"), of(other, "1.50")), "as Postgres prints it");
        assert!(!compared(of(one, "1"), of("cccccccc-0000-0000-0000-000000000003", "1")), "one id, two messages");
    }

    #[test]
    fn only_what_is_listed_is_masked() {
        let mut renaming = Renaming::default();
        let system =
            |text: &str| format!(r#"["1",null,"realtime:t","system",{{"message":"{text}","status":"error"}}]"#);
        let with_hint = r#"["1",null,"realtime:t","system",{"message":"x","status":"error","hint":"do y"}]"#;
        assert!(compared(&mut renaming, with_hint, &system("x")));
        assert!(compared(
            &mut renaming,
            &system("Token has expired 1 seconds ago"),
            &system("Token has expired 0 seconds ago")
        ));
        assert!(!compared(&mut renaming, &system("Token has expired"), &system("Token has expired 0 seconds ago")));
        assert!(!compared(&mut renaming, &system("x"), &system("y")));
        let change = |n: &str| {
            format!(
                r#"[null,null,"realtime:t","postgres_changes",{{"data":{{"table":"t","record":{{"n":{n}}}}},"ids":[]}}]"#
            )
        };
        assert!(compared(&mut renaming, &change("1.50"), &change("1.50")));
        assert!(!compared(&mut renaming, &change("1.5"), &change("1.50")), "numbers keep their scale");
    }
}
