//! Payloads of `phx_join`. The reply is JSON that says each item once and in order; the same payload gives the same ids;
//! different items have different ones, and none is 0.

use std::collections::HashMap;

use serde_json::Value;
use walcast::channels::join::JoinRequest;

use super::{RECORD, parts};

/// The payload, and the topic without `realtime:`.
pub fn fuzz_join(data: &[u8]) {
    let mut parts = parts(data, RECORD);
    let text = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let subtopic = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let Ok(payload) = serde_json::from_str::<Value>(&text) else { return };
    let request = match JoinRequest::parse(payload.clone(), &subtopic) {
        Ok(request) => request,
        Err(error) => {
            assert!(error.to_string().len() <= 16 * text.len() + 500);
            return;
        }
    };
    let again = JoinRequest::parse(payload, &subtopic).expect("it was good before");
    assert_eq!(again, request);
    let items = request.wanted.items();
    let response: Value = serde_json::from_str(&request.wanted.response()).expect("the reply is JSON");
    let told = response["postgres_changes"].as_array().expect("a list");
    assert_eq!(told.len(), items.len());
    let mut by_id: HashMap<u32, &str> = HashMap::new();
    for (item, told) in items.iter().zip(told) {
        assert_ne!(item.id, 0);
        assert_eq!(told["id"], item.id, "a client's own id, or another one's");
        assert_eq!(**by_id.entry(item.id).or_insert(&item.params), *item.params, "two items have one id");
    }
    let bindings = request.wanted.bindings(&subtopic);
    assert_eq!(bindings.len(), items.len());
    for (_, binding) in bindings {
        match binding {
            Ok(binding) => assert!(binding.inspect().len() <= 16 * data.len() + 500),
            Err(error) => assert!(error.to_string().len() <= 16 * data.len() + 500),
        }
    }
}
