//! Values of each type.

use rand::Rng;

use super::super::tables::{MOMENTS, Type, value};
use super::{Grammar, Place};

impl Grammar<'_> {
    pub fn value(&mut self, of: Type, place: &Place) -> String {
        let dice = self.random.random_range(0..100);
        match dice {
            0..=49 => self.column(of, place).unwrap_or_else(|| self.literal(of)),
            50..=61 => self.literal(of),
            62..=75 => self.of_person(of, place).unwrap_or_else(|| self.literal(of)),
            _ if place.is_leaf() => self.column(of, place).unwrap_or_else(|| self.literal(of)),
            76..=88 => self.made(of, place),
            89..=94 => self.chosen(of, place),
            _ => match self.call(of, place) {
                Some(call) => call,
                None => self.scalar(of, place),
            },
        }
    }

    pub fn literal(&mut self, of: Type) -> String {
        match of {
            // Of rows: an edge that is passed meanwhile.
            Type::Moment if self.chance(70) => format!("{}::timestamptz", self.pick(&MOMENTS)),
            Type::Moment => {
                self.pick(&["now()", "now() - interval '2 seconds'", "now() + interval '1 second'"]).to_owned()
            }
            // Constants of numbers that are none are left to Postgres.
            Type::Numeric => format!("{}::numeric", self.pick(&["0", "1", "1.50", "2.5", "-3", "1e20"])),
            _ => value(self.random, of, 0.06),
        }
    }

    /// What claims say, and who one is.
    fn of_person(&mut self, of: Type, place: &Place) -> Option<String> {
        let forms: &[&str] = match of {
            Type::Uuid => &[
                "auth.uid()",
                "(select auth.uid())",
                "(auth.jwt() ->> 'sub')::uuid",
                "(select (auth.jwt() ->> 'sub')::uuid)",
            ],
            Type::Int => &[
                "(auth.jwt() ->> 'org')::int",
                "(auth.jwt() -> 'app_metadata' ->> 'org')::int",
                "(select ((auth.jwt() -> 'app_metadata') ->> 'level')::int)",
                "(auth.jwt() -> 'org')::int",
                "jsonb_array_length(auth.jwt() -> 'orgs')",
                "(nullif(current_setting('request.jwt.claims', true), '')::json #>> '{app_metadata,level}')::int",
            ],
            Type::Text => &[
                "(auth.jwt() ->> 'word')",
                "auth.role()",
                "split_part(auth.email(), '@', 1)",
                "(select auth.jwt() ->> 'word')",
                "(auth.jwt() #>> '{app_metadata,words,0}')",
                "current_setting('role', true)",
                "current_user::text",
                "auth.jwt() -> 'app_metadata' ->> 'org'",
            ],
            Type::Bool => {
                &["(auth.jwt() ->> 'ok')::boolean", "(auth.jwt() ->> 'aal') = 'aal2'", "(auth.jwt() -> 'ok')::boolean"]
            }
            Type::Json => &["auth.jwt()", "auth.jwt() -> 'app_metadata'", "(select auth.jwt() -> 'orgs')"],
            Type::Moment => &["now()", "(select now())", "current_timestamp", "(auth.jwt() ->> 'until')::timestamptz"],
            Type::Date => &["current_date", "now()::date"],
            Type::Stamp => &["localtimestamp", "now()::timestamp"],
            Type::Ints => &[
                "array(select jsonb_array_elements_text(auth.jwt() -> 'orgs')::int)",
                "array[(auth.jwt() ->> 'org')::int, 3]",
            ],
            Type::Texts => &[
                "array(select jsonb_array_elements_text(auth.jwt() -> 'app_metadata' -> 'words'))",
                "array[auth.jwt() ->> 'word', null]",
                "string_to_array(auth.jwt() ->> 'word', 'b')",
            ],
            Type::Uuids => {
                &["array(select jsonb_array_elements_text(auth.jwt() -> 'uids')::uuid)", "array[auth.uid()]"]
            }
            _ => return None,
        };
        // The planner of a body does not see through everything.
        let _ = place;
        Some(self.pick(forms).to_owned())
    }

    /// Operators and functions. Those that may fail are not for the rows of a sub-query.
    fn made(&mut self, of: Type, place: &Place) -> String {
        let inner = place.deeper();
        let mut v = |of: Type| self.value(of, &inner);
        let fallible = !place.in_query;
        let form = |forms: Vec<String>, this: &mut Self| {
            let place = this.random.random_range(0..forms.len());
            forms[place].clone()
        };
        let mut forms: Vec<String> = match of {
            Type::Bool => return self.condition(&inner),
            Type::Int => vec![
                format!("length({})", v(Type::Text)),
                format!("cardinality({})", v(Type::Ints)),
                format!("array_length({}, 1)", v(Type::Texts)),
            ],
            Type::Big => vec![format!("({})::bigint", v(Type::Int))],
            Type::Text => vec![
                format!("lower({})", v(Type::Text)),
                format!("({} || {})", v(Type::Text), v(Type::Text)),
                format!("left({}, 2)", v(Type::Text)),
                format!("({} ->> 'n')", v(Type::Json)),
                format!("({})::text", v(Type::Mood)),
                format!("({})::text", v(Type::Int)),
                format!("({})::text", v(Type::Uuid)),
                format!("btrim({})", v(Type::Char)),
                format!("replace({}, 'a', 'x')", v(Type::Text)),
                format!("({} #>> '{{o,n}}')", v(Type::Json)),
            ],
            Type::Name => return self.column(of, place).unwrap_or_else(|| self.literal(of)),
            Type::Json => vec![
                format!("({} -> 'o')", v(Type::Json)),
                format!("({} -> 'l')", v(Type::Json)),
                format!("to_jsonb({})", v(Type::Int)),
                format!("to_jsonb({})", v(Type::Text)),
                format!("({} #> '{{l,0}}')", v(Type::Json)),
            ],
            Type::Ints => vec![
                format!("array[{}, {}]", v(Type::Int), v(Type::Int)),
                format!("({} || {})", v(Type::Ints), v(Type::Int)),
                format!("array_remove({}, {})", v(Type::Ints), v(Type::Int)),
            ],
            Type::Texts => vec![
                format!("array[{}, {}]", v(Type::Text), v(Type::Text)),
                format!("string_to_array({}, 'b')", v(Type::Text)),
            ],
            Type::Uuids => vec![format!("array[{}, {}]", v(Type::Uuid), v(Type::Uuid))],
            Type::Char | Type::Uuid | Type::Mood | Type::Numeric | Type::Float => Vec::new(),
            Type::Moment | Type::Stamp | Type::Date | Type::Interval => Vec::new(),
        };
        if fallible {
            forms.extend(match of {
                Type::Int => vec![
                    format!("({} + {})", v(Type::Int), v(Type::Int)),
                    format!("({} - {})", v(Type::Int), v(Type::Int)),
                    format!("({} / {})", v(Type::Int), v(Type::Int)),
                    format!("({} % {})", v(Type::Int), v(Type::Int)),
                    format!("abs({})", v(Type::Int)),
                    format!("({} ->> 'n')::int", v(Type::Json)),
                    format!("({})::int", v(Type::Big)),
                    format!("extract(day from {})::int", v(Type::Moment)),
                    format!("({} - {})", v(Type::Date), v(Type::Date)),
                ],
                Type::Big => vec![format!("({} + {})", v(Type::Big), v(Type::Int)), format!("({} * 2)", v(Type::Big))],
                Type::Text => vec![format!("substring({} from 1 for {})", v(Type::Text), v(Type::Int))],
                Type::Uuid => vec![format!("({} ->> 'u')::uuid", v(Type::Json)), format!("({})::uuid", v(Type::Text))],
                Type::Numeric => vec![
                    format!("({} + {})", v(Type::Numeric), v(Type::Numeric)),
                    format!("({} * {})", v(Type::Numeric), v(Type::Numeric)),
                    format!("round({}, 1)", v(Type::Numeric)),
                    format!("({})::numeric", v(Type::Int)),
                ],
                Type::Float => {
                    vec![format!("({} * 2)", v(Type::Float)), format!("({} - {})", v(Type::Float), v(Type::Float))]
                }
                Type::Moment => vec![
                    format!("({} + {})", v(Type::Moment), v(Type::Interval)),
                    format!("({} - interval '1 month')", v(Type::Moment)),
                    format!("date_trunc('month', {})", v(Type::Moment)),
                    format!("({})::timestamptz", v(Type::Date)),
                ],
                Type::Stamp => vec![
                    format!("({} + interval '1 month')", v(Type::Date)),
                    format!("({})::timestamp", v(Type::Moment)),
                ],
                Type::Date => vec![format!("({} + 1)", v(Type::Date)), format!("({})::date", v(Type::Moment))],
                Type::Interval => {
                    vec![format!("({} - {})", v(Type::Moment), v(Type::Moment)), format!("(- {})", v(Type::Interval))]
                }
                _ => Vec::new(),
            });
        }
        if forms.is_empty() { self.chosen(of, place) } else { form(forms, self) }
    }

    /// CASE, COALESCE, NULLIF: what is not evaluated counts.
    fn chosen(&mut self, of: Type, place: &Place) -> String {
        let inner = place.deeper();
        match self.random.random_range(0..4) {
            0 => {
                let (condition, then, otherwise) =
                    (self.condition(&inner), self.value(of, &inner), self.value(of, &inner));
                format!("case when {condition} then {then} else {otherwise} end")
            }
            1 => {
                let (value, when, then) =
                    (self.value(Type::Int, &inner), self.literal(Type::Int), self.value(of, &inner));
                let other = self.value(of, &inner);
                format!("case {value} when {when} then {then} when 2 then {other} end")
            }
            2 => format!("coalesce({}, {})", self.value(of, &inner), self.value(of, &inner)),
            _ if of == Type::Json => self.literal(of),
            _ => format!("nullif({}, {})", self.value(of, &inner), self.value(of, &inner)),
        }
    }

    /// A call of a function of the world.
    pub fn call(&mut self, of: Type, place: &Place) -> Option<String> {
        let functions = self.functions;
        let fitting: Vec<_> = functions
            .iter()
            .filter(|function| function.returns == of && !function.is_set && place.allows(function))
            .collect();
        if fitting.is_empty() {
            return None;
        }
        let function = fitting[self.random.random_range(0..fitting.len())];
        let inner = Place { left: 0, ..place.clone() };
        let arguments: Vec<String> = function.arguments.iter().map(|of| self.value(*of, &inner)).collect();
        let call = format!("{}({})", function.name, arguments.join(", "));
        Some(if self.chance(25) { format!("(select {call})") } else { call })
    }
}
