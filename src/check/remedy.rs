//! How to rewrite what keeps a policy from being decided in-process.

use tokio_postgres::Client;

use crate::authz::policy::NotCompiled;
use crate::catalog::Catalog;
use crate::setup::tracking::{Obstacle, obstacle};

/// Why a policy is left to Postgres, with names where the compiler knows numbers, and the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remedy {
    pub reason: String,
    /// SQL, a command, or a way to rewrite it.
    pub statement: String,
}

pub(crate) async fn remedy(
    client: &Client,
    catalog: &Catalog,
    why: &NotCompiled,
) -> Result<Remedy, tokio_postgres::Error> {
    let name = match why {
        NotCompiled::Operator(oid) => name_of(client, "regoperator", *oid).await?,
        NotCompiled::Function(oid) => name_of(client, "regprocedure", *oid).await?,
        NotCompiled::Type(oid) => name_of(client, "regtype", *oid).await?,
        _ => String::new(),
    };
    let reason = match why {
        NotCompiled::Operator(_) => format!("operator {name} is not known here"),
        NotCompiled::Function(_) => format!("function {name} is not known here"),
        NotCompiled::Type(_) => format!("values of type {name} are not known here"),
        other => other.to_string(),
    };
    Ok(Remedy { reason, statement: statement(catalog, why, &name) })
}

async fn name_of(client: &Client, kind: &str, oid: u32) -> Result<String, tokio_postgres::Error> {
    // Of three fixed words.
    let sql = format!("select $1::pg_catalog.oid::pg_catalog.{kind}::text");
    Ok(client.query_one(&sql, &[&oid]).await?.get(0))
}

fn statement(catalog: &Catalog, why: &NotCompiled, name: &str) -> String {
    match why {
        NotCompiled::Tree(what) if what.contains("too large") => {
            "make it smaller: functions that call functions, and policies of tables that policies read, all count"
                .into()
        }
        NotCompiled::Tree(_) => "run walcast check again; if that stays, this Postgres is newer than walcast".into(),
        NotCompiled::Node(what) => of_node(what).into(),
        NotCompiled::Operator(_) => of_operator(name).into(),
        NotCompiled::Function(_) => of_function(name).into(),
        NotCompiled::Body { name, why } => of_body(name, why),
        NotCompiled::Type(_) => {
            format!(
                "compare a column of a plain type (text, a number, uuid, a date or time, jsonb, an array) instead of {name}"
            )
        }
        NotCompiled::Setting(what) => of_setting(what),
        NotCompiled::Collation => {
            "compare under the C collation: a < b collate \"C\"; or declare the column so. Equality needs nothing"
                .into()
        }
        NotCompiled::Table { relation, name, .. } => match catalog.any_relation(*relation) {
            Some(relation) => match obstacle(catalog, relation) {
                Some(Obstacle { statement, .. }) => statement,
                None => format!("walcast setup -- it puts {name} into walcast's own publication"),
            },
            None => format!("walcast setup -- it puts {name} into walcast's own publication"),
        },
        NotCompiled::Constant => "take the constant expression that fails out of the policy".into(),
        NotCompiled::Fails(_) => {
            "mend the policy: a SELECT under it ends in that error, and shows nobody anything".into()
        }
        NotCompiled::Query(what) => of_query(what).into(),
    }
}

fn of_node(what: &str) -> &'static str {
    match what {
        "the time of day" => "compare a timestamptz with now()",
        "a cast to a domain" => "cast to the domain's base type",
        "a row as a whole" => "name the columns instead of the row",
        "CASE of a large expression" => "write it as CASE WHEN .. or with AND and OR",
        _ => "write it with comparisons, AND, OR, IN, CASE, COALESCE and EXISTS (select ..)",
    }
}

fn of_operator(name: &str) -> &'static str {
    if name.starts_with("~~*") || name.starts_with("!~~*") {
        "ILIKE depends on the locale: compare with LIKE"
    } else if name.starts_with('~') || name.starts_with("!~") {
        "a regular expression: use LIKE, or a list with IN"
    } else {
        "use a comparison (=, <>, <, >), LIKE, IN, or @> of jsonb and arrays"
    }
}

fn of_function(name: &str) -> &'static str {
    let starts = |words: &[&str]| words.iter().any(|word| name.starts_with(word));
    if starts(&["regexp_", "similar_", "textregex"]) {
        "a regular expression: use LIKE, or a list with IN"
    } else if starts(&["clock_timestamp", "statement_timestamp", "timeofday"]) {
        "use now(): it is the time of the commit"
    } else if starts(&["random", "gen_random_uuid", "nextval", "txid_", "pg_current_xact"]) {
        "its value is another one at every call: keep what it is to decide in a column"
    } else {
        "keep its result in a column (not a generated one), or compare without it"
    }
}

fn of_body(name: &str, why: &str) -> String {
    if why.starts_with("it is written in") {
        return format!(
            "create or replace function {name} .. language sql stable as 'select ..': one query, the same result"
        );
    }
    if let Some(setting) = why.strip_prefix("it sets ") {
        let setting = setting.split('=').next().unwrap_or(setting);
        return format!("alter function {name} reset {setting}; -- if nothing in it depends on that");
    }
    let with_role = |words: &str| why.strip_suffix(words).and_then(|rest| rest.strip_prefix("role "));
    if let Some(role) = with_role(" may not execute it") {
        return format!("grant execute on function {name} to {role};");
    }
    if let Some(role) = with_role(" may not use its schema") {
        return format!("grant usage on schema <the schema of {name}> to {role};");
    }
    if why.contains("has not been read") || why.contains("mean to the role") {
        return "walcast setup -- the oracle's login reads the bodies of functions, and has to be a member of the role"
            .into();
    }
    if why.contains("volatile") || why.contains("VOLATILE") {
        return format!("alter function {name} stable; -- if it writes nothing");
    }
    if why.contains("calls itself") || why.contains("call each other") {
        return "write it without recursion: keep the ancestors of each row in a table".into();
    }
    format!(
        "create or replace function {name} .. language sql stable as 'select ..': one SELECT of one column of the declared type"
    )
}

fn of_setting(what: &str) -> String {
    match what {
        "TimeZone" => "alter role <role> reset timezone; alter database <database> set timezone = 'UTC'; -- or compare timestamptz \
                       with timestamptz"
            .into(),
        "DateStyle" | "IntervalStyle" => {
            format!("alter role <role> reset {what}; -- of the role and the database; or compare without casting to text")
        }
        "session_user" => "use current_user, or a claim".into(),
        _ => "put it into the token, and read it from the claims: auth.jwt() ->> '..'".into(),
    }
}

fn of_query(what: &str) -> &'static str {
    if what.contains("outer join") {
        "use an inner join, or two EXISTS (select ..) with OR"
    } else if what.contains("RECURSIVE") {
        "keep the ancestors of each row in a table, and read that"
    } else if what.contains("LIMIT") || what.contains("first counts") || what.contains("first row") {
        "use EXISTS (select ..), or max() or min() of the column"
    } else if what.contains("DISTINCT") || what.contains("UNION") || what.contains("INTERSECT") {
        "use EXISTS (select ..) with AND, OR and NOT"
    } else if what.contains("aggregate") {
        "use EXISTS (select ..), count(*), or keep the result in a column"
    } else {
        "write it as EXISTS (select .. where ..) of tables that are joined by ="
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_obstacle_has_its_own_way_out() {
        let plpgsql = of_body("public.f(integer)", "it is written in plpgsql; walcast looks into LANGUAGE sql only");
        assert!(plpgsql.contains("function public.f(integer) .. language sql"), "{plpgsql}");
        assert_eq!(
            of_body("f()", "it sets work_mem=1MB"),
            "alter function f() reset work_mem; -- if nothing in it depends on that"
        );
        assert_eq!(of_body("f()", "role \"anon\" may not execute it"), "grant execute on function f() to \"anon\";");
        assert!(of_operator("~(text,text)").contains("LIKE"));
        assert!(of_operator("~~*(text,text)").starts_with("ILIKE"));
        assert!(of_function("clock_timestamp()").contains("now()"));
        assert!(of_query("an outer join").contains("inner join"));
        assert!(of_setting("TimeZone").contains("UTC"));
    }
}
