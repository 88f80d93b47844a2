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
    /// By function and role: those that a tree does not hold for, and why.
    pub elsewhere: HashMap<(Oid, Oid), String>,
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
            Ok(twin) => {
                let elsewhere = twin.elsewhere.into_iter().map(|(role, why)| ((function.oid, role), why));
                bodies.elsewhere.extend(elsewhere);
                Ok(twin.tree.into())
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

/// As the login itself, then as each of its roles: until the tree holds for everybody, or else the one that holds for
/// most. Not everybody may use all the schemas that the body names.
async fn read_one(
    parser: &mut Parser<'_>,
    function: &Function,
    source: &Source,
    signature: &Signature,
    roles: &[(Oid, String)],
    runs_as: &[Oid],
) -> Result<Twin, Failure> {
    if signature.source != function.source {
        return Err(Failure::InTheWay("it has been changed".into()));
    }
    source.check()?;
    let identities = std::iter::once(None).chain(roles.iter().map(|(_, name)| Some(name.as_str())));
    let mut best: Option<Twin> = None;
    let mut first = None;
    for identity in identities {
        match parser.parse(function, source, signature, identity, runs_as).await {
            Ok(twin) => {
                let twin = Twin { tree: source.check_tree(function, twin.tree)?, ..twin };
                if best.as_ref().is_none_or(|best| twin.elsewhere.len() < best.elsewhere.len()) {
                    best = Some(twin);
                }
                if best.as_ref().is_some_and(|best| best.elsewhere.is_empty()) {
                    break;
                }
            }
            Err(session @ Failure::Session(_)) => return Err(session),
            // A lock may be in the way of the only one who could.
            Err(failure) if first.is_none() || matches!(failure, Failure::InTheWay(_)) => first = Some(failure),
            Err(_) => {}
        }
    }
    match (best, first) {
        (None, first) => Err(first.unwrap_or_else(|| Failure::Refused("nobody could read it".into()))),
        // It may hold for more people next time.
        (Some(best), Some(in_the_way @ Failure::InTheWay(_))) if !best.elsewhere.is_empty() => Err(in_the_way),
        (Some(best), _) => Ok(best),
    }
}
