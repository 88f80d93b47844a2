//! Who may use a private channel, by the policies of `realtime.messages` (DESIGN section 5).
//!
//! What compiled policies decide is answered at once, as of the stream's position. Postgres is asked what they leave open,
//! and before somebody is refused for what tables say: their rows may be on their way, committed a moment ago.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use foldhash::fast::RandomState;
use tokio::sync::oneshot;

use crate::authz::policy::{ChannelSettings, Need, Person, RowTypes};
use crate::authz::policy::{Failure, failure::Undecided};
use crate::authz::topic::Probe;
use crate::authz::tracked::Tables;
use crate::authz::{
    Answer, Asked, CompiledPlan, DeniedReason, Oracle, OracleError, OraclePlan, Plan, Question, TopicError, TopicGrant,
    TopicQuestion, TopicRight, Verdict, check_plan, plan,
};
use crate::catalog::{Catalog, Messages, Role};

/// How often the same trouble is logged: joins come by the thousand.
const WORDS_APART: Duration = Duration::from_secs(60);
/// 1970 to 2000, in microseconds.
const EPOCH_OF_POSTGRES: i64 = 946_684_800_000_000;

/// What a role may do, once privileges let it.
struct Plans {
    may_select: bool,
    may_insert: bool,
    read: Plan,
    write: Plan,
}

impl Plans {
    fn of(catalog: &Catalog, messages: &Messages, role: &Role) -> Plans {
        Plans {
            may_select: messages.may_select(catalog, role),
            may_insert: messages.may_insert(catalog, role),
            read: plan(catalog, &messages.read, role),
            write: check_plan(catalog, &messages.write, role),
        }
    }

    /// `None`: privileges are in the way.
    fn of_right(&self, right: TopicRight) -> Option<&Plan> {
        match right {
            TopicRight::Read => self.may_select.then_some(&self.read),
            TopicRight::Write => self.may_insert.then_some(&self.write),
        }
    }
}

/// The plans of the roles that ask, worked out once per catalog state.
pub struct Topics {
    plans: HashMap<Arc<str>, Option<Arc<Plans>>, RandomState>,
    types: Option<RowTypes>,
    oracle: Oracle,
    timeout: Duration,
    has_news: bool,
    last_word: Option<tokio::time::Instant>,
}

/// What comes of a question.
pub enum Decided {
    Here(Result<TopicGrant, TopicError>),
    /// Postgres has the last word.
    Ask(Inquiry),
}

/// A question on its way to Postgres.
pub struct Inquiry {
    question: Arc<TopicQuestion>,
    answer: oneshot::Receiver<Result<Answer, OracleError>>,
    /// What is answered where there is nobody to ask.
    otherwise: Result<TopicGrant, TopicError>,
    timeout: Duration,
}

impl Default for Topics {
    fn default() -> Topics {
        Topics {
            plans: HashMap::default(),
            types: None,
            oracle: Oracle::absent(),
            timeout: Duration::ZERO,
            has_news: false,
            last_word: None,
        }
    }
}

impl Topics {
    /// Gives whom what is left open is asked; without it, nobody.
    pub fn ask_with(&mut self, oracle: Oracle, timeout: Duration) {
        (self.oracle, self.timeout) = (oracle, timeout);
    }

    /// Another catalog is in force. The plans of all roles that may come are made at once: the tables that they read are
    /// then loaded before anybody joins.
    pub fn catalog_changed(&mut self, catalog: &Catalog) {
        self.has_news = true;
        let known: Vec<Arc<str>> = std::mem::take(&mut self.plans).into_keys().collect();
        self.types = catalog.messages.as_ref().map(|messages| RowTypes::new(catalog, &messages.read));
        if catalog.messages.is_none() {
            return;
        }
        // Those that the oracle's login may become: who else would come here.
        let roles = catalog.roles.by_name.values();
        let api = roles.filter(|role| catalog.session.roles.contains(&role.oid)).map(|role| role.name.as_str().into());
        for role in known.into_iter().chain(api) {
            self.plans(catalog, &role);
        }
    }

    /// `None`: there is no such role.
    fn plans(&mut self, catalog: &Catalog, role: &str) -> Option<Arc<Plans>> {
        if let Some(known) = self.plans.get(role) {
            return known.clone();
        }
        let messages = catalog.messages.as_ref()?;
        // Names that are nobody's are not kept: clients make them up.
        let role = catalog.roles.get(role)?;
        let plans = Arc::new(Plans::of(catalog, messages, role));
        for (right, plan) in [("read", &plans.read), ("write", &plans.write)] {
            if let Plan::Oracle(plan) = plan
                && let Some(why) = &plan.not_compiled
            {
                tracing::debug!(role = role.name, right, %why, "policies of private channels are left to Postgres");
            }
        }
        self.has_news = true;
        self.plans.insert(role.name.as_str().into(), Some(Arc::clone(&plans)));
        Some(plans)
    }

    /// Whether the plans are others than when this was last asked.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }

    /// What the plans read of other tables.
    pub fn needs(&self) -> Vec<Need> {
        let plans = self.plans.values().flatten().flat_map(|plans| [&plans.read, &plans.write]);
        let needs = plans.filter_map(|plan| match plan {
            Plan::Compiled(plan) => Some(plan.program.needs.iter().cloned()),
            _ => None,
        });
        needs.flatten().collect()
    }

    pub fn decide(&mut self, catalog: &Catalog, tables: &Tables, question: TopicQuestion) -> Decided {
        let question = Arc::new(question);
        let refused = Decided::Here(Ok(TopicGrant::default()));
        if catalog.messages.is_none() {
            self.warn(
                "there is no table realtime.messages, so that nobody may join a private channel: run `walcast setup`",
            );
            return Decided::Here(Err(TopicError::Unavailable));
        }
        // No text of Postgres has it, so that whoever asked there would be told of an error.
        if question.topic.contains('\0') {
            return refused;
        }
        let Some(plans) = self.plans(catalog, &question.identity.role) else { return refused };
        match plans.of_right(question.right) {
            None => refused,
            Some(Plan::Open) => Decided::Here(Ok(TopicGrant::all_of(&question))),
            // It is there again in a moment.
            Some(Plan::Denied(DeniedReason::TextMissing { .. })) => Decided::Here(Err(TopicError::Cancelled)),
            Some(Plan::Denied(reason)) => {
                if !matches!(reason, DeniedReason::NoPolicy) {
                    self.warn_policy(&question, &reason.to_string());
                }
                refused
            }
            Some(Plan::Oracle(plan)) => self.ask(plan, question, Err(TopicError::Unavailable)),
            Some(Plan::Compiled(plan)) => match self.compiled(plan, tables, &question) {
                Said::Surely(grant) => Decided::Here(Ok(grant)),
                Said::ByTables(grant) => self.ask(&plan.oracle, question, Ok(grant)),
                Said::Error(error) => {
                    self.warn_policy(&question, &error);
                    refused
                }
                Said::Nothing => self.ask(&plan.oracle, question, Err(TopicError::Unavailable)),
            },
        }
    }

    fn compiled(&self, plan: &CompiledPlan, tables: &Tables, question: &TopicQuestion) -> Said {
        // The database's clock is not this one.
        if plan.program.uses_now {
            return Said::Nothing;
        }
        let Some(types) = &self.types else { return Said::Nothing };
        let channel = ChannelSettings { topic: &question.topic, headers: &question.headers };
        let identity = &question.identity;
        let person = Person { role: &identity.role, claims: &identity.claims, channel: Some(channel) };
        let slots = plan.program.slots_of(person);
        let checked = question.right == TopicRight::Write;
        let now = now();
        let (mut grant, mut by_tables) = (TopicGrant::default(), false);
        for extension in question.extensions() {
            let probe = Probe::of(&plan.oracle.relation, types, &question.topic, *extension);
            let verdict = |tables: &Tables| plan.program.verdict(&probe, &slots, tables, now, checked);
            match verdict(tables) {
                Ok(granted) => {
                    grant.set(*extension, granted);
                    // Whether it would be refused whatever the tables say.
                    by_tables |= !granted && !plan.program.needs.is_empty() && verdict(&Tables::default()).is_err();
                }
                Err(Failure::Error(error)) => return Said::Error(error.into_owned()),
                Err(Failure::Undecided(why)) => {
                    if !matches!(why, Undecided::NotLoaded(_)) {
                        tracing::debug!(?why, "a compiled policy of realtime.messages is left to Postgres");
                    }
                    return Said::Nothing;
                }
            }
        }
        if by_tables { Said::ByTables(grant) } else { Said::Surely(grant) }
    }

    fn ask(
        &self,
        plan: &Arc<OraclePlan>,
        question: Arc<TopicQuestion>,
        otherwise: Result<TopicGrant, TopicError>,
    ) -> Decided {
        let types = self.types.as_ref();
        let probe = |extension| Some(Probe::of(&plan.relation, types?, &question.topic, extension).text());
        let rows = question.extensions().iter().filter_map(|extension| probe(*extension)).collect();
        let asked = Asked::Channel { plan: Arc::clone(plan), question: Arc::clone(&question) };
        let asked = Question { xid: None, relation: Arc::clone(&plan.relation), asked, rows };
        Decided::Ask(Inquiry { answer: self.oracle.ask(asked), question, otherwise, timeout: self.timeout })
    }

    fn warn(&mut self, message: &str) {
        if self.last_word.is_none_or(|word| word.elapsed() > WORDS_APART) {
            self.last_word = Some(tokio::time::Instant::now());
            tracing::warn!("{message}");
        }
    }

    fn warn_policy(&mut self, question: &TopicQuestion, error: &str) {
        if self.last_word.is_none_or(|word| word.elapsed() > WORDS_APART) {
            self.last_word = Some(tokio::time::Instant::now());
            policy_error(question, error);
        }
    }
}

/// What a program makes of a question.
enum Said {
    Surely(TopicGrant),
    /// Something is refused that tables could grant.
    ByTables(TopicGrant),
    Error(String),
    Nothing,
}

impl Inquiry {
    /// Never longer than the oracle takes for any question.
    pub async fn answer(self) -> Result<TopicGrant, TopicError> {
        let answer = match tokio::time::timeout(self.timeout, self.answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => return Err(TopicError::Unavailable),
            Err(_) => return Err(TopicError::Cancelled),
        };
        match answer {
            Ok(Answer::Verdicts(verdicts)) => Ok(granted(&self.question, &verdicts)),
            Ok(Answer::Json(_)) => Ok(TopicGrant::default()),
            Err(OracleError::NoOracle) => self.otherwise,
            Err(OracleError::Timeout(_) | OracleError::ColumnGone | OracleError::Overloaded) => {
                Err(TopicError::Cancelled)
            }
            Err(error @ (OracleError::Role { .. } | OracleError::Refused { .. })) => {
                policy_error(&self.question, &error.to_string());
                Ok(TopicGrant::default())
            }
            Err(error) => {
                tracing::warn!(%error, "policies of realtime.messages could not be asked");
                Err(TopicError::Unavailable)
            }
        }
    }
}

/// One error ends the statement of all rows.
fn granted(question: &TopicQuestion, verdicts: &[Verdict]) -> TopicGrant {
    let mut grant = TopicGrant::default();
    if verdicts.contains(&Verdict::Failed) {
        policy_error(question, "evaluating them raises an error");
        return grant;
    }
    for (extension, verdict) in question.extensions().iter().zip(verdicts) {
        grant.set(*extension, verdict.is_allowed());
    }
    grant
}

/// Neither the topic nor the claims: they are people's.
fn policy_error(question: &TopicQuestion, error: &str) {
    let role = question.identity.role.as_str();
    tracing::warn!(error_code = "RlsPolicyError", role, right = ?question.right, error, "policies of realtime.messages fail");
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX) - EPOCH_OF_POSTGRES
}
