//! How large and how long a run is, and which safeguard it goes without.

use std::time::Duration;

use crate::support::scene::from_env;

/// What keeps events from being lost or repeated. A run without one of them must find the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Safeguard {
    /// Clients pass neither key nor position.
    Resume,
    /// Clients beat on whether or not they have read the reply: what is acknowledged was never handled.
    WaitForReplies,
    /// `--resume-retention 0`.
    Retention,
    /// `--slot-mode temporary`: what commits while the relay is away is in no slot.
    PermanentSlot,
    /// A policy is widened behind the checker's back: what the relay then delivers is a leak.
    Policies,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub length: Duration,
    pub clients: usize,
    pub writers: usize,
    /// Between two transactions of a writer, in the mean.
    pub pace: Duration,
    pub heartbeat: Duration,
    pub stint_mean: Duration,
    pub away_max: Duration,
    pub stall_max: Duration,
    /// Between two faults, in the mean.
    pub fault_pause: Duration,
    pub bulk_rows: u32,
    pub retention: Duration,
    pub write_interval: Duration,
    pub without: Option<Safeguard>,
}

impl Plan {
    /// `WALCAST_CHAOS_SECONDS`, `WALCAST_CHAOS_SEED` and `WALCAST_CHAOS_CLIENTS`; short and small without them.
    pub fn from_environment() -> Plan {
        let seconds = from_env("WALCAST_CHAOS_SECONDS", 30);
        let is_long = seconds >= 300;
        let mut plan = Plan::short(from_env("WALCAST_CHAOS_SEED", 1), seconds);
        if is_long {
            plan.clients = 300;
            plan.pace = Duration::from_millis(60);
            plan.stint_mean = Duration::from_secs(25);
            plan.away_max = Duration::from_secs(150);
            plan.stall_max = Duration::from_secs(15);
            plan.fault_pause = Duration::from_secs(6);
            plan.bulk_rows = 30_000;
            plan.retention = Duration::from_secs(90);
        }
        plan.clients = from_env("WALCAST_CHAOS_CLIENTS", plan.clients as u64) as usize;
        plan
    }

    pub fn short(seed: u64, seconds: u64) -> Plan {
        Plan {
            seed,
            length: Duration::from_secs(seconds),
            clients: 40,
            writers: 4,
            pace: Duration::from_millis(40),
            heartbeat: Duration::from_secs(1),
            stint_mean: Duration::from_secs(4),
            away_max: Duration::from_secs(8),
            stall_max: Duration::from_secs(2),
            fault_pause: Duration::from_millis(900),
            bulk_rows: 5_000,
            retention: Duration::from_secs(300),
            write_interval: Duration::from_secs(1),
            without: None,
        }
    }

    pub fn without(safeguard: Safeguard) -> Plan {
        Plan { without: Some(safeguard), stint_mean: Duration::from_secs(2), ..Plan::short(7, 10) }
    }

    pub fn flags(&self) -> Vec<String> {
        // A question that waits for a Postgres that is away is to wait, not to be denied.
        let mut flags: Vec<String> = ["--authz-timeout", "10min"].map(str::to_owned).into();
        // The ring is bounded in time here; what happens where it is full has a test of its own.
        flags.extend(["--resume-memory-max", "512MB"].map(str::to_owned));
        // Without one of them the checker still goes by what was promised.
        let is_on = |safeguard| self.without != Some(safeguard);
        let retention = if is_on(Safeguard::Retention) { self.retention } else { Duration::ZERO };
        let interval = self.write_interval;
        flags.extend(["--resume-retention".into(), format!("{}s", retention.as_secs())]);
        flags.extend(["--resume-write-interval".into(), format!("{}ms", interval.as_millis())]);
        if self.without == Some(Safeguard::PermanentSlot) {
            flags.extend(["--slot-mode", "temporary"].map(str::to_owned));
        }
        flags
    }
}
