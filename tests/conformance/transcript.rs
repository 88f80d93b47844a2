//! A recorded case: what was sent, run and received, line by line. Its format is told in README.md.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

#[derive(Debug)]
pub struct Transcript {
    pub name: String,
    /// When the recording began, in seconds since 1970; its tokens were signed then.
    pub recorded_at: i64,
    pub lines: Vec<Line>,
}

#[derive(Debug)]
pub struct Line {
    /// As an editor counts, to find it again.
    pub number: usize,
    /// Seconds since the case began.
    pub at: f64,
    pub step: Step,
}

#[derive(Clone, Debug)]
pub enum Step {
    Connect { connection: String, url: String, host: String, headers: Vec<(String, String)> },
    Upgraded { connection: String },
    UpgradeRefused { connection: String, response: Response },
    Send { connection: String, frame: Frame },
    Receive { connection: String, frame: Frame },
    ReceiveLong { connection: String, beginning: String, bytes: usize },
    Ping { connection: String, payload: Vec<u8> },
    Pong { connection: String, payload: Vec<u8> },
    Close { connection: String, code: u16 },
    Sql(String),
    SqlFails(String),
    HttpRequest(Request),
    HttpResponse(Response),
    Note,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Text(String),
    Binary(Vec<u8>),
}

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub content_type: Option<String>,
    /// `access-control-allow-origin`.
    pub allow_origin: Option<String>,
    /// Whether all of `x-rate-rolling`, `x-rate-limit` and `x-rate-limit-remaining` are there.
    pub has_rate: bool,
    pub body: String,
}

/// One line as it is written.
#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    t: f64,
    #[serde(default)]
    conn: String,
    dir: String,
    #[serde(default)]
    url: String,
    #[serde(default)]
    host: String,
    #[serde(default)]
    headers: serde_json::Map<String, Value>,
    text: Option<String>,
    hex: Option<String>,
    text_truncated: Option<String>,
    bytes: Option<usize>,
    #[serde(default)]
    code: u16,
    #[serde(default)]
    status: u16,
    #[serde(default)]
    body: String,
    #[serde(default)]
    sql: String,
    #[serde(default)]
    error: String,
    #[serde(default)]
    method: String,
    #[serde(default)]
    path: String,
}

pub fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/transcripts")
}

/// Every recorded case, in the order of the recording: later ones met the rows that earlier ones had left.
pub fn all() -> Vec<Transcript> {
    let mut names: Vec<String> = std::fs::read_dir(directory())
        .expect("the transcripts are part of the repository")
        .map(|entry| entry.expect("directory entry").file_name().into_string().expect("an ASCII name"))
        .filter_map(|name| name.strip_suffix(".jsonl").map(str::to_string))
        .collect();
    names.sort();
    let mut all: Vec<(String, Transcript)> = names.iter().map(|name| read(name)).collect();
    all.sort_by(|(left, _), (right, _)| left.cmp(right));
    all.into_iter().map(|(_, transcript)| transcript).collect()
}

fn read(name: &str) -> (String, Transcript) {
    let path = directory().join(format!("{name}.jsonl"));
    let text = std::fs::read_to_string(path).expect("a transcript");
    let mut lines = text.lines().enumerate();
    let head: Value = serde_json::from_str(lines.next().expect("a first line").1).expect("a heading");
    let date = head["date"].as_str().expect("a date").to_string();
    let lines = lines
        .map(|(index, line)| {
            let raw = serde_json::from_str(line).unwrap_or_else(|error| panic!("{name} line {}: {error}", index + 1));
            line_of(index + 1, raw)
        })
        .collect();
    let transcript = Transcript { name: name.to_string(), recorded_at: unix_seconds(&date), lines };
    (date, transcript)
}

fn line_of(number: usize, raw: Raw) -> Line {
    Line { number, at: raw.t, step: step(raw) }
}

fn step(raw: Raw) -> Step {
    let connection = raw.conn.clone();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let headers = || raw.headers.iter().map(|(name, value)| (name.clone(), text(value))).collect();
    match raw.dir.as_str() {
        "connect" => Step::Connect { connection, headers: headers(), url: raw.url, host: raw.host },
        "http-upgrade" => Step::Upgraded { connection },
        "http-response" => Step::UpgradeRefused { connection, response: response(raw) },
        ">" => Step::Send { connection, frame: frame(&raw) },
        "<" => match (&raw.text_truncated, raw.bytes) {
            (Some(beginning), Some(bytes)) => Step::ReceiveLong { connection, beginning: beginning.clone(), bytes },
            _ => Step::Receive { connection, frame: frame(&raw) },
        },
        ">ping" => Step::Ping { connection, payload: bytes(raw.hex.as_deref().unwrap_or_default()) },
        "<pong" => Step::Pong { connection, payload: bytes(raw.hex.as_deref().unwrap_or_default()) },
        "close" => Step::Close { connection, code: raw.code },
        "sql" => Step::Sql(raw.sql),
        "sql-error" => Step::SqlFails(raw.error),
        "http>" => {
            Step::HttpRequest(Request { headers: headers(), body: body(&raw.body), method: raw.method, path: raw.path })
        }
        "http<" => Step::HttpResponse(response(raw)),
        "open" | "note" => Step::Note,
        other => panic!("a transcript has a line of unknown kind {other:?}"),
    }
}

fn response(raw: Raw) -> Response {
    let header = |name: &str| raw.headers.get(name).and_then(Value::as_str).map(str::to_string);
    Response {
        status: raw.status,
        content_type: header("content-type"),
        allow_origin: header("access-control-allow-origin"),
        has_rate: RATE_HEADERS.iter().all(|name| header(name).is_some()),
        body: raw.body,
    }
}

pub const RATE_HEADERS: [&str; 3] = ["x-rate-rolling", "x-rate-limit", "x-rate-limit-remaining"];

fn frame(raw: &Raw) -> Frame {
    match (&raw.text, &raw.hex) {
        (Some(text), _) => Frame::Text(filled(text)),
        (None, Some(hex)) => Frame::Binary(bytes(hex)),
        (None, None) => panic!("a frame without text or hex"),
    }
}

fn body(text: &str) -> Vec<u8> {
    match text.strip_prefix("hex:") {
        Some(hex) => bytes(hex),
        None => filled(text).into_bytes(),
    }
}

/// What is long is recorded as its beginning and its length, `...(5100090 chars)`; what fills it is `x`, and at its end
/// is closed what was opened at its beginning.
fn filled(text: &str) -> String {
    let shortened = text.strip_suffix(')').map(|text| text.strip_suffix(" chars").unwrap_or(text));
    let shortened = shortened.and_then(|rest| rest.rsplit_once("...("));
    let Some((beginning, Ok(length))) = shortened.map(|(beginning, length)| (beginning, length.parse::<usize>()))
    else {
        return text.to_string();
    };
    let (mut open, mut in_string) = (Vec::new(), false);
    for c in beginning.chars() {
        match c {
            '"' => in_string = !in_string,
            '[' if !in_string => open.push(']'),
            '{' if !in_string => open.push('}'),
            ']' | '}' if !in_string => drop(open.pop()),
            _ => {}
        }
    }
    let mut end: String = in_string.then_some('"').into_iter().chain(open.into_iter().rev()).collect();
    // A frame of version 1 has more behind its payload. All that are shortened come after one join.
    if beginning.starts_with("{\"topic\":") && end.pop().is_some() {
        end.push_str(r#","ref":"2","join_ref":"1"}"#);
    }
    format!("{beginning}{}{end}", "x".repeat(length - beginning.len() - end.len()))
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().map(|c| c.to_digit(16).expect("a hex digit") as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// `2026-11-20T11:48:25.419Z` as seconds since 1970.
fn unix_seconds(date: &str) -> i64 {
    let number = |range: std::ops::Range<usize>| date[range].parse::<i64>().expect("a date as JavaScript writes it");
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    // Days from civil: March is the first month, so that the leap day is the last of its year.
    let (shifted_year, shifted_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era_days = shifted_year * 365 + shifted_year / 4 - shifted_year / 100 + shifted_year / 400;
    let days = era_days + (153 * shifted_month + 2) / 5 + day - 1 - 719_468;
    days * 86_400 + number(11..13) * 3_600 + number(14..16) * 60 + number(17..19)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_transcript_is_understood() {
        assert!(all().len() > 150);
    }

    #[test]
    fn what_is_shortened_is_filled_to_its_length_and_closed() {
        let text = filled(r#"{"a":[1],"b":{"c":"xx...(30 chars)"#);
        assert_eq!((text.len(), serde_json::from_str::<Value>(&text).is_ok()), (30, true));
        assert_eq!(filled("[1]...(12)").len(), 12);
        assert_eq!(filled("abc(12)"), "abc(12)");
    }

    #[test]
    fn dates_are_seconds_since_1970() {
        assert_eq!(unix_seconds("1970-01-01T00:00:00.000Z"), 0);
        assert_eq!(unix_seconds("2026-11-20T11:48:25.419Z"), 1_795_175_305);
    }
}
