//! Which cases may be played at once: those that neither hear nor disturb each other.

use std::collections::{HashMap, HashSet};

use super::masks;
use super::transcript::{Frame, Step, Transcript};

/// Cases that share a topic on which something is said, or a table, stand in one lane, in the order of the recording:
/// later ones met the rows that earlier ones had left.
pub fn lanes<'a>(cases: &[&'a Transcript]) -> Vec<Vec<&'a Transcript>> {
    // Where somebody hears of every table, they are one.
    let are_one = cases.iter().any(|case| masks::hears_every_table(&case.name));
    let uses = |case: &Transcript| uses(case, are_one);
    let said: HashSet<String> = cases.iter().flat_map(|case| uses(case).said).collect();
    let mut lanes: Vec<(HashSet<String>, Vec<&'a Transcript>)> = Vec::new();
    for case in cases {
        let uses = uses(case);
        let shared: HashSet<String> = uses.heard.into_iter().filter(|it| said.contains(it)).chain(uses.said).collect();
        // The lanes that it shares something with become one.
        let (joined, apart): (Vec<_>, Vec<_>) =
            lanes.into_iter().partition(|(resources, _)| !resources.is_disjoint(&shared));
        let mut lane = (shared, Vec::new());
        for (resources, cases) in joined {
            lane.0.extend(resources);
            lane.1.extend(cases);
        }
        lane.1.push(case);
        lanes = apart;
        lanes.push(lane);
    }
    let order: HashMap<&str, usize> = cases.iter().enumerate().map(|(at, case)| (case.name.as_str(), at)).collect();
    let mut lanes: Vec<Vec<&'a Transcript>> = lanes.into_iter().map(|(_, cases)| cases).collect();
    lanes.iter_mut().for_each(|lane| lane.sort_by_key(|case| order[case.name.as_str()]));
    lanes
}

/// Whether every channel is told of what a case changes: it must be alone.
pub fn disturbs_everybody(case: &Transcript) -> bool {
    case.lines.iter().any(|line| matches!(&line.step, Step::Sql(sql) if sql.contains("alter publication")))
}

/// What a case hears of, and what others may hear of by it: topics, and tables.
#[derive(Default)]
struct Uses {
    heard: HashSet<String>,
    said: HashSet<String>,
}

fn uses(case: &Transcript, tables_are_one: bool) -> Uses {
    let mut uses = Uses::default();
    for line in &case.lines {
        match &line.step {
            Step::Send { frame: Frame::Text(text), .. } => {
                let topic = topic_of(text);
                uses.heard.insert(topic.clone());
                uses.heard.extend(bound_tables(text));
                if ["\"broadcast\"", "\"presence\""].iter().any(|event| event_of(text) == *event) {
                    uses.said.insert(topic);
                }
            }
            Step::Sql(_) if tables_are_one => drop(uses.said.insert("tables".into())),
            Step::Sql(sql) => uses.said.extend(tables_of(sql)),
            _ => {}
        }
    }
    uses
}

fn topic_of(frame: &str) -> String {
    let at = frame.find("\"realtime:").map_or(frame.len(), |at| at + 1);
    frame[at..].chars().take_while(|c| *c != '"').collect()
}

/// Those of its bindings.
fn bound_tables(join: &str) -> impl Iterator<Item = String> {
    let named = join.split("\"table\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    named.map(|table| format!("table {table}"))
}

/// With its quotes, of either version.
fn event_of(frame: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(frame).unwrap_or_default();
    let event = if json.is_array() { &json[3] } else { &json["event"] };
    event.to_string()
}

/// The words after those that a table's name follows.
fn tables_of(sql: &str) -> Vec<String> {
    let words: Vec<&str> =
        sql.split(|c: char| c.is_whitespace() || "(),;".contains(c)).filter(|it| !it.is_empty()).collect();
    let follows = ["into", "update", "from", "table", "truncate"];
    let is_keyword = |word: &str| follows.contains(&word.to_ascii_lowercase().as_str());
    words
        .windows(2)
        .filter(|pair| is_keyword(pair[0]) && !is_keyword(pair[1]))
        .map(|pair| format!("table {}", pair[1].trim_matches('"').trim_start_matches("public.")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::transcript;

    #[test]
    fn cases_that_share_what_is_changed_stand_behind_each_other() {
        let all = transcript::all();
        let cases: Vec<&Transcript> = all.iter().collect();
        let lanes = lanes(&cases);
        let lane = |name: &str| lanes.iter().position(|lane| lane.iter().any(|case| case.name == name));
        assert_eq!(lane("pg_toast.v1"), lane("pg_pk_update.v2"), "a binding to every table is among them");
        assert_eq!(lane("join_leave.v1"), lane("join_leave.v2"));
        assert_ne!(lane("broadcast_self_on.v1"), lane("broadcast_self_on.v2"), "each has its topic");
        assert_eq!(lanes.iter().map(Vec::len).sum::<usize>(), cases.len());

        let ordinary: Vec<&Transcript> =
            cases.into_iter().filter(|case| !masks::hears_every_table(&case.name)).collect();
        let lanes = super::lanes(&ordinary);
        let lane = |name: &str| lanes.iter().position(|lane| lane.iter().any(|case| case.name == name));
        assert_ne!(lane("pg_toast.v1"), lane("pg_pk_update.v2"));
        assert_eq!(lane("pg_pk_update.v1"), lane("pg_pk_update.v2"));
        assert_eq!(
            tables_of("insert into plain(name) values('a'); delete from \"Weird Table\""),
            ["table plain", "table Weird"]
        );
    }
}
