//! The frame written last: channels with equal topic, ids and serializer share one.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::channels::phoenix::{Address, Serializer};
use crate::channels::system::{self, EventShape};

#[derive(Default)]
pub struct FrameCache(Option<Known>);

struct Known {
    topic: Arc<str>,
    serializer: Serializer,
    shape: EventShape,
    ids: SmallVec<[u32; 4]>,
    /// Compared by address. Held here, so that nothing else can come to lie there.
    data: Bytes,
    frame: SmallVec<[Bytes; 3]>,
}

impl FrameCache {
    pub fn frame(&mut self, address: &Address, shape: EventShape, ids: &[u32], data: &Bytes) -> SmallVec<[Bytes; 3]> {
        let known = self.0.as_ref().filter(|known| {
            known.data.as_ptr() == data.as_ptr()
                && known.data.len() == data.len()
                && *known.ids == *ids
                && known.serializer == address.serializer
                && known.shape == shape
                && *known.topic == *address.topic
        });
        if let Some(known) = known {
            return known.frame.clone();
        }
        let frame = system::postgres_changes_frame(address, shape, ids, data);
        self.0 = Some(Known {
            topic: Arc::clone(&address.topic),
            serializer: address.serializer,
            shape,
            ids: SmallVec::from_slice(ids),
            data: data.clone(),
            frame: frame.clone(),
        });
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(topic: &str, serializer: Serializer) -> Address {
        Address { topic: topic.into(), join_ref: None, serializer }
    }

    fn text(frame: SmallVec<[Bytes; 3]>) -> Vec<u8> {
        frame.concat()
    }

    #[test]
    fn every_difference_makes_another_frame() {
        let mut cache = FrameCache::default();
        let data = Bytes::from_static(b"{\"a\":1}");
        let other_data = Bytes::from(b"{\"a\":2}".to_vec());
        let mut seen = Vec::new();
        for (topic, serializer, shape, ids, data) in [
            ("realtime:a", Serializer::V2, EventShape::Standard, &[1][..], &data),
            ("realtime:b", Serializer::V2, EventShape::Standard, &[1], &data),
            ("realtime:a", Serializer::V1, EventShape::Standard, &[1], &data),
            ("realtime:a", Serializer::V1, EventShape::Legacy(crate::change::Operation::Insert), &[1], &data),
            ("realtime:a", Serializer::V1, EventShape::Standard, &[1, 2], &data),
            ("realtime:a", Serializer::V1, EventShape::Standard, &[1, 2], &other_data),
        ] {
            let first = text(cache.frame(&address(topic, serializer), shape, ids, data));
            assert_eq!(text(cache.frame(&address(topic, serializer), shape, ids, data)), first);
            assert!(!seen.contains(&first));
            seen.push(first);
        }
    }

    #[test]
    fn data_that_comes_to_lie_where_other_data_was_is_not_taken_for_it() {
        let mut cache = FrameCache::default();
        let to = address("realtime:a", Serializer::V2);
        for n in 0..1000u32 {
            // Dropped each time: an allocator gives the same place again.
            let data = Bytes::from(format!("{{\"n\":{n:04}}}").into_bytes());
            let frame = text(cache.frame(&to, EventShape::Standard, &[1], &data));
            assert!(String::from_utf8_lossy(&frame).contains(&format!("{n:04}")));
        }
    }
}
