//! Trees of functions whose body is a string: Postgres parses them, walcast never does.
//!
//! Given a catalog and a session of the oracle's login, makes of each such function a twin with a SQL-standard body in
//! `pg_temp`, reads the tree that Postgres stored, and rolls back. Names are looked up when such a body is run, by whoever
//! runs it: a tree counts only if everybody who may run the function here finds the same things under its names.

mod source;
mod twin;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio_postgres::Client;

use self::source::Source;
use self::twin::{Failure, Parser, Signature, Twin};
use crate::catalog::{Catalog, Function, Oid};

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    pub trees: HashMap<Oid, Result<Arc<str>, String>>,
    /// The roles that the trees hold for.
    pub roles: HashSet<Oid>,
    /// By function and role: who has another tree, or none, and why.
    pub elsewhere: HashMap<(Oid, Oid), Result<Arc<str>, String>>,
    /// A lock or a timeout was in the way of one: it is worth trying again.
    pub try_again: bool,
}

/// The roles that this login may become, none of which gets past row-level security.
const API_ROLES: &str = "
select r.oid, r.rolname::text
  from pg_catalog.pg_auth_members m
  join pg_catalog.pg_roles me on me.oid = m.member and me.rolname = session_user
  join pg_catalog.pg_roles r on r.oid = m.roleid
 where not r.rolsuper and not r.rolbypassrls
 group by r.oid, r.rolname
 order by r.rolname";

/// Reads the bodies of all functions of the catalog that have one to be read. The error is the session's; what is wrong
/// with a function is in its place.
pub(super) async fn read(client: &mut Client, catalog: &Catalog) -> Result<Bodies, tokio_postgres::Error> {
    let sources: Vec<(&Function, Source)> = catalog
        .functions
        .values()
        .filter(|function| function.body.is_none())
        .filter_map(|function| Some((&**function, Source::of(function)?)))
        .collect();
    let transaction = client.build_transaction().read_only(true).start().await?;
    transaction.batch_execute("SET LOCAL search_path = pg_catalog, pg_temp").await?;
    let roles: Vec<(Oid, String)> =
        transaction.query(API_ROLES, &[]).await?.iter().map(|row| (row.get(0), row.get(1))).collect();
    let oids: Vec<Oid> = sources.iter().map(|(function, _)| function.oid).collect();
    let signatures = Signature::read(&transaction, &oids).await?;
    transaction.rollback().await?;

    // A function that runs as its caller may be called by one that runs as its owner.
    let definers = catalog.functions.values().filter(|function| function.security_definer);
    let callers: Vec<Oid> = roles.iter().map(|(oid, _)| *oid).chain(definers.map(|definer| definer.owner)).collect();
    let mut bodies = Bodies { roles: roles.iter().map(|(oid, _)| *oid).collect(), ..Bodies::default() };
    let mut parser = Parser { client };
    for (function, source) in sources {
        let runs_as = if function.security_definer { &[function.owner][..] } else { &callers[..] };
        let read = match signatures.get(&function.oid) {
            Some(signature) => read_one(&mut parser, function, &source, signature, &roles, runs_as).await,
            None => Err(Failure::Refused("it is not there any more".into())),
        };
        let tree = match read {
            Ok(Read { tree, elsewhere }) => {
                bodies.elsewhere.extend(elsewhere.into_iter().map(|(role, body)| ((function.oid, role), body)));
                Ok(tree)
            }
            Err(Failure::Session(error)) => return Err(error),
            Err(Failure::Refused(why)) => Err(why),
            Err(Failure::InTheWay(why)) => {
                bodies.try_again = true;
                Err(why)
            }
        };
        bodies.trees.insert(function.oid, tree);
    }
    Ok(bodies)
}

/// What one function's body is: for most of those who run it, and for each of the others.
struct Read {
    tree: Arc<str>,
    elsewhere: Vec<(Oid, Result<Arc<str>, String>)>,
}

/// As the login itself, then as each of its roles: until there is a tree for everybody. Not everybody may use all the
/// schemas that the body names, nor finds the same in them.
async fn read_one(
    parser: &mut Parser<'_>,
    function: &Function,
    source: &Source,
    signature: &Signature,
    roles: &[(Oid, String)],
    runs_as: &[Oid],
) -> Result<Read, Failure> {
    if signature.source != function.source {
        return Err(Failure::InTheWay("it has been changed".into()));
    }
    source.check()?;
    let identities = std::iter::once(None).chain(roles.iter().map(|(_, name)| Some(name.as_str())));
    let mut left: HashSet<Oid> = runs_as.iter().copied().collect();
    let mut twins: Vec<Twin> = Vec::new();
    let mut first = None;
    for identity in identities {
        match parser.parse(function, source, signature, identity, runs_as).await {
            Ok(twin) => {
                let twin = Twin { tree: source.check_tree(function, twin.tree)?, ..twin };
                let before = left.len();
                left.retain(|role| !twin.holds_for(*role));
                if left.len() < before {
                    twins.push(twin);
                }
                if left.is_empty() {
                    break;
                }
            }
            Err(session @ Failure::Session(_)) => return Err(session),
            // A lock may be in the way of the only one who could.
            Err(failure) if first.is_none() || matches!(failure, Failure::InTheWay(_)) => first = Some(failure),
            Err(_) => {}
        }
    }
    match first {
        // It may hold for more people next time.
        Some(in_the_way @ Failure::InTheWay(_)) if !left.is_empty() => return Err(in_the_way),
        _ => {}
    }
    let Some(most) = twins.iter().min_by_key(|twin| twin.elsewhere.len()) else {
        return Err(first.unwrap_or_else(|| Failure::Refused("nobody could read it".into())));
    };
    let elsewhere = most.elsewhere.iter().map(|(role, why)| {
        let other = twins.iter().find(|twin| twin.holds_for(*role));
        (*role, other.map(|twin| Arc::from(&*twin.tree)).ok_or_else(|| why.clone()))
    });
    Ok(Read { tree: Arc::from(&*most.tree), elsewhere: elsewhere.collect() })
}
