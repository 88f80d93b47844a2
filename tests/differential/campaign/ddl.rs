//! Random changes of policies, functions, grants and tables, and of roles.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::grammar::{FUNCTIONS, function};
use super::persons::{GRANTEES, Person};
use super::policies::{Policy, choose};
use super::tables::Table;
use super::truth::Truth;

/// What is to be put back some time, so that a history does not end with all doors closed.
#[derive(Clone, Debug)]
pub(super) enum Undo {
    EnableRowSecurity(usize),
    Grant(usize, &'static str),
    GrantMembers(&'static str),
}

#[derive(Default)]
pub(super) struct Ddl {
    undo: Vec<Undo>,
    added: usize,
    members: Members,
}

/// The state of the inner table that most policies read.
#[derive(Default)]
struct Members {
    row_security: bool,
    whole_old: bool,
}

/// Statements, and the tables whose decisions change with them.
pub(super) struct Statement {
    pub sql: String,
    pub touched: Vec<usize>,
    pub what: &'static str,
}

impl Ddl {
    /// `lopsided`: a table whose policies say hardly anything but yes, or no, and need others.
    pub(super) async fn choose(
        &mut self,
        rng: &mut StdRng,
        truth: &Truth,
        persons: &[Person],
        tables: &mut [Table],
        lopsided: Option<usize>,
    ) -> Statement {
        if let Some(number) = lopsided {
            let policies = choose(rng, truth, persons, &tables[number]).await;
            let sql = replace_policies(&mut tables[number], policies);
            return Statement { sql, touched: vec![number], what: "policies" };
        }
        if !self.undo.is_empty() && rng.random_bool(0.6) {
            return self.put_back(tables);
        }
        let number = rng.random_range(0..tables.len());
        let table = &mut tables[number];
        let name = table.name.clone();
        let one = |what, sql| Statement { sql, touched: vec![number], what };
        match rng.random_range(0..15) {
            0..=4 => {
                let policies = choose(rng, truth, persons, table).await;
                let sql = replace_policies(table, policies);
                one("policies", sql)
            }
            5..=6 => {
                let which = FUNCTIONS.choose(rng).expect("not empty");
                Statement { sql: function(rng, which), touched: (0..tables.len()).collect(), what: "function" }
            }
            7 => {
                table.row_security = false;
                self.undo.push(Undo::EnableRowSecurity(number));
                one("row security off", format!("alter table {name} disable row level security"))
            }
            8 => {
                table.forced = !table.forced;
                let force = if table.forced { "force" } else { "no force" };
                one("force", format!("alter table {name} {force} row level security"))
            }
            9 => {
                let role = *GRANTEES.choose(rng).expect("not empty");
                self.undo.push(Undo::Grant(number, role));
                one("grants", revoke(rng, &name, role))
            }
            10 => {
                self.added += 1;
                one("column", format!("alter table {name} add column added{} text default 'x'", self.added))
            }
            11 => {
                table.whole_old = !table.whole_old;
                let identity = if table.whole_old { "full" } else { "default" };
                one("replica identity", format!("alter table {name} replica identity {identity}"))
            }
            _ => {
                let sql = self.members(rng);
                Statement { sql, touched: (0..tables.len()).collect(), what: "inner table" }
            }
        }
    }

    fn members(&mut self, rng: &mut StdRng) -> String {
        match rng.random_range(0..4) {
            0 => {
                self.members.row_security = !self.members.row_security;
                let enable = if self.members.row_security { "enable" } else { "disable" };
                format!("alter table members {enable} row level security")
            }
            1 => {
                self.members.whole_old = !self.members.whole_old;
                let identity = if self.members.whole_old { "full" } else { "default" };
                format!("alter table members replica identity {identity}")
            }
            2 => {
                let role = if rng.random_bool(0.3) { "authenticated" } else { "guest" };
                self.undo.push(Undo::GrantMembers(role));
                format!("revoke select on members from {role}")
            }
            _ => {
                self.added += 1;
                format!("alter table members add column added{} int default 1", self.added)
            }
        }
    }

    /// Undoes one of what is to be undone.
    fn put_back(&mut self, tables: &mut [Table]) -> Statement {
        let undo = self.undo.pop().expect("the caller has looked");
        let (number, sql, what) = match undo {
            Undo::GrantMembers(role) => {
                let touched = (0..tables.len()).collect();
                return Statement { sql: format!("grant select on members to {role}"), touched, what: "inner table" };
            }
            Undo::EnableRowSecurity(number) => {
                tables[number].row_security = true;
                (number, format!("alter table {} enable row level security", tables[number].name), "row security on")
            }
            Undo::Grant(number, role) => {
                (number, format!("grant select on {} to {role}", tables[number].name), "grants")
            }
        };
        Statement { sql, touched: vec![number], what }
    }

    /// All that is left to be undone: whoever joins needs it.
    pub(super) fn put_all_back(&mut self, tables: &mut [Table]) -> Vec<Statement> {
        let mut statements = Vec::new();
        while !self.undo.is_empty() {
            statements.push(self.put_back(tables));
        }
        statements
    }
}

/// Of `authenticated` only columns that no filter of a client names; of the others all, or all but a few columns.
fn revoke(rng: &mut StdRng, table: &str, role: &str) -> String {
    if role != "authenticated" && rng.random_bool(0.5) {
        return format!("revoke select on {table} from {role}");
    }
    let columns = "id, n, org, owner, kind, expires";
    format!("revoke select on {table} from {role}; grant select ({columns}) on {table} to {role}")
}

/// By ALTER POLICY where the sets have one policy each, else by DROP and CREATE.
fn replace_policies(table: &mut Table, mut policies: Vec<Policy>) -> String {
    let name = &table.name;
    let sql = match (&table.policies[..], &mut policies[..]) {
        ([old], [new]) => {
            new.name = old.name.clone();
            format!("alter policy {} on {name} to {} using ({})", old.name, new.roles, new.expression.sql)
        }
        (old, new) => {
            let drop = old.iter().map(|policy| format!("drop policy {} on {name}", policy.name));
            drop.chain(new.iter().map(|policy| policy.create(name))).collect::<Vec<_>>().join("; ")
        }
    };
    table.policies = policies;
    sql
}

/// What no event trigger sees; the relay's poll does.
#[derive(Default)]
pub(super) struct Roles {
    editor_left_staff: bool,
    auditor_is_owner: bool,
}

impl Roles {
    pub(super) fn choose(&mut self, rng: &mut StdRng) -> &'static str {
        if rng.random_bool(0.5) {
            self.editor_left_staff = !self.editor_left_staff;
            if self.editor_left_staff { "revoke staff from editor" } else { "grant staff to editor" }
        } else {
            self.auditor_is_owner = !self.auditor_is_owner;
            if self.auditor_is_owner { "grant keeper to auditor" } else { "revoke keeper from auditor" }
        }
    }
}

/// Roles are the cluster's: the next history starts with these.
pub(super) const ROLES_AS_MADE: &str = "grant staff to editor; revoke keeper from auditor";
