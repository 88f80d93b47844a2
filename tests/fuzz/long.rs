//! Long inputs: what is linear takes milliseconds for a quarter of a megabyte, what is quadratic minutes. And deep ones,
//! on a stack like those of the relay.

use std::time::{Duration, Instant};

use super::targets;

const BYTES: usize = 256 << 10;

/// Unoptimized, on a machine that does other things.
const TIME_MAX: Duration = Duration::from_secs(10);

/// What is said so many times, between a beginning and an end, to whom.
const LONG: &[(&str, &str, &str, &str)] = &[
    ("phoenix", "2[null,\"1\",\"t\",\"e\",", "[", ""),
    ("phoenix", "2[null,\"1\",\"t\",\"e\",[", "1,", "1]]"),
    ("phoenix", "1{\"topic\":\"t\",\"event\":\"e\",\"ref\":1,\"payload\":{", "\"a\":1,", "\"a\":1}}"),
    ("phoenix", "2[null,\"1\",\"", "\\u00e9", "\",\"e\",{}]"),
    (
        "session",
        "2\x1eT[\"1\",\"1\",\"realtime:room\",\"phx_join\",{\"config\":{\"postgres_changes\":[",
        "{},",
        "{}]}}]",
    ),
    ("session", "2\x1eT[\"1\",\"1\",\"realtime:room\",\"phx_join\",{\"config\":{\"postgres_changes\":", "[", ""),
    ("session", "2", "\x1eT[\"1\",\"1\",\"realtime:room\",\"phx_join\",{\"config\":{}}]", ""),
    ("session", "2", "\x1eT[null,\"1\",\"phoenix\",\"heartbeat\",{}]", ""),
    (
        "session",
        "2\x1eT[\"1\",\"1\",\"realtime:room\",\"phx_join\",{\"config\":{}}]\x1eT[\"1\",\"2\",\"realtime:room\",\"broadcast\",{\"type\":\"broadcast\",\"event\":\"e\",\"payload\":{\"a\":[",
        "{\"b\":1},",
        "1]}}]",
    ),
    ("join", "{\"config\":{\"postgres_changes\":[", "{\"schema\":\"s\",\"a\":1},", "null]}}\x1ex"),
    ("join", "{\"config\":{\"postgres_changes\":[{\"schema\":\"s\",\"filter\":\"", "a=eq.1,", "\"}]}}\x1ex"),
    ("join", "", "[", ""),
    ("join", "{\"config\":", "{\"a\":", ""),
    ("filter", "kinds\x1e", "id=eq.1,", "id=eq.1\x1e\x1e1"),
    ("filter", "kinds\x1et=eq.", "(", ""),
    ("filter", "kinds\x1et=in.(", "1,", "1)"),
    ("filter", "kinds\x1et=like.", "%a", "\x1e\x1e1\x1ft\x1f2\x1f3\x1f1\x1f2\x1f3\x1faaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"),
    ("filter", "kinds\x1eta=eq.", "{", ""),
    ("filter", "kinds\x1et=eq.\"", "\\\"", "\""),
    ("filter", "kinds\x1en=eq.", "9", "\x1e\x1e1\x1ft\x1f2\x1f3\x1f1\x1f2\x1f1"),
    ("policy", "docs\x1e", "(", ""),
    ("policy", "docs\x1e", "{BOOLEXPR :boolop not :args (", ""),
    (
        "policy",
        "docs\x1e{BOOLEXPR :boolop or :args (",
        "{CONST :consttype 16 :consttypmod -1 :constcollid 0 :constlen 1 :constbyval true :constisnull false :location 1 :constvalue 1 [ 1 0 0 0 0 0 0 0 ]} ",
        ") :location 1}\x1e{}\x1e1",
    ),
    ("policy", "docs\x1e{CONST :constvalue 9 [ ", "1 ", "]}"),
    ("datum", "3802\x1e", "[", ""),
    ("datum", "114\x1e", "{\"a\":", ""),
    ("datum", "114\x1e{", "\"a\":1,", "\"a\":1}"),
    ("datum", "1009\x1e", "{", ""),
    ("datum", "1009\x1e{", "a,", "a}"),
    ("datum", "1700\x1e", "9", ""),
    ("datum", "114\x1e", "9", ""),
    ("datum", "114\x1e1e", "9", ""),
    ("datum", "114\x1e[", "1e99999,", "1]"),
    ("datum", "25\x1e", "\\\"\n", ""),
    ("datum", "1186\x1e", "1 day ", ""),
    ("token", "", ".", ""),
    ("token", "eyJhbGciOiJIUzI1NiJ9.", "e", ".x"),
    ("token", "", "%20", ""),
    ("conninfo", "", "a=b ", ""),
    ("conninfo", "postgres://", "%41", ""),
    ("conninfo", "postgres://u@h/d?", "user=a&", ""),
    ("forwarded", "10.0.0.1\x1e10.0.0.0/8\x1e\x1e\x1e", "10.0.0.1,", "1.2.3.4"),
    ("forwarded", "10.0.0.1\x1e10.0.0.0/8\x1e\x1e\x1e", "1.2.3.4\x1e", ""),
];

#[test]
fn time_grows_with_an_input_and_not_faster() {
    let tried = std::thread::Builder::new().stack_size(2 << 20).spawn(|| {
        LONG.iter()
            .filter_map(|(target, start, piece, end)| {
                let input = [*start, &piece.repeat(BYTES / piece.len()), end].concat();
                let began = Instant::now();
                targets::run(target, input.as_bytes());
                let took = began.elapsed();
                println!("{target}: {took:?} for {start:.60}{piece:.40}...");
                (took > TIME_MAX).then(|| format!("{target}: {took:?} for {start}{piece}.."))
            })
            .collect::<Vec<_>>()
    });
    let slow = tried.expect("a thread").join().expect("no input is too long");
    assert!(slow.is_empty(), "{slow:#?}");
}
