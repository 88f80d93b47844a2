//! Which claims a program reads: for `check`, which tells.

use std::collections::BTreeSet;

use super::{Expr, Program, Value, walk};

/// Paths of claims, `sub` or `app_metadata.role`. What reads all of them says so.
pub fn claims_read(program: &Program) -> BTreeSet<String> {
    let mut reading = Reading { program, found: BTreeSet::new() };
    program.clauses.iter().for_each(|clause| reading.expr(&clause.using));
    reading.found
}

const WHOLE: &str = "the claims as a whole";

struct Reading<'p> {
    program: &'p Program,
    found: BTreeSet<String>,
}

impl<'p> Reading<'p> {
    fn expr(&mut self, expr: &'p Expr) {
        match expr {
            Expr::Slot(slot) => {
                if let Some(slot) = self.program.slots.get(usize::from(*slot)) {
                    self.expr(slot);
                }
            }
            // Each alternative may be another claim.
            Expr::Coalesce(args) => args.iter().for_each(|arg| self.expr(arg)),
            _ => match self.path(expr) {
                Some(path) if path.is_empty() => drop(self.found.insert(WHOLE.to_owned())),
                Some(path) => drop(self.found.insert(path.join("."))),
                None => walk::children(expr, 0, &mut |child, _| self.expr(child)),
            },
        }
    }

    /// The path of the claim that an expression is, whatever it is cast to.
    fn path(&self, expr: &'p Expr) -> Option<Vec<&'p str>> {
        match expr {
            Expr::Setting { name, .. } => {
                let Expr::Const(Value::Text(name)) = &**name else { return Some(Vec::new()) };
                Some(name.strip_prefix("request.jwt.claim.").into_iter().collect())
            }
            Expr::Slot(slot) => self.path(self.program.slots.get(usize::from(*slot))?),
            Expr::Cast { arg, .. } => self.path(arg),
            Expr::NullIf { args, .. } => self.path(&args[0]),
            // Of the whole claims, by either of their names.
            Expr::Coalesce(args) => {
                let paths: Option<Vec<_>> = args.iter().map(|arg| self.path(arg)).collect();
                paths.filter(|paths| paths.windows(2).all(|pair| pair[0] == pair[1]))?.into_iter().next()
            }
            Expr::Apply { args, body, .. } if args.is_empty() => self.path(body),
            Expr::Scalar(query) if query.sources.is_empty() => self.path(query.output.first()?),
            Expr::Call { function, args } => self.field(function.name, args),
            _ => None,
        }
    }

    /// `claims -> 'a' ->> 'b'`, `claims #>> '{a,b}'`.
    fn field(&self, function: &str, args: &'p [Expr]) -> Option<Vec<&'p str>> {
        let [document, field] = args else { return None };
        let is_field = ["object_field", "extract_path"].iter().any(|part| function.contains(part));
        let mut path = self.path(document).filter(|_| is_field)?;
        match field {
            Expr::Const(Value::Text(field)) => path.push(field),
            Expr::Const(Value::Array(fields)) => path.extend(fields.iter().filter_map(|field| match field {
                Value::Text(field) => Some(&**field),
                _ => None,
            })),
            _ => {}
        }
        Some(path)
    }
}
