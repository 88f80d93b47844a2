//! Equality and order.

use std::cmp::Ordering;

use super::Depends::{CCollation, DeterministicCollation, Utc};
use super::{Builtin, unexpected};
use crate::authz::policy::calendar::MICROSECONDS_PER_DAY;
use crate::authz::policy::value::Interval;
use crate::authz::policy::{Failure, Value};

/// How two values of one type compare, where order does not depend on a collation: text by its bytes. `json` does not
/// compare at all; arrays and `jsonb` have functions of their own.
pub(in crate::authz::policy) fn compare(a: &Value, b: &Value) -> Result<Ordering, Failure> {
    Ok(match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Uuid(a), Value::Uuid(b)) => a.cmp(b),
        (Value::Text(a), Value::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Timestamptz(a), Value::Timestamptz(b)) | (Value::Timestamp(a), Value::Timestamp(b)) => a.cmp(b),
        // Under UTC, which `depends` says.
        (Value::Timestamptz(a), Value::Timestamp(b)) | (Value::Timestamp(a), Value::Timestamptz(b)) => a.cmp(b),
        (Value::Date(a), Value::Date(b)) => a.cmp(b),
        (Value::Date(date), Value::Timestamp(b) | Value::Timestamptz(b)) => midnight(*date).cmp(&widened(*b)),
        (Value::Timestamp(a) | Value::Timestamptz(a), Value::Date(date)) => widened(*a).cmp(&midnight(*date)),
        (Value::Time(a), Value::Time(b)) => a.cmp(b),
        (Value::Float(a), Value::Float(b)) => floats(f64::from_bits(*a), f64::from_bits(*b)),
        (Value::Numeric(a), Value::Numeric(b)) => a.cmp(b),
        (Value::Interval(a), Value::Interval(b)) => length(a).cmp(&length(b)),
        (Value::Bytea(a), Value::Bytea(b)) => a.cmp(b),
        _ => return unexpected(),
    })
}

/// NaN equals itself and is greater than all else.
fn floats(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// Months have 30 days here, days 24 hours.
fn length(interval: &Interval) -> i128 {
    let days = i128::from(interval.months) * 30 + i128::from(interval.days);
    days * i128::from(MICROSECONDS_PER_DAY) + i128::from(interval.microseconds)
}

fn midnight(date: i32) -> i128 {
    match date {
        i32::MAX => i128::MAX,
        i32::MIN => i128::MIN,
        _ => i128::from(date) * i128::from(MICROSECONDS_PER_DAY),
    }
}

fn widened(timestamp: i64) -> i128 {
    match timestamp {
        i64::MAX => i128::MAX,
        i64::MIN => i128::MIN,
        _ => timestamp.into(),
    }
}

/// `bpchar` values compare without the blanks they end in.
fn blank_padded(a: &Value, b: &Value) -> Result<Ordering, Failure> {
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => {
            Ok(a.trim_end_matches(' ').as_bytes().cmp(b.trim_end_matches(' ').as_bytes()))
        }
        _ => unexpected(),
    }
}

/// What a comparison makes of an order.
macro_rules! holds {
    ($order:expr, eq) => {
        $order.is_eq()
    };
    ($order:expr, ne) => {
        $order.is_ne()
    };
    ($order:expr, lt) => {
        $order.is_lt()
    };
    ($order:expr, le) => {
        $order.is_le()
    };
    ($order:expr, gt) => {
        $order.is_gt()
    };
    ($order:expr, ge) => {
        $order.is_ge()
    };
}

/// `"name", order, depends: oid relation, ..;`
macro_rules! table {
    ($($name:literal, $order:path, $depends:tt: $($oid:literal $relation:tt),*;)*) => {
        &[$($(Builtin {
            depends: depends!($relation $depends),
            pair: Some(|a, b| Ok(Value::Bool(holds!($order(a, b)?, $relation)))),
            ..Builtin::total($oid, concat!($name, stringify!($relation)), |args| match args {
                [a, b] => Ok(Value::Bool(holds!($order(a, b)?, $relation))),
                _ => unexpected(),
            })
        }),*),*]
    };
}

macro_rules! depends {
    ($relation:tt nothing) => {
        super::Depends::Nothing
    };
    (eq collated) => {
        DeterministicCollation
    };
    (ne collated) => {
        DeterministicCollation
    };
    ($relation:tt collated) => {
        CCollation
    };
    ($relation:tt utc) => {
        Utc
    };
}

pub(super) const TABLE: &[Builtin] = table! {
    "bool", compare, nothing: 60 eq, 84 ne, 56 lt, 1691 le, 57 gt, 1692 ge;
    "int2", compare, nothing: 63 eq, 145 ne, 64 lt, 148 le, 146 gt, 151 ge;
    "int4", compare, nothing: 65 eq, 144 ne, 66 lt, 149 le, 147 gt, 150 ge;
    "int8", compare, nothing: 467 eq, 468 ne, 469 lt, 471 le, 470 gt, 472 ge;
    "int24", compare, nothing: 158 eq, 164 ne, 160 lt, 166 le, 162 gt, 168 ge;
    "int42", compare, nothing: 159 eq, 165 ne, 161 lt, 167 le, 163 gt, 169 ge;
    "int28", compare, nothing: 1850 eq, 1851 ne, 1852 lt, 1854 le, 1853 gt, 1855 ge;
    "int82", compare, nothing: 1856 eq, 1857 ne, 1858 lt, 1860 le, 1859 gt, 1861 ge;
    "int48", compare, nothing: 852 eq, 853 ne, 854 lt, 856 le, 855 gt, 857 ge;
    "int84", compare, nothing: 474 eq, 475 ne, 476 lt, 478 le, 477 gt, 479 ge;
    "oid", compare, nothing: 184 eq, 185 ne, 716 lt, 717 le, 1638 gt, 1639 ge;
    "float4", compare, nothing: 287 eq, 288 ne, 289 lt, 290 le, 291 gt, 292 ge;
    "float8", compare, nothing: 293 eq, 294 ne, 295 lt, 296 le, 297 gt, 298 ge;
    "float48", compare, nothing: 299 eq, 300 ne, 301 lt, 302 le, 303 gt, 304 ge;
    "float84", compare, nothing: 305 eq, 306 ne, 307 lt, 308 le, 309 gt, 310 ge;
    "numeric_", compare, nothing: 1718 eq, 1719 ne, 1722 lt, 1723 le, 1720 gt, 1721 ge;
    "text", compare, collated: 67 eq, 157 ne;
    "text_", compare, collated: 740 lt, 741 le, 742 gt, 743 ge;
    "bpchar", blank_padded, collated: 1048 eq, 1053 ne, 1049 lt, 1050 le, 1051 gt, 1052 ge;
    "bytea", compare, nothing: 1948 eq, 1953 ne, 1949 lt, 1950 le, 1951 gt, 1952 ge;
    "uuid_", compare, nothing: 2956 eq, 2959 ne, 2954 lt, 2955 le, 2958 gt, 2957 ge;
    "enum_", compare, nothing: 3508 eq, 3509 ne;
    "date_", compare, nothing: 1086 eq, 1091 ne, 1087 lt, 1088 le, 1089 gt, 1090 ge;
    "time_", compare, nothing: 1145 eq, 1106 ne, 1102 lt, 1103 le, 1104 gt, 1105 ge;
    "timestamp_", compare, nothing: 2052 eq, 2053 ne, 2054 lt, 2055 le, 2057 gt, 2056 ge;
    "timestamptz_", compare, nothing: 1152 eq, 1153 ne, 1154 lt, 1155 le, 1157 gt, 1156 ge;
    "interval_", compare, nothing: 1162 eq, 1163 ne, 1164 lt, 1165 le, 1167 gt, 1166 ge;
    "date_timestamp_", compare, nothing: 2340 eq, 2343 ne, 2338 lt, 2339 le, 2341 gt, 2342 ge;
    "date_timestamptz_", compare, utc: 2353 eq, 2356 ne, 2351 lt, 2352 le, 2354 gt, 2355 ge;
    "timestamp_date_", compare, nothing: 2366 eq, 2369 ne, 2364 lt, 2365 le, 2367 gt, 2368 ge;
    "timestamptz_date_", compare, utc: 2379 eq, 2382 ne, 2377 lt, 2378 le, 2380 gt, 2381 ge;
    "timestamp_timestamptz_", compare, utc: 2522 eq, 2525 ne, 2520 lt, 2521 le, 2523 gt, 2524 ge;
    "timestamptz_timestamp_", compare, utc: 2529 eq, 2532 ne, 2527 lt, 2528 le, 2530 gt, 2531 ge;
};
