//! The stream's changes, applied to a table.

use super::broken::Broken;

use super::shape::{Kept, Shape, StreamLayout};
use super::table::Table;
use crate::authz::policy::Value;
use crate::authz::policy::decode::decode;
use crate::catalog::ColumnIndex;
use crate::wal::pgoutput::{Datum, Message, OldTuple, RelationId, Tuple};

impl Table {
    /// Applies an INSERT, UPDATE or DELETE of a relation that the layout is of.
    pub fn apply(&mut self, layout: &StreamLayout, change: Message) -> Result<(), Broken> {
        match change {
            Message::Insert { relation, new } => {
                let values = self.values(layout, &new, None)?;
                self.add_checked(relation, values)
            }
            Message::Update { relation, old, new } => self.update(layout, relation, &old, &new),
            Message::Delete { relation, old } => {
                let (OldTuple::Key(old) | OldTuple::Full(old)) = old else { return Err(Broken::Identity) };
                let place = self.place_of(layout, relation, &old)?;
                self.remove(place);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn update(
        &mut self,
        layout: &StreamLayout,
        relation: RelationId,
        old: &OldTuple,
        new: &Tuple,
    ) -> Result<(), Broken> {
        let place = match old {
            OldTuple::Key(old) | OldTuple::Full(old) => self.place_of(layout, relation, old)?,
            // The key did not change. Without one the old row would be in the stream.
            OldTuple::Absent if self.shape.unique => self.place_of(layout, relation, new)?,
            OldTuple::Absent => return Err(Broken::Identity),
        };
        let values = self.values(layout, new, Some(place))?;
        if self.row(place).values.iter().zip(&values).all(|(old, new)| old.is_identical(new)) {
            return Ok(()); // Of what is kept nothing has changed.
        }
        self.remove(place);
        self.add_checked(relation, values)
    }

    fn add_checked(&mut self, relation: RelationId, values: Box<[Value]>) -> Result<(), Broken> {
        if self.shape.unique {
            let key: Vec<_> = self.shape.key.iter().map(|column| values[self.shape.place(*column)].clone()).collect();
            if self.find(relation, &key).is_some() {
                return Err(Broken::Duplicate);
            }
        }
        self.add(relation, values, true);
        Ok(())
    }

    fn place_of(&self, layout: &StreamLayout, relation: RelationId, tuple: &Tuple) -> Result<u32, Broken> {
        let key = self.shape.key_of(layout, tuple)?;
        self.find(relation, &key).ok_or(Broken::RowNotFound)
    }

    fn values(&self, layout: &StreamLayout, tuple: &Tuple, old: Option<u32>) -> Result<Box<[Value]>, Broken> {
        let kept = self.shape.kept.iter().zip(&layout.positions).enumerate();
        kept.map(|(place, (kept, position))| match (tuple.get(usize::from(*position)), old) {
            (Datum::UnchangedToast, Some(old)) => Ok(self.row(old).values[place].clone()),
            (datum, _) => kept.value(datum),
        })
        .collect()
    }
}

impl Shape {
    fn place(&self, column: ColumnIndex) -> usize {
        self.columns.binary_search(&column).expect("a key is among the kept columns")
    }

    /// The key that a tuple of the stream names, in the order of the key's columns.
    pub fn key_of(&self, layout: &StreamLayout, tuple: &Tuple) -> Result<Vec<Value>, Broken> {
        let value = |column: &ColumnIndex| {
            let place = self.place(*column);
            self.kept[place].value(tuple.get(usize::from(layout.positions[place])))
        };
        self.key.iter().map(value).collect()
    }

    /// A row of texts, in the order of the kept columns.
    pub fn row_of<'a>(&self, texts: impl Iterator<Item = Option<&'a str>>) -> Result<Box<[Value]>, Broken> {
        self.kept.iter().zip(texts).map(|(kept, text)| text.map_or(Ok(Value::Null), |text| kept.parse(text))).collect()
    }
}

impl Kept {
    fn value(&self, datum: Datum<'_>) -> Result<Value, Broken> {
        match datum {
            Datum::Null => Ok(Value::Null),
            Datum::Text(text) => self.parse(std::str::from_utf8(text).map_err(|error| self.unkept(error.to_string()))?),
            Datum::UnchangedToast | Datum::Missing => Err(Broken::Missing(self.name.clone())),
        }
    }

    fn parse(&self, text: &str) -> Result<Value, Broken> {
        match &self.datum_type {
            None => Ok(Value::text(text)),
            Some(datum_type) => decode(datum_type, text).map_err(|failure| self.unkept(why(&failure))),
        }
    }

    fn unkept(&self, why: String) -> Broken {
        Broken::Value { column: self.name.clone(), why }
    }
}

/// Without the text of an error: it may quote the value.
fn why(failure: &crate::authz::policy::Failure) -> String {
    use crate::authz::policy::failure::{Failure, Undecided};
    match failure {
        Failure::Undecided(Undecided::Value(why)) => (*why).to_owned(),
        _ => "it is not a value of its type".to_owned(),
    }
}
