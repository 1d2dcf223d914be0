//! Which check a violation comes from: what is the same in two violations of different runs, in
//! which other messages are lost. The simulation of replicas has its words here, too.

/// Words of a violation, and what the check that answers it is called in the table of mutants. The
/// first that fit count.
const CHECKS: [(&str, &str); 59] = [
    ("panic: ", "a panic"),
    ("which was acknowledged", "acknowledged and lost"),
    ("which was only seen", "seen and vanished"),
    ("was seen before", "two messages at one place"),
    ("both acknowledge in epoch", "two leaders in an epoch"),
    ("is undone", "ack undone"),
    (" is delivered in epoch", "delivered although done"),
    ("is delivered with attempt", "attempts went back"),
    ("do not become equal", "replicas differ"),
    ("needed is", "deleted while needed"),
    ("leads and is not answered", "a leader without answers"),
    ("is poisoned without", "poisoned without a reason"),
    ("a poisoned log", "poisoned log"),
    ("poisoned the log without", "poisoned for no reason"),
    ("an ack was undone", "ack undone"),
    ("an ack was invented", "ack invented"),
    ("failed without a reason", "error without a reason"),
    ("cannot open", "cannot open"),
    ("cannot read", "cannot read"),
    ("opening says", "how the log ended"),
    ("opening made a new log", "a new log"),
    ("recovery returned", "recovery changed its mind"),
    ("missing in silence", "missing in silence"),
    ("did not notice", "noticed too late"),
    ("a damaged log answers", "damage called something else"),
    ("lost: ", "lost"),
    ("cut in two", "batch cut in two"),
    ("batch at", "batch cut in two"),
    ("given up too early", "given up too early"),
    ("never got", "never delivered"),
    ("attempts can be", "too many attempts"),
    ("which is done", "delivered although done"),
    ("delivered before", "delivered too early"),
    ("was taken (", "argument not refused"),
    ("what became of it", "explanation"),
    ("came twice", "delivered twice"),
    ("cannot poll", "cannot poll"),
    ("refused", "refused"),
    ("beyond the end", "beyond the end"),
    ("in place of", "altered"),
    ("instead of", "altered"),
    ("altered", "altered"),
    ("invented", "invented"),
    ("reordered", "reordered"),
    ("out of order", "reordered"),
    ("went back", "attempts went back"),
    ("a dead letter", "dead letter"),
    ("letters were made", "dead letter"),
    ("retention", "retention"),
    ("append_if", "condition"),
    ("offset_at(", "offset by time"),
    ("lag of group", "lag"),
    ("its lag is", "lag"),
    ("a lease that is over", "lease that is over"),
    ("a stale delivery", "lease that is over"),
    ("segments and bytes", "statistics"),
    ("durable or visible", "watermarks"),
    ("to be visible", "watermarks"),
    ("ended at", "end of a topic"),
];

/// The check that a violation comes from, in a few words.
pub(crate) fn label(violation: &str) -> String {
    let known = CHECKS.iter().find(|(words, _)| violation.contains(words));
    let label = known.map_or_else(
        // Most violations begin with what is wrong, and go on with where.
        || violation.split([':', '{', '#', '(']).next().unwrap_or(violation),
        |(_, label)| label,
    );
    let words = label.split_whitespace().take_while(|word| !word.contains(char::is_numeric));
    let label = words.collect::<Vec<_>>().join(" ");
    if label.is_empty() { "other than promised".to_owned() } else { label }
}
