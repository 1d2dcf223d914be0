//! A flipped bit anywhere is an error or harmless: wrong data is never handed out.

use ackline::{Log, Result};

use crate::common::{Machine, fill, has_suffix, payload, poll, small, try_read_all};

const RECORDS: u64 = 60;
const ACKED: u64 = 4;
const BITS: usize = 20_000;

fn made() -> Machine {
    let machine = Machine::new(3);
    let log = machine.open(small());
    let topic = log.topic("t").expect("a topic");
    let group = topic.group("g").expect("a group");
    fill(&topic, 0..RECORDS / 2);
    for delivery in poll(&group, usize::try_from(ACKED).expect("a few")) {
        delivery.ack().expect("acks");
    }
    fill(&topic, RECORDS / 2..RECORDS);
    log.maintain().expect("writes the sidecars");
    log.close().expect("closes");
    machine
}

/// Everything that the log says, as far as it says it without an error.
fn look(machine: &Machine) -> Result<(Vec<Vec<u8>>, u64)> {
    let log: Log = machine.try_open(small())?;
    let topics = log.topics();
    assert_eq!(topics, ["t"], "the names of the topics");
    let topic = log.topic("t")?;
    let payloads = try_read_all(&topic)?;
    let lag = topic.group("g")?.lag()?;
    Ok((payloads, lag.messages))
}

#[test]
fn no_flipped_bit_changes_what_is_read() {
    let machine = made();
    let expected: Vec<_> = (0..RECORDS).map(payload).collect();
    assert_eq!(look(&machine.fork()).expect("undamaged").1, RECORDS - ACKED);
    let bits: Vec<_> = machine
        .segments()
        .into_iter()
        .flat_map(|(name, bytes)| (0..bytes.len() * 8).map(move |bit| (name.clone(), bit)))
        .collect();
    let step = bits.len() / BITS;
    assert!(step >= 1, "there are bits enough");
    let (mut tried, mut refused) = (0, 0);
    for (name, bit) in bits.iter().step_by(step) {
        let fork = machine.fork();
        let low = u8::try_from(bit % 8).expect("below 8");
        fork.disk.flip_bit(name, *bit as u64 / 8, low);
        tried += 1;
        match look(&fork) {
            Ok((payloads, lag)) => {
                assert!(payloads == expected, "{name} bit {bit}: {} payloads", payloads.len());
                assert_eq!(lag, RECORDS - ACKED, "{name} bit {bit}");
            }
            Err(_) => refused += 1,
        }
    }
    assert!(tried >= BITS, "{tried} bits were flipped");
    // Most of the bytes are records, and none of them has a bit that does not matter.
    assert!(refused * 2 > tried, "{refused} of {tried} were noticed");
}

#[test]
fn no_flipped_bit_of_a_sidecar_matters() {
    let machine = made();
    let sidecars = machine.disk.names().into_iter().filter(|name| has_suffix(name, "idx"));
    let sidecars: Vec<_> = sidecars.collect();
    assert!(!sidecars.is_empty(), "there are sidecars");
    let expected: Vec<_> = (0..RECORDS).map(payload).collect();
    for name in sidecars.iter().step_by(3) {
        let bytes = machine.disk.file(name).expect("it was listed").len();
        for bit in 0..bytes * 8 {
            let fork = machine.fork();
            let low = u8::try_from(bit % 8).expect("below 8");
            fork.disk.flip_bit(name, bit as u64 / 8, low);
            let (payloads, lag) = look(&fork).expect("an index is only a hint");
            assert!(payloads == expected && lag == RECORDS - ACKED, "{name} bit {bit}");
        }
    }
}
