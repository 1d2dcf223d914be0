//! Runs this program in another role under callgrind, and reads what that has counted.

use std::collections::HashMap;
use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Whether there is a valgrind that can be run.
pub(crate) fn is_there() -> bool {
    let mut command = Command::new("valgrind");
    let status = command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// What callgrind has written about one run.
pub(crate) struct Counts {
    path: PathBuf,
    /// The instructions of all threads, outside of the kernel.
    pub(crate) total: u64,
}

impl Counts {
    /// Runs this program with these arguments.
    pub(crate) fn of(arguments: &[&str], path: PathBuf) -> Result<Self, Box<dyn Error>> {
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--quiet"]);
        command.arg(format!("--callgrind-out-file={}", path.display()));
        let status = command.arg(std::env::current_exe()?).args(arguments).status()?;
        if !status.success() {
            return Err(format!("valgrind: {status}").into());
        }
        let text = std::fs::read_to_string(&path)?;
        let total = total(&text).ok_or_else(|| format!("no total in {}", path.display()))?;
        Ok(Self { path, total })
    }

    /// The instructions of each function by itself, whatever was inlined into it included.
    pub(crate) fn by_function(&self) -> Result<HashMap<String, u64>, Box<dyn Error>> {
        let mut command = Command::new("callgrind_annotate");
        command.args(["--threshold=100", "--auto=no", "--show-percs=no"]).arg(&self.path);
        let output = command.output().map_err(|error| format!("callgrind_annotate: {error}"))?;
        if !output.status.success() {
            return Err(format!("callgrind_annotate: {}", output.status).into());
        }
        let mut functions = HashMap::new();
        for (name, count) in str::from_utf8(&output.stdout)?.lines().filter_map(function) {
            *functions.entry(name.to_owned()).or_default() += count;
        }
        Ok(functions)
    }
}

/// The total of the event `Ir`, the instructions: `events:` names the columns, `totals:` has their
/// sums. See <https://valgrind.org/docs/manual/cl-format.html>.
fn total(text: &str) -> Option<u64> {
    let columns = |key| Some(text.lines().find_map(|line| line.strip_prefix(key))?.split(' '));
    let named = |column: &&str| !column.is_empty();
    let column = columns("events:")?.filter(named).position(|event| event == "Ir")?;
    columns("totals:")?.filter(named).nth(column)?.parse().ok()
}

/// The name and the figure in a line of `callgrind_annotate`, such as
/// `1,829,663  src/topic.rs:ackline::topic::Topic::append [/path/of/the/program]`. What was inlined
/// has a line with the file that it came from.
fn function(line: &str) -> Option<(&str, u64)> {
    let (figure, place) = line.trim_start().split_once("  ")?;
    let count = figure.replace(',', "").parse().ok()?;
    let (_, name) = place.trim_start().split_once(':')?;
    Some((name.split(" [").next()?, count))
}
