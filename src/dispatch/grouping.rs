//! What a change matched, by channel.

use std::sync::Arc;

use smallvec::SmallVec;

use super::delivery::{Chunk, Context, Key};
use super::pending::Gate;
use super::subscribers::Entry;
use super::texts::{Image, Texts};
use crate::authz::Asked as Subject;
use crate::change::{Change, Operation};
use crate::routing::{Matches, Predicate, SubscriptionId};

/// The subscriptions of one channel that a change matched, before they are told apart by `select`.
pub(super) struct Group<'a> {
    /// The first of them: what it has of the channel they all have.
    pub entry: &'a Entry,
    /// Its policies led to one of them.
    pub is_sure: bool,
    pub ids: SmallVec<[(u32, Option<Gate>); 1]>,
}

/// A subscription that a change matched.
struct Matched<'a> {
    id: SubscriptionId,
    entry: &'a Entry,
    gate: Option<Gate>,
    is_sure: bool,
}

impl Chunk {
    /// Matched subscriptions by channel and selection, in the order of the channels' places.
    pub(super) fn group<'a>(
        &mut self,
        change: &Change,
        matches: &Matches,
        texts: &mut Texts,
        context: &Context<'a>,
    ) -> SmallVec<[Group<'a>; 1]> {
        let mut flat: SmallVec<[Matched<'a>; 1]> = SmallVec::new();
        flat.reserve(matches.matched.len());
        let mut add = |id: SubscriptionId, gate: Option<Gate>, is_sure: bool| {
            let entry = context.subscribers.entry(id);
            if context.admits(entry) {
                flat.push(Matched { id, entry, gate, is_sure });
            }
        };
        for (at, id) in matches.matched.iter().enumerate() {
            add(*id, None, at >= matches.sure_from);
        }
        for (predicate, ids) in &matches.undecided {
            let places = ids.iter().map(|id| context.subscribers.entry(*id).place());
            let Some(role) = context.role_to_ask_as(&change.relation, places) else { continue };
            let Some(gate) = self.filter_gate(change, predicate, role, texts, context) else { continue };
            for id in ids {
                add(*id, Some(gate.clone()), false);
            }
        }
        flat.sort_unstable_by_key(|Matched { id, entry, .. }| (entry.place(), id.0));
        let mut groups: SmallVec<[Group<'a>; 1]> = SmallVec::new();
        groups.reserve(flat.len());
        for Matched { entry, gate, is_sure, .. } in flat {
            let same_channel = groups.iter_mut().rev().take_while(|group| group.entry.place() == entry.place());
            match same_channel.into_iter().find(|group| group.entry.selection == entry.selection) {
                Some(group) => {
                    group.is_sure |= is_sure;
                    group.ids.push((entry.client_id, gate));
                }
                None => groups.push(Group { entry, is_sure, ids: SmallVec::from_iter([(entry.client_id, gate)]) }),
            }
        }
        groups
    }

    fn filter_gate(
        &mut self,
        change: &Change,
        predicate: &Arc<Predicate>,
        role: &str,
        texts: &mut Texts,
        context: &Context<'_>,
    ) -> Option<Gate> {
        let test = predicate.sql()?;
        let image = if change.operation == Operation::Delete { Image::Old } else { Image::New };
        let text = texts.get(change, image)?;
        let key = Key::Filter(Arc::as_ptr(predicate) as usize);
        let subject = || Subject::Filter {
            role: role.to_owned(),
            expression: test.expression.clone(),
            columns: Some(test.columns.clone()),
        };
        Some(self.gate(key, subject, change, image, text, context))
    }
}
