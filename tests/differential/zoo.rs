//! Policies of public projects (`tests/zoo`): plan, grants and oracle against a real SELECT of every row by every
//! person.

use std::collections::BTreeSet;

use walcast::authz::Verdict;

use crate::support::zoo::{Person, Zoo, ZooTable, files};

/// What walcast decides today: grants and plan from the catalog, policies by asking Postgres.
pub(super) async fn by_oracle(zoo: &Zoo, table: &ZooTable, person: &Person) -> Vec<bool> {
    if !table.is_granted(person) {
        return vec![false; table.keys.len()];
    }
    let verdicts = zoo.ground.judge(&table.table, &person.identity).await;
    let verdicts = verdicts.unwrap_or_else(|_| vec![Verdict::Failed; table.keys.len()]);
    verdicts.into_iter().map(|verdict| verdict.is_allowed()).collect()
}

#[tokio::test]
async fn the_oracle_decides_the_zoo_as_a_select_does() {
    let zoo = Zoo::load().await;
    let tallies = zoo.compare(async |table, person| by_oracle(&zoo, table, person).await).await;
    let (mut asked, mut shown, mut wrong, mut unbalanced) = (0, 0, Vec::new(), Vec::new());
    for (table, tally) in zoo.tables.iter().zip(tallies) {
        let remark = table.lopsided.as_deref().map_or_else(String::new, |why| format!(" ({why})"));
        println!("{:42} {:3} of {:3} shown{remark}", table.name(), tally.shown, tally.asked);
        if tally.is_balanced() == table.lopsided.is_some() {
            unbalanced.push(format!("{}: {} of {}", table.name(), tally.shown, tally.asked));
        }
        asked += tally.asked;
        shown += tally.shown;
        wrong.extend(tally.wrong);
    }
    println!("{asked} decisions about {} tables, {shown} shown, {} wrong", zoo.tables.len(), wrong.len());
    assert!(wrong.is_empty(), "{} of {asked} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(unbalanced.is_empty(), "proves little, or is marked for nothing:\n{}", unbalanced.join("\n"));
}

/// What stands above a policy.
pub(super) struct Citation {
    pub number: usize,
    repository: String,
    /// As the file names it.
    pub table: String,
    pub policy: String,
}

/// ```sql
/// -- [12] kind: what it does.
/// -- owner/name: path/of/the/file.sql
/// create policy ...
/// ```
pub(super) fn citations() -> Vec<Citation> {
    let mut cited = Vec::new();
    for (name, text) in files() {
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let Some((number, _)) = line.strip_prefix("-- [").and_then(|rest| rest.split_once(']')) else { continue };
            let source = lines[at + 1].strip_prefix("-- ").and_then(|source| source.split_once(": "));
            let (repository, path) = source.unwrap_or_else(|| panic!("{name}: [{number}] has no source"));
            assert!(repository.contains('/') && !path.is_empty(), "{name}: [{number}] has no source");
            let named = lines[at + 2].strip_prefix("create policy ").and_then(|rest| rest.split_once(" on "));
            let (policy, rest) = named.unwrap_or_else(|| panic!("{name}: [{number}] is not above a policy"));
            let table = rest.split([' ', ';']).next().unwrap_or_default().replace('"', "");
            cited.push(Citation {
                number: number.parse().expect("a number"),
                repository: repository.to_owned(),
                table,
                policy: policy.trim_matches('"').to_owned(),
            });
        }
    }
    cited
}

#[tokio::test]
async fn every_policy_of_the_zoo_is_cited() {
    let cited = citations();
    let numbers: Vec<usize> = cited.iter().map(|citation| citation.number).collect();
    assert_eq!(numbers, (1..=cited.len()).collect::<Vec<_>>());
    let repositories: BTreeSet<&str> = cited.iter().map(|citation| citation.repository.as_str()).collect();
    println!("{} policies of {} repositories", cited.len(), repositories.len());
    assert!(cited.len() >= 60 && repositories.len() >= 10);

    let readme = include_str!("../zoo/README.md");
    let listed = readme.lines().filter(|line| line.starts_with("| ")).count();
    assert_eq!(listed, cited.len() + 2, "a row per policy, and the head of the table");

    // Three of ours have only to be there for the restrictive ones beside them.
    let ground = Zoo::ground().await;
    let sql = "select count(*) filter (where cmd in ('SELECT', 'ALL') and qual is not null), count(*)
               from pg_policies where (schemaname ^@ 'zoo_' or tablename ^@ 'zoo_')
                 and not (schemaname = 'zoo_mfaguide' and policyname = 'users')";
    let row = ground.database.client.query_one(sql, &[]).await.expect("pg_policies");
    let (readable, all): (i64, i64) = (row.get(0), row.get(1));
    assert_eq!((readable as usize, all as usize), (cited.len(), cited.len()));
}
