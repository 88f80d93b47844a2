//! The settings of a session that values depend on.

use super::super::{DatumType, NotCompiled};
use super::Lowering;

const UTC: [&str; 12] = [
    "UTC",
    "Etc/UTC",
    "GMT",
    "Etc/GMT",
    "UCT",
    "Etc/UCT",
    "Zulu",
    "Etc/Zulu",
    "Universal",
    "Etc/Universal",
    "Greenwich",
    "Etc/Greenwich",
];

fn is_utc(zone: &str) -> bool {
    UTC.iter().any(|name| name.eq_ignore_ascii_case(zone))
}

/// `ISO`, in whichever order dates are read that are not ISO's.
fn is_iso(style: &str) -> bool {
    style.split([',', ' ']).next().is_some_and(|style| style.eq_ignore_ascii_case("ISO"))
}

impl Lowering<'_> {
    pub(super) fn needs_utc(&self) -> Result<(), NotCompiled> {
        self.needs("TimeZone", &self.catalog.session.time_zone, is_utc)
    }

    /// A setting of the session which neither the database nor the role has otherwise.
    fn needs(&self, name: &str, value: &str, is_as_usual: fn(&str) -> bool) -> Result<(), NotCompiled> {
        let settings = &self.catalog.roles.settings;
        let other = [0, self.role.oid].into_iter().flat_map(|oid| settings.get(&oid).into_iter().flatten());
        let values = other.filter_map(|setting| {
            let (set, value) = setting.split_once('=')?;
            set.eq_ignore_ascii_case(name).then(|| value.trim_matches(['"', '\'']))
        });
        match values.chain([value]).all(is_as_usual) {
            true => Ok(()),
            false => Err(NotCompiled::Setting(name.to_owned())),
        }
    }

    /// Reading and writing values of this type as text.
    pub(super) fn needs_for_text(&self, datum_type: &DatumType) -> Result<(), NotCompiled> {
        let session = &self.catalog.session;
        match datum_type {
            DatumType::Date | DatumType::Timestamp => self.needs("DateStyle", &session.date_style, is_iso),
            DatumType::Timestamptz => {
                self.needs("DateStyle", &session.date_style, is_iso)?;
                self.needs_utc()
            }
            DatumType::Interval => {
                let is_usual = |style: &str| style.eq_ignore_ascii_case("postgres");
                self.needs("IntervalStyle", &session.interval_style, is_usual)
            }
            DatumType::Array(element) => self.needs_for_text(element),
            _ => Ok(()),
        }
    }
}
