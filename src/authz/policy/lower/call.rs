//! Operators and functions.

use super::super::builtin::{Builtin, Depends};
use super::super::tree::{Node, Tree};
use super::super::{DatumType, Expr, NotCompiled, Value, builtin};
use super::scope::Env;
use super::types::{BOOL, NAME};
use super::{Lowering, known, slots, sub_query, unknown};
use crate::catalog::Oid;

const DEFAULT_COLLATION: Oid = 100;
const C_COLLATIONS: [Oid; 2] = [950, 951];

const OPERATOR: [&str; 8] =
    ["opno", "opfuncid", "opresulttype", "opretset", "opcollid", "inputcollid", "args", "location"];
const FUNCTION: [&str; 9] = [
    "funcid",
    "funcresulttype",
    "funcretset",
    "funcvariadic",
    "funcformat",
    "funccollid",
    "inputcollid",
    "args",
    "location",
];

const TEXTCAT: Oid = 1258;
const TEXT_WITH_ANYTHING: [Oid; 2] = [2779, 2780];

const ARRAY_POSITION: Oid = 3277;

/// The function that compares labels' places as an operator of enums compares labels: `int4lt` for `enum_lt`.
fn enum_order(opno: Oid) -> Option<Oid> {
    match opno {
        3518 => Some(66),
        3519 => Some(147),
        3520 => Some(149),
        3521 => Some(150),
        _ => None,
    }
}

/// `=` and `<>` of `name`s, which are compared as text in collation C.
fn of_text(opno: Oid) -> Oid {
    match opno {
        93 | 254 | 260 => 98,
        643 | 259 | 265 => 531,
        _ => opno,
    }
}

impl Lowering<'_> {
    pub(super) fn operator(&mut self, node: &Node, env: &Env) -> Result<Expr, NotCompiled> {
        if TEXT_WITH_ANYTHING.contains(&node.oid("opno")?) {
            return self.text_with_anything(node, env);
        }
        if let Some(order) = enum_order(node.oid("opno")?) {
            return self.order_of_labels(node, order, env);
        }
        let function = self.operator_of(node, &OPERATOR)?;
        let eager = self.eager.clone();
        let args = self.list(node.list("args")?, &env.operand())?;
        self.collation_fits(function, node)?;
        if self.is_null_for_sure(function, &args) {
            self.eager = eager;
            return Ok(Expr::Const(Value::Null));
        }
        let args: Box<[Expr]> = match <[Expr; 2]>::try_from(args) {
            Ok(two) if node.oid("opresulttype")? == BOOL => self.estimate(Box::new(two), env),
            Ok(two) => Box::new(two),
            Err(args) => args.into(),
        };
        Ok(Expr::Call { function, args })
    }

    /// `<` and the like of an enum are those of the labels' places in its declaration.
    fn order_of_labels(&mut self, node: &Node, order: Oid, env: &Env) -> Result<Expr, NotCompiled> {
        known(node, &OPERATOR)?;
        let [left, right] = node.list("args")? else { return Err(unknown("OPEXPR", "args")) };
        let mut labels = None;
        for arg in [left, right] {
            let of = self.type_of(arg)?;
            let DatumType::Enum(known) = self.datum_type(of)? else { return Err(NotCompiled::Type(of)) };
            if labels.replace(known.clone()).is_some_and(|other| other != known) {
                return Err(NotCompiled::Type(of));
            }
        }
        let labels: Vec<Value> =
            labels.iter().flat_map(|labels| labels.iter()).map(|label| Value::text(label)).collect();
        let labels = Expr::Const(Value::Array(labels.into()));
        let args: Box<[Expr; 2]> = Box::new([self.expr(left, &env.operand())?, self.expr(right, &env.operand())?]);
        let place_in = builtin::function(ARRAY_POSITION).ok_or(NotCompiled::Function(ARRAY_POSITION))?;
        let order = builtin::function(order).ok_or(NotCompiled::Function(order))?;
        let place = |arg: Expr| Expr::Call { function: place_in, args: [labels.clone(), arg].into() };
        let args: Vec<Expr> = self.estimate(args, env).into_iter().map(place).collect();
        Ok(Expr::Call { function: order, args: args.into() })
    }

    /// `text || x` and `x || text` are `text || x::text`, which Postgres puts in their place.
    fn text_with_anything(&mut self, node: &Node, env: &Env) -> Result<Expr, NotCompiled> {
        use DatumType::{Date, Float4, Float8, Int2, Int4, Int8, Numeric, Text, Timestamp, Timestamptz, Uuid};
        known(node, &OPERATOR)?;
        let concatenation = builtin::function(TEXTCAT).ok_or(NotCompiled::Function(TEXTCAT))?;
        let mut args = Vec::new();
        for arg in node.list("args")? {
            let from = self.type_of(arg)?;
            let from = (!self.is_domain(from)).then(|| self.datum_type(from)).transpose()?;
            let expr = self.expr(arg, &env.operand())?;
            args.push(match from {
                Some(Text) => expr,
                // Through the text of the type. Other types have casts of their own.
                Some(
                    from @ (Int2 | Int4 | Int8 | Numeric | Float4 | Float8 | Uuid | Date | Timestamp | Timestamptz),
                ) => {
                    self.needs_for_text(&from)?;
                    Expr::Cast { from, to: Text, arg: Box::new(expr) }
                }
                _ => return Err(NotCompiled::Operator(node.oid("opno")?)),
            });
        }
        Ok(Expr::Call { function: concatenation, args: args.into() })
    }

    /// The function of a node's operator.
    pub(super) fn operator_of(&self, node: &Node, fields: &[&str]) -> Result<&'static Builtin, NotCompiled> {
        known(node, fields)?;
        if node.flag("opretset")? {
            return Err(unknown(node.name, "opretset"));
        }
        let opno = node.oid("opno")?;
        builtin::operator(of_text(opno)).ok_or(NotCompiled::Operator(opno))
    }

    pub(super) fn two_operands(
        &mut self,
        node: &Node,
        env: &Env,
    ) -> Result<(&'static Builtin, Box<[Expr; 2]>), NotCompiled> {
        let function = self.operator_of(node, &OPERATOR)?;
        let args = self.list(node.list("args")?, &env.operand())?;
        self.collation_fits(function, node)?;
        let args = args.try_into().map_err(|_| unknown(node.name, "args"))?;
        Ok((function, Box::new(args)))
    }

    pub(super) fn any_of_array(&mut self, node: &Node, env: &Env) -> Result<Expr, NotCompiled> {
        let fields = ["opno", "opfuncid", "hashfuncid", "negfuncid", "useOr", "inputcollid", "args", "location"];
        let function = self.operator_of(node, &fields)?;
        let [left, right] = node.list("args")? else { return Err(unknown(node.name, "args")) };
        let all = !node.flag("useOr")?;
        if let Some(query) = sub_query::array_query(right)
            && let Some(array) = self.one_array(query, env)?
        {
            let left = self.expr(left, &env.operand())?;
            self.collation_fits(function, node)?;
            return Ok(Expr::AnyArray { function, all, args: self.estimate_both([left, array], env) });
        }
        if let Some(query) = sub_query::array_query(right).filter(|_| env.filter && !all) {
            let known = self.expr(left, &env.operand())?;
            self.estimate_both([known, Expr::Const(Value::Null)], env);
            return self.any_of_array_query(node, function, left, query, env);
        }
        let left = self.expr(left, &env.operand())?;
        let right = match sub_query::array_query(right) {
            Some(query) => self.array_query(query, super::scope::Rows::Set, &env.operand())?,
            None => self.expr(right, &env.operand())?,
        };
        self.collation_fits(function, node)?;
        Ok(Expr::AnyArray { function, all, args: self.estimate_both([left, right], env) })
    }

    /// Of a comparison with an array the planner works out all that it can of both sides, whatever they are.
    fn estimate_both(&mut self, args: [Expr; 2], env: &Env) -> Box<[Expr; 2]> {
        let mut args = Box::new(args);
        if env.estimated {
            args.iter_mut().for_each(|arg| self.eager_parts(arg));
        }
        args
    }

    /// Where the planner estimates a comparison with a column, it works out the other side.
    pub(super) fn estimate(&mut self, mut args: Box<[Expr; 2]>, env: &Env) -> Box<[Expr; 2]> {
        if env.estimated {
            let [left, right] = &mut *args;
            let of_policy = env.scope.is_some_and(|scope| scope.outer.is_none()) && env.depth == 0;
            if slots::reads_one_relation(left, of_policy) && slots::is_plain_personal(right) {
                *right = self.eager_slot(right.clone());
            } else if slots::reads_one_relation(right, of_policy) && slots::is_plain_personal(left) {
                *left = self.eager_slot(left.clone());
            }
        }
        args
    }

    /// Whether text compares here as the function compares it.
    pub(super) fn collation_fits(&self, function: &Builtin, node: &Node) -> Result<(), NotCompiled> {
        let collation = node.oid("inputcollid")?;
        let known = self.collations.get(&collation);
        let fits = match function.depends {
            Depends::Nothing => true,
            // Of types without collation, or of text whose collations are in conflict: that is an error.
            Depends::DeterministicCollation | Depends::CCollation if collation == 0 => {
                node.list("args")?.iter().all(|arg| self.has_no_collation(arg))
            }
            Depends::DeterministicCollation => {
                collation == DEFAULT_COLLATION
                    || C_COLLATIONS.contains(&collation)
                    || known.is_some_and(|collation| collation.deterministic)
            }
            Depends::CCollation => C_COLLATIONS.contains(&collation) || known.is_some_and(|collation| collation.is_c),
            Depends::Utc => return self.needs_utc(),
        };
        if fits { Ok(()) } else { Err(NotCompiled::Collation) }
    }

    fn has_no_collation(&self, arg: &Tree) -> bool {
        fn is_text(datum_type: &DatumType) -> bool {
            match datum_type {
                DatumType::Text | DatumType::Bpchar => true,
                DatumType::Array(element) => is_text(element),
                _ => false,
            }
        }
        let datum_type = self.type_of(arg).and_then(|oid| self.datum_type(oid));
        datum_type.is_ok_and(|datum_type| !is_text(&datum_type))
    }

    pub(super) fn function_call(&mut self, node: &Node, env: &Env) -> Result<Expr, NotCompiled> {
        known(node, &FUNCTION)?;
        if node.flag("funcretset")? {
            return self.set_in_select_list(node, env);
        }
        let oid = node.oid("funcid")?;
        let args = node.list("args")?;
        match (oid, args) {
            (1299 | 2647, []) => return Ok(Expr::Now),
            (745, []) => return Ok(Expr::CurrentUser(env.runs_as.name.as_str().into())),
            // Of a role by its name, which is text here like every name.
            (2709, _) => return self.has_role(args, env),
            (2077 | 3294, _) => return self.setting(args, env),
            // `name` to text: what there is of names here is text.
            (406, [arg]) if self.type_of(arg)? == NAME => return self.expr(arg, &env.operand()),
            _ => {}
        }
        if let Some(function) = self.catalog.functions.get(&oid) {
            return self.apply(function, args, env);
        }
        let function = builtin::function(oid).ok_or(NotCompiled::Function(oid))?;
        let eager = self.eager.clone();
        let args = self.list(args, &env.operand())?;
        self.collation_fits(function, node)?;
        if self.is_null_for_sure(function, &args) {
            self.eager = eager;
            return Ok(Expr::Const(Value::Null));
        }
        Ok(Expr::Call { function, args: args.into() })
    }

    /// `current_setting(name, missing_ok)`, of what a person's session has.
    fn setting(&mut self, args: &[Tree], env: &Env) -> Result<Expr, NotCompiled> {
        let mut args = self.list(args, &env.operand())?;
        args.iter_mut().for_each(fold);
        let other = || NotCompiled::Setting("a setting that is not named".to_owned());
        let (name, missing_ok) = match &args[..] {
            [Expr::Const(Value::Text(name))] => (name, false),
            [Expr::Const(Value::Text(name)), Expr::Const(Value::Bool(missing_ok))] => (name, *missing_ok),
            _ => return Err(other()),
        };
        if !name.starts_with("request.") && !["role", "realtime.topic"].contains(&&**name) {
            return Err(NotCompiled::Setting(format!("setting {name}")));
        }
        Ok(Expr::Setting { name: Box::new(Expr::Const(Value::Text(name.clone()))), missing_ok })
    }
}

/// Works out a call of which all arguments are constants, as the planner does.
fn fold(expr: &mut Expr) {
    let Expr::Call { function, args } = expr else { return };
    args.iter_mut().for_each(fold);
    let value = |arg: &Expr| match arg {
        Expr::Const(value) if !value.is_null() => Some(value.clone()),
        _ => None,
    };
    let Some(values) = args.iter().map(value).collect::<Option<Vec<_>>>() else { return };
    if let (Depends::Nothing, Ok(value)) = (function.depends, (function.eval)(&values)) {
        *expr = Expr::Const(value);
    }
}
