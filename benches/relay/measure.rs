//! Measuring: CPU and memory of processes from /proc, medians with their spread, rows of a report.
//!
//! Absolute times say little on a shared machine; every bench runs walcast and a floor in turn, in one run, and prints
//! the ratio. CPU is the scheduler's own count, in nanoseconds.

#![allow(dead_code)] // Each bench is a crate of its own and uses a part of this.

use std::fs;

/// User and system CPU seconds that a process, all its living threads, has used (`schedstat`, whose first number is
/// nanoseconds on the CPU).
pub fn cpu_seconds(pid: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanoseconds = |task: fs::DirEntry| {
        let schedstat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        schedstat.split_whitespace().next()?.parse::<f64>().ok()
    };
    tasks.filter_map(nanoseconds).sum::<f64>() / 1e9
}

/// Resident and peak resident memory of a process in bytes.
pub fn resident_bytes(pid: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()
    };
    (field("VmRSS:").unwrap_or(0) * 1024, field("VmHWM:").unwrap_or(0) * 1024)
}

/// Samples of one quantity.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// The given quantile, between 0 and 1.
    pub fn quantile(&self, q: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        if sorted.is_empty() {
            return f64::NAN;
        }
        sorted[((sorted.len() - 1) as f64 * q).round() as usize]
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// `median (least .. most)`.
    pub fn with_spread(&self, digits: usize) -> String {
        let (median, least, most) = (self.median(), self.quantile(0.0), self.quantile(1.0));
        format!("{median:.digits$} ({least:.digits$} .. {most:.digits$})")
    }

    /// Sample by sample, ours over theirs: both of one round, so that what else the machine did then weighs on both.
    pub fn ratio_to(&self, floor: &Samples) -> Samples {
        Samples(self.0.iter().zip(&floor.0).map(|(ours, theirs)| ours / theirs).collect())
    }
}

/// A number from the environment, for larger runs.
pub fn size(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}
