//! Which columns of its own table a policy reads, from its expression tree.
//!
//! `pg_policy.polqual` is a `pg_node_tree`: the text that Postgres' `outfuncs.c` writes. Only its `VAR` and `QUERY`
//! nodes are looked at; their fields have kept their names from 14 to 18.

use super::policy::tree::Reader;

/// What a policy reads of its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PolicyReads {
    /// These attribute numbers, in order, each once.
    Columns(Vec<i16>),
    /// The row as a whole (`f(tab)`).
    WholeRow,
    /// `ctid`, `xmin`, `tableoid`...
    SystemColumn,
    /// The tree does not look as expected.
    Unknown,
}

pub(super) fn policy_reads(tree: &str) -> PolicyReads {
    scan(tree).unwrap_or(PolicyReads::Unknown)
}

fn scan(tree: &str) -> Option<PolicyReads> {
    let mut attnums = Vec::new();
    let mut tokens = Reader::new(tree);
    // The node names that enclose the present place; the policy's table is range table entry 1 outside of every
    // sub-query, so a variable is the table's if it looks past all QUERY nodes around it.
    let mut open: Vec<&str> = Vec::new();
    let mut queries = 0;
    let mut var = Var::default();
    while let Some(token) = tokens.token() {
        match token {
            "{" => {
                let name = tokens.token()?;
                queries += i64::from(name == "QUERY");
                if name == "VAR" {
                    var = Var::default();
                }
                open.push(name);
            }
            "}" => {
                let name = open.pop()?;
                queries -= i64::from(name == "QUERY");
                if name == "VAR" {
                    let (varno, attnum, levels_up) = (var.varno?, var.varattno?, var.varlevelsup?);
                    if varno == 1 && levels_up == queries {
                        attnums.push(attnum);
                    }
                }
            }
            field if open.last() == Some(&"VAR") => match field {
                ":varno" => var.varno = number(&mut tokens),
                ":varattno" => var.varattno = number(&mut tokens),
                ":varlevelsup" => var.varlevelsup = number(&mut tokens),
                _ => {}
            },
            _ => {}
        }
    }
    if !open.is_empty() {
        return None;
    }
    attnums.sort_unstable();
    attnums.dedup();
    Some(match attnums.first() {
        Some(..0) => PolicyReads::SystemColumn,
        Some(0) => PolicyReads::WholeRow,
        _ => PolicyReads::Columns(attnums.into_iter().map(i16::try_from).collect::<Result<_, _>>().ok()?),
    })
}

fn number(tokens: &mut Reader<'_>) -> Option<i64> {
    tokens.token()?.parse().ok()
}

#[derive(Default)]
struct Var {
    varno: Option<i64>,
    varattno: Option<i64>,
    varlevelsup: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn var(varno: i32, attnum: i32, levels: i32) -> String {
        format!("{{VAR :varno {varno} :varattno {attnum} :vartype 23 :varlevelsup {levels} :varnosyn 1 :location 9}}")
    }

    #[test]
    fn columns_are_those_of_the_policys_own_table() {
        let tree = format!("{{OPEXPR :opno 96 :args ({} {})}}", var(1, 3, 0), var(1, 2, 0));
        assert_eq!(policy_reads(&tree), PolicyReads::Columns(vec![2, 3]));
    }

    #[test]
    fn inside_a_sub_query_only_what_looks_out_of_it_counts() {
        let inner = format!("({} {} {})", var(1, 7, 0), var(1, 4, 1), var(2, 5, 1));
        let tree = format!("{{SUBLINK :subselect {{QUERY :jointree {{FROMEXPR :quals {inner}}}}}}}");
        assert_eq!(policy_reads(&tree), PolicyReads::Columns(vec![4]));
    }

    #[test]
    fn system_columns_and_whole_rows_are_told_apart() {
        assert_eq!(policy_reads(&format!("({} {})", var(1, -1, 0), var(1, 0, 0))), PolicyReads::SystemColumn);
        assert_eq!(policy_reads(&format!("({} {})", var(1, 5, 0), var(1, 0, 0))), PolicyReads::WholeRow);
        assert_eq!(policy_reads("{CONST :constvalue 1 [ 1 0 ]}"), PolicyReads::Columns(vec![]));
    }

    #[test]
    fn brackets_in_names_are_no_brackets() {
        let tree = format!(r"{{RTE :alias a\{{b\ \) :x {}}}", var(1, 6, 0));
        assert_eq!(policy_reads(&tree), PolicyReads::Columns(vec![6]));
    }

    #[test]
    fn what_is_no_tree_is_unknown() {
        for text in ["{VAR :varno 1}", "{QUERY", "}", "{VAR :varno x :varattno 1 :varlevelsup 0}"] {
            assert_eq!(policy_reads(text), PolicyReads::Unknown, "{text}");
        }
    }
}
