//! Row-level security policies.

use super::Oid;

/// The command a policy is for. Only `Select` and `All` decide what may be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyCommand {
    All,
    Select,
    Insert,
    Update,
    Delete,
}

/// A row of `pg_policy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub oid: Oid,
    pub name: String,
    pub permissive: bool,
    pub command: PolicyCommand,
    /// Role OIDs; 0 stands for PUBLIC.
    pub roles: Vec<Oid>,
    /// `polqual::text`, the `pg_node_tree`. `None`: no USING clause. Such a policy
    /// shows nothing where it is permissive, and hides nothing where it is restrictive.
    pub using_tree: Option<String>,
    /// `pg_get_expr(polqual, polrelid)` under an empty search_path. `None` with a tree present: it could not be
    /// deparsed at that moment (a lock was in the way), and nothing can be asked with this policy; or the table is not
    /// published, so that nothing ever is.
    pub using_text: Option<String>,
    /// Columns of the table that the USING expression reads, by attribute number; `None` where it reads the whole
    /// row or system columns, or where that is not known.
    pub columns: Option<Vec<i16>>,
}
