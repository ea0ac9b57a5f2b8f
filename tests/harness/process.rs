//! A child process with everything it starts, killed at a word or with us.

use std::{
    fs::File,
    io::Write,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Starts the given command in a process group of its own. When our end of its input closes, be it that we asked
/// or that we died, kills the group with SIGKILL, and removes the folder `$1`. Told `keep`, does so without removing
/// the folder; told `stop`, sends the command SIGTERM first and has it end by itself; told `hangup`, sends it SIGHUP.
/// Ends when the command ends, with its exit code.
const KEEPER: &str = r#"
set -m
folder=$1; shift
"$@" </dev/null &
group=$!
exec >&- 2>&-
kept= said=
while kill -0 "$group"; do
  read -r -t 0.5 part
  over=$?
  # Beyond 128 its time was over, perhaps in the middle of a word.
  said=$said$part
  [ $over -gt 128 ] && continue
  case $said in
    stop) kept=1; kill -TERM "$group" ;;
    hangup) kill -HUP "$group" ;;
    keep) kept=1; break ;;
    *) break ;;
  esac
  said=
done
kill -9 -- "-$group"
wait "$group"
code=$?
[ -n "$kept" ] || rm -rf -- "$folder"
exit "$code"
"#;

/// A running command.
pub struct Process {
    keeper: Child,
}

impl Process {
    /// Starts `command` (program and arguments); its output goes to `log`, `state` is its to use.
    pub fn start(command: &[String], env: &[(String, String)], log: &Path, state: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).expect("the log opens");
        // Our own settings (`MYELIN_TEST_…`) are not the server's.
        let ours =
            std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("MYELIN_"));
        let mut bash = Command::new("bash");
        for name in ours {
            bash.env_remove(name);
        }
        let keeper = bash
            .args(["-c", KEEPER, "keeper"])
            .arg(state)
            .args(command)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("the log has two handles"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("bash starts");
        Self { keeper }
    }

    /// Whether it ended by itself.
    pub fn is_over(&mut self) -> bool {
        self.keeper.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Sends it SIGHUP.
    pub fn hangs_up(&mut self) {
        self.keeper.stdin.as_mut().expect("taken at its end only").write_all(b"hangup\n").expect("the keeper listens");
    }

    /// Kills at once, as a power failure would, and leaves the state for a successor.
    pub fn kill(mut self) {
        let mut keeper = self.keeper.stdin.take().expect("taken only here");
        keeper.write_all(b"keep\n").expect("the keeper listens");
    }

    /// Asks it to end with SIGTERM, and answers its exit code, beyond 128 when a signal ended it; `None` when it had
    /// to be killed because it was not over in time. Leaves the state for a successor.
    pub fn stop(mut self, within: Duration) -> Option<i32> {
        let mut keeper = self.keeper.stdin.take().expect("taken only here");
        keeper.write_all(b"stop\n").expect("the keeper listens");
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if let Some(status) = self.keeper.try_wait().expect("the keeper is our child") {
                return status.code();
            }
            thread::sleep(Duration::from_millis(10));
        }
        keeper.write_all(b"keep\n").expect("the keeper listens");
        None
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// The most memory that the process had whose command names this folder, in bytes; `None` where that is not known.
pub fn memory_peak(state: &Path) -> Option<u64> {
    let state = state.to_str()?;
    let runs_on_it = |folder: &Path| {
        let command = std::fs::read(folder.join("cmdline")).unwrap_or_default();
        let words: Vec<_> = command.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        words.iter().any(|word| word.contains(state)) && words.first().is_some_and(|word| !word.ends_with("bash"))
    };
    let mut processes = std::fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
    let status = std::fs::read_to_string(processes.find(|folder| runs_on_it(folder))?.join("status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(peak.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.saturating_mul(1024))
}
