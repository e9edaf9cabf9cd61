//! Which worker gets an instance: the least used one that fits.
//!
//! Memory is a promise and must fit; processor time is shared and only counts towards how used a worker is.

use crate::{limits::Limits, name::Label};

/// What a worker has, and what the instances on it may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Its name.
    pub name: Label,
    /// Whether its agent is connected now.
    pub connected: bool,
    /// Memory for instances.
    pub memory_bytes: u64,
    /// Processor time for instances, in thousandths of a core.
    pub cpu_millis: u32,
    /// Sum of the memory limits of its instances.
    pub memory_bytes_used: u64,
    /// Sum of the CPU limits of its instances.
    pub cpu_millis_used: u32,
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

/// The connected worker with room for `limits` that is used least once it has them; `preferred` before all others.
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
            worker.memory_bytes_used.saturating_add(limits.memory_bytes()) <= worker.memory_bytes
        })
        .min_by_key(|worker| (Some(&worker.name) != preferred, use_after(worker, limits), &worker.name))
        .ok_or(NoPlace::NoMemory(limits.memory_bytes()))
}

/// The scarcer of memory and processor time once `limits` are added, in millionths.
fn use_after(worker: &Worker, limits: &Limits) -> u128 {
    let share = |used: u128, all: u128| used * 1_000_000 / all.max(1);
    let memory = u128::from(worker.memory_bytes_used) + u128::from(limits.memory_bytes());
    let cpu = u128::from(worker.cpu_millis_used) + u128::from(limits.cpu_millis());
    share(memory, worker.memory_bytes.into()).max(share(cpu, worker.cpu_millis.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn worker(name: &str, memory_used: u64, cpu_used: u32) -> Worker {
        Worker {
            name: name.parse().expect("label"),
            connected: true,
            memory_bytes: 4 * GIB,
            cpu_millis: 4_000,
            memory_bytes_used: memory_used,
            cpu_millis_used: cpu_used,
        }
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
