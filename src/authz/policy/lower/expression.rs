//! Expressions, node by node.

use super::super::expr::Truth;
use super::super::tree::{Node, Tree};
use super::super::{DatumType, Expr, NotCompiled, Value, builtin, walk};
use super::fold::constant;
use super::scope::{BOUND_SIZE_MAX, Bound, Entry, Env, Scope};
use super::{Lowering, known, unknown};
use crate::catalog::{ColumnIndex, Oid, Relation};

impl Lowering<'_> {
    pub(super) fn expr(&mut self, tree: &Tree, env: &Env) -> Result<Expr, NotCompiled> {
        let node = tree.as_node().ok_or_else(|| NotCompiled::Node("a list".to_owned()))?;
        self.deeper(|lowering| lowering.node(node, env))
    }

    fn field(&mut self, node: &Node, field: &'static str, env: &Env) -> Result<Expr, NotCompiled> {
        let tree = node.field(field).ok_or_else(|| unknown(node.name, field))?;
        self.expr(tree, env)
    }

    pub(super) fn node(&mut self, node: &Node, env: &Env) -> Result<Expr, NotCompiled> {
        match node.name {
            "VAR" => self.var(node, env),
            "CONST" => self.constant(node),
            "PARAM" => param(node, env),
            "OPEXPR" => self.operator(node, env),
            "DISTINCTEXPR" => {
                let (equal, args) = self.two_operands(node, env)?;
                Ok(Expr::Distinct { equal, args: self.estimate(args, env) })
            }
            "NULLIFEXPR" => self.two_operands(node, env).map(|(equal, args)| Expr::NullIf { equal, args }),
            "SCALARARRAYOPEXPR" => self.any_of_array(node, env),
            "FUNCEXPR" => self.function_call(node, env),
            "BOOLEXPR" => self.boolean(node, env),
            "NULLTEST" => self.null_test(node, env),
            "BOOLEANTEST" => self.boolean_test(node, env),
            "CASEEXPR" => self.case(node, env),
            "CASETESTEXPR" => match env.case_value {
                Some(value) => Ok(value.at(env.depth)),
                None => Err(NotCompiled::Node("CASETESTEXPR".to_owned())),
            },
            "COALESCEEXPR" => {
                known(node, &["coalescetype", "coalescecollid", "args", "location"])?;
                self.coalesce(node.list("args")?, &env.operand())
            }
            "ARRAYEXPR" => self.array(node, env),
            "RELABELTYPE" => self.relabel(node, env),
            "COERCEVIAIO" => self.cast(node, env),
            "ARRAYCOERCEEXPR" => self.array_cast(node, env),
            "COLLATEEXPR" => {
                known(node, &["arg", "collOid", "location"])?;
                self.field(node, "arg", &env.operand())
            }
            "SQLVALUEFUNCTION" => self.sql_value(node, env),
            "SUBLINK" => self.sub_query(node, env),
            "AGGREF" => self.aggregate(node, env),
            "COERCETODOMAIN" => Err(NotCompiled::Node("a cast to a domain".to_owned())),
            name => Err(NotCompiled::Node(name.to_owned())),
        }
    }

    fn var(&mut self, node: &Node, env: &Env) -> Result<Expr, NotCompiled> {
        let fields = ["varno", "varattno", "vartype", "vartypmod", "varcollid", "varlevelsup"];
        known(node, &[&fields[..], &["varnosyn", "varattnosyn", "location"]].concat())?;
        let lost = || NotCompiled::Tree("a variable of no table".to_owned());
        let scope = env.scope_at(node.int("varlevelsup")?).ok_or_else(lost)?;
        let number = usize::try_from(node.int("varno")?).ok().and_then(|number| number.checked_sub(1));
        let entry = number.and_then(|number| scope.entries.get(number)).ok_or_else(lost)?;
        let attnum = node.int("varattno")?;
        if attnum < 1 {
            let what = if attnum == 0 { "a row as a whole" } else { "a system column" };
            return Err(NotCompiled::Node(what.to_owned()));
        }
        let place = usize::try_from(attnum - 1).map_err(|_| lost())?;
        let vartype = node.oid("vartype")?;
        match entry {
            Entry::Row(relation) => self.column(relation, attnum, node).map(Expr::Column),
            Entry::Table { source, relation } => {
                let column = self.column(relation, attnum, node)?;
                if relation.column(column).generated.is_some() {
                    let why = format!("its column {:?} is generated", relation.column(column).name);
                    return Err(super::source::table(relation, why));
                }
                inner(scope, *source, column.0, env).ok_or_else(lost)
            }
            Entry::Rows { source, types } => {
                let known = types.get(place).ok_or_else(lost)?;
                if !self.same_values(*known, vartype) {
                    return Err(super::in_query("a column whose type changes on the way"));
                }
                inner(scope, *source, place as u16, env).ok_or_else(lost)
            }
            Entry::Join(columns) => {
                self.expr(columns.get(place).ok_or_else(lost)?, &Env { scope: Some(scope), ..env.operand() })
            }
            Entry::Value(call) if place == 0 => {
                self.deeper(|lowering| lowering.node(call, &Env { scope: Some(scope), ..env.operand() }))
            }
            Entry::Value(_) | Entry::Absent => Err(lost()),
        }
    }

    fn column(&mut self, relation: &Relation, attnum: i64, node: &Node) -> Result<ColumnIndex, NotCompiled> {
        let place = relation.columns.iter().position(|column| i64::from(column.attnum) == attnum);
        let vartype = node.oid("vartype")?;
        let index = place.and_then(|place| u16::try_from(place).ok()).map(ColumnIndex);
        let index = index.filter(|index| relation.column(*index).type_oid == vartype);
        let index = index.ok_or_else(|| NotCompiled::Tree("a column that the table has not".to_owned()))?;
        if DatumType::of_column(self.catalog, vartype).is_none() {
            return Err(NotCompiled::Type(vartype));
        }
        if let Some(collation) = relation.column(index).collation {
            self.collations.insert(node.oid("varcollid")?, collation);
        }
        Ok(index)
    }

    fn boolean(&mut self, node: &Node, env: &Env) -> Result<Expr, NotCompiled> {
        known(node, &["boolop", "args", "location"])?;
        let args = node.list("args")?;
        let operator = node.text("boolop")?;
        match (&*operator, args) {
            ("and", _) => self.junction(args, false, env),
            ("or", _) => self.junction(args, true, env),
            ("not", [arg]) => Ok(Expr::Not(Box::new(self.expr(arg, &Env { filter: false, ..*env })?))),
            _ => Err(unknown("BOOLEXPR", "boolop")),
        }
    }

    /// AND (`decides` false) and OR (true).
    fn junction(&mut self, args: &[Tree], decides: bool, env: &Env) -> Result<Expr, NotCompiled> {
        let eager = self.eager.clone();
        let args = self.list(args, env)?;
        if self.folded(&args, decides, env.filter && env.quals).is_some() {
            self.eager = eager;
            return Ok(Expr::Const(Value::Bool(decides)));
        }
        Ok(if decides { Expr::Or(args.into()) } else { Expr::And(args.into()) })
    }

    fn null_test(&mut self, node: &Node, env: &Env) -> Result<Expr, NotCompiled> {
        known(node, &["arg", "nulltesttype", "argisrow", "location"])?;
        if node.flag("argisrow")? {
            return Err(NotCompiled::Node("a row as a whole".to_owned()));
        }
        let is_null = Expr::IsNull(Box::new(self.field(node, "arg", &env.operand())?));
        match node.int("nulltesttype")? {
            0 => Ok(is_null),
            1 => Ok(Expr::Not(Box::new(is_null))),
            _ => Err(unknown("NULLTEST", "nulltesttype")),
        }
    }

    fn boolean_test(&mut self, node: &Node, env: &Env) -> Result<Expr, NotCompiled> {
        known(node, &["arg", "booltesttype", "location"])?;
        let (test, not) = match node.int("booltesttype")? {
            0 => (Truth::True, false),
            1 => (Truth::True, true),
            2 => (Truth::False, false),
            3 => (Truth::False, true),
            4 => (Truth::Unknown, false),
            5 => (Truth::Unknown, true),
            _ => return Err(unknown("BOOLEANTEST", "booltesttype")),
        };
        // NULL and false are told apart by every test but this one.
        // How often something is unknown is not estimated.
        let estimated = env.estimated && test != Truth::Unknown;
        let inside = Env { filter: test == Truth::True, quals: false, estimated, ..*env };
        let arg = self.field(node, "arg", &inside)?;
        Ok(Expr::Is { test, not, arg: Box::new(arg) })
    }

    fn case(&mut self, node: &Node, env: &Env) -> Result<Expr, NotCompiled> {
        known(node, &["casetype", "casecollid", "arg", "args", "defresult", "location"])?;
        let value = match node.field("arg") {
            None | Some(Tree::Null) => None,
            Some(arg) => Some(Bound { expr: self.expr(arg, &env.operand())?, depth: env.depth }),
        };
        if value.as_ref().is_some_and(|value| walk::size(&value.expr) > BOUND_SIZE_MAX) {
            return Err(NotCompiled::Node("CASE of a large expression".to_owned()));
        }
        let condition =
            Env { filter: true, quals: false, estimated: false, case_value: value.as_ref().or(env.case_value), ..*env };
        let result = Env { estimated: false, ..*env };
        let mut branches = Vec::new();
        let mut always = None;
        for when in node.list("args")? {
            let when = when.as_node().ok_or_else(|| unknown("CASEEXPR", "args"))?;
            known(when, &["expr", "result", "location"])?;
            let eager = self.eager.clone();
            let (is, then) = (self.field(when, "expr", &condition)?, self.field(when, "result", &result)?);
            match constant(&is) {
                // The planner drops what is never reached.
                Some(Value::Bool(false) | Value::Null) => self.eager = eager,
                Some(Value::Bool(true)) => {
                    always = Some(then);
                    break;
                }
                _ => branches.push((is, then)),
            }
        }
        let otherwise = match (always, node.field("defresult")) {
            (Some(always), _) => always,
            (None, None | Some(Tree::Null)) => Expr::Const(Value::Null),
            (None, Some(otherwise)) => self.expr(otherwise, &result)?,
        };
        if branches.is_empty() {
            return Ok(otherwise);
        }
        Ok(Expr::Case { branches: branches.into(), otherwise: Box::new(otherwise) })
    }

    fn coalesce(&mut self, trees: &[Tree], env: &Env) -> Result<Expr, NotCompiled> {
        let mut args = Vec::new();
        for tree in trees {
            match self.expr(tree, env)? {
                Expr::Const(Value::Null) => {}
                arg => {
                    let decides = matches!(arg, Expr::Const(_));
                    args.push(arg);
                    if decides {
                        break;
                    }
                }
            }
        }
        Ok(match args.len() {
            0 => Expr::Const(Value::Null),
            1 => args.remove(0),
            _ => Expr::Coalesce(args.into()),
        })
    }

    fn array(&mut self, node: &Node, env: &Env) -> Result<Expr, NotCompiled> {
        let fields = ["array_typeid", "array_collid", "element_typeid", "elements", "location"];
        known(node, &[&fields[..], &["list_start", "list_end"]].concat())?;
        self.datum_type(node.oid("element_typeid")?)?;
        let elements = self.list(node.list("elements")?, &env.operand())?;
        let constants: Option<Vec<Value>> = elements
            .iter()
            .map(|element| match element {
                Expr::Const(value) => Some(value.clone()),
                _ => None,
            })
            .collect();
        Ok(constants.map_or_else(|| Expr::Array(elements.into()), |values| Expr::Const(Value::Array(values.into()))))
    }

    /// A cast that changes no bit.
    fn relabel(&mut self, node: &Node, env: &Env) -> Result<Expr, NotCompiled> {
        known(node, &["arg", "resulttype", "resulttypmod", "resultcollid", "relabelformat", "location"])?;
        let arg = node.field("arg").ok_or_else(|| unknown("RELABELTYPE", "arg"))?;
        let (from, to) = (self.type_of(arg)?, node.oid("resulttype")?);
        self.relabels(from, to)?;
        self.expr(arg, &env.operand())
    }

    fn relabels(&self, from: Oid, to: Oid) -> Result<(), NotCompiled> {
        match (self.datum_type(from)?, self.datum_type(to)?) {
            (from, to) if from == to => Ok(()),
            (DatumType::Text, DatumType::Bpchar) => Ok(()),
            _ => Err(NotCompiled::Node(format!("RELABELTYPE from type {from} to {to}"))),
        }
    }

    fn cast(&mut self, node: &Node, env: &Env) -> Result<Expr, NotCompiled> {
        known(node, &["arg", "resulttype", "resultcollid", "coerceformat", "location"])?;
        let arg = node.field("arg").ok_or_else(|| unknown("COERCEVIAIO", "arg"))?;
        let (from, to) = (self.type_of(arg)?, node.oid("resulttype")?);
        if self.is_domain(to) {
            return Err(NotCompiled::Node("a cast to a domain".to_owned()));
        }
        let (from, to) = (self.datum_type(from)?, self.datum_type(to)?);
        self.needs_for_text(&from)?;
        self.needs_for_text(&to)?;
        let arg = self.expr(arg, &env.operand())?;
        Ok(Expr::Cast { from, to, arg: Box::new(arg) })
    }

    fn array_cast(&mut self, node: &Node, env: &Env) -> Result<Expr, NotCompiled> {
        known(node, &["arg", "elemexpr", "resulttype", "resulttypmod", "resultcollid", "coerceformat", "location"])?;
        let elements = node.node("elemexpr")?;
        let arg = node.field("arg").ok_or_else(|| unknown("ARRAYCOERCEEXPR", "arg"))?;
        let array = self.expr(arg, &env.operand())?;
        if elements.name == "RELABELTYPE" && elements.node("arg")?.name == "CASETESTEXPR" {
            self.relabels(elements.node("arg")?.oid("typeId")?, elements.oid("resulttype")?)?;
            return Ok(array);
        }
        // An element is the argument of the cast, as `$1` is that of a function.
        let element = Bound { expr: Expr::Param(0), depth: env.depth };
        let element = Env { case_value: Some(&element), targets: None, ..env.operand() };
        let element = self.deeper(|lowering| lowering.node(elements, &element))?;
        Ok(Expr::CastElements { element: Box::new(element), array: Box::new(array) })
    }

    /// `current_user` and the like.
    fn sql_value(&mut self, node: &Node, env: &Env) -> Result<Expr, NotCompiled> {
        known(node, &["op", "type", "typmod", "location"])?;
        let of_now = |lowering: &Self, function: Oid| {
            lowering.needs_utc()?;
            let function = builtin::function(function).ok_or(NotCompiled::Function(function))?;
            Ok(Expr::Call { function, args: [Expr::Now].into() })
        };
        match node.int("op")? {
            0 => of_now(self, 1178),
            3 => Ok(Expr::Now),
            7 => of_now(self, 2027),
            9..=11 => Ok(Expr::CurrentUser(env.runs_as.name.as_str().into())),
            1 | 2 | 5 | 6 => Err(NotCompiled::Node("the time of day".to_owned())),
            12 => Err(NotCompiled::Setting("session_user".to_owned())),
            op => Err(NotCompiled::Node(format!("SQLVALUEFUNCTION {op}"))),
        }
    }
}

/// A column of a source, seen from a place.
fn inner(scope: &Scope, source: u16, column: u16, env: &Env) -> Option<Expr> {
    let levels = env.depth.checked_sub(1)?.checked_sub(scope.depth)?;
    Some(Expr::Inner { levels, source, column })
}

fn param(node: &Node, env: &Env) -> Result<Expr, NotCompiled> {
    known(node, &["paramkind", "paramid", "paramtype", "paramtypmod", "paramcollid", "location"])?;
    let place = usize::try_from(node.int("paramid")?).ok().and_then(|id| id.checked_sub(1));
    let value = place.and_then(|place| match node.int("paramkind") {
        Ok(0) => env.args.get(place).map(|arg| arg.at(env.depth)),
        Ok(2) => env.sub_select?.get(place).cloned(),
        _ => None,
    });
    value.ok_or_else(|| NotCompiled::Node("PARAM".to_owned()))
}
