//! Whether an identity may see a row: plan and oracle, over the row's image, against a real SELECT of the row.
//!
//! The real SELECT runs on the same login, under `SET LOCAL ROLE` and `request.jwt.claims`, one row at a time (an
//! error in one row would take the others with it). How many decisions: `WALCAST_DIFFERENTIAL_DECISIONS`.
//!
//! Known to differ, and left out or counted apart:
//! - policies on `ctid`, `xmin` and `tableoid` are denied by plan (`authz::plan`);
//! - policies with side effects: a SELECT evaluates the cheapest of several AND-ed conditions first, the oracle goes
//!   by the text;
//! - a claim that cannot be read (`sub` is no UUID) in a policy like `public OR owner = auth.uid()`: Postgres' planner
//!   tries `auth.uid()` to estimate how many rows there will be, and its error ends the SELECT even where the rows are
//!   public. The oracle gives the policy's own answer. Such decisions are those that EXPLAIN alone fails on.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tokio_postgres::{Client, SimpleQueryMessage};
use walcast::authz::{Identity, Verdict};

use super::{number_from_env, random};
use crate::support::database::connect;
use crate::support::policies::{Ground, cluster, identity};

struct Case {
    name: &'static str,
    /// `T` stands for the table.
    sql: &'static str,
    /// Why less than a fifth of its decisions are yes, or no.
    lopsided: Option<&'static str>,
}

const fn case(name: &'static str, sql: &'static str) -> Case {
    Case { name, sql, lopsided: None }
}

const fn lopsided(name: &'static str, sql: &'static str, why: &'static str) -> Case {
    Case { name, sql, lopsided: Some(why) }
}

const CASES: &[Case] = &[
    case("ownership", "create policy p on T using (owner = auth.uid())"),
    case("ownership, computed once", "create policy p on T using ((select auth.uid()) = owner)"),
    case(
        "ownership, spelled out",
        "create policy p on T using (owner::text = current_setting('request.jwt.claims', true)::json ->> 'sub')",
    ),
    case("ownership, null-safe", "create policy p on T using (owner is not distinct from auth.uid())"),
    case("not mine", "create policy p on T using (owner <> auth.uid() or owner is null)"),
    case("tenancy by claim", "create policy p on T using (tenant = auth.jwt() ->> 'tenant')"),
    case("tenancy by helper", "create policy p on T using (tenant = (select tenant()))"),
    case(
        "tenancy by profile",
        "create policy p on T using (tenant = (select tenant from profiles where id = auth.uid()))",
    ),
    case("tenancy with a default", "create policy p on T using (coalesce(tenant, 't1') = coalesce(tenant(), 't2'))"),
    case(
        "membership, EXISTS",
        "create policy p on T using (exists (select 1 from members m where m.team = T.team and m.who = auth.uid()))",
    ),
    case(
        "membership, IN",
        "create policy p on T using (team in (select team from members where who = (select auth.uid())))",
    ),
    case(
        "membership, ANY of an array",
        "create policy p on T using (team = any (array(select m.team from members m where m.who = auth.uid())))",
    ),
    case(
        "membership, names that collide",
        "create policy p on T using (exists (select from members T2, teams docs where T2.who = auth.uid() and T2.team = T.team) or exists (select from members where members.team = team and who = auth.uid() and T.team = 1))",
    ),
    case(
        "membership with a level",
        "create policy p on T using (exists (select from members m where m.team = T.team and m.who = auth.uid() and may_read(m.level)) or public)",
    ),
    case(
        "two hops",
        "create policy p on T using (exists (select from teams t join org_members o on o.org = t.org where t.id = T.team and o.who = auth.uid()))",
    ),
    case("membership that is judged itself", "create policy p on T using (team in (select team from own_members))"),
    case(
        "not blocked",
        "create policy p on T using (not exists (select from blocks b where b.doc = T.id and b.who = auth.uid()))",
    ),
    case("public flag", "create policy p on T using (public)"),
    case("public or mine", "create policy p on T using (public is true or owner = auth.uid())"),
    case("time window", "create policy p on T using (now() between opens and coalesce(closes, 'infinity'))"),
    case("local time", "create policy p on T using (extract(hour from opens) < 12 or opens::date = '2026-01-02')"),
    case(
        "claims deep down",
        "create policy p on T using (coalesce(auth.jwt() -> 'app_metadata' -> 'roles', '[]') ? 'admin' or score > 5)",
    ),
    case("claims by path", "create policy p on T using (auth.jwt() #>> '{app_metadata,org}' = (team / 3 + 1)::text)"),
    case("an array in the claims", "create policy p on T using ((select auth.jwt()) -> 'teams' @> to_jsonb(team))"),
    case(
        "an array of the claims, unrolled",
        "create policy p on T using (team in (select value::int from jsonb_array_elements_text(auth.jwt() -> 'teams')))",
    ),
    case("tags", "create policy p on T using (tags && array['red', 'blue'] and cardinality(tags) > 1)"),
    case("json of the row", "create policy p on T using ((meta ->> 'level')::int >= 2 and meta ? 'level')"),
    case("patterns and case", "create policy p on T using (title ilike 'a%' or title ~ '^[B-M]' collate \"C\")"),
    case("enum order", "create policy p on T using (grade < 'final')"),
    case("numbers", "create policy p on T using (amount / 3 > 1.5 and amount <> 'NaN')"),
    case("odd names", "create policy \"p \"\"q\" on T using (length(\"Quoted Name\") > 4)"),
    case(
        "CASE",
        "create policy p on T using (case when score > 7 then true when public then auth.uid() is not null else false end)",
    ),
    case("SECURITY DEFINER", "create policy p on T using (is_member(team))"),
    case("SECURITY DEFINER, computed once", "create policy p on T using (team in (select my_teams()))"),
    case("plpgsql", "create policy p on T using (is_member_slowly(team))"),
    case("plpgsql that catches", "create policy p on T using (claim('tenant') = tenant or score < 3)"),
    case(
        "a function of the row",
        "create function sees_T(T) returns bool language sql stable as $$ select $1.owner = auth.uid() or $1.public $$; create policy p on T using (sees_T(T))",
    ),
    case(
        "a plpgsql function of the row",
        "create function sees_T(row_of T) returns bool language plpgsql as $$ begin return row_of.score > 4 and row_of.slug is not null; end $$; create policy p on T using (sees_T(T.*))",
    ),
    case("the row as JSON", "create policy p on T using ((to_jsonb(T) ->> 'score')::int % 2 = 0)"),
    case("a generated column", "create policy p on T using (slug like '%-_' and slug < 'm')"),
    case(
        "several permissive",
        "create policy a on T using (owner = auth.uid()); create policy b on T for select using (public); create policy c on T for update using (true)",
    ),
    case(
        "restrictive",
        "create policy a on T using (true); create policy r on T as restrictive using (public or owner = auth.uid())",
    ),
    case(
        "two restrictive",
        "create policy a on T using (score > 0); create policy r on T as restrictive using (score < 9); create policy s on T as restrictive for select using (public is not true)",
    ),
    case(
        "for a role",
        "create policy a on T to authenticated using (true); create policy b on T to anon using (public)",
    ),
    case("for a list of roles", "create policy a on T to editor, anon, heir using (score > 2)"),
    case(
        "restrictive for a role",
        "create policy a on T using (true); create policy r on T as restrictive to authenticated using (score > 6)",
    ),
    case(
        "roles asked for",
        "create policy p on T using (pg_has_role(current_user, 'authenticated', 'usage') and score > 3)",
    ),
    case(
        "who one is",
        "create policy p on T using (current_user = any (array['anon', 'editor', 'guest', 'heir']) and session_user = 'oracle')",
    ),
    case("the owner and his heirs pass", "create policy p on T using (score > 5); alter table T owner to owner"),
    case(
        "FORCE",
        "create policy p on T using (score > 5); alter table T owner to owner; alter table T force row level security",
    ),
    case("a division by zero", "create policy p on T using (10 / (score - 3) >= 0)"),
    case(
        "an error that another policy forestalls",
        "create policy a on T using (10 / (score - 3) > 2); create policy z on T using (score = 3)",
    ),
    case(
        "an error that no policy forestalls",
        "create policy a on T using (score = 3 or score > 6); create policy z on T using (1 / (score - 3) > 5)",
    ),
    case("a cast of the row that may fail", "create policy p on T using (title::int > 0 or title is null)"),
    case(
        "a cast of a claim that may fail",
        "create policy p on T using ((auth.jwt() ->> 'sub')::uuid is not null and score > 2)",
    ),
    lopsided("nothing", "", "no policy: never"),
    lopsided("only for writing", "create policy p on T for insert with check (true)", "no policy for SELECT: never"),
    lopsided(
        "recursion",
        "create policy p on T using (exists (select from T t2 where t2.id = T.id))",
        "an error: never",
    ),
    lopsided(
        "not to be executed",
        "create function f_T() returns bool language sql as 'select true'; revoke execute on function f_T() from public; create policy p on T using (f_T())",
        "an error: never",
    ),
    lopsided(
        "a table not to be read",
        "create policy p on T using (exists (select from hidden_members h where h.team = T.team))",
        "an error: never",
    ),
    lopsided("restrictive alone", "create policy p on T as restrictive using (true)", "nothing permits: never"),
    lopsided("everything", "create policy p on T using (true)", "always"),
    lopsided("null", "create policy p on T using (null)", "never"),
];

/// Two people, so that what belongs to one of them is not a rarity; each in several guises.
fn identities() -> Vec<Identity> {
    const ANN: &str = "00000000-0000-0000-0000-00000000000a";
    const BOB: &str = "00000000-0000-0000-0000-00000000000b";
    let ann = format!(
        r#"{{"sub":"{ANN}","role":"authenticated","tenant":"t1","teams":[1,2],"app_metadata":{{"roles":["admin","x"],"org":1}},"exp":1}}"#
    );
    let bob = format!(
        r#"{{"sub":"{BOB}","tenant":"t2","teams":[3,2],"app_metadata":{{"org":2,"roles":[]}},"name":"O'Neil \"\\ é"}}"#
    );
    vec![
        identity("authenticated", &ann),
        identity("authenticated", &bob),
        identity("authenticated", &format!(r#"{{"sub":"{ANN}","tenant":null,"teams":[4],"app_metadata":null}}"#)),
        identity("editor", &bob),
        identity("heir", &ann),
        identity("guest", &bob),
        identity("anon", r#"{"role":"anon","tenant":"t1","teams":[1,3]}"#),
        identity("authenticated", r#"{"sub":"not-a-uuid","tenant":"t2","teams":["4", null]}"#),
        identity("anon", ""),
    ]
}

/// Values dealt like cards: each as often as it is written, in random order.
struct Deck {
    cards: &'static [&'static str],
    dealt: Vec<&'static str>,
}

impl Deck {
    fn deal(&mut self, random: &mut StdRng) -> &'static str {
        if self.dealt.is_empty() {
            self.dealt = self.cards.to_vec();
            self.dealt.shuffle(random);
        }
        self.dealt.pop().expect("a deck has cards")
    }
}

/// A deck per column of `docs` after the first, as SQL.
fn decks() -> Vec<Deck> {
    const ANN: &str = "'00000000-0000-0000-0000-00000000000a'";
    const BOB: &str = "'00000000-0000-0000-0000-00000000000b'";
    let columns: [&[&str]; 13] = [
        &[ANN, BOB, ANN, BOB, "null"],
        &["'t1'", "'t2'", "'t1'", "'t2'", "null"],
        &["1", "2", "3", "4"],
        &["true", "false", "true", "null"],
        &["'2026-01-02 03:04:05+00'", "'2020-02-29 23:59:59.999999+14'", "'2999-01-01'", "'-infinity'", "null"],
        &["'2999-12-31'", "'2021-01-01'", "null", "'infinity'"],
        &["'{red,green}'", "'{blue,\"a \\\"b\\\\\"}'", "'{red}'", "'{}'", "'{NULL,red}'", "null"],
        &["'{\"level\": 1}'", "'{\"level\": 2, \"x\": \"\\\"\"}'", "'{\"level\": \"3\"}'", "'[]'", "null"],
        &["'Alpha'", "'beta, (x)'", "'Mu\"\\'", "'12'", "'7'", "''", "null", "'Éa'"],
        &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
        &["1.50", "12345678901234567890.123", "'NaN'", "-0.0", "9", "null"],
        &["'draft'", "'review'", "'final'", "null"],
        &["'short'", "'four'", "'ein ''langer'' Name'", "null"],
    ];
    columns.into_iter().map(|cards| Deck { cards, dealt: Vec::new() }).collect()
}

fn row(id: u64, decks: &mut [Deck], random: &mut StdRng) -> String {
    let values: Vec<&str> = decks.iter_mut().map(|deck| deck.deal(random)).collect();
    format!("({id}, {})", values.join(", "))
}

/// What a SELECT of one row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    Shown,
    Hidden,
    /// An error over data that the planner meets before there is any row.
    PlannerFailed,
}

async fn select(client: &Client, table: &str, who: &Identity, id: i32) -> Truth {
    let claims = who.claims.replace('\'', "''");
    let role = &who.role;
    let settings = format!("begin; select set_config('request.jwt.claims', '{claims}', true); set local role {role}");
    let select = format!("select 'shown' from {table} where id = {id}");
    let shown = |messages: Vec<SimpleQueryMessage>| {
        let is_shown = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => row.get(0) == Some("shown"),
            _ => false,
        };
        if messages.iter().any(is_shown) { Truth::Shown } else { Truth::Hidden }
    };
    if let Ok(messages) = client.simple_query(&format!("{settings}; {select}; rollback")).await {
        return shown(messages);
    }
    client.batch_execute("rollback").await.expect("rollback");
    let Err(error) = client.simple_query(&format!("{settings}; explain {select}; rollback")).await else {
        return Truth::Hidden;
    };
    client.batch_execute("rollback").await.expect("rollback");
    let over_data = error.code().is_some_and(|code| code.code().starts_with("22"));
    if over_data { Truth::PlannerFailed } else { Truth::Hidden }
}

#[tokio::test]
async fn the_oracle_decides_as_a_select_does() {
    let (mut random, _) = random();
    let identities = identities();
    let decisions = number_from_env("WALCAST_DIFFERENTIAL_DECISIONS").unwrap_or(2_000);
    let rows = decisions.div_ceil((CASES.len() * identities.len()) as u64).max(4);
    let mut decks = decks();
    let ground = Ground::new(include_str!("policies.sql")).await;
    for (n, case) in CASES.iter().enumerate() {
        let table = format!("d{n}");
        let values: Vec<String> = (1..=rows).map(|id| row(id, &mut decks, &mut random)).collect();
        ground
            .execute(&format!(
                "create table {table} (like docs including all); alter table {table} enable row level security;
                 insert into {table} values {}; {}",
                values.join(", "),
                with_table(case.sql, &table)
            ))
            .await;
    }
    ground.execute("grant select on all tables in schema public to public; revoke all on hidden_members from public, anon, authenticated, owner").await;
    let client = connect(&cluster().url("oracle", &ground.database.name)).await;

    let catalog = ground.catalog().await;
    let mut wrong = Vec::new();
    let (mut total, mut planner_failed) = (0, 0);
    for (n, case) in CASES.iter().enumerate() {
        let name = format!("d{n}");
        let table = ground.table_of(&catalog, &name).await;
        let (mut allowed, mut asked) = (0, 0);
        for who in &identities {
            let verdicts = ground.judge(&table, who).await.unwrap_or_else(|_| vec![Verdict::Failed; table.rows.len()]);
            for (id, verdict) in (1..).zip(verdicts) {
                let truth = select(&client, &name, who, id).await;
                match truth {
                    Truth::PlannerFailed if verdict.is_allowed() => planner_failed += 1,
                    _ if (truth == Truth::Shown) == verdict.is_allowed() => {}
                    _ => wrong.push(format!(
                        "{}: {} {} row {id}: {verdict:?}, not {truth:?}",
                        case.name, who.role, who.claims
                    )),
                }
                allowed += u64::from(truth == Truth::Shown);
                asked += 1;
            }
        }
        total += asked;
        let balanced = allowed * 5 >= asked && (asked - allowed) * 5 >= asked;
        println!("{:40} {allowed:5} of {asked:5} allowed{}", case.name, if balanced { "" } else { " (lopsided)" });
        // With few rows a lopsided draw is no fault of the policy.
        if asked >= 150 {
            assert_eq!(balanced, case.lopsided.is_none(), "{}: {allowed} of {asked}: proves little", case.name);
        }
    }
    println!("{total} decisions, {} wrong; {planner_failed} that the planner alone fails on", wrong.len());
    assert!(wrong.is_empty(), "{} of {total} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// `T` as a word of its own, or at the end of a name.
fn with_table(sql: &str, table: &str) -> String {
    let mut out = String::new();
    let word = |c: char| c.is_alphanumeric() || c == '"';
    let chars: Vec<char> = sql.chars().collect();
    for (at, c) in chars.iter().enumerate() {
        let alone = *c == 'T'
            && !at.checked_sub(1).is_some_and(|before| word(chars[before]))
            && !chars.get(at + 1).is_some_and(|after| word(*after));
        if alone { out.push_str(table) } else { out.push(*c) }
    }
    out
}
