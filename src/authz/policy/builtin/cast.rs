//! Conversions that are functions of their own.

use super::numeric::to_integer;
use super::{Builtin, error, unexpected};
use crate::authz::policy::decode::{self, numeric_text};
use crate::authz::policy::encode::is_half_way;
use crate::authz::policy::json::Json;
use crate::authz::policy::{Failure, Value};

fn in_range(value: i64, width: u32) -> Result<Value, Failure> {
    let half = 1i128 << (width * 8 - 1);
    match (-half..half).contains(&i128::from(value)) {
        true => Ok(Value::Int(value)),
        false => error("integer out of range"),
    }
}

fn integer(args: &[Value], width: u32) -> Result<Value, Failure> {
    match args {
        [Value::Int(value)] => in_range(*value, width),
        // To the nearest, halves to the even one.
        [Value::Float(bits)] => {
            let value = f64::from_bits(*bits).round_ties_even();
            // 2^63 is the first that does not fit, and is exact.
            match (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&value) {
                true => in_range(value as i64, width),
                false => error("integer out of range"),
            }
        }
        [Value::Numeric(number)] => match to_integer(number) {
            Some(value) => in_range(value, width),
            None => error("integer out of range"),
        },
        _ => unexpected(),
    }
}

fn float8(args: &[Value]) -> Result<Value, Failure> {
    let value = match args {
        [Value::Int(value)] => *value as f64,
        [Value::Float(bits)] => f64::from_bits(*bits),
        [Value::Numeric(number)] => decode::float8(&numeric_text(number))?,
        _ => return unexpected(),
    };
    Ok(Value::Float(value.to_bits()))
}

fn float4(args: &[Value]) -> Result<Value, Failure> {
    let value = match args {
        [Value::Int(value)] => f64::from(*value as f32),
        [Value::Float(bits)] => {
            let wide = f64::from_bits(*bits);
            let narrow = wide as f32;
            if (narrow.is_infinite() && !wide.is_infinite()) || (narrow == 0.0 && wide != 0.0) {
                return error("value out of range");
            }
            f64::from(narrow)
        }
        [Value::Numeric(number)] => decode::float4(&numeric_text(number))?,
        _ => return unexpected(),
    };
    Ok(Value::Float(value.to_bits()))
}

/// `digits`: how many of a float are taken, `DBL_DIG` or `FLT_DIG`.
fn numeric(args: &[Value], digits: usize) -> Result<Value, Failure> {
    let number = match args {
        [Value::Int(value)] => bigdecimal::BigDecimal::from(*value),
        [Value::Float(bits)] => {
            let value = f64::from_bits(*bits);
            if !value.is_finite() {
                return Err(Failure::undecided("a numeric that is no number"));
            }
            let text = format!("{value:.*e}", digits - 1);
            if is_half_way(value, &text) {
                return Err(Failure::undecided("the digits of a float"));
            }
            // `%g` writes no zeros behind the last digit.
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
            decode::numeric(&format!("{mantissa}e{exponent}"))?
        }
        _ => return unexpected(),
    };
    super::numeric::value(number)
}

/// From `jsonb`. A JSON null is an error before 18 and NULL since.
fn number_of(args: &[Value]) -> Result<&bigdecimal::BigDecimal, Failure> {
    match args {
        [Value::Jsonb(json)] => match &**json {
            Json::Number(number) => Ok(number),
            Json::Null => Err(Failure::undecided("a cast of JSON's null")),
            _ => error("cannot cast jsonb to a number"),
        },
        _ => unexpected(),
    }
}

fn jsonb_integer(args: &[Value], width: u32) -> Result<Value, Failure> {
    match to_integer(number_of(args)?) {
        Some(value) => in_range(value, width),
        None => error("integer out of range"),
    }
}

fn jsonb_bool(args: &[Value]) -> Result<Value, Failure> {
    match args {
        [Value::Jsonb(json)] => match &**json {
            Json::Bool(value) => Ok(Value::Bool(*value)),
            Json::Null => Err(Failure::undecided("a cast of JSON's null")),
            _ => error("cannot cast jsonb to type boolean"),
        },
        _ => unexpected(),
    }
}

fn jsonb_numeric(args: &[Value]) -> Result<Value, Failure> {
    super::numeric::value(number_of(args)?.clone())
}

fn jsonb_float8(args: &[Value]) -> Result<Value, Failure> {
    Ok(Value::Float(decode::float8(&numeric_text(number_of(args)?))?.to_bits()))
}

fn jsonb_float4(args: &[Value]) -> Result<Value, Failure> {
    Ok(Value::Float(decode::float4(&numeric_text(number_of(args)?))?.to_bits()))
}

fn bool_of_integer(args: &[Value]) -> Result<Value, Failure> {
    match args {
        [Value::Int(value)] => Ok(Value::Bool(*value != 0)),
        _ => unexpected(),
    }
}

fn integer_of_bool(args: &[Value]) -> Result<Value, Failure> {
    match args {
        [Value::Bool(value)] => Ok(Value::Int(i64::from(*value))),
        _ => unexpected(),
    }
}

fn text_of_bool(args: &[Value]) -> Result<Value, Failure> {
    match args {
        [Value::Bool(value)] => Ok(Value::text(if *value { "true" } else { "false" })),
        _ => unexpected(),
    }
}

fn oid(args: &[Value]) -> Result<Value, Failure> {
    match args {
        [Value::Int(value)] if (0..=i64::from(u32::MAX)).contains(value) => Ok(Value::Int(*value)),
        [Value::Int(_)] => error("OID out of range"),
        _ => unexpected(),
    }
}

pub(super) const TABLE: &[Builtin] = &[
    Builtin::new(314, "int2", |args| integer(args, 2)),
    Builtin::new(714, "int2", |args| integer(args, 2)),
    Builtin::new(237, "int2", |args| integer(args, 2)),
    Builtin::new(238, "int2", |args| integer(args, 2)),
    Builtin::new(1783, "int2", |args| integer(args, 2)),
    Builtin::total(313, "int4", |args| integer(args, 4)),
    Builtin::new(480, "int4", |args| integer(args, 4)),
    Builtin::new(317, "int4", |args| integer(args, 4)),
    Builtin::new(319, "int4", |args| integer(args, 4)),
    Builtin::new(1744, "int4", |args| integer(args, 4)),
    Builtin::total(754, "int8", |args| integer(args, 8)),
    Builtin::total(481, "int8", |args| integer(args, 8)),
    Builtin::total(1288, "int8", |args| integer(args, 8)),
    Builtin::new(483, "int8", |args| integer(args, 8)),
    Builtin::new(653, "int8", |args| integer(args, 8)),
    Builtin::new(1779, "int8", |args| integer(args, 8)),
    Builtin::total(235, "float8", float8),
    Builtin::total(316, "float8", float8),
    Builtin::total(482, "float8", float8),
    Builtin::total(311, "float8", float8),
    Builtin::new(1746, "float8", float8),
    Builtin::total(236, "float4", float4),
    Builtin::total(318, "float4", float4),
    Builtin::total(652, "float4", float4),
    Builtin::new(312, "float4", float4),
    Builtin::new(1745, "float4", float4),
    Builtin::total(1782, "numeric", |args| numeric(args, 15)),
    Builtin::total(1740, "numeric", |args| numeric(args, 15)),
    Builtin::total(1781, "numeric", |args| numeric(args, 15)),
    Builtin::new(1743, "numeric", |args| numeric(args, 15)),
    Builtin::new(1742, "numeric", |args| numeric(args, 6)),
    Builtin::total(2557, "bool", bool_of_integer),
    Builtin::total(2558, "int4", integer_of_bool),
    Builtin::total(2971, "text", text_of_bool),
    Builtin::new(1287, "oid", oid),
    Builtin::new(3556, "bool", jsonb_bool),
    Builtin::new(3449, "numeric", jsonb_numeric),
    Builtin::new(3450, "int2", |args| jsonb_integer(args, 2)),
    Builtin::new(3451, "int4", |args| jsonb_integer(args, 4)),
    Builtin::new(3452, "int8", |args| jsonb_integer(args, 8)),
    Builtin::new(3453, "float4", jsonb_float4),
    Builtin::new(2580, "float8", jsonb_float8),
];
