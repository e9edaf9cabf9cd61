//! Which worker gets an instance: the least used one that fits.
//!
//! Memory is a promise and must fit; processor time is shared. How used a worker is, is what its machine measures, with what is
//! about to begin there.

use crate::{limits::Limits, name::Label};

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

/// Why no worker was chosen. Both can pass: the job stays queued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// No agent is connected.
    #[error("no worker is connected")]
    NoWorker,
    /// Workers are connected, but none has the memory left.
    #[error("no connected worker has {0} bytes of memory left")]
    NoMemory(u64),
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
        .min_by_key(|worker| {
            (worker.disk_full, Some(&worker.name) != preferred, use_after(worker, limits), &worker.name)
        })
        .ok_or(NoPlace::NoMemory(limits.memory_bytes()))
}

/// The scarcer of memory and processor time once `limits` are added, in millionths. What is starting is not in the load yet, or
/// an idle worker would get all of many deploys.
fn use_after(worker: &Worker, limits: &Limits) -> u128 {
    let (used, starting) =
        worker.load.map_or((worker.promised, Share::default()), |load| (load, worker.starting));
    let share = |amounts: [u128; 3], all: u128| amounts.iter().sum::<u128>() * 1_000_000 / all.max(1);
    let memory = [used.memory_bytes, starting.memory_bytes, limits.memory_bytes()].map(u128::from);
    let cpu = [used.cpu_millis, starting.cpu_millis, limits.cpu_millis()].map(u128::from);
    share(memory, worker.capacity.memory_bytes.into()).max(share(cpu, worker.capacity.cpu_millis.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
