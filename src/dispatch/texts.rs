//! The images of one change as Postgres reads them.

use crate::authz::{RowText, row_text};
use crate::change::{Change, OldRow, Row};

/// Which image of a change.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Image {
    New = 0,
    Old = 1,
}

/// Both, written at most once each.
#[derive(Default)]
pub(super) struct Texts {
    known: [Option<RowText>; 2],
}

impl Texts {
    /// `None`: there is no such image. What it lacks is for the oracle to see to: it knows what its question reads.
    pub(super) fn get(&mut self, change: &Change, image: Image) -> Option<RowText> {
        let (row, fallback): (Option<&Row>, Option<&Row>) = match (image, &change.old) {
            (Image::New, OldRow::Full(old)) => (change.new.as_ref(), Some(old)),
            (Image::New, _) => (change.new.as_ref(), None),
            (Image::Old, _) => (change.known_old(), None),
        };
        let row = row?;
        let text = || {
            let text = row_text(row, fallback);
            RowText { is_new: text.is_new && matches!(image, Image::New), ..text }
        };
        Some(self.known[image as usize].get_or_insert_with(text).clone())
    }
}
