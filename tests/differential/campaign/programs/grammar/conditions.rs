//! Conditions, with NULL wherever one may be.

use rand::Rng;
use rand::seq::IndexedRandom;

use super::super::people::NAMES;
use super::super::tables::Type;
use super::{Grammar, Place};

/// What orders as its values do.
const ORDERED: [Type; 14] = [
    Type::Int,
    Type::Int,
    Type::Int,
    Type::Big,
    Type::Name,
    Type::Uuid,
    Type::Numeric,
    Type::Float,
    Type::Moment,
    Type::Moment,
    Type::Stamp,
    Type::Date,
    Type::Interval,
    Type::Mood,
];
const ANY: [Type; 12] = [
    Type::Int,
    Type::Int,
    Type::Uuid,
    Type::Uuid,
    Type::Uuid,
    Type::Text,
    Type::Text,
    Type::Char,
    Type::Bool,
    Type::Ints,
    Type::Date,
    Type::Mood,
];

impl Grammar<'_> {
    pub fn condition(&mut self, place: &Place) -> String {
        let inner = place.deeper();
        if place.is_leaf() {
            return match self.random.random_range(0..10) {
                0..=6 => self.comparison(&inner),
                7..=8 => self.null_test(&inner),
                _ => self.column(Type::Bool, place).unwrap_or_else(|| self.literal(Type::Bool)),
            };
        }
        match self.random.random_range(0..100) {
            0..=17 => self.comparison(&inner),
            18..=24 => self.null_test(&inner),
            25..=29 => self.column(Type::Bool, place).unwrap_or_else(|| self.literal(Type::Bool)),
            30..=39 => self.joined(&inner),
            40..=44 => format!("(not {})", self.condition(&inner)),
            45..=49 => {
                let test = self.pick(&["true", "not true", "false", "not false", "unknown", "not unknown"]);
                format!("(({}) is {test})", self.condition(&inner))
            }
            50..=54 => self.conditional(&inner),
            55..=61 => self.among(&inner),
            62..=65 => self.of_arrays(&inner),
            66..=69 => self.of_json(&inner),
            70..=72 => self.of_text(&inner),
            73..=74 => self.of_roles(),
            75..=77 => self.value(Type::Bool, &inner),
            78..=79 => self.constant(),
            80..=84 => self.call(Type::Bool, place).unwrap_or_else(|| self.comparison(&inner)),
            _ => self.of_query(place),
        }
    }

    fn comparison(&mut self, place: &Place) -> String {
        if self.chance(50) {
            let of = *ORDERED.choose(self.random).expect("not empty");
            let operator = self.pick(&["<", "<=", ">", ">=", "=", "<>"]);
            return format!("({} {operator} {})", self.value(of, place), self.value(of, place));
        }
        let of = *ANY.choose(self.random).expect("not empty");
        let operator = self.pick(&["=", "=", "=", "<>", "is distinct from", "is not distinct from"]);
        format!("({} {operator} {})", self.value(of, place), self.value(of, place))
    }

    fn null_test(&mut self, place: &Place) -> String {
        let of = *ANY.choose(self.random).expect("not empty");
        let test = self.pick(&["is null", "is not null"]);
        format!("({} {test})", self.value(of, place))
    }

    fn joined(&mut self, place: &Place) -> String {
        let count = self.random.random_range(2..4);
        let operator = self.pick(&[" and ", " or ", " or "]);
        let all: Vec<String> = (0..count).map(|_| self.condition(place)).collect();
        format!("({})", all.join(operator))
    }

    fn conditional(&mut self, place: &Place) -> String {
        let (a, b) = (self.condition(place), self.condition(place));
        match self.random.random_range(0..4) {
            0 => format!("(case when {a} then {b} else {} end)", self.condition(place)),
            1 => format!("(case when {a} then {b} end)"),
            2 => format!("coalesce({a}, {b})"),
            _ => format!("nullif({a}, {b})"),
        }
    }

    /// IN of a list, ANY and ALL of arrays; with NULL in them.
    fn among(&mut self, place: &Place) -> String {
        let (of, array) = *[(Type::Int, Type::Ints), (Type::Text, Type::Texts), (Type::Uuid, Type::Uuids)]
            .choose(self.random)
            .expect("not empty");
        let left = self.value(of, place);
        match self.random.random_range(0..4) {
            0 => {
                let list: Vec<String> = (0..3).map(|_| self.value(of, place)).collect();
                format!("({left} {} ({}))", self.pick(&["in", "not in"]), list.join(", "))
            }
            1 => format!("({left} = any ({}))", self.value(array, place)),
            2 => format!("({left} <> all ({}))", self.value(array, place)),
            _ => {
                let operator =
                    if of == Type::Int { self.pick(&["<", ">=", "=", "<>"]) } else { self.pick(&["=", "<>"]) };
                let quantifier = self.pick(&["any", "all"]);
                format!("({left} {operator} {quantifier} ({}))", self.value(array, place))
            }
        }
    }

    fn of_arrays(&mut self, place: &Place) -> String {
        let of = *[Type::Ints, Type::Texts, Type::Uuids].choose(self.random).expect("not empty");
        let operator = self.pick(&["&&", "@>", "<@", "="]);
        format!("({} {operator} {})", self.value(of, place), self.value(of, place))
    }

    fn of_json(&mut self, place: &Place) -> String {
        let json = self.value(Type::Json, place);
        match self.random.random_range(0..5) {
            0 => format!("({json} ? {})", self.value(Type::Text, place)),
            1 => format!("({json} @> {})", self.value(Type::Json, place)),
            2 => format!("({json} ?| {})", self.value(Type::Texts, place)),
            3 => format!("({json} = {})", self.value(Type::Json, place)),
            _ => format!("(({json} ->> 'n') = {})", self.value(Type::Text, place)),
        }
    }

    fn of_text(&mut self, place: &Place) -> String {
        let text = self.value(Type::Text, place);
        let pattern = self.pick(&["'a%'", "'%b'", "'_'", "'%\\_%'", "''", "'A%'"]);
        match self.random.random_range(0..4) {
            0 => format!("({text} like {pattern})"),
            1 => format!("({text} not like {pattern})"),
            2 => format!("({text} ilike {pattern})"),
            _ => format!("starts_with({text}, {})", self.value(Type::Text, place)),
        }
    }

    fn of_roles(&mut self) -> String {
        let role = *NAMES.choose(self.random).expect("not empty");
        match self.random.random_range(0..6) {
            0 => format!("(current_user = '{role}')"),
            1 => format!("(current_setting('role') = '{role}')"),
            2 => format!("(current_setting('role', true) in ('{role}', 'authenticated'))"),
            3 => format!("pg_has_role(current_user, '{role}', 'member')").replace("current_user, ", ""),
            4 => "pg_has_role('staff', 'usage')".to_owned(),
            _ => format!("pg_has_role('{role}', 'usage')"),
        }
    }

    /// What the planner sees through.
    fn constant(&mut self) -> String {
        if self.chance(8) {
            // All that depends on it is left to Postgres.
            return self.pick(&["(1 / 0 = 1)", "('x'::text::int = 1)"]).to_owned();
        }
        let forms = [
            "true",
            "false",
            "null::boolean",
            "(not false)",
            "(not true)",
            "(1 = 1)",
            "('a' = 'b')",
            "(null::int = null::int)",
        ];
        self.pick(&forms).to_owned()
    }

    /// What may be a policy: with something in it that is often true.
    pub fn policy(&mut self, place: &Place) -> String {
        let one = self.condition(place);
        match self.random.random_range(0..10) {
            0..=5 => one,
            6..=7 => format!("{one} or {}", self.condition(&place.deeper())),
            8 => format!("{one} and {}", self.condition(&place.deeper())),
            _ => format!("({one}) is not false"),
        }
    }
}
