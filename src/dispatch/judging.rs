//! Whether and how a channel may see a change.
//!
//! What the policies' programs decide is decided at once; what they leave open is put into a question for Postgres.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::Deletes;
use super::access::{Access, AccessTable, RoleKey};
use super::delivery::{Chunk, Context, Undecidable};
use super::pending::{Policy, WholeOld};
use super::people::People;
use super::subscribers::Entry;
use super::texts::{Image, Texts};
use crate::authz::policy::failure::Undecided;
use crate::authz::policy::{RowTypes, RowValues};
use crate::authz::tracked::Moment;
use crate::authz::{CompiledPlan, DeniedReason, OraclePlan, Plan};
use crate::catalog::{Catalog, Column, Relation};
use crate::change::{Change, OldRow, Operation};

/// What comes of judging.
pub(super) enum Verdict {
    Shown(Policy),
    Hidden,
    /// It cannot even be asked.
    Undecidable(Undecidable),
}

/// How decisions about rows were come by.
#[derive(Clone, Copy, Debug, Default)]
pub struct DecisionCounts {
    /// By a program.
    pub here: u64,
    /// A program was undecided: by Postgres.
    pub left_open: u64,
    /// There is no program: by Postgres.
    pub not_compiled: u64,
}

/// One change in judgement: its images as values, and what has been decided about them.
pub(super) struct Judging<'a> {
    change: &'a Change,
    values: [OnceCell<Option<RowValues<'a>>>; 2],
    /// By the addresses of plan and slots: people of equal slots are one question.
    decided: HashMap<(usize, usize, Image), Result<bool, Undecided>, RandomState>,
}

/// Who is to be shown the change.
pub(super) struct Asker<'a> {
    pub entry: &'a Entry,
    /// The policies, as they are now, have led to him.
    pub is_sure: bool,
    pub access: &'a Arc<Access>,
    /// As the access was before the transaction, where that may differ.
    pub earlier: Option<&'a Arc<Access>>,
}

/// Who holds the slots of a person with one subscription: that, and twice [`People`].
const HELD_FOR_ONE: usize = 3;

/// What a program says of one image.
enum Decided {
    Allowed,
    Denied,
    /// It has to be asked.
    Open,
}

impl<'a> Judging<'a> {
    pub(super) fn new(change: &'a Change) -> Judging<'a> {
        Judging { change, values: Default::default(), decided: HashMap::default() }
    }

    /// `None`: there is no such image.
    fn values(&self, image: Image, types: &RowTypes) -> Option<&RowValues<'a>> {
        let change = self.change;
        let (row, fallback) = match (image, &change.old) {
            (Image::New, OldRow::Full(old)) => (change.new.as_ref(), Some(old)),
            (Image::New, _) => (change.new.as_ref(), None),
            (Image::Old, _) => (change.known_old(), None),
        };
        let cell = &self.values[image as usize];
        cell.get_or_init(|| row.map(|row| RowValues::new(types, row, fallback))).as_ref()
    }

    fn decide(
        &mut self,
        plan: &Arc<CompiledPlan>,
        image: Image,
        asker: &Entry,
        people: &mut People,
        context: &Context<'_>,
    ) -> Decided {
        let slots = match asker.slots(plan) {
            Some(slots) => slots,
            None => {
                let Some(subscriber) = context.subscribers.get(asker.place()) else { return Decided::Denied };
                people.slots(plan, &subscriber.identity)
            }
        };
        // Nobody else has them: there is nothing to remember.
        let is_shared = Arc::strong_count(slots) > HELD_FOR_ONE;
        let key = (Arc::as_ptr(plan) as usize, Arc::as_ptr(slots) as usize, image);
        let known = if is_shared { self.decided.get(&key).cloned() } else { None };
        let decided = match known {
            Some(decided) => decided,
            None => {
                // Old rows as of before the transaction: otherwise a cascade would hide its own deletes.
                let moment = if image == Image::Old { Moment::Before } else { Moment::After };
                let now = self.change.commit_timestamp;
                let Some(row) = self.values(image, &plan.types) else { return Decided::Denied };
                let decided = plan.program.decide(row, slots, context.tables, moment, now);
                if is_shared {
                    self.decided.insert(key, decided.clone());
                }
                decided
            }
        };
        match decided {
            Ok(true) => Decided::Allowed,
            Ok(false) => Decided::Denied,
            Err(_) => Decided::Open,
        }
    }
}

/// The catalog that the transaction in work began with, where it has changed it: old rows are judged by that.
pub struct Before {
    pub catalog: Arc<Catalog>,
    pub access: AccessTable,
}

impl Before {
    /// `None`: the policies that there were read a table of other columns, or nobody knows them: nothing can be said of
    /// its old rows. Where no policy has a say, columns do not matter.
    pub(super) fn access(&mut self, relation: &Relation, role: RoleKey, now: &Arc<Access>) -> Option<Arc<Access>> {
        let Some(earlier) = self.catalog.relation(relation.id) else {
            return (!now.row_security).then(|| Arc::clone(now));
        };
        let access = self.access.access(&self.catalog, earlier, role);
        let is_same = |(a, b): (&Column, &Column)| a.is(b) && a.name == b.name;
        let only_grew = earlier.columns.len() <= relation.columns.len()
            && earlier.columns.iter().zip(&relation.columns).all(is_same);
        (only_grew || access.plan.oracle().is_none()).then_some(access)
    }
}

impl Chunk {
    /// Whether and how the channel of a subscription, of that access, may see the change.
    pub(super) fn judge(
        &mut self,
        judging: &mut Judging<'_>,
        asker: &Asker<'_>,
        people: &mut People,
        texts: &mut Texts,
        context: &Context<'_>,
    ) -> Verdict {
        let change = judging.change;
        let is_delete = change.operation == Operation::Delete;
        let (entry, place) = (asker.entry, asker.entry.place());
        let access = match asker.earlier {
            Some(earlier) if is_delete => earlier,
            _ => asker.access,
        };
        if !is_delete && access.is_error_row() {
            return Verdict::Hidden; // It went out as an error row.
        }
        let whole_old = matches!(change.old, OldRow::Full(_));
        if !access.row_security {
            let old = match asker.earlier {
                Some(earlier) if whole_old && !is_delete => {
                    self.judge_old(judging, (entry, earlier), people, texts, context)
                }
                _ => WholeOld::known(whole_old),
            };
            return Verdict::Shown(Policy { row: None, old });
        }
        if is_delete && context.config.deletes == Deletes::None {
            return Verdict::Hidden;
        }
        let (compiled, oracle) = match &access.plan {
            Plan::Open => return Verdict::Shown(Policy::shown(whole_old)),
            Plan::Denied(DeniedReason::NoPolicy | DeniedReason::AlwaysFails { .. }) => return Verdict::Hidden,
            Plan::Denied(_) => return Verdict::Undecidable(Undecidable::Plan(Arc::clone(access))),
            Plan::Compiled(plan) => (Some(plan), &plan.oracle),
            Plan::Oracle(plan) => (None, plan),
        };
        let image = if is_delete { Image::Old } else { Image::New };
        let decided = match compiled {
            Some(plan) if asker.is_sure && entry.slots(plan).is_some() => {
                debug_assert!(
                    matches!(judging.decide(plan, image, entry, people, context), Decided::Allowed),
                    "policies led to somebody whom they do not allow"
                );
                Some(Decided::Allowed)
            }
            Some(plan) if !is_delete || change.known_old().is_some() => {
                Some(judging.decide(plan, image, entry, people, context))
            }
            _ => None,
        };
        match decided {
            Some(Decided::Allowed | Decided::Denied) => self.counts.here += 1,
            Some(Decided::Open) => self.counts.left_open += 1,
            None => self.counts.not_compiled += 1,
        }
        let row = match decided {
            Some(Decided::Allowed) => None,
            Some(Decided::Denied) => return Verdict::Hidden,
            Some(Decided::Open) | None if is_delete => {
                return self.judge_delete(change, oracle, place, texts, context);
            }
            Some(Decided::Open) | None => {
                let Some(text) = texts.get(change, Image::New) else {
                    return Verdict::Undecidable(Undecidable::NoNewRow);
                };
                Some(self.policy_gate(oracle, place, change, Image::New, text, context))
            }
        };
        if is_delete {
            return Verdict::Shown(Policy { row, old: WholeOld::known(whole_old) });
        }
        let old = match &change.old {
            OldRow::Full(_) => {
                self.judge_old(judging, (entry, asker.earlier.unwrap_or(access)), people, texts, context)
            }
            _ => WholeOld::No,
        };
        Verdict::Shown(Policy { row, old })
    }

    /// The old row of an UPDATE, all of which the stream has.
    fn judge_old(
        &mut self,
        judging: &mut Judging<'_>,
        (asker, access): (&Entry, &Arc<Access>),
        people: &mut People,
        texts: &mut Texts,
        context: &Context<'_>,
    ) -> WholeOld {
        match &access.plan {
            _ if !access.row_security => WholeOld::Yes,
            Plan::Open => WholeOld::Yes,
            Plan::Denied(_) => WholeOld::No,
            Plan::Compiled(plan) => match judging.decide(plan, Image::Old, asker, people, context) {
                Decided::Allowed => WholeOld::Yes,
                Decided::Denied => WholeOld::No,
                Decided::Open => {
                    self.counts.left_open += 1;
                    self.ask_old(judging.change, &plan.oracle, asker.place(), texts, context)
                }
            },
            Plan::Oracle(plan) => self.ask_old(judging.change, plan, asker.place(), texts, context),
        }
    }

    fn ask_old(
        &mut self,
        change: &Change,
        plan: &Arc<OraclePlan>,
        place: usize,
        texts: &mut Texts,
        context: &Context<'_>,
    ) -> WholeOld {
        match texts.get(change, Image::Old) {
            Some(text) => WholeOld::Ask(self.policy_gate(plan, place, change, Image::Old, text, context)),
            None => WholeOld::No,
        }
    }

    /// A DELETE that is not decided here is judged by the old row where the stream has it (DESIGN section 5).
    fn judge_delete(
        &mut self,
        change: &Change,
        plan: &Arc<OraclePlan>,
        place: usize,
        texts: &mut Texts,
        context: &Context<'_>,
    ) -> Verdict {
        let judged = match (&change.old, change.known_old()) {
            (_, None) => None,
            (OldRow::Full(_), _) => texts.get(change, Image::Old),
            (_, Some(row)) => {
                let reads_key_only = plan.columns.as_ref().is_some_and(|columns| {
                    columns.iter().all(|column| row.layout.is_key.get(usize::from(column.0)).copied().unwrap_or(false))
                });
                if reads_key_only { texts.get(change, Image::Old) } else { None }
            }
        };
        match judged {
            Some(text) => {
                let row = Some(self.policy_gate(plan, place, change, Image::Old, text, context));
                let whole_old = matches!(change.old, OldRow::Full(_));
                Verdict::Shown(Policy { row, old: WholeOld::known(whole_old) })
            }
            None if context.config.deletes == Deletes::Compatible => Verdict::Shown(Policy::shown(false)),
            None => Verdict::Hidden,
        }
    }
}
