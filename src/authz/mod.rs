//! Who may see a row.
//!
//! Given a token, gives the [`Claims`] it proves; given a table and a role, gives the [`Plan`] its policies make;
//! given row images and an [`Identity`], lets Postgres itself decide (the [`Oracle`]). Knows no subscriptions: ten
//! thousand subscribers of one identity are one question. Whatever cannot be decided is an error, and denies.

pub mod api_keys;
pub mod claims;
mod function_bodies;
pub mod identity;
pub mod jwks;
pub mod jwks_source;
pub mod jwt;
pub mod metrics;
pub mod oracle;
pub mod plan;
pub mod policy;
mod policy_reads;
pub mod row_text;
pub mod session_facts;
pub mod signed;
pub mod topic;
pub mod tracked;

pub use api_keys::{ApiKeyError, ApiKeys};
pub use claims::{Claims, TokenError};
pub use identity::Identity;
pub use jwks::{JwksTask, Keys};
pub use jwt::{KeyError, Verifier, VerifierConfig, mint};
pub use metrics::AuthzMetrics;
pub use oracle::{
    Answer, Asked, CastFailure, Connect, Oracle, OracleConfig, OracleError, OracleTask, Question, Verdict,
};
pub use plan::{CompiledPlan, DeniedReason, OraclePlan, Plan, check_plan, plan};
pub use row_text::{RowText, row_text};
pub use session_facts::{SessionFactsError, SessionFactsTask, read_session_facts};
pub use signed::SignedTokens;
pub use topic::{TopicAuthority, TopicError, TopicGrant, TopicQuestion, TopicRight};
