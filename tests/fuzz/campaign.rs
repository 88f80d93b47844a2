//! Drives the targets: the whole corpus first, then mutants of it until the time is up.

use std::cell::Cell;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::mutate::mutant;
use super::targets::{TARGETS, Target};

/// For all targets together, in seconds.
const BUDGET: u64 = 30;

/// One input of at most 16 KiB, unoptimized and beside other tests: a thousand times what they take.
const INPUT_TIME_MAX: Duration = Duration::from_secs(5);

/// Readers recurse on threads of the relay, which have this much.
const STACK_BYTES: usize = 2 << 20;

thread_local! {
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

#[test]
fn no_input_breaks_what_reads_it() {
    quiet_panics();
    let budget = number("WALCAST_FUZZ_SECONDS").unwrap_or(BUDGET);
    let seed = number("WALCAST_FUZZ_SEED").unwrap_or_else(|| rand::rng().random());
    let wanted = std::env::var("WALCAST_FUZZ_TARGET").ok();
    let targets: Vec<&Target> =
        TARGETS.iter().filter(|target| wanted.as_deref().is_none_or(|wanted| wanted == target.name)).collect();
    assert!(!targets.is_empty(), "no such target: {wanted:?}");
    let time = Duration::from_secs(budget) / targets.len() as u32;
    println!("seed {seed}, {time:?} for each of {} targets", targets.len());
    let failures: Vec<String> = targets.into_iter().filter_map(|target| campaign(target, time, seed).err()).collect();
    assert!(failures.is_empty(), "WALCAST_FUZZ_SEED={seed}\n{}", failures.join("\n"));
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text:?}")))
}

pub fn corpus_of(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

/// The files of a target, by name: the same seed mutates the same.
pub fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(corpus_of(target)).unwrap_or_else(|error| panic!("the corpus of {target}: {error}"));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).expect("a file of the corpus"))).collect()
}

fn campaign(target: &'static Target, time: Duration, seed: u64) -> Result<(), String> {
    let thread = std::thread::Builder::new().name(target.name.to_owned()).stack_size(STACK_BYTES);
    let driven = thread.spawn(move || drive(target, time, seed)).expect("a thread");
    driven.join().unwrap_or_else(|_| Err(format!("{}: the campaign itself panicked", target.name)))
}

fn drive(target: &Target, time: Duration, seed: u64) -> Result<(), String> {
    let corpus = corpus(target.name);
    for (path, bytes) in &corpus {
        run(target, bytes).map_err(|why| format!("{}: {}: {why}", target.name, path.display()))?;
    }
    let mut seeds: Vec<Vec<u8>> = corpus.into_iter().map(|(_, bytes)| bytes).collect();
    let (mut random, kept) = (SmallRng::seed_from_u64(seed), seeds.len());
    let (started, mut runs) = (Instant::now(), 0_u64);
    while started.elapsed() < time {
        let input = mutant(&seeds, &mut random);
        if let Err(why) = run(target, &input) {
            return Err(report(target, smallest(target, input), &why));
        }
        // Without coverage nobody knows which mutants are worth keeping: some, so that mutations add up.
        if random.random_ratio(1, 64) {
            match seeds.len() < 4 * kept + 16 {
                true => seeds.push(input),
                false => {
                    let place = random.random_range(kept..seeds.len());
                    seeds[place] = input;
                }
            }
        }
        runs += 1;
    }
    println!("{}: {kept} files, {runs} mutants", target.name);
    Ok(())
}

/// `Err`: what it panicked with, or that it took too long.
fn run(target: &Target, bytes: &[u8]) -> Result<(), String> {
    let started = Instant::now();
    IS_QUIET.set(true);
    let caught = panic::catch_unwind(AssertUnwindSafe(|| (target.run)(bytes)));
    IS_QUIET.set(false);
    if let Err(panic) = caught {
        let text = panic.downcast_ref::<String>().cloned();
        return Err(text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default());
    }
    match started.elapsed() {
        took if took > INPUT_TIME_MAX => Err(format!("it took {took:?}")),
        _ => Ok(()),
    }
}

/// As short as leaving out pieces makes it.
fn smallest(target: &Target, mut input: Vec<u8>) -> Vec<u8> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut piece = input.len() / 2;
    while piece > 0 {
        let mut at = 0;
        while at + piece <= input.len() && Instant::now() < deadline {
            let shorter = [&input[..at], &input[at + piece..]].concat();
            match run(target, &shorter) {
                Err(_) => input = shorter,
                Ok(()) => at += piece,
            }
        }
        piece /= 2;
    }
    input
}

fn report(target: &Target, input: Vec<u8>, why: &str) -> String {
    let hash = input
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz").join(target.name);
    let path = directory.join(format!("crash-{hash:016x}"));
    let written = fs::create_dir_all(&directory).and_then(|()| fs::write(&path, &input));
    let place = written.map_or_else(|error| error.to_string(), |()| path.display().to_string());
    format!("{}: {why}\n  on {:?}\n  in {place}", target.name, String::from_utf8_lossy(&input))
}

/// A campaign that fails runs into its panic hundreds of times while it makes the input shorter.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_QUIET.get() {
                loud(info);
            }
        }));
    });
}
