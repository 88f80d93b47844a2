//! Compares what a client wrote down with what was committed.
//!
//! A change *must* have come if the client was entitled to it at all times from just before its commit until the client
//! was given something newer, which is when it was passed over. It *may* have come if the client was entitled to it at
//! some time between just before its commit and its arrival. What lies between the two nobody can complain of: replayed
//! changes are judged by what holds at the replay.
//!
//! Where that begins: for plain clients with each join reply, for the others with the first one.

use super::diary::{Diary, Got, Kind, Notice, Stint};
use super::plan::Plan;
use super::report::{Counts, Report, Wrong};
use super::timeline::Window;
use super::trouble::Log;
use super::truth::{Change, Truth};

/// Clocks are read before and after what they stamp.
const SLACK: i64 = 1_500_000;

/// What the relay does at once may take so long where two processors are shared by everybody.
const LATE: i64 = 4_000_000;

pub struct Checker<'a> {
    pub truth: &'a Truth,
    pub plan: &'a Plan,
    pub log: &'a Log,
}

/// What is known of one client so far, in the order of its diary.
struct Course {
    /// The first change that was not looked at yet.
    next: usize,
    /// Changes that had committed by then are none of its business.
    since: i64,
    /// By the places of changes.
    got: Vec<bool>,
    /// Up to here the relay has surely been told that the client has it; one more than the place. With when it was told.
    acknowledged: Vec<(usize, i64)>,
    counts: Counts,
}

impl Checker<'_> {
    pub fn check(&self, diary: &Diary, report: &mut Report) {
        for (at, what) in &diary.complaints {
            report.add(Wrong::Complaint, *at, format!("{}: {what}", name(diary)));
        }
        let got = vec![false; self.truth.changes.len()];
        let counts = Counts { clients: 1, ..Counts::default() };
        let mut course = Course { next: 0, since: i64::MAX, got, acknowledged: Vec::new(), counts };
        for (number, stint) in diary.stints.iter().enumerate() {
            let Some(joined_at) = stint.joined_at else { continue };
            course.counts.stints += 1;
            self.begin(diary, number, joined_at, &mut course, report);
            self.read(diary, number, stint, &mut course, report);
            for pair in stint.replies.windows(2) {
                // What the relay was not yet done with, for whomever, counts as written later.
                let done_before = self.settled_before(pair[0].at, LATE);
                let handled = stint.got[..pair[0].got].partition_point(|got| got.at < done_before);
                if let Some(last) = handled.checked_sub(1).and_then(|last| self.place(&stint.got[last])) {
                    course.acknowledged.push((self.whole(diary, last), pair[1].at));
                }
            }
        }
        let counts = report.counts.entry(diary.kind).or_default();
        let Counts { clients, stints, expected, got, repeated, resumed, gaps, excused } = course.counts;
        counts.clients += clients;
        counts.stints += stints;
        counts.expected += expected;
        counts.got += got;
        counts.repeated += repeated;
        counts.resumed += resumed;
        counts.gaps += gaps;
        counts.excused += excused;
    }

    /// What the join, and what was said of the resume, mean for what must come.
    fn begin(&self, diary: &Diary, number: usize, joined_at: i64, course: &mut Course, report: &mut Report) {
        let stint = &diary.stints[number];
        let is_first = course.since == i64::MAX;
        let afresh = match diary.kind {
            Kind::Plain => true,
            Kind::Key => is_first,
            Kind::Since => is_first || stint.since.is_none() && self.plan.without.is_none(),
        };
        if afresh {
            return course.begin_at(joined_at);
        }
        for notice in &stint.notices {
            if notice.state != "refused" {
                self.notice(diary, number, notice, report);
            }
            match notice.state.as_str() {
                "complete" => course.counts.resumed += 1,
                "gap" => self.gap(diary, number, notice, course, report),
                "started" if diary.kind == Kind::Key => self.started(diary, number, joined_at, notice, course, report),
                _ => {
                    let what = format!("{}: told {notice:?} in stint {number}", name(diary));
                    report.add(Wrong::NotTold, notice.at, what);
                }
            }
        }
        let lived = stint.ended_at - joined_at;
        let should_be_told = self.plan.without.is_none();
        let outcomes = stint.notices.iter().filter(|notice| notice.state != "gap").count();
        if should_be_told && (outcomes > 1 || stint.notices.is_empty() && lived > 60_000_000) {
            let what = format!("{}: told {:?} in stint {number}, of {lived} us", name(diary), stint.notices);
            report.add(Wrong::NotTold, joined_at, what);
        }
    }

    /// What it says of positions: of where the client asked it to begin, and of what came before and after it.
    fn notice(&self, diary: &Diary, number: usize, notice: &Notice, report: &mut Report) {
        let stint = &diary.stints[number];
        let lsn = |got: &Got| {
            let change = &self.truth.changes[self.place(got)?];
            Some(self.truth.transactions[change.transaction as usize].lsn)
        };
        let (replayed, live) = stint.got.split_at(notice.got);
        let (last, first) = (replayed.last().and_then(lsn), live.first().and_then(lsn));
        // Behind a gap the rest is complete from where it ends.
        let after_gap = stint.notices.iter().any(|gap| gap.state == "gap" && gap.position == notice.from);
        let from_is_right = stint.since.is_none() || notice.state == "gap" || after_gap || notice.from == stint.since;
        let between =
            |position: u64| last.is_none_or(|last| last <= position) && first.is_none_or(|first| first >= position);
        if !from_is_right || notice.position.is_none_or(|position| !between(position.lsn)) {
            let what = format!(
                "{}: stint {number}, since {:?}, was told {notice:?} between {last:X?} and {first:X?}",
                name(diary),
                stint.since
            );
            report.add(Wrong::Position, notice.at, what);
        }
        if notice.state == "gap" && notice.reason.is_empty() {
            report.add(Wrong::NotTold, notice.at, format!("{}: a gap without a reason: {notice:?}", name(diary)));
        }
    }

    /// A gap is real where something was older than what is kept.
    fn gap(&self, diary: &Diary, number: usize, notice: &Notice, course: &mut Course, report: &mut Report) {
        course.counts.gaps += 1;
        // Of what only later policies would have shown (see the client's `told`): nothing that must come is excused by it.
        if notice.reason.starts_with("row-level security could not be evaluated") {
            return;
        }
        if notice.reason.starts_with("a table was altered") {
            return self.altered(diary, number, notice, course, report);
        }
        let retention = self.plan.retention.as_micros() as i64;
        // It may have waited for its turn, for as long as it could be kept.
        let kept_since = notice.at - retention + SLACK;
        let from = match notice.from {
            Some(from) => self.truth.transactions.partition_point(|transaction| transaction.lsn <= from.lsn),
            None => 0,
        };
        if self.truth.transactions.get(from).is_none_or(|first| first.at > kept_since + SLACK) {
            let first = self.truth.transactions.get(from).map(|first| (first.lsn, first.at));
            let what = format!(
                "{}: stint {number}, asked at {}, was told {notice:?}; what follows is {first:?}",
                name(diary),
                diary.stints[number].asked_at
            );
            report.add(Wrong::FalseGap, notice.at, what);
        }
        // What was kept must come all the same.
        while self.truth.changes.get(course.next).is_some_and(|change| self.truth.at(change) < kept_since) {
            course.counts.excused += usize::from(self.must_come(diary, course, course.next, notice.at));
            course.next += 1;
        }
    }

    /// A gap because a table was altered covers what it names, and nothing else. It is real where a column of a table that
    /// the client listens to was made anew, the relay began after that, and all of it was committed before.
    fn altered(&self, diary: &Diary, number: usize, notice: &Notice, course: &mut Course, report: &mut Report) {
        let is_before = |at: &&i64| **at < notice.at;
        let started = self.log.starts.iter().filter(is_before).max().copied().unwrap_or_default();
        let concerns = |table| diary.bindings.iter().any(|binding| binding.is_of(table));
        let is_altered = self.log.altered.iter().any(|(at, table)| *at < started && concerns(*table));
        let until = notice.position.map_or(0, |position| position.lsn);
        let last = self.truth.transactions.partition_point(|transaction| transaction.lsn <= until).checked_sub(1);
        let is_old = last.is_some_and(|last| self.truth.transactions[last].at < started);
        if !is_altered || !is_old || notice.from >= notice.position {
            let what = format!(
                "{}: stint {number} was told {notice:?}; the relay began at {started}, altered were {:?}",
                name(diary),
                self.log.altered
            );
            report.add(Wrong::FalseGap, notice.at, what);
        }
        let lsn = |change: &Change| self.truth.transactions[change.transaction as usize].lsn;
        while self.truth.changes.get(course.next).is_some_and(|change| lsn(change) <= until) {
            course.counts.excused += usize::from(self.must_come(diary, course, course.next, notice.at));
            course.next += 1;
        }
    }

    /// The key was not known: only where it had just been made when the relay was killed.
    fn started(
        &self,
        diary: &Diary,
        number: usize,
        joined_at: i64,
        notice: &Notice,
        course: &mut Course,
        report: &mut Report,
    ) {
        let is_excused =
            self.log.kills.iter().any(|kill| course.since >= self.written_down_before(*kill) && *kill < joined_at);
        if is_excused {
            return course.begin_at(joined_at);
        }
        report.add(Wrong::Forgotten, notice.at, format!("{}: stint {number} was told {notice:?}", name(diary)));
    }

    fn read(&self, diary: &Diary, number: usize, stint: &Stint, course: &mut Course, report: &mut Report) {
        let acknowledged = self.acknowledged_before(stint.asked_at, course);
        let mut before: Option<(usize, &Got)> = None;
        for got in &stint.got {
            course.counts.got += 1;
            let Some(place) = self.place(got) else {
                let what = format!("{}: {:?} was never committed", name(diary), got.change);
                report.add(Wrong::Leaked, got.at, what);
                continue;
            };
            let told = || format!("{}: {:?} in stint {number}", name(diary), got.change);
            if let Some((last, last_got)) = before
                && (place <= last || got.position != Default::default() && got.position <= last_got.position)
            {
                report.add(Wrong::Disorder, got.at, format!("{} after {:?}", told(), last_got.change));
            }
            self.judge(diary, got, &self.truth.changes[place], report, &told);
            if diary.kind != Kind::Plain && course.got[place] {
                course.counts.repeated += 1;
                if diary.kind == Kind::Since || place < acknowledged {
                    let what = format!(
                        "{}, of {:X?}, again; acknowledged to {:?}; {:X?}; asked at {}, since {:?}",
                        told(),
                        self.truth.transactions[self.truth.changes[place].transaction as usize].lsn,
                        acknowledged.checked_sub(1).map(|last| (
                            last - place,
                            self.truth.changes[last].id,
                            self.truth.transactions[self.truth.changes[last].transaction as usize].lsn
                        )),
                        stint.notices,
                        stint.asked_at,
                        stint.since
                    );
                    report.add(Wrong::Repeated, got.at, what);
                }
            }
            course.got[place] = true;
            while course.next < place {
                let missed = course.next;
                course.next += 1;
                if self.must_come(diary, course, missed, got.at) && !course.got[missed] {
                    let (change, transaction) = (&self.truth.changes[missed], &self.truth.changes[missed].transaction);
                    let what = format!(
                        "{}: {:?} of transaction {transaction} at {} ({:.3} s before); stint {number} of {} had {:?} instead, {:?}, since {:?}, {:?}; the one before ended: {}",
                        name(diary),
                        change.id,
                        self.truth.transactions[*transaction as usize].lsn,
                        (got.at - self.truth.at(change)) as f64 / 1e6,
                        diary.stints.len(),
                        got.change,
                        stint.notices,
                        stint.since,
                        change.row(),
                        number.checked_sub(1).map_or("", |before| diary.stints[before].end.as_str())
                    );
                    report.add(Wrong::Lost, got.at, what);
                }
                course.counts.expected += usize::from(self.must_come(diary, course, missed, got.at));
            }
            if course.next == place {
                course.next = place + 1;
                course.counts.expected += usize::from(self.must_come(diary, course, place, got.at));
            }
            before = Some((place, got));
        }
    }

    /// Whether it may have come at all, in this form, for these bindings.
    fn judge(&self, diary: &Diary, got: &Got, change: &Change, report: &mut Report, told: &dyn Fn() -> String) {
        let window = self.window(change, got.at);
        let timeline = &self.truth.timeline;
        if !timeline.ever(diary.person, change.table, change.row(), window) {
            let why = timeline.explain(diary.person, change.table, change.row());
            report.add(
                Wrong::Leaked,
                got.at,
                format!("{}: never entitled to {:?} in {window:?}: {why}", told(), change.row()),
            );
        }
        if got.shows_old && change.old.is_some_and(|old| !timeline.ever(diary.person, change.table, &old, window)) {
            report.add(Wrong::Leaked, got.at, format!("{}: with its old row {:?}", told(), change.old));
        }
        if matching(diary, change) != got.bindings {
            let what = format!("{}: for {:b}, not {:b}", told(), got.bindings, matching(diary, change));
            report.add(Wrong::Bindings, got.at, what);
        }
        let lsn = self.truth.transactions[change.transaction as usize].lsn;
        if got.position != Default::default() && got.position.lsn != lsn {
            report.add(Wrong::Position, got.at, format!("{} at {:?}, not at {lsn:X}", told(), got.position));
        }
    }

    fn must_come(&self, diary: &Diary, course: &Course, place: usize, passed_over_at: i64) -> bool {
        let change = &self.truth.changes[place];
        self.truth.at(change) > course.since
            && matching(diary, change) != 0
            && self.truth.timeline.always(diary.person, change.table, change.row(), self.window(change, passed_over_at))
    }

    fn window(&self, change: &Change, until: i64) -> Window {
        let last = self.truth.last_at(until).max(change.transaction);
        Window { first: change.transaction.saturating_sub(1), last }
    }

    fn place(&self, got: &Got) -> Option<usize> {
        self.truth.places.get(&got.change).map(|place| *place as usize)
    }

    /// What is acknowledged with a change, one more than the place of the last: whole transactions.
    fn whole(&self, diary: &Diary, last: usize) -> usize {
        let changes = &self.truth.changes;
        let transaction = changes[last].transaction;
        let mut rest = changes[last + 1..].iter().take_while(|change| change.transaction == transaction);
        if rest.any(|change| matching(diary, change) != 0) {
            return changes.partition_point(|change| change.transaction < transaction);
        }
        last + 1
    }

    /// What the relay must have known to be with the client when it was asked.
    fn acknowledged_before(&self, asked_at: i64, course: &Course) -> usize {
        let kills = || self.log.kills.iter().filter(|kill| **kill < asked_at);
        let holds = |at: i64| kills().all(|kill| at < self.written_down_before(*kill) || at > *kill);
        course.acknowledged.iter().filter(|(_, at)| holds(*at)).map(|(place, _)| *place).max().unwrap_or_default()
    }

    /// What was acknowledged before that had been written down by the time of the kill.
    fn written_down_before(&self, kill: i64) -> i64 {
        self.settled_before(kill, self.plan.write_interval.as_micros() as i64 + LATE)
    }

    /// When something must have begun that takes so long, and Postgres for it, to be done by then.
    fn settled_before(&self, done: i64, takes: i64) -> i64 {
        let mut before = done - takes;
        while let Some((began, _)) =
            self.log.dark.iter().find(|(began, ended)| *began < before + takes && *ended > before)
            && *began - takes < before
        {
            before = *began - takes;
        }
        before
    }
}

impl Course {
    fn begin_at(&mut self, at: i64) {
        self.since = at;
        self.next = 0;
        self.got.fill(false);
    }
}

/// A bit for each binding that asks for the change.
fn matching(diary: &Diary, change: &Change) -> u8 {
    let matches = diary.bindings.iter().map(|binding| binding.matches(change.table, change.operation, change.row()));
    matches.enumerate().fold(0, |bits, (place, matches)| bits | u8::from(matches) << place)
}

pub fn name(diary: &Diary) -> String {
    format!("client {} ({:?}, {:?})", diary.number, diary.person, diary.kind)
}
