//! Every difference from the recorded server that is allowed, each with its reason; all others fail.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::message::{Message, number};

// Cases that are not replayed, or not to their end. ----------------------------------------------------------------------

/// Beginnings of names of cases that belong to what walcast does not do yet.
pub const LATER: &[(&str, &str)] = &[
    ("broadcast_", "broadcast is not there yet"),
    ("payload_too_large_broadcast", "broadcast is not there yet"),
    ("limit_events_broadcast", "broadcast is not there yet"),
    ("rest_", "the REST broadcast API is not there yet"),
    ("presence_", "presence is not there yet"),
    ("join_presence_enabled", "presence is not there yet"),
    ("limit_presence", "presence is not there yet"),
    ("private_", "private channels are not there yet"),
    ("tenant_private_only", "private channels are not there yet"),
    ("db_", "broadcast from the database is not there yet"),
    ("replay", "broadcast from the database is not there yet"),
    ("replication_ready", "broadcast from the database is not there yet"),
    ("idle_", "a minute of real time each: the session's own tests show it on a paused clock"),
    ("limit_concurrent_users", "the limit of connected users is not there yet"),
];

/// Cases in which walcast differs on purpose from beginning to end.
pub const DIFFERENT: &[(&str, &str)] = &[
    ("connect_unknown_path", "walcast serves /realtime/v1/websocket itself: there need not be a gateway before it"),
    ("connect_unknown_tenant", "walcast has one tenant, and takes any Host for it"),
    ("tenant_suspended", "walcast has one tenant, and no switch to suspend it"),
    ("limit_db_events", "the original drops changes above a rate in silence (DESIGN 8): nothing to compare with"),
    ("pg_poison_filter", "json has no `=`: refused at subscribe, so nobody is poisoned (DESIGN 8)"),
    ("pg_types_filters.", "holds the filters that poison the original; pg_types_filters_valid has the others"),
    ("pg_toast.v2", "a flawed recording: two extra \"Subscribed to PostgreSQL\" of somebody else's publication change"),
];

/// Cases that are replayed up to the first line that holds this text.
pub const UNTIL: &[(&str, &str, &str)] =
    &[("join_duplicate", "broadcast\",", "broadcast is not there yet, and the recording doubles it by a flaw")];

/// Where frames may come that the recording does not have: in this case, on this topic.
pub const MORE: &[(&str, &str, &str)] = &[
    ("connect_service_role", "realtime:svc", "the recording ends before its legacy subscription's system message"),
    (
        "pg_types_filters_valid",
        "realtime:tv10",
        "by=eq.\\xdeadbeef is true of the row, as Postgres says; the original compares with the text without its \\x",
    ),
];

pub fn may_come(case: &str, message: &Message) -> bool {
    MORE.iter().any(|(name, topic, _)| case.starts_with(name) && message.topic == *topic)
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

/// What an id of ours was in the recording.
#[derive(Debug, Default)]
pub struct Renaming {
    /// Of bindings, by topic: the original's are hashes of the parameters, ours need only be positive numbers.
    bindings: HashMap<(String, String), String>,
    /// Of rows, by table, both ways: sequences stand elsewhere than they stood then.
    rows: HashMap<(String, String), String>,
    recorded_rows: HashMap<(String, String), String>,
}

/// Makes of both what must be equal.
pub fn apply(renaming: &mut Renaming, ours: &mut Message, recorded: &mut Message) {
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
            let forth = renaming.rows.entry((table.clone(), id.clone())).or_insert_with(|| then.to_string());
            let back = renaming.recorded_rows.entry((table.clone(), then.to_string())).or_insert_with(|| id.clone());
            if forth == then && *back == id {
                *our = theirs.clone();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(renaming: &mut Renaming, ours: &str, recorded: &str) -> bool {
        let (mut ours, mut recorded) = (Message::parse(ours).unwrap(), Message::parse(recorded).unwrap());
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
