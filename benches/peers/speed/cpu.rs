//! What the kernel says of processes: CPU time, memory, children.

use std::fs;
use std::time::Instant;

use crate::Result;

/// Nanoseconds in a tick of /proc/stat (USER_HZ is 100 wherever Linux runs).
const TICK: u64 = 10_000_000;

/// CPU time used up to a moment, in nanoseconds.
pub(crate) struct Usage {
    at: Instant,
    proxy: u64,
    generator: u64,
    /// All that ran on the cores in use, whoever it was.
    cores: u64,
}

/// CPU time used between two moments, in nanoseconds.
pub(crate) struct Spent {
    pub(crate) wall: u64,
    pub(crate) proxy: u64,
    pub(crate) generator: u64,
    cores: u64,
}

impl Usage {
    /// Reads the counters of the proxy's processes, of this one and of the cores in use.
    pub(crate) fn read(proxy: &[u32], cores: &[usize]) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            proxy: proxy.iter().map(|&pid| process_ns(pid)).sum::<Result<u64>>()?,
            generator: process_ns(std::process::id())?,
            cores: cores_ns(cores)?,
        })
    }

    pub(crate) fn since(&self, earlier: &Self) -> Spent {
        Spent {
            wall: (self.at - earlier.at).as_nanos() as u64,
            proxy: self.proxy - earlier.proxy,
            generator: self.generator - earlier.generator,
            cores: self.cores - earlier.cores,
        }
    }
}

impl Spent {
    /// What others took of these cores, as a share of one core's time.
    pub(crate) fn others(&self) -> f64 {
        let ours = self.proxy + self.generator;
        self.cores.saturating_sub(ours) as f64 / self.wall as f64
    }
}

/// Time on a CPU of all threads of a process. Network work done in softirq while a thread runs
/// counts as its own, unless the kernel was built with IRQ_TIME_ACCOUNTING.
fn process_ns(pid: u32) -> Result<u64> {
    let mut sum = 0;
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .map_err(|error| format!("process {pid} is gone: {error}"))?;
    for task in tasks {
        // A thread may end between the listing and the reading.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        sum += number(&text, 0).ok_or("an unreadable schedstat")?;
    }
    Ok(sum)
}

/// Time these cores were not idle, time stolen by the hypervisor included.
fn cores_ns(cores: &[usize]) -> Result<u64> {
    let text = fs::read_to_string("/proc/stat")?;
    let mut busy = 0;
    for core in cores {
        let name = format!("cpu{core} ");
        let line = text.lines().find(|line| line.starts_with(&name));
        let line = line.ok_or_else(|| format!("there is no core {core}"))?;
        // user nice system (idle iowait) irq softirq steal
        for field in [1, 2, 3, 6, 7, 8] {
            busy += number(line, field).ok_or("an unreadable /proc/stat")?;
        }
    }
    Ok(busy * TICK)
}

fn number(line: &str, field: usize) -> Option<u64> {
    line.split_ascii_whitespace().nth(field)?.parse().ok()
}

/// A process and all that descend from it.
pub(crate) fn family(root: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The command's name is in parentheses and may hold anything; the parent follows the state.
        let rest = stat.rsplit(')').next().unwrap_or_default();
        if let Some(parent) = number(rest, 1) {
            parents.push((pid, parent));
        }
    }
    let mut family = vec![root];
    let mut next = 0;
    while let Some(&pid) = family.get(next) {
        let children = parents.iter().filter(|&&(_, parent)| parent == u64::from(pid));
        family.extend(children.map(|&(child, _)| child));
        next += 1;
    }
    Ok(family)
}

/// Memory of processes in KiB, each shared page divided among those who share it.
pub(crate) fn memory_kib(pids: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
            .map_err(|error| format!("process {pid} is gone: {error}"))?;
        let line = text.lines().find(|line| line.starts_with("Pss:"));
        sum += line.and_then(|line| number(line, 1)).ok_or("an unreadable smaps_rollup")?;
    }
    Ok(sum)
}

/// Memory of one process in KiB, all that is mapped and present; cheap enough to ask often.
pub(crate) fn resident_kib(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))
        .map_err(|error| format!("process {pid} is gone: {error}"))?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"));
    Ok(line.and_then(|line| number(line, 1)).ok_or("an unreadable status")?)
}
