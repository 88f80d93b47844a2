//! Numbered places that are used again.

/// Values at stable small numbers: half the size of pointers, and no reference counts.
#[derive(Debug)]
pub(super) struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(super) fn insert(&mut self, value: T) -> u32 {
        if let Some(place) = self.free.pop() {
            self.places[place as usize] = Some(value);
            return place;
        }
        self.places.push(Some(value));
        (self.places.len() - 1) as u32
    }

    pub(super) fn remove(&mut self, place: u32) -> Option<T> {
        let value = self.places.get_mut(place as usize)?.take()?;
        self.free.push(place);
        Some(value)
    }

    /// The value at a place that its holder has not given back.
    pub(super) fn get(&self, place: u32) -> &T {
        self.places[place as usize].as_ref().expect("places are held only while they are filled")
    }

    pub(super) fn get_mut(&mut self, place: u32) -> &mut T {
        self.places[place as usize].as_mut().expect("places are held only while they are filled")
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.iter().flatten()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.len() == self.free.len()
    }
}
