//! What programs decide, against what was shown.

use std::collections::HashMap;
use std::sync::Arc;

use walcast::authz::policy::audience::{Led, Standing};
use walcast::authz::policy::failure::{Failure, Undecided};
use walcast::authz::policy::{Person as Asking, RowValues, Slots};
use walcast::authz::tracked::{Moment, Tables};
use walcast::authz::{CompiledPlan, Plan, plan};
use walcast::catalog::{Catalog, Relation};
use walcast::change::Row;

use super::people::Person;
use super::tally::Tally;
use super::truth::Shown;

/// What a table's policies are for one person.
pub(super) enum Judge {
    Open,
    Denied,
    NotCompiled(String),
    Program(Box<ByProgram>),
}

pub(super) struct ByProgram {
    plan: Arc<CompiledPlan>,
    slots: Slots,
    /// `None`: the person is judged for every row.
    standing: Option<Standing>,
}

/// One judge for each person.
pub(super) fn judges(catalog: &Catalog, relation: &Arc<Relation>, people: &[Person]) -> Vec<Judge> {
    let mut plans: HashMap<&str, Plan> = HashMap::new();
    let judge = |person: &Person| {
        let made = || plan(catalog, relation, catalog.roles.get(person.role).expect("a role"));
        match plans.entry(person.role).or_insert_with(made) {
            Plan::Open => Judge::Open,
            Plan::Denied(_) => Judge::Denied,
            Plan::Oracle(plan) => Judge::NotCompiled(plan.not_compiled.as_ref().expect("a reason").to_string()),
            Plan::Compiled(plan) => {
                let asking = Asking { role: person.role, claims: &person.claims, channel: None };
                let slots = plan.program.slots_of(asking);
                let standing = plan.audience.as_ref().and_then(|audience| audience.standing(&slots));
                Judge::Program(Box::new(ByProgram { plan: Arc::clone(plan), slots, standing }))
            }
        }
    };
    people.iter().map(judge).collect()
}

impl Judge {
    pub fn plan(&self) -> Option<&Arc<CompiledPlan>> {
        match self {
            Judge::Program(program) => Some(&program.plan),
            _ => None,
        }
    }
}

impl ByProgram {
    /// An error is foreseen in what the planner works out.
    fn planner_stumbles(&self) -> bool {
        let eager = self.plan.program.eager.iter();
        eager.into_iter().any(|slot| matches!(self.slots.get(*slot), Some(Err(Failure::Error(_)))))
    }

    /// The person's claims are an error somewhere: in a function that is called, it is the planner's, too.
    fn has_errors(&self) -> bool {
        let slots = 0..self.plan.program.slots.len() as u16;
        slots.into_iter().any(|slot| matches!(self.slots.get(slot), Some(Err(Failure::Error(_)))))
    }
}

/// A table's policies and who asks.
pub(super) struct Asked<'a> {
    pub table: usize,
    pub set: usize,
    pub judges: &'a [Judge],
    pub people: &'a [Person],
    pub tables: &'a Tables,
    pub moment: Moment,
    /// By person.
    pub shown: &'a [Shown],
    /// Says what a difference is about.
    pub describe: &'a dyn Fn() -> String,
}

impl Asked<'_> {
    /// Compares one image for everybody. `fallback`: what the image lacks did not change.
    pub fn compare(&self, key: i64, row: &Row, fallback: Option<&Row>, tally: &mut Tally) {
        let Some(types) = self.judges.iter().find_map(|judge| Some(&judge.plan()?.types)) else {
            return self.without_programs(key, tally);
        };
        let values = RowValues::new(types, row, fallback);
        let mut led: Vec<(*const CompiledPlan, i64, Led)> = Vec::new();
        for ((judge, person), shown) in self.judges.iter().zip(self.people).zip(self.shown) {
            let expected = shown.rows[self.table].contains(&key);
            let Judge::Program(by) = judge else {
                self.by_plan(judge, person, key, expected, tally);
                continue;
            };
            let decided = by.plan.program.decide(&values, &by.slots, self.tables, self.moment, shown.now);
            let leads = by.plan.audience.as_ref().map_or(Leads::Perhaps, |audience| {
                let plan = Arc::as_ptr(&by.plan);
                let place = led.iter().position(|(known, now, _)| *known == plan && *now == shown.now);
                let place = place.unwrap_or_else(|| {
                    led.push((plan, shown.now, audience.led(&values, self.tables, self.moment, shown.now)));
                    led.len() - 1
                });
                leads(by.standing.as_ref(), &led[place].2)
            });
            tally.not_led += usize::from(leads == Leads::Nowhere);
            tally.sure += usize::from(leads == Leads::Surely);
            if expected && leads == Leads::Nowhere {
                tally.is_wrong(self.set, || self.told(by, person, key, row, shown.now, "is not led to, and shown"));
            }
            if leads == Leads::Surely && decided != Ok(true) {
                let what = "is led to for sure, and not allowed";
                tally.is_wrong(self.set, || self.told(by, person, key, row, shown.now, what));
            }
            match decided {
                Ok(decided) => {
                    tally.here += 1;
                    self.count(expected, tally);
                    let stumbles = by.planner_stumbles();
                    match (decided, expected) {
                        (true, false) if shown.unplanned.contains(&self.table) => tally.unforeseen += 1,
                        (false, true) if stumbles || by.has_errors() => tally.too_careful += 1,
                        (true, false) => tally.is_wrong(self.set, || {
                            self.told(by, person, key, row, shown.now, "decided: shown; Postgres hides it")
                        }),
                        (false, true) => tally.is_wrong(self.set, || {
                            self.told(by, person, key, row, shown.now, "decided: hidden; Postgres shows it")
                        }),
                        (false, false) if stumbles && self.would_show(by, &values, shown.now) => tally.foreseen += 1,
                        _ => {}
                    }
                }
                Err(why) => {
                    let why = match why {
                        Undecided::ColumnMissing(_) => "a column that the image lacks".to_owned(),
                        Undecided::NotLoaded(_) => {
                            tally.not_loaded += 1;
                            "a table that is not loaded".to_owned()
                        }
                        Undecided::Value(why) => why.to_owned(),
                    };
                    *tally.undecided.entry(why).or_default() += 1;
                }
            }
        }
    }

    /// If the planner did not fail.
    fn would_show(&self, by: &ByProgram, row: &RowValues<'_>, now: i64) -> bool {
        let program = &by.plan.program;
        let said = program.decide_clauses(row, &by.slots, self.tables, self.moment, now);
        let holds = |permissive| {
            let clauses = program.clauses.iter().zip(&said);
            clauses.filter(move |(clause, _)| clause.permissive == permissive).map(|(_, said)| *said == Ok(Some(true)))
        };
        holds(false).all(|holds| holds) && holds(true).any(|holds| holds)
    }

    fn without_programs(&self, key: i64, tally: &mut Tally) {
        for ((judge, person), shown) in self.judges.iter().zip(self.people).zip(self.shown) {
            self.by_plan(judge, person, key, shown.rows[self.table].contains(&key), tally);
        }
    }

    fn by_plan(&self, judge: &Judge, person: &Person, key: i64, expected: bool, tally: &mut Tally) {
        let decided = match judge {
            Judge::Open => {
                tally.open += 1;
                true
            }
            Judge::Denied => {
                tally.denied_by_plan += 1;
                self.count(expected, tally);
                false
            }
            Judge::NotCompiled(_) if tally.sets[self.set].is_left => {
                tally.left += 1;
                return;
            }
            Judge::NotCompiled(why) => {
                if !tally.not_compiled.contains_key(why) && std::env::var("WALCAST_DIFFERENTIAL_REFUSED").is_ok() {
                    println!("not compiled: {why}: {}", (self.describe)());
                }
                return *tally.not_compiled.entry(why.clone()).or_default() += 1;
            }
            Judge::Program(_) => return,
        };
        if decided != expected {
            let told = || {
                format!(
                    "{}\n{} {}: the plan alone says {decided} of row {key}",
                    (self.describe)(),
                    person.role,
                    person.claims
                )
            };
            tally.is_wrong(self.set, told);
        }
    }

    fn count(&self, shown: bool, tally: &mut Tally) {
        let set = &mut tally.sets[self.set];
        if shown { set.shown += 1 } else { set.denied += 1 }
    }

    fn told(&self, by: &ByProgram, person: &Person, key: i64, row: &Row, now: i64, what: &str) -> String {
        let values = RowValues::new(&by.plan.types, row, None);
        let clauses = by.plan.program.decide_clauses(&values, &by.slots, self.tables, self.moment, now);
        let named: Vec<String> = by
            .plan
            .program
            .clauses
            .iter()
            .zip(clauses)
            .map(|(clause, said)| {
                format!(
                    "{} ({}): {said:?}",
                    clause.policy,
                    if clause.permissive { "permissive" } else { "restrictive" }
                )
            })
            .collect();
        let columns = row.layout.relation.columns.iter().zip(row.layout.relation.indices());
        let texts: Vec<String> = columns
            .map(|(column, index)| match row.datum(index) {
                walcast::wal::pgoutput::Datum::Text(text) => {
                    format!("{}={}", column.name, String::from_utf8_lossy(&text[..text.len().min(80)]))
                }
                other => format!("{}={other:?}", column.name),
            })
            .collect();
        format!(
            "{}\n{} {}: row {key} ({:?}) {what}\n  clauses: {}\n  slots: {:?}, eager {:?}\n  row: {}",
            (self.describe)(),
            person.role,
            person.claims,
            self.moment,
            named.join("; "),
            by.slots,
            by.plan.program.eager,
            texts.join(" ")
        )
    }
}

/// Whether a row leads to a person.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leads {
    Nowhere,
    /// The person is judged.
    Perhaps,
    Surely,
}

fn leads(standing: Option<&Standing>, led: &Led) -> Leads {
    match (standing, led) {
        (None, _) | (_, Led::Everyone) => Leads::Perhaps,
        (Some(standing), Led::To(keys)) => {
            match standing.always || keys.iter().any(|key| standing.keys.contains(key)) {
                false => Leads::Nowhere,
                true if standing.sure => Leads::Surely,
                true => Leads::Perhaps,
            }
        }
    }
}
