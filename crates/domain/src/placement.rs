//! Which worker gets an instance: the least used one that fits.
//!
//! Memory is a promise and must fit; processor time is shared. How used a worker is, is what its machine measures, with what is
//! about to begin there.

use crate::{limits::Limits, name::Label};
use std::{cmp::Reverse, collections::BinaryHeap};

/// An amount of memory and processor time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Memory.
    pub memory_bytes: u64,
    /// Processor time in thousandths of a core.
    pub cpu_millis: u32,
}

/// What a worker has, and what the instances on it may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Its name.
    pub name: Label,
    /// Whether its agent is connected now.
    pub connected: bool,
    /// What it has for instances.
    pub capacity: Share,
    /// Sum of the limits of its instances.
    pub promised: Share,
    /// As much of that as belongs to instances that are not up yet.
    pub starting: Share,
    /// What its machine uses now; none if it has not said so lately.
    pub load: Option<Share>,
    /// Whether its disk has less room than a deploy wants.
    pub disk_full: bool,
}

/// What a connected worker has said itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Its name.
    pub name: Label,
    /// What it has for instances; none if it has not said so yet.
    pub capacity: Option<Share>,
    /// What its machine uses now; none if it has not said so lately.
    pub load: Option<Share>,
    /// Whether its disk has less room than a deploy wants.
    pub disk_full: bool,
}

/// Why no worker was chosen. Both can pass: the job stays queued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// No agent is connected.
    #[error("no worker is connected")]
    NoWorker,
    /// Workers are connected, but none has this many bytes of memory left.
    #[error("no connected worker has {} MiB of memory left", .0.div_ceil(1 << 20))]
    NoMemory(u64),
}

impl NoPlace {
    /// What this answer says of others who ask the same workers for room; none if they must be asked.
    #[must_use]
    pub fn holds_for(&self, limits: &Limits) -> Option<Self> {
        match self {
            Self::NoWorker => Some(Self::NoWorker),
            Self::NoMemory(refused) => {
                (limits.memory_bytes() >= *refused).then(|| Self::NoMemory(limits.memory_bytes()))
            }
        }
    }
}

/// The connected worker with room for `limits` that is used least once it has them; `preferred` before all others. One with
/// a full disk comes last: what it has to say about that is said if nobody else can take the deploy.
///
/// Equal workers are ordered by name, so the answer depends on the arguments alone.
///
/// # Errors
/// Why there is none.
pub fn place<'a>(
    workers: &'a [Worker],
    limits: &Limits,
    preferred: Option<&Label>,
) -> Result<&'a Worker, NoPlace> {
    let mut connected = workers.iter().filter(|worker| worker.connected).peekable();
    if connected.peek().is_none() {
        return Err(NoPlace::NoWorker);
    }
    connected
        .filter(|worker| {
            worker.promised.memory_bytes.saturating_add(limits.memory_bytes()) <= worker.capacity.memory_bytes
        })
        .min_by_key(|worker| rank(worker, limits, preferred))
        .ok_or(NoPlace::NoMemory(limits.memory_bytes()))
}

/// The way to the worker that [`place`] chooses, with a close look at few of many.
///
/// What a worker says itself tells how used it is at least: they are looked at in that order, until none of the rest can be
/// better than the best that was found.
#[derive(Debug)]
pub struct Search<'a> {
    limits: &'a Limits,
    preferred: Option<&'a Label>,
    /// Not looked at yet.
    rest: BinaryHeap<Reverse<Rank<'a>>>,
    found: Vec<Worker>,
    /// How many to look at next.
    step: usize,
}

/// Looked at with the first question to the database.
const FIRST_STEP: usize = 16;
/// If none of those fits, many may not.
const STEP_GROWTH: usize = 8;

impl<'a> Search<'a> {
    /// A search among all that are connected.
    #[must_use]
    pub fn new(outlines: &'a [Outline], limits: &'a Limits, preferred: Option<&'a Label>) -> Self {
        let rest = outlines.iter().map(|outline| Reverse(rank_at_best(outline, limits, preferred))).collect();
        Self { limits, preferred, rest, found: Vec::new(), step: FIRST_STEP }
    }

    /// The workers to look at next; none if the search is over.
    pub fn next_step(&mut self) -> Vec<Label> {
        let best = place(&self.found, self.limits, self.preferred).ok();
        let best = best.map(|best| rank(best, self.limits, self.preferred));
        let mut names = Vec::new();
        while names.len() < self.step
            && let Some(Reverse(next)) = self.rest.peek()
            && best.is_none_or(|best| *next < best)
            && let Some(Reverse(next)) = self.rest.pop()
        {
            names.push(next.name.clone());
        }
        self.step *= STEP_GROWTH;
        names
    }

    /// What a look at workers has shown.
    pub fn look(&mut self, workers: impl IntoIterator<Item = Worker>) {
        self.found.extend(workers);
    }

    /// The worker, when the search is over.
    ///
    /// # Errors
    /// Why there is none.
    pub fn end(&self) -> Result<&Worker, NoPlace> {
        place(&self.found, self.limits, self.preferred)
    }
}

/// Which of two workers is chosen: the lesser one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a> {
    disk_full: bool,
    is_another: bool,
    use_after: u128,
    name: &'a Label,
}

fn rank<'a>(worker: &'a Worker, limits: &Limits, preferred: Option<&Label>) -> Rank<'a> {
    // What is starting is not in the load yet, or an idle worker would get all of many deploys.
    let used = match worker.load {
        Some(load) => [load, worker.starting],
        None => [worker.promised, Share::default()],
    };
    Rank {
        disk_full: worker.disk_full,
        is_another: Some(&worker.name) != preferred,
        use_after: use_after(used, worker.capacity, limits),
        name: &worker.name,
    }
}

/// The rank of a worker of which nobody else knows that it is used.
fn rank_at_best<'a>(outline: &'a Outline, limits: &Limits, preferred: Option<&Label>) -> Rank<'a> {
    let used = [outline.load.unwrap_or_default(), Share::default()];
    Rank {
        disk_full: outline.disk_full,
        is_another: Some(&outline.name) != preferred,
        use_after: outline.capacity.map_or(0, |capacity| use_after(used, capacity, limits)),
        name: &outline.name,
    }
}

/// The scarcer of memory and processor time once `limits` are added to what is used, in millionths.
fn use_after(used: [Share; 2], capacity: Share, limits: &Limits) -> u128 {
    let [now, soon] = used;
    let share = |amounts: [u128; 3], all: u128| amounts.iter().sum::<u128>() * 1_000_000 / all.max(1);
    let memory = [now.memory_bytes, soon.memory_bytes, limits.memory_bytes()].map(u128::from);
    let cpu = [now.cpu_millis, soon.cpu_millis, limits.cpu_millis()].map(u128::from);
    share(memory, capacity.memory_bytes.into()).max(share(cpu, capacity.cpu_millis.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    fn worker(name: &str, memory_used: u64, cpu_used: u32) -> Worker {
        Worker {
            name: name.parse().expect("label"),
            connected: true,
            capacity: Share { memory_bytes: 4 * GIB, cpu_millis: 4_000 },
            promised: Share { memory_bytes: memory_used, cpu_millis: cpu_used },
            starting: Share::default(),
            load: None,
            disk_full: false,
        }
    }

    fn loaded(worker: Worker, memory_bytes: u64, cpu_millis: u32) -> Worker {
        Worker { load: Some(Share { memory_bytes, cpu_millis }), ..worker }
    }

    fn chosen(workers: &[Worker], memory_bytes: u64) -> Result<String, NoPlace> {
        let limits = Limits::new(memory_bytes, 1_000, 64).expect("limits");
        place(workers, &limits, None).map(|worker| worker.name.to_string())
    }

    #[test]
    fn the_least_used_worker_is_chosen() {
        let workers = [worker("a", 2 * GIB, 0), worker("b", GIB, 0), worker("c", 0, 3_500)];
        assert_eq!(chosen(&workers, GIB), Ok("b".to_owned()));
    }

    #[test]
    fn what_is_measured_says_more_than_what_is_promised() {
        let idle = loaded(worker("idle", 3 * GIB, 3_000), GIB / 2, 100);
        let busy = loaded(worker("busy", 0, 0), GIB / 2, 3_900);
        assert_eq!(chosen(&[idle.clone(), busy.clone()], GIB), Ok("idle".to_owned()));
        assert_eq!(chosen(&[idle, busy], 2 * GIB), Ok("busy".to_owned()), "a promise must fit");
    }

    #[test]
    fn many_deploys_at_once_do_not_all_go_to_the_idle_one() {
        let starting = Share { memory_bytes: 2 * GIB, cpu_millis: 2_000 };
        let idle = Worker { starting, ..loaded(worker("idle", 2 * GIB, 2_000), 0, 0) };
        let used = loaded(worker("used", GIB, 1_000), GIB, 1_000);
        assert_eq!(chosen(&[idle, used], GIB), Ok("used".to_owned()));
    }

    #[test]
    fn a_preferred_worker_is_chosen_while_it_has_room() {
        let limits = Limits::new(GIB, 1_000, 64).expect("limits");
        let preferred = "a".parse().expect("label");
        for (used, expected) in [(3 * GIB, "a"), (4 * GIB, "b")] {
            let workers = [worker("a", used, 0), worker("b", 0, 0)];
            let chosen = place(&workers, &limits, Some(&preferred)).expect("a worker");
            assert_eq!(chosen.name.as_str(), expected);
        }
    }

    #[test]
    fn one_with_a_full_disk_comes_last() {
        let full = Worker { disk_full: true, ..worker("a", 0, 0) };
        let preferred = Some(&full.name);
        let limits = Limits::new(GIB, 1_000, 64).expect("limits");
        let both = [full.clone(), worker("b", 3 * GIB, 0)];
        assert_eq!(place(&both, &limits, preferred).expect("a worker").name.as_str(), "b");
        assert_eq!(chosen(std::slice::from_ref(&full), GIB), Ok("a".to_owned()));
    }

    #[test]
    fn equal_workers_are_ordered_by_name() {
        assert_eq!(chosen(&[worker("b", 0, 0), worker("a", 0, 0)], GIB), Ok("a".to_owned()));
    }

    #[test]
    fn a_full_or_silent_worker_is_passed_over() {
        let away = Worker { connected: false, ..worker("away", 0, 0) };
        assert_eq!(
            chosen(&[away.clone(), worker("full", 4 * GIB, 0), worker("z", 3 * GIB, 9_000)], GIB),
            Ok("z".to_owned())
        );
        assert_eq!(chosen(&[away], GIB), Err(NoPlace::NoWorker));
        assert_eq!(chosen(&[worker("full", 4 * GIB, 0)], GIB), Err(NoPlace::NoMemory(GIB)));
    }

    fn shares() -> impl Strategy<Value = Share> {
        (0..4 * GIB, 0..4_000_u32).prop_map(|(memory_bytes, cpu_millis)| Share { memory_bytes, cpu_millis })
    }

    fn any_worker() -> impl Strategy<Value = Worker> {
        let uses = (shares(), shares(), prop::option::of(shares()));
        (any::<[bool; 3]>(), 1..4_u64, uses).prop_map(
            |([away, silent, full], size, (promised, starting, load))| Worker {
                connected: !(away && silent),
                capacity: Share { memory_bytes: size * GIB, cpu_millis: 2_000 },
                promised,
                starting,
                load,
                disk_full: full,
                ..worker("a", 0, 0)
            },
        )
    }

    proptest! {
        #[test]
        fn a_search_finds_whom_a_look_at_all_finds(
            mut workers in prop::collection::vec(any_worker(), 0..60),
            preferred in 0..60_usize,
            memory_bytes in GIB / 16..3 * GIB,
            has_said in any::<bool>(),
        ) {
            for (number, worker) in workers.iter_mut().enumerate() {
                worker.name = format!("w{number}").parse().expect("label");
            }
            let limits = Limits::new(memory_bytes, 500, 64).expect("limits");
            let preferred = workers.get(preferred).map(|worker| worker.name.clone());
            let outline = |worker: &Worker| Outline {
                name: worker.name.clone(),
                capacity: (has_said || worker.load.is_some()).then_some(worker.capacity),
                load: worker.load,
                disk_full: worker.disk_full,
            };
            let outlines: Vec<_> = workers.iter().filter(|worker| worker.connected).map(outline).collect();
            let mut search = Search::new(&outlines, &limits, preferred.as_ref());
            loop {
                let names = search.next_step();
                if names.is_empty() {
                    break;
                }
                search.look(workers.iter().filter(|worker| names.contains(&worker.name)).cloned());
            }
            prop_assert_eq!(search.end(), place(&workers, &limits, preferred.as_ref()));
        }

        #[test]
        fn what_a_refusal_says_of_others_is_what_they_would_be_told(
            workers in prop::collection::vec(any_worker(), 0..6),
            asked in GIB / 16..3 * GIB,
            others in GIB / 16..3 * GIB,
        ) {
            let limits = |memory_bytes| Limits::new(memory_bytes, 500, 64).expect("limits");
            if let Err(refused) = place(&workers, &limits(asked), None)
                && let Some(told) = refused.holds_for(&limits(others))
            {
                prop_assert_eq!(place(&workers, &limits(others), None), Err(told));
            }
        }
    }

    #[test]
    fn a_search_among_many_looks_at_few() {
        let workers: Vec<_> = (0..10_000_u64)
            .map(|number| loaded(worker(&format!("w{number}"), 0, 0), (9_999 - number) * 100_000, 0))
            .collect();
        let outlines: Vec<_> = workers
            .iter()
            .map(|worker| Outline {
                name: worker.name.clone(),
                capacity: Some(worker.capacity),
                load: worker.load,
                disk_full: false,
            })
            .collect();
        let limits = Limits::new(GIB, 1_000, 64).expect("limits");
        let mut search = Search::new(&outlines, &limits, None);
        let names = search.next_step();
        assert_eq!(names.len(), FIRST_STEP);
        search.look(workers.iter().filter(|worker| names.contains(&worker.name)).cloned());
        assert!(search.next_step().is_empty(), "none of the others can be better");
        assert_eq!(search.end().expect("a worker").name.as_str(), "w9999");
    }
}
