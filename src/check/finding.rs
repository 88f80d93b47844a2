//! What was found.

use std::fmt;

use serde::Serialize;

use super::plans::TablePlan;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Pass,
    /// It works, but not as its owner may expect.
    Warn,
    /// It does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    pub what: String,
    pub detail: String,
    /// SQL, or a command, that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statement: Option<String>,
}

/// Findings in the order in which they were looked for: what is found first may explain the rest.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub findings: Vec<Finding>,
    /// How each role's view of each published table is decided; in words among the findings too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plans: Vec<TablePlan>,
}

impl Report {
    pub fn failed(&self) -> bool {
        self.findings.iter().any(|finding| finding.level == Level::Fail)
    }

    /// For scripts.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("strings and levels are always JSON")
    }

    pub(crate) fn pass(&mut self, what: impl Into<String>, detail: impl Into<String>) {
        self.push(Level::Pass, what, detail, None);
    }

    pub(crate) fn warn(&mut self, what: impl Into<String>, detail: impl Into<String>, statement: Option<String>) {
        self.push(Level::Warn, what, detail, statement);
    }

    pub(crate) fn fail(&mut self, what: impl Into<String>, detail: impl Into<String>, statement: Option<String>) {
        self.push(Level::Fail, what, detail, statement);
    }

    fn push(&mut self, level: Level, what: impl Into<String>, detail: impl Into<String>, statement: Option<String>) {
        self.findings.push(Finding { level, what: what.into(), detail: detail.into(), statement });
    }

    pub(super) fn could_not_ask<E: std::error::Error + 'static>(&mut self, what: &str, result: Result<(), E>) {
        if let Err(error) = result {
            self.warn(what, format!("could not be looked at: {}", crate::causes::with_causes(&error)), None);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { level, what, detail, statement } in &self.findings {
            let level = match level {
                Level::Pass => "PASS",
                Level::Warn => "WARN",
                Level::Fail => "FAIL",
            };
            writeln!(f, "{level}  {what}: {}", detail.replace('\n', "\n        "))?;
            if let Some(statement) = statement {
                writeln!(f, "      mend: {}", statement.replace('\n', "\n            "))?;
            }
        }
        let count = |level| self.findings.iter().filter(|finding| finding.level == level).count();
        write!(f, "\n{} passed, {} warnings, {} failures", count(Level::Pass), count(Level::Warn), count(Level::Fail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_json_say_the_same() {
        let mut report = Report::default();
        report.pass("version", "15.18");
        assert!(!report.failed());
        report.fail("wal_level", "is replica", Some("alter system set wal_level = logical".into()));
        assert!(report.failed());
        let text = report.to_string();
        assert!(
            text.contains("FAIL  wal_level: is replica\n      mend: alter system set wal_level = logical\n"),
            "{text}"
        );
        assert!(text.ends_with("1 passed, 0 warnings, 1 failures"));
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["findings"][1]["level"], "fail");
        assert_eq!(json["findings"][0].get("statement"), None);
    }
}
