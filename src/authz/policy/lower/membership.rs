//! `pg_has_role`, of whoever runs the policy.

use super::super::tree::Tree;
use super::super::{DatumType, Expr, NotCompiled, Value, builtin};
use super::Lowering;
use super::scope::Env;
use crate::catalog::Oid;

const TEXT_EQUAL: Oid = 67;
const TEXTCAT: Oid = 1258;

impl Lowering<'_> {
    /// `pg_has_role(role, privilege)`: the names of the roles for which it is true, and of those for which it is no
    /// error.
    pub(super) fn has_role(&mut self, args: &[Tree], env: &Env) -> Result<Expr, NotCompiled> {
        let unknown = || NotCompiled::Node("pg_has_role of another form".to_owned());
        let [role, privilege] = args else { return Err(unknown()) };
        let role = self.expr(role, &env.operand())?;
        let Expr::Const(Value::Text(privilege)) = self.expr(privilege, &env.operand())? else { return Err(unknown()) };
        let (roles, runs_as) = (&self.catalog.roles, env.runs_as);
        let known = match &*privilege.to_ascii_lowercase() {
            "usage" => runs_as.inherits.clone(),
            "member" => roles.member_of(runs_as.oid).ok_or_else(unknown)?,
            _ => return Err(unknown()),
        };
        let mut names: Vec<(&str, Oid)> = roles.by_name.values().map(|role| (&*role.name, role.oid)).collect();
        names.sort_unstable();
        let is_one_of = |names: Vec<&str>| {
            let names: Vec<Value> = names.into_iter().map(|name| Value::Text(name.into())).collect();
            let args = Box::new([Expr::Param(0), Expr::Const(Value::Array(names.into()))]);
            let function = builtin::function(TEXT_EQUAL).ok_or(NotCompiled::Function(TEXT_EQUAL))?;
            Ok::<_, NotCompiled>(Expr::AnyArray { function, all: false, args })
        };
        let has = |(_, oid): &&(&str, Oid)| runs_as.superuser || known.contains(oid);
        let yes = is_one_of(names.iter().filter(has).map(|(name, _)| *name).collect())?;
        let there = is_one_of(names.iter().map(|(name, _)| *name).collect())?;
        // Nothing constant, which would be an error of the planner's.
        let words = [Expr::Param(0), Expr::Const(Value::Text(" does not exist".into()))].into();
        let concatenation = builtin::function(TEXTCAT).ok_or(NotCompiled::Function(TEXTCAT))?;
        let missing = Expr::Call { function: concatenation, args: words };
        let error = Expr::Cast { from: DatumType::Text, to: DatumType::Bool, arg: Box::new(missing) };
        let constant = |value| Expr::Const(Value::Bool(value));
        let body = Expr::Case {
            branches: [(yes, constant(true)), (there, constant(false))].into(),
            otherwise: Box::new(error),
        };
        Ok(Expr::Apply { args: [role].into(), strict: true, body: Box::new(body) })
    }
}
