//! What is written and by whom it may be read: five tables of the same columns, one for each way of deciding, and the
//! people. `n` is a row's number, used once for ever; `v` counts its updates: both name a change.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use crate::support::relay::JWT_SECRET;

/// `members` decides of posts in memory, `readers` of letters in a function that only Postgres can run. `chronicle` says
/// in the stream itself what policies are; `audit` is the writers' own account.
const GROUND: &str = "
    create table members (room int, person uuid, primary key (room, person));
    create table readers (lane int, person uuid, primary key (lane, person));
    create table chronicle (id bigserial primary key, relation text not null, strict boolean not null);
    create table audit (relation text not null, operation text not null, n bigint not null, v int not null);
    create function note_down() returns trigger language plpgsql as $$
    begin
      if tg_op = 'DELETE' then
        insert into audit values (tg_table_name, tg_op, old.n, old.v);
      else
        insert into audit values (tg_table_name, tg_op, new.n, new.v);
      end if;
      return null;
    end $$;
    create function may_read(reader_of uuid, of_lane int) returns boolean language plpgsql stable as $$
    begin
      return reader_of = auth.uid()
        or exists (select from public.readers r where r.lane = of_lane and r.person = auth.uid());
    end $$;
    grant select on members, readers to authenticated;";

const TRUTH: &str = "
    create publication truth for table plaza, notes, posts, letters, ticks, members, readers, chronicle;";

/// Rows of this lane of `ticks` end the run: everybody is subscribed to them.
pub const LAST_LANE: i32 = 99;
pub const LANES: i32 = 8;
/// Where bulk goes: some listen to it all the same.
pub const BULK_LANE: i32 = 7;
pub const ROOMS: i32 = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Without row-level security.
    Plaza,
    /// Its owner's, and admins'.
    Notes,
    /// For members of its room.
    Posts,
    /// Its owner's, and the readers' of its lane, as a function says.
    Letters,
    /// Open to all, one a second, so that everybody's position moves.
    Ticks,
}

impl Table {
    pub const ALL: [Table; 5] = [Table::Plaza, Table::Notes, Table::Posts, Table::Letters, Table::Ticks];

    pub fn name(self) -> &'static str {
        ["plaza", "notes", "posts", "letters", "ticks"][self as usize]
    }

    pub fn named(name: &str) -> Option<Table> {
        Table::ALL.into_iter().find(|table| table.name() == name)
    }

    /// The policy's expression: as it began, another way to say the same, and a stricter one.
    pub fn policy(self, wording: usize) -> String {
        let admin = "(auth.jwt() -> 'app_metadata' ->> 'role') = 'admin'";
        let wordings = match self {
            Table::Plaza | Table::Ticks => return String::from("true"),
            Table::Notes => {
                [format!("owner = auth.uid() or {admin}"), format!("(select auth.uid()) = owner or {admin}")]
            }
            Table::Posts => [
                "exists (select from members m where m.room = posts.room and m.person = auth.uid())".into(),
                "room in (select m.room from members m where m.person = auth.uid())".into(),
            ],
            Table::Letters => ["may_read(owner, lane)".into(), "true and may_read(owner, lane)".into()],
        };
        match wording {
            0 | 1 => wordings[wording].clone(),
            _ => format!("({}) and not secret", wordings[wording % 2]),
        }
    }
}

/// Everything but the members.
pub fn schema() -> String {
    let mut sql = String::from(GROUND);
    for table in Table::ALL {
        let name = table.name();
        sql += &format!(
            "create table {name} (n bigint primary key, v int not null default 0, lane int not null, owner uuid not null,
               room int not null, secret boolean not null, note text not null default 'a note', extra text default 'as it began');
             alter table {name} replica identity full;
             create trigger audited after insert or update or delete on {name} for each row execute function note_down();
             grant select on {name} to anon, authenticated, service_role;
             alter publication supabase_realtime add table {name};"
        );
        if !matches!(table, Table::Plaza | Table::Ticks) {
            let policy = table.policy(0);
            sql += &format!(
                "alter table {name} enable row level security;
                 create policy readable on {name} for select to authenticated using ({policy});"
            );
        }
    }
    sql + TRUTH
}

/// Somebody, by number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Person(pub u8);

impl Person {
    /// Six who are signed in, an admin, somebody who is not signed in, and the back end.
    pub const COUNT: u8 = 9;
    pub const SIGNED_IN: u8 = 7;
    const ADMIN: Person = Person(6);
    const ANON: Person = Person(7);
    const SERVICE: Person = Person(8);

    pub fn is_admin(self) -> bool {
        self == Person::ADMIN
    }

    pub fn is_anon(self) -> bool {
        self == Person::ANON
    }

    pub fn is_service(self) -> bool {
        self == Person::SERVICE
    }

    pub fn sub(self) -> String {
        format!("{:08x}-0000-4000-8000-000000000000", self.0)
    }

    pub fn of_sub(sub: &str) -> Option<Person> {
        let number = u8::from_str_radix(sub.get(..8)?, 16).ok()?;
        Some(Person(number))
    }

    /// A new one each time, as a refresh gives.
    pub fn token(self) -> String {
        let now = now_micros() / 1_000_000;
        let mut claims = if self.is_anon() {
            json!({ "role": "anon" })
        } else if self.is_service() {
            json!({ "role": "service_role" })
        } else {
            json!({ "role": "authenticated", "sub": self.sub() })
        };
        if self.is_admin() {
            claims["app_metadata"] = json!({ "role": "admin" });
        }
        claims["iat"] = json!(now);
        claims["exp"] = Value::from(now + 6 * 3600);
        let key = EncodingKey::from_secret(JWT_SECRET.as_bytes());
        jsonwebtoken::encode(&Header::default(), &claims, &key).expect("HS256 signs any claims")
    }
}

impl fmt::Debug for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Person::ADMIN => f.write_str("admin"),
            Person::ANON => f.write_str("anon"),
            Person::SERVICE => f.write_str("service"),
            Person(number) => write!(f, "user {number}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    Insert,
    Update,
    Delete,
}

impl Operation {
    pub fn named(name: &str) -> Option<Operation> {
        match name {
            "INSERT" => Some(Operation::Insert),
            "UPDATE" => Some(Operation::Update),
            "DELETE" => Some(Operation::Delete),
            _ => None,
        }
    }
}

/// Names a change among all that were ever made. Of a DELETE `v` does not count: there is one of each row.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChangeId(u64);

impl ChangeId {
    pub fn new(table: Table, operation: Operation, n: i64, v: i64) -> ChangeId {
        let v = if operation == Operation::Delete { 0 } else { v as u64 & 0xfff };
        ChangeId((table as u64) << 61 | (operation as u64) << 59 | v << 47 | (n as u64 & ((1 << 47) - 1)))
    }
}

impl fmt::Debug for ChangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = Table::ALL[(self.0 >> 61) as usize].name();
        let operation = ["INSERT", "UPDATE", "DELETE"][(self.0 >> 59 & 3) as usize];
        write!(f, "{operation} {table} n={} v={}", self.0 & ((1 << 47) - 1), self.0 >> 47 & 0xfff)
    }
}

/// What decides who sees a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub n: i64,
    pub v: i64,
    pub lane: i32,
    pub owner: Person,
    pub room: i32,
    pub secret: bool,
}

/// Microseconds since 1970, which is what Postgres stamps commits with, on the same machine.
pub fn now_micros() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as i64
}
