//! Arithmetic of integers and floats.

use super::{Builtin, error, unexpected};
use crate::authz::policy::{Failure, Value};

/// The integers of a width in bytes.
fn fits(width: u32, value: Option<i64>) -> Result<Value, Failure> {
    let half = 1i128 << (width * 8 - 1);
    match value {
        Some(value) if (-half..half).contains(&i128::from(value)) => Ok(Value::Int(value)),
        _ => error("integer out of range"),
    }
}

fn divisor(value: i64) -> Result<i64, Failure> {
    if value == 0 { error("division by zero") } else { Ok(value) }
}

fn unary(args: &[Value], width: u32, operate: fn(i64) -> Option<i64>) -> Result<Value, Failure> {
    match args {
        [Value::Int(a)] => fits(width, operate(*a)),
        _ => unexpected(),
    }
}

fn binary(args: &[Value], width: u32, operate: fn(i64, i64) -> Option<i64>) -> Result<Value, Failure> {
    match args {
        [Value::Int(a), Value::Int(b)] => fits(width, operate(*a, *b)),
        _ => unexpected(),
    }
}

fn divide(args: &[Value], width: u32) -> Result<Value, Failure> {
    match args {
        [Value::Int(a), Value::Int(b)] => fits(width, a.checked_div(divisor(*b)?)),
        _ => unexpected(),
    }
}

fn modulo(args: &[Value]) -> Result<Value, Failure> {
    match args {
        // i64::MIN % -1 is 0, which no machine finds.
        [Value::Int(a), Value::Int(b)] => Ok(Value::Int(a.checked_rem(divisor(*b)?).unwrap_or(0))),
        _ => unexpected(),
    }
}

fn float(args: &[Value], operate: fn(f64) -> f64) -> Result<Value, Failure> {
    match args {
        [Value::Float(a)] => Ok(Value::Float(operate(f64::from_bits(*a)).to_bits())),
        _ => unexpected(),
    }
}

/// `underflows`: whether a zero may be none.
fn floats(args: &[Value], operate: fn(f64, f64) -> f64, underflows: fn(f64, f64) -> bool) -> Result<Value, Failure> {
    let [Value::Float(a), Value::Float(b)] = args else { return unexpected() };
    let (a, b) = (f64::from_bits(*a), f64::from_bits(*b));
    let result = operate(a, b);
    if result.is_infinite() && !a.is_infinite() && !b.is_infinite() {
        return error("value out of range: overflow");
    }
    if result == 0.0 && underflows(a, b) {
        return error("value out of range: underflow");
    }
    Ok(Value::Float(result.to_bits()))
}

fn float_divide(args: &[Value]) -> Result<Value, Failure> {
    let [Value::Float(a), Value::Float(b)] = args else { return unexpected() };
    let (a, b) = (f64::from_bits(*a), f64::from_bits(*b));
    if b == 0.0 && !a.is_nan() {
        return error("division by zero");
    }
    floats(args, |a, b| a / b, |a, b| a != 0.0 && !b.is_infinite())
}

/// `name: width, oid operation, ..;`
macro_rules! table {
    ($($name:literal: $width:literal, $($oid:literal $operation:tt),*;)*) => {
        &[$($(Builtin::new($oid, concat!($name, stringify!($operation)), operation!($width, $operation))),*),*]
    };
}

macro_rules! operation {
    ($width:literal, pl) => {
        |args| binary(args, $width, i64::checked_add)
    };
    ($width:literal, mi) => {
        |args| binary(args, $width, i64::checked_sub)
    };
    ($width:literal, mul) => {
        |args| binary(args, $width, i64::checked_mul)
    };
    ($width:literal, div) => {
        |args| divide(args, $width)
    };
    ($width:literal, mod) => {
        modulo
    };
    ($width:literal, um) => {
        |args| unary(args, $width, i64::checked_neg)
    };
    ($width:literal, up) => {
        |args| unary(args, $width, Some)
    };
    ($width:literal, abs) => {
        |args| unary(args, $width, i64::checked_abs)
    };
    ($width:literal, float_pl) => {
        |args| floats(args, |a, b| a + b, |_, _| false)
    };
    ($width:literal, float_mi) => {
        |args| floats(args, |a, b| a - b, |_, _| false)
    };
    ($width:literal, float_mul) => {
        |args| floats(args, |a, b| a * b, |a, b| a != 0.0 && b != 0.0)
    };
    ($width:literal, float_div) => {
        float_divide
    };
    ($width:literal, float_um) => {
        |args| float(args, |a| -a)
    };
    ($width:literal, float_abs) => {
        |args| float(args, f64::abs)
    };
    ($width:literal, float_floor) => {
        |args| float(args, f64::floor)
    };
    ($width:literal, float_ceil) => {
        |args| float(args, f64::ceil)
    };
    ($width:literal, float_round) => {
        |args| float(args, f64::round_ties_even)
    };
    ($width:literal, float_trunc) => {
        |args| float(args, f64::trunc)
    };
}

pub(super) const TABLE: &[Builtin] = table! {
    "int2": 2, 176 pl, 180 mi, 152 mul, 153 div, 155 mod, 213 um, 1911 up, 1253 abs;
    "int4": 4, 177 pl, 181 mi, 141 mul, 154 div, 156 mod, 212 um, 1912 up, 1251 abs;
    "int8": 8, 463 pl, 464 mi, 465 mul, 466 div, 945 mod, 462 um, 1910 up, 1230 abs;
    "int24": 4, 178 pl, 182 mi, 170 mul, 172 div;
    "int42": 4, 179 pl, 183 mi, 171 mul, 173 div;
    "int28": 8, 841 pl, 942 mi, 943 mul, 948 div;
    "int82": 8, 837 pl, 838 mi, 839 mul, 840 div;
    "int48": 8, 1278 pl, 1279 mi, 1280 mul, 1281 div;
    "int84": 8, 1274 pl, 1275 mi, 1276 mul, 1277 div;
    "int2_": 2, 940 mod, 1398 abs;
    "int4_": 4, 941 mod, 1397 abs;
    "int8_": 8, 947 mod, 1396 abs;
    "float8_": 8, 218 float_pl, 219 float_mi, 216 float_mul, 217 float_div, 220 float_um, 221 float_abs,
        1395 float_abs, 2309 float_floor, 2308 float_ceil, 2320 float_ceil, 1342 float_round, 1343 float_trunc;
};
