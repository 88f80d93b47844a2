//! What the programs of policies know of each person: worked out once per identity and plan, not per change.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use foldhash::fast::RandomState;

use crate::authz::policy::{Person, Slots};
use crate::authz::{CompiledPlan, Identity};

#[derive(Default)]
pub struct People {
    /// By the addresses of plan and identity. Neither address can be another's meanwhile: the entry holds both.
    known: HashMap<(usize, usize), Known, RandomState>,
    /// Equal slots of one plan are one object, so that equal people are one decision.
    interned: HashMap<usize, HashSet<Arc<Slots>, RandomState>, RandomState>,
}

struct Known {
    _plan: Arc<CompiledPlan>,
    identity: Weak<Identity>,
    slots: Arc<Slots>,
}

/// Fewer are not worth looking through.
const PRUNED_ABOVE: usize = 1024;

impl People {
    pub fn slots(&mut self, plan: &Arc<CompiledPlan>, identity: &Arc<Identity>) -> &Arc<Slots> {
        let of_plan = Arc::as_ptr(plan) as usize;
        let key = (of_plan, Arc::as_ptr(identity) as usize);
        let known = self.known.entry(key).or_insert_with(|| {
            let person = Person { role: &identity.role, claims: &identity.claims, channel: None };
            let slots = Arc::new(plan.program.slots_of(person));
            let interned = self.interned.entry(of_plan).or_default();
            let slots = match interned.get(&slots) {
                Some(known) if known.are_identical(&slots) => Arc::clone(known),
                Some(_) => slots,
                None => {
                    interned.insert(Arc::clone(&slots));
                    slots
                }
            };
            Known { _plan: Arc::clone(plan), identity: Arc::downgrade(identity), slots }
        });
        &known.slots
    }

    /// The catalog changed: plans are made anew.
    pub fn clear(&mut self) {
        self.known.clear();
        self.interned.clear();
    }

    /// Lets go of those who have left. Doubling keeps that linear overall.
    pub fn prune(&mut self) {
        if self.known.len() < PRUNED_ABOVE || self.known.len() < self.known.capacity() {
            return;
        }
        self.known.retain(|_, known| known.identity.strong_count() > 0);
        for slots in self.interned.values_mut() {
            slots.retain(|slots| Arc::strong_count(slots) > 1);
        }
    }
}
