//! What a client asks for: one item of `config.postgres_changes`, or a legacy topic.

use serde_json::{Map, Value};

use super::filter::{self, Clause, FilterError};
use super::inspect;
use crate::change::Operation;

/// One bound binding of a channel. Given out by dispatch, and used again: small numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub u32);

/// Which operations a subscription wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventFilter {
    Any,
    Only(Operation),
}

impl EventFilter {
    /// A missing or unknown event means all of them (PROTOCOL 4.5).
    fn parse(event: Option<&Value>) -> EventFilter {
        let name = event.and_then(Value::as_str).unwrap_or("*").to_uppercase();
        match name.as_str() {
            "INSERT" => EventFilter::Only(Operation::Insert),
            "UPDATE" => EventFilter::Only(Operation::Update),
            "DELETE" => EventFilter::Only(Operation::Delete),
            _ => EventFilter::Any,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            EventFilter::Any => "*",
            EventFilter::Only(operation) => operation.as_str(),
        }
    }

    pub fn accepts(self, operation: Operation) -> bool {
        match self {
            EventFilter::Any => true,
            EventFilter::Only(only) => only == operation,
        }
    }
}

/// One requested item, parsed and not yet bound to any table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    pub event: EventFilter,
    /// `*`: any.
    pub schema: String,
    /// `*`: any.
    pub table: String,
    /// All of them must be true.
    pub filters: Vec<Clause>,
    /// The columns asked for; `None`: all.
    pub select: Option<Vec<String>>,
    /// Each row is to say where its change stands in the WAL. An extension of ours.
    pub positions: bool,
}

/// Why an item cannot be parsed; `Display` is what the client reads (PROTOCOL 3.5, 3.6, 4.5).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindingError {
    #[error("Error parsing `filter` params: {0}")]
    Filter(#[from] FilterError),
    #[error("Error parsing `select` params: expected a list of column name strings, e.g. select: [\"col1\", \"col2\"]")]
    SelectIsNoList,
    #[error("Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table name.")]
    SelectWithWildcard,
    /// The inspected parameters.
    #[error("No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: {0}")]
    NoParams(String),
}

impl Binding {
    /// Parses an item of `config.postgres_changes`. Whether a key is there matters, not only what it holds:
    /// `"filter": null` is an error.
    pub fn parse(params: &Map<String, Value>) -> Result<Binding, BindingError> {
        let select = parse_select(params.get("select"))?;
        let key = |name: &str| params.get(name).map(Value::as_str);
        let (schema, table, filter) = match (key("schema"), key("table"), key("filter")) {
            (Some(Some(schema)), Some(Some(table)), Some(Some(filter))) => (schema, table, filter),
            (Some(Some(schema)), Some(Some(table)), None) => (schema, table, ""),
            (Some(Some(schema)), None, None) => (schema, "*", ""),
            (None, Some(Some(table)), None) => ("public", table, ""),
            _ => return Err(no_params(params)),
        };
        let filters = filter::parse(filter)?;
        if select.is_some() && (schema == "*" || table == "*") {
            return Err(BindingError::SelectWithWildcard);
        }
        let event = EventFilter::parse(params.get("event"));
        let positions = params.get("positions") == Some(&Value::Bool(true));
        Ok(Binding { event, schema: schema.to_owned(), table: table.to_owned(), filters, select, positions })
    }

    /// `schema[:table[:filter]]`, the topic of a join without `config` (PROTOCOL 3.1).
    pub fn parse_legacy_topic(subtopic: &str) -> Result<Binding, BindingError> {
        let params = ["schema", "table", "filter"].into_iter().zip(subtopic.splitn(3, ':'));
        Binding::parse(&params.map(|(key, value)| (key.to_owned(), Value::from(value))).collect())
    }

    /// `[event: INSERT, schema: public, table: nope, filters: [], select: nil]`, as it stands in error texts.
    pub fn inspect(&self) -> String {
        let tuples: Vec<Vec<String>> = self.filters.iter().map(inspect_clause).collect();
        let select = self.select.as_ref().map_or_else(|| "nil".to_owned(), |columns| inspect::pretty_list(columns));
        format!(
            "[event: {}, schema: {}, table: {}, filters: {}, select: {select}]",
            self.event.as_str(),
            self.schema,
            self.table,
            inspect::pretty_tuples(&tuples)
        )
    }
}

fn inspect_clause(clause: &Clause) -> Vec<String> {
    vec![
        inspect::string(&clause.column),
        inspect::string(clause.operator.as_str()),
        inspect::string(&clause.value),
        clause.negate.to_string(),
    ]
}

/// Elements that are not strings are dropped; nothing left means no selection.
fn parse_select(select: Option<&Value>) -> Result<Option<Vec<String>>, BindingError> {
    match select {
        Some(Value::Array(items)) => {
            let names: Vec<String> = items.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            Ok((!names.is_empty()).then_some(names))
        }
        Some(Value::String(_)) => Err(BindingError::SelectIsNoList),
        _ => Ok(None),
    }
}

fn no_params(params: &Map<String, Value>) -> BindingError {
    // Legacy clients put tokens here; a token is not echoed.
    let has_token = params.contains_key("user_token") || params.contains_key("auth_token");
    BindingError::NoParams(if has_token { "<redacted>".to_owned() } else { inspect::map(params) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(params: Value) -> Result<Binding, BindingError> {
        Binding::parse(params.as_object().unwrap())
    }

    fn inspected(params: Value) -> String {
        parse(params).unwrap().inspect()
    }

    fn error(params: Value) -> String {
        parse(params).unwrap_err().to_string()
    }

    #[test]
    fn schema_and_table_default_to_any_and_public() {
        assert_eq!(
            inspected(json!({"schema": "plainroom"})),
            "[event: *, schema: plainroom, table: *, filters: [], select: nil]"
        );
        assert_eq!(
            inspected(json!({"event": "*", "table": "wild"})),
            "[event: *, schema: public, table: wild, filters: [], select: nil]"
        );
        assert_eq!(
            inspected(json!({"event": "insert", "schema": "public", "table": "t", "filter": "", "foo": 1})),
            "[event: INSERT, schema: public, table: t, filters: [], select: nil]"
        );
    }

    #[test]
    fn an_unknown_event_means_all() {
        for event in [json!("TRUNCATE"), json!("*"), json!(5), json!(null)] {
            assert_eq!(parse(json!({"schema": "s", "event": event})).unwrap().event, EventFilter::Any);
        }
        let update = parse(json!({"schema": "s", "event": "update"})).unwrap();
        assert_eq!(update.event, EventFilter::Only(Operation::Update));
    }

    #[test]
    fn filters_and_select_are_inspected() {
        assert_eq!(
            inspected(json!({"schema": "public", "table": "test", "filter": "subject=eq.hey", "select": ["a", 1]})),
            r#"[event: *, schema: public, table: test, filters: [{"subject", "eq", "hey", false}], select: ["a"]]"#
        );
    }

    #[test]
    fn parameters_that_fit_no_form_are_echoed() {
        let text = "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: ";
        for (params, inspected) in [
            (json!({}), "%{}"),
            (json!({"event": "*", "filter": "id=eq.1"}), r#"%{"event" => "*", "filter" => "id=eq.1"}"#),
            (
                json!({"event": "*", "schema": "public", "table": "plain", "filter": null}),
                r#"%{"event" => "*", "filter" => nil, "schema" => "public", "table" => "plain"}"#,
            ),
            (
                json!({"event": "*", "schema": "public", "table": "plain", "filter": 5}),
                r#"%{"event" => "*", "filter" => 5, "schema" => "public", "table" => "plain"}"#,
            ),
            (
                json!({"event": "*", "schema": "public", "table": 7}),
                r#"%{"event" => "*", "schema" => "public", "table" => 7}"#,
            ),
            (json!({"schema": "public", "table": null}), r#"%{"schema" => "public", "table" => nil}"#),
            (json!({"schema": "public", "filter": "a=eq.1"}), r#"%{"filter" => "a=eq.1", "schema" => "public"}"#),
            (json!({"user_token": "secret"}), "<redacted>"),
        ] {
            assert_eq!(error(params), format!("{text}{inspected}"));
        }
    }

    #[test]
    fn select_needs_a_list_and_a_table() {
        let not_a_list =
            "Error parsing `select` params: expected a list of column name strings, e.g. select: [\"col1\", \"col2\"]";
        let wildcard =
            "Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table name.";
        assert_eq!(error(json!({"event": "*", "schema": "public", "table": "sel", "select": "name"})), not_a_list);
        assert_eq!(error(json!({"select": "name"})), not_a_list);
        assert_eq!(error(json!({"event": "*", "schema": "public", "select": ["name"]})), wildcard);
        assert_eq!(error(json!({"schema": "*", "table": "a", "select": ["name"]})), wildcard);
        assert_eq!(parse(json!({"schema": "public", "select": []})).unwrap().select, None);
        assert_eq!(parse(json!({"schema": "public", "select": [1, null]})).unwrap().select, None);
        assert_eq!(parse(json!({"schema": "public", "select": {"a": 1}})).unwrap().select, None);
    }

    #[test]
    fn filter_errors_carry_their_prefix() {
        let with = |filter: &str| error(json!({"schema": "public", "table": "plain", "filter": filter}));
        assert_eq!(with("name=foo.1"), r#"Error parsing `filter` params: ["foo", "1"]"#);
        assert_eq!(with("garbage"), r#"Error parsing `filter` params: ["garbage"]"#);
        assert_eq!(
            with("amount=in.1,2"),
            "Error parsing `filter` params: `in` filter value must be wrapped by parentheses"
        );
    }

    #[test]
    fn a_legacy_topic_has_up_to_three_parts() {
        let legacy = |topic: &str| Binding::parse_legacy_topic(topic).unwrap().inspect();
        assert_eq!(legacy("plainroom"), "[event: *, schema: plainroom, table: *, filters: [], select: nil]");
        assert_eq!(legacy("public:plain"), "[event: *, schema: public, table: plain, filters: [], select: nil]");
        assert_eq!(
            legacy("public:todos:id=eq.1:2"),
            r#"[event: *, schema: public, table: todos, filters: [{"id", "eq", "1:2", false}], select: nil]"#
        );
        assert_eq!(legacy("*"), "[event: *, schema: *, table: *, filters: [], select: nil]");
    }
}
