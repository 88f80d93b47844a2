use super::*;
use crate::dispatch::sample::{Client, KEYLESS, MEMBER, OPEN, SECURED, catalog, identity};

struct Register {
    subscribers: Subscribers,
    access: AccessTable,
}

impl Register {
    fn new() -> Register {
        Register { subscribers: Subscribers::default(), access: AccessTable::default() }
    }

    fn insert(&mut self, subscribe: Subscribe, number: u64) -> Inserted {
        self.subscribers.insert(subscribe, Arc::default(), number, &mut self.access)
    }

    /// Joins a client to tables, active from a transaction.
    fn join(&mut self, client: &Client, role: &str, tables: &[&str], active_from: u64) -> usize {
        let subscribe = client.subscribe(identity(role, "me"), tables, Some("reply"));
        let Inserted::At(place, on_active) = self.insert(subscribe, 1) else { panic!() };
        assert_eq!(on_active.unwrap().frames.len(), 1);
        self.bind(place, active_from);
        place
    }

    fn bind(&mut self, place: usize, active_from: u64) {
        let Bind::Ready(bound) = self.subscribers.bind(place, &catalog()) else { panic!() };
        self.subscribers.replace(place, bound, active_from, &catalog(), &mut self.access);
    }

    /// Role name and client ids.
    fn audience(&self, table: RelationId) -> Vec<(usize, Vec<(usize, u32)>)> {
        let entry = |id: &SubscriptionId| {
            let entry = self.subscribers.entry(*id);
            (entry.place(), entry.client_id)
        };
        let of_role = |(_, ids): &(RoleKey, Vec<SubscriptionId>)| (ids.len(), ids.iter().map(entry).collect());
        self.subscribers.audience(table).iter().map(of_role).collect()
    }

    fn is_empty(&self) -> bool {
        let Subscribers { channels, by_channel, entries, audiences, early, index, .. } = &self.subscribers;
        let tables = channels.is_empty() && by_channel.is_empty() && entries.is_empty();
        tables && audiences.is_empty() && early.is_empty() && index.is_empty()
    }
}

#[test]
fn a_channel_that_leaves_leaves_nothing_behind() {
    let mut register = Register::new();
    let clients: Vec<Client> = (0..20).map(Client::new).collect();
    for (n, client) in clients.iter().enumerate() {
        let role = if n % 3 == 0 { "stranger" } else { "member" };
        register.join(client, role, &["open", "keyless", "*"], 1);
    }
    assert_eq!(register.subscribers.audience(OPEN).len(), 2);
    // In an order that moves others about in every list.
    for n in [3, 0, 19, 7, 8, 1, 2, 18, 4, 5, 6, 9, 17, 10, 16, 11, 15, 12, 14, 13] {
        for table in [OPEN, SECURED, KEYLESS] {
            for (_, ids) in register.subscribers.audience(table) {
                for (position, id) in ids.iter().enumerate() {
                    assert_eq!(register.subscribers.entry(*id).position as usize, position);
                }
            }
        }
        register.subscribers.remove(clients[n].channel);
    }
    assert!(register.is_empty());
}

#[test]
fn other_bindings_of_a_channel_are_active_as_long_as_those_before_them() {
    let mut register = Register::new();
    let client = Client::new(1);
    let place = register.join(&client, "member", &["open"], 5);
    let refreshed = client.subscribe(identity("stranger", "other"), &["open", "keyless"], None);
    assert!(matches!(register.insert(refreshed, 2), Inserted::At(same, _) if same == place));
    assert_eq!(register.audience(OPEN), [(1, vec![(place, 1)])], "until they are replaced");
    register.bind(place, 9);
    let entries = register.subscribers.entries.iter().map(|(_, entry)| (entry.relation, entry.active_from));
    assert_eq!(entries.collect::<HashSet<_>>(), HashSet::from([(OPEN, 5), (KEYLESS, 5)]));
    assert_eq!(register.subscribers.get(place).unwrap().identity.role, "stranger");
    // Once they are gone, new ones begin anew.
    assert!(register.subscribers.refuse(place, "why"));
    assert!(!register.subscribers.refuse(place, "why"), "it knows");
    register.bind(place, 12);
    assert!(register.subscribers.entries.iter().all(|(_, entry)| entry.active_from == 12));
    assert!(register.subscribers.get(place).unwrap().refused.is_none());
}

#[test]
fn of_two_subscribes_of_a_channel_the_later_one_holds_whichever_comes_first() {
    let mut register = Register::new();
    let client = Client::new(1);
    register.join(&client, "member", &["open"], 1);
    assert!(matches!(register.insert(client.subscribe(identity("member", "c"), &[], None), 3), Inserted::At(..)));
    assert!(matches!(register.insert(client.subscribe(identity("member", "b"), &[], None), 2), Inserted::Outdated));
    let (again, number) = register.subscribers.subscribe_again(0);
    assert!(again.identity.claims.contains("\"c\"") && number == 3, "made again, it is no later than what it repeats");
}

#[test]
fn what_overtakes_its_join_is_kept_until_the_join_is_here_or_never_comes() {
    let mut register = Register::new();
    let client = Client::new(1);
    for (number, sub) in [(3, "c"), (2, "b")] {
        let early = client.subscribe(identity("member", sub), &[], None);
        assert!(matches!(register.insert(early, number), Inserted::Early));
    }
    assert!(register.subscribers.take_early(client.channel).is_none(), "the join is not here");
    register.join(&client, "member", &["open"], 1);
    let (kept, _, number) = register.subscribers.take_early(client.channel).unwrap();
    assert!(kept.identity.claims.contains("\"c\"") && number == 3);

    let gone = Client::new(2);
    register.insert(gone.subscribe(identity("member", "x"), &[], None), 4);
    register.subscribers.remove(gone.channel);
    register.subscribers.remove(client.channel);
    assert!(register.is_empty());
}

#[test]
fn equal_identities_are_one_and_are_let_go_with_their_last_channel() {
    let mut register = Register::new();
    let (a, b) = (Client::new(1), Client::new(2));
    let places = [register.join(&a, "member", &[], 1), register.join(&b, "member", &[], 1)];
    let [one, other] = places.map(|place| Arc::clone(&register.subscribers.get(place).unwrap().identity));
    assert!(Arc::ptr_eq(&one, &other));
    drop((one, other));
    register.subscribers.remove(a.channel);
    register.subscribers.remove(b.channel);
    for n in 0..1000 {
        intern(&mut register.subscribers.identities, identity("member", &n.to_string()));
    }
    assert!(register.subscribers.identities.len() < 100, "{}", register.subscribers.identities.len());
}

#[test]
fn one_bad_item_refuses_them_all() {
    let mut register = Register::new();
    let client = Client::new(1);
    let subscribe = client.subscribe(identity("member", "me"), &["open", "nowhere"], Some("reply"));
    let Inserted::At(place, _) = register.insert(subscribe, 1) else { panic!() };
    assert!(matches!(register.subscribers.bind(place, &catalog()), Bind::Refused { .. }));
    assert_eq!(catalog().roles.get("member").unwrap().oid, MEMBER);
}
