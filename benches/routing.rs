//! What a change costs in the index, by the number of equality-filtered subscriptions.
//!
//! `cargo bench --bench routing`. Each index has subscriptions `session_id=eq.<uuid>`, ten to each key, and is asked
//! for changes whose keys are drawn uniformly: ten match. The sizes take turns, so that whatever else the machine does
//! hits all of them; what is printed is the median of the rounds, with the smallest and the largest.
//!
//! The floor is a hash table from the key's bytes to ten ids, asked for the same changes: no filters, no tables, no
//! events. What it costs more with many keys than with one is what memory costs, whoever asks it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use walcast::catalog::{
    AclItem, Catalog, Column, ColumnIndex, PgType, Publish, Relation, RelationKind, ReplicaIdentity, Role, Roles,
    TypeKind,
};
use walcast::change::{Change, Layout, OldRow, Operation, Row};
use walcast::routing::{Binding, Bound, Casts, Matches, SubscriptionId, SubscriptionIndex, bind};
use walcast::wal::pgoutput::{Datum, RelationId, Tuple};

const SIZES: [usize; 3] = [10, 1_000, 100_000];
const MATCHING: usize = 10;
const ROUNDS: usize = 9;
const CHANGES: usize = 200_000;
const GOAL_RATIO: f64 = 1.5;
const GOAL: Duration = Duration::from_micros(2);

fn main() {
    let catalog = catalog();
    let own_keys = Measured::new(&catalog, SIZES[2], 1);
    println!("memory: {} bytes for each of {} subscriptions with a key of its own", own_keys.bytes_each, own_keys.size);
    drop(own_keys);
    let mut measured: Vec<Measured> = SIZES.iter().map(|size| Measured::new(&catalog, *size, MATCHING)).collect();
    for _ in 0..ROUNDS {
        for one in &mut measured {
            one.round();
            one.round_of_floor();
        }
    }
    println!(
        "{:>13} | {:>26} | {:>26} | {:>5} | {:>26} | {:>5} | bytes each",
        "subscriptions", "CPU ns per change", "wall ns per change", "ratio", "floor's CPU ns", "ratio"
    );
    let (base, base_of_floor) = (median(&measured[0].cpu), median(&measured[0].floor_cpu));
    for Measured { size, cpu, wall, floor_cpu, bytes_each, .. } in &measured {
        let (ratio, of_floor) = (median(cpu) / base, median(floor_cpu) / base_of_floor);
        let (cpu, wall, floor_cpu) = (spread(cpu), spread(wall), spread(floor_cpu));
        println!("{size:>13} | {cpu} | {wall} | {ratio:>5.2} | {floor_cpu} | {of_floor:>5.2} | {bytes_each}");
    }
    let last = &measured[SIZES.len() - 1];
    let (ratio, cost) = (median(&last.cpu) / base, median(&last.cpu));
    println!(
        "what {} subscriptions cost more than {}: {:.1} ns, the floor {:.1} ns",
        last.size,
        SIZES[0],
        cost - base,
        median(&last.floor_cpu) - base_of_floor
    );
    let verdict = |holds: bool| if holds { "holds" } else { "MISSED" };
    println!(
        "goal: {} to {} subscriptions at most {GOAL_RATIO}x: {}",
        SIZES[0],
        last.size,
        verdict(ratio <= GOAL_RATIO)
    );
    println!("goal: a change below {GOAL:?}: {}", verdict(cost < GOAL.as_nanos() as f64));
}

struct Measured {
    size: usize,
    index: SubscriptionIndex,
    changes: Vec<Change>,
    bytes_each: usize,
    cpu: Vec<f64>,
    wall: Vec<f64>,
    floor: HashMap<[u8; 36], [SubscriptionId; MATCHING], foldhash::fast::RandomState>,
    floor_cpu: Vec<f64>,
}

impl Measured {
    fn new(catalog: &Catalog, size: usize, per_key: usize) -> Measured {
        let keys: Vec<String> = (0..size / per_key).map(|_| uuid()).collect();
        let mut index = SubscriptionIndex::default();
        let before = resident_bytes();
        for at in 0..size {
            // Every subscriber parses and binds for itself.
            let filter = format!("session_id=eq.{}", keys[at % keys.len()]);
            let params = serde_json::json!({"event": "*", "schema": "public", "table": "chat", "filter": filter});
            let binding = Binding::parse(params.as_object().expect("an object")).expect("a good binding");
            let Bound::Ready(bound) = bind(&binding, catalog, "anon", &Casts::default()) else {
                panic!("{filter} does not bind")
            };
            index.insert(SubscriptionId(at as u32), &bound[0]);
        }
        let bytes_each = resident_bytes().saturating_sub(before) / size;
        let relation = catalog.relations.values().next().expect("one relation");
        // More changes than caches hold, in an order that no prefetcher knows.
        let changes = (0..4096).map(|_| change(relation, &keys[rand::random_range(0..keys.len())])).collect();
        let floor =
            keys.iter().map(|key| (*key.as_bytes().first_chunk().expect("a UUID"), [SubscriptionId(0); MATCHING]));
        let (floor, cpu, wall, floor_cpu) = (floor.collect(), Vec::new(), Vec::new(), Vec::new());
        Measured { size, index, changes, bytes_each, cpu, wall, floor, floor_cpu }
    }

    fn round(&mut self) {
        let mut matches = Matches::default();
        let (wall, cpu) = (Instant::now(), cpu_time());
        let mut matched = 0;
        for change in self.changes.iter().cycle().take(CHANGES) {
            self.index.matches(change, &mut matches);
            matched += matches.matched.len();
        }
        let (cpu, wall) = (cpu_time() - cpu, wall.elapsed());
        assert_eq!(matched, MATCHING * CHANGES);
        self.cpu.push(cpu.as_nanos() as f64 / CHANGES as f64);
        self.wall.push(wall.as_nanos() as f64 / CHANGES as f64);
    }

    fn round_of_floor(&mut self) {
        let mut matched: Vec<SubscriptionId> = Vec::new();
        let (mut count, cpu) = (0, cpu_time());
        for change in self.changes.iter().cycle().take(CHANGES) {
            matched.clear();
            let Some(Datum::Text(text)) = change.new.as_ref().map(|row| row.datum(ColumnIndex(1))) else { continue };
            matched.extend(text.first_chunk().and_then(|key: &[u8; 36]| self.floor.get(key)).into_iter().flatten());
            count += matched.len();
        }
        self.floor_cpu.push((cpu_time() - cpu).as_nanos() as f64 / CHANGES as f64);
        assert_eq!(count, MATCHING * CHANGES);
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn spread(values: &[f64]) -> String {
    let (min, max) = values.iter().fold((f64::MAX, 0.0_f64), |(min, max), value| (min.min(*value), max.max(*value)));
    format!("{:>8.1} ({min:>6.1}..{max:>6.1})", median(values))
}

/// Time this thread has run, from the first number of `schedstat`. The kernel brings it up to date at a tick, every few
/// milliseconds, and when asked to look for somebody else to run.
fn cpu_time() -> Duration {
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or_default();
    Duration::from_nanos(nanos)
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|text| text.parse::<usize>().ok()).unwrap_or_default() * 4096
}

fn uuid() -> String {
    let text = format!("{:032x}", rand::random::<u128>());
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

fn change(relation: &Arc<Relation>, key: &str) -> Change {
    let values = [Some("1"), Some(key), Some("hello"), None].map(|value| value.map(str::as_bytes));
    let tuple = Tuple::from_values(values);
    let new = Row { layout: Arc::new(Layout::identity(relation.clone())), tuple, key_only: false };
    let (relation, operation, old) = (relation.clone(), Operation::Insert, OldRow::Absent);
    Change {
        relation,
        operation,
        new: Some(new),
        old,
        kept: None,
        commit_lsn: walcast::wal::Lsn::ZERO,
        index: 0,
        commit_timestamp: 0,
    }
}

/// `public.chat (id int8 primary key, session_id uuid, body text, sender text)`, readable by everybody.
fn catalog() -> Catalog {
    let types = [(20, "int8", "bigint"), (25, "text", "text"), (2950, "uuid", "uuid")];
    let types = types.map(|(oid, name, sql_name)| PgType {
        oid,
        schema: "pg_catalog".into(),
        name: name.into(),
        sql_name: sql_name.into(),
        kind: TypeKind::Base,
        has_json_cast: false,
    });
    let columns = [("id", 20), ("session_id", 2950), ("body", 25), ("sender", 25)];
    let columns = columns.iter().zip(1..).map(|((name, type_oid), attnum)| Column {
        attnum,
        name: (*name).into(),
        type_oid: *type_oid,
        type_modifier: -1,
        generated: None,
        collation: None,
        acl: vec![],
    });
    let relation = Relation {
        id: RelationId(1),
        schema: "public".into(),
        name: "chat".into(),
        kind: RelationKind::Table,
        owner: 10,
        row_security: false,
        force_row_security: false,
        replica_identity: ReplicaIdentity::Default,
        columns: columns.collect(),
        primary_key: vec![ColumnIndex(0)],
        identity_key: vec![ColumnIndex(0)],
        acl: vec![AclItem { grantee: 0 }],
        policies: vec![],
        publish: Publish { insert: true, update: true, delete: true },
        followed: walcast::catalog::Followed::Whole,
        leaves: Vec::new(),
    };
    let (superuser, bypass_rls, inherits) = (false, false, HashSet::new());
    let role = Role { oid: 20_000, name: "anon".into(), superuser, bypass_rls, inherits };
    Catalog {
        relations: HashMap::from([(relation.id, Arc::new(relation))]),
        types: types.into_iter().map(|pg_type| (pg_type.oid, Arc::new(pg_type))).collect(),
        schemas: HashMap::from([("public".into(), vec![AclItem { grantee: 0 }])]),
        roles: Arc::new(Roles { by_name: HashMap::from([("anon".into(), Arc::new(role))]), ..Roles::default() }),
        ..Catalog::default()
    }
}
