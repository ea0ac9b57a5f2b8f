//! Memory of the processes of a server, from `/proc`.

use std::{collections::HashMap, fs};

/// Resident memory of these processes and all their descendants, in MB; `None` where there is no `/proc`.
///
/// Pages that several processes share are counted once for each.
pub(crate) fn resident_mb(roots: &[u32]) -> Option<f64> {
    memory_mb(roots, "VmRSS:")
}

/// As [`resident_mb`], at its largest so far.
pub(crate) fn peak_mb(roots: &[u32]) -> Option<f64> {
    memory_mb(roots, "VmHWM:")
}

/// Has [`peak_mb`] begin anew, where the system allows that.
pub(crate) fn forget_peaks(roots: &[u32]) {
    for pid in family(roots).into_iter().flatten() {
        // Else a peak is that of everything so far, which is never too small.
        let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
    }
}

fn memory_mb(roots: &[u32], name: &str) -> Option<f64> {
    let kib: u64 = family(roots)?.into_iter().filter_map(|pid| status(pid, name)).sum();
    (kib > 0).then_some(kib as f64 / 1024.0)
}

/// These processes and all their descendants.
fn family(roots: &[u32]) -> Option<Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(parent) = status(pid, "PPid:") {
            children.entry(u32::try_from(parent).ok()?).or_default().push(pid);
        }
    }
    let (mut tree, mut all) = (roots.to_vec(), Vec::new());
    while let Some(pid) = tree.pop() {
        all.push(pid);
        tree.extend(children.remove(&pid).into_iter().flatten());
    }
    Some(all)
}

/// A number of `/proc/PID/status`; `None` for a process that is gone.
fn status(pid: u32, name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
