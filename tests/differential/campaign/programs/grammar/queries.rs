//! Sub-queries: over tables, of nothing, of aggregates, united, limited, within each other.

use rand::Rng;
use rand::seq::IndexedRandom;

use super::super::functions::Function;
use super::super::tables::{INNER, Type};
use super::{Grammar, Place, Variable};

impl Place {
    /// In a sub-query only functions that never fail, and none that reads tables by itself: those nest too deep.
    pub fn allows(&self, function: &Function) -> bool {
        !self.in_body && (!self.in_query || !function.fails)
    }
}

impl Grammar<'_> {
    /// FROM and WHERE, and the place in them.
    fn from(&mut self, place: &Place) -> (String, Place) {
        let mut inside = Place { in_query: true, left: place.left.saturating_sub(1), ..place.clone() };
        let count = if self.chance(80) { 1 } else { 2 };
        let mut sources = Vec::new();
        let mut variables = Vec::new();
        for _ in 0..count {
            let shape = INNER.choose(self.random).expect("not empty");
            self.aliases += 1;
            let alias = format!("{}{}", &shape.name[..2], self.aliases);
            sources.push(format!("{} {alias}", shape.name));
            variables.extend(
                shape.columns.iter().map(|(column, of)| Variable { sql: format!("{alias}.{column}"), of: *of }),
            );
            variables.push(Variable { sql: format!("{alias}.id"), of: Type::Int });
        }
        inside.levels.push(variables.clone());
        let mut conditions = Vec::new();
        // Mostly tied to the row or the person, as people write them.
        if self.chance(85) {
            let of = *[Type::Int, Type::Uuid, Type::Uuid].choose(self.random).expect("not empty");
            let only = Place { levels: vec![variables], ..inside.clone() };
            if let Some(column) = self.column(of, &only) {
                let outside = Place { left: 0, in_query: true, ..place.clone() };
                conditions.push(format!("{column} = {}", self.value(of, &outside)));
            }
        }
        if count == 2 || self.chance(50) {
            conditions.push(self.condition(&inside));
        }
        let condition =
            if conditions.is_empty() { String::new() } else { format!(" where {}", conditions.join(" and ")) };
        (format!("from {}{condition}", sources.join(", ")), inside)
    }

    /// A condition on a query.
    pub(super) fn of_query(&mut self, place: &Place) -> String {
        match self.random.random_range(0..14) {
            0..=3 => {
                let not = if self.chance(30) { "not " } else { "" };
                format!("({not}exists ({}))", self.existence(place))
            }
            4..=6 => {
                let (of, rows) = self.rows(place);
                let word = self.pick(&["in", "in", "not in"]);
                let outside = Place { left: 0, ..place.clone() };
                format!("({} {word} ({rows}))", self.value(of, &outside))
            }
            7 => {
                let (of, rows) = self.rows(place);
                let operator =
                    if of == Type::Int { self.pick(&["<", ">=", "=", "<>"]) } else { self.pick(&["=", "<>"]) };
                let quantifier = self.pick(&["any", "all"]);
                let outside = Place { left: 0, ..place.clone() };
                format!("({} {operator} {quantifier} ({rows}))", self.value(of, &outside))
            }
            8 => {
                let (of, rows) = self.rows(place);
                let outside = Place { left: 0, ..place.clone() };
                format!("({} = any (array({rows})))", self.value(of, &outside))
            }
            9..=10 => self.aggregate(place),
            11 => {
                let function = self.functions.iter().find(|function| function.is_set);
                let Some(function) = function.filter(|function| place.allows(function)) else {
                    return self.aggregate(place);
                };
                let outside = Place { left: 0, ..place.clone() };
                let arguments: Vec<String> = function.arguments.iter().map(|of| self.value(*of, &outside)).collect();
                format!(
                    "({} in (select {}({})))",
                    self.value(function.returns, &outside),
                    function.name,
                    arguments.join(", ")
                )
            }
            _ => {
                let of = *[Type::Int, Type::Uuid].choose(self.random).expect("not empty");
                let scalar = self.scalar(of, place);
                let outside = Place { left: 0, ..place.clone() };
                format!("({scalar} = {})", self.value(of, &outside))
            }
        }
    }

    /// What EXISTS is asked about.
    fn existence(&mut self, place: &Place) -> String {
        let (from, inside) = self.from(place);
        match self.random.random_range(0..12) {
            0 => format!("select 1 {from} limit 0"),
            1 => format!("select 1 {from} limit 1"),
            2 => format!("select count(*) {from}"),
            3 => format!("select max(1) {from} limit 0"),
            4 => {
                let (other, _) = self.from(place);
                format!("select 1 {from} union all select 2 {other}")
            }
            5 => format!(
                "select {} where {}",
                self.literal(Type::Int),
                self.condition(&Place { left: 0, ..inside.clone() }.outer())
            ),
            _ => format!("select {} {from}", self.pick(&["1", "", "null"])),
        }
    }

    /// Rows of one column.
    fn rows(&mut self, place: &Place) -> (Type, String) {
        let of = *[Type::Int, Type::Uuid, Type::Uuid].choose(self.random).expect("not empty");
        let (from, inside) = self.from(place);
        let output = |this: &mut Self, inside: &Place| {
            let level = Place { levels: inside.levels[inside.levels.len() - 1..].to_vec(), left: 0, ..inside.clone() };
            this.column(of, &level).unwrap_or_else(|| this.literal(of))
        };
        let first = output(self, &inside);
        let rows = format!("select {first} {from}");
        if self.chance(15) {
            let (from, inside) = self.from(place);
            let all = self.pick(&["union", "union all"]);
            return (of, format!("{rows} {all} select {} {from}", output(self, &inside)));
        }
        (of, if self.chance(10) { format!("select distinct {first} {from}") } else { rows })
    }

    /// `(select ..)` of one row, perhaps of two.
    pub(super) fn scalar(&mut self, of: Type, place: &Place) -> String {
        if !matches!(of, Type::Int | Type::Uuid | Type::Bool | Type::Mood | Type::Date | Type::Text) || place.is_leaf()
        {
            let outside = Place { left: 0, ..place.clone() };
            let value = self.value(of, &outside);
            return match self.chance(30) {
                true => format!("(select {value} where {})", self.condition(&outside)),
                false => format!("(select {value})"),
            };
        }
        if place.in_query || self.chance(35) {
            return self.one_value(of, place);
        }
        let shape =
            INNER.iter().filter(|shape| shape.columns.iter().any(|(_, other)| *other == of)).collect::<Vec<_>>();
        let shape = *shape.choose(self.random).expect("one has it");
        self.aliases += 1;
        let alias = format!("{}{}", &shape.name[..2], self.aliases);
        let fitting: Vec<_> = shape.columns.iter().filter(|(_, other)| *other == of).collect();
        let (column, _) = fitting.choose(self.random).expect("one");
        let outside = Place { left: 0, in_query: true, ..place.clone() };
        let (key, limit) = match shape.name {
            // The key of partitions is longer.
            "parts" => ("id", ""),
            _ if self.chance(70) => ("id", if self.chance(30) { " limit 1" } else { "" }),
            // There may be two.
            _ => (if shape.columns.iter().any(|(name, _)| *name == "org") { "org" } else { "id" }, ""),
        };
        format!(
            "(select {alias}.{column} from {} {alias} where {alias}.{key} = {}{limit})",
            shape.name,
            self.value(Type::Int, &outside)
        )
    }

    /// Of an aggregate: one row for sure.
    fn one_value(&mut self, of: Type, place: &Place) -> String {
        let (from, inside) = self.from(place);
        let level = Place { levels: inside.levels[inside.levels.len() - 1..].to_vec(), left: 0, ..inside };
        let aggregate = match of {
            Type::Int | Type::Date => {
                let column = self.column(of, &level).unwrap_or_else(|| self.literal(of));
                format!("{}({column})", self.pick(&["min", "max"]))
            }
            Type::Bool => {
                let condition = self.condition(&level);
                format!("{}({condition})", self.pick(&["bool_or", "bool_and", "every"]))
            }
            _ => return format!("(select {})", self.literal(of)),
        };
        format!("(select {aggregate} {from})")
    }

    fn aggregate(&mut self, place: &Place) -> String {
        let (from, inside) = self.from(place);
        let level = Place { levels: inside.levels[inside.levels.len() - 1..].to_vec(), left: 0, ..inside };
        let outside = Place { left: 0, ..place.clone() };
        let int = self.column(Type::Int, &level).unwrap_or_else(|| "1".to_owned());
        let number = self.random.random_range(0..4);
        let operator = self.pick(&["<", ">=", "=", "<>"]);
        match self.random.random_range(0..8) {
            0..=1 => format!("((select count(*) {from}) {operator} {number})"),
            2..=3 => format!("((select count({int}) {from}) {operator} {number})"),
            4 => format!(
                "((select {}({int}) {from}) {operator} {})",
                self.pick(&["min", "max"]),
                self.value(Type::Int, &outside)
            ),
            5 => format!("({} = any ((select array_agg({int}) {from})::int[]))", self.value(Type::Int, &outside)),
            6 => format!(
                "((select array_agg({int}) {from}) {})",
                self.pick(&["is null", "is not null", "@> '{1}'", "&& '{1,2}'"])
            ),
            _ => {
                let condition = self.condition(&level);
                format!(
                    "((select {}({condition}) {from}) is {})",
                    self.pick(&["bool_or", "bool_and"]),
                    self.pick(&["true", "not true", "unknown"])
                )
            }
        }
    }
}

impl Place {
    /// Without the innermost query.
    fn outer(mut self) -> Place {
        self.levels.pop();
        self
    }
}
