//! Consumers of peers that number their records. A position is the number of the record that comes
//! next; it is kept in the peer, as an application would keep it.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Mutex;

use crate::peer::{Failure, NO_PANIC, Take, Visit};
use crate::workload::POLL_MAX;

/// A peer whose records have ascending numbers from 0 on, in one sequence or in several.
pub(crate) trait Numbered {
    /// The records from this number on, at most so many. It ends at a number that is missing: its
    /// record may be on its way.
    fn read_from(&self, sequence: usize, number: u64, max: usize) -> Result<Vec<Vec<u8>>, Failure>;

    /// Writes down these positions of sequences, as durably as an append.
    fn keep(&self, positions: &[(usize, u64)]) -> Result<(), Failure>;

    /// The position that was written down last; 0 if there is none.
    fn kept(&self, sequence: usize) -> Result<u64, Failure>;
}

/// The consumers of a peer. They share the positions behind a lock.
pub(crate) struct Positions(Mutex<Vec<Sequence>>);

#[derive(Default)]
struct Sequence {
    /// The number of the first record that is not done with.
    next: u64,
    /// Read ahead, from there on.
    ahead: VecDeque<Vec<u8>>,
}

impl Positions {
    pub(crate) fn new(sequences: usize) -> Self {
        Self(Mutex::new((0..sequences).map(|_| Sequence::default()).collect()))
    }

    /// What [`Peer::consume`](crate::peer::Peer::consume) asks for.
    pub(crate) fn consume(
        &self,
        peer: &impl Numbered,
        max: usize,
        take: &mut Take<'_>,
    ) -> Result<usize, Failure> {
        let (mut taken, mut moved) = (0, Vec::new());
        let mut sequences = self.0.lock().expect(NO_PANIC);
        for (number, sequence) in sequences.iter_mut().enumerate() {
            let Sequence { next, ahead } = sequence;
            if taken == max {
                break;
            }
            if ahead.is_empty() {
                *ahead = peer.read_from(number, *next, POLL_MAX)?.into();
            }
            let count = ahead.len().min(max - taken);
            if count > 0 {
                ahead.drain(..count).for_each(|record| take(&record));
                *next += count as u64;
                taken += count;
                moved.push((number, *next));
            }
        }
        if !moved.is_empty() {
            peer.keep(&moved)?;
        }
        Ok(taken)
    }

    /// What [`Peer::read_rest`](crate::peer::Peer::read_rest) asks for.
    pub(crate) fn read_rest(
        &self,
        peer: &impl Numbered,
        visit: &mut Visit<'_>,
    ) -> Result<(), Failure> {
        let sequences = self.0.lock().expect(NO_PANIC).len();
        for sequence in 0..sequences {
            let mut number = peer.kept(sequence)?;
            loop {
                let records = peer.read_from(sequence, number, POLL_MAX)?;
                if records.is_empty() {
                    break;
                }
                for record in &records {
                    if visit(record) == ControlFlow::Break(()) {
                        return Ok(());
                    }
                }
                number += records.len() as u64;
            }
        }
        Ok(())
    }
}

/// The number that was made a key or a value by `to_be_bytes`, in whose order numbers are sorted.
pub(crate) fn decode(bytes: &[u8]) -> Result<u64, Failure> {
    Ok(u64::from_be_bytes(bytes.try_into()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records in memory, of which one may be on its way.
    #[derive(Default)]
    struct Memory {
        sequences: [Vec<Option<u8>>; 2],
        kept: Mutex<[u64; 2]>,
        keeps: Mutex<u64>,
    }

    impl Memory {
        fn new(first: &[u8], second: &[u8]) -> Self {
            let sequence = |records: &[u8]| records.iter().copied().map(Some).collect();
            Self { sequences: [sequence(first), sequence(second)], ..Self::default() }
        }
    }

    impl Numbered for Memory {
        fn read_from(
            &self,
            sequence: usize,
            number: u64,
            max: usize,
        ) -> Result<Vec<Vec<u8>>, Failure> {
            let records = self.sequences[sequence].iter().skip(usize::try_from(number)?).take(max);
            Ok(records.map_while(|record| record.map(|record| vec![record])).collect())
        }

        fn keep(&self, positions: &[(usize, u64)]) -> Result<(), Failure> {
            for (sequence, position) in positions {
                self.kept.lock().expect(NO_PANIC)[*sequence] = *position;
            }
            *self.keeps.lock().expect(NO_PANIC) += 1;
            Ok(())
        }

        fn kept(&self, sequence: usize) -> Result<u64, Failure> {
            Ok(self.kept.lock().expect(NO_PANIC)[sequence])
        }
    }

    #[track_caller]
    fn check_consumed(positions: &Positions, memory: &Memory, max: usize, expected: &[u8]) {
        let mut taken = Vec::new();
        let count = positions.consume(memory, max, &mut |record| taken.push(record[0]));
        assert_eq!((count.expect("memory reads"), &taken[..]), (expected.len(), expected));
    }

    #[test]
    fn each_record_that_is_taken_by_itself_is_kept_by_itself() {
        let (memory, positions) = (Memory::new(&[1, 2], &[3]), Positions::new(2));
        check_consumed(&positions, &memory, 1, &[1]);
        assert_eq!(*memory.kept.lock().expect(NO_PANIC), [1, 0]);
        check_consumed(&positions, &memory, 1, &[2]);
        check_consumed(&positions, &memory, 1, &[3]);
        check_consumed(&positions, &memory, 1, &[]);
        assert_eq!(*memory.keeps.lock().expect(NO_PANIC), 3);
    }

    #[test]
    fn all_sequences_are_kept_together() {
        let (memory, positions) = (Memory::new(&[1, 2], &[3]), Positions::new(2));
        check_consumed(&positions, &memory, 100, &[1, 2, 3]);
        assert_eq!(*memory.kept.lock().expect(NO_PANIC), [2, 1]);
        assert_eq!(*memory.keeps.lock().expect(NO_PANIC), 1);
    }

    #[test]
    fn nobody_goes_past_a_record_that_is_on_its_way() {
        let (mut memory, positions) = (Memory::new(&[1, 2, 3], &[]), Positions::new(2));
        memory.sequences[0][1] = None;
        check_consumed(&positions, &memory, 100, &[1]);
        check_consumed(&positions, &memory, 100, &[]);
        memory.sequences[0][1] = Some(2);
        check_consumed(&positions, &memory, 100, &[2, 3]);
    }

    #[test]
    fn the_rest_begins_where_the_position_was_kept() {
        let (memory, positions) = (Memory::new(&[1, 2, 3], &[4]), Positions::new(2));
        check_consumed(&positions, &memory, 2, &[1, 2]);
        let mut rest = Vec::new();
        let visited = positions.read_rest(&memory, &mut |record| {
            rest.push(record[0]);
            ControlFlow::Continue(())
        });
        assert_eq!((visited.is_ok(), rest), (true, vec![3, 4]));
    }
}
