//! What a cluster was given, what it acknowledged, and what its readers saw.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::offset::Offset;
use crate::record::Receipt;

use super::Rule;
use super::stage::{Played, broken};

/// What a cluster was given, and what it said.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    given: u64,
    /// By offset: what was acknowledged, or seen in answer to a wait.
    acknowledged: BTreeMap<u64, Vec<u8>>,
    /// By offset: what a reader of any replica saw.
    seen: BTreeMap<u64, Vec<u8>>,
    /// What may or may not be there.
    unknown: Vec<Vec<u8>>,
}

impl Ledger {
    /// A record that no other one equals.
    pub(super) fn payload(&mut self, bytes: usize) -> Vec<u8> {
        self.given += 1;
        let mut payload = format!("record {} ", self.given).into_bytes();
        payload.resize(bytes.max(payload.len()), b'.');
        payload
    }

    /// Enters what an append of `payload` has answered.
    pub(super) fn enter(&mut self, payload: Vec<u8>, answer: &Result<Receipt>) -> Played {
        match answer {
            Ok(receipt) => self.acknowledge(receipt.offset, payload),
            Err(Error::ReplicasUnavailable { .. }) => Ok(()),
            Err(_) => {
                self.unknown.push(payload);
                Ok(())
            }
        }
    }

    pub(super) fn acknowledge(&mut self, offset: Offset, payload: Vec<u8>) -> Played {
        self.unknown.retain(|unknown| *unknown != payload);
        match self.acknowledged.insert(offset.0, payload) {
            None => Ok(()),
            Some(_) => broken(Rule::AcknowledgedIsKept, format!("offset {offset} was given twice")),
        }
    }

    /// Enters what readers of a node see, which must agree with all that any reader saw.
    pub(super) fn see(&mut self, node: usize, found: &BTreeMap<u64, Vec<u8>>) -> Played {
        for (offset, payload) in found {
            let before = self.seen.entry(*offset).or_insert_with(|| payload.clone());
            if before != payload {
                let (was, is) = (text(before), text(payload));
                let what = format!("offset {offset} was {was}, and is {is} at node {node}");
                return broken(Rule::SeenStays, what);
            }
        }
        Ok(())
    }

    /// Checks what the leader shows in the end; `forgets` if the beginning need not be there.
    pub(super) fn check(&self, content: &BTreeMap<u64, Vec<u8>>, forgets: bool) -> Played {
        let Self { acknowledged, seen, unknown, .. } = self;
        let first = content.keys().next().copied().filter(|_| forgets);
        let start = first.unwrap_or(0);
        let of = |all: &BTreeMap<u64, Vec<u8>>, rule| match all
            .range(start..)
            .find(|(offset, payload)| content.get(offset) != Some(payload))
        {
            None => Ok(()),
            Some((offset, payload)) => {
                let found = content.get(offset).map_or("nothing".to_owned(), |p| text(p));
                broken(rule, format!("offset {offset} was {}, and is {found}", text(payload)))
            }
        };
        of(acknowledged, Rule::AcknowledgedIsKept)?;
        of(seen, Rule::SeenStays)?;
        let mut once = BTreeMap::new();
        for (offset, payload) in content {
            if let Some(before) = once.insert(payload, offset) {
                let what = format!("{} is at offsets {before} and {offset}", text(payload));
                return broken(Rule::OnceOnly, what);
            }
            if !acknowledged.contains_key(offset) && !unknown.contains(payload) {
                let what = format!("{} is at offset {offset}, and was refused", text(payload));
                return broken(Rule::OnceOnly, what);
            }
        }
        Ok(())
    }
}

/// The beginning of a payload.
fn text(payload: &[u8]) -> String {
    let end = payload.iter().position(|byte| *byte == b'.').unwrap_or(payload.len());
    format!("{:?}", String::from_utf8_lossy(&payload[..end]).trim_end())
}
