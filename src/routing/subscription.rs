//! (placeholder of the routing room's own)

#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    pub params: String,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("No subscription params provided")]
pub struct BindingError;

impl Binding {
    pub fn parse(params: &serde_json::Map<String, serde_json::Value>) -> Result<Binding, BindingError> {
        if !params.contains_key("schema") && !params.contains_key("table") {
            return Err(BindingError);
        }
        Ok(Binding { params: serde_json::to_string(params).unwrap_or_default() })
    }

    pub fn parse_legacy_topic(subtopic: &str) -> Result<Binding, BindingError> {
        Ok(Binding { params: subtopic.to_owned() })
    }
}
